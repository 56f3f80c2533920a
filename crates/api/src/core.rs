//! Kinds of the core group, `v1`.

pub mod namespace;
pub mod secret;
pub mod service;
