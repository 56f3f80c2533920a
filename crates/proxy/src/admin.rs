//! The admin pages: HTTP/1.1 on a Unix socket (0600), and read-only parts of it on loopback TCP.
//!
//! What changes anything (`POST`) exists on the Unix socket only: there the file's mode is the credential. The TCP
//! side answers GET, refuses browsers on foreign pages (Host and Origin are checked), and the metrics port has
//! nothing but metrics and readiness. No page shows a key or a token.

use crate::control_client::Line;
use crate::lease::Lease;
use crate::rotation::Feed;
use crate::settings::Port;
use crate::state::Shared;
use crate::{dump, run};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use naka_wire::v1;
use naka_wire::v1::register_request::State;
use serde_json::{Value as Json, json};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};

/// The longest body of an order.
const BODY_LIMIT: usize = 64 * 1024;
/// The longest a `?wait=` may hold a request.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const PAGES: &str = "\
GET  /ready[?wait=MS][&serving=1]  200 when identity, configuration and listeners are there\n\
GET  /healthz/ready       the same\n\
GET  /server_info         who this is and where it listens\n\
GET  /addresses           where it listens\n\
GET  /config_dump         configuration in force\n\
GET  /clusters            clusters and their endpoints\n\
GET  /certs               certificate and roots\n\
GET  /memory              memory of the process\n\
GET  /seen                traffic seen so far\n\
GET  /stats               counters, plain\n\
GET  /stats/prometheus    counters for Prometheus\n\
POST /drain[?wait=1]      stop taking calls, with acknowledgement\n\
POST /ports               {\"ports\":[8080]}: the program listens there\n\
POST /seen                {\"bypassed\":1,\"repaired\":0}: connections that the program made around this proxy, repairs of the capture rules\n\
POST /quit                end the process\n";

/// Orders that only the Unix socket takes.
#[derive(Debug)]
pub enum Order {
    /// Start the acknowledged drain; answered when it has ended.
    Drain(oneshot::Sender<()>),
    /// The program's ports.
    Ports(Vec<Port>, oneshot::Sender<Result<run::Addresses, String>>),
    /// End the process.
    Quit,
}

/// Which door a request came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Unix,
    Tcp,
    Metrics,
}

/// Binds the Unix socket, 0600 from its first moment, replacing one left by an earlier run.
///
/// # Errors
/// The system refuses.
pub fn bind(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The directory is 0700, so nobody gets in between binding and the change of mode.
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// What the pages are about: a proxy, or the agent beside one.
pub(crate) trait Subject: Send + Sync + 'static {
    /// Where orders go.
    fn orders(&self) -> &mpsc::Sender<Order>;
    /// How far a drain is.
    fn drain_report(&self) -> Json;
    /// Takes connections that the program made around its proxy, and repairs of the capture rules; what was seen of its
    /// traffic, if that is counted here.
    fn around(&self, bypassed: u64, repaired: u64) -> Option<Json>;
    /// A page.
    fn get(&self, path: &str, query: &str) -> impl Future<Output = Page> + Send;
}

impl Subject for Shared {
    fn orders(&self) -> &mpsc::Sender<Order> {
        &self.orders
    }
    fn drain_report(&self) -> Json {
        self.drain_report()
    }
    fn around(&self, bypassed: u64, repaired: u64) -> Option<Json> {
        self.bypassed(bypassed);
        self.repaired(repaired);
        Some(seen(&self.seen()))
    }
    fn get(&self, path: &str, query: &str) -> impl Future<Output = Page> + Send {
        get(path, query, self)
    }
}

/// Serves the Unix socket for ever.
pub(crate) async fn serve_unix(listener: UnixListener, shared: Arc<impl Subject>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => serve(stream, &shared, Door::Unix),
            Err(error) => pause(&error).await,
        }
    }
}

/// Serves a TCP listener for ever: all GET pages, or only metrics and readiness.
pub async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>, metrics_only: bool) {
    let door = if metrics_only {
        Door::Metrics
    } else {
        Door::Tcp
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => serve(stream, &shared, door),
            Err(error) => pause(&error).await,
        }
    }
}

