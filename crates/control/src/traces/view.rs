//! What a trace says: who called whom and how it went, what is missing, and where it went wrong.
//!
//! Clocks of hosts differ: a request that seems to have been served before it was sent, or after its answer came, is
//! moved to the middle of its call, with all else of the same proxy. Times of one proxy are never moved against each
//! other.
//!
//! The cause is the deepest request that went wrong on the way from the root on which each answer waited for the next:
//! of several that failed below one, the one that ended last. The first failure in time need not be it.

use super::{Held, Trace};
use naka_store::rfc3339;
use naka_types::name::ClusterName;
use naka_types::reason::Reason;
use naka_wire::v1::Span;
use naka_wire::v1::span::Kind;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Whether a request went wrong, or took too long.
#[must_use]
pub fn is_bad(span: &Span) -> bool {
    is_error(span) || span.slow
}

/// Whether a request went wrong.
#[must_use]
pub fn is_error(span: &Span) -> bool {
    let broke = [
        Reason::UpstreamReset,
        Reason::UpstreamProtocolError,
        Reason::RequestTimeout,
        Reason::PerTryTimeout,
        Reason::IdleTimeout,
        Reason::Fallback,
    ];
    let reason = Reason::parse(&span.reason);
    reason.is_some_and(|reason| broke.contains(&reason))
        || span.status >= 500
        // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, plus one.
        || matches!(span.grpc, 3 | 5 | 13 | 14 | 15 | 16)
}

/// A trace as a tree.
#[derive(Debug)]
struct Tree<'t> {
    spans: Vec<&'t Held>,
    parent: Vec<Option<usize>>,
    children: Vec<Vec<usize>>,
    /// Start of each, in microseconds since 1970, clocks set right.
    start: Vec<i128>,
}

impl<'t> Tree<'t> {
    fn of(trace: &'t Trace) -> Self {
        let mut spans: Vec<&Held> = trace.spans.values().collect();
        spans.sort_by_key(|held| (held.span.start_us, held.span.span_id));
        let index: HashMap<u64, usize> = spans
            .iter()
            .enumerate()
            .map(|(at, held)| (held.span.span_id, at))
            .collect();
        let mut tree = Self {
            parent: vec![None; spans.len()],
            children: vec![Vec::new(); spans.len()],
            start: spans.iter().map(|held| held.span.start_us.into()).collect(),
            spans,
        };
        for at in 0..tree.spans.len() {
            let named = index.get(&tree.spans[at].span.parent_id).copied();
            let parent = named
                .or_else(|| tree.served_by(at))
                .filter(|parent| *parent != at);
            if let Some(parent) = parent.filter(|parent| !tree.is_above(*parent, at)) {
                tree.parent[at] = Some(parent);
                tree.children[parent].push(at);
            }
        }
        tree.set_clocks();
        tree
    }

    /// The request that the program was at work on when it made a call under a span of its own.
    fn served_by(&self, at: usize) -> Option<usize> {
        let held = self.spans[at];
        if held.span.kind() != Kind::Client || held.span.parent_id == 0 {
            return None;
        }
        let serves =
            |other: &&Held| other.span.kind() == Kind::Server && other.who.id == held.who.id;
        let before = self
            .spans
            .iter()
            .enumerate()
            .filter(|(_, other)| serves(other));
        let before = before.filter(|(_, other)| other.span.start_us <= held.span.start_us);
        before.map(|(at, _)| at).next_back()
    }

    /// Whether one is another, or above it: a forged parent makes no circle.
    fn is_above(&self, mut at: usize, above: usize) -> bool {
        loop {
            if at == above {
                return true;
            }
            match self.parent[at] {
                Some(parent) => at = parent,
                None => return false,
            }
        }
    }

    fn roots(&self) -> Vec<usize> {
        (0..self.spans.len())
            .filter(|at| self.parent[*at].is_none())
            .collect()
    }

    fn duration(&self, at: usize) -> i128 {
        self.spans[at].span.duration_us.into()
    }

    fn end(&self, at: usize) -> i128 {
        self.start[at] + self.duration(at)
    }

