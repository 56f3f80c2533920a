//! Asking endpoints after their health.
//!
//! The main thread decides who is asked when, once for all workers; a worker asks, over connections made as those of
//! calls are, with the same identity and the same demands on the other side, but apart from their pools: a check takes
//! nobody's connection. What an answer means is the engine's.

use crate::http::body::ReqBody;
use crate::io::process_start;
use crate::proxy_header::Introduction;
use crate::tls::Carry;
use crate::upstream::connect::{To, connect};
use crate::upstream::pool::{ANYBODY, Key, Lease, Target};
use crate::worker::{Worker, WorkerMsg, Workers};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Version, header};
use http_body_util::BodyExt;
use naka_engine::health::{answered, forget, is_asked, next};
use naka_engine::model::{Ask, Cluster, ClusterId, Endpoint, HealthCheck, HttpVersion, Snapshot};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked whether there is anything to ask, where nothing is known to be due.
const LOOK: Duration = Duration::from_secs(1);
/// Longest answer of a gRPC health service that is read.
const ANSWER_BYTES: usize = 64;

/// Has endpoints asked as long as the proxy runs.
pub async fn check(snapshot: impl Fn() -> Arc<Snapshot>, workers: Arc<Workers>) {
    let mut due: HashMap<(ClusterId, SocketAddr), Instant> = HashMap::new();
    let mut rng = fastrand::Rng::new();
    let mut checked: BTreeMap<ClusterId, Arc<Cluster>> = BTreeMap::new();
    loop {
        let (now, mut wait) = (Instant::now(), LOOK);
        let snapshot = snapshot();
        let mut seen: BTreeMap<ClusterId, Arc<Cluster>> = BTreeMap::new();
        for cluster in snapshot.clusters() {
            let Some(check) = wanted(cluster) else {
                continue;
            };
            seen.insert(cluster.id, Arc::clone(cluster));
            let asked = cluster.endpoints.iter();
            for endpoint in asked.filter(|e| is_asked(e, process_start().elapsed())) {
                let at = due.entry((cluster.id, endpoint.address)).or_insert(now);
                if *at <= now {
                    *at = now + next(check, &mut rng);
                    let ask = WorkerMsg::Check(Arc::clone(cluster), Arc::clone(endpoint));
                    if let Some(worker) = workers.all().first() {
                        worker.send(ask).await;
                    }
                }
                wait = wait.min(at.saturating_duration_since(now));
            }
        }
        for (id, cluster) in &checked {
            if !seen.contains_key(id) {
                forget(cluster);
            }
        }
        due.retain(|(id, _), at| seen.contains_key(id) && *at > now);
        checked = seen;
        tokio::time::sleep(wait).await;
    }
}

fn wanted(cluster: &Cluster) -> Option<&HealthCheck> {
    cluster.spec.backend.as_ref()?.check.as_ref()
}

/// Asks one endpoint and takes note of what it says.
pub(crate) async fn ask(worker: Rc<Worker>, cluster: Arc<Cluster>, endpoint: Arc<Endpoint>) {
    let Some(check) = wanted(&cluster) else {
        return;
    };
    let asking = is_well(&worker, &cluster, &endpoint, check);
    let well = tokio::time::timeout(check.timeout, asking).await;
    let well = well.ok().flatten().unwrap_or(false);
    if let Some(healthy) = answered(&cluster, &endpoint, check, well, process_start().elapsed()) {
        let (name, address) = (cluster.name(), endpoint.address);
        tracing::info!(cluster = %name, %address, healthy, "a health check changed an endpoint");
    }
}