async fn pause(error: &std::io::Error) {
    tracing::warn!(%error, "cannot accept an admin connection, pausing");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn serve<S>(stream: S, shared: &Arc<impl Subject>, door: Door)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let service = hyper::service::service_fn(move |request| {
            let shared = Arc::clone(&shared);
            async move { Ok::<_, Infallible>(answer(request, &*shared, door).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(hyper_util::rt::TokioTimer::new())
            .header_read_timeout(Duration::from_secs(10))
            .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "an admin connection ended");
        }
    });
}

pub(crate) type Page = Response<Full<Bytes>>;

fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(body.into()));
    *page.status_mut() = status;
    page.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static(kind),
    );
    page
}

pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Page {
    page(status, "text/plain; charset=utf-8", body)
}

pub(crate) fn as_json(status: StatusCode, body: &Json) -> Page {
    let mut text = serde_json::to_string_pretty(body).unwrap_or_default();
    text.push('\n');
    page(status, "application/json", text)
}

/// What asks for metrics with exemplars in the query, as `Accept` does.
const OPEN_METRICS: &str = "format=openmetrics";

async fn answer(request: Request<Incoming>, shared: &impl Subject, door: Door) -> Page {
    if door != Door::Unix {
        if let Some(refusal) = foreign(request.headers()) {
            return refusal;
        }
        if request.method() != Method::GET {
            return text(
                StatusCode::METHOD_NOT_ALLOWED,
                "only the Unix socket takes orders\n",
            );
        }
    }
    let path = request.uri().path().to_owned();
    let mut query = request.uri().query().unwrap_or_default().to_owned();
    let accept = request.headers().get(http::header::ACCEPT);
    if accept.is_some_and(|a| a.to_str().is_ok_and(naka_telemetry::wants_open_metrics)) {
        query = format!("{query}&{OPEN_METRICS}");
    }
    if door == Door::Metrics
        && !matches!(
            path.as_str(),
            "/metrics" | "/stats/prometheus" | "/ready" | "/healthz/ready"
        )
    {
        return text(StatusCode::NOT_FOUND, "metrics are at /stats/prometheus\n");
    }
    if request.method() == Method::POST {
        return order(request, &path, &query, shared).await;
    }
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET or POST\n");
    }
    shared.get(&path, &query).await
}

/// A page open in a browser must not read a developer's proxy by a rebound name or from another origin.
fn foreign(headers: &http::HeaderMap) -> Option<Page> {
    let host = headers
        .get(http::header::HOST)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let name = host
        .rsplit_once(':')
        .map_or(host, |(name, _)| name)
        .trim_matches(['[', ']']);
    let local = name == "localhost" || name.parse::<std::net::IpAddr>().is_ok();
    (!local || headers.contains_key(http::header::ORIGIN)).then(|| {
        text(
            StatusCode::FORBIDDEN,
            "this page is for local callers only\n",
        )
    })
}

pub(crate) fn param<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

async fn get(path: &str, query: &str, shared: &Shared) -> Page {
    match path {
        "/" | "/help" => text(StatusCode::OK, PAGES),
        "/ready" | "/healthz/ready" => ready(query, shared).await,
        "/server_info" => as_json(StatusCode::OK, &server_info(shared)),
        "/addresses" => as_json(StatusCode::OK, &json!(shared.addresses())),
        "/config_dump" => {
            let resources = shared.resources();
            // A dump of a large configuration takes a while; the main thread has acknowledgements to send.
            let made =
                tokio::task::spawn_blocking(move || dump::config(resources.iter().map(|r| &**r)))
                    .await;
            match made {
                Ok(made) => as_json(StatusCode::OK, &made),
                Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the dump failed\n"),
            }
        }
        "/clusters" => text(StatusCode::OK, clusters(shared)),
        "/certs" => as_json(StatusCode::OK, &certs(&shared.feed)),
        "/memory" => as_json(StatusCode::OK, &memory()),
        "/stats" => text(StatusCode::OK, stats(shared)),
        "/stats/prometheus" | "/metrics" => {
            shared.refresh_gauges();
            let (kind, told) = if query.split('&').any(|part| part == OPEN_METRICS) {
                (naka_telemetry::OPEN_METRICS, shared.metrics.render_open())
            } else {
                (naka_telemetry::CONTENT_TYPE, shared.metrics.render())
            };
            let mut page = page(StatusCode::OK, kind, told);
            // Whose counters they are: proxies of several meshes may have their sockets side by side.
            let own = shared
                .feed
                .now()
                .map(|now| now.svid.workload_id.to_string());
            if let Some(id) = own.and_then(|id| http::HeaderValue::try_from(id).ok()) {
                page.headers_mut().insert(naka_types::header::WORKLOAD, id);
            }
            page
        }
        "/seen" => as_json(StatusCode::OK, &seen(&shared.seen())),
        "/drain" | "/ports" | "/quit" => text(StatusCode::METHOD_NOT_ALLOWED, "POST it\n"),
        _ => text(StatusCode::NOT_FOUND, PAGES),
    }
}

