//! Data plane: listeners, TLS, HTTP and TCP relay, pools, and the control side that feeds them.
//!
//! One `main` thread (xDS, certificates, admin) and worker threads that share nothing but immutable snapshots and the
//! engine's runtime registry. Never sees `control`, `api` or `store`: only the wire joins them.

pub mod drain;
pub mod lease;
pub mod names;
pub mod run;
pub mod saved;
pub mod settings;
pub mod control_client;
pub mod rotation;
