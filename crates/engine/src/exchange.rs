//! An exchange (one request and its answer) as a state machine of steps and effects.
//!
//! The proxy performs an [`Effect`] and reports what happened as the next [`Input`]; `naka explain` and tests answer
//! from tables. Usual course: `Begin → Try`, `Tried(Response) → Relay`. Detours: `Need(VirtualHost)` when the name is
//! not held yet, `Need(Backoff)` or another `Try` when a try failed and may be repeated, `Reply` when the proxy
//! answers itself, `Need(Delay)` where the route injects one. Each effect that waits has its limit in it (`deadline`, `per_try_timeout`, the back-off), and each
//! failure has a [`Reason`].
//!
//! The order of a request: headers sanitised → caller allowed → guards → tokens read → somebody else asked (CUSTOM) → policy → virtual host → route → injected
//! delay, then abort → cross-origin rules → destination drawn → path and headers edited → endpoint picked → counted →
//! tried.
//!
//! Invariants: after `Reply`, `Relay` or `Done` an exchange gives only `Done`; a [`Permit`] counts every try; a retry
//! never happens beyond its policy's number, the budget, or the deadline.

mod access;
mod affinity;
mod attempt;
mod attributes;
mod chain;
mod check;
mod cors;
mod dial;
mod fallback;
mod fault;
mod guard;
mod headers;
mod hedge;
mod inbound;
mod limit;
mod lookup;
mod matching;
mod mirror;
mod need;
mod observe;
mod redirect;
mod retry;
mod rewrite;
mod token;
mod trace;
mod trust;

pub use access::{By, Judged, NO_RULE, Noticed};
pub use attributes::Around;
pub use chain::Repeated;
pub use check::{CHECK, Call, Changes, Checked, Denial, Edit, How, PARTIAL_BODY, free, mark};
pub use dial::Dial;
pub use guard::{Failed, bans_address, handshake_done, handshake_failed};
pub use headers::xfcc;
pub use inbound::still_admitted;
pub use matching::first_failing;
pub use mirror::Copy;
pub use need::Need;
pub use trace::Trace;

use crate::breaker::Trial;
use crate::canonical::{Canonical, Direction, Origin};
use crate::model::{
    Action, Cluster, ClusterId, Endpoint, Forward, Hosts, HttpVersion, Route, Serves, Snapshot,
    VirtualHost, WeightedCluster,
};
use crate::pick::Cursors;
use crate::reply::LocalReply;
use crate::runtime::{Permit, Slot};
use crate::why::{Stage, Why};
use bytes::Bytes;
use http::HeaderValue;
use naka_types::reason::Reason;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What a step may read.
#[derive(Debug)]
pub struct Cx<'a> {
    /// The newest configuration.
    pub snapshot: &'a Snapshot,
    /// The connection the request came on.
    pub origin: &'a Origin,
    /// Monotonic time since any fixed moment.
    pub now: Duration,
    /// Chance.
    pub rng: &'a mut fastrand::Rng,
    /// What is known besides the request.
    pub around: &'a Around,
    /// This worker's round-robin positions.
    pub cursors: &'a mut Cursors,
    /// Trail of an explanation, if one is wanted.
    pub why: Option<&'a mut Vec<Why>>,
}