async fn ready(query: &str, shared: &Shared) -> Page {
    let wait = param(query, "wait").and_then(|ms| ms.parse().ok());
    let wait = Duration::from_millis(wait.unwrap_or(0)).min(LONGEST_WAIT);
    let serving = param(query, "serving") == Some("1");
    let until_ready = shared.until_ready(serving);
    let _ = tokio::time::timeout(wait, until_ready).await;
    let missing = shared.missing(serving);
    let status = if missing.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let health = if missing.is_empty() {
        "healthy"
    } else {
        "unhealthy"
    };
    let body = json!({
        "status": health,
        "service": shared.settings.service,
        "ready": missing.is_empty(),
        "missing": missing,
        "why": shared.lacks(serving),
        "warnings": shared.warnings(),
        "state": state_word(&shared.lease),
    });
    as_json(status, &body)
}

pub(crate) fn state_word(lease: &Lease) -> &'static str {
    match lease.now().state() {
        State::Starting => "STARTING",
        State::Ready => "READY",
        State::Draining => "DRAINING",
        State::Unhealthy => "UNHEALTHY",
        State::Gone => "GONE",
    }
}

fn server_info(shared: &Shared) -> Json {
    let settings = &shared.settings;
    let line = shared.line.borrow().clone();
    let identity = shared.feed.now();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "role": settings.role,
        "namespace": settings.namespace,
        "service": settings.service,
        "service_account": settings.service_account,
        "workload_name": settings.workload_name,
        "labels": settings.labels,
        "workload_id": identity.as_ref().map(|i| i.svid.workload_id.to_string()),
        "spiffe": identity.as_ref().map(|i| i.svid.spiffe.to_string()),
        "state": state_word(&shared.lease),
        "addresses": shared.addresses(),
        "workers": shared.workers.all().len(),
        "uptime_ms": u64::try_from(shared.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "ready_after_ms": shared.ready_after_ms(),
        "control": control(&line),
        "config_revision": shared.revision(),
        "drain": shared.drain_report(),
    })
}

/// The line to the control plane.
pub(crate) fn control(line: &Line) -> Json {
    json!({
        "connected": line.connected,
        "address": line.address,
        "problem": line.problem,
        "connections": line.connections,
        "registered": line.registered,
        "problems": line.problems,
        "held": line.held,
    })
}

fn clusters(shared: &Shared) -> String {
    let snapshot = shared.snapshot();
    crate::state::describe_clusters(&snapshot)
}

pub(crate) fn certs(feed: &Feed) -> Json {
    let Some(identity) = feed.now() else {
        return json!({ "certificates": [] });
    };
    let svid = &identity.svid;
    let roots: Vec<Json> = identity
        .bundle
        .roots()
        .iter()
        .map(|root| json!({ "sha256": naka_identity::sha256_hex(root) }))
        .collect();
    json!({ "certificates": [{
        "spiffe": svid.spiffe.to_string(),
        "workload_id": svid.workload_id.to_string(),
        "not_before": svid.not_before,
        "not_after": svid.not_after,
        "renew_at": feed.renew_at(),
        "days_until_expiration": svid.remaining(naka_identity::now_s()).as_secs() / 86_400,
        "sha256": svid.chain.first().map(|leaf| naka_identity::sha256_hex(leaf)),
        "chain_length": svid.chain.len(),
        "trust_domain": identity.bundle.trust_domain(),
        "trusted_roots": roots,
    }]})
}

