//! The one door to protobuf: Envoy's messages, Istio's certificate service, SPIFFE's Workload API and Naka's own few.
//!
//! Envoy's types come from the crate `envoy-types`; the three small packages are generated from `proto/` and
//! checked in under `src/gen` (`proto/README.md` says how), so that no build needs a protobuf compiler. All other
//! crates name protobuf types through this one, so the source of the types can be changed in one place.
//!
//! Invariant: nothing here decides anything; only packing, unpacking and small conversions.
//! Maps of Envoy's messages are hash maps, so encoded bytes differ from process to process: never hash or compare
//! encoded messages.

pub mod ads;
pub mod codec;
pub mod grpc;
pub mod istio_ca;
pub mod otlp;
pub mod spiffe;
pub mod time;
pub mod type_url;
pub mod v1;
pub mod values;

mod any;

pub use any::{Error, pack, pack_as, unpack};

/// Envoy's messages, reachable as `envoy::config::…` and, in the crate's own layout, `envoy::envoy::config::…`.
pub mod envoy {
    pub use envoy_types::pb::envoy::*;
    pub use envoy_types::pb::*;
}

/// Protobuf's well-known types.
pub mod google {
    pub use envoy_types::pb::google::*;
}

pub use prost;
