//! What was seen of a workload's traffic: requests, tunnels, connections of bytes, and what went around the mesh.
//!
//! `naka status` shows it, so that nobody believes traffic to be in the mesh that is not. One set of counters per
//! worker, which alone writes it; whoever reports adds them up.

use naka_wire::v1;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters of one worker, or of something else that sees traffic.
#[derive(Debug, Default)]
pub struct Seen {
    /// HTTP requests, of the program and to it.
    pub http: AtomicU64,
    /// Tunnels by CONNECT; what goes through one is counted as what it is, too.
    pub tunnelled: AtomicU64,
    /// Connections whose bytes were relayed inside the mesh.
    pub opaque: AtomicU64,
    /// Connections out of the mesh: passed through, to ports of the host, or reported to be made around the proxy.
    pub bypassed: AtomicU64,
    /// How often the rules that capture this machine were changed by somebody and put right.
    pub repaired: AtomicU64,
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// The sum of all counters.
#[must_use]
pub fn total(all: &[Arc<Seen>]) -> v1::Seen {
    let sum = |of: fn(&Seen) -> &AtomicU64| all.iter().map(|seen| of(seen).load(Relaxed)).sum();
    v1::Seen {
        http: sum(|seen| &seen.http),
        tunnelled: sum(|seen| &seen.tunnelled),
        opaque: sum(|seen| &seen.opaque),
        bypassed: sum(|seen| &seen.bypassed),
        repaired: sum(|seen| &seen.repaired),
    }
}
