//! Kinds of Kubernetes and its neighbours.

pub mod config_map;
pub mod deployment;
pub mod knative_service;
pub mod namespace;
pub mod prometheus_rule;
pub mod secret;
pub mod service;
pub mod trigger;
