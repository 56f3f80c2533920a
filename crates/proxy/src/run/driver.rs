//! The life of a proxy after its start: the program's ports, readiness, the drain, the end.
//!
//! Decisions of a drain are [`crate::drain::Core`]'s; here they are carried out: the state is announced, listeners are
//! closed, workers end their connections. Everything else this task owns (line, admin, accept loops) ends with it.

use super::bind::{Bound, DnsSockets, Door, Kept};
use super::{Addresses, Error, admin};
use crate::admin::Order;
use crate::dns::{self, Dns};
use crate::drain::{Ceremony, Effect, Input, farewell, progress};
use crate::listen;
use crate::settings::{Port, Role};
use crate::standing::{self, Began};
use crate::state::Shared;
use crate::vip::Vips;
use crate::worker::{Entrance, WorkerMsg};
use naka_wire::v1;
use naka_wire::v1::RegisterResponse;
use naka_wire::v1::register_request::State;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

const TICK: Duration = Duration::from_millis(50);
/// How often what was seen is reported.
const SEEN_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked what was found out about those that are called.
const FOUND_EVERY: Duration = Duration::from_secs(1);

/// What a driver is built from.
#[derive(Debug)]
pub(super) struct DriverParams {
    pub(super) shared: Arc<Shared>,
    pub(super) bound: Bound,
    pub(super) vips: Option<Arc<Vips>>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) answers: mpsc::UnboundedReceiver<RegisterResponse>,
    pub(super) tasks: JoinSet<()>,
    pub(super) lock: Option<File>,
    pub(super) access: Option<naka_telemetry::AccessLog>,
    pub(super) ended: watch::Sender<bool>,
}

/// Carries out orders and drains.
#[derive(Debug)]
pub(super) struct Driver {
    shared: Arc<Shared>,
    orders: mpsc::Receiver<Order>,
    answers: mpsc::UnboundedReceiver<RegisterResponse>,
    tasks: JoinSet<()>,
    /// Accept loops that end when the drain closes.
    inbound: Vec<AbortHandle>,
    publish: Vec<(TcpListener, Option<u16>)>,
    ports: Vec<Port>,
    kept: Kept,
    drain: Ceremony,
    closing: Option<oneshot::Receiver<()>>,
    probe: Option<AbortHandle>,
    /// A process of the program's own network namespace.
    inside: Option<u32>,
    ended: watch::Sender<bool>,
    /// Held as long as the instance runs.
    _lock: Option<File>,
    /// Writes until it is dropped.
    _access: Option<naka_telemetry::AccessLog>,
}

impl Driver {
    /// Starts admin and accept loops, and takes the ports that are known.
    pub(super) fn new(params: DriverParams) -> Result<Self, Error> {
        let DriverParams {
            shared,
            bound,
            vips,
            orders,
            answers,
            tasks,
            lock,
            access,
            ended,
        } = params;
        let timeout = Duration::from_millis(shared.settings.drain_timeout_ms);
        shared.set_drain_report(json!({ "phase": "serving" }));
        let mut driver = Self {
            orders,
            answers,
            tasks,
            inbound: Vec::new(),
            publish: bound.publish,
            ports: Vec::new(),
            kept: bound.kept,
            drain: Ceremony::new(timeout),
            closing: None,
            probe: None,
            inside: bound.inside,
            ended,
            _lock: lock,
            _access: access,
            shared,
        };
        for door in bound.outbound {
            driver.accept(door);
        }
        if let Some(vips) = vips {
            driver.names(bound.dns, bound.six, vips)?;
        }
        for door in bound.gateway {
            let accepting = driver.accept(door);
            driver.inbound.push(accepting);
        }
        driver.pages(bound.admin, bound.metrics, bound.admin_tcp)?;
        if let Some(listener) = bound.workload_api {
            let feed = Arc::clone(&driver.shared.feed);
            driver
                .tasks
                .spawn(crate::workload_api::serve(listener, feed));
        }
        driver.shared.set_addresses(bound.addresses);
        driver.shared.set_inside(bound.inside);
        let settings = Arc::clone(&driver.shared.settings);
        let ports = if bound.announced.is_empty() {
            settings.ports.clone()
        } else {
            bound.announced
        };
        if ports.is_empty() {
            driver.remember();
            if !settings.ports_later || settings.role == Role::Gateway {
                driver.probe_program();
            }
        } else {
            driver.take_ports(ports)?;
        }
        driver.ring_on_changes();
        let shared = Arc::clone(&driver.shared);
        driver
            .tasks
            .spawn(crate::memory::keep_small(Arc::clone(&shared)));
        driver.tasks.spawn(report_seen(Arc::clone(&shared)));
        let calls = super::opened::keep(Arc::clone(&shared), false);
        driver.tasks.spawn(calls);
        let callers = driver.tasks.spawn(super::opened::keep(shared, true));
        driver.inbound.push(callers);
        Ok(driver)
    }

