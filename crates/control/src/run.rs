//! From settings to a running control plane: bind everything first, then serve.
//!
//! Every listener is bound before any task starts, so a port in use is one plain error and callers learn the
//! addresses as a value. Ports that were chosen freely are written to `ports.json` and taken again at the next
//! start, because tokens and saved identities name them.

use crate::ads::Ads;
use crate::apiserver;
use crate::ca_service::{CaService, TlsIncoming};
use crate::denials;
use crate::export::Export;
use crate::jwks;
use crate::metrics;
use crate::plane::Plane;
use crate::readiness::Readiness;
use crate::refusal;
use crate::rollout::driver::Driver;
use crate::settings::{Addresses, Ports, Remembered, Settings, Tracing};
use crate::source::Source;
use crate::status::Status;
use crate::traces;
use crate::workloads::WorkloadService;
use naka_identity::tls::api_server_tls;
use naka_identity::{Authority, ServerCert};
use naka_store::{Draft, Store, Stream, StreamSettings};
use naka_telemetry::{Metrics, name};
use naka_types::host::{DEFAULT_NAMESPACE, ROOT_NAMESPACE};
use naka_types::name::ObjectRef;
use naka_wire::ads::AdsServer;
use naka_wire::v1::workloads_server::WorkloadsServer;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::Routes;

/// How long streams get to end after a stop.
const STOP: Duration = Duration::from_millis(100);

/// How often the clock is looked at: a timer does not see it jump, nor a machine that slept.
const CLOCK_LOOK: Duration = Duration::from_secs(5);
/// Longest time until events are looked at whose time may be over.
const OUTLIVE_LOOK: Duration = Duration::from_hours(1);
const SECOND: Duration = Duration::from_secs(1);

