//! Istio's certificate service, `istio.v1.auth`: what `proto/istio/v1/auth/ca.proto` says.
//!
//! The same names and numbers as Istio's, so its agents can ask Naka's authority and ours can ask Istio's.
#![expect(
    missing_docs,
    reason = "generated; the comments are in the .proto file"
)]

include!("gen/istio.v1.auth.rs");
