//! The state machine, driven from tables as the proxy and `naka explain` drive it.

mod access;
mod chain;
mod check;
mod expressions;
mod guards;
mod headers;
mod hedge;
mod limits;
mod made_to;
mod matching;
mod retry;
mod routing;
mod token;
mod tries;

use super::{Around, Cx, Effect, Exchange, Input, Outcome, Tried};
use crate::canonical::{Canonical, Origin};
use crate::model::{
    Access, Action, Cluster, ClusterSpec, Endpoint, Forward, Health, Inbound, Match, MtlsMode,
    PeerTls, RateLimit, Route, Snapshot, SnapshotBuilder, VirtualHost, WeightedCluster,
};
use crate::pick::Cursors;
use crate::runtime::Registry;
use crate::why::Why;
use http::{HeaderMap, Request, Response};
use naka_types::protocol::Protocol;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub(super) fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A snapshot under construction with the state around a worker.
pub(super) struct World {
    registry: Registry,
    builder: SnapshotBuilder,
    snapshot: Snapshot,
    pub(super) origin: Origin,
    pub(super) now: Duration,
    pub(super) around: Around,
    rng: fastrand::Rng,
    cursors: Cursors,
    pub(super) trail: Option<Vec<Why>>,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            registry: Registry::default(),
            builder: SnapshotBuilder::new("shop"),
            snapshot: Snapshot::default(),
            origin: Origin::outbound(80),
            now: Duration::from_secs(100),
            around: Around::default(),
            rng: fastrand::Rng::with_seed(42),
            cursors: Cursors::new(),
            trail: None,
        }
    }

    /// A cluster with endpoints at these ports, changed by `spec`.
    pub(super) fn cluster_with(
        &mut self,
        name: &str,
        ports: &[u16],
        spec: impl FnOnce(&mut ClusterSpec),
    ) -> WeightedCluster {
        let mut made = ClusterSpec::new(name, Protocol::Http);
        made.tls = Some(PeerTls {
            always: false,
            allowed: Arc::default(),
            sni: Arc::default(),
        });
        spec(&mut made);
        let endpoints = ports
            .iter()
            .map(|port| {
                Arc::new(Endpoint {
                    address: address(*port),
                    weight: 1,
                    health: Health::Healthy,
                    mtls: true,
                    workload: Arc::default(),
                    state: self.registry.endpoint(&made.name, address(*port)),
                })
            })
            .collect();
        let (id, runtime) = (self.registry.id(name), self.registry.cluster(name));
        self.builder.put_cluster(Arc::new(Cluster::new(
            id,
            Arc::new(made),
            endpoints,
            runtime,
        )));
        WeightedCluster::new(id, name, 1)
    }

    pub(super) fn cluster(&mut self, name: &str, ports: &[u16]) -> WeightedCluster {
        self.cluster_with(name, ports, |_| ())
    }

    pub(super) fn missing(&self, name: &str) -> WeightedCluster {
        WeightedCluster::new(self.registry.id(name), name, 1)
    }

    /// `payment.shop` on port 80 with these routes.
    pub(super) fn host(&mut self, routes: Vec<Route>) {
        self.builder.put_virtual_host(Arc::new(VirtualHost {
            name: "80/payment.shop.svc.cluster.local:80".into(),
            port: 80,
            domains: Box::new(["payment.shop.svc.cluster.local".into()]),
            routes: routes.into_iter().map(Arc::new).collect(),
        }));
        self.publish();
    }

    pub(super) fn inbound(&mut self, mode: MtlsMode) {
        self.inbound_under(mode, None, None);
    }

    pub(super) fn inbound_under(
        &mut self,
        mode: MtlsMode,
        access: Option<Arc<Access>>,
        limit: Option<Arc<RateLimit>>,
    ) {
        let cluster = self.cluster_with("inbound|8080||", &[8080], |spec| spec.tls = None);
        self.builder.put_inbound(Arc::new(Inbound {
            port: 8080,
            protocol: Protocol::Http,
            mode,
            cluster: cluster.cluster,
            name: cluster.name,
            service: "payment.shop.svc.cluster.local".into(),
            access,
            limit,
            closes: false,
            tls: None,
        }));
        self.publish();
    }

    pub(super) fn publish(&mut self) {
        self.snapshot = self.builder.clone().build();
    }

    pub(super) fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Canonical {
        let mut request = Request::builder().method(method).uri(target);
        if !target.starts_with("http") && headers.iter().all(|(name, _)| *name != "host") {
            request = request.header("host", "payment");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let parts = request.body(()).unwrap().into_parts().0;
        Canonical::from_parts(parts, &self.origin).unwrap()
    }

    pub(super) fn cx(&mut self) -> Cx<'_> {
        Cx {
            snapshot: &self.snapshot,
            origin: &self.origin,
            now: self.now,
            around: &self.around,
            rng: &mut self.rng,
            cursors: &mut self.cursors,
            why: self.trail.as_mut(),
        }
    }

    pub(super) fn step(
        &mut self,
        exchange: &mut Exchange,
        request: &mut Canonical,
        input: Input<'_>,
    ) -> Effect {
        exchange.step(request, input, &mut self.cx())
    }

    pub(super) fn begin(&mut self, request: &mut Canonical) -> (Exchange, Effect) {
        let mut exchange = Exchange::new();
        let effect = self.step(&mut exchange, request, Input::Begin);
        (exchange, effect)
    }

    pub(super) fn failed(
        &mut self,
        exchange: &mut Exchange,
        request: &mut Canonical,
        outcome: Outcome<'_>,
    ) -> Effect {
        let tried = Tried {
            outcome,
            replayable: true,
        };
        self.step(exchange, request, Input::Tried(tried))
    }

    /// The headers of a relayed response, or the effect that came instead.
    pub(super) fn answered(
        &mut self,
        exchange: &mut Exchange,
        request: &mut Canonical,
        status: u16,
        headers: &[(&str, &str)],
    ) -> Result<HeaderMap, Box<Effect>> {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let mut parts = response.body(()).unwrap().into_parts().0;
        match self.failed(exchange, request, Outcome::Response(&mut parts)) {
            Effect::Relay => Ok(parts.headers),
            other => Err(Box::new(other)),
        }
    }
}

pub(super) fn route(name: &str, matches: Match, action: Action) -> Route {
    Route {
        name: name.into(),
        config: None,
        matches,
        action,
        request_headers: Default::default(),
        response_headers: Default::default(),
        limit: None,
        extras: Default::default(),
    }
}

pub(super) fn to(clusters: Vec<WeightedCluster>) -> Forward {
    Forward::new(clusters).unwrap()
}

/// One catch-all route.
pub(super) fn always(forward: Forward) -> Vec<Route> {
    vec![route("always", Match::default(), Action::Forward(forward))]
}

pub(super) fn tried(effect: Effect) -> super::Try {
    match effect {
        Effect::Try(tried) => tried,
        other => panic!("no try: {other:?}"),
    }
}

#[track_caller]
pub(super) fn refused(effect: Effect) -> naka_types::reason::Reason {
    match effect {
        Effect::Reply(reply) => reply.reason,
        other => panic!("no reply: {other:?}"),
    }
}
