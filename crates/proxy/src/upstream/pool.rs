//! Connections to endpoints that wait for their next request. One set per worker, so nothing here is locked.
//!
//! HTTP/1 connections serve one request at a time; the one used last is used next, so that a quiet pool shrinks.
//! HTTP/2 connections (and the multiplexed form between our sidecars) are shared: while one is being made, everyone
//! who needs it waits for it instead of opening their own. Which of the two an mTLS endpoint speaks is known after
//! its first handshake and remembered. A connection belongs to a [`Key`], which names the identity it was made with
//! and the identities it was checked against, and, where it began with a PROXY header, the one caller it named: after either changes it is simply never found again, and the sweep
//! closes it.
//!
//! Limits of connections and of those who wait for one are the cluster's, over all workers: each connection carries a
//! slot of it until it is closed (see [`super::room`]).

use super::connect::{Secured, Sockets, To, connect};
use crate::fail::{Fail, Since};
use crate::hash::QuickMap;
use crate::http::body::ReqBody;
use crate::io::{Io, Moved, coarse_seconds};
use crate::limits;
use crate::proxy_header::Introduction;
use crate::tls::{Agreed, Carry, agreed};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use naka_engine::model::{Cluster, ClusterId};
use naka_engine::runtime::{ClusterRuntime, Offer, Slot as Counted};
use naka_types::reason::Reason;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Which connections may serve a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The same address may stand in several clusters, under different names and identities.
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) address: SocketAddr,
    /// Which TLS settings, 0 for none.
    pub(crate) tls: u64,
    pub(crate) carry: Carry,
    /// Number of the one caller's connection that it serves, [`ANYBODY`] if it serves all.
    pub(crate) client: u64,
}

/// Connections for all callers.
pub(crate) const ANYBODY: u64 = 0;

/// Where and how a connection is made when none waits.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) key: Key,
    /// Whose socket it is.
    pub(crate) to: To,
    /// Whose limits hold; none outside the mesh.
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) limit: Duration,
    pub(crate) secured: Option<Secured>,
    /// What it begins with.
    pub(crate) said: Option<Introduction>,
    /// How long an unused connection is kept.
    pub(crate) keep: Duration,
    /// Who waits for one comes before all of higher classes.
    pub(crate) class: u8,
}

/// hyper's tasks on the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// An HTTP/1 connection.
#[derive(Debug)]
pub(crate) struct H1 {
    sender: http1::SendRequest<ReqBody>,
    moved: Arc<Moved>,
    reused: bool,
    since: u32,
    keep: u32,
    /// Requests it may still serve.
    left: u32,
    /// When it takes no more.
    until: Option<Instant>,
    /// Whose connection it is.
    counts: Option<Arc<ClusterRuntime>>,
}

/// A shared HTTP/2 connection.
#[derive(Debug)]
pub(crate) struct H2 {
    sender: http2::SendRequest<ReqBody>,
    moved: Arc<Moved>,
    active: Cell<usize>,
    served: Cell<bool>,
    since: Cell<u32>,
    keep: u32,
    left: Cell<u32>,
    until: Option<Instant>,
    /// Streams it may carry at a time.
    streams: usize,
    counts: Option<Arc<ClusterRuntime>>,
}

fn is_over(until: Option<Instant>) -> bool {
    until.is_some_and(|until| Instant::now() >= until)
}

#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) idle: VecDeque<H1>,
    pub(super) shared: Vec<Rc<H2>>,
    making: Option<Rc<Making>>,
    /// The endpoint agreed on HTTP/1 only.
    no_sharing: bool,
}

#[derive(Debug, Default)]
pub(super) struct Making {
    result: RefCell<Option<Result<(), Fail>>>,
    done: Notify,
}

/// All of a worker's connections that may serve again.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    pub(super) slots: RefCell<QuickMap<Key, Slot>>,
    pub(super) sockets: Rc<Sockets>,
}

/// The right to send one request.
#[derive(Debug)]
pub(crate) enum Lease {
    /// Alone on a connection.
    Alone(H1),
    /// One stream among others.
    Stream(Rc<H2>),
}

/// Keeps a connection busy until its response ended; returns it to the pool when it may serve again.
#[derive(Debug)]
pub(crate) struct Busy {
    key: Key,
    lease: Option<Lease>,
    pools: Rc<Pools>,
}

