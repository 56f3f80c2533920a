//! From settings to a serving proxy: bind everything first, then serve.
//!
//! The order is the promise: lock, saved copy, listeners, workers, and only then the control plane; so a proxy whose
//! control plane is away serves from its own copy as soon as it has its sockets. Addresses of the last run are taken
//! again when they are free, because a program that still runs keeps calling them.
//!
//! What happens afterwards (orders, drain, readiness of the program) is `driver`'s.

pub(crate) mod bind;
mod driver;
mod opened;
mod tell;
mod unix;

use crate::admin::{self, Order};
use crate::control_client::{self, Line};
use crate::lease::Lease;
use crate::names::{Called, Filter};
use crate::outward;
use crate::recovery;
use crate::rotation::Feed;
use crate::saved;
use crate::settings::{AccessLog, Capture, Role, Settings};
use crate::spans::kept::Reporter;
use crate::state::book::{self, Book, Near};
use crate::state::{Main, MainParams, Shared, SharedParams};
use crate::vip::Vips;
use crate::worker::{self, Own, WorkerHandle, WorkerParams, Workers};
use bind::{Bound, Kept};
use driver::{Driver, DriverParams};
use naka_engine::exchange::Repeated;
use naka_telemetry::{AccessLog as AccessLogWriter, Metrics, Workload};
use naka_types::data_class::DataClass;
use naka_types::host::Host;
use naka_wire::type_url;
use naka_xds::delta::client::{Client, Subscription};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
pub use tell::{Sign, Teller};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Commands waiting for the line; more wait with whoever sends them.
const COMMANDS: usize = 256;
/// Questions of workers waiting for the main thread.
const WANTS: usize = 1024;
const ORDERS: usize = 16;
/// How long the program's own calls may take to end when the process is told to stop by a signal.
const OUTBOUND_GRACE: Duration = Duration::from_secs(5);

