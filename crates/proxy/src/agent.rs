//! The agent beside a proxy that is not ours: it joins a stock Envoy, or a gRPC program without a proxy, to the mesh.
//!
//! It has what our own proxies have on their control side: the identity and its rotation, the registration and its
//! lease, the line to the control plane, the saved copy. Towards its client it is a server of aggregated discovery and
//! of keys, on one Unix socket (0600) in the run directory. The control plane sees one subscriber, in the client's
//! dialect, whose TLS identity is the workload's.
//!
//! An Envoy is the agent's child: started once there is a configuration for it, started again when it dies, ended
//! with the agent. A gRPC program is the child of `naka run`; it finds a bootstrap and its keys in the run directory.
//!
//! Invariants: the key leaves this process only over that socket or into files of 0600; with the control plane dead a
//! client that starts is served from the saved copy; no call passes through here.

pub(crate) mod authority;
mod denied;
mod driver;
mod envoy;
mod files;
pub mod grpc;
mod middle;
mod relay;
mod serve;

use crate::admin::{self, Order, Page, Subject};
use crate::control_client::{self, Line};
use crate::denials::Denials;
use crate::lease::Lease;
use crate::rotation::Feed;
use crate::run::bind::Kept;
use crate::run::{Addresses, Error, Sign, Teller, signal};
use crate::settings::{Beside, Settings};
use crate::{listen, saved, workload_api};
use driver::Driver;
use envoy::{Health, Keeper};
use http::StatusCode;
use middle::Middle;
use relay::{Relay, Wants};
use serde_json::{Value as Json, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Name of the socket for the agent's clients.
pub const SOCKET: &str = "xds.sock";
const COMMANDS: usize = 256;
const EVENTS: usize = 256;
const ORDERS: usize = 16;
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const PAGES: &str = "\
GET  /ready[?wait=MS]     200 when identity, configuration and the client's proxy are there\n\
GET  /server_info         who this is and where it listens\n\
GET  /addresses           where the proxy listens\n\
GET  /certs               certificate and roots\n\
GET  /memory              memory of the agent\n\
POST /drain[?wait=1]      stop taking calls, with acknowledgement\n\
POST /ports               {\"ports\":[8080]}: the program listens there\n\
POST /quit                end agent and proxy\n";

/// What the parts of an agent share.
#[derive(Debug)]
struct Agent {
    settings: Arc<Settings>,
    feed: Arc<Feed>,
    lease: Arc<Lease>,
    line: Arc<watch::Sender<Line>>,
    orders: mpsc::Sender<Order>,
    speaks: watch::Receiver<bool>,
    health: watch::Receiver<Health>,
    addresses: Mutex<Addresses>,
    drain: Mutex<Json>,
    started: Instant,
}

impl Agent {
    fn addresses(&self) -> Addresses {
        let addresses = self.addresses.lock();
        addresses.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_addresses(&self, addresses: Addresses) {
        *self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    fn set_drain_report(&self, report: Json) {
        *self.drain.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    /// What is not there yet.
    fn missing(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if self.feed.now().is_none() {
            missing.push("identity");
        }
        let ready = *self.health.borrow() == Health::Ready;
        match self.settings.beside {
            Beside::Naka => {}
            Beside::Envoy => {
                missing.extend((!*self.speaks.borrow()).then_some("configuration"));
                missing.extend((!ready).then_some("envoy"));
            }
            Beside::Grpc => missing.extend((!ready).then_some("files")),
        }
        missing
    }

    async fn until_ready(&self) {
        let (mut identity, mut speaks) = (self.feed.watch(), self.speaks.clone());
        let mut health = self.health.clone();
        while !self.missing().is_empty() {
            let changed = tokio::select! {
                changed = identity.changed() => changed,
                changed = speaks.changed() => changed,
                changed = health.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    fn info(&self) -> Json {
        let settings = &self.settings;
        let identity = self.feed.now();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "role": settings.role,
            "beside": settings.beside,
            "namespace": settings.namespace,
            "service": settings.service,
            "service_account": settings.service_account,
            "workload_name": settings.workload_name,
            "labels": settings.labels,
            "workload_id": identity.as_ref().map(|i| i.svid.workload_id.to_string()),
            "spiffe": identity.as_ref().map(|i| i.svid.spiffe.to_string()),
            "state": admin::state_word(&self.lease),
            "addresses": self.addresses(),
            "uptime_ms": u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "control": admin::control(&self.line.borrow()),
            "drain": self.drain_report(),
        })
    }

    async fn ready(&self, query: &str) -> Page {
        let wait = admin::param(query, "wait").and_then(|ms| ms.parse().ok());
        let wait = Duration::from_millis(wait.unwrap_or(0)).min(LONGEST_WAIT);
        let _ = tokio::time::timeout(wait, self.until_ready()).await;
        let missing = self.missing();
        let status = match missing.is_empty() {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        let body = json!({
            "ready": missing.is_empty(),
            "missing": missing,
            "state": admin::state_word(&self.lease),
        });
        admin::as_json(status, &body)
    }
}

impl Subject for Agent {
    fn orders(&self) -> &mpsc::Sender<Order> {
        &self.orders
    }

    fn drain_report(&self) -> Json {
        let report = self.drain.lock();
        report.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An Envoy counts under its own names.
    fn around(&self, _bypassed: u64, _repaired: u64) -> Option<Json> {
        None
    }

    async fn get(&self, path: &str, query: &str) -> Page {
        match path {
            "/" | "/help" => admin::text(StatusCode::OK, PAGES),
            "/ready" => self.ready(query).await,
            "/server_info" => admin::as_json(StatusCode::OK, &self.info()),
            "/addresses" => admin::as_json(StatusCode::OK, &json!(self.addresses())),
            "/certs" => admin::as_json(StatusCode::OK, &admin::certs(&self.feed)),
            "/memory" => admin::as_json(StatusCode::OK, &admin::memory()),
            "/drain" | "/ports" | "/quit" => {
                admin::text(StatusCode::METHOD_NOT_ALLOWED, "POST it\n")
            }
            _ => admin::text(StatusCode::NOT_FOUND, PAGES),
        }
    }
}

/// Keeps an address for the Envoy: the one of the last run where any free one will do.
fn reserve(
    wanted: SocketAddr,
    before: Option<SocketAddr>,
    purpose: &str,
) -> Result<(socket2::Socket, SocketAddr), Error> {
    let again = before.filter(|before| wanted.port() == 0 && before.ip() == wanted.ip());
    let reserved = match again.map(listen::reserve) {
        Some(Ok(reserved)) => Ok(reserved),
        _ => listen::reserve(wanted),
    };
    reserved.map_err(|source| Error::Bind {
        purpose: purpose.to_owned(),
        address: wanted.to_string(),
        source,
    })
}

/// Addresses of an Envoy's own listeners, written into the settings as they really are.
fn addresses(
    settings: &mut Settings,
    kept: &Kept,
) -> Result<(Addresses, Vec<socket2::Socket>), Error> {
    let mut addresses = Addresses::default();
    let mut sockets = Vec::new();
    if settings.beside != Beside::Envoy {
        return Ok((addresses, sockets));
    }
    if let Some(outbound) = &mut settings.outbound {
        let before = kept.addresses.outbound;
        let (socket, address) = reserve(outbound.bind, before, "the program's calls")?;
        outbound.bind = address;
        addresses.outbound = Some(address);
        sockets.push(socket);
    }
    for (index, upstream) in settings.upstreams.iter_mut().enumerate() {
        let before = kept.addresses.upstreams.get(index).copied();
        let purpose = format!("calls to {}:{}", upstream.host, upstream.port);
        let (socket, address) = reserve(upstream.bind, before, &purpose)?;
        upstream.bind = address;
        addresses.upstreams.push(address);
        sockets.push(socket);
    }
    for gateway in &mut settings.gateway_ports {
        let before = kept.addresses.gateway.get(&gateway.port).copied();
        let purpose = format!("gateway port {}", gateway.port);
        let (socket, address) = reserve(gateway.bind, before, &purpose)?;
        gateway.bind = address;
        addresses.gateway.insert(gateway.port, address);
        sockets.push(socket);
    }
    Ok((addresses, sockets))
}

/// The whole life of an agent on this thread. Whoever wants to hear of it gives a teller.
///
/// # Errors
/// The run directory, a socket or a setting that cannot be used.
pub fn main(settings: Settings, teller: Option<Teller>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .map_err(Error::Thread)?;
    let outcome = runtime.block_on(live(settings, teller.map(Arc::new)));
    // A blocking task may wait for a slow disk; what it saves was saved before, less the last moment.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn live(mut settings: Settings, teller: Option<Arc<Teller>>) -> Result<(), Error> {
    saved::make_dir(&settings.run_dir)?;
    let _lock = match settings.lock_inherited {
        true => None,
        false => Some(saved::lock(&settings.run_dir)?),
    };
    let kept = Kept::load(&settings.run_dir);
    let (addresses, _reserved) = addresses(&mut settings, &kept)?;
    let settings = Arc::new(settings);
    let socket = settings.run_dir.join(SOCKET);
    let (clients, pages) = (bind(&socket)?, bind(&settings.run_dir.join(saved::ADMIN))?);
    let programs = bind(&settings.run_dir.join(workload_api::SOCKET))?;
    let (orders, ordered) = mpsc::channel(ORDERS);
    let (speaks, spoken) = watch::channel(false);
    let (health, healthy) = watch::channel(Health::default());
    let agent = Arc::new(Agent {
        feed: Arc::new(Feed::new(
            settings.save_identity.then_some(settings.run_dir.as_path()),
        )),
        lease: Arc::new(Lease::new(&settings)),
        line: Arc::new(watch::Sender::new(Line::default())),
        orders,
        speaks: spoken,
        health: healthy,
        addresses: Mutex::new(addresses),
        drain: Mutex::new(json!({ "phase": "serving" })),
        started: Instant::now(),
        settings,
    });
    let mut tasks = JoinSet::new();
    let (answers, answered) = mpsc::unbounded_channel();
    between(&agent, &mut tasks, clients, answers, speaks);
    tasks.spawn(admin::serve_unix(pages, Arc::clone(&agent)));
    tasks.spawn(workload_api::serve(programs, Arc::clone(&agent.feed)));
    if let Some(teller) = teller.clone() {
        tasks.spawn(tell(Arc::clone(&agent), teller));
    }
    let (stop, stopped) = watch::channel(false);
    let proxy = client(Arc::clone(&agent), socket, health, stopped.clone());
    let proxy = tokio::spawn(proxy);
    let driver = Driver::new(Arc::clone(&agent), ordered, answered, kept, stop);
    tokio::spawn(driver.run());
    until_stopped(&agent, stopped, teller.as_deref()).await?;
    // A panic of the task means that its child is gone with it.
    let _ = proxy.await;
    tasks.shutdown().await;
    for name in [SOCKET, saved::ADMIN, workload_api::SOCKET] {
        let _ = std::fs::remove_file(agent.settings.run_dir.join(name));
    }
    Ok(())
}

fn bind(path: &std::path::Path) -> Result<UnixListener, Error> {
    admin::bind(path).map_err(|source| Error::Bind {
        purpose: "a socket of the agent".to_owned(),
        address: path.display().to_string(),
        source,
    })
}

/// The tasks between control plane and clients.
fn between(
    agent: &Arc<Agent>,
    tasks: &mut JoinSet<()>,
    clients: UnixListener,
    answers: mpsc::UnboundedSender<naka_wire::v1::RegisterResponse>,
    speaks: watch::Sender<bool>,
) {
    let settings = &agent.settings;
    let wants = match settings.beside {
        Beside::Envoy | Beside::Naka => Wants::Everything,
        Beside::Grpc => Wants::Named,
    };
    // Without the identity it belonged to, an old configuration would be somebody else's.
    let saved = match agent
        .feed
        .restore(&settings.namespace, &settings.service_account)
    {
        false => Vec::new(),
        true => saved::load_last_good(&settings.run_dir).unwrap_or_else(|error| {
            tracing::warn!(%error, "the saved configuration is of no use");
            Vec::new()
        }),
    };
    let relay = Relay::new(wants, saved);
    let client = middle::client(&relay, wants, control_client::node(settings, ""));
    let (commands, commanded) = mpsc::channel(COMMANDS);
    let (tell, news) = mpsc::unbounded_channel();
    let (event, events) = mpsc::channel(EVENTS);
    let middle = Middle::new(middle::Params {
        relay,
        feed: Arc::clone(&agent.feed),
        news,
        events,
        commands,
        answers,
        speaks,
        run_dir: settings.run_dir.clone(),
    });
    tasks.spawn(middle.run());
    let denials = Arc::<Denials>::default();
    let ear = denied::Ear(Arc::clone(&denials));
    tasks.spawn(async move {
        if let Err(error) = serve::serve(clients, event, ear).await {
            tracing::error!(%error, "the socket for clients cannot be served");
        }
    });
    tasks.spawn(control_client::run(control_client::Params {
        settings: Arc::clone(settings),
        feed: Arc::clone(&agent.feed),
        client,
        commands: commanded,
        registration: agent.lease.watch(),
        news: tell,
        line: Arc::clone(&agent.line),
        // No call passes through an agent; its Envoy tells what it refused.
        denials,
        traces: None,
    }));
}

/// What the client needs besides the socket: an Envoy its process, a gRPC program its files.
async fn client(
    agent: Arc<Agent>,
    socket: PathBuf,
    health: watch::Sender<Health>,
    mut stop: watch::Receiver<bool>,
) {
    let mut identity = agent.feed.watch();
    let Some(program) = agent.settings.envoy.clone() else {
        files(&agent, &socket, health, stop).await;
        return;
    };
    let mut speaks = agent.speaks.clone();
    let known = async {
        // A channel that closes means that the agent is ending, which `stop` says as well.
        let _ = speaks.wait_for(|speaks| *speaks).await;
        let known = identity.wait_for(Option::is_some).await.ok()?.clone()?;
        Some(known.svid.workload_id.to_string())
    };
    let workload_id = tokio::select! {
        known = known => known,
        _ = stop.wait_for(|stop| *stop) => None,
    };
    if let Some(workload_id) = workload_id {
        let keeper = Keeper {
            settings: Arc::clone(&agent.settings),
            program,
            socket,
            health,
        };
        keeper.run(workload_id, stop).await;
    }
}

/// Tells when it is ready, and then that its thread lives.
async fn tell(agent: Arc<Agent>, teller: Arc<Teller>) {
    agent.until_ready().await;
    (teller.to)(Sign::Ready("ready".to_owned()));
    let Some(every) = teller.every else {
        return;
    };
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        (teller.to)(Sign::Alive);
    }
}

/// Keys and bootstrap of a gRPC program, written again after each rotation.
async fn files(
    agent: &Agent,
    socket: &std::path::Path,
    health: watch::Sender<Health>,
    mut stop: watch::Receiver<bool>,
) {
    let mut identity = agent.feed.watch();
    identity.mark_changed();
    loop {
        tokio::select! {
            Ok(()) = identity.changed() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let Some(now) = identity.borrow_and_update().clone() else {
            continue;
        };
        match grpc::write(&agent.settings, &now, socket) {
            Ok(()) => drop(health.send_replace(Health::Ready)),
            Err(error) => {
                tracing::error!(%error, "the files of the program cannot be written");
            }
        }
    }
}

/// Until the driver has ended, which a signal asks for too: the first drains, a second skips that.
async fn until_stopped(
    agent: &Agent,
    mut stopped: watch::Receiver<bool>,
    teller: Option<&Teller>,
) -> Result<(), Error> {
    let mut term = signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = signal(tokio::signal::unix::SignalKind::interrupt())?;
    tokio::select! {
        _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("told to stop; draining");
    if let Some(teller) = teller {
        (teller.to)(Sign::Stopping);
    }
    let (done, drained) = oneshot::channel();
    // A closed receiver means that the driver has ended.
    let _ = agent.orders.send(Order::Drain(done)).await;
    tokio::select! {
        _ = drained => {}
        _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = agent.orders.send(Order::Quit).await;
    let _ = stopped.wait_for(|stopped| *stopped).await;
    Ok(())
}