pub(crate) fn memory() -> Json {
    use naka_telemetry::process;
    json!({
        "resident_bytes": process::resident_bytes(),
        "threads": process::threads(),
        "open_files": process::open_files(),
        "cpu_ms": process::cpu_ms(),
    })
}

fn stats(shared: &Shared) -> String {
    let line = shared.line.borrow().clone();
    let mut out = String::new();
    let numbers: [(&str, u64); 6] = [
        ("server.uptime", shared.started.elapsed().as_secs()),
        ("control_plane.connected_state", u64::from(line.connected)),
        ("control_plane.connections", line.connections),
        ("config.resources", shared.resources().len() as u64),
        ("config.updates_applied", shared.updates_applied()),
        ("config.updates_rejected", shared.updates_rejected()),
    ];
    for (name, value) in numbers {
        let _ = writeln!(out, "{name}: {value}");
    }
    shared.refresh_gauges();
    for sample in shared.metrics.render().lines() {
        if let (false, Some((name, value))) = (sample.starts_with('#'), sample.rsplit_once(' ')) {
            let _ = writeln!(out, "{name}: {value}");
        }
    }
    out
}

async fn order(request: Request<Incoming>, path: &str, query: &str, shared: &impl Subject) -> Page {
    match path {
        "/drain" => {
            let (done, drained) = oneshot::channel();
            if shared.orders().send(Order::Drain(done)).await.is_err() {
                return text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
            }
            if param(query, "wait") == Some("1") {
                // A dropped sender means that the process stops: there is nothing left to drain.
                let _ = drained.await;
                return as_json(StatusCode::OK, &shared.drain_report());
            }
            text(StatusCode::ACCEPTED, "draining\n")
        }
        "/ports" => ports(request, shared).await,
        "/seen" => around(request, shared).await,
        "/quit" => match shared.orders().send(Order::Quit).await {
            Ok(()) => text(StatusCode::ACCEPTED, "stopping\n"),
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        },
        _ => text(StatusCode::NOT_FOUND, PAGES),
    }
}

/// `[8080]` or `[{"port":8080,"protocol":"grpc"}]`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Announced {
    ports: Vec<Either>,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Either {
    Number(u16),
    Full(Port),
}

/// What the proxy itself cannot see: connections that the program made around it, and repairs of the rules that capture
/// the machine.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Around {
    #[serde(default)]
    bypassed: u64,
    #[serde(default)]
    repaired: u64,
}

async fn around(request: Request<Incoming>, shared: &impl Subject) -> Page {
    match body::<Around>(request).await {
        Ok(around) => match shared.around(around.bypassed, around.repaired) {
            Some(seen) => as_json(StatusCode::OK, &seen),
            None => text(
                StatusCode::NOT_FOUND,
                "this proxy counts its traffic itself\n",
            ),
        },
        Err(refusal) => refusal,
    }
}

fn seen(seen: &v1::Seen) -> Json {
    json!({
        "http": seen.http,
        "tunnelled": seen.tunnelled,
        "opaque": seen.opaque,
        "bypassed": seen.bypassed,
        "repaired": seen.repaired,
    })
}

/// A small JSON body.
async fn body<T: serde::de::DeserializeOwned>(request: Request<Incoming>) -> Result<T, Page> {
    let refused = |problem: String| text(StatusCode::BAD_REQUEST, problem + "\n");
    let read = Limited::new(request.into_body(), BODY_LIMIT)
        .collect()
        .await;
    let bytes = read.map_err(|error| refused(error.to_string()))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))
}

async fn ports(request: Request<Incoming>, shared: &impl Subject) -> Page {
    let announced: Announced = match body(request).await {
        Ok(announced) => announced,
        Err(refusal) => return refusal,
    };
    let ports = announced
        .ports
        .into_iter()
        .map(|port| match port {
            Either::Number(number) => Port::plain(number),
            Either::Full(port) => port,
        })
        .collect();
    let (reply, answered) = oneshot::channel();
    if shared
        .orders()
        .send(Order::Ports(ports, reply))
        .await
        .is_err()
    {
        return text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    }
    match answered.await {
        Ok(Ok(addresses)) => as_json(StatusCode::OK, &json!({ "addresses": addresses })),
        Ok(Err(problem)) => text(StatusCode::CONFLICT, format!("{problem}\n")),
        Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
    }
}
