//! Naka's own kinds, `naka.dev/v1alpha1`: for what neither Istio nor the Gateway API has a kind.

pub mod backend_policy;
pub mod certificate_policy;
pub mod mode;
pub mod request_guard;
pub mod rollout;
pub mod trust_model;
