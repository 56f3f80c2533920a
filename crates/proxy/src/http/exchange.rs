//! One exchange: a request in, the engine's effects performed, a response out.
//!
//! The engine decides, this file does: it asks for configuration, leases a connection, sends, waits with the limits
//! the engine gave, and reports what happened. The record of the exchange is made first and owned by whatever is
//! alive at the moment (this future, then the response body), so giving up at any point is counted once.

mod check;
mod copy;
mod hedge;
mod keep;
mod outside;
mod rightful;

use super::body::{Relay, ReqBody, RespBody, Source, Web};
use super::serve::Scope;
use super::websocket::{self, Asked, Switch};
use super::{proxy, reply, upgrade};
use crate::fail::Fail;
use crate::limits;
use crate::record::{End, Finish, grpc_status, host_of};
use crate::tcp::dial;
use crate::tls::Carry;
use crate::upstream::connect::To;
use crate::upstream::pool::{Busy, Key, Lease, Target};
use crate::vip;
use crate::worker::Entrance;
use crate::worker::right::{Losing, Right};
use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, TE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use naka_engine::canonical::{Canonical, Direction, strip_hop_by_hop};
use naka_engine::exchange::{
    Answered, Checked, Cx, Effect, Exchange, Input, Need, Outcome, Tried, Try,
};
use naka_engine::model::{Cluster, Endpoint, HttpVersion, Limits};
use naka_engine::reply::LocalReply;
use naka_types::header as names;
use naka_types::reason::Reason;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Answers one request. What can be done at once is done before the future is made: it then holds one box and is
/// cheap to move, and hyper moves it.
pub(crate) fn handle(
    scope: Rc<Scope>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<RespBody>, Infallible>> + 'static {
    let start = start(scope, request);
    async move {
        Ok(match start {
            Start::Answered(response) => *response,
            Start::Tunnel(tunnel) => tunnel.await,
            Start::Run(run) => run.drive().await,
        })
    }
}

enum Start {
    Answered(Box<Response<RespBody>>),
    Tunnel(Pin<Box<dyn Future<Output = Response<RespBody>>>>),
    Run(Box<Run>),
}

fn start(scope: Rc<Scope>, mut request: Request<Incoming>) -> Start {
    // Exchanges without a record of their own still end the head that is being waited for.
    let unrecorded = || {
        scope.conn.begin();
        scope.conn.end();
    };
    let refused = |reason, detail: &str, request: &Request<Incoming>| {
        unrecorded();
        super::serve::refuse(&scope.conn, reason, detail);
        let grpc = naka_engine::canonical::is_grpc(request.headers());
        let http1 = request.version() <= Version::HTTP_11;
        let head = request.method() == Method::HEAD;
        Box::new(reply::to(head, reply::last(reason, grpc, http1)))
    };
    if let Some(reason) = scope.refuse {
        let detail = "plaintext to a port that takes mesh identities only";
        return Start::Answered(refused(reason, detail, &request));
    }
    if matches!(*scope.conn.entrance, Entrance::Outbound) && !scope.inner {
        if !proxy::may_use(&scope.conn, request.headers()) {
            let detail = "another uid without the credential";
            return Start::Answered(refused(Reason::ProxyAuthRequired, detail, &request));
        }
        // With a protocol in it, it is a request for a WebSocket and no tunnel.
        let tunnel = request.extensions().get::<hyper::ext::Protocol>().is_none();
        if request.method() == Method::CONNECT && tunnel {
            unrecorded();
            return Start::Tunnel(Box::pin(proxy::connect(Rc::clone(&scope.conn), request)));
        }
    }
    crate::seen::plain(&scope.conn);
    if matches!(*scope.conn.entrance, Entrance::Publish { .. }) {
        proxy::strip_internal(request.headers_mut());
    }
    match Run::begin(scope, request) {
        Ok(run) => Start::Run(run),
        Err(response) => Start::Answered(response),
    }
}

