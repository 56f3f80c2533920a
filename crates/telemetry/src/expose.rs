//! Prometheus text exposition (format 0.0.4), or OpenMetrics for whoever asks for it: shards summed, names in the
//! table's order, values in a fixed order.

use crate::exemplar::Seen;
use crate::label::{Labels, NAMES};
use crate::metrics::{Inner, lock};
use crate::name::{self, Name, TABLE};
use crate::process;
use crate::series::{BOUNDS, Histogram, Outcome, bucket};
use naka_types::reason::Reason;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// `Content-Type` of the exposition.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `Content-Type` of the exposition with exemplars.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether a request's `Accept` asks for OpenMetrics. Who takes it is given it: it says more.
#[must_use]
pub fn wants_open_metrics(accept: &str) -> bool {
    let mut ranges = accept.split(',').map(str::trim);
    ranges.any(|range| {
        let mut parts = range.split(';').map(str::trim);
        parts.next() == Some("application/openmetrics-text")
            && parts.all(|part| !matches!(part, "q=0" | "q=0.0" | "version=0.0.1"))
    })
}

#[derive(Default, Clone)]
struct Sums {
    buckets: [u64; 20],
    sum: u64,
}

impl Sums {
    fn add(&mut self, histogram: &Histogram) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *mine += theirs.load(Relaxed);
        }
        self.sum = self.sum.saturating_add(histogram.sum.load(Relaxed));
    }

    fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[derive(Default)]
struct Requests {
    duration: Sums,
    request_bytes: Sums,
    response_bytes: Sums,
    exemplar: Option<Seen>,
}

#[derive(Default)]
struct Tcp {
    sent: u64,
    received: u64,
    opened: u64,
    closed: BTreeMap<&'static str, u64>,
}

/// The label part of a request sample, ready to print, without braces.
type Printed = String;

pub(crate) fn render(inner: &Inner, open: bool) -> String {
    let shards = lock(&inner.shards).clone();
    let mut requests: BTreeMap<Printed, Requests> = BTreeMap::new();
    let mut tcp: BTreeMap<Printed, Tcp> = BTreeMap::new();
    let mut replies = [0u64; Reason::ALL.len()];
    let (mut capped, mut expired) = (0, 0);
    let mut aside = crate::aside::Sums::default();
    for shard in &shards {
        #[expect(clippy::iter_over_hash_type, reason = "summed into a sorted map")]
        for (labels, kept) in lock(&shard.requests).iter() {
            let common = pairs(labels);
            kept.series.each(|outcome, slot| {
                let sums = requests.entry(with_outcome(&common, outcome)).or_default();
                sums.duration.add(&slot.duration);
                let newer = |seen: &Seen| sums.exemplar.is_none_or(|e| e.at_ms < seen.at_ms);
                if let Some(seen) = slot.exemplar.get().filter(|seen| open && newer(seen)) {
                    sums.exemplar = Some(seen);
                }
                sums.request_bytes.add(&slot.request_bytes);
                sums.response_bytes.add(&slot.response_bytes);
            });
        }
        #[expect(clippy::iter_over_hash_type, reason = "summed into a sorted map")]
        for (labels, kept) in lock(&shard.tcp).iter() {
            let series = &kept.series;
            let sums = tcp.entry(pairs(labels)).or_default();
            sums.sent += series.sent.load(Relaxed);
            sums.received += series.received.load(Relaxed);
            sums.opened += series.opened.load(Relaxed);
            for (place, count) in series.closed.iter().enumerate() {
                let flag = match place.checked_sub(1).and_then(|i| Reason::ALL.get(i)) {
                    Some(reason) => reason.flag(),
                    None => "-",
                };
                *sums.closed.entry(flag).or_default() += count.load(Relaxed);
            }
        }
        for (sum, count) in replies.iter_mut().zip(&shard.replies) {
            *sum += count.load(Relaxed);
        }
        capped += shard.capped.load(Relaxed);
        expired += shard.expired.load(Relaxed);
        aside.add(&shard.aside);
    }
    let mut out = String::with_capacity(16 * 1024);
    for name in TABLE {
        let start = out.len();
        match *name {
            name::REQUESTS => {
                for (labels, sums) in &requests {
                    sample(&mut out, name.name, labels, sums.duration.count());
                }
            }
            name::DURATION => histograms(&mut out, name.name, &requests, |r| &r.duration),
            name::REQUEST_BYTES => histograms(&mut out, name.name, &requests, |r| &r.request_bytes),
            name::RESPONSE_BYTES => {
                histograms(&mut out, name.name, &requests, |r| &r.response_bytes)
            }
            name::TCP_SENT => tcp_samples(&mut out, name.name, &tcp, |t| t.sent),
            name::TCP_RECEIVED => tcp_samples(&mut out, name.name, &tcp, |t| t.received),
            name::TCP_OPENED => tcp_samples(&mut out, name.name, &tcp, |t| t.opened),
            name::TCP_CLOSED => closed_samples(&mut out, name.name, &tcp),
            name::LOCAL_REPLIES => {
                for (reason, count) in Reason::ALL.iter().zip(replies).filter(|(_, c)| *c > 0) {
                    sample(&mut out, name.name, &format!("reason=\"{reason}\""), count);
                }
            }
            name::ROUTE_REQUESTS => samples(&mut out, name.name, aside.routes()),
            name::SERVER_REQUESTS => samples(&mut out, name.name, aside.servers()),
            name::POLICY_NOTICES => samples(&mut out, name.name, aside.policies()),
            name::MIRROR_REQUESTS => samples(&mut out, name.name, aside.copies()),
            name::SERIES_EXPIRED if !shards.is_empty() => {
                sample(&mut out, name.name, "", expired);
            }
            name::SERIES_CAPPED if !shards.is_empty() => sample(&mut out, name.name, "", capped),
            _ => {}
        }
        numbers(&mut out, inner, name);
        process_number(&mut out, name);
        if out.len() > start {
            out.insert_str(start, &head(name, open));
        }
    }
    if open {
        out.push_str("# EOF\n");
    }
    out
}

