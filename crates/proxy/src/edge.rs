//! A gateway's side towards strangers: the first bytes of a connection, which server takes it, and its TLS.

pub(crate) mod hello;
pub(crate) mod serve;
pub mod spec;
