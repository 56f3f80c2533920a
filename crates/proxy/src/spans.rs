//! Spans: what this proxy remembers of every request, so that a trace can be asked for after it went wrong.
//!
//! A request is one [`Slot`] of 96 bytes. While it is under way it stands in a table of its worker, afterwards in the
//! worker's ring, where the oldest gives way. Both are the worker's own: no lock, no hash, no allocation once the table
//! has grown to as many requests as are ever under way at once. Names stand in a slot as the number of their cluster; of
//! the path there is room for its beginning.
//!
//! Whoever finds that something went wrong (an error, or slower than [`limits::TRACE_SLOW`], also before it has ended)
//! marks the trace ([`kept::Kept`]); all other spans of it that this process has are then found by walking the ring.
//!
//! Not here: what a trace is as a whole. That is put together by the control plane.

pub(crate) mod kept;

use crate::limits;
use crate::record::Open;
use crate::worker::{Conn, Entrance};
use kept::{Kept, Why};
use naka_engine::exchange::Trace;
use naka_engine::model::{Cluster, Endpoint};
use naka_types::reason::Reason;
use naka_types::workload::Ulid;
use naka_wire::v1;
use naka_wire::v1::span::Kind;
use std::cell::RefCell;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Room for a path.
const PATH: usize = 23;
/// Spans that a ring holds.
pub(crate) const PLACES: usize = limits::TRACE_RING / size_of::<Slot>();
/// No cluster is called.
const NOBODY: u32 = u32::MAX;

// What a slot's bits mean.
const SERVER: u8 = 1;
const GATEWAY: u8 = 1 << 1;
const SAMPLED: u8 = 1 << 2;
const TO_MESH: u8 = 1 << 3;
const SLOW: u8 = 1 << 4;
const ANSWERED: u8 = 1 << 5;
const CUT: u8 = 1 << 6;
const ORPHAN: u8 = 1 << 7;

const METHODS: [&str; 10] = [
    "", "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE",
];
/// Another method than those.
const OTHER: u8 = u8::MAX;

/// One request.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Slot {
    trace: u128,
    span: u64,
    parent: u64,
    start_us: u64,
    duration_us: u32,
    cluster: u32,
    /// The endpoint's address, or the caller's workload id.
    peer: [u8; 16],
    port: u16,
    status: u16,
    /// Its place in the table of reasons plus one.
    reason: u8,
    bits: u8,
    method: u8,
    /// Plus one.
    grpc: u8,
    attempts: u8,
    path: [u8; PATH],
}

const _: () = assert!(size_of::<Slot>() == 96, "what a span costs");

/// A request under way.
#[derive(Debug, Clone, Copy)]
struct Flight {
    slot: Slot,
    started: Instant,
    taken: bool,
}

/// Which request under way a record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(u32);

/// The spans of one worker.
#[derive(Debug)]
pub(crate) struct Spans {
    kept: Arc<Kept>,
    ring: RefCell<Ring>,
    flights: RefCell<Flights>,
    /// Names of clusters by their number.
    names: RefCell<Vec<Option<Arc<str>>>>,
}

#[derive(Debug)]
struct Ring {
    slots: Vec<Slot>,
    next: usize,
}

#[derive(Debug, Default)]
struct Flights {
    all: Vec<Flight>,
    free: Vec<u32>,
}

impl Spans {
    pub(crate) fn new(kept: Arc<Kept>) -> Self {
        Self {
            kept,
            ring: RefCell::new(Ring {
                // Memory that nobody has written to costs nothing.
                slots: Vec::with_capacity(PLACES),
                next: 0,
            }),
            flights: RefCell::default(),
            names: RefCell::default(),
        }
    }

    /// A request whose place in a trace is known.
    pub(crate) fn begin(&self, open: &Open, trace: &Trace) -> Place {
        let conn = &open.conn;
        let (bits, peer) = match *conn.entrance {
            Entrance::Inbound { .. } | Entrance::Publish { .. } => {
                self.kept.serving.fetch_add(1, Relaxed);
                let peer = conn.peer.get().and_then(|peer| peer.id);
                (SERVER, peer.map_or(0, Ulid::bits).to_be_bytes())
            }
            Entrance::Gateway { .. } => (GATEWAY, [0; 16]),
            _ if self.is_orphan(trace, conn) => (ORPHAN, [0; 16]),
            _ => (0, [0; 16]),
        };
        let mut slot = Slot {
            trace: trace.id,
            span: trace.span,
            parent: trace.parent,
            start_us: micros(open.started_at),
            duration_us: 0,
            cluster: NOBODY,
            peer,
            port: 0,
            status: 0,
            reason: 0,
            bits: bits | if trace.sampled { SAMPLED } else { 0 },
            method: method(open.method.as_str()),
            grpc: 0,
            attempts: 0,
            path: [0; PATH],
        };
        slot.set_path(open.uri.path());
        let flight = Flight {
            slot,
            started: open.started,
            taken: true,
        };
        self.flights.borrow_mut().add(flight)
    }