impl Pools {
    /// Without a connection yet.
    pub(crate) fn new(sockets: Rc<Sockets>) -> Self {
        Self {
            slots: RefCell::default(),
            sockets,
        }
    }

    /// A connection for one request, waiting or new.
    pub(crate) async fn lease(self: &Rc<Self>, target: &Target) -> Result<Lease, Fail> {
        // Those who wait for a connection already come first.
        if !target.is_crowded()
            && let Some(lease) = self.ready(target.key).await
        {
            return Ok(lease);
        }
        // Boxed like every branch that is rare: a handshake's future is large, and each exchange would carry room for
        // one.
        Box::pin(self.obtain(target)).await
    }

    /// A connection that stands.
    pub(super) async fn ready(&self, key: Key) -> Option<Lease> {
        loop {
            if let Some(shared) = self.shared(key) {
                return Some(Lease::Stream(shared));
            }
            let mut idle = self.idle(key)?;
            // It may still be finishing its last exchange; if it ended instead, the next one is tried.
            if idle.sender.ready().await.is_ok() {
                idle.reused = true;
                return Some(Lease::Alone(idle));
            }
        }
    }

    fn shared(&self, key: Key) -> Option<Rc<H2>> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(&key)?;
        // One too old ends with its streams; no new ones begin on it.
        let gone = |c: &Rc<H2>| c.sender.is_closed() || is_over(c.until);
        if slot.shared.iter().any(gone) {
            slot.shared.retain(|c| !gone(c));
        }
        let at = slot
            .shared
            .iter()
            .position(|c| c.active.get() < c.streams)?;
        let shared = Rc::clone(&slot.shared[at]);
        shared.active.set(shared.active.get() + 1);
        shared.left.set(shared.left.get() - 1);
        if shared.left.get() == 0 {
            // Closed when its streams have ended.
            slot.shared.remove(at);
        }
        Some(shared)
    }

    fn idle(&self, key: Key) -> Option<H1> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(&key)?;
        while let Some(idle) = slot.idle.pop_back() {
            let age = coarse_seconds().saturating_sub(idle.since);
            if !idle.sender.is_closed() && age <= idle.keep && !is_over(idle.until) {
                return Some(idle);
            }
        }
        None
    }

    pub(super) fn shareable(&self, target: &Target) -> bool {
        match target.key.carry {
            Carry::Http1Alone | Carry::Upgrade | Carry::Tcp => false,
            Carry::Http2 | Carry::Http2Upgrade => true,
            Carry::Http1 => {
                target.secured.is_some()
                    && !self
                        .slots
                        .borrow()
                        .get(&target.key)
                        .is_some_and(|s| s.no_sharing)
            }
        }
    }

    /// The shared connection being made, if one is.
    pub(super) fn making(&self, key: Key) -> Option<Rc<Making>> {
        self.slots.borrow().get(&key)?.making.clone()
    }

    /// Makes a connection that others may share. Its own task, so that a caller who gives up does not take the connection away from the others.
    pub(super) fn begin(self: &Rc<Self>, target: Target, counted: Option<Counted>) -> Rc<Making> {
        let making = Rc::new(Making::default());
        self.slots
            .borrow_mut()
            .entry(target.key)
            .or_default()
            .making = Some(Rc::clone(&making));
        let (pools, of_task) = (Rc::clone(self), Rc::clone(&making));
        tokio::task::spawn_local(async move {
            let result = pools.connect_shared(&target, counted).await;
            if let Some(slot) = pools.slots.borrow_mut().get_mut(&target.key) {
                slot.making = None;
            }
            *of_task.result.borrow_mut() = Some(result);
            of_task.done.notify_waiters();
        });
        making
    }

    async fn connect_shared(&self, target: &Target, counted: Option<Counted>) -> Result<(), Fail> {
        let io = self.dial(target).await?.counted(counted);
        let multiplexed = !io.is_tls()
            || matches!(agreed(io.alpn()), Agreed::Http2 | Agreed::Http1Mux)
            || matches!(target.key.carry, Carry::Http2 | Carry::Http2Upgrade);
        if multiplexed {
            let shared = handshake2(io, target).await?;
            let mut slots = self.slots.borrow_mut();
            slots
                .entry(target.key)
                .or_default()
                .shared
                .push(Rc::new(shared));
        } else {
            let alone = handshake1(io, target).await?;
            let mut slots = self.slots.borrow_mut();
            let slot = slots.entry(target.key).or_default();
            slot.no_sharing = true;
            slot.idle.push_back(alone);
        }
        Ok(())
    }

    async fn dial(&self, target: &Target) -> Result<Io, Fail> {
        connect(
            &self.sockets,
            &target.to,
            target.key.address,
            target.limit,
            target.secured.as_ref(),
            target.probes(),
            target.said.as_ref(),
        )
        .await
    }

    pub(super) async fn make_alone(
        &self,
        target: &Target,
        counted: Option<Counted>,
    ) -> Result<H1, Fail> {
        handshake1(self.dial(target).await?.counted(counted), target).await
    }

    fn put_back(&self, key: Key, mut h1: H1) {
        if h1.sender.is_closed() || h1.keep == 0 || h1.left == 0 || is_over(h1.until) {
            return;
        }
        // Closed where it is of no use to who waits longest; that gives the slot back, which calls the one who waits.
        if self.offer(key, h1.counts.as_ref()) == Offer::Elsewhere {
            return;
        }
        h1.since = coarse_seconds();
        let mut slots = self.slots.borrow_mut();
        let slot = slots.entry(key).or_default();
        if slot.idle.len() < limits::H1_IDLE_PER_ENDPOINT {
            slot.idle.push_back(h1);
        }
    }

    /// A stream of a shared connection has ended.
    fn stream_ended(&self, key: Key, h2: &Rc<H2>) {
        let useless = self.offer(key, h2.counts.as_ref()) == Offer::Elsewhere;
        if useless && h2.active.get() == 0 {
            self.forget(key, h2);
        }
    }

    fn forget(&self, key: Key, h2: &Rc<H2>) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&key) {
            slot.shared.retain(|other| !Rc::ptr_eq(other, h2));
        }
    }

    /// Closes what serves only a caller who is gone.
    pub(crate) fn left(&self, client: u64) {
        // While the pool is at work, the sweep finds them later.
        if let Ok(mut slots) = self.slots.try_borrow_mut() {
            slots.retain(|key, _| key.client != client);
        }
    }

    /// Closes what waited too long. The worker's sweep calls it about once a second.
    pub(crate) fn sweep(&self) {
        self.make_room_elsewhere();
        let now = coarse_seconds();
        let mut slots = self.slots.borrow_mut();
        slots.retain(|_, slot| {
            slot.idle.retain(|c| {
                !c.sender.is_closed() && now.saturating_sub(c.since) <= c.keep && !is_over(c.until)
            });
            slot.shared.retain(|c| {
                !c.sender.is_closed()
                    && !is_over(c.until)
                    && (c.active.get() > 0 || now.saturating_sub(c.since.get()) <= c.keep)
            });
            !slot.idle.is_empty()
                || !slot.shared.is_empty()
                || slot.making.is_some()
                || slot.no_sharing
        });
    }
}

