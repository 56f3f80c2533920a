//! User-facing objects: decode, diagnose, validate.
//!
//! Bytes go in, objects and findings come out. The way is always the same, for YAML files, for JSON from the API and
//! for what the log hands back: a tree of nodes that know their line ([`tree`]) → known aliases rewritten
//! ([`decode`]) → the kind's field table ([`schema`]) finds unknown, ill-typed and not-yet-enforced fields → the typed
//! [`Spec`] is built from what is sound. Parts that carry an error (a route, a server, a subset, a port) are left out
//! of `spec` and stay in `raw`; an error outside any part means that no object comes out at all.
//!
//! Invariants: nothing here panics on input; no field is dropped without a finding; values of a Secret appear in no
//! finding, no diff and no `Debug`. This crate knows no xDS, no store, no clock.

pub mod codes;
pub mod core;
pub mod decode;
pub mod diff;
pub mod extensions;
mod kept;
pub mod kind;
pub mod limits;
pub mod lint;
pub mod mesh;
pub mod networking;
pub mod object;
pub mod own;
pub mod patch;
pub mod schema;
pub mod security;
pub mod telemetry;
pub mod tree;

pub use decode::{Decoded, Mode, decode_json, decode_json_in, decode_yaml, decode_yaml_in};
pub use diff::{FieldChange, diff};
pub use kind::Kind;
pub use lint::cross_check;
pub use object::{Meta, Object, Spec, redacted};
pub use patch::merge_patch;
