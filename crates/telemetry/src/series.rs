//! What a label set has counted, and the handles that count.
//!
//! A set of labels known before the outcome has a short list of outcomes (code, flag, gRPC status), each with its
//! histograms. The first is nearly always the right one, so recording is one comparison and six relaxed additions.

use crate::exemplar::Exemplar;
use naka_types::reason::Reason;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Upper bounds of Istio's buckets, in milliseconds or bytes; the last bucket has none.
pub(crate) const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
/// The same in thousandths, for whole-number comparison.
const MILLIS: [u64; 19] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];
/// Different outcomes kept per label set; more go under code 0, shown as `other`.
const OUTCOMES: usize = 24;
const NO_GRPC: u32 = 0xff;
const UNUSED: u32 = u32::MAX;
const OTHER: u32 = u32::MAX - 1;

/// The bucket that a value in thousandths falls into.
pub(crate) fn bucket(thousandths: u64) -> usize {
    MILLIS.partition_point(|bound| *bound < thousandths)
}

/// Counts in buckets. The unit of `sum` is a thousandth.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    pub(crate) buckets: [AtomicU64; 20],
    pub(crate) sum: AtomicU64,
}

impl Histogram {
    fn add(&self, thousandths: u64) {
        self.buckets[bucket(thousandths)].fetch_add(1, Relaxed);
        self.sum.fetch_add(thousandths, Relaxed);
    }
}

/// How an exchange ended, packed: 10 bits code, 8 bits reason (0 = none), 8 bits gRPC status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Outcome(u32);

impl Outcome {
    pub(crate) fn new(code: u16, reason: Option<Reason>, grpc: Option<u8>) -> Self {
        let code = u32::from(code.min(999));
        let reason = reason.map_or(0, |r| r as u32 + 1);
        let grpc = grpc.map_or(NO_GRPC, u32::from);
        Self(code << 16 | reason << 8 | grpc)
    }

    /// `response_code`, `response_flags`, `grpc_response_status`.
    pub(crate) fn values(self) -> (String, &'static str, String) {
        if self.0 == OTHER {
            return ("other".to_owned(), "other", "other".to_owned());
        }
        let reason = (self.0 >> 8 & 0xff) as usize;
        let flag = match reason.checked_sub(1).and_then(|i| Reason::ALL.get(i)) {
            Some(reason) => reason.flag(),
            None => "-",
        };
        let grpc = match self.0 & 0xff {
            NO_GRPC => String::new(),
            status => status.to_string(),
        };
        ((self.0 >> 16).to_string(), flag, grpc)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) duration: Histogram,
    pub(crate) request_bytes: Histogram,
    pub(crate) response_bytes: Histogram,
    pub(crate) exemplar: Exemplar,
}

#[derive(Debug)]
struct Cell {
    outcome: AtomicU32,
    slot: OnceLock<Box<Slot>>,
}

/// Room for outcomes, shared by the label sets of a shard.
#[derive(Debug)]
pub(crate) struct Room(AtomicUsize);

impl Room {
    pub(crate) fn of(outcomes: usize) -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(outcomes)))
    }

    fn take(&self) -> bool {
        let one_less = |left: usize| left.checked_sub(1);
        self.0.fetch_update(Relaxed, Relaxed, one_less).is_ok()
    }

    fn give_back(&self, outcomes: usize) {
        self.0.fetch_add(outcomes, Relaxed);
    }
}

/// What is counted under a label set.
pub(crate) trait Series {
    /// A number that moves with everything that is counted.
    fn counted(&self) -> u64;
}

/// Requests of one label set.
#[derive(Debug)]
pub(crate) struct RequestSeries {
    cells: [Cell; OUTCOMES],
    room: Arc<Room>,
}

impl Drop for RequestSeries {
    fn drop(&mut self) {
        let taken = |cell: &&Cell| !matches!(cell.outcome.load(Relaxed), UNUSED | OTHER);
        self.room.give_back(self.cells.iter().filter(taken).count());
    }
}

impl Series for RequestSeries {
    fn counted(&self) -> u64 {
        let slots = self.cells.iter().filter_map(|cell| cell.slot.get());
        slots
            .flat_map(|slot| &slot.duration.buckets)
            .map(|bucket| bucket.load(Relaxed))
            .sum()
    }
}