impl Cx<'_> {
    pub(crate) fn explain(&mut self, why: impl FnOnce() -> Why) {
        if let Some(trail) = &mut self.why {
            trail.push(why());
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The request is there.
    Begin,
    /// What was needed came, or did not.
    Answer(Answered),
    /// A try ended.
    Tried(Tried<'a>),
    /// The body that was needed; none when it is too long, broke off or did not come in time.
    Body(Option<Bytes>),
    /// The addresses of a name ([`Need::Addresses`]); none: it has none.
    Addresses(&'a [SocketAddr]),
    /// The back-off is over.
    TimerFired,
    /// What came of the question ([`Need::Check`]).
    Checked(Checked),
}

/// Answer to [`Need::VirtualHost`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// The snapshot of the next step has it.
    Ready,
    /// The name is outside the mesh: pass the request through.
    External,
    /// The name is outside the mesh: such calls go by this cluster.
    Through(ClusterId),
    /// It could not be had.
    Failed(Reason),
}

/// How a try ended.
#[derive(Debug)]
pub struct Tried<'a> {
    /// What happened.
    pub outcome: Outcome<'a>,
    /// Whether the very same request can be sent again (no body, or all of it still there).
    pub replayable: bool,
}

/// End of a try.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// A response head; edited in place when it is relayed. Drop the response if the next effect is not `Relay`.
    Response(&'a mut http::response::Parts),
    /// No connection.
    ConnectFailed,
    /// No connection in time.
    ConnectTimeout,
    /// TLS failed.
    TlsFailed,
    /// The endpoint is somebody else.
    WrongPeerIdentity,
    /// The endpoint refused the stream unprocessed (REFUSED_STREAM, or above the last stream of a GOAWAY).
    RefusedStream,
    /// The connection closed before any byte of the request was written.
    NotProcessed,
    /// A reused connection closed after bytes of the request were written and before any byte of a response. Most
    /// likely it was closed for being idle, but that is no proof: its program may have died at work on the request.
    Stale,
    /// The connection or stream broke later.
    Reset,
    /// The endpoint does not speak the protocol.
    ProtocolError,
    /// The try took longer than `per_try_timeout`.
    PerTryTimeout,
    /// The deadline passed.
    Timeout,
    /// No byte moved for the idle timeout.
    IdleTimeout,
    /// The pool is at its limit of connections or waiting requests.
    CircuitOpen,
    /// The caller went away.
    ClientGone,
}

impl Outcome<'_> {
    /// The reason of a failure, `None` for a response.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        Some(match self {
            Self::Response(_) => return None,
            Self::ConnectFailed => Reason::ConnectFailed,
            Self::ConnectTimeout => Reason::ConnectTimeout,
            Self::TlsFailed => Reason::TlsFailed,
            Self::WrongPeerIdentity => Reason::WrongPeerIdentity,
            Self::RefusedStream | Self::NotProcessed | Self::Stale | Self::Reset => {
                Reason::UpstreamReset
            }
            Self::ProtocolError => Reason::UpstreamProtocolError,
            Self::PerTryTimeout => Reason::PerTryTimeout,
            Self::Timeout => Reason::RequestTimeout,
            Self::IdleTimeout => Reason::IdleTimeout,
            Self::CircuitOpen => Reason::CircuitOpen,
            Self::ClientGone => Reason::ClientGone,
        })
    }

    /// Whether the endpoint's program provably never saw the request.
    #[must_use]
    pub fn is_unprocessed(&self) -> bool {
        matches!(
            self,
            Self::ConnectFailed
                | Self::ConnectTimeout
                | Self::TlsFailed
                | Self::WrongPeerIdentity
                | Self::RefusedStream
                | Self::NotProcessed
        )
    }
}

/// What to do next.
#[derive(Debug)]
pub enum Effect {
    /// Get this, then step with [`Input::Answer`] or [`Input::TimerFired`].
    Need(Need),
    /// Send the request there, then step with [`Input::Tried`].
    Try(Try),
    /// Send the request to an address outside the mesh, then step with [`Input::Tried`].
    PassThrough(PassThrough),
    /// Answer this.
    Reply(LocalReply),
    /// Pass the response on; its headers have been edited.
    Relay,
    /// Nothing is left to do.
    Done,
}