    /// Whether a program that is at work on a request does not say so when it calls.
    fn is_orphan(&self, trace: &Trace, conn: &Conn) -> bool {
        if self.kept.serving.load(Relaxed) == 0 {
            return false;
        }
        let seen = &conn.worker.seen;
        let which = if trace.given {
            &seen.traced
        } else {
            &seen.untraced
        };
        crate::seen::count(which);
        !trace.given
    }

    /// Whom it is sent to.
    pub(crate) fn called(&self, place: Option<Place>, cluster: &Arc<Cluster>, endpoint: &Endpoint) {
        self.name(cluster);
        let mesh = cluster.spec.tls.is_some() && endpoint.mtls;
        self.with(place, |slot| {
            slot.cluster = cluster.id.0;
            slot.attempts = slot.attempts.saturating_add(1);
            if slot.bits & SERVER == 0 {
                slot.peer = bytes_of(endpoint.address.ip());
                slot.port = endpoint.address.port();
                slot.bits = slot.bits & !TO_MESH | if mesh { TO_MESH } else { 0 };
            }
        });
    }

    /// Which cluster it is for, also where nobody of it was called.
    pub(crate) fn meant(&self, place: Option<Place>, cluster: &Cluster) {
        self.name(cluster);
        self.with(place, |slot| {
            if slot.cluster == NOBODY {
                slot.cluster = cluster.id.0;
            }
        });
    }

    fn name(&self, cluster: &Cluster) {
        let Ok(at) = usize::try_from(cluster.id.0) else {
            return;
        };
        let mut names = self.names.borrow_mut();
        if names.len() <= at {
            names.resize(at + 1, None);
        }
        if names[at].is_none() {
            names[at] = Some(Arc::clone(cluster.name()));
        }
    }

    /// The head of a response is here. Says whether its caller is to keep the trace, too.
    pub(crate) fn answered(&self, open: &Open, keep: bool) -> bool {
        let Some(place) = open.span else {
            return false;
        };
        let late = open.started.elapsed() >= limits::TRACE_SLOW;
        let trace = self.with(Some(place), |slot| {
            slot.bits |= ANSWERED | if late { SLOW } else { 0 };
            slot.trace
        });
        let Some(trace) = trace else {
            return false;
        };
        if keep || late || is_error(open.status, open.grpc_status, open.reason) {
            self.kept.mark(trace);
        }
        self.kept.is_marked(trace)
    }

    /// It is over.
    pub(crate) fn end(&self, open: &mut Open, duration: Duration) -> Option<u128> {
        let flight = open.span.take().and_then(|place| self.take(place))?;
        let mut slot = flight.slot;
        if slot.bits & SERVER != 0 {
            self.kept.serving.fetch_sub(1, Relaxed);
        }
        let grpc = open.grpc_status.filter(|_| open.grpc);
        slot.duration_us = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
        slot.status = open.status;
        slot.grpc = grpc.map_or(0, |status| status.saturating_add(1));
        slot.reason = open.reason.map_or(0, number);
        if let (0, 0, Some(to)) = (slot.bits & SERVER, slot.port, open.upstream) {
            (slot.peer, slot.port) = (bytes_of(to.ip()), to.port());
        }
        // Of a response that went on for long only its head counts.
        if slot.bits & ANSWERED == 0 && duration >= limits::TRACE_SLOW {
            slot.bits |= SLOW;
        }
        self.ring.borrow_mut().push(slot);
        let bad = is_error(slot.status, grpc, open.reason) || slot.bits & SLOW != 0;
        if bad {
            self.kept.mark(slot.trace);
        } else if self.kept.is_marked(slot.trace) {
            self.kept.again(slot.trace, Why::Marked);
        } else if slot.bits & SAMPLED != 0 {
            self.kept.again(slot.trace, Why::Sampled);
        } else {
            return None;
        }
        Some(slot.trace)
    }

