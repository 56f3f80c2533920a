//! One resource as received, as offered, and as refused.

use naka_wire::envoy::google::protobuf::Any;
use std::sync::Arc;

/// A resource as a client receives it.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Type.
    pub type_url: String,
    /// Name the resource is tracked under.
    pub name: String,
    /// Version the server gave it; opaque.
    pub version: String,
    /// The message.
    pub any: Any,
}

/// A resource as a server offers it: encoded once, shared by every stream it is sent on.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// Version; equal versions mean equal content.
    pub version: Arc<str>,
    /// The message.
    pub any: Any,
}

/// A resource that the client did not take, and why. The rest of its response is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Name of the resource.
    pub name: String,
    /// What is wrong with it, in words for a person.
    pub reason: String,
}