/// A try.
#[derive(Debug)]
pub struct Try {
    /// Destination.
    pub cluster: Arc<Cluster>,
    /// Whom to call.
    pub endpoint: Arc<Endpoint>,
    /// Counts the request; keep until the response has been passed on. Drop it before stepping with a failure, and
    /// hand it over with [`Exchange::hold`] before stepping with a response.
    pub permit: Permit,
    /// Time (same clock as `Cx::now`) at which the whole exchange must have its response head.
    pub deadline: Option<Duration>,
    /// Longest time of this try.
    pub per_try_timeout: Option<Duration>,
    /// Longest time without a byte.
    pub idle_timeout: Option<Duration>,
    /// Whether another try may follow, so that the head must be kept ([`Canonical::head`]).
    pub keep: bool,
    /// Number of this try, from 1.
    pub attempt: u32,
    /// Which HTTP the endpoint is spoken to in.
    pub http: HttpVersion,
    /// Without an answer for so long the request may be sent a second time, see [`Exchange::hedge`].
    pub hedge: Option<Duration>,
}

/// A call outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassThrough {
    /// Name or address.
    pub host: Arc<str>,
    /// Port.
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    WaitingForHost,
    WaitingForBody,
    WaitingForAddress,
    WaitingForPeer,
    WaitingForCheck,
    Trying,
    BackingOff,
    Delaying,
    Over,
}

/// One request on its way.
#[derive(Debug)]
pub struct Exchange {
    state: State,
    vhost: Option<Arc<VirtualHost>>,
    route: Option<Arc<Route>>,
    choice: usize,
    cluster: Option<Arc<Cluster>>,
    endpoint: Option<Arc<Endpoint>>,
    /// What the own program's port was declared as: clusters of programs do not say.
    program: Option<HttpVersion>,
    /// Priorities tried, and those that retries leave out, as in [`crate::pick::Wish::leave_out`].
    used: u64,
    left_out: u64,
    external: bool,
    lookup: lookup::Lookup,
    attempts: u32,
    /// Its place in the trace it belongs to.
    trace: Trace,
    asked: headers::Asked,
    retry: retry::Rules,
    retry_slot: Option<Slot>,
    held: Option<Permit>,
    /// The request's origin, if the route's rules allow it.
    origin: Option<Box<http::HeaderValue>>,
    deadline: Option<Duration>,
    /// A cookie made for this caller: the hash of its value, and what the response says.
    cookie: Option<(u64, HeaderValue)>,
    /// When the last try began.
    started: Duration,
    barred: bool,
    let_through: bool,
    /// The first of two tries that are under way.
    first: Option<hedge::First>,
    /// The trial of a half-open breaker that the try under way is.
    trial: Option<Trial>,
    /// Why somebody else is asked instead of the destination, and who.
    fallen: Option<Reason>,
    instead_of: Option<(ClusterId, Arc<str>)>,
    body: attributes::Read,
    /// For the answer, when a limit wants it told.
    told: Option<limit::Told>,
    judged: Option<Box<Judged>>,
    asking: Option<Box<check::Asking>>,
    /// Changes of the answer that somebody else wanted.
    answer_edits: Option<Box<[check::Edit]>>,
}

impl Default for Exchange {
    fn default() -> Self {
        Self::new()
    }
}