/// The moving parts of an exchange.
struct Run {
    scope: Rc<Scope>,
    finish: Finish,
    request: Canonical,
    engine: Exchange,
    body: Option<Rc<Source>>,
    caller_version: Version,
    upgrade: Option<Switch>,
    outside: Vec<SocketAddr>,
    /// When the whole exchange must be over.
    until: Option<Instant>,
    /// Where its right is looked at again.
    right: Option<Rc<Right>>,
}

/// What the engine is told next.
enum Next {
    Begin,
    Answer(Answered),
    Body(Option<Bytes>),
    Checked(Checked),
    Addresses(Vec<SocketAddr>),
    Timer,
    Failed(Outcome<'static>),
    Response,
}

/// A response that was not passed on yet.
struct Answer {
    head: http::response::Parts,
    body: Incoming,
    busy: Busy,
    /// In which the request was sent.
    version: Version,
}

impl Run {
    fn begin(
        scope: Rc<Scope>,
        request: Request<Incoming>,
    ) -> Result<Box<Self>, Box<Response<RespBody>>> {
        let (mut parts, incoming) = request.into_parts();
        let on_upgrade = parts.extensions.remove::<OnUpgrade>();
        let by_connect = websocket::by_connect(&mut parts);
        let mut finish = Finish::begin(Rc::clone(&scope.conn), &parts);
        finish.server.clone_from(&scope.origin.server);
        let caller_version = if scope.were_http1 {
            Version::HTTP_11
        } else {
            parts.version
        };
        let http1 = parts.version <= Version::HTTP_11;
        let mut request = match Canonical::from_parts(parts, &scope.origin) {
            Ok(request) => request,
            Err(refused) => {
                finish.detail = refused.detail.into();
                let mut local = LocalReply::new(refused.reason, refused.grpc);
                if matches!(*scope.conn.entrance, Entrance::Gateway { .. }) {
                    local = local.at_gateway(None);
                }
                // Where this head ends others may see differently, and so the next one.
                if http1 && refused.reason == Reason::BadRequest {
                    let close = HeaderValue::from_static("close");
                    local.headers.insert(CONNECTION, close);
                }
                return Err(Box::new(replied(finish, local)));
            }
        };
        let hop = strip_hop_by_hop(request.headers_mut());
        let asked = websocket::asked(
            hop.upgrade.as_ref(),
            by_connect,
            on_upgrade,
            request.headers_mut(),
        );
        let upgrade = match asked {
            Asked::Nothing => None,
            Asked::WebSocket(switch) => Some(switch),
            Asked::Other => {
                let local = LocalReply::new(Reason::UnsupportedVersion, request.is_grpc());
                return Err(Box::new(replied(finish, local)));
            }
        };
        // Our own server side answers 100 as soon as the body is asked for.
        request.headers_mut().remove(EXPECT);
        if hop.trailers {
            request
                .headers_mut()
                .insert(TE, HeaderValue::from_static("trailers"));
        }
        let text = request.grpc_web().is_some_and(|form| form.text_request);
        let body = Source::new(incoming, true, text);
        finish.grpc = request.is_grpc();
        finish.body = body.clone();
        Ok(Box::new(Self {
            upgrade,
            scope,
            finish,
            request,
            engine: Exchange::new(),
            body,
            caller_version,
            outside: Vec::new(),
            until: None,
            right: None,
        }))
    }