    fn set_clocks(&mut self) {
        let mut moved: HashMap<&str, i128> = HashMap::new();
        let mut next = self.roots();
        let mut known: HashSet<&str> = next
            .iter()
            .map(|at| self.spans[*at].who.id.as_str())
            .collect();
        while let Some(at) = next.pop() {
            let who = self.spans[at].who.id.as_str();
            if let Some(parent) = self.parent[at]
                && self.spans[parent].who.id != who
                && known.insert(who)
            {
                let outside =
                    self.start[at] < self.start[parent] || self.end(at) > self.end(parent);
                if outside && !self.spans[parent].span.unfinished {
                    let middle =
                        self.start[parent] + (self.duration(parent) - self.duration(at)) / 2;
                    moved.insert(who, middle - self.start[at]);
                }
            }
            // A clock is looked at before those of whoever was called from there.
            self.start[at] += moved.get(who).copied().unwrap_or(0);
            next.extend(&self.children[at]);
        }
    }

    /// Whom a span is to.
    fn called(&self, at: usize) -> String {
        let mut below = self.children[at].iter().map(|child| self.spans[*child]);
        let served = below.rfind(|child| child.span.kind() == Kind::Server);
        let span = &self.spans[at].span;
        match (served, ClusterName::parse(&span.cluster)) {
            _ if span.kind() == Kind::Server => self.spans[at].who.name().to_owned(),
            (Some(served), _) => served.who.name().to_owned(),
            (None, Some(ClusterName::Outbound { host, .. })) => short(host.as_str()).to_owned(),
            (None, _) if !span.address.is_empty() => span.address.clone(),
            (None, _) => "?".to_owned(),
        }
    }

    /// Where it went wrong.
    fn cause(&self) -> Option<usize> {
        let bad = |at: &usize| is_bad(&self.spans[*at].span);
        // What failed comes before what was only slow.
        let worst = |at: &usize| (is_error(&self.spans[*at].span), self.end(*at));
        let mut at = self.roots().into_iter().filter(bad).max_by_key(worst);
        if at.is_none() {
            let all = 0..self.spans.len();
            at = all
                .filter(bad)
                .find(|at| self.parent[*at].is_none_or(|parent| !bad(&parent)));
        }
        let mut at = at?;
        while let Some(deeper) = self.children[at]
            .iter()
            .copied()
            .filter(bad)
            .max_by_key(worst)
        {
            // An error that was made here is not the fault of a call that was only slow.
            if is_error(&self.spans[at].span) && !is_error(&self.spans[deeper].span) {
                let late = Reason::parse(&self.spans[at].span.reason);
                if !matches!(late, Some(Reason::RequestTimeout | Reason::PerTryTimeout)) {
                    break;
                }
            }
            at = deeper;
        }
        Some(at)
    }
}

/// Whom a call was meant for, as far as its own span says.
#[must_use]
pub fn meant(span: &Span) -> String {
    match ClusterName::parse(&span.cluster) {
        Some(ClusterName::Outbound { host, .. }) => host.as_str().to_owned(),
        _ => span.address.clone(),
    }
}

fn short(host: &str) -> &str {
    host.split_once('.').map_or(host, |(name, _)| name)
}

/// In a word, for people: how a request went.
fn outcome(span: &Span) -> (&'static str, String) {
    let reason = Reason::parse(&span.reason);
    let words = match reason {
        Some(Reason::RequestTimeout | Reason::PerTryTimeout | Reason::IdleTimeout) => {
            "timeout".to_owned()
        }
        Some(Reason::BreakerOpen) => "circuit breaker open".to_owned(),
        Some(Reason::CircuitOpen) => "at its limit (circuit-open)".to_owned(),
        Some(reason) => reason.code().to_owned(),
        None if span.unfinished => "not answered yet".to_owned(),
        None if span.grpc > 1 => format!("gRPC {}", span.grpc - 1),
        None if span.status >= 400 => format!("HTTP {}", span.status),
        None => String::new(),
    };
    let mark = match (is_error(span), span.slow || span.unfinished) {
        (true, _) => "error",
        (false, true) => "slow",
        (false, false) => "ok",
    };
    (mark, words)
}