impl Exchange {
    /// An exchange that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::New,
            vhost: None,
            route: None,
            choice: 0,
            cluster: None,
            endpoint: None,
            program: None,
            used: 0,
            left_out: 0,
            external: false,
            lookup: lookup::Lookup::default(),
            attempts: 0,
            trace: Trace::default(),
            asked: headers::Asked::default(),
            retry: retry::Rules::default(),
            retry_slot: None,
            held: None,
            origin: None,
            deadline: None,
            cookie: None,
            started: Duration::ZERO,
            barred: false,
            let_through: false,
            first: None,
            trial: None,
            fallen: None,
            instead_of: None,
            body: attributes::Read::default(),
            told: None,
            judged: None,
            asking: None,
            answer_edits: None,
        }
    }

    /// One step. An input that does not fit the state ends the exchange with `internal`.
    pub fn step(&mut self, request: &mut Canonical, input: Input<'_>, cx: &mut Cx<'_>) -> Effect {
        let effect = match (self.state, input) {
            (State::Over, _) => return Effect::Done,
            (State::New, Input::Begin) => self.begin(request, cx),
            (State::WaitingForHost, Input::Answer(answer)) => self.answered(request, answer, cx),
            (State::WaitingForBody, Input::Body(body)) => self.body_came(request, body, cx),
            (State::WaitingForPeer, Input::Answer(_)) => self.admitted(request, false, cx),
            (State::WaitingForCheck, Input::Checked(checked)) => self.checked(request, checked, cx),
            (State::WaitingForAddress, Input::Answer(Answered::Ready)) => self.attempt(request, cx),
            (State::WaitingForAddress, Input::Addresses(all)) => self.addressed(request, all, cx),
            (State::Trying, Input::Tried(tried)) => self.tried(request, tried, cx),
            (State::BackingOff, Input::TimerFired) => {
                if self.deadline.is_some_and(|deadline| cx.now >= deadline) {
                    self.refuse(request, Reason::RequestTimeout, cx)
                } else {
                    self.attempt(request, cx)
                }
            }
            (State::Delaying, Input::TimerFired) => match self.route.clone() {
                Some(route) => self.act(request, &route, cx),
                None => self.refuse(request, Reason::Internal, cx),
            },
            _ => self.refuse(request, Reason::Internal, cx),
        };
        self.state = match &effect {
            Effect::Need(Need::VirtualHost { .. }) => State::WaitingForHost,
            Effect::Need(Need::Body { .. }) => State::WaitingForBody,
            Effect::Need(Need::Backoff(_)) => State::BackingOff,
            Effect::Need(Need::Lookup(_) | Need::Addresses { .. }) => State::WaitingForAddress,
            Effect::Need(Need::Peer(_)) => State::WaitingForPeer,
            Effect::Need(Need::Check) => State::WaitingForCheck,
            Effect::Need(Need::Delay(_)) => State::Delaying,
            Effect::Try(_) | Effect::PassThrough(_) => State::Trying,
            Effect::Reply(_) | Effect::Relay | Effect::Done => State::Over,
        };
        effect
    }

    /// The virtual host, once known.
    #[must_use]
    pub fn virtual_host(&self) -> Option<&Arc<VirtualHost>> {
        self.vhost.as_ref()
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

    /// Name of the destination drawn, also when there is no such cluster.
    #[must_use]
    pub fn destination_name(&self) -> Option<&Arc<str>> {
        self.destination(self.route.as_deref()?).map(|c| &c.name)
    }

    /// Hands over the permit of a try that brought a response: it is given back before the next try is counted, so
    /// that a retry never stands in its own way at a limit of one.
    pub fn hold(&mut self, permit: Permit) {
        self.held = Some(permit);
    }

    /// The permit handed over, if the response is relayed.
    pub fn held(&mut self) -> Option<Permit> {
        self.held.take()
    }

    /// The endpoint of the last try.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        self.endpoint.as_ref()
    }

    /// Its place in a trace, once it has begun.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Number of tries so far.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    fn begin(&mut self, request: &mut Canonical, cx: &mut Cx<'_>) -> Effect {
        (self.asked, self.trace) = headers::sanitise(request, cx);
        self.admitted(request, true, cx)
    }

    fn find_host(&mut self, request: &mut Canonical, ask: bool, cx: &mut Cx<'_>) -> Effect {
        let (host, port) = wanted(request, cx.origin);
        if cx.origin.agreeing && !cx.origin.agrees(host, request.host()) {
            return self.refuse(request, Reason::NameMismatch, cx);
        }
        let found = match &cx.origin.chain {
            None => cx.snapshot.virtual_host(host, port),
            Some(chain) => of_chain(cx.snapshot, port, chain).and_then(|hosts| hosts.find(host)),
        };
        match found {
            Some(vhost) => {
                let vhost = Arc::clone(vhost);
                cx.explain(|| {
                    Why::new(
                        Stage::Host,
                        &*vhost.name,
                        format!("answers for {host}:{port}"),
                    )
                });
                self.follow(request, vhost, cx)
            }
            None if cx.origin.direction == Direction::Gateway => {
                cx.explain(|| {
                    Why::new(
                        Stage::Host,
                        "none",
                        format!("no Gateway takes {host}:{port}"),
                    )
                });
                self.refuse(request, Reason::NoRoute, cx)
            }
            None if ask => Effect::Need(Need::VirtualHost {
                host: host.into(),
                port,
            }),
            None => self.refuse(request, Reason::ConfigUnavailable, cx),
        }
    }

    fn answered(&mut self, request: &mut Canonical, answer: Answered, cx: &mut Cx<'_>) -> Effect {
        match answer {
            Answered::Ready => self.find_host(request, false, cx),
            Answered::Failed(reason) => {
                cx.explain(|| Why::new(Stage::Host, "none", reason.meaning()));
                self.refuse(request, reason, cx)
            }
            Answered::Through(id) => {
                self.cluster = cx.snapshot.cluster(id).cloned();
                self.retry = retry::Rules::transport_only(request.method());
                self.deadline = self.asked.timeout(None).map(|timeout| cx.now + timeout);
                if self.cluster.is_none() {
                    return self.refuse(request, Reason::UnknownCluster, cx);
                }
                self.attempt(request, cx)
            }
            Answered::External => {
                self.external = true;
                self.retry = retry::Rules::transport_only(request.method());
                self.deadline = self.asked.timeout(None).map(|timeout| cx.now + timeout);
                self.attempt(request, cx)
            }
        }
    }

    fn follow(
        &mut self,
        request: &mut Canonical,
        vhost: Arc<VirtualHost>,
        cx: &mut Cx<'_>,
    ) -> Effect {
        let found = matching::find(&vhost, request, &self.body, cx);
        self.vhost = Some(vhost);
        let route = match found {
            matching::Found::Route(route) => route,
            matching::Found::Nothing => return self.refuse(request, Reason::NoRoute, cx),
            matching::Found::AfterBody => return attributes::need_body(),
        };
        let chosen = Arc::clone(&route);
        self.route = Some(route);
        if let Some(limit) = &chosen.limit
            && let Some(vhost) = self.vhost.clone()
            && let Some(refused) = self.limit(limit, matching::called(&vhost), request, cx)
        {
            return refused;
        }
        if let Some(fault) = &chosen.extras.fault
            && let Some(pause) = Self::delay(fault, cx)
        {
            return Effect::Need(Need::Delay(pause));
        }
        self.act(request, &chosen, cx)
    }

    /// What the route does, once any delay is over.
    fn act(&mut self, request: &mut Canonical, route: &Route, cx: &mut Cx<'_>) -> Effect {
        if let Some(fault) = &route.extras.fault
            && let Some(reply) = Self::abort(fault, request, cx)
        {
            return Self::answer(reply, cx);
        }
        if let Some(cors) = cors::of(route)
            && let Some(reply) = self.cross_origin(cors, request)
        {
            return Self::answer(reply, cx);
        }
        match &route.action {
            Action::Forward(forward) => self.forward(request, route, forward, cx),
            Action::Redirect(to) => match redirect::reply(to, &route.matches, request, cx.origin) {
                Ok(reply) => self.finish_reply(reply, route, cx),
                Err(reason) => self.refuse(request, reason, cx),
            },
            Action::Direct(direct) => self.finish_reply(redirect::direct(direct), route, cx),
        }
    }

    fn forward(
        &mut self,
        request: &mut Canonical,
        route: &Route,
        forward: &Forward,
        cx: &mut Cx<'_>,
    ) -> Effect {
        self.choice = attempt::draw(forward, cx);
        self.retry = retry::Rules::of(&forward.retry, &self.asked, request.method());
        self.deadline = self.asked.timeout(forward.timeout).map(|t| cx.now + t);
        if let Some(id) = self.destination(route).map(|d| d.cluster) {
            let (host, port) = wanted(request, cx.origin);
            self.lookup.call(id, host, port, cx);
        }
        if let Some(destination) = self.destination(route) {
            destination
                .request_headers
                .apply(&mut request.parts.headers);
            let host = destination.host_rewrite.as_ref();
            if let Some(host) = host.or(forward.host_rewrite.as_ref())
                && let Err(reason) = request.set_authority(host)
            {
                return self.refuse(request, reason, cx);
            }
        }
        route.request_headers.apply(&mut request.parts.headers);
        if let Some(rewrite) = &forward.path_rewrite
            && let Err(reason) = rewrite::apply(rewrite, &route.matches, request)
        {
            return self.refuse(request, reason, cx);
        }
        self.attempt(request, cx)
    }

    fn destination<'r>(&self, route: &'r Route) -> Option<&'r WeightedCluster> {
        match &route.action {
            Action::Forward(forward) => forward.clusters.get(self.choice),
            Action::Redirect(_) | Action::Direct(_) => None,
        }
    }

    /// Answers with a reason.
    fn refuse(&mut self, request: &Canonical, reason: Reason, cx: &mut Cx<'_>) -> Effect {
        self.retry_slot = None;
        cx.explain(|| Why::new(Stage::Reply, reason.code(), reason.meaning()));
        let mut reply = LocalReply::new(reason, request.is_grpc()).challenging(request.host());
        if let Some(text) = self.judged.as_ref().and_then(|judged| judged.text.as_ref()) {
            reply = reply.saying(text);
        }
        if self.origin.is_some() {
            self.let_page_read(&mut reply.headers);
        }
        Effect::Reply(match cx.origin.direction {
            Direction::Gateway => reply.at_gateway(headers::request_id_of(request)),
            Direction::Outbound | Direction::Inbound { .. } => reply,
        })
    }

    /// An answer that is neither the action's nor a failure.
    fn answer(reply: LocalReply, cx: &mut Cx<'_>) -> Effect {
        cx.explain(|| Why::new(Stage::Reply, reply.reason.code(), reply.reason.meaning()));
        Self::sent(reply, cx)
    }

    fn sent(reply: LocalReply, cx: &Cx<'_>) -> Effect {
        Effect::Reply(match cx.origin.direction {
            Direction::Gateway => reply.for_outside(),
            Direction::Outbound | Direction::Inbound { .. } => reply,
        })
    }

    fn finish_reply(&mut self, mut reply: LocalReply, route: &Route, cx: &mut Cx<'_>) -> Effect {
        cx.explain(|| {
            Why::new(
                Stage::Reply,
                reply.status.as_str(),
                format!("route {} answers itself", route.name),
            )
        });
        route.response_headers.apply(&mut reply.headers);
        Self::sent(reply, cx)
    }
}

/// The hosts of a gateway's chain, as they are now.
fn of_chain<'a>(snapshot: &'a Snapshot, port: u16, name: &str) -> Option<&'a Hosts> {
    match &snapshot.chain(port, name)?.serves {
        Serves::Http(hosts) => Some(hosts),
        Serves::Bytes(_) | Serves::Named => None,
    }
}

/// The name and port that decide the virtual host.
fn wanted<'a>(request: &'a Canonical, origin: &'a Origin) -> (&'a str, u16) {
    match &origin.destination {
        Some((host, port)) => (host, *port),
        None if origin.direction == Direction::Gateway => (request.host(), origin.default_port),
        // As in Istio the port of an authority means nothing where the connection's own is known.
        None => (
            request.host(),
            origin.made_to.map_or(request.port(), |to| to.port()),
        ),
    }
}

#[cfg(test)]
mod tests;
