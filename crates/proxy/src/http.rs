//! HTTP: serving connections, one exchange after the other, and what goes with them.

pub(crate) mod body;
pub(crate) mod exchange;
mod mirror;
pub(crate) mod proxy;
pub(crate) mod reply;
pub(crate) mod serve;
pub(crate) mod tap;
pub(crate) mod upgrade;
pub(crate) mod websocket;
