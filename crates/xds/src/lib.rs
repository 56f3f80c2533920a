//! Delta xDS: the protocol as state machines without sockets, and a tonic driver for the client's side.
//!
//! [`delta::client`] and [`delta::server`] turn messages into actions and never touch a socket or a clock, so every
//! rule of the protocol (nonces, acknowledgement per resource, versions across a reconnect, make before break) is a
//! table test. [`driver`] performs the client's actions on a gRPC channel. The server's driver is the control
//! plane's own, because when it writes depends on what it compiles (one latest-value slot per subscriber).
//!
//! Invariants: a resource counts as held only once the other side acknowledged it; equal versions are never sent
//! twice on one stream; what a client names in `initial_resource_versions` with the right version is not sent again.
//!
//! [`sotw`] translates state-of-the-world streams to the same ledger, for clients that speak nothing else.
//!
//! What is not here: meaning of resources (the proxy's intake, the control plane's compile).

pub mod delta;
pub mod driver;
pub mod order;
pub mod reject;
pub mod resource;
pub mod sotw;

pub use resource::{Encoded, Reject, Resource};