impl RequestSeries {
    pub(crate) fn new(room: Arc<Room>) -> Self {
        Self {
            room,
            cells: std::array::from_fn(|_| Cell {
                outcome: AtomicU32::new(UNUSED),
                slot: OnceLock::new(),
            }),
        }
    }

    fn slot(&self, outcome: Outcome) -> &Slot {
        let (last, cells) = self
            .cells
            .split_last()
            .expect("invariant: the array is not empty");
        for cell in cells {
            let mut held = cell.outcome.load(Relaxed);
            if held == UNUSED {
                if !self.room.take() {
                    break;
                }
                let claimed = cell
                    .outcome
                    .compare_exchange(UNUSED, outcome.0, Relaxed, Relaxed);
                held = match claimed {
                    Ok(_) => outcome.0,
                    Err(taken) => {
                        self.room.give_back(1);
                        taken
                    }
                };
            }
            if held == outcome.0 {
                return cell.slot.get_or_init(Box::default);
            }
        }
        last.outcome.store(OTHER, Relaxed);
        last.slot.get_or_init(Box::default)
    }

    pub(crate) fn each(&self, mut visit: impl FnMut(Outcome, &Slot)) {
        for cell in &self.cells {
            if let Some(slot) = cell.slot.get() {
                visit(Outcome(cell.outcome.load(Relaxed)), slot);
            }
        }
    }
}

/// How one exchange ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Exchange {
    /// HTTP status sent to the caller, 0 when none was sent.
    pub code: u16,
    /// Why the proxy answered itself or ended it, if it did.
    pub reason: Option<Reason>,
    /// gRPC status, for gRPC.
    pub grpc_status: Option<u8>,
    /// First byte of the request to last byte of the response.
    pub duration: Duration,
    /// Body bytes received from the caller.
    pub request_bytes: u64,
    /// Body bytes sent to the caller.
    pub response_bytes: u64,
    /// Its trace, where that is kept.
    pub trace: Option<u128>,
}

/// Counts requests of one label set. Cheap to clone; valid as long as it is held.
#[derive(Debug, Clone)]
pub struct RequestHandle(pub(crate) Arc<RequestSeries>);

impl RequestHandle {
    /// Counts a finished exchange.
    pub fn record(&self, exchange: &Exchange) {
        let outcome = Outcome::new(exchange.code, exchange.reason, exchange.grpc_status);
        let slot = self.0.slot(outcome);
        let micros = u64::try_from(exchange.duration.as_micros()).unwrap_or(u64::MAX);
        slot.duration.add(micros);
        if let Some(trace) = exchange.trace {
            slot.exemplar.set(trace, micros);
        }
        slot.request_bytes
            .add(exchange.request_bytes.saturating_mul(1_000));
        slot.response_bytes
            .add(exchange.response_bytes.saturating_mul(1_000));
    }
}

/// TCP connections of one label set.
#[derive(Debug)]
pub(crate) struct TcpSeries {
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) opened: AtomicU64,
    /// Index 0: in good order; else the reason's place in the table plus one.
    pub(crate) closed: [AtomicU64; Reason::ALL.len() + 1],
}

impl Series for TcpSeries {
    fn counted(&self) -> u64 {
        let closed = self.closed.iter().map(|count| count.load(Relaxed));
        let others = [&self.sent, &self.received, &self.opened];
        others
            .into_iter()
            .map(|count| count.load(Relaxed))
            .chain(closed)
            .fold(0, u64::wrapping_add)
    }
}

impl TcpSeries {
    pub(crate) fn new() -> Self {
        Self {
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            closed: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

/// Counts TCP connections of one label set.
#[derive(Debug, Clone)]
pub struct TcpHandle(pub(crate) Arc<TcpSeries>);

impl TcpHandle {
    /// A connection was opened.
    pub fn opened(&self) {
        self.0.opened.fetch_add(1, Relaxed);
    }

    /// Bytes moved since the last call: to the caller, from the caller.
    pub fn moved(&self, sent: u64, received: u64) {
        self.0.sent.fetch_add(sent, Relaxed);
        self.0.received.fetch_add(received, Relaxed);
    }

    /// A connection was closed, with the reason if it was not in good order.
    pub fn closed(&self, reason: Option<Reason>) {
        let place = reason.map_or(0, |r| r as usize + 1);
        self.0.closed[place].fetch_add(1, Relaxed);
    }
}
