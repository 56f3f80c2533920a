//! Data plane: listeners, TLS, HTTP and TCP relay, pools, and the control side that feeds them.
//!
//! One `main` thread (xDS, certificates, admin) and worker threads that share nothing but immutable snapshots and the
//! engine's runtime registry. Never sees `control`, `api` or `store`: only the wire joins them.

pub mod admin;
pub mod agent;
pub mod certify;
pub mod control_client;
mod denials;
mod detect;
mod dns;
pub mod door;
pub mod drain;
pub mod dump;
pub mod edge;
mod fail;
mod guarded;
mod hash;
pub mod health;
mod http;
pub mod intake;
mod io;
mod judged;
pub mod lease;
pub mod limits;
pub mod listen;
pub mod memory;
pub mod names;
mod outward;
mod proxy_header;
mod readmit;
mod record;
pub mod recovery;
mod resolve;
pub mod rotation;
pub mod run;
pub mod saved;
pub mod seen;
pub mod settings;
mod spans;
pub mod standing;
pub mod state;
mod tcp;
pub mod tls;
mod upstream;
pub mod vip;
pub mod worker;
pub mod workload_api;