impl Making {
    /// Resolves when the connection stands or has failed.
    pub(super) async fn done(&self) -> Result<(), Fail> {
        loop {
            let done = self.done.notified();
            if let Some(result) = self.result.borrow().clone() {
                return result;
            }
            done.await;
        }
    }
}

impl H1 {
    pub(super) fn counts(&self) -> Option<&Arc<ClusterRuntime>> {
        self.counts.as_ref()
    }
}

impl H2 {
    pub(super) fn counts(&self) -> Option<&Arc<ClusterRuntime>> {
        self.counts.as_ref()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.active.get() == 0
    }
}

/// A handshake of HTTP carries no request.
const NO_REQUEST: Since = Since {
    written: false,
    read: false,
};

async fn handshake1(io: Io, target: &Target) -> Result<H1, Fail> {
    let moved = io.moved();
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(limits::HEADER_BYTES)
        .handshake::<_, ReqBody>(io)
        .await
        .map_err(|error| Fail::sending(&error, false, NO_REQUEST))?;
    tokio::task::spawn_local(async move {
        // What went wrong is told to the request that was under way, if any.
        let _ = connection.with_upgrades().await;
    });
    Ok(H1 {
        sender,
        moved,
        reused: false,
        since: coarse_seconds(),
        keep: seconds(target.keep),
        left: target.requests(),
        until: target.until(),
        counts: target.counts(),
    })
}

