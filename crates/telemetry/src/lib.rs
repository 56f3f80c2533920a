//! What a process tells about itself: metrics under Istio's names, and one access-log line per exchange.
//!
//! * [`Metrics`] has one [`Shard`] per worker. A handle ([`RequestHandle`], [`TcpHandle`]) is resolved once per peer
//!   and route; recording with it is a few relaxed additions: no lock, no hash, no allocation.
//! * An error, a slow request or a sampled one leaves its trace id as an exemplar of its series.
//! * [`AccessLog`] formats a [`Record`] into a bounded buffer of its worker; a thread writes. Full buffers lose lines,
//!   which are counted.
//! * [`process`] reads `/proc`.
//!
//! Invariants: cardinality and memory are bounded (label sets and outcomes beyond their caps are counted under
//! `other`, sets under which nothing is counted any more are forgotten); every metric name stands in one table,
//! [`name::TABLE`]; nothing here blocks a request.
//!
//! Not here: HTTP endpoints for scraping, traces, exports.

mod aside;
mod exemplar;
mod expose;
mod label;
mod log;
mod metrics;
pub mod name;
pub mod process;
mod record;
mod seconds;
mod series;
mod time;

pub use aside::Copied;
pub use expose::{CONTENT_TYPE, OPEN_METRICS, wants_open_metrics};
pub use label::{Labels, Reporter, Security, Service, Traffic, Workload};
pub use log::{AccessLog, Lines};
pub use metrics::{Metrics, Number, Pairs, Shard};
pub use record::{Direction, Record};
pub use seconds::Seconds;
pub use series::{Exchange, RequestHandle, TcpHandle};
