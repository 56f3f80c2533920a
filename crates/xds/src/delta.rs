//! The two sides of delta xDS as state machines.

pub mod client;
pub mod server;