    async fn drive(mut self: Box<Self>) -> Response<RespBody> {
        let mut next = Next::Begin;
        let mut answer: Option<Answer> = None;
        loop {
            let first = matches!(next, Next::Begin);
            let effect = self.step(next, answer.as_mut());
            if first {
                let spans = &self.scope.conn.worker.spans;
                self.finish.span = Some(spans.begin(&self.finish, self.engine.trace()));
                self.finish.request_id = self.request.headers().get(names::REQUEST_ID).cloned();
            }
            next = match effect {
                Effect::Need(Need::VirtualHost { host, port }) => {
                    Next::Answer(Box::pin(self.obtain(&host, port)).await)
                }
                Effect::Need(Need::Body { limit }) => {
                    let body = self.whole_body(limit).await;
                    if self.body.as_ref().is_some_and(|body| body.failed()) {
                        return self.gone();
                    }
                    Next::Body(body)
                }
                Effect::Need(Need::Check) => match Box::pin(self.check()).await {
                    Some(checked) => Next::Checked(checked),
                    None => return self.gone(),
                },
                Effect::Need(need @ (Need::Lookup(_) | Need::Peer(_))) => {
                    let worker = Rc::clone(&self.scope.conn.worker);
                    Box::pin(worker.fetch(need)).await;
                    Next::Answer(Answered::Ready)
                }
                Effect::Need(Need::Addresses { host, port, kept }) => {
                    let conn = Rc::clone(&self.scope.conn);
                    let made_to = self.scope.origin.made_to.filter(|_| kept);
                    let found = Box::pin(dial::addresses(&conn, made_to, &host, port)).await;
                    Next::Addresses(found)
                }
                Effect::Need(Need::Backoff(pause) | Need::Delay(pause)) => {
                    answer = None;
                    Box::pin(tokio::time::sleep(pause)).await;
                    Next::Timer
                }
                Effect::Try(attempt) => {
                    answer = None;
                    if self.engine.may_copy() && self.upgrade.is_none() {
                        self.copy();
                    }
                    match self.rightful(attempt).await {
                        Ok(got) => {
                            answer = Some(got);
                            Next::Response
                        }
                        Err(outcome) => Next::Failed(outcome),
                    }
                }
                Effect::PassThrough(_) => {
                    answer = None;
                    match Box::pin(self.outside()).await {
                        Ok(got) => {
                            answer = Some(got);
                            Next::Response
                        }
                        Err(outcome) => Next::Failed(outcome),
                    }
                }
                Effect::Reply(local) => return self.reply(local),
                Effect::Relay => {
                    return match answer {
                        Some(answer) => self.relay(answer),
                        None => self.reply(LocalReply::new(Reason::Internal, false)),
                    };
                }
                Effect::Done => return self.gone(),
            };
        }
    }

    fn step(&mut self, next: Next, answer: Option<&mut Answer>) -> Effect {
        let replayable = self.body.as_ref().is_none_or(|body| body.replayable());
        let found;
        let input = match (next, answer) {
            (Next::Addresses(addresses), _) => {
                found = addresses;
                Input::Addresses(&found)
            }
            (Next::Begin, _) => Input::Begin,
            (Next::Answer(answered), _) => Input::Answer(answered),
            (Next::Body(body), _) => Input::Body(body),
            (Next::Checked(checked), _) => Input::Checked(checked),
            (Next::Timer, _) => Input::TimerFired,
            (Next::Failed(outcome), _) => {
                // Dropped before the step: a failed try is not under way.
                self.finish.permit = None;
                Input::Tried(Tried {
                    outcome,
                    replayable,
                })
            }
            (Next::Response, Some(answer)) => {
                if let Some(permit) = self.finish.permit.take() {
                    self.engine.hold(permit);
                }
                Input::Tried(Tried {
                    outcome: Outcome::Response(&mut answer.head),
                    replayable,
                })
            }
            (Next::Response, None) => Input::Tried(Tried {
                outcome: Outcome::Reset,
                replayable: false,
            }),
        };
        let worker = &self.scope.conn.worker;
        let snapshot = worker.snapshot();
        let effect = self.engine.step(
            &mut self.request,
            input,
            &mut Cx {
                snapshot: &snapshot,
                origin: &self.scope.origin,
                now: worker.now(),
                around: &worker.around.borrow(),
                rng: &mut worker.rng.borrow_mut(),
                cursors: &mut worker.cursors.borrow_mut(),
                why: None,
            },
        );
        self.finish.permit = self.engine.held();
        self.finish.judged(self.engine.judged());
        if self.engine.has_barred() {
            worker.own.barred.notify_one();
        }
        effect
    }

    async fn obtain(&mut self, host: &str, port: u16) -> Answered {
        match dial::answer(&self.scope.conn.worker, host, port).await {
            Answered::External => match self.addresses(host, port).await {
                Ok(addresses) => {
                    self.outside = addresses;
                    Answered::External
                }
                Err(reason) => Answered::Failed(reason),
            },
            answered => answered,
        }
    }

