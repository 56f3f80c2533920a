//! The called side: making connections and keeping them.

pub(crate) mod connect;
pub(crate) mod foreign;
pub(crate) mod pool;
mod room;
pub(crate) mod tunnel;
