//! SPIFFE's Workload API: what `proto/spiffe/workload.proto` says. The server's half only.
#![expect(
    missing_docs,
    clippy::too_many_lines,
    reason = "generated; the comments are in the .proto file"
)]

include!("gen/spiffe.rs");
