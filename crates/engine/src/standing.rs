//! What this proxy found out by itself about those it calls, as it stands now: endpoints that are out, and where
//! explicit breakers stand. For people who ask; no request reads it.
//!
//! Pure: reads the runtime state of a snapshot's clusters. Costs one load for a cluster of which nobody was ever out
//! and that has no breaker.

use crate::model::Cluster;
use crate::outlier;
use crate::runtime::Bar;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What a verdict is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// An endpoint that is not called.
    Endpoint(SocketAddr, Bar),
    /// The breaker of the whole cluster.
    Breaker,
}

/// One verdict. Times are those of the engine's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Cluster, as xDS names it.
    pub cluster: Arc<str>,
    /// What it is about.
    pub about: About,
    /// Since when; `None`: a breaker that is closed.
    pub since: Option<Duration>,
    /// When it ends by itself, or the breaker's trials begin; `None`: at no certain time.
    pub until: Option<Duration>,
}

/// All verdicts on these clusters, what keeps calls away before breakers that are closed.
#[must_use]
pub fn standing<'a>(clusters: impl IntoIterator<Item = &'a Arc<Cluster>>) -> Vec<Standing> {
    let (mut away, mut closed) = (Vec::new(), Vec::new());
    for cluster in clusters {
        let verdict = |about, since, until| Standing {
            cluster: Arc::clone(cluster.name()),
            about,
            since,
            until,
        };
        let backend = cluster.spec.backend.as_ref();
        if let Some(breaker) = backend.and_then(|backend| backend.breaker.as_ref()) {
            match cluster.runtime.stands(breaker) {
                Some((since, until)) => {
                    away.push(verdict(About::Breaker, Some(since), Some(until)));
                }
                None => closed.push(verdict(About::Breaker, None, None)),
            }
        }
        if cluster.runtime.epoch() == 0 {
            continue;
        }
        for endpoint in &cluster.endpoints {
            if let Some((since, until)) = outlier::ejected(cluster, endpoint) {
                let about = About::Endpoint(endpoint.address, Bar::Outlier);
                away.push(verdict(about, Some(since), Some(until)));
            }
            if endpoint.state.has(Bar::HealthCheck) {
                let about = About::Endpoint(endpoint.address, Bar::HealthCheck);
                away.push(verdict(about, Some(endpoint.state.asked.since()), None));
            }
        }
    }
    away.append(&mut closed);
    away
}

#[cfg(test)]
mod tests;
