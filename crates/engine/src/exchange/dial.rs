//! A TCP connection as a state machine: the same snapshot, picks, limits and effects as a request, without headers.
//!
//! Outbound it follows, of the virtual host that `Origin::destination` names, the first route that asks for nothing but
//! where the connection was made to; inbound it leads to
//! the program. A connection that could not be made is tried at other endpoints, up to three times, since not a byte
//! has been passed on.

use super::lookup::Lookup;
use super::{
    Answered, Cx, Effect, Input, Judged, Need, Outcome, PassThrough, Try, access, affinity,
    attempt, inbound,
};
use crate::breaker::Trial;
use crate::canonical::Direction;
use crate::model::{Access, Action, Cluster, ClusterId, Endpoint, Route, Serves, VirtualHost};
use crate::reply::LocalReply;
use crate::why::{Stage, Why};
use naka_types::reason::Reason;
use std::sync::Arc;

const TRIES: u32 = 3;

/// One TCP connection on its way. `Reply` means: close it, for that reason. `Relay` is not used.
#[derive(Debug, Default)]
pub struct Dial {
    route: Option<Arc<Route>>,
    target: Option<(ClusterId, Arc<str>)>,
    pub(super) cluster: Option<Arc<Cluster>>,
    pub(super) endpoint: Option<Arc<Endpoint>>,
    lookup: Lookup,
    /// Whether the caller's record was asked for.
    asked: bool,
    judged: Option<Box<Judged>>,
    tries: u32,
    over: bool,
    pub(super) barred: bool,
    pub(super) trial: Option<Trial>,
}

impl Dial {
    /// A connection that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One step. Report a connection that stands with [`Dial::connected`] and no further step, one that failed with
    /// `Tried`.
    pub fn step(&mut self, input: Input<'_>, cx: &mut Cx<'_>) -> Effect {
        if self.over {
            return Effect::Done;
        }
        let effect = match input {
            Input::Begin => self.arrived(cx),
            Input::Answer(_) if self.asked && self.target.is_none() => self.arrived(cx),
            Input::Answer(Answered::Ready) if self.target.is_some() => self.attempt(cx),
            Input::Answer(Answered::Ready) => self.begin(false, cx),
            Input::Addresses(all) => match &self.target {
                Some((id, _)) if !all.is_empty() => {
                    let id = *id;
                    self.lookup.addresses(id, all, cx);
                    self.attempt(cx)
                }
                _ => Self::refuse(Reason::UnknownHost, cx),
            },
            Input::Answer(Answered::Through(id)) => {
                let cluster = cx.snapshot.cluster(id);
                self.target = cluster.map(|cluster| (id, Arc::clone(cluster.name())));
                self.attempt(cx)
            }
            Input::Answer(Answered::Failed(reason)) => Self::refuse(reason, cx),
            Input::Answer(Answered::External) => match &cx.origin.destination {
                Some((host, port)) => Effect::PassThrough(PassThrough {
                    host: Arc::clone(host),
                    port: *port,
                }),
                None => Self::refuse(Reason::UnknownHost, cx),
            },
            Input::Tried(tried) => self.tried(&tried.outcome, cx),
            Input::TimerFired | Input::Body(_) | Input::Checked(_) => {
                Self::refuse(Reason::Internal, cx)
            }
        };
        self.over = matches!(effect, Effect::Reply(_) | Effect::Done | Effect::Relay);
        effect
    }

    /// What policies say of the connection besides letting it pass.
    pub fn judged(&mut self) -> Option<Box<Judged>> {
        self.judged.take()
    }

    fn arrived(&mut self, cx: &mut Cx<'_>) -> Effect {
        match cx.origin.direction {
            Direction::Inbound { port } => self.begin_inbound(port, cx),
            Direction::Outbound | Direction::Gateway => self.begin(true, cx),
        }
    }

    /// Whether the caller may; an effect where it may not, or its record is needed first.
    fn admitted(&mut self, access: Option<&Access>, cx: &mut Cx<'_>) -> Option<Effect> {
        let access = access?;
        if let Some(peer) = access::lacks(access, cx).filter(|_| !self.asked) {
            self.asked = true;
            return Some(Effect::Need(Need::Peer(peer)));
        }
        let refused = access::admit_bytes(access, &mut self.judged, cx).err();
        refused.map(|reason| Self::refuse(reason, cx))
    }

    /// The route, once chosen.
    #[must_use]
    pub fn route(&self) -> Option<&Arc<Route>> {
        self.route.as_ref()
    }

