//! Durations of the control plane's own work, counted in buckets of seconds.
//!
//! Apart from `series`: those are Istio's buckets in milliseconds, per request and worker; these are few, shared by
//! all threads, and reach from a tenth of a millisecond (a sync of a fast disk) to ten seconds.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds in seconds as they are printed, and in nanoseconds; the last bucket has none.
const BOUNDS: [(&str, u64); 16] = [
    ("0.0001", 100_000),
    ("0.00025", 250_000),
    ("0.0005", 500_000),
    ("0.001", 1_000_000),
    ("0.0025", 2_500_000),
    ("0.005", 5_000_000),
    ("0.01", 10_000_000),
    ("0.025", 25_000_000),
    ("0.05", 50_000_000),
    ("0.1", 100_000_000),
    ("0.25", 250_000_000),
    ("0.5", 500_000_000),
    ("1", 1_000_000_000),
    ("2.5", 2_500_000_000),
    ("5", 5_000_000_000),
    ("10", 10_000_000_000),
];

/// A histogram of durations. Cheap to clone; one that belongs to no [`crate::Metrics`] counts for nobody.
#[derive(Debug, Clone, Default)]
pub struct Seconds(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    buckets: [AtomicU64; 17],
    nanos: AtomicU64,
}

impl Seconds {
    /// Counts one.
    pub fn record(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|(_, bound)| *bound < nanos);
        self.0.buckets[bucket].fetch_add(1, Relaxed);
        self.0.nanos.fetch_add(nanos, Relaxed);
    }

    /// Its samples in the exposition; `labels` without braces.
    pub(crate) fn expose(&self, out: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut running = 0;
        for (place, count) in self.0.buckets.iter().enumerate() {
            running += count.load(Relaxed);
            let bound = BOUNDS.get(place).map_or("+Inf", |(text, _)| text);
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {running}"
            );
        }
        let braces = |labels: &str| match labels {
            "" => String::new(),
            labels => format!("{{{labels}}}"),
        };
        let nanos = self.0.nanos.load(Relaxed);
        let (whole, part) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        let _ = writeln!(out, "{name}_sum{} {whole}.{part:09}", braces(labels));
        let _ = writeln!(out, "{name}_count{} {running}", braces(labels));
    }
}

#[cfg(test)]
mod tests {
    use super::{BOUNDS, Seconds};
    use std::time::Duration;

    #[test]
    fn durations_fall_into_their_buckets() {
        for (text, nanos) in BOUNDS {
            let seconds: f64 = text.parse().unwrap();
            assert!((seconds * 1e9 - nanos as f64).abs() < 0.5, "{text}");
        }
        let seconds = Seconds::default();
        for ms in [0, 1, 3, 20_000] {
            seconds.record(Duration::from_millis(ms));
        }
        let mut out = String::new();
        seconds.expose(&mut out, "x_seconds", "phase=\"a\"");
        for line in [
            "x_seconds_bucket{phase=\"a\",le=\"0.0001\"} 1",
            "x_seconds_bucket{phase=\"a\",le=\"0.001\"} 2",
            "x_seconds_bucket{phase=\"a\",le=\"0.005\"} 3",
            "x_seconds_bucket{phase=\"a\",le=\"10\"} 3",
            "x_seconds_bucket{phase=\"a\",le=\"+Inf\"} 4",
            "x_seconds_sum{phase=\"a\"} 20.004000000",
            "x_seconds_count{phase=\"a\"} 4",
        ] {
            assert!(out.lines().any(|l| l == line), "{line}\n{out}");
        }
        let mut plain = String::new();
        seconds.expose(&mut plain, "x_seconds", "");
        assert!(
            plain.contains("x_seconds_bucket{le=\"1\"} 3")
                && plain.contains("\nx_seconds_count 4\n")
        );
    }
}