    /// Addresses of a host outside the mesh: that which the program called, where it is known.
    async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Reason> {
        let origin = &self.scope.origin;
        match origin.made_to.filter(|to| !vip::is_virtual(to.ip())) {
            Some(to) if origin.destination.is_none() => Ok(vec![to]),
            _ => dial::resolve(&self.scope.conn, host, port).await,
        }
    }

    /// The body, if it comes whole and in time.
    async fn whole_body(&self, limit: usize) -> Option<Bytes> {
        let Some(source) = &self.body else {
            return Some(Bytes::new());
        };
        let reading = Box::pin(source.whole(limit));
        tokio::time::timeout(limits::BODY_WAIT, reading)
            .await
            .ok()?
    }

    /// How the request travels on; `mesh`: to another proxy, which takes a WebSocket in HTTP/1.1 whatever its program
    /// speaks.
    fn carry(&self, http: HttpVersion, limits: &Limits, mesh: bool) -> Carry {
        let caller_http2 = self.caller_version == Version::HTTP_2;
        match http {
            HttpVersion::Http2 if self.upgrade.is_some() && !mesh => Carry::Http2Upgrade,
            _ if self.upgrade.is_some() => Carry::Upgrade,
            HttpVersion::Http2 => Carry::Http2,
            HttpVersion::SameAsCaller if caller_http2 => Carry::Http2,
            _ if limits.connections != u32::MAX => Carry::Http1Alone,
            HttpVersion::Http1 | HttpVersion::SameAsCaller => Carry::Http1,
        }
    }

    /// How an endpoint is reached.
    fn target(
        &self,
        cluster: &Arc<Cluster>,
        endpoint: &Endpoint,
        http: HttpVersion,
    ) -> Result<Target, Outcome<'static>> {
        let spec = &cluster.spec;
        let mesh = spec.tls.is_some() && endpoint.mtls;
        let carry = self.carry(http, &spec.limits, mesh);
        let to = match self.scope.origin.direction {
            Direction::Inbound { .. } => To::program(spec),
            Direction::Outbound | Direction::Gateway => To::Anyone,
        };
        self.target_by(cluster, endpoint, carry, to)
    }