    /// The cluster, once chosen.
    #[must_use]
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    /// The endpoint of the last try.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        self.endpoint.as_ref()
    }

    /// A connection that a gateway's chain took: its one route, or the cluster that the server name names.
    fn begin_at_gateway(&mut self, name: &str, cx: &mut Cx<'_>) -> Effect {
        let Some(chain) = cx.snapshot.chain(cx.origin.default_port, name).cloned() else {
            return Self::refuse(Reason::NoRoute, cx);
        };
        if let Some(effect) = self.admitted(chain.access.as_deref(), cx) {
            return effect;
        }
        match &chain.serves {
            Serves::Bytes(vhost) => self.follow(vhost, cx),
            Serves::Named => {
                let wanted = cx.origin.destination.as_ref().map(|(name, _)| &**name);
                let mut clusters = cx.snapshot.clusters();
                let found = clusters.find(|cluster| Some(&**cluster.name()) == wanted);
                match found {
                    None => Self::refuse(Reason::UnknownCluster, cx),
                    Some(cluster) => {
                        self.target = Some((cluster.id, Arc::clone(cluster.name())));
                        self.attempt(cx)
                    }
                }
            }
            Serves::Http(_) => Self::refuse(Reason::Internal, cx),
        }
    }

    fn begin(&mut self, ask: bool, cx: &mut Cx<'_>) -> Effect {
        if let Some(chain) = cx.origin.chain.clone() {
            return self.begin_at_gateway(&chain, cx);
        }
        let Some((host, port)) = &cx.origin.destination else {
            return Self::refuse(Reason::UnknownHost, cx);
        };
        let Some(vhost) = cx.snapshot.virtual_host(host, *port) else {
            return if ask {
                Effect::Need(Need::VirtualHost {
                    host: Arc::clone(host),
                    port: *port,
                })
            } else {
                Self::refuse(Reason::ConfigUnavailable, cx)
            };
        };
        cx.explain(|| {
            Why::new(
                Stage::Host,
                &*vhost.name,
                format!("answers for {host}:{port}"),
            )
        });
        let vhost = Arc::clone(vhost);
        self.follow(&vhost, cx)
    }

    fn follow(&mut self, vhost: &VirtualHost, cx: &mut Cx<'_>) -> Effect {
        let made_to = cx.origin.made_to.map(|to| to.ip());
        let route = vhost
            .routes
            .iter()
            .find(|route| route.matches.takes_connection(made_to));
        let Some((route, Action::Forward(forward))) = route.map(|r| (r, &r.action)) else {
            return Self::refuse(Reason::NoRoute, cx);
        };
        let choice = attempt::draw(forward, cx);
        self.target = forward
            .clusters
            .get(choice)
            .map(|c| (c.cluster, Arc::clone(&c.name)));
        self.route = Some(Arc::clone(route));
        if let (Some((id, _)), Some((host, port))) = (&self.target, &cx.origin.destination) {
            self.lookup.call(*id, host, *port, cx);
        }
        self.attempt(cx)
    }

    fn begin_inbound(&mut self, port: u16, cx: &mut Cx<'_>) -> Effect {
        let Some(inbound) = cx.snapshot.inbound(port) else {
            return Self::refuse(Reason::NoRoute, cx);
        };
        if let Err(reason) = inbound::admit(inbound, cx) {
            return Self::refuse(reason, cx);
        }
        if let Some(effect) = self.admitted(inbound.access.as_deref(), cx) {
            return effect;
        }
        self.target = Some((inbound.cluster, Arc::clone(&inbound.name)));
        self.attempt(cx)
    }

    fn attempt(&mut self, cx: &mut Cx<'_>) -> Effect {
        self.tries += 1;
        let Some((id, name)) = self.target.clone() else {
            return Self::refuse(Reason::UnknownCluster, cx);
        };
        if let Some(need) = self.lookup.needs(id, cx) {
            self.tries -= 1;
            return Effect::Need(need);
        }
        let avoid = attempt::Avoid {
            endpoint: self.endpoint.as_ref().map(|e| e.address),
            ..attempt::Avoid::default()
        };
        let own = self.lookup.cluster().cloned();
        match attempt::choose(
            id,
            &name,
            avoid,
            None,
            own.as_ref(),
            affinity::of_connection,
            cx,
        ) {
            Err(reason) => Self::refuse(reason, cx),
            Ok(chosen) => {
                self.cluster = Some(Arc::clone(&chosen.cluster));
                self.endpoint = Some(Arc::clone(&chosen.endpoint));
                self.trial = chosen.trial;
                Effect::Try(Try {
                    hedge: None,
                    http: chosen.cluster.spec.http,
                    cluster: chosen.cluster,
                    endpoint: chosen.endpoint,
                    permit: chosen.permit,
                    deadline: None,
                    per_try_timeout: None,
                    idle_timeout: None,
                    keep: false,
                    attempt: self.tries,
                })
            }
        }
    }

    fn tried(&mut self, outcome: &Outcome<'_>, cx: &mut Cx<'_>) -> Effect {
        self.observe(outcome, cx);
        if outcome.is_unprocessed() && self.tries < TRIES && self.target.is_some() {
            return self.attempt(cx);
        }
        match outcome.reason() {
            Some(Reason::ClientGone) | None => Effect::Done,
            Some(reason) => Self::refuse(reason, cx),
        }
    }

    fn refuse(reason: Reason, cx: &mut Cx<'_>) -> Effect {
        cx.explain(|| Why::new(Stage::Reply, reason.code(), reason.meaning()));
        Effect::Reply(LocalReply::new(reason, false))
    }
}