/// `None`: it could not be asked.
async fn is_well(
    worker: &Worker,
    cluster: &Arc<Cluster>,
    endpoint: &Endpoint,
    check: &HealthCheck,
) -> Option<bool> {
    let spec = &cluster.spec;
    let carry = match (&check.ask, spec.http) {
        (Ask::Tcp, _) => Carry::Tcp,
        (Ask::Grpc { .. }, _) | (_, HttpVersion::Http2) => Carry::Http2,
        _ => Carry::Http1,
    };
    let towards = worker.towards(cluster, endpoint, &spec.service.host, carry);
    let (tls, secured) = match towards.ok()? {
        Some((number, secured)) => (number, Some(secured)),
        None => (0, None),
    };
    // Nobody called.
    let said = spec
        .proxy_header
        .map(|header| Introduction { header, ends: None });
    if carry == Carry::Tcp {
        let (sockets, limit) = (&worker.sockets, spec.connect_timeout);
        let to = endpoint.address;
        let secured = secured.as_ref();
        let made = connect(
            sockets,
            &To::Anyone,
            to,
            limit,
            secured,
            None,
            said.as_ref(),
        )
        .await;
        return Some(made.is_ok());
    }
    let target = Target {
        key: Key {
            cluster: None,
            address: endpoint.address,
            tls,
            carry,
            client: ANYBODY,
        },
        to: To::Anyone,
        cluster: None,
        limit: spec.connect_timeout,
        secured,
        said,
        keep: Duration::ZERO,
        class: 0,
    };
    let lease = worker.pools.lease(&target).await.ok()?;
    let version = match &lease {
        Lease::Alone(_) => Version::HTTP_11,
        Lease::Stream(_) => Version::HTTP_2,
    };
    let request = request(check, &spec.service.host, version)?;
    let (response, _busy) = lease.send(request, target.key, &worker.pools).await.ok()?;
    let status = response.status().as_u16();
    match &check.ask {
        Ask::Http { statuses, .. } if statuses.is_empty() => Some(status == 200),
        Ask::Http { statuses, .. } => {
            let mut ranges = statuses.iter();
            Some(ranges.any(|(from, to)| (*from..*to).contains(&status)))
        }
        Ask::Grpc { .. } => {
            let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES);
            let collected = body.collect().await.ok()?;
            let told = collected
                .trailers()
                .and_then(|t| t.get("grpc-status").cloned());
            let ok = told.is_none_or(|status| status == "0");
            // One message, whose first field says SERVING.
            let serving = collected
                .to_bytes()
                .get(5..)
                .is_some_and(|m| m == [0x08, 0x01]);
            Some(status == 200 && ok && serving)
        }
        Ask::Tcp => None,
    }
}

fn request(check: &HealthCheck, own: &str, version: Version) -> Option<Request<ReqBody>> {
    let (method, path, host, body) = match &check.ask {
        Ask::Http { path, host, .. } => (Method::GET, &**path, &**host, ReqBody::Empty),
        Ask::Grpc { service } => {
            let path = "/grpc.health.v1.Health/Check";
            (Method::POST, path, own, ReqBody::Once(message(service)))
        }
        Ask::Tcp => return None,
    };
    let uri = match version {
        Version::HTTP_2 => format!("http://{host}{path}"),
        _ => path.to_owned(),
    };
    let mut request = Request::builder().method(method).uri(uri).version(version);
    if version != Version::HTTP_2 {
        request = request.header(header::HOST, host);
    }
    request = request.header(header::USER_AGENT, "naka/health-check");
    if matches!(check.ask, Ask::Grpc { .. }) {
        let grpc = HeaderValue::from_static("application/grpc");
        request = request
            .header(header::CONTENT_TYPE, grpc)
            .header(header::TE, "trailers");
    }
    request.body(body).ok()
}

/// `HealthCheckRequest {service}` as one message of gRPC.
fn message(service: &str) -> Option<Bytes> {
    let name = service.as_bytes();
    let length = u8::try_from(name.len()).ok().filter(|n| *n < 0x80)?;
    let mut inner = Vec::new();
    if length > 0 {
        inner.extend([0x0a, length]);
        inner.extend(name);
    }
    let mut framed = vec![0];
    framed.extend(u32::try_from(inner.len()).ok()?.to_be_bytes());
    framed.extend(inner);
    Some(framed.into())
}
