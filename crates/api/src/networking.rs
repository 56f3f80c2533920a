//! Kinds of `networking.istio.io`.

pub mod destination_rule;
pub mod envoy_filter;
pub mod export;
pub mod gateway;
pub mod proxy_config;
pub(crate) mod read;
pub mod service_entry;
pub mod sidecar;
pub mod virtual_service;
pub mod workload_entry;
pub mod workload_group;
