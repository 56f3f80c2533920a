//! Small checked values used by every Naka crate.
//!
//! A value of one of these types is valid by construction, so no later code checks it again. Nothing here does
//! I/O, reads a clock or draws a random number; crates above pass those in.
//!
//! Not here: configuration objects (`naka-api`), protobuf (`naka-wire`).

pub mod cidr;
pub mod data_class;
pub mod duration;
pub mod finding;
pub mod header;
pub mod host;
pub mod jwk;
pub mod key;
pub mod labels;
pub mod locality;
pub mod name;
pub mod node;
pub mod protocol;
pub mod reason;
pub mod revoked_token;
pub mod spiffe;
pub mod token;
pub mod version;
pub mod workload;
