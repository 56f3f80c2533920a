//! The life of an agent after its start: orders, the program's ports, health, the drain, the end.
//!
//! Decisions of a drain are [`crate::drain::Core`]'s, as in our own proxies; what differs is who closes: the Envoy, by
//! its admin pages.

use super::Agent;
use super::envoy::{self, Health, ask, sum};
use crate::admin::Order;
use crate::drain::{Ceremony, Effect, Input, farewell, progress};
use crate::lease::open_ports;
use crate::run::Addresses;
use crate::run::bind::Kept;
use crate::settings::{Beside, Port, Role};
use http::Method;
use naka_wire::v1::RegisterResponse;
use naka_wire::v1::register_request::State;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

const TICK: Duration = Duration::from_millis(50);
/// How often it is told what an Envoy saw.
const COUNT_EVERY: Duration = Duration::from_secs(2);
/// What callers of an Envoy have open: requests, and connections of bytes.
const IN_FLIGHT: &str = "/stats?filter=^(http.*downstream_rq_active|tcp.*downstream_cx_active)$";
const IN_FLIGHT_INBOUND: &str =
    "/stats?filter=^(http.inbound.*downstream_rq_active|tcp.inbound.*downstream_cx_active)$";

/// Carries out orders and drains.
#[derive(Debug)]
pub(super) struct Driver {
    agent: Arc<Agent>,
    orders: mpsc::Receiver<Order>,
    answers: mpsc::UnboundedReceiver<RegisterResponse>,
    kept: Kept,
    ports: Vec<Port>,
    /// Addresses of the program's ports, kept for the Envoy.
    reserved: Vec<socket2::Socket>,
    drain: Ceremony,
    /// Whether what the Envoy has open is asked for.
    closing: bool,
    was_ready: bool,
    counted: Instant,
    stop: watch::Sender<bool>,
}

impl Driver {
    pub(super) fn new(
        agent: Arc<Agent>,
        orders: mpsc::Receiver<Order>,
        answers: mpsc::UnboundedReceiver<RegisterResponse>,
        kept: Kept,
        stop: watch::Sender<bool>,
    ) -> Self {
        let timeout = Duration::from_millis(agent.settings.drain_timeout_ms);
        Self {
            agent,
            orders,
            answers,
            kept,
            ports: Vec::new(),
            reserved: Vec::new(),
            drain: Ceremony::new(timeout),
            closing: false,
            was_ready: false,
            counted: Instant::now(),
            stop,
        }
    }

    /// Runs until it is told to quit.
    pub(super) async fn run(mut self) {
        let first = self.agent.settings.ports.clone();
        if !first.is_empty()
            && let Err(error) = self.take_ports(first)
        {
            tracing::error!(%error, "the declared ports cannot be served");
        }
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut line = self.agent.line.subscribe();
        loop {
            let input = tokio::select! {
                order = self.orders.recv() => match order {
                    Some(Order::Quit) | None => break,
                    Some(Order::Ports(ports, reply)) => {
                        // The asker may be gone.
                        let _ = reply.send(self.take_ports(ports));
                        continue;
                    }
                    Some(Order::Drain(done)) => self.begin(done),
                },
                Some(answer) = self.answers.recv() => match progress(answer) {
                    Some(input) => input,
                    None => continue,
                },
                Ok(()) = line.changed() => Input::Reachable(line.borrow_and_update().connected),
                _ = tick.tick() => self.look().await,
            };
            self.advance(input).await;
        }
        self.end().await;
    }

    /// Health while it serves, what is in flight while it closes.
    async fn look(&mut self) -> Input {
        if self.closing {
            return Input::InFlight(self.in_flight().await);
        }
        if !self.drain.begun() {
            let ready = self.serves();
            match (ready, self.was_ready) {
                (true, false) => self.agent.lease.state(State::Ready),
                (false, true) => self.agent.lease.state(State::Unhealthy),
                _ => {}
            }
            self.was_ready = ready;
            self.count().await;
        }
        Input::Tick
    }