async fn handshake2(io: Io, target: &Target) -> Result<H2, Fail> {
    let (moved, pings) = (io.moved(), target.pings());
    let (sender, mut connection) = http2::Builder::new(Local)
        .timer(hyper_util::rt::TokioTimer::new())
        .initial_stream_window_size(limits::H2_STREAM_WINDOW)
        .initial_connection_window_size(limits::H2_SHARED_WINDOW)
        .max_send_buf_size(limits::H2_SEND_BUFFER)
        .max_header_list_size(u32::try_from(limits::HEADER_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(pings.every)
        .keep_alive_timeout(pings.timeout)
        .handshake::<_, ReqBody>(io)
        .await
        .map_err(|error| Fail::sending(&error, false, NO_REQUEST))?;
    if target.key.carry == Carry::Http2Upgrade {
        // Only what the peer has allowed may be asked for, and it says so in its first frame.
        let allowed = std::future::poll_fn(|cx| {
            let ended = Pin::new(&mut connection).poll(cx).is_ready();
            match connection.is_extended_connect_protocol_enabled() {
                true => Poll::Ready(true),
                false if ended => Poll::Ready(false),
                false => Poll::Pending,
            }
        });
        if !matches!(tokio::time::timeout(target.limit, allowed).await, Ok(true)) {
            let detail = "the endpoint takes no WebSocket over HTTP/2";
            return Err(Fail::connect(Reason::UpstreamProtocolError, detail));
        }
    }
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    Ok(H2 {
        sender,
        moved,
        active: Cell::new(0),
        served: Cell::new(false),
        since: Cell::new(coarse_seconds()),
        keep: seconds(target.keep),
        left: Cell::new(target.requests()),
        until: target.until(),
        streams: target.streams(),
        counts: target.counts(),
    })
}

/// Whole seconds, rounded up: a rest that is wanted is some rest.
fn seconds(duration: Duration) -> u32 {
    let up = duration.saturating_add(Duration::from_nanos(999_999_999));
    u32::try_from(up.as_secs()).unwrap_or(u32::MAX)
}

impl Lease {
    /// Sends a request. The connection stays busy as long as the returned guard lives.
    pub(crate) async fn send(
        mut self,
        request: Request<ReqBody>,
        key: Key,
        pools: &Rc<Pools>,
    ) -> Result<(Response<Incoming>, Busy), Fail> {
        let (moved, reused) = match &self {
            Self::Alone(h1) => (Arc::clone(&h1.moved), h1.reused),
            Self::Stream(h2) => (Arc::clone(&h2.moved), h2.served.get()),
        };
        let before = (moved.written(), moved.read());
        let sent = match &mut self {
            Self::Alone(h1) => {
                h1.left -= 1;
                let answer = h1.sender.send_request(request);
                let busy = Busy {
                    key,
                    lease: Some(self),
                    pools: Rc::clone(pools),
                };
                (answer.await, busy)
            }
            Self::Stream(h2) => {
                let mut sender = h2.sender.clone();
                let answer = sender.send_request(request);
                let busy = Busy {
                    key,
                    lease: Some(self),
                    pools: Rc::clone(pools),
                };
                (answer.await, busy)
            }
        };
        match sent {
            (Ok(response), busy) => Ok((response, busy)),
            (Err(error), mut busy) => {
                busy.discard();
                let since = Since {
                    written: moved.written() != before.0,
                    read: moved.read() != before.1,
                };
                Err(Fail::sending(&error, reused, since))
            }
        }
    }
}

impl Busy {
    /// The response ended well and the request was read to its end: the connection may serve again.
    pub(crate) fn finished(mut self) {
        if let Some(Lease::Alone(h1)) = self.lease.take_if(|l| matches!(l, Lease::Alone(_))) {
            self.pools.put_back(self.key, h1);
        }
    }

    fn discard(&mut self) {
        if matches!(self.lease, Some(Lease::Alone(_))) {
            self.lease = None;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(Lease::Stream(h2)) = self.lease.take() {
            h2.active.set(h2.active.get().saturating_sub(1));
            h2.served.set(true);
            h2.since.set(coarse_seconds());
            self.pools.stream_ended(self.key, &h2);
        }
    }
}