    fn accept(&mut self, door: Door) -> AbortHandle {
        let workers = Arc::clone(&self.shared.workers);
        self.tasks.spawn(async move {
            if let Err(error) = listen::accept(door.listener, door.entrance, workers).await {
                tracing::error!(%error, "a listener cannot be served");
            }
        })
    }

    /// Answers a captured program's questions after names.
    fn names(&mut self, sockets: DnsSockets, six: bool, vips: Arc<Vips>) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(Arc::clone(&vips).keep());
        let servers = shared.settings.resolv_conf.clone();
        let dns = Arc::new(Dns::new(shared, vips, six, servers));
        for socket in sockets.udp {
            let socket = tokio::net::UdpSocket::from_std(socket).map_err(Error::Thread)?;
            self.tasks.spawn(dns::serve_udp(Arc::clone(&dns), socket));
        }
        for listener in sockets.tcp {
            let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::Thread)?;
            self.tasks.spawn(dns::serve_tcp(Arc::clone(&dns), listener));
        }
        Ok(())
    }

    fn pages(
        &mut self,
        unix: tokio::net::UnixListener,
        metrics: Option<TcpListener>,
        tcp: Option<TcpListener>,
    ) -> Result<(), Error> {
        self.tasks
            .spawn(admin::serve_unix(unix, Arc::clone(&self.shared)));
        for (listener, metrics_only) in [(metrics, true), (tcp, false)] {
            if let Some(listener) = listener {
                let listener =
                    tokio::net::TcpListener::from_std(listener).map_err(Error::Thread)?;
                let shared = Arc::clone(&self.shared);
                self.tasks
                    .spawn(admin::serve_tcp(listener, shared, metrics_only));
            }
        }
        Ok(())
    }

    /// Readiness may depend on identity, lease and line: each change rings.
    fn ring_on_changes(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut lease = shared.lease.watch();
        let mut line = shared.line.subscribe();
        self.tasks.spawn(async move {
            loop {
                let changed = tokio::select! {
                    changed = lease.changed() => changed,
                    changed = line.changed() => changed,
                };
                if changed.is_err() {
                    return;
                }
                shared.bell();
            }
        });
    }

    /// The program's ports, all of them: listeners for new ones, and the registration.
    fn take_ports(&mut self, ports: Vec<Port>) -> Result<Addresses, Error> {
        let mut addresses = self.shared.addresses();
        let settings = Arc::clone(&self.shared.settings);
        for port in &ports {
            if addresses.inbound.contains_key(&port.port) {
                continue;
            }
            let (door, address) = Bound::inbound(&self.kept, &settings, port)?;
            addresses.inbound.insert(port.port, address);
            let accepting = self.accept(door);
            self.inbound.push(accepting);
        }
        let first = ports.first().map(|port| port.port);
        for (listener, port) in std::mem::take(&mut self.publish) {
            match port.or(first) {
                Some(port) => {
                    let entrance = Arc::new(Entrance::Publish { port });
                    let accepting = self.accept(Door { listener, entrance });
                    self.inbound.push(accepting);
                }
                None => self.publish.push((listener, port)),
            }
        }
        self.shared.lease.ports(&ports, &addresses.inbound);
        self.ports = ports;
        self.shared.set_addresses(addresses.clone());
        self.remember();
        self.probe_program();
        Ok(addresses)
    }

    fn remember(&self) {
        Kept::save(
            &self.shared.settings.run_dir,
            &self.shared.addresses(),
            &self.ports,
        );
    }

    /// READY once the program listens on every port and we can take calls for it.
    fn probe_program(&mut self) {
        if let Some(before) = self.probe.take() {
            before.abort();
        }
        let ports: BTreeSet<u16> = self.ports.iter().map(|port| port.port).collect();
        let (shared, inside) = (Arc::clone(&self.shared), self.inside);
        self.probe = Some(self.tasks.spawn(async move {
            crate::lease::listening(&ports, inside).await;
            shared.until_takes_calls().await;
            if shared.settings.role == Role::Gateway {
                shared.until_ready(false).await;
            }
            shared.lease.state(State::Ready);
        }));
    }

    /// Runs until it is told to quit.
    pub(super) async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut line = self.shared.line.subscribe();
        loop {
            let input = tokio::select! {
                order = self.orders.recv() => match order {
                    Some(Order::Quit) | None => break,
                    Some(Order::Ports(ports, reply)) => {
                        let taken = self.take_ports(ports).map_err(|error| with_cause(&error));
                        // The asker may be gone.
                        let _ = reply.send(taken);
                        continue;
                    }
                    Some(Order::Drain(done)) => self.begin(done),
                },
                Some(answer) = self.answers.recv() => match progress(answer) {
                    Some(input) => input,
                    None => continue,
                },
                Ok(()) = line.changed() => Input::Reachable(line.borrow_and_update().connected),
                () = closed(&mut self.closing) => {
                    self.closing = None;
                    Input::InFlight(0)
                },
                _ = tick.tick(), if self.drain.begun() => Input::Tick,
            };
            self.advance(input);
        }
        self.end().await;
    }

    fn begin(&mut self, done: oneshot::Sender<()>) -> Input {
        let line = self.shared.line.borrow().clone();
        let announced = !self.ports.is_empty() && line.registered;
        self.drain.begin(done, announced, line.connected)
    }

    fn advance(&mut self, input: Input) {
        for effect in self.drain.on(input) {
            match effect {
                Effect::Announce => {
                    if let Some(probe) = self.probe.take() {
                        probe.abort();
                    }
                    self.shared.lease.state(State::Draining);
                    self.report("announced");
                }
                Effect::Close(_) => {
                    self.close();
                    self.report("closing");
                }
                Effect::Finished => {
                    self.report("drained");
                    self.drain.finish();
                }
            }
        }
        if self.drain.begun() && !self.drain.dropped_silent().is_empty() {
            tracing::warn!(silent = ?self.drain.dropped_silent(), "proxies that did not acknowledge were left out");
        }
    }

    fn report(&self, phase: &str) {
        self.shared.set_drain_report(self.drain.report(phase));
    }

    /// No listener any more; workers end what is open after its present exchanges.
    fn close(&mut self) {
        for accepting in self.inbound.drain(..) {
            accepting.abort();
        }
        self.publish.clear();
        let (all, left) = oneshot::channel();
        self.closing = Some(left);
        let workers = Arc::clone(&self.shared.workers);
        self.tasks.spawn(async move {
            let mut waits = Vec::new();
            for worker in workers.all() {
                let (done, drained) = oneshot::channel();
                if worker.send(WorkerMsg::DrainInbound(done)).await {
                    waits.push(drained);
                }
            }
            for drained in waits {
                // A worker that is gone has no connection left.
                let _ = drained.await;
            }
            let _ = all.send(());
        });
    }

    /// Says goodbye, saves, and lets everything go.
    async fn end(mut self) {
        let connected = self.shared.line.borrow().connected;
        farewell(&self.shared.lease, connected, &mut self.answers).await;
        self.shared.save_now().await;
        for worker in self.shared.workers.all() {
            worker.send(WorkerMsg::Stop).await;
        }
        self.tasks.shutdown().await;
        for name in [crate::saved::ADMIN, crate::workload_api::SOCKET] {
            let _ = std::fs::remove_file(self.shared.settings.run_dir.join(name));
        }
        self.ended.send_replace(true);
    }
}

/// Puts what was seen into the registration, at most every few seconds and only when it changed; and plain calls and what
/// was found out about those that are called, which somebody may be asking for right now, within a second.
async fn report_seen(shared: Arc<Shared>) {
    let mut began = Began::now();
    let mut seen: Option<Instant> = None;
    let mut tick = tokio::time::interval(FOUND_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        began.check();
        let (verdicts, left_off) = standing::told(shared.snapshot().clusters(), began);
        shared.lease.found(verdicts, left_off);
        let now = shared.seen();
        // Whether plain calls still come is what a change to STRICT waits for.
        let plain = |seen: &v1::Seen| (seen.plain, seen.plain_refused);
        let told = shared.lease.now().seen.unwrap_or_default();
        if seen.is_none_or(|at| at.elapsed() >= SEEN_EVERY) || plain(&now) != plain(&told) {
            shared.lease.seen(now);
            seen = Some(Instant::now());
        }
    }
}

/// Resolves when the workers have ended what was open; never while nothing is closing.
async fn closed(closing: &mut Option<oneshot::Receiver<()>>) {
    match closing {
        // A dropped sender says the same.
        Some(closing) => drop(closing.await),
        None => std::future::pending().await,
    }
}

fn with_cause(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
