//! Drawing a destination, picking an endpoint, counting and starting a try.

use super::{Cx, Effect, Exchange, PassThrough, Try, affinity, headers, wanted};
use crate::breaker::{Pass, Trial};
use crate::canonical::{Canonical, Direction};
use crate::model::{Action, Cluster, ClusterId, Endpoint, Forward, HashKey};
use crate::pick::{Wish, bit, explain, pick};
use crate::runtime::{Permit, Slot};
use crate::why::{Stage, Why};
use naka_types::reason::Reason;
use std::net::SocketAddr;
use std::sync::Arc;

/// How many tries a priority has before retries look elsewhere, where the route wants that; Istio's number.
const TRIES_PER_PRIORITY: u32 = 2;

/// Draws one of the weighted destinations; one of weight 0 is never drawn.
pub(super) fn draw(forward: &Forward, cx: &mut Cx<'_>) -> usize {
    let clusters = &forward.clusters;
    if clusters.len() == 1 {
        return 0;
    }
    let drawn = cx.rng.u64(..forward.total);
    let mut below = 0;
    let choice = clusters
        .iter()
        .position(|c| {
            below += u64::from(c.weight);
            drawn < below
        })
        .unwrap_or(0);
    cx.explain(|| {
        let shares: Vec<_> = clusters
            .iter()
            .map(|c| format!("{}={}", c.name, c.weight))
            .collect();
        Why::new(
            Stage::Weight,
            &*clusters[choice].name,
            format!(
                "drew {drawn} of {} among {}",
                forward.total,
                shares.join(", ")
            ),
        )
    });
    choice
}

/// Where a try had better not go.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Avoid {
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) priorities: u64,
}

/// An endpoint chosen and counted.
pub(super) struct Chosen {
    pub(super) cluster: Arc<Cluster>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) permit: Permit,
    /// The call is a trial of the cluster's breaker.
    pub(super) trial: Option<Trial>,
    /// Whether the endpoint is known to be broken and called for want of better ones.
    pub(super) panic: bool,
    pub(super) priority: u32,
}

