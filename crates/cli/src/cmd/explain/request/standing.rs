//! A request on the live mesh meets what its caller's proxy found out: ejected endpoints, failed checks, open breakers.

use super::{Asked, Explained, Walk};
use crate::cmd::standing::{self, Caller, Kind, State, Told};
use naka_engine::model::Cluster;
use naka_engine::runtime::Bar;
use naka_engine::why::{Stage, Why};
use std::sync::Arc;
use std::time::Duration;

impl Asked {
    /// What a proxy of the caller found out; nothing for a caller that was not named.
    pub(crate) fn seen_by(&self, all: &[Told]) -> Vec<Told> {
        if !self.gateway.is_empty() {
            return standing::seen_by(all, Caller::Gateway(&self.gateway));
        }
        if self.from.is_empty() {
            return Vec::new();
        }
        standing::seen_by(all, Caller::Sidecar(&self.namespace, &self.from))
    }
}

impl Walk<'_> {
    /// Puts the clusters that were loaded into the state that the caller's proxy tells of them, and says so once.
    pub(super) fn stand(&self, explained: &mut Explained) {
        if self.seen.is_empty() {
            return;
        }
        let snapshot = self.book.snapshot();
        let now = u64::try_from(self.asked.at.as_millis()).unwrap_or(u64::MAX);
        for cluster in snapshot.clusters() {
            let its = self.seen.iter();
            for told in its.filter(|told| *told.cluster == **cluster.name()) {
                if let Some(decision) = stands(cluster, told, now) {
                    let because = format!("{}, says {}", told.words(now), told.proxy);
                    let why = Why::new(Stage::Endpoint, decision, because);
                    if !explained.trail.contains(&why) {
                        explained.trail.push(why);
                    }
                }
            }
        }
    }
}

/// Makes one verdict hold; what it is about, unless nothing came of it.
fn stands(cluster: &Arc<Cluster>, told: &Told, now: u64) -> Option<String> {
    let bar = match told.kind {
        Kind::Outlier => Bar::Outlier,
        Kind::HealthCheck => Bar::HealthCheck,
        Kind::Breaker => {
            // The walk takes no time: its clock stands at nothing.
            let left = match told.state(now) {
                State::Closed => return None,
                State::Open => {
                    Duration::from_millis(told.until - now).max(Duration::from_millis(2))
                }
                State::HalfOpen => Duration::ZERO,
            };
            let backend = cluster.spec.backend.as_ref()?;
            backend.breaker.as_ref()?;
            cluster.runtime.opened(left);
            return Some(format!("breaker of {}", cluster.name()));
        }
    };
    let address = told.address.parse().ok()?;
    let mut all = cluster.endpoints.iter();
    let endpoint = all.find(|endpoint| endpoint.address == address)?;
    cluster.runtime.bar(&endpoint.state, bar);
    Some(told.address.clone())
}
