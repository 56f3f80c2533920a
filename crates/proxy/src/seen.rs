//! What was seen of a workload's traffic: requests, tunnels, connections of bytes, and what went around the mesh.
//!
//! `naka status` shows it, so that nobody believes traffic to be in the mesh that is not. One set of counters per
//! worker, which alone writes it; whoever reports adds them up.

use crate::worker::{Conn, Entrance};
use naka_engine::model::MtlsMode;
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
    /// Connections and requests without mTLS, at ports that take both.
    pub plain: AtomicU64,
    /// Connections and requests without mTLS, at ports that take none.
    pub plain_refused: AtomicU64,
    /// Calls of a program that is at work on a request, in a trace that it was given.
    pub traced: AtomicU64,
    /// The same in a trace that begins with them, because the program passes `traceparent` not on.
    pub untraced: AtomicU64,
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// A connection, or a request on one, of a caller without mTLS: by how the port stands now, because connections live
/// longer than modes. Anything else counts for nothing.
pub(crate) fn plain(conn: &Conn) {
    let Entrance::Inbound { port } = &*conn.entrance else {
        return;
    };
    if conn.peer.get().is_some() {
        return;
    }
    let mode = conn.worker.snapshot().inbound(*port).map(|port| port.mode);
    match mode {
        Some(MtlsMode::Permissive) => count(&conn.worker.seen.plain),
        Some(MtlsMode::Strict) => count(&conn.worker.seen.plain_refused),
        Some(MtlsMode::Disable) | None => {}
    }
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
        plain: sum(|seen| &seen.plain),
        plain_refused: sum(|seen| &seen.plain_refused),
        traced: sum(|seen| &seen.traced),
        untraced: sum(|seen| &seen.untraced),
    }
}
