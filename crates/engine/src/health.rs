//! What answers to health checks mean: so many failures in a row take an endpoint out, so many successes bring it
//! back. Counters are the endpoint's, over all workers and every swap of configuration.
//!
//! Who is asked when: endpoints that had calls lately, and those that are out, each once an interval, at a time drawn
//! so that proxies which started together do not ask together.

use crate::model::{Cluster, Endpoint, HealthCheck};
use crate::runtime::Bar;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Endpoints without a call for longer are not asked.
pub const LATELY: Duration = Duration::from_secs(60);
/// How much of the interval the time of a question is drawn from.
const JITTER: f64 = 0.2;

/// Counters of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    failures: AtomicU32,
    successes: AtomicU32,
    /// Milliseconds of the last call, at least 1; 0 = never.
    called: AtomicU64,
    /// Milliseconds at which the checks took it out.
    since: AtomicU64,
}

impl Asked {
    /// A call begins.
    pub(crate) fn called(&self, now: Duration) {
        self.called.store(millis(now).max(1), Relaxed);
    }

    /// When the checks took it out, if they did.
    pub(crate) fn since(&self) -> Duration {
        Duration::from_millis(self.since.load(Relaxed))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Whether an endpoint is to be asked.
#[must_use]
pub fn is_asked(endpoint: &Endpoint, now: Duration) -> bool {
    let called = endpoint.state.asked.called.load(Relaxed);
    let lately = called > 0 && now.saturating_sub(Duration::from_millis(called)) <= LATELY;
    lately || endpoint.state.has(Bar::HealthCheck)
}

/// Time until the next question, around one interval.
#[must_use]
pub fn next(check: &HealthCheck, rng: &mut fastrand::Rng) -> Duration {
    check
        .interval
        .mul_f64(1.0 - JITTER / 2.0 + JITTER * rng.f64())
}

/// Takes note of an answer; `Some(healthy)` when the endpoint's state changed.
pub fn answered(
    cluster: &Cluster,
    endpoint: &Endpoint,
    check: &HealthCheck,
    well: bool,
    now: Duration,
) -> Option<bool> {
    let asked = &endpoint.state.asked;
    let (counter, other) = if well {
        (&asked.successes, &asked.failures)
    } else {
        (&asked.failures, &asked.successes)
    };
    other.store(0, Relaxed);
    let row = counter.fetch_add(1, Relaxed).saturating_add(1);
    let changed = if well {
        row >= check.healthy && cluster.runtime.lift(&endpoint.state, Bar::HealthCheck)
    } else {
        let out = row >= check.unhealthy;
        if out && !endpoint.state.has(Bar::HealthCheck) {
            asked.since.store(millis(now), Relaxed);
        }
        out && cluster.runtime.bar(&endpoint.state, Bar::HealthCheck)
    };
    changed.then_some(well)
}

/// Forgets what checks found out, where there are none any more.
pub fn forget(cluster: &Cluster) {
    for endpoint in &cluster.endpoints {
        cluster.runtime.lift(&endpoint.state, Bar::HealthCheck);
    }
}

#[cfg(test)]
mod tests {
    use super::{LATELY, answered, forget, is_asked, next};
    use crate::model::{Ask, Cluster, ClusterSpec, Endpoint, Health, HealthCheck};
    use crate::runtime::Registry;
    use naka_types::protocol::Protocol;
    use std::sync::Arc;
    use std::time::Duration;

    fn check() -> HealthCheck {
        HealthCheck {
            ask: Ask::Tcp,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            unhealthy: 5,
            healthy: 3,
        }
    }

    fn cluster(registry: &Registry) -> Cluster {
        let spec = ClusterSpec::new("outbound|80||a", Protocol::Http);
        let address = "127.0.0.1:1".parse().unwrap();
        let endpoint = Arc::new(Endpoint {
            address,
            weight: 1,
            health: Health::Healthy,
            mtls: false,
            workload: Arc::default(),
            state: registry.endpoint(&spec.name, address),
        });
        let runtime = registry.cluster(&spec.name);
        Cluster::new(
            registry.id(&spec.name),
            Arc::new(spec),
            vec![endpoint],
            runtime,
        )
    }

    #[test]
    fn five_failures_in_a_row_take_out_and_three_successes_bring_back() {
        let registry = Registry::default();
        let (cluster, check) = (cluster(&registry), check());
        let endpoint = &cluster.endpoints[0];
        let mut told = Vec::new();
        for well in [
            false, false, false, false, true, // not in a row
            false, false, false, false, false, // out
            false, true, true, false, true, true, true, // back
        ] {
            told.push(answered(&cluster, endpoint, &check, well, Duration::ZERO));
        }
        let changes: Vec<_> = told
            .iter()
            .enumerate()
            .filter(|(_, t)| t.is_some())
            .collect();
        assert_eq!(changes, [(9, &Some(false)), (16, &Some(true))]);
        assert!(!endpoint.state.is_barred());
    }

    #[test]
    fn where_nobody_asks_any_more_nobody_stays_out() {
        let registry = Registry::default();
        let (cluster, check) = (cluster(&registry), check());
        let endpoint = &cluster.endpoints[0];
        for _ in 0..5 {
            answered(&cluster, endpoint, &check, false, Duration::ZERO);
        }
        assert!(endpoint.state.is_barred());
        forget(&cluster);
        assert!(!endpoint.state.is_barred());
    }

    #[test]
    fn who_was_not_called_lately_is_not_asked_unless_out() {
        let registry = Registry::default();
        let (cluster, check) = (cluster(&registry), check());
        let endpoint = &cluster.endpoints[0];
        let minute = LATELY;
        assert!(!is_asked(endpoint, minute));
        endpoint.state.asked.called(minute);
        assert!(is_asked(endpoint, minute * 2) && !is_asked(endpoint, minute * 2 + minute / 60));
        for _ in 0..5 {
            answered(&cluster, endpoint, &check, false, Duration::ZERO);
        }
        assert!(is_asked(endpoint, minute * 9));
    }

    #[test]
    fn questions_are_spread_around_the_interval() {
        let mut rng = fastrand::Rng::with_seed(3);
        let all: Vec<_> = (0..500).map(|_| next(&check(), &mut rng)).collect();
        let (least, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
        assert!(*least >= Duration::from_secs(9) && *most <= Duration::from_secs(11));
        assert!(*most - *least > Duration::from_secs(1));
    }
}
