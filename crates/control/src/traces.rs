//! Traces that are kept, put together from what proxies tell of them.
//!
//! A proxy tells its spans of a trace that went wrong (or was chosen by chance) on a stream of its own. Whoever was
//! called in one of them, and who called, is asked for theirs: those proxies only, each once per trace. A proxy is
//! believed of its own requests: whose they are, its certificate says.
//!
//! Everything is bounded: traces, spans, spans of one trace, and what waits for a proxy to be asked. The oldest trace
//! gives way, and what had no room is counted.
//!
//! Not here: what a trace says ([`view`]), and the stream itself (`workloads`).

pub mod otlp;
pub mod view;

use crate::outbox;
use crate::plane::{Caller, Plane};
use naka_wire::v1::{Span, TracesRequest, TracesResponse};
use otlp::Door;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Traces that are held.
const MOST_TRACES: usize = 4_096;
/// Spans of all of them.
const MOST_SPANS: usize = 65_536;
/// Spans of one trace.
const MOST_OF_ONE: usize = 1_024;
/// Longest text of a span, in bytes.
const LONGEST: usize = 256;

/// Way to ask a proxy.
pub(crate) type Line = outbox::Sender<TracesResponse>;

/// Whose a span is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Who {
    /// Workload id.
    pub id: String,
    /// Name of the workload.
    pub workload: String,
    /// Its service; empty: a client only.
    pub service: String,
    /// Its label `version`.
    pub version: String,
    /// Its service account.
    pub account: String,
    /// Namespace.
    pub namespace: String,
}

impl Who {
    /// What a person calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self.service.as_str() {
            "" => &self.account,
            service => service,
        }
    }
}

/// A span with whose it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// As it was told.
    pub span: Span,
    /// By whom.
    pub who: Arc<Who>,
}

/// What is held of one trace.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// Spans by their id and whose they are.
    pub spans: BTreeMap<(u64, String), Held>,
    /// Proxies that were asked, and whether they have answered.
    pub asked: BTreeMap<String, bool>,
    /// Those that should have been asked and could not.
    pub away: BTreeMap<String, Arc<Who>>,
    /// Spans that had no room.
    pub left_out: u64,
}

/// All traces that are held.
#[derive(Debug, Default)]
pub struct Traces(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    traces: HashMap<u128, Trace>,
    order: VecDeque<u128>,
    spans: usize,
    lines: HashMap<String, (u64, Line)>,
    next_line: u64,
    /// What proxies could not tell, by workload.
    dropped: HashMap<String, u64>,
    /// The same of proxies whose streams have ended.
    dropped_before: u64,
    gone: u64,
    doors: Vec<Door>,
}

/// What became of spans so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Traces that are held.
    pub traces: u64,
    /// Spans that are held.
    pub spans: u64,
    /// Traces that proxies had no room to tell.
    pub dropped: u64,
    /// Traces that gave way to newer ones.
    pub gone: u64,
}

impl Traces {
    /// Spans go there, too, from now on.
    pub fn export(&self, door: Door) {
        self.inner().doors.push(door);
    }

    /// What became of spans for collectors: how many were taken, and how many dropped.
    #[must_use]
    pub fn exported(&self) -> (u64, u64) {
        let inner = self.inner();
        let sum = |of: fn(&Door) -> u64| inner.doors.iter().map(of).sum();
        (
            sum(|door| door.counts.sent.load(Relaxed)),
            sum(|door| door.counts.dropped.load(Relaxed)),
        )
    }

    /// A proxy that may be asked from now on; give the number back when it has gone.
    pub(crate) fn opened(&self, workload: &str, line: Line) -> u64 {
        let mut inner = self.inner();
        inner.next_line += 1;
        let number = inner.next_line;
        inner.lines.insert(workload.to_owned(), (number, line));
        number
    }

    /// A proxy's stream has ended.
    pub(crate) fn closed(&self, workload: &str, number: u64) {
        let mut inner = self.inner();
        if inner
            .lines
            .get(workload)
            .is_some_and(|(of, _)| *of == number)
        {
            inner.lines.remove(workload);
            let dropped = inner.dropped.remove(workload).unwrap_or(0);
            inner.dropped_before += dropped;
        }
    }

    /// What a proxy tells.
    pub(crate) fn told(&self, plane: &Plane, caller: &Caller, told: TracesRequest) {
        let known = Known::of(plane, &told.spans);
        let who = known.by_id(&caller.workload_id).unwrap_or_else(|| {
            Arc::new(Who {
                id: caller.workload_id.clone(),
                workload: String::new(),
                version: String::new(),
                account: caller.spiffe.service_account().to_owned(),
                service: String::new(),
                namespace: caller.spiffe.namespace().to_owned(),
            })
        });
        let mut inner = self.inner();
        inner
            .dropped
            .insert(caller.workload_id.clone(), told.dropped);
        for answered in &told.answered {
            if let Some(trace) = id(answered).and_then(|id| inner.traces.get_mut(&id))
                && let Some(asked) = trace.asked.get_mut(&caller.workload_id)
            {
                *asked = true;
            }
        }
        for span in told.spans {
            let Some(id) = id(&span.trace_id).filter(|_| is_sound(&span)) else {
                continue;
            };
            inner.room_for(id);
            let peers = known.peers(&span);
            inner.add(id, span, &who);
            inner.ask(id, &who.id, peers);
        }
    }

    /// Whether there is a trace, and what is held of it.
    #[must_use]
    pub fn get(&self, id: u128) -> Option<Trace> {
        self.inner().traces.get(&id).cloned()
    }