/// Why a control plane does not start or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of the mesh.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// A listener.
    #[error(
        "cannot listen on {address} ({what}): {source}{}",
        taken(source, address)
    )]
    Bind {
        /// What for.
        what: &'static str,
        /// Where.
        address: String,
        /// What happened.
        source: std::io::Error,
    },
    /// Another control plane serves this mesh.
    #[error("a control plane for this mesh is running already ({0})")]
    Running(PathBuf),
    /// The log or its state.
    #[error(transparent)]
    Store(#[from] naka_store::Error),
    /// The authority or TLS.
    #[error(transparent)]
    Identity(#[from] naka_identity::Error),
    /// A place that spans are to go to.
    #[error("the export of traces: {0}")]
    Traces(String),
    /// A place that the audit trail is to go to.
    #[error("the export of the audit trail: {0}")]
    Export(String),
}

/// What to do about an address that somebody else has.
fn taken(source: &std::io::Error, address: &str) -> String {
    if source.kind() != std::io::ErrorKind::AddrInUse {
        return String::new();
    }
    let port = address.rsplit_once(':').map_or(address, |(_, port)| port);
    format!("; \"ss -ltnp sport = :{port}\" shows which program has it: end it or use another port")
}

/// A control plane whose listeners are bound and whose state is open.
#[derive(Debug)]
pub struct Bound {
    settings: Settings,
    addresses: Addresses,
    listeners: Listeners,
    plane: Arc<Plane>,
    authority: Arc<Authority>,
    certificate: Arc<ServerCert>,
    rollouts: Arc<Driver>,
    metrics: Metrics,
    export: Export,
    collectors: Vec<traces::otlp::Place>,
}

#[derive(Debug)]
struct Listeners {
    xds: TcpListener,
    api: TcpListener,
    metrics: TcpListener,
    control: UnixListener,
}

/// Opens the state and binds all listeners.
///
/// # Errors
/// [`Error`] names the file or the address.
pub async fn run(settings: Settings) -> Result<Bound, Error> {
    make_dir(&settings.dir)?;
    // Before anything is written: a file of a newer version stops the start.
    Remembered::load(&settings.dir)?;
    let metrics = Metrics::new();
    let syncs = metrics.seconds(name::LOG_SYNC, &[]);
    let how = naka_store::Settings {
        passphrase: settings.seal_passphrase.clone(),
        on_sync: Some(Arc::new(move |took| syncs.record(took))),
        ..naka_store::Settings::default()
    };
    let (store, recovery) = Store::open(&settings.dir, how)?;
    if let Some(damage) = &recovery.damage {
        tracing::error!(
            ?damage,
            "the log is damaged: served read-only until `naka store repair`"
        );
    }
    let now = naka_identity::now_s();
    let ca = settings.dir.join("ca");
    if let Some(from) = &settings.authority {
        naka_identity::offline::import(&ca, from, &settings.trust_domain, now)?;
    }
    let authority = Arc::new(Authority::open_or_create(&ca, &settings.trust_domain, now)?);
    let (names, hosts) = names(&settings);
    let certificate = ServerCert::issue(&authority, &names, &hosts, settings.leaf_ttl, now)?;
    let (addresses, listeners) = bind(&settings).await?;
    first_start(&store).await;
    let source = settings.source.as_deref();
    let source = source.map(|root| Source::new(root, Arc::clone(&store)));
    if let Some(source) = &source {
        // Before anybody is served: a proxy that connects finds what the directory holds.
        source.first().await;
    }
    let roots = authority.bundle().to_pem();
    let plane = Plane::new(
        store,
        &settings.trust_domain,
        &roots,
        settings.leases,
        &metrics,
    );
    if let Some(source) = source {
        let _ = plane.source.set(source);
    }
    let (shown, signs) = (Arc::clone(&certificate), Arc::clone(&authority));
    let rollouts = Driver::new(Arc::clone(&plane), signs, shown)?;
    let kept = StreamSettings {
        keep: settings.audit.keep_denials,
        most_bytes: settings.audit.most_denials,
        ..StreamSettings::default()
    };
    let stream = Arc::new(Stream::open(&plane.store, denials::STREAM, kept)?);
    let export = Export::new(&settings.dir, &plane.store, &stream, &settings.audit);
    let export = export.map_err(Error::Export)?;
    let _ = plane.denials.set(stream);
    let collectors = collectors(&plane, &settings.tracing).map_err(Error::Traces)?;
    Ok(Bound {
        settings,
        addresses,
        listeners,
        plane,
        authority,
        certificate,
        rollouts,
        metrics,
        export,
        collectors,
    })
}

/// Lets events of the log go that are older than they are kept. Runs until it is dropped.
async fn outlive(store: Arc<Store>, keep: Duration) {
    let every = (keep / 8).clamp(SECOND, OUTLIVE_LOOK);
    let keep = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
    loop {
        let now = naka_identity::now_s().saturating_mul(1000);
        match store.cut(now.saturating_sub(keep)).await {
            Ok(None) => {}
            Ok(Some(cut)) => tracing::info!(
                events = cut.events,
                last = cut.seq,
                "events of the log went by their age"
            ),
            Err(error) => tracing::warn!(%error, "events of the log outlive their time"),
        }
        tokio::time::sleep(every).await;
    }
}

/// Where spans go.
fn collectors(plane: &Plane, tracing: &Tracing) -> Result<Vec<traces::otlp::Place>, String> {
    let mut all = Vec::new();
    for url in &tracing.to {
        let place = traces::otlp::Place::new(url, tracing.authorities.as_deref())?;
        plane.traces.export(place.door());
        all.push(place);
    }
    Ok(all)
}

/// Names and addresses in the certificate of the control plane's ports.
fn names(settings: &Settings) -> (Vec<String>, Vec<IpAddr>) {
    let mut names = vec!["localhost".to_owned()];
    let mut hosts = vec![
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    if !settings.host.is_unspecified() {
        hosts.push(settings.host);
    }
    for address in &settings.advertise {
        // A bare IPv6 address ends in what looks like a port.
        let bare = address.parse::<IpAddr>().is_ok();
        let host = match address.rsplit_once(':') {
            Some((host, port)) if !bare && port.parse::<u16>().is_ok() => host,
            _ => address,
        };
        match host.trim_matches(['[', ']']).parse() {
            Ok(ip) => hosts.push(ip),
            Err(_) => names.push(host.to_owned()),
        }
    }
    hosts.sort();
    hosts.dedup();
    (names, hosts)
}

/// A mesh starts with mTLS on everywhere (design decision 13): as an object, so that it can be seen and changed. The
/// namespaces of workloads that name none and of mesh-wide objects are there too.
async fn first_start(store: &Store) {
    if store.snapshot().revision != 0 {
        return;
    }
    let policy = ObjectRef {
        kind: "PeerAuthentication".to_owned(),
        namespace: ROOT_NAMESPACE.to_owned(),
        name: "default".to_owned(),
    };
    let value = serde_json::json!({
        "apiVersion": naka_api::Kind::PeerAuthentication.api_version(),
        "kind": policy.kind,
        "metadata": {"name": policy.name, "namespace": policy.namespace},
        "spec": {"mtls": {"mode": "STRICT"}},
    });
    let mut drafts: Vec<Draft> = [DEFAULT_NAMESPACE, ROOT_NAMESPACE]
        .into_iter()
        .map(namespace)
        .collect();
    drafts.push(Draft::put(
        "system",
        "a mesh starts with mTLS on",
        policy,
        value,
    ));
    if let Err(error) = store.commit(drafts).await {
        tracing::error!(%error, "the first objects could not be stored");
    }
}

fn namespace(name: &str) -> Draft {
    let object = ObjectRef {
        kind: "Namespace".to_owned(),
        namespace: String::new(),
        name: name.to_owned(),
    };
    let value = serde_json::json!({
        "apiVersion": naka_api::Kind::Namespace.api_version(),
        "kind": object.kind,
        "metadata": {"name": name},
    });
    Draft::put("system", "a mesh has it from the start", object, value)
}

impl Bound {
    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// SHA-256 of the root certificate, lower-case hex, as it stands in tokens.
    #[must_use]
    pub fn root_sha256(&self) -> String {
        self.authority.root_sha256()
    }

    /// The running parts, for whoever assembles more around them.
    #[must_use]
    pub fn plane(&self) -> &Arc<Plane> {
        &self.plane
    }

    /// Whether it is ready, and why not.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        Readiness::new(
            Arc::clone(&self.plane),
            Arc::clone(&self.certificate),
            Arc::clone(&self.authority),
        )
    }

    fn api_state(&self, status: Arc<Status>) -> Arc<apiserver::State> {
        let settings = &self.settings;
        let reachable = |port: u16| -> Vec<String> {
            let own = (!settings.host.is_unspecified()).then_some(settings.host);
            let own = own.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
            settings
                .advertise
                .iter()
                .map(|address| with_port(address, port))
                .chain([SocketAddr::new(own, port).to_string()])
                .collect()
        };
        let mesh = apiserver::Mesh {
            name: settings.mesh.clone(),
            trust_domain: settings.trust_domain.clone(),
            api: reachable(self.addresses.api.port()),
            xds: reachable(self.addresses.xds.port()),
            root_pem: self.authority.bundle().to_pem(),
            root_sha256: self.authority.root_sha256(),
            ground: Some(apiserver::Ground {
                dir: settings.dir.clone(),
                authority: Arc::clone(&self.authority),
                certificate: Arc::clone(&self.certificate),
                rollouts: Arc::clone(&self.rollouts),
                advertise: settings.advertise.clone(),
            }),
        };
        let trail = self.plane.denials.get().map(|stream| apiserver::Trail {
            stream: Arc::clone(stream),
            keep: settings.audit.keep_denials,
            keep_log: settings.audit.keep,
            when_full: settings.audit.when_full,
            places: self.export.shown(),
            most_behind: settings.audit.most_behind,
        });
        apiserver::State::new(Arc::clone(&self.plane.store), status, mesh, trail)
    }

    fn status(&self) -> Arc<Status> {
        // `<home>/mesh/<name>` and `<home>/run` are neighbours.
        let dir = &self.settings.dir;
        let home = dir.parent().and_then(std::path::Path::parent);
        Status::new(Arc::clone(&self.plane), home.unwrap_or(dir).join("run"))
    }

    /// Serves until `shutdown` resolves, then stops in good order.
    ///
    /// # Errors
    /// [`Error`] when a part can not be started.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let (stop, stopped) = watch::channel(false);
        let status = self.status();
        let state = self.api_state(Arc::clone(&status));
        let mut tasks = JoinSet::new();
        let plane = Arc::clone(&self.plane);
        tasks.spawn(async move { plane.push().await });
        let plane = Arc::clone(&self.plane);
        tasks.spawn(async move { plane.lease().await });
        let plane = Arc::clone(&self.plane);
        tasks.spawn(async move { plane.modes().await });
        let plane = Arc::clone(&self.plane);
        tasks.spawn(async move { plane.remember().await });
        let store = Arc::clone(&self.plane.store);
        let keys = jwks::Fetcher::new(store, self.settings.jwks.clone());
        let _ = self.plane.keys.set(Arc::clone(&keys));
        tasks.spawn(async move { keys.keep().await });
        if let Some(keep) = self.settings.audit.keep {
            tasks.spawn(outlive(Arc::clone(&self.plane.store), keep));
        }
        let places = self.export.shown();
        tasks.spawn(self.export.run());
        for place in self.collectors {
            tasks.spawn(place.run());
        }
        if let Some(source) = self.plane.source.get().cloned() {
            tasks.spawn(async move { source.watch().await });
        }
        tasks.spawn(renew(
            Arc::clone(&self.authority),
            Arc::clone(&self.certificate),
        ));
        tasks.spawn(metrics::serve(
            self.listeners.metrics,
            metrics::Sources {
                metrics: self.metrics.clone(),
                plane: Arc::clone(&self.plane),
                status,
                certificate: Arc::clone(&self.certificate),
                authority: Arc::clone(&self.authority),
                places,
            },
        ));
        let mut api_stop = stopped.clone();
        let api_tls = api_server_tls(Arc::clone(&self.certificate), &[b"h2", b"http/1.1"])?;
        let api = apiserver::serve(
            state,
            apiserver::Listeners {
                tls: Some((self.listeners.api, api_tls)),
                unix: Some(self.listeners.control),
            },
            async move {
                let _ = api_stop.wait_for(|stop| *stop).await;
            },
        );
        tasks.spawn(api);
        let ca = CaService::new(
            Arc::clone(&self.authority),
            Arc::clone(&self.plane.store),
            self.settings.leaf_ttl,
            self.metrics.clone(),
        );
        let revoked = self.plane.revoked.subscribe();
        let incoming = TlsIncoming::start(self.listeners.xds, self.rollouts.tls(), revoked);
        tasks.spawn(Arc::clone(&self.rollouts).run());
        let ads = Ads::new(Arc::clone(&self.plane), stopped.clone());
        let workloads = WorkloadService::new(
            Arc::clone(&self.plane),
            stopped.clone(),
            self.settings.leaf_ttl,
        );
        let routes = Routes::new(ca.into_service())
            .add_service(AdsServer::new(ads))
            .add_service(WorkloadsServer::new(workloads))
            .into_axum_router();
        let mut grpc_stop = stopped.clone();
        let grpc = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(naka_xds::driver::KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(naka_xds::driver::KEEPALIVE_TIMEOUT))
            .add_routes(Routes::from(routes.fallback(refusal::no_service)))
            .serve_with_incoming_shutdown(incoming, async move {
                let _ = grpc_stop.wait_for(|stop| *stop).await;
            });
        tasks.spawn(async move {
            if let Err(error) = grpc.await {
                tracing::error!(%error, "the xDS port failed");
            }
        });
        shutdown.await;
        stop.send_replace(true);
        // Streams that end by themselves get a moment; what hangs must not hold the process.
        tokio::time::sleep(STOP).await;
        tasks.shutdown().await;
        // Nobody may find a socket that nobody answers.
        let _ = std::fs::remove_file(self.addresses.control_sock);
        Ok(())
    }
}

