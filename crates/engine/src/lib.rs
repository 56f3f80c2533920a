//! Pure decisions of the data plane: canonical request, route, pick, retry.
//!
//! Why a crate of its own: the proxy, `naka explain` and tests run the very same code. Nothing here knows a socket,
//! a runtime, protobuf or a clock; time (a monotonic [`std::time::Duration`]) and chance are arguments.
//!
//! The walk: a proxy makes a [`canonical::Canonical`] from a request head and an [`exchange::Exchange`] from nothing,
//! then calls [`exchange::Exchange::step`] with what happened and performs the [`exchange::Effect`] it gets. TCP
//! connections use [`exchange::Dial`] in the same way.
//!
//! Invariants: the common request gets its `Try` at the first step; a [`model::Snapshot`] is immutable; what lives
//! longer than a snapshot (counts, permits) is in [`runtime`]; nothing panics on outside input.
//!
//! Not here: pools and the sending of health checks (the proxy's), decoding of xDS (`proxy::intake`).

pub mod breaker;
pub mod canonical;
pub mod exchange;
pub mod grpc_web;
pub mod guard;
pub mod health;
pub mod limits;
pub mod model;
pub mod outlier;
pub mod pick;
pub mod reply;
pub mod runtime;
pub mod standing;
pub mod trust;
pub mod why;
