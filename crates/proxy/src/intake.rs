//! xDS resources become the engine's model; what cannot be meant is refused with its field path.
//!
//! Each resource is read alone. A part that is not understood (a route, an endpoint, a chain) is left out and named,
//! the sound rest of the resource is in force; a resource that is unsound as a whole leaves its earlier version in
//! force. A condition or a restriction that this proxy cannot carry out is never ignored: the part that holds it is
//! left out, so that less gets through, not more. What only costs speed or decoration (statistics prefixes, tracing,
//! hash policies) is passed over.
//!
//! Nothing here looks at sockets, clocks or other resources: the same bytes give the same model.

pub mod access;
pub mod check;
pub mod cluster;
pub mod condition;
pub mod edge;
pub mod endpoint;
pub mod extras;
pub mod guard;
pub mod headers;
pub mod limit;
pub mod listener;
pub mod outside;
pub mod route;
pub mod token;
mod trust;

use naka_wire::envoy::config::core::v3::{Address, address, socket_address::PortSpecifier};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Something in a resource that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}")]
pub struct Error {
    /// Path of the field, as in `routes[2].match.headers[0]`.
    pub field: String,
    /// What is wrong with it.
    pub what: String,
}

impl Error {
    /// An error at a field.
    #[must_use]
    pub fn at(field: impl Into<String>, what: impl fmt::Display) -> Self {
        Self {
            field: field.into(),
            what: what.to_string(),
        }
    }

    /// The same, seen from one level further up.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.field = match self.field.as_str() {
            "" => outer.to_owned(),
            inner => format!("{outer}.{inner}"),
        };
        self
    }
}

/// What came of a resource: the sound part, and what was left out of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken<T> {
    /// In force.
    pub model: T,
    /// Left out.
    pub left_out: Vec<Error>,
}

/// The address of a socket, if it is one (no pipes, no names: names are resolved by the control plane).
#[must_use]
pub fn socket_address(address: &Address) -> Option<SocketAddr> {
    let Some(address::Address::SocketAddress(socket)) = &address.address else {
        return None;
    };
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else {
        return None;
    };
    let ip: IpAddr = socket.address.parse().ok()?;
    Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
}

/// All that was left out, as one reason for a reject.
#[must_use]
pub fn summary(errors: &[Error]) -> String {
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    all.join("; ")
}