/// Renews the control plane's own certificate by the rule everybody's is renewed by, and the intermediate above it.
async fn renew(authority: Arc<Authority>, certificate: Arc<ServerCert>) {
    let mut due = certificate.renew_at(fastrand::u32(..));
    loop {
        let wait = due.saturating_sub(naka_identity::now_s());
        tokio::time::sleep(Duration::from_secs(wait).clamp(SECOND, CLOCK_LOOK)).await;
        let now = naka_identity::now_s();
        match authority.renew(now) {
            // The own certificate may have ended with the old intermediate.
            Ok(true) => {
                tracing::info!("another intermediate signs from now on");
                due = 0;
            }
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "the intermediate could not be replaced"),
        }
        // From the future: the clock was set back, and nobody believes the certificate any more.
        if now < due && now >= certificate.not_before() {
            continue;
        }
        if let Err(error) = certificate.reissue(&authority, naka_identity::now_s()) {
            tracing::error!(%error, "the control plane's own certificate could not be renewed");
        }
        due = certificate.renew_at(fastrand::u32(..));
    }
}

/// An advertised address with the port, unless it names one itself.
fn with_port(address: &str, port: u16) -> String {
    if address.parse::<SocketAddr>().is_ok() {
        return address.to_owned();
    }
    if let Ok(ip) = address.trim_matches(['[', ']']).parse::<IpAddr>() {
        return SocketAddr::new(ip, port).to_string();
    }
    match address.rsplit_once(':') {
        Some((_, given)) if given.parse::<u16>().is_ok() => address.to_owned(),
        _ => format!("{address}:{port}"),
    }
}