/// What is not there although it should be.
fn missing(trace: &Trace, tree: &Tree<'_>, silent: &HashSet<String>) -> BTreeSet<String> {
    let mut missing = BTreeSet::new();
    for (at, held) in tree.spans.iter().enumerate() {
        let (span, kind) = (&held.span, held.span.kind());
        let name = held.who.name();
        if span.unfinished {
            missing.insert(format!("a request at {name} has not ended"));
        }
        if span.orphan {
            missing.insert(format!(
                "what led to this: {name} does not pass traceparent on"
            ));
        }
        if kind == Kind::Server && !span.caller.is_empty() && tree.parent[at].is_none() {
            missing.insert(format!("the call of {name} at its caller"));
        }
        if kind == Kind::Server && silent.contains(&held.who.id) {
            missing.insert(format!(
                "what {name} called: it does not pass traceparent on"
            ));
        }
        let reached = match Reason::parse(&span.reason) {
            Some(
                Reason::ConnectFailed
                | Reason::ConnectTimeout
                | Reason::TlsFailed
                | Reason::WrongPeerIdentity
                | Reason::NoHealthyEndpoints
                | Reason::CircuitOpen
                | Reason::BreakerOpen
                | Reason::ClientGone,
            ) => false,
            _ => span.to_mesh && kind != Kind::Server,
        };
        let served = tree.children[at]
            .iter()
            .any(|child| tree.spans[*child].span.kind() == Kind::Server);
        if reached && !served {
            missing.insert(format!("the request of {name} at {}", tree.called(at)));
        }
    }
    for who in trace.away.values() {
        missing.insert(format!("what {} knows: it is away", who.name()));
    }
    if trace.left_out > 0 {
        missing.insert(format!("{} spans that had no room", trace.left_out));
    }
    missing
}

/// A trace in one line.
#[must_use]
pub fn summary(id: u128, trace: &Trace, silent: &HashSet<String>) -> Value {
    summed(id, trace, &Tree::of(trace), silent)
}

fn summed(id: u128, trace: &Trace, tree: &Tree<'_>, silent: &HashSet<String>) -> Value {
    let roots = tree.roots();
    let first = roots.iter().copied().min_by_key(|at| tree.start[*at]);
    let root = first.map(|at| tree.spans[at]);
    let begin = first.map_or(0, |at| tree.start[at]);
    let end = (0..tree.spans.len())
        .map(|at| tree.end(at))
        .max()
        .unwrap_or(begin);
    let any = |of: fn(&Span) -> bool| tree.spans.iter().any(|held| of(&held.span));
    let why = match (
        any(is_error),
        any(|span| span.slow),
        any(|span| span.sampled),
    ) {
        (true, ..) => "error",
        (_, true, _) => "slow",
        (.., true) => "sampled",
        _ => "asked",
    };
    let services: BTreeSet<&str> = tree.spans.iter().map(|held| held.who.id.as_str()).collect();
    let missing = missing(trace, tree, silent);
    let asked = root.map(|root| {
        format!(
            "{} {}{}",
            root.span.method,
            root.span.path,
            if root.span.path_cut { "…" } else { "" }
        )
    });
    json!({
        "id": format!("{id:032x}"),
        "time_us": u64::try_from(begin).unwrap_or(0),
        "time": time(begin),
        "duration_ms": millis(end - begin),
        "service": root.map_or("", |root| root.who.name()),
        "root_namespace": root.map_or("", |root| &root.who.namespace),
        "request": asked,
        "status": root.map_or(0, |root| root.span.status),
        "why": why,
        "spans": tree.spans.len(),
        "proxies": services.len(),
        "complete": missing.is_empty() && !tree.spans.is_empty(),
        "missing": missing,
        "cause": tree.cause().map(|at| cause(tree, at)),
    })
}

fn millis(micros: i128) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a time that is shown")]
    let micros = micros as f64;
    micros / 1000.0
}

fn time(micros: i128) -> String {
    let millis = u64::try_from(micros / 1000).unwrap_or(0);
    let seconds = rfc3339(millis);
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), millis % 1000)
}