    fn target_by(
        &self,
        cluster: &Arc<Cluster>,
        endpoint: &Endpoint,
        carry: Carry,
        to: To,
    ) -> Result<Target, Outcome<'static>> {
        let worker = &self.scope.conn.worker;
        let spec = &cluster.spec;
        let called = self.scope.origin.destination.as_ref();
        let called = called.map_or(self.request.host(), |(host, _)| host);
        let (tls, secured) = match worker.towards(cluster, endpoint, called, carry) {
            Ok(secured) => secured.map_or((0, None), |(number, s)| (number, Some(s))),
            Err(_) => return Err(Outcome::TlsFailed),
        };
        // Plain, so the number is free to say which socket it is: another one at the same port is another program.
        let tls = match &to {
            To::Socket(path) => crate::hash::of(path),
            To::Program | To::Anyone => tls,
        };
        // Programs close what rests, and what crosses on the way is lost: whatever is written, they get little rest.
        let keep = match (&to, secured.is_some(), spec.keeping.idle) {
            (To::Anyone, _, Some(wanted)) => wanted,
            (To::Anyone, true, None) if spec.outside.is_none() => limits::MESH_IDLE,
            (_, _, wanted) => limits::H1_IDLE_PROGRAM.min(wanted.unwrap_or(Duration::MAX)),
        };
        let (said, client) = self.scope.conn.introduction(spec);
        Ok(Target {
            key: Key {
                cluster: Some(cluster.id),
                address: endpoint.address,
                tls,
                carry,
                client,
            },
            to,
            limit: spec.connect_timeout,
            secured,
            said,
            keep,
            class: spec
                .priority
                .as_ref()
                .map_or(0, |priority| priority.class(self.request.headers())),
            cluster: Some(Arc::clone(cluster)),
        })
    }

    async fn attempt(&mut self, attempt: Try) -> Result<Answer, Outcome<'static>> {
        let worker = Rc::clone(&self.scope.conn.worker);
        let (cluster, endpoint) = (attempt.cluster, attempt.endpoint);
        let target = self.target(&cluster, &endpoint, attempt.http)?;
        let grpc = self.request.is_grpc();
        let conn = Rc::clone(&self.scope.conn);
        let finish = &mut self.finish;
        finish.upstream = Some(endpoint.address);
        worker.spans.called(finish.span, &cluster, &endpoint);
        finish.attempts = attempt.attempt;
        finish.permit = Some(attempt.permit);
        finish.handle = match self.scope.origin.direction {
            // Found when the record is told: the caller's labels may be on their way.
            Direction::Inbound { .. } => None,
            Direction::Outbound | Direction::Gateway => {
                Some(worker.handles.endpoint(&conn, &cluster, &endpoint, grpc))
            }
        };
        if cluster.spec.outlier.is_some() {
            finish.watched = Some((Arc::clone(&cluster), Arc::clone(&endpoint)));
        }
        let now = worker.now();
        let left = attempt
            .deadline
            .map(|deadline| deadline.saturating_sub(now));
        self.until = left.map(|left| Instant::now() + left);
        if let Some(after) = attempt.hedge.filter(|_| self.body.is_none())
            && self.upgrade.is_none()
        {
            let limit = hedge::limit_of(left, attempt.per_try_timeout);
            return Box::pin(self.race(target, after, limit)).await;
        }
        self.send(&target, attempt.keep, left, attempt.per_try_timeout)
            .await
    }

    /// Sends the request and waits for the response head, within the time that is left.
    async fn send(
        &mut self,
        target: &Target,
        keep: bool,
        left: Option<Duration>,
        per_try: Option<Duration>,
    ) -> Result<Answer, Outcome<'static>> {
        let limit = hedge::limit_of(left, per_try);
        let sent = {
            let sending = pin!(self.send_now(target, keep));
            match limit {
                None => sending.await,
                Some((limit, late)) => match Box::pin(tokio::time::timeout(limit, sending)).await {
                    Ok(sent) => sent,
                    Err(_) => return Err(late),
                },
            }
        };
        sent.map_err(|fail| {
            if self.body.as_ref().is_some_and(|body| body.failed()) {
                return Outcome::ClientGone;
            }
            self.finish.detail = Rc::clone(&fail.detail);
            fail.outcome()
        })
    }

    async fn send_now(&mut self, target: &Target, keep: bool) -> Result<Answer, Fail> {
        let pools = &self.scope.conn.worker.pools;
        let lease = pools.lease(target).await?;
        let version = match &lease {
            Lease::Alone(_) => Version::HTTP_11,
            Lease::Stream(_) => Version::HTTP_2,
        };
        let mut head = if keep {
            self.request.head(version)
        } else {
            self.request.take_head(version)
        };
        if self.upgrade.is_some() {
            websocket::ask(&mut head);
        }
        if version == Version::HTTP_11 && head.headers().contains_key(TE) {
            head.headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("te"));
        }
        let request = head.map(|()| ReqBody::of(self.body.as_ref()));
        let sent = lease.send(request, target.key, pools).await?;
        self.finish.answered = Some(self.finish.started.elapsed());
        Ok(Answer::of(sent, version))
    }

    /// Notes where the exchange went.
    fn note(&mut self) {
        let finish = &mut self.finish;
        let chosen = self.engine.cluster().map(|cluster| cluster.name());
        if let Some(name) = chosen.or_else(|| self.engine.destination_name()) {
            finish.cluster = Some(Arc::clone(name));
        }
        if let Some(cluster) = self.engine.cluster() {
            self.scope.conn.worker.spans.meant(finish.span, cluster);
        }
        let route = self.engine.route();
        finish.route = route.map(|route| route.name.clone());
        finish.stat_prefix = route.and_then(|route| route.extras.stat_prefix.clone());
    }

    fn reply(mut self: Box<Self>, mut local: LocalReply) -> Response<RespBody> {
        self.note();
        let conn = Rc::clone(&self.scope.conn);
        if self.finish.handle.is_none()
            && !matches!(self.scope.origin.direction, Direction::Inbound { .. })
        {
            let (handles, grpc) = (&conn.worker.handles, self.request.is_grpc());
            self.finish.handle = match self.engine.cluster() {
                Some(cluster) => Some(handles.cluster(&conn, cluster, grpc)),
                None => self.called().map(|host| handles.host(&conn, &host, grpc)),
            };
        }
        if let Some(form) = self.request.grpc_web() {
            form.response(&mut local.headers);
        }
        replied(self.finish, local)
    }

    /// The host that was called, if it is one of the mesh's.
    fn called(&self) -> Option<Arc<str>> {
        let destination = self.engine.destination_name().map(|name| &**name);
        match self.engine.virtual_host() {
            Some(vhost) => host_of(vhost, destination),
            None if self.scope.origin.direction == Direction::Outbound => {
                let asked = self.scope.origin.destination.as_ref();
                let host = asked.map_or(self.request.host(), |(host, _)| host);
                dial::known(&self.scope.conn.worker, host)
            }
            None => None,
        }
    }

    fn relay(mut self: Box<Self>, answer: Answer) -> Response<RespBody> {
        self.note();
        let Answer {
            mut head,
            body,
            busy,
            version,
        } = answer;
        let mut finish = self.finish;
        finish.status = head.status.as_u16();
        finish.grpc_status = grpc_status(&head.headers);
        finish.reason = self.engine.remark();
        finish.busy = Some(busy);
        keep::mark(&mut head.headers, &finish);
        if let Some(body) = &finish.body {
            body.stop_keeping();
        }
        head.version = Version::HTTP_11;
        let asked = self.upgrade.is_some();
        let refused = !websocket::switched(version, head.status) && head.status.is_success();
        if refused && self.upgrade.as_ref().is_some_and(Switch::by_connect) {
            // To who asked by CONNECT any success would be the WebSocket.
            let local = LocalReply::new(Reason::UpstreamProtocolError, false);
            return replied(finish, local);
        }
        if head.status == StatusCode::SWITCHING_PROTOCOLS
            || asked && websocket::switched(version, head.status)
        {
            let called = head.extensions.remove::<OnUpgrade>();
            let (Some(switch), Some(called)) = (self.upgrade, called) else {
                let local = LocalReply::new(Reason::UpstreamProtocolError, false);
                return replied(finish, local);
            };
            let caller = switch.answer(&mut head);
            let conn = Rc::clone(&self.scope.conn);
            upgrade::relay(conn, caller, called, finish, self.right);
            return Response::from_parts(head, RespBody::Empty);
        }
        let web = self.request.grpc_web();
        let web = web.filter(|form| form.response(&mut head.headers));
        if hyper::body::Body::is_end_stream(&body) {
            finish.done(End::Complete(None));
            return Response::from_parts(head, RespBody::Empty);
        }
        if self.caller_version <= Version::HTTP_11 {
            self.scope.conn.ends_by(self.until);
        }
        let relay = Relay {
            incoming: body,
            finish: Some(finish),
            limit: self.until.map(|until| Box::pin(sleep_until(until))),
            offered: None,
            lost: self.right.map(Losing::of),
            web: web.map(Web::of),
        };
        Response::from_parts(head, RespBody::Relay(Box::new(relay)))
    }
}

impl Answer {
    fn of(sent: (Response<Incoming>, Busy), version: Version) -> Self {
        let (mut head, body) = sent.0.into_parts();
        if head.status != StatusCode::SWITCHING_PROTOCOLS {
            strip_hop_by_hop(&mut head.headers);
        }
        Self {
            head,
            body,
            busy: sent.1,
            version,
        }
    }
}

/// Answers and closes the record.
fn replied(mut finish: Finish, local: LocalReply) -> Response<RespBody> {
    finish.status = local.status.as_u16();
    finish.reason = Some(local.reason);
    if finish.grpc {
        let told = grpc_status(&local.headers);
        finish.grpc_status = told.or(Some(local.reason.grpc_status()));
    }
    finish.received(local.body.len());
    finish.busy = None;
    let head = finish.method == Method::HEAD;
    finish.done(End::Complete(None));
    reply::to(head, reply::response(local))
}