fn make_dir(dir: &std::path::Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| Error::File {
            path: dir.to_owned(),
            source,
        })
}

async fn bind(settings: &Settings) -> Result<(Addresses, Listeners), Error> {
    let saved = Remembered::load(&settings.dir)?.ports;
    let want = settings.ports;
    let xds = tcp(settings, "xDS", want.xds, saved.xds).await?;
    let api = tcp(settings, "API", want.api, saved.api).await?;
    let metrics = tcp(settings, "metrics", want.metrics, saved.metrics).await?;
    let control_sock = settings.dir.join("control.sock");
    let control = unix(&control_sock).await?;
    let addresses = Addresses {
        xds: local(&xds)?,
        api: local(&api)?,
        metrics: local(&metrics)?,
        control_sock,
    };
    let ports = Ports {
        xds: addresses.xds.port(),
        api: addresses.api.port(),
        metrics: addresses.metrics.port(),
    };
    let remembered = Remembered {
        ports,
        advertise: settings.advertise.clone(),
        trust_domain: Some(settings.trust_domain.clone()),
        ..Remembered::default()
    };
    remembered.save(&settings.dir)?;
    let listeners = Listeners {
        xds,
        api,
        metrics,
        control,
    };
    Ok((addresses, listeners))
}

fn local(listener: &TcpListener) -> Result<SocketAddr, Error> {
    listener.local_addr().map_err(|source| Error::Bind {
        what: "address",
        address: String::new(),
        source,
    })
}

async fn tcp(
    settings: &Settings,
    what: &'static str,
    want: u16,
    saved: u16,
) -> Result<TcpListener, Error> {
    let port = if want == 0 { saved } else { want };
    let address = SocketAddr::new(settings.host, port);
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Bind {
            what,
            address: address.to_string(),
            source,
        })
}

async fn unix(path: &std::path::Path) -> Result<UnixListener, Error> {
    use std::os::unix::fs::PermissionsExt;
    let file = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    if path.exists() {
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            return Err(Error::Running(path.to_owned()));
        }
        std::fs::remove_file(path).map_err(file)?;
    }
    let listener = UnixListener::bind(path).map_err(file)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(file)?;
    Ok(listener)
}