/// Picks an endpoint of a cluster and counts the request. `key` gives the hash of what is called, for a cluster that
/// wants one.
pub(super) fn choose(
    id: ClusterId,
    name: &str,
    avoid: Avoid,
    retry: Option<Slot>,
    own: Option<&Arc<Cluster>>,
    key: impl FnOnce(&HashKey, &mut Cx<'_>) -> Option<u64>,
    cx: &mut Cx<'_>,
) -> Result<Chosen, Reason> {
    let Some(cluster) = own.or_else(|| cx.snapshot.cluster(id)) else {
        cx.explain(|| Why::new(Stage::Endpoint, "none", format!("{name} does not exist")));
        return Err(Reason::UnknownCluster);
    };
    let cluster = Arc::clone(cluster);
    if cluster.spec.outside.as_ref().is_some_and(|tls| tls.nobody) {
        cx.explain(|| {
            let why = "its TLS cannot be carried out as its DestinationRule asks for it";
            Why::new(Stage::Endpoint, "none", why)
        });
        return Err(Reason::TlsFailed);
    }
    let trial = pass(&cluster, cx)?;
    let hash = match &cluster.spec.balance.hash {
        None => None,
        Some(wanted) => key(wanted, cx),
    };
    let wish = Wish {
        avoid: avoid.endpoint,
        leave_out: avoid.priorities,
        hash,
        meant: affinity::meant(&cluster, cx.origin),
        now: cx.now,
    };
    let picked = pick(&cluster, &wish, cx.cursors, cx.rng);
    cx.explain(|| explain(&cluster, picked.as_ref(), &wish));
    let picked = picked.ok_or(Reason::NoHealthyEndpoints)?;
    let (endpoint, panic) = (Arc::clone(picked.endpoint), picked.panic);
    let priority = picked.priority;
    let permit = cluster
        .runtime
        .request(&endpoint.state, &cluster.spec.limits, retry)
        .ok_or(Reason::CircuitOpen)?;
    cluster.runtime.began(&cluster.spec.limits, cx.now);
    if cluster
        .spec
        .backend
        .as_ref()
        .is_some_and(|b| b.check.is_some())
    {
        endpoint.state.asked.called(cx.now);
    }
    Ok(Chosen {
        cluster,
        endpoint,
        permit,
        trial,
        panic,
        priority,
    })
}

/// The breaker's leave to call a cluster.
fn pass(cluster: &Arc<Cluster>, cx: &mut Cx<'_>) -> Result<Option<Trial>, Reason> {
    let breaker = cluster
        .spec
        .backend
        .as_ref()
        .and_then(|b| b.breaker.as_ref());
    let Some(breaker) = breaker else {
        return Ok(None);
    };
    match cluster.runtime.pass(breaker, cx.now) {
        Some(Pass::Closed) => Ok(None),
        Some(Pass::Trial(trial)) => {
            cx.explain(|| Why::new(Stage::Endpoint, "trial", "the breaker is half open"));
            Ok(Some(trial))
        }
        None => Err(Reason::BreakerOpen),
    }
}

impl Exchange {
    /// Takes the addresses of the name that the caller said.
    pub(super) fn addressed(
        &mut self,
        request: &mut Canonical,
        all: &[SocketAddr],
        cx: &mut Cx<'_>,
    ) -> Effect {
        let route = self.route.clone();
        let target = route.as_deref().and_then(|route| self.destination(route));
        let Some(id) = target
            .map(|target| target.cluster)
            .filter(|_| !all.is_empty())
        else {
            return self.refuse(request, Reason::UnknownHost, cx);
        };
        self.lookup.addresses(id, all, cx);
        self.attempt(request, cx)
    }

    /// Starts the next try.
    pub(super) fn attempt(&mut self, request: &mut Canonical, cx: &mut Cx<'_>) -> Effect {
        self.attempts += 1;
        if self.external {
            let (host, port) = wanted(request, cx.origin);
            return Effect::PassThrough(PassThrough {
                host: host.into(),
                port,
            });
        }
        let route = self.route.clone();
        let target = match &route {
            _ if self.instead_of.is_some() => self.instead_of.clone(),
            Some(route) => self
                .destination(route)
                .map(|c| (c.cluster, Arc::clone(&c.name))),
            None => self.cluster.as_ref().map(|c| (c.id, Arc::clone(c.name()))),
        };
        let Some((id, name)) = target else {
            return self.refuse(request, Reason::Internal, cx);
        };
        if let Some(need) = self.lookup.needs(id, cx) {
            self.attempts -= 1;
            return Effect::Need(need);
        }
        let own = self.lookup.cluster().cloned();
        let tried = self.endpoint.as_ref().filter(|_| self.retry.elsewhere);
        if self.retry.other_priorities && self.attempts % TRIES_PER_PRIORITY == 1 {
            self.left_out = self.used;
        }
        let avoid = Avoid {
            endpoint: tried.map(|e| e.address),
            priorities: self.left_out,
        };
        let retry = self.retry_slot.take();
        let key = |key: &HashKey, cx: &mut Cx<'_>| self.key(key, request, cx);
        let chosen = match choose(id, &name, avoid, retry, own.as_ref(), key, cx) {
            Ok(chosen) => chosen,
            Err(reason) => {
                self.cluster = cx.snapshot.cluster(id).cloned();
                // Nothing of it was sent, or all of it is still there.
                let instead = self.fall_back(request, reason, true, cx);
                return instead.unwrap_or_else(|| self.refuse(request, reason, cx));
            }
        };
        self.cluster = Some(Arc::clone(&chosen.cluster));
        self.endpoint = Some(Arc::clone(&chosen.endpoint));
        self.used |= bit(chosen.priority);
        self.started = cx.now;
        self.let_through = chosen.panic;
        self.trial = chosen.trial;
        if !matches!(cx.origin.direction, Direction::Inbound { .. }) {
            let left = self.deadline.map(|d| d.saturating_sub(cx.now));
            headers::mark_attempt(request, self.attempts, self.retry.per_try, left);
        }
        Effect::Try(Try {
            http: self.program.unwrap_or(chosen.cluster.spec.http),
            cluster: chosen.cluster,
            endpoint: chosen.endpoint,
            permit: chosen.permit,
            deadline: self.deadline,
            per_try_timeout: self.retry.per_try,
            idle_timeout: match route.as_deref().map(|r| &r.action) {
                Some(Action::Forward(forward)) => forward.idle_timeout,
                _ => None,
            },
            keep: self.attempts <= self.retry.retries || self.may_fall_back(),
            attempt: self.attempts,
            hedge: self.hedged_after(cx),
        })
    }
}
