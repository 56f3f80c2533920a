//! A verdict for each way of being out, and none for a cluster that is well.

use super::{About, Standing, standing};
use crate::breaker::Breaker;
use crate::health;
use crate::model::{Ask, Backend, Cluster, ClusterSpec, Endpoint, Health, HealthCheck};
use crate::outlier::{self, Outlier, Seen};
use crate::runtime::{Bar, Registry};
use naka_types::protocol::Protocol;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const S: Duration = Duration::from_secs(1);

fn breaker() -> Breaker {
    Breaker {
        in_a_row: 1,
        count: None,
        rate: None,
        open_for: S * 30,
        trials: 1,
        statuses: None,
    }
}

fn check() -> HealthCheck {
    HealthCheck {
        ask: Ask::Tcp,
        interval: S,
        timeout: S,
        unhealthy: 1,
        healthy: 1,
    }
}

fn cluster(registry: &Registry, policies: bool) -> Arc<Cluster> {
    let mut spec = ClusterSpec::new("outbound|80||a", Protocol::Http);
    if policies {
        spec.outlier = Some(Box::new(Outlier {
            errors: 1,
            percent: 100,
            ..Outlier::default()
        }));
        spec.backend = Some(Box::new(Backend {
            breaker: Some(breaker()),
            check: Some(check()),
            ..Backend::default()
        }));
    }
    let endpoint = |port| {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Arc::new(Endpoint {
            address,
            weight: 1,
            health: Health::Healthy,
            mtls: true,
            workload: Arc::default(),
            state: registry.endpoint(&spec.name, address),
        })
    };
    let endpoints = vec![endpoint(1), endpoint(2)];
    let runtime = registry.cluster(&spec.name);
    let id = registry.id(&spec.name);
    Arc::new(Cluster::new(id, Arc::new(spec), endpoints, runtime))
}

fn told(cluster: &Arc<Cluster>) -> Vec<(About, Option<Duration>, Option<Duration>)> {
    let all = standing([cluster]).into_iter();
    all.map(
        |Standing {
             about,
             since,
             until,
             ..
         }| (about, since, until),
    )
    .collect()
}

#[test]
fn who_is_out_is_told_with_its_times_and_nobody_else() {
    let registry = Registry::default();
    let cluster = cluster(&registry, true);
    let closed = (About::Breaker, None, None);
    assert_eq!(told(&cluster), [closed], "all is well");
    let [one, two] = [&cluster.endpoints[0], &cluster.endpoints[1]];
    assert_eq!(
        outlier::observe(&cluster, one, Seen::Status(500), S * 7),
        outlier::Told::Ejected
    );
    health::answered(&cluster, two, &check(), false, S * 8);
    // A failure more says nothing new.
    health::answered(&cluster, two, &check(), false, S * 9);
    let ejected = About::Endpoint(one.address, Bar::Outlier);
    let failing = About::Endpoint(two.address, Bar::HealthCheck);
    assert_eq!(
        told(&cluster),
        [
            // Sweeps are every ten seconds.
            (ejected, Some(S * 7), Some(S * 40)),
            (failing, Some(S * 8), None),
            closed
        ]
    );
    cluster.runtime.ended(&breaker(), None, true, S * 9);
    assert_eq!(
        told(&cluster)[0],
        (About::Breaker, Some(S * 9), Some(S * 39))
    );
    health::answered(&cluster, two, &check(), true, S * 10);
    outlier::sweep([&cluster], S * 40);
    assert_eq!(told(&cluster).len(), 1, "only the breaker is left");
}

#[test]
fn without_policies_nothing_is_told() {
    let registry = Registry::default();
    let cluster = cluster(&registry, false);
    let one = &cluster.endpoints[0];
    assert_eq!(
        outlier::observe(&cluster, one, Seen::Status(500), S),
        outlier::Told::Counted
    );
    assert_eq!(told(&cluster), []);
}
