//! Traces that are kept: which ones, and what the control plane has not been told of them.
//!
//! Marks are shared by all workers of a process, so that the answer of a program is marked when a call that it made was.
//! A place is 64 bits of a trace's id; a newer trace may take it, and what is lost then is found by the control plane,
//! which asks whoever was called, and who called, for the same trace.
//!
//! How many traces may be marked in a second is bounded, and so is what waits to be told: a storm of errors costs so
//! much and no more, and what was left out is counted.

use crate::worker::{WorkerMsg, Workers};
use naka_engine::exchange::Repeated;
use naka_wire::v1::workloads_client::WorkloadsClient;
use naka_wire::v1::{Span, TracesRequest, TracesResponse};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

/// Traces that may be marked in a second, and at once.
const A_SECOND: u32 = 200;
const AT_ONCE: u32 = 400;
/// The same for traces that are reported by chance.
const SAMPLED_A_SECOND: u32 = 500;
/// Traces that wait to be told.
const ROOM: usize = 2_048;
/// Spans of one message.
const SPANS: usize = 256;
/// What comes within this time is looked for at once: a ring is walked so often and no more.
const TOGETHER: Duration = Duration::from_millis(50);
/// Before a stream that failed is tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// Why a trace is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Something went wrong in it.
    Marked,
    /// Chance.
    Sampled,
}

/// Which traces are kept.
#[derive(Debug)]
pub struct Kept {
    marks: Repeated,
    /// Requests that the program is at work on.
    pub(crate) serving: AtomicU32,
    dropped: AtomicU64,
    waiting: Mutex<Waiting>,
    some: Notify,
}

#[derive(Debug)]
struct Waiting {
    traces: HashSet<u128>,
    /// Those that the control plane asked for.
    asked: HashSet<u128>,
    marks: Budget,
    samples: Budget,
}

#[derive(Debug)]
struct Budget {
    left: u32,
    most: u32,
    a_second: u32,
    filled: Instant,
}

impl Budget {
    fn new(a_second: u32, most: u32) -> Self {
        Self {
            left: most,
            most,
            a_second,
            filled: Instant::now(),
        }
    }

    fn take(&mut self) -> bool {
        let since = self.filled.elapsed();
        let more = since.as_millis() * u128::from(self.a_second) / 1000;
        if more > 0 {
            self.filled = Instant::now();
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(more).min(self.most);
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            marks: Repeated::default(),
            serving: AtomicU32::new(0),
            dropped: AtomicU64::new(0),
            waiting: Mutex::new(Waiting {
                traces: HashSet::new(),
                asked: HashSet::new(),
                marks: Budget::new(A_SECOND, AT_ONCE),
                samples: Budget::new(SAMPLED_A_SECOND, 2 * SAMPLED_A_SECOND),
            }),
            some: Notify::new(),
        }
    }
}

fn low(trace: u128) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    let low = trace as u64;
    low
}

impl Kept {
    /// Whether spans of a trace are told.
    pub(crate) fn is_marked(&self, trace: u128) -> bool {
        self.marks.has(low(trace))
    }

    /// A trace is kept from now on, if there is room for it.
    pub(crate) fn mark(&self, trace: u128) {
        if !self.is_marked(trace) {
            if !self.waiting().marks.take() {
                self.dropped.fetch_add(1, Relaxed);
                return;
            }
            self.marks.note(low(trace));
        }
        self.again(trace, Why::Marked);
    }