    /// The newest whose id, written in hexadecimal, begins like this.
    #[must_use]
    pub fn find(&self, begins: &str) -> Option<u128> {
        let inner = self.inner();
        let mut ids = inner.order.iter().rev();
        ids.find(|id| format!("{id:032x}").starts_with(begins))
            .copied()
    }

    /// So many traces at most, the newest first.
    #[must_use]
    pub fn newest(&self, limit: usize) -> Vec<(u128, Trace)> {
        let inner = self.inner();
        let ids = inner.order.iter().rev().take(limit);
        ids.filter_map(|id| Some((*id, inner.traces.get(id)?.clone())))
            .collect()
    }

    /// What became of spans so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let inner = self.inner();
        Counts {
            traces: inner.traces.len() as u64,
            spans: inner.spans as u64,
            dropped: inner.dropped_before + inner.dropped.values().sum::<u64>(),
            gone: inner.gone,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Makes room for one more span of a trace.
    fn room_for(&mut self, id: u128) {
        let new = !self.traces.contains_key(&id);
        while self.spans >= MOST_SPANS || new && self.traces.len() >= MOST_TRACES {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            if let Some(trace) = self.traces.remove(&oldest) {
                self.spans -= trace.spans.len();
                self.gone += 1;
            }
        }
        if let Entry::Vacant(place) = self.traces.entry(id) {
            place.insert(Trace::default());
            self.order.push_back(id);
        }
    }

    fn add(&mut self, id: u128, span: Span, who: &Arc<Who>) {
        let Some(trace) = self.traces.get_mut(&id) else {
            return;
        };
        let key = (span.span_id, who.id.clone());
        let ended = !span.unfinished
            && trace
                .spans
                .get(&key)
                .is_none_or(|held| held.span.unfinished);
        if ended && !self.doors.is_empty() {
            let held = Held {
                span: span.clone(),
                who: Arc::clone(who),
            };
            self.doors.iter().for_each(|door| door.put(&held));
        }
        let before = trace.spans.len();
        match trace.spans.get_mut(&key) {
            // Told once more; what has ended does not become unfinished again.
            Some(held) if span.unfinished && !held.span.unfinished => {}
            Some(held) => held.span = span,
            None if before >= MOST_OF_ONE => trace.left_out += 1,
            None => {
                let who = Arc::clone(who);
                trace.spans.insert(key, Held { span, who });
            }
        }
        self.spans += trace.spans.len() - before;
    }

    /// Asks whoever is to have more of a trace than was told so far.
    fn ask(&mut self, id: u128, by: &str, peers: Vec<Arc<Who>>) {
        let Some(trace) = self.traces.get_mut(&id) else {
            return;
        };
        let wrong = trace
            .spans
            .values()
            .any(|held| !held.span.sampled || view::is_bad(&held.span));
        // Where chance chose it, everybody knows from the request itself.
        if !wrong {
            return;
        }
        let told: HashSet<&str> = trace.spans.keys().map(|(_, who)| who.as_str()).collect();
        let mut wanted = Vec::new();
        for peer in peers {
            if peer.id != by
                && !told.contains(peer.id.as_str())
                && !trace.asked.contains_key(&peer.id)
            {
                wanted.push(peer);
            }
        }
        for peer in wanted {
            let message = TracesResponse {
                traces: vec![id.to_be_bytes().to_vec()],
            };
            let line = self.lines.get(&peer.id);
            let sent = line.is_some_and(|(_, line)| line.try_send(Box::new(Ok(message))).is_ok());
            if sent {
                trace.away.remove(&peer.id);
                trace.asked.insert(peer.id.clone(), false);
            } else {
                trace.away.insert(peer.id.clone(), peer);
            }
        }
    }
}

fn id(bytes: &[u8]) -> Option<u128> {
    let id = u128::from_be_bytes(bytes.try_into().ok()?);
    (id != 0).then_some(id)
}

fn is_sound(span: &Span) -> bool {
    let texts = [
        &span.method,
        &span.path,
        &span.reason,
        &span.cluster,
        &span.address,
        &span.caller,
    ];
    let sound = |text: &&String| text.len() <= LONGEST && !text.contains(char::is_control);
    span.span_id != 0 && texts.iter().all(sound)
}

/// Who is who, at one moment.
struct Known {
    by_id: HashMap<String, Arc<Who>>,
    by_address: HashMap<String, Arc<Who>>,
}

impl Known {
    fn of(plane: &Plane, spans: &[Span]) -> Self {
        let mut known = Self {
            by_id: HashMap::new(),
            by_address: HashMap::new(),
        };
        if spans.is_empty() {
            return known;
        }
        for member in plane.registry().members() {
            let of = &member.registration;
            let who = Arc::new(Who {
                id: of.workload_id.clone(),
                workload: of.workload_name.clone(),
                service: of.service.clone(),
                version: of.labels.get("version").cloned().unwrap_or_default(),
                account: of.service_account.clone(),
                namespace: of.namespace.clone(),
            });
            for port in &of.ports {
                known
                    .by_address
                    .insert(port.inbound_address.clone(), Arc::clone(&who));
            }
            known.by_id.insert(who.id.clone(), who);
        }
        known
    }

    fn by_id(&self, id: &str) -> Option<Arc<Who>> {
        self.by_id.get(id).cloned()
    }

    /// Who has more of a span's trace.
    fn peers(&self, span: &Span) -> Vec<Arc<Who>> {
        let called = self.by_address.get(&span.address).filter(|_| span.to_mesh);
        let caller = self.by_id.get(&span.caller);
        called.into_iter().chain(caller).cloned().collect()
    }
}
