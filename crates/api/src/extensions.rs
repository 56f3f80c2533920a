//! Kinds of `extensions.istio.io`: code of the user's that runs in proxies.
//!
//! Read and checked, not enforced: Naka's proxy runs no foreign code yet.

mod fields;
pub mod traffic_extension;
pub mod wasm_plugin;