/// A trace in full: spans as a tree, the flow of calls, and the cause.
#[must_use]
pub fn full(id: u128, trace: &Trace, silent: &HashSet<String>) -> Value {
    let tree = Tree::of(trace);
    let mut value = summed(id, trace, &tree, silent);
    let mut flow = Vec::new();
    let mut spans = Vec::new();
    let mut next: Vec<(usize, usize)> = tree.roots().into_iter().map(|at| (at, 0)).collect();
    next.sort_by_key(|(at, _)| std::cmp::Reverse(tree.start[*at]));
    while let Some((at, depth)) = next.pop() {
        let held = tree.spans[at];
        spans.push(span(&tree, at, depth));
        let is_call = held.span.kind() != Kind::Server;
        if is_call || tree.parent[at].is_none() {
            flow.push(call(&tree, at));
        }
        let mut below = tree.children[at].clone();
        below.sort_by_key(|at| std::cmp::Reverse(tree.start[*at]));
        next.extend(below.into_iter().map(|at| (at, depth + 1)));
    }
    flow.sort_by_key(|call| call["time_us"].as_u64());
    value["flow"] = json!(flow);
    value["tree"] = json!(spans);
    value
}

fn call(tree: &Tree<'_>, at: usize) -> Value {
    let held = tree.spans[at];
    let (mark, words) = outcome(&held.span);
    let from = match held.span.kind() {
        Kind::Server => "outside",
        _ => held.who.name(),
    };
    json!({
        "time_us": u64::try_from(tree.start[at]).unwrap_or(0),
        "time": time(tree.start[at]),
        "from": from,
        "to": tree.called(at),
        "duration_ms": millis(tree.duration(at)),
        "outcome": mark,
        "words": words,
        "attempts": held.span.attempts,
    })
}

fn span(tree: &Tree<'_>, at: usize, depth: usize) -> Value {
    let held = tree.spans[at];
    let span = &held.span;
    let (mark, words) = outcome(span);
    let kind = match span.kind() {
        Kind::Server => "server",
        Kind::Client => "client",
        Kind::Gateway => "gateway",
        Kind::Unknown => "unknown",
    };
    json!({
        "id": format!("{:016x}", span.span_id),
        "parent": format!("{:016x}", span.parent_id),
        "depth": depth,
        "kind": kind,
        "service": held.who.name(),
        "workload": held.who.workload,
        "namespace": held.who.namespace,
        "time_us": u64::try_from(tree.start[at]).unwrap_or(0),
        "clock_us": span.start_us,
        "duration_ms": millis(tree.duration(at)),
        "method": span.method,
        "path": span.path,
        "path_cut": span.path_cut,
        "status": span.status,
        "grpc": span.grpc.checked_sub(1),
        "reason": span.reason,
        "attempts": span.attempts,
        "cluster": span.cluster,
        "address": span.address,
        "to": tree.called(at),
        "outcome": mark,
        "words": words,
        "unfinished": span.unfinished,
    })
}

fn cause(tree: &Tree<'_>, at: usize) -> Value {
    let held = tree.spans[at];
    let span = &held.span;
    let (name, called) = (held.who.name(), tree.called(at));
    let took = format!("{:.1} ms", millis(tree.duration(at)));
    let reason = Reason::parse(&span.reason);
    let served = span.kind() == Kind::Server;
    let (service, what, fix) = match reason {
        Some(reason) if served && is_error(span) => {
            let what = format!("the proxy of {name} answered {}", reason.code());
            (name.to_owned(), what, reason.meaning().to_owned())
        }
        Some(reason) if is_error(span) => {
            let what = format!("{name} called {called}: {} after {took}", outcome(span).1);
            (called, what, reason.meaning().to_owned())
        }
        _ if is_error(span) => {
            let who = if served { name.to_owned() } else { called };
            let what = format!("{who} itself answered {}", outcome(span).1);
            let fix = format!("look at what {who} logged at {}", time(tree.start[at]));
            (who, what, fix)
        }
        _ => {
            let who = if served { name.to_owned() } else { called };
            let so_far = if span.unfinished {
                "has not answered for"
            } else {
                "took"
            };
            let what = format!("{who} {so_far} {took}");
            let fix = format!(
                "look at what {who} did then; a timeout on calls of it bounds how long others wait"
            );
            (who, what, fix)
        }
    };
    json!({"service": service, "what": what, "fix": fix, "span": format!("{:016x}", span.span_id)})
}

#[cfg(test)]
mod tests;
