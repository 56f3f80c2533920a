//! The control plane: registry of workloads, compilation of objects into xDS, push, API server, CA service.
//!
//! One direction: store (events) → [`world::World`] (everything joined for one revision) → `compile` (pure) → `push`
//! (one latest-value slot per subscriber) → delta xDS. [`mod@run`] puts the parts together.
//!
//! Invariants: nothing below `compile` decides meaning; nothing in `compile` knows time, sockets or other proxies;
//! status never enters the store.

pub mod ads;
pub mod apiserver;
pub mod ca_service;
pub mod certificates;
pub mod compile;
pub mod denials;
pub mod export;
pub mod jwks;
mod mask;
pub mod metrics;
pub mod modes;
mod outbox;
pub mod plane;
pub mod push;
pub mod readiness;
mod refusal;
pub mod registry;
pub mod revoked_tokens;
pub mod rollout;
pub mod run;
pub mod settings;
pub mod source;
pub mod status;
pub mod traces;
mod waiting;
pub mod workloads;
pub mod world;

pub use run::{Bound, run};
pub use settings::{Addresses, Settings};