    /// Marks what has waited for an answer for too long.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        for flight in &mut self.flights.borrow_mut().all {
            let late = now.duration_since(flight.started) >= limits::TRACE_SLOW;
            if flight.taken && late && flight.slot.bits & (ANSWERED | SLOW) == 0 {
                flight.slot.bits |= SLOW;
                self.kept.mark(flight.slot.trace);
            }
        }
    }

    /// All that is known here of some traces.
    pub(crate) fn of(&self, traces: &HashSet<u128>) -> Vec<v1::Span> {
        let now = Instant::now();
        let (ring, flights) = (self.ring.borrow(), self.flights.borrow());
        let ended = ring
            .slots
            .iter()
            .filter(|slot| traces.contains(&slot.trace));
        let ended = ended.map(|slot| self.told(slot, None));
        let open = flights.all.iter().filter(|flight| flight.taken);
        let open = open.filter(|flight| traces.contains(&flight.slot.trace));
        let open = open.map(|flight| {
            let so_far = now.duration_since(flight.started);
            self.told(&flight.slot, Some(so_far))
        });
        ended.chain(open).collect()
    }

    fn told(&self, slot: &Slot, so_far: Option<Duration>) -> v1::Span {
        let kind = match slot.bits {
            bits if bits & SERVER != 0 => Kind::Server,
            bits if bits & GATEWAY != 0 => Kind::Gateway,
            _ => Kind::Client,
        };
        let names = self.names.borrow();
        let name = usize::try_from(slot.cluster)
            .ok()
            .and_then(|at| names.get(at)?.as_deref());
        let to = (kind != Kind::Server && slot.port != 0)
            .then(|| SocketAddr::new(Ipv6Addr::from(slot.peer).to_canonical(), slot.port));
        let caller =
            Some(u128::from_be_bytes(slot.peer)).filter(|id| kind == Kind::Server && *id != 0);
        let micros = |so_far: Duration| u64::try_from(so_far.as_micros()).unwrap_or(u64::MAX);
        v1::Span {
            trace_id: slot.trace.to_be_bytes().to_vec(),
            span_id: slot.span,
            parent_id: slot.parent,
            start_us: slot.start_us,
            duration_us: so_far.map_or(slot.duration_us.into(), micros),
            kind: kind.into(),
            method: METHODS
                .get(usize::from(slot.method))
                .map_or("_OTHER", |word| word)
                .to_owned(),
            path: slot.path(),
            path_cut: slot.bits & CUT != 0,
            status: slot.status.into(),
            grpc: slot.grpc.into(),
            reason: reason(slot.reason).map_or_else(String::new, |reason| reason.code().to_owned()),
            attempts: slot.attempts.into(),
            cluster: name.unwrap_or_default().to_owned(),
            address: to.map_or_else(String::new, |to| to.to_string()),
            to_mesh: slot.bits & TO_MESH != 0,
            caller: caller.map_or_else(String::new, |id| Ulid::of_bits(id).to_string()),
            sampled: slot.bits & SAMPLED != 0,
            slow: slot.bits & SLOW != 0,
            unfinished: so_far.is_some(),
            orphan: slot.bits & ORPHAN != 0,
        }
    }

    fn with<T>(&self, place: Option<Place>, change: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        let at = usize::try_from(place?.0).ok()?;
        let mut flights = self.flights.borrow_mut();
        flights
            .all
            .get_mut(at)
            .map(|flight| change(&mut flight.slot))
    }

    fn take(&self, place: Place) -> Option<Flight> {
        let mut flights = self.flights.borrow_mut();
        let flight = flights.all.get_mut(usize::try_from(place.0).ok()?)?;
        let was = *flight;
        flight.taken = false;
        flights.free.push(place.0);
        Some(was)
    }
}

impl Flights {
    fn add(&mut self, flight: Flight) -> Place {
        if let Some(free) = self.free.pop()
            && let Some(place) = usize::try_from(free)
                .ok()
                .and_then(|at| self.all.get_mut(at))
        {
            *place = flight;
            return Place(free);
        }
        let place = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        self.all.push(flight);
        Place(place)
    }
}

impl Ring {
    fn push(&mut self, slot: Slot) {
        if self.slots.len() < PLACES {
            self.slots.push(slot);
            return;
        }
        self.slots[self.next] = slot;
        self.next = (self.next + 1) % PLACES;
    }
}

impl Slot {
    fn set_path(&mut self, path: &str) {
        let mut end = path.len().min(PATH);
        while !path.is_char_boundary(end) {
            end -= 1;
        }
        self.path[..end].copy_from_slice(&path.as_bytes()[..end]);
        if end < path.len() {
            self.bits |= CUT;
        }
    }

    fn path(&self) -> String {
        let end = self.path.iter().position(|byte| *byte == 0).unwrap_or(PATH);
        String::from_utf8_lossy(&self.path[..end]).into_owned()
    }
}

/// Whether a request went wrong for a reason that is not its caller's.
pub(crate) fn is_error(status: u16, grpc: Option<u8>, reason: Option<Reason>) -> bool {
    let broke = reason.is_some_and(|reason| {
        matches!(
            reason,
            Reason::UpstreamReset
                | Reason::UpstreamProtocolError
                | Reason::RequestTimeout
                | Reason::PerTryTimeout
                | Reason::IdleTimeout
                | Reason::Fallback
        )
    });
    // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS: those that OpenTelemetry calls the
    // server's.
    broke || status >= 500 || matches!(grpc, Some(2 | 4 | 12 | 13 | 14 | 15))
}

fn number(reason: Reason) -> u8 {
    let at = Reason::ALL.iter().position(|one| *one == reason);
    at.and_then(|at| u8::try_from(at + 1).ok()).unwrap_or(0)
}

fn reason(number: u8) -> Option<Reason> {
    Reason::ALL
        .get(usize::from(number.checked_sub(1)?))
        .copied()
}

fn method(word: &str) -> u8 {
    let at = METHODS.iter().position(|one| *one == word);
    at.and_then(|at| u8::try_from(at).ok()).unwrap_or(OTHER)
}

fn micros(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn bytes_of(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests;
