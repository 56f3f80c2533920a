//! What destinations stand at, as metrics: calls under way, the pool, the queue, endpoints by state, breakers.
//!
//! Read when somebody scrapes, so a request pays nothing for it. Destinations are those of the configuration in force;
//! beyond the cap they are summed under `other`, and one that is configured no more is told no more.

use naka_engine::model::{Cluster, Health, Snapshot};
use naka_engine::runtime::Bar;
use naka_telemetry::{Metrics, Pairs, name};
use std::collections::BTreeMap;
use std::time::Duration;

/// Destinations told apart; a sidecar holds no more than 1,000 names.
const CAP: usize = 1_000;
const STATES: [&str; 3] = ["closed", "open", "half_open"];

type Rows = BTreeMap<Pairs, u64>;

/// Tells all of it, as it is at a time since the process began.
pub(super) fn refresh(metrics: &Metrics, snapshot: &Snapshot, now: Duration) {
    let mut clusters: Vec<_> = snapshot.clusters().collect();
    clusters.sort_by(|one, other| one.name().cmp(other.name()));
    let (mut requests, mut connections) = (Rows::new(), Rows::new());
    let (mut queued, mut retries) = (Rows::new(), Rows::new());
    let (mut endpoints, mut breakers) = (Rows::new(), Rows::new());
    for (place, cluster) in clusters.into_iter().enumerate() {
        let shown = if place < CAP { cluster.name() } else { "other" };
        let of = || vec![("cluster", shown.to_owned())];
        let with = |state: &str| {
            let mut pairs = of();
            pairs.push(("state", state.to_owned()));
            pairs
        };
        let runtime = &cluster.runtime;
        add(&mut requests, of(), runtime.requests());
        add(&mut connections, of(), runtime.connections());
        add(&mut queued, of(), runtime.pending());
        add(&mut retries, of(), runtime.retries());
        for endpoint in &cluster.endpoints {
            let state = match endpoint.health {
                _ if endpoint.state.has(Bar::Outlier) => "ejected",
                _ if endpoint.state.has(Bar::HealthCheck) => "failing",
                Health::Healthy => "healthy",
                Health::Draining => "draining",
                Health::Unhealthy => "unhealthy",
            };
            add(&mut endpoints, with(state), 1);
        }
        if let Some(stands) = breaker(cluster, now) {
            for state in STATES {
                add(&mut breakers, with(state), u32::from(state == stands));
            }
        }
    }
    metrics.gauges(name::CLUSTER_REQUESTS, requests);
    metrics.gauges(name::CLUSTER_CONNECTIONS, connections);
    metrics.gauges(name::CLUSTER_QUEUED, queued);
    metrics.gauges(name::CLUSTER_RETRIES, retries);
    metrics.gauges(name::CLUSTER_ENDPOINTS, endpoints);
    metrics.gauges(name::BREAKER_STATE, breakers);
}

fn add(rows: &mut Rows, pairs: Pairs, more: u32) {
    *rows.entry(pairs).or_default() += u64::from(more);
}

/// The state of its explicit breaker, if it has one.
fn breaker(cluster: &Cluster, now: Duration) -> Option<&'static str> {
    let breaker = cluster.spec.backend.as_ref()?.breaker.as_ref()?;
    Some(match cluster.runtime.stands(breaker) {
        None => "closed",
        Some(_) if cluster.runtime.is_open(now) => "open",
        Some(_) => "half_open",
    })
}
