//! The called side: making connections and keeping them.

pub(crate) mod connect;
pub(crate) mod pool;
mod room;
