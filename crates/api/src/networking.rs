//! Kinds of `networking.istio.io`.

pub mod destination_rule;
pub mod gateway;
pub(crate) mod read;
pub mod virtual_service;
pub mod workload_entry;