/// OpenMetrics names a counter without its suffix.
fn head(name: &Name, open: bool) -> String {
    let family = match name.name.strip_suffix("_total") {
        Some(family) if open => family,
        _ => name.name,
    };
    let (help, kind) = (name.help, name.kind.word());
    format!("# HELP {family} {help}\n# TYPE {family} {kind}\n")
}

fn sample(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = if labels.is_empty() {
        writeln!(out, "{name} {value}")
    } else {
        writeln!(out, "{name}{{{labels}}} {value}")
    };
}

fn samples(out: &mut String, name: &str, all: impl Iterator<Item = (String, u64)>) {
    for (labels, count) in all {
        sample(out, name, &labels, count);
    }
}

fn histograms(
    out: &mut String,
    name: &str,
    requests: &BTreeMap<Printed, Requests>,
    of: impl Fn(&Requests) -> &Sums,
) {
    for (labels, requests) in requests {
        let sums = of(requests);
        let exemplar = requests.exemplar.filter(|_| name == name::DURATION.name);
        let in_bucket = exemplar.map(|seen| bucket(seen.thousandths));
        let mut running = 0;
        for (place, count) in sums.buckets.iter().enumerate() {
            running += count;
            let bound = BOUNDS.get(place).map_or("+Inf".to_owned(), f64::to_string);
            let _ = write!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {running}");
            if let Some(seen) = exemplar.filter(|_| in_bucket == Some(place)) {
                push_exemplar(out, seen);
            }
            out.push('\n');
        }
        let (whole, part) = (sums.sum / 1_000, sums.sum % 1_000);
        let _ = writeln!(out, "{name}_sum{{{labels}}} {whole}.{part:03}");
        let _ = writeln!(out, "{name}_count{{{labels}}} {running}");
    }
}

fn push_exemplar(out: &mut String, seen: Seen) {
    let (value, at) = (seen.thousandths, seen.at_ms);
    let _ = write!(
        out,
        " # {{trace_id=\"{:032x}\"}} {}.{:03} {}.{:03}",
        seen.trace,
        value / 1_000,
        value % 1_000,
        at / 1_000,
        at % 1_000
    );
}

fn tcp_samples(
    out: &mut String,
    name: &str,
    tcp: &BTreeMap<Printed, Tcp>,
    of: impl Fn(&Tcp) -> u64,
) {
    for (labels, sums) in tcp {
        sample(
            out,
            name,
            &format!("{labels},response_flags=\"-\""),
            of(sums),
        );
    }
}

fn closed_samples(out: &mut String, name: &str, tcp: &BTreeMap<Printed, Tcp>) {
    for (labels, sums) in tcp {
        for (flag, count) in &sums.closed {
            if *count > 0 || *flag == "-" {
                sample(
                    out,
                    name,
                    &format!("{labels},response_flags=\"{flag}\""),
                    count,
                );
            }
        }
    }
}

fn numbers(out: &mut String, inner: &Inner, name: &Name) {
    let numbers = lock(&inner.numbers);
    for (pairs, value) in numbers.get(name.name).into_iter().flatten() {
        let mut labels = String::new();
        for (key, value) in pairs {
            push_pair(&mut labels, key, value);
        }
        sample(out, name.name, &labels, AtomicU64::load(value, Relaxed));
    }
    drop(numbers);
    let seconds = lock(&inner.seconds);
    for (pairs, histogram) in seconds.get(name.name).into_iter().flatten() {
        let mut labels = String::new();
        for (key, value) in pairs {
            push_pair(&mut labels, key, value);
        }
        histogram.expose(out, name.name, &labels);
    }
}

fn process_number(out: &mut String, name: &Name) {
    let whole = |out: &mut String, value: Option<u64>| {
        if let Some(value) = value {
            sample(out, name.name, "", value);
        }
    };
    match *name {
        name::RESIDENT => whole(out, process::resident_bytes()),
        name::OPEN_FILES => whole(out, process::open_files()),
        name::THREADS => whole(out, process::threads()),
        name::START_TIME => whole(out, process::start_time_s()),
        name::CPU => {
            if let Some(ms) = process::cpu_ms() {
                sample(
                    out,
                    name.name,
                    "",
                    format!("{}.{:03}", ms / 1_000, ms % 1_000),
                );
            }
        }
        _ => {}
    }
}

fn pairs(labels: &Labels) -> Printed {
    let mut text = String::with_capacity(700);
    for (name, value) in NAMES.iter().zip(labels.values()) {
        push_pair(&mut text, name, value);
    }
    text
}

fn with_outcome(common: &str, outcome: Outcome) -> Printed {
    let (code, flags, grpc) = outcome.values();
    let mut text = String::with_capacity(common.len() + 80);
    text.push_str(common);
    push_pair(&mut text, "response_code", &code);
    push_pair(&mut text, "response_flags", flags);
    push_pair(&mut text, "grpc_response_status", &grpc);
    text
}

/// Appends `name="value"`, escaped as the format wants.
fn push_pair(text: &mut String, name: &str, value: &str) {
    if !text.is_empty() {
        text.push(',');
    }
    text.push_str(name);
    text.push_str("=\"");
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text.push('"');
}