/// Why a proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener could not be bound.
    #[error("cannot listen on {address} for {purpose}{}", taken(source, address))]
    Bind {
        /// What it was for.
        purpose: String,
        /// The address asked for.
        address: String,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// The run directory cannot be used.
    #[error("cannot use the run directory {path}")]
    RunDir {
        /// Its path.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// The door of the program's network namespace does not answer.
    #[error("no sockets from the door {path}")]
    Door {
        /// Its socket.
        path: PathBuf,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// Our own sockets cannot be told apart from the program's.
    #[error("cannot mark sockets, which `--capture host` needs CAP_NET_ADMIN for")]
    Mark(#[source] std::io::Error),
    /// Something saved, or the lock of the instance.
    #[error(transparent)]
    Saved(#[from] saved::Error),
    /// A thread or a runtime could not be made.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// A setting makes no sense.
    #[error("setting {field}: {problem}")]
    Setting {
        /// Field name.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// What to do about an address that somebody else has.
fn taken(source: &std::io::Error, address: &str) -> String {
    if source.kind() != std::io::ErrorKind::AddrInUse {
        return String::new();
    }
    let port = address.rsplit_once(':').map_or(address, |(_, port)| port);
    format!(
        " (another program has it: \"ss -ltnp sport = :{port}\" shows which; end it or use another port)"
    )
}

/// The address of the inbound listeners of an instance's last run.
#[must_use]
pub fn kept_inbound(run_dir: &Path) -> Option<IpAddr> {
    let kept = Kept::load(run_dir).addresses;
    kept.inbound.values().next().map(SocketAddr::ip)
}

/// Where a running proxy listens.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Addresses {
    /// The program's calls.
    pub outbound: Option<SocketAddr>,
    /// Where the program's calls are redirected to inside its own network namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub captured: Vec<SocketAddr>,
    /// mTLS listener per declared port.
    pub inbound: BTreeMap<u16, SocketAddr>,
    /// Explicit binds, in the order of the settings.
    pub upstreams: Vec<SocketAddr>,
    /// Plain listeners, in the order of the settings.
    pub publish: Vec<SocketAddr>,
    /// Gateway listeners by the port of the Gateway object.
    pub gateway: BTreeMap<u16, SocketAddr>,
    /// Read-only metrics.
    pub metrics: Option<SocketAddr>,
    /// Admin pages over TCP.
    pub admin_tcp: Option<SocketAddr>,
}

/// A proxy that serves. Dropping it does not stop it; `drain` then `stop` does.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.shared.addresses()
    }

    /// Path of the admin socket.
    #[must_use]
    pub fn admin(&self) -> PathBuf {
        self.shared.settings.run_dir.join(saved::ADMIN)
    }

    /// What the parts of the main thread share.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Starts the acknowledged drain of inbound; returns when it has ended. Outbound goes on serving.
    pub async fn drain(&self) {
        let (done, drained) = oneshot::channel();
        if self.shared.orders.send(Order::Drain(done)).await.is_ok() {
            // Dropped unanswered when the process stops first.
            let _ = drained.await;
        }
    }

    /// Ends everything: connections still open are closed.
    pub async fn stop(&self) {
        // A closed receiver means that it has stopped already.
        let _ = self.shared.orders.send(Order::Quit).await;
    }

    /// Resolves when the proxy has stopped (by `stop` or `POST /quit`).
    pub async fn stopped(&self) {
        let mut stopped = self.stopped.clone();
        // The driver's end of the channel goes away with it, which is the same news.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}

/// Binds, starts workers and the control client, and returns while it serves. Call it on a current-thread runtime;
/// it returns before the proxy is ready (ask the admin socket's `/ready`).
///
/// # Errors
/// A listener, the run directory or a setting that cannot be used.
pub async fn start(settings: Settings) -> Result<Running, Error> {
    let started = Instant::now();
    let files = crate::limits::raise_open_files();
    tracing::debug!(files, "open files allowed");
    let settings = Arc::new(settings);
    saved::make_dir(&settings.run_dir)?;
    let lock = if settings.lock_inherited {
        None
    } else {
        Some(saved::lock(&settings.run_dir)?)
    };
    if let Some(Capture::Host(host)) = &settings.capture {
        outward::mark_all(host.mark).map_err(Error::Mark)?;
    }
    let bound = Bound::open(&settings)?;
    let feed = Arc::new(Feed::new(
        settings.save_identity.then_some(settings.run_dir.as_path()),
    ));
    let known = feed.restore(&settings.namespace, &settings.service_account);
    let (book, client, called) = recall(&settings, known);

    let metrics = Metrics::new();
    let (wants, asked) = mpsc::channel(WANTS);
    let capture = settings.capture.as_ref();
    let vips = capture.map(|_| Arc::new(Vips::load(&settings.run_dir)));
    let own = Arc::new(own(&settings));
    let (barred, denials) = (Arc::clone(&own.barred), Arc::clone(&own.denials));
    let kept = Arc::clone(&own.kept);
    let (workers, access) = spawn_workers(&settings, &metrics, &book, &wants, vips.as_ref(), own)?;
    let seen = workers.all().iter().map(WorkerHandle::seen).collect();
    let workers = Arc::new(workers);
    let traces = Reporter {
        kept,
        workers: Arc::clone(&workers),
    };
    let (orders, ordered) = mpsc::channel(ORDERS);
    let shared = Arc::new(Shared::new(SharedParams {
        settings: Arc::clone(&settings),
        feed: Arc::clone(&feed),
        lease: Arc::new(Lease::new(&settings)),
        line: Arc::new(watch::Sender::new(Line::default())),
        metrics,
        workers,
        orders,
        started,
        seen,
        barred: Arc::clone(&barred),
    }));

    let (commands, commanded) = mpsc::channel(COMMANDS);
    let (tell, news) = mpsc::unbounded_channel();
    let (lease, answers) = mpsc::unbounded_channel();
    let (main, publisher) = Main::new(MainParams {
        shared: Arc::clone(&shared),
        book,
        called,
        news,
        wants: asked,
        commands,
        lease,
    });
    let line = control_client::Params {
        settings: Arc::clone(&settings),
        feed,
        client,
        commands: commanded,
        registration: shared.lease.watch(),
        news: tell,
        line: Arc::clone(&shared.line),
        denials,
        traces: Some(traces),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(publisher.run());
    tasks.spawn(main.run());
    tasks.spawn(control_client::run(line));
    let of_now = Arc::clone(&shared);
    tasks.spawn(recovery::readmit(move || of_now.snapshot(), barred));
    let of_now = Arc::clone(&shared);
    let workers = Arc::clone(&shared.workers);
    tasks.spawn(crate::health::check(move || of_now.snapshot(), workers));
    let (ended, stopped) = watch::channel(false);
    let driver = Driver::new(DriverParams {
        shared: Arc::clone(&shared),
        bound,
        vips,
        orders: ordered,
        answers,
        tasks,
        lock,
        access,
        ended,
    })?;
    tokio::spawn(driver.run());
    Ok(Running { shared, stopped })
}

/// What the last run left: configuration in force, the state of the xDS client that goes with it, names called.
fn recall(settings: &Settings, known: bool) -> (Book, Client, Called) {
    let service = settings
        .service
        .as_ref()
        .map_or_else(String::new, |service| {
            Host::of_service(service, &settings.namespace).to_string()
        });
    let near = Near::new(settings.labels.clone(), &service);
    let mut book = Book::new(&settings.namespace).called_by(near);
    // Without the identity it belonged to, an old configuration would be somebody else's.
    let resources = if known {
        saved::load_last_good(&settings.run_dir).unwrap_or_else(|error| {
            tracing::warn!(%error, "the saved configuration is of no use");
            error.set_aside();
            Vec::new()
        })
    } else {
        Vec::new()
    };
    for resource in &resources {
        for reject in book.apply(&resource.type_url, std::slice::from_ref(resource), &[]) {
            tracing::warn!(name = %reject.name, reason = %reject.reason, "a saved resource is of no use");
        }
    }
    let names = saved::load_names(&settings.run_dir).unwrap_or_else(|error| {
        tracing::warn!(%error, "the saved names are of no use");
        error.set_aside();
        Vec::new()
    });
    let gateway = settings.role == Role::Gateway;
    let called = Called::restore(if gateway { Vec::new() } else { names });
    let mut subscriptions = vec![
        (
            type_url::SECRET,
            Subscription::names([book::ROOT_CA, book::REVOKED, book::REVOKED_TOKENS]),
        ),
        (type_url::CLUSTER, Subscription::everything()),
        (
            type_url::ENDPOINT,
            Subscription::names(Vec::<String>::new()),
        ),
        (type_url::LISTENER, Subscription::everything()),
        (
            type_url::WORKLOAD,
            Subscription::names(Vec::<String>::new()),
        ),
    ];
    if !gateway {
        subscriptions.push((
            type_url::VIRTUAL_HOST,
            Subscription::everything().and(called.in_order()),
        ));
        subscriptions.push((
            type_url::NAME_FILTER,
            Subscription::names([crate::state::book::NAMES]),
        ));
    }
    let mut client = Client::new(control_client::node(settings, ""), subscriptions.clone());
    for (kind, _) in subscriptions {
        client.restore(kind, book.versions(kind));
    }
    (book, client, called)
}

fn spawn_workers(
    settings: &Settings,
    metrics: &Metrics,
    book: &Book,
    wants: &mpsc::Sender<worker::Want>,
    vips: Option<&Arc<Vips>>,
    own: Arc<Own>,
) -> Result<(Workers, Option<AccessLogWriter>), Error> {
    let access = access_log(settings, metrics)?;
    let count = settings.workers.unwrap_or_else(|| match settings.role {
        Role::Sidecar => 1,
        Role::Gateway => std::thread::available_parallelism().map_or(1, usize::from),
    });
    let door = settings.capture.as_ref().and_then(Capture::door);
    let handles = (0..count.max(1))
        .map(|index| {
            worker::spawn(WorkerParams {
                index,
                snapshot: book.snapshot(),
                tls: None,
                names: Arc::new(Filter::default()),
                wants: wants.clone(),
                own: Arc::clone(&own),
                resolv_conf: settings.resolv_conf.clone(),
                shard: metrics.shard(),
                access: access.as_ref().map(|log| log.lines()),
                door: door.map(Path::to_owned),
                vips: vips.map(Arc::clone),
                seen: Arc::default(),
            })
        })
        .collect::<Result<_, _>>()
        .map_err(Error::Thread)?;
    Ok((Workers::new(handles), access))
}

fn access_log(settings: &Settings, metrics: &Metrics) -> Result<Option<AccessLogWriter>, Error> {
    let file = |path: PathBuf| {
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|source| Error::Saved(saved::Error::Io { path, source }))
    };
    let class = DataClass::of(&settings.labels);
    let sink: Box<dyn std::io::Write + Send> = match &settings.access_log {
        AccessLog::Off if class.wants_log() => {
            tracing::warn!(
                ?class,
                "the data class demands an access log: it is kept in the run directory"
            );
            Box::new(file(settings.run_dir.join("access.log"))?)
        }
        AccessLog::Off => return Ok(None),
        AccessLog::Stdout => Box::new(std::io::stdout()),
        AccessLog::Run => Box::new(file(settings.run_dir.join("access.log"))?),
        AccessLog::File(path) => Box::new(file(path.clone())?),
    };
    let lost = metrics.number(naka_telemetry::name::ACCESS_LOG_LOST, &[]);
    AccessLogWriter::start(sink, lost)
        .map(Some)
        .map_err(Error::Thread)
}

fn own(settings: &Settings) -> Own {
    Own {
        namespace: settings.namespace.clone(),
        workload: Arc::new(Workload::new(
            &settings.workload_name,
            &settings.namespace,
            // Known with the first certificate.
            "unknown",
            &settings.cluster_id,
            &settings.labels,
        )),
        service_host: settings.service.as_ref().map(|service| {
            Host::of_service(service, &settings.namespace)
                .as_str()
                .into()
        }),
        uid: rustix::process::getuid().as_raw(),
        credential: settings
            .outbound
            .as_ref()
            .and_then(|outbound| outbound.credential.clone()),
        barred: Arc::default(),
        repeated: Repeated::default(),
        denials: Arc::default(),
        kept: Arc::default(),
    }
}

/// The whole life of a proxy process on this thread: start, serve, drain on SIGTERM or SIGINT, end. Whoever wants to
/// hear of it gives a teller.
///
/// # Errors
/// As [`start`].
pub fn main(settings: Settings, teller: Option<Teller>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .map_err(Error::Thread)?;
    let outcome = runtime.block_on(async {
        let running = start(settings).await?;
        let teller = teller.map(Arc::new);
        // Ends with this block.
        let _telling = teller
            .as_ref()
            .map(|teller| tell::begin(teller, &running.shared));
        let mut term = signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut interrupt = signal(tokio::signal::unix::SignalKind::interrupt())?;
        tokio::select! {
            () = running.stopped() => return Ok(()),
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to stop; draining");
        if let Some(teller) = &teller {
            (teller.to)(Sign::Stopping);
        }
        tokio::select! {
            () = leave(&running) => {}
            () = running.stopped() => return Ok(()),
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        running.stop().await;
        running.stopped().await;
        Ok(())
    });
    // Blocking tasks may wait for a slow disk; what they save was saved before, less the last moment.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

pub(crate) fn signal(
    kind: tokio::signal::unix::SignalKind,
) -> Result<tokio::signal::unix::Signal, Error> {
    tokio::signal::unix::signal(kind).map_err(Error::Thread)
}

/// Inbound first, with acknowledgement; then the program's own calls, for a moment.
async fn leave(running: &Running) {
    running.drain().await;
    let mut left = Vec::new();
    for worker in running.shared.workers.all() {
        let (done, drained) = oneshot::channel();
        worker.send(worker::WorkerMsg::DrainOutbound(done)).await;
        left.push(drained);
    }
    let all = async {
        for drained in left {
            // A worker that is gone has nothing left to end.
            let _ = drained.await;
        }
    };
    let _ = tokio::time::timeout(OUTBOUND_GRACE, all).await;
}

#[cfg(test)]
mod tests {
    use super::{AccessLog, Metrics, Settings, access_log};
    use naka_types::data_class::DATA_CLASS;

    #[test]
    fn a_data_class_keeps_the_access_log_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(dir.path().to_owned(), "a", "a-1");
        settings.access_log = AccessLog::Off;
        let kept = dir.path().join("access.log");
        assert!(
            access_log(&settings, &Metrics::default())
                .unwrap()
                .is_none()
                && !kept.exists()
        );
        for (word, on) in [("public", false), ("internal", true)] {
            let label = (DATA_CLASS.to_owned(), word.to_owned());
            settings.labels = [label].into();
            assert_eq!(
                access_log(&settings, &Metrics::default())
                    .unwrap()
                    .is_some(),
                on,
                "{word}"
            );
            assert_eq!(kept.exists(), on, "{word}");
        }
    }
}
