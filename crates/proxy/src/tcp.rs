//! Opaque bytes between two connections: deciding where they go, connecting, relaying.

mod agree;
pub(crate) mod copy;
pub(crate) mod dial;
pub(crate) mod serve;
