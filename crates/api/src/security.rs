//! Kinds of `security.istio.io`.

pub mod attached;
pub mod authorization_policy;
pub mod peer_authentication;
pub mod request_authentication;