    /// Whether calls can be answered: by the Envoy, and, the first time, by the program behind it.
    fn serves(&self) -> bool {
        let settings = &self.agent.settings;
        if settings.beside == Beside::Grpc {
            return self.agent.feed.now().is_some();
        }
        if *self.agent.health.borrow() != Health::Ready {
            return false;
        }
        if self.was_ready {
            return true;
        }
        if self.ports.is_empty() {
            return !settings.ports_later || settings.role == Role::Gateway;
        }
        let Some(open) = open_ports(None) else {
            return true;
        };
        let inbound = self.agent.addresses().inbound;
        self.ports.iter().all(|port| {
            let ours = inbound.get(&port.port).map(SocketAddr::port);
            open.contains(&port.port) && ours.is_none_or(|ours| open.contains(&ours))
        })
    }

    /// Tells now and then what the Envoy saw.
    async fn count(&mut self) {
        let due = self.counted.elapsed() >= COUNT_EVERY;
        if !due || !self.was_ready || self.agent.settings.beside != Beside::Envoy {
            return;
        }
        self.counted = Instant::now();
        // One that does not answer now is asked again.
        if let Ok((_, page)) = ask(&self.agent.settings.run_dir, Method::GET, envoy::SEEN).await {
            self.agent.lease.seen(envoy::seen(&page));
        }
    }

    async fn in_flight(&self) -> usize {
        if self.agent.settings.beside == Beside::Grpc {
            return 0;
        }
        let page = match self.agent.settings.role {
            Role::Sidecar => IN_FLIGHT_INBOUND,
            Role::Gateway => IN_FLIGHT,
        };
        match ask(&self.agent.settings.run_dir, Method::GET, page).await {
            Ok((_, page)) => usize::try_from(sum(&page)).unwrap_or(usize::MAX),
            // One that is gone has nothing open.
            Err(_) => 0,
        }
    }

    /// The program's ports, all of them: an address for each, and the registration. The Envoy hears of them from the
    /// control plane, as every other client does.
    fn take_ports(&mut self, ports: Vec<Port>) -> Result<Addresses, String> {
        let mut addresses = self.agent.addresses();
        if self.agent.settings.beside == Beside::Grpc && !ports.is_empty() {
            return Err("a gRPC program without a proxy takes no calls of the mesh".to_owned());
        }
        for port in &ports {
            if addresses.inbound.contains_key(&port.port) {
                continue;
            }
            let free = SocketAddr::new(self.agent.settings.inbound_ip, 0);
            let wanted = port.bind.unwrap_or(free);
            let before = self.kept.addresses.inbound.get(&port.port).copied();
            let (socket, address) = super::reserve(wanted, before, "the program's port")
                .map_err(|error| error.to_string())?;
            addresses.inbound.insert(port.port, address);
            self.reserved.push(socket);
        }
        self.agent.lease.ports(&ports, &addresses.inbound);
        self.ports = ports;
        self.was_ready = false;
        self.agent.set_addresses(addresses.clone());
        Kept::save(&self.agent.settings.run_dir, &addresses, &self.ports);
        Ok(addresses)
    }

    fn begin(&mut self, done: oneshot::Sender<()>) -> Input {
        let line = self.agent.line.borrow().clone();
        let announced = !self.ports.is_empty() && line.registered;
        self.drain.begin(done, announced, line.connected)
    }

    async fn advance(&mut self, input: Input) {
        for effect in self.drain.on(input) {
            match effect {
                Effect::Announce => {
                    self.agent.lease.state(State::Draining);
                    self.report("announced");
                }
                Effect::Close(_) => {
                    self.close().await;
                    self.report("closing");
                }
                Effect::Finished => {
                    self.report("drained");
                    self.drain.finish();
                }
            }
        }
    }

    async fn close(&mut self) {
        self.closing = true;
        let path = match (self.agent.settings.beside, self.agent.settings.role) {
            (Beside::Envoy, Role::Sidecar) => "/drain_listeners?inboundonly&graceful",
            (Beside::Envoy, Role::Gateway) => "/drain_listeners?graceful",
            _ => return,
        };
        if let Err(error) = ask(&self.agent.settings.run_dir, Method::POST, path).await {
            tracing::warn!(error, "the Envoy cannot be told to drain");
        }
    }

    fn report(&self, phase: &str) {
        self.agent.set_drain_report(self.drain.report(phase));
    }

    /// Says goodbye.
    async fn end(mut self) {
        let connected = self.agent.line.borrow().connected;
        farewell(&self.agent.lease, connected, &mut self.answers).await;
        self.stop.send_replace(true);
    }
}