    /// There is more of a trace.
    pub(crate) fn again(&self, trace: u128, why: Why) {
        let mut waiting = self.waiting();
        if waiting.traces.contains(&trace) {
            return;
        }
        let full = waiting.traces.len() >= ROOM;
        if full || why == Why::Sampled && !waiting.samples.take() {
            drop(waiting);
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        waiting.traces.insert(trace);
        drop(waiting);
        self.some.notify_one();
    }

    /// The control plane wants to know what there is of some traces.
    fn ask(&self, traces: impl IntoIterator<Item = u128>) {
        let mut waiting = self.waiting();
        for trace in traces {
            // What is still under way is told when it ends.
            self.marks.note(low(trace));
            if waiting.asked.len() < ROOM {
                waiting.asked.insert(trace);
            }
        }
        drop(waiting);
        self.some.notify_one();
    }

    /// What to look for: all traces, and those of them that were asked for.
    fn take(&self) -> (HashSet<u128>, HashSet<u128>) {
        let mut waiting = self.waiting();
        let asked = std::mem::take(&mut waiting.asked);
        let mut traces = std::mem::take(&mut waiting.traces);
        traces.extend(&asked);
        (traces, asked)
    }

    fn give_back(&self, traces: HashSet<u128>, asked: HashSet<u128>) {
        let mut waiting = self.waiting();
        waiting.traces.extend(traces);
        waiting.asked.extend(asked);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tells the control plane, and whom it asks.
#[derive(Debug, Clone)]
pub struct Reporter {
    /// Which traces.
    pub kept: Arc<Kept>,
    /// Who has spans.
    pub workers: Arc<Workers>,
}

impl Reporter {
    /// Tells for as long as the line is there. Ends only for a control plane that wants no traces.
    pub(crate) async fn run<L>(&self, link: L)
    where
        L: tonic::client::GrpcService<tonic::body::Body> + Clone,
        L::Error: Into<tonic::codegen::StdError>,
        L::ResponseBody: tonic::codegen::Body<Data = bytes::Bytes> + Send + 'static,
        <L::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
    {
        loop {
            let (out, requests) = mpsc::channel(2);
            let mut stub = WorkloadsClient::new(link.clone());
            // The answer's head comes with the first message, which may be long in coming.
            let answers = async {
                let mut answers = match stub.traces(ReceiverStream::new(requests)).await {
                    Ok(answers) => answers.into_inner(),
                    Err(status) => return status,
                };
                loop {
                    match answers.message().await {
                        Ok(Some(asked)) => self.kept.ask(ids(asked)),
                        Ok(None) => return tonic::Status::unavailable("the stream ended"),
                        Err(status) => return status,
                    }
                }
            };
            let status = tokio::select! {
                status = answers => status,
                () = self.tell(&out) => tonic::Status::unavailable("the stream ended"),
            };
            if status.code() == tonic::Code::Unimplemented {
                return;
            }
            tracing::debug!(error = status.message(), "traces are told later");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn tell(&self, out: &mpsc::Sender<TracesRequest>) {
        // Says that we are here, and who may be asked.
        if out
            .send(self.message(Vec::new(), Vec::new()))
            .await
            .is_err()
        {
            return;
        }
        loop {
            self.kept.some.notified().await;
            tokio::time::sleep(TOGETHER).await;
            let (traces, asked) = self.kept.take();
            if traces.is_empty() {
                continue;
            }
            let traces = Arc::new(traces);
            let spans = self.spans(&traces).await;
            let mut messages: Vec<Vec<Span>> = spans.chunks(SPANS).map(<[Span]>::to_vec).collect();
            if messages.is_empty() {
                messages.push(Vec::new());
            }
            let last = messages.len() - 1;
            for (at, spans) in messages.into_iter().enumerate() {
                let answered = asked.iter().filter(|_| at == last);
                let answered = answered.map(|id| id.to_be_bytes().to_vec()).collect();
                if out.send(self.message(spans, answered)).await.is_err() {
                    self.kept.give_back((*traces).clone(), asked);
                    return;
                }
            }
        }
    }

    fn message(&self, spans: Vec<Span>, answered: Vec<Vec<u8>>) -> TracesRequest {
        TracesRequest {
            spans,
            answered,
            dropped: self.kept.dropped.load(Relaxed),
        }
    }

    /// All that the workers have.
    async fn spans(&self, traces: &Arc<HashSet<u128>>) -> Vec<Span> {
        let mut answers = Vec::new();
        for worker in self.workers.all() {
            let (reply, answer) = oneshot::channel();
            if worker
                .send(WorkerMsg::Spans(Arc::clone(traces), reply))
                .await
            {
                answers.push(answer);
            }
        }
        let mut spans = Vec::new();
        for answer in answers {
            // A worker that ended has taken its spans along.
            spans.extend(answer.await.unwrap_or_default());
        }
        spans
    }
}

fn ids(asked: TracesResponse) -> impl Iterator<Item = u128> {
    let sound = |id: Vec<u8>| <[u8; 16]>::try_from(id).ok();
    asked
        .traces
        .into_iter()
        .filter_map(sound)
        .map(u128::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::{AT_ONCE, Kept, ROOM, Why};

    #[test]
    fn a_storm_marks_so_many_traces_and_counts_the_rest() {
        let kept = Kept::default();
        let storm = AT_ONCE + 500;
        for trace in 1..=u128::from(storm) {
            kept.mark(trace);
        }
        let marked = (1..=u128::from(storm))
            .filter(|trace| kept.is_marked(*trace))
            .count() as u64;
        let dropped = kept.dropped.load(super::Relaxed);
        assert_eq!(marked + dropped, u64::from(storm));
        assert!(
            marked >= u64::from(AT_ONCE) && dropped > 0,
            "{marked} {dropped}"
        );
        // One of them costs nothing more.
        kept.mark(1);
        assert_eq!(kept.dropped.load(super::Relaxed), dropped);
    }

    #[test]
    fn what_waits_is_bounded_and_told_once() {
        let kept = Kept::default();
        for trace in 1..=(ROOM as u128 + 7) {
            kept.again(trace, Why::Marked);
            kept.again(trace, Why::Marked);
        }
        assert_eq!(kept.take().0.len(), ROOM);
        assert!(kept.take().0.is_empty());
        assert!(kept.dropped.load(super::Relaxed) >= 7);
    }

    #[test]
    fn what_is_asked_for_is_told_and_kept_from_then_on() {
        let kept = Kept::default();
        assert!(!kept.is_marked(5));
        kept.ask([5]);
        assert!(kept.is_marked(5));
        let (all, asked) = kept.take();
        assert!(all.contains(&5) && asked.contains(&5));
    }
}
