//! Registration: a workload's lease is its stream, and a stopping workload learns when nobody will call it any more.
//!
//! Each message carries the workload's whole state. After DRAINING the stream reports who still may send requests:
//! subscribers that hold endpoints of the workload and have not acknowledged the draining state. A Naka proxy
//! acknowledges endpoints once all its workers have them; others count as done after 2 s. Whoever is silent for 5 s
//! is named and no longer waited for.

use crate::ca_service::{ConnIdentity, certificate, peer};
use crate::certificates;
use crate::denials;
use crate::outbox::{self, Responses};
use crate::plane::{Caller, Order, Plane};
use crate::push::{Epoch, SubscriberId};
use crate::registry::{Health, Registration, Seen, ServedPort, State, Verdict};
use naka_api::own::certificate_policy::Workload;
use naka_types::labels::Labels;
use naka_types::workload::Ulid;
use naka_wire::v1::verdict::Kind;
use naka_wire::v1::workloads_server::Workloads;
use naka_wire::v1::{
    self, CertificateTerms, DeniedRequest, DeniedResponse, DrainProgress, RegisterRequest,
    RegisterResponse, TracesRequest, TracesResponse, register_request,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

/// A silent subscriber is dropped after this.
const SILENT: Duration = Duration::from_secs(5);
/// A subscriber that cannot acknowledge draining counts as done after this.
const WITHOUT_ACK: Duration = Duration::from_secs(2);

/// So long after the last second of a renewal it is looked at again.
const LATE: Duration = Duration::from_mins(1);

/// Questions after traces that wait for one proxy.
const ASKED: usize = 256;
/// Verdicts of one proxy that are kept; ours tell no more.
const MOST_VERDICTS: usize = 64;
/// Longest name of a cluster that is kept.
const LONGEST_NAME: usize = 512;

/// The service.
#[derive(Debug, Clone)]
pub struct WorkloadService {
    plane: Arc<Plane>,
    stop: watch::Receiver<bool>,
    /// Lifetime of certificates where no policy has one.
    lifetime: Duration,
}

impl WorkloadService {
    /// A service on a plane; streams end when `stop` becomes true. `lifetime` is that of certificates where no policy
    /// has one.
    #[must_use]
    pub fn new(plane: Arc<Plane>, stop: watch::Receiver<bool>, lifetime: Duration) -> Self {
        Self {
            plane,
            stop,
            lifetime,
        }
    }
}

type Out = outbox::Sender<RegisterResponse>;

#[tonic::async_trait]
impl Workloads for WorkloadService {
    type RegisterStream = Responses<RegisterResponse>;
    type TracesStream = Responses<TracesResponse>;

    async fn register(
        &self,
        request: Request<Streaming<RegisterRequest>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        let mut caller = self.plane.caller(&peer(&request)?);
        let conn = request.extensions().get::<ConnIdentity>();
        caller.remote = conn.map(|conn| conn.remote().ip().to_canonical());
        let (out, responses) = outbox::channel(8);
        let service = self.clone();
        let requests = request.into_inner();
        tokio::spawn(async move {
            let stream = service.plane.stream();
            let ended = service.serve(stream, &caller, requests, &out).await;
            // When the control plane itself stops, no lease is lost: they are taken up again after the start.
            if !*service.stop.borrow() {
                service.plane.lost(stream);
            }
            if let Err(status) = ended {
                let _ = out.send(Box::new(Err(status))).await;
            }
        });
        Ok(Response::new(responses))
    }

    async fn traces(
        &self,
        request: Request<Streaming<TracesRequest>>,
    ) -> Result<Response<Self::TracesStream>, Status> {
        let caller = self.plane.caller(&peer(&request)?);
        let (out, responses) = outbox::channel(ASKED);
        let number = self.plane.traces.opened(&caller.workload_id, out.clone());
        let (service, mut requests) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            let ended = service.hear(&caller, &mut requests).await;
            service.plane.traces.closed(&caller.workload_id, number);
            if let Err(status) = ended {
                let _ = out.send(Box::new(Err(status))).await;
            }
        });
        Ok(Response::new(responses))
    }

    async fn denied(
        &self,
        request: Request<DeniedRequest>,
    ) -> Result<Response<DeniedResponse>, Status> {
        let caller = self.plane.caller(&peer(&request)?);
        let now = naka_identity::now_s() * 1000;
        let entries = denials::entries(&self.plane, &caller, request.into_inner(), now);
        let stream = self.plane.denials.get();
        let dropped = match stream {
            Some(stream) if !entries.is_empty() => stream.offer(entries),
            _ => 0,
        };
        Ok(Response::new(DeniedResponse { dropped }))
    }
}

impl WorkloadService {
    /// Takes what a proxy tells of traces for as long as it does.
    async fn hear(
        &self,
        caller: &Caller,
        requests: &mut Streaming<TracesRequest>,
    ) -> Result<(), Status> {
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                told = requests.message() => match told? {
                    Some(told) => self.plane.traces.told(&self.plane, caller, told),
                    None => return Ok(()),
                },
                () = stopped(&mut stop) => {
                    return Err(Status::unavailable("the control plane is stopping"));
                }
            }
        }
    }

    async fn serve(
        &self,
        stream: u64,
        caller: &Caller,
        mut requests: Streaming<RegisterRequest>,
        out: &Out,
    ) -> Result<(), Status> {
        let mut stop = self.stop.clone();
        let mut moves = self.plane.hub.moves();
        let mut orders = self.plane.renewals.subscribe();
        orders.mark_changed();
        let mut rules = self.plane.rules.subscribe();
        let mut drain: Option<Drain> = None;
        let mut known = false;
        let mut told: Option<Told> = None;
        loop {
            let wake = drain.as_ref().and_then(Drain::wake);
            let late = told.as_ref().and_then(Told::late);
            tokio::select! {
                request = requests.message() => match request? {
                    None => return Ok(()),
                    Some(request) => {
                        let state = state(&request);
                        let id = caller.workload_id.clone();
                        let (labels, capture) = (request.labels.clone(), request.capture.clone());
                        let response = self.take(stream, caller, request, state)?;
                        let registered = response.registered;
                        known |= registered;
                        told = Some(Told {
                            terms: response.certificate.clone().unwrap_or_default(),
                            labels,
                            capture,
                            response: response.clone(),
                        });
                        send(out, response).await?;
                        match state {
                            State::Draining if registered && drain.is_none() => {
                                drain = Some(Drain::new(id));
                            }
                            State::Draining => {}
                            State::Gone => return Ok(()),
                            _ => drain = None,
                        }
                    }
                },
                // A workload that has said nothing yet cannot be asked anything.
                Ok(()) = orders.changed(), if known => {
                    let order = orders.borrow_and_update().clone();
                    if let Some(within) = order.and_then(|order| self.asked(&order, caller)) {
                        let response = RegisterResponse {
                            revision: self.plane.store.snapshot().revision,
                            registered: true,
                            renew_within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
                            ..RegisterResponse::default()
                        };
                        send(out, response).await?;
                    }
                }
                changed = moves.changed(), if drain.as_ref().is_some_and(|d| !d.complete) => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                changed = rules.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                () = sleep_until(wake) => {}
                () = sleep_until(late) => {}
                () = stopped(&mut stop) => {
                    return Err(Status::unavailable("the control plane is stopping"));
                }
            }
            if let Some(told) = &mut told
                && let terms = self.terms(caller, &told.labels, &told.capture)
                && terms != told.terms
            {
                told.terms = terms.clone();
                let response = RegisterResponse {
                    certificate: Some(terms),
                    ..told.response.clone()
                };
                send(out, response).await?;
            }
            if let Some(drain) = &mut drain
                && let Some(progress) = drain.step(&self.plane)
            {
                let response = RegisterResponse {
                    revision: self.plane.store.snapshot().revision,
                    registered: true,
                    drain: Some(progress),
                    ..RegisterResponse::default()
                };
                send(out, response).await?;
            }
        }
    }

    /// How soon a workload is to renew its certificate, if an order means it.
    fn asked(&self, order: &Order, caller: &Caller) -> Option<Duration> {
        let id = Ulid::parse(&caller.workload_id)?;
        let issued = certificate(&self.plane.store.snapshot(), id)?;
        let registry = self.plane.registry();
        let shown = registry.shown(&caller.workload_id);
        order.means(&issued, shown).then_some(order.within)
    }

    /// What the policies of this moment say of the caller's certificate.
    fn terms(&self, caller: &Caller, labels: &Labels, capture: &str) -> CertificateTerms {
        let snapshot = self.plane.store.snapshot();
        let id = Ulid::parse(&caller.workload_id);
        let held = id.and_then(|id| certificate(&snapshot, id));
        let mut labels = labels.clone();
        labels.extend(held.iter().flat_map(|held| held.labels.clone()));
        let workload = Workload {
            namespace: caller.spiffe.namespace(),
            account: caller.spiffe.service_account(),
            labels: &labels,
        };
        let foreign = certificates::is_foreign(capture);
        let ruling = certificates::ruling(&snapshot, workload, self.lifetime, foreign);
        ruling.terms(held.as_ref(), naka_identity::now_s())
    }

    fn take(
        &self,
        stream: u64,
        caller: &Caller,
        request: RegisterRequest,
        state: State,
    ) -> Result<RegisterResponse, Status> {
        let revision = self.plane.store.snapshot().revision;
        let seen = request.seen.unwrap_or_default();
        let serial = request.certificate_serial.clone();
        let serial = Some(serial).filter(|serial| serial.len() <= LONGEST_NAME);
        let verdicts: Vec<Verdict> = {
            let told = request.verdicts.iter().take(MOST_VERDICTS);
            told.filter_map(verdict).collect()
        };
        let terms = self.terms(caller, &request.labels, &request.capture);
        let registration = registration(request, caller)?;
        let id = registration.workload_id.clone();
        let service = &registration.service;
        let allowed = service.is_empty() || caller.services.contains(service);
        let refused = if allowed {
            let done = self.plane.register(stream, registration, state);
            let mut registry = self.plane.registry();
            registry.found(&id, verdicts);
            registry.shows(&id, serial.unwrap_or_default());
            registry.saw(
                &id,
                Seen {
                    http: seen.http,
                    tunnelled: seen.tunnelled,
                    opaque: seen.opaque,
                    bypassed: seen.bypassed,
                    repaired: seen.repaired,
                    plain: seen.plain,
                    plain_refused: seen.plain_refused,
                    traced: seen.traced,
                    untraced: seen.untraced,
                },
            );
            done.err().map(|refused| refused.to_string())
        } else {
            Some(format!(
                "the proof by which {} joined does not cover serving {service}",
                caller.spiffe
            ))
        };
        Ok(RegisterResponse {
            revision,
            registered: refused.is_none(),
            problems: refused.into_iter().collect(),
            certificate: Some(terms),
            ..RegisterResponse::default()
        })
    }
}

/// A verdict as it is kept: of a kind that is known here, with names no longer than names are.
fn verdict(told: &v1::Verdict) -> Option<Verdict> {
    let kind = match told.kind() {
        Kind::Outlier => "outlier",
        Kind::HealthCheck => "health-check",
        Kind::Breaker => "breaker",
        Kind::Unknown => return None,
    };
    let sound = |text: &str| text.len() <= LONGEST_NAME && !text.contains(char::is_control);
    (sound(&told.cluster) && sound(&told.address)).then(|| Verdict {
        kind,
        cluster: told.cluster.clone(),
        address: told.address.clone(),
        since_ms: told.since_ms,
        until_ms: told.until_ms,
    })
}

/// What a workload was told last.
struct Told {
    response: RegisterResponse,
    terms: CertificateTerms,
    labels: Labels,
    capture: String,
}

impl Told {
    /// When to look again whether the renewal has come: a window that was missed gives way to the next one.
    fn late(&self) -> Option<Instant> {
        if self.terms.renew_until == 0 {
            return None;
        }
        let left = self
            .terms
            .renew_until
            .saturating_sub(naka_identity::now_s());
        Some(Instant::now() + Duration::from_secs(left) + LATE)
    }
}

/// Resolves when the control plane stops (or its handle is gone).
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn send(out: &Out, response: RegisterResponse) -> Result<(), Status> {
    let gone = |_| Status::cancelled("the workload is gone");
    out.send(Box::new(Ok(response))).await.map_err(gone)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn state(request: &RegisterRequest) -> State {
    use register_request::State as Said;
    match request.state() {
        Said::Starting => State::Starting,
        Said::Ready => State::Ready,
        Said::Draining => State::Draining,
        Said::Unhealthy => State::Unhealthy,
        Said::Gone => State::Gone,
    }
}

fn registration(request: RegisterRequest, caller: &Caller) -> Result<Registration, Status> {
    let pairs = [
        (
            "workload id",
            &request.workload_id,
            caller.workload_id.as_str(),
        ),
        ("namespace", &request.namespace, caller.spiffe.namespace()),
        (
            "service account",
            &request.service_account,
            caller.spiffe.service_account(),
        ),
    ];
    for (what, said, is) in pairs {
        if said != is {
            return Err(Status::permission_denied(format!(
                "the workload says {what} {said:?}, its identity says {is:?}"
            )));
        }
    }
    let invalid = |what: String| Status::invalid_argument(what);
    if !request.service.is_empty() {
        naka_types::host::check_label(&request.service).map_err(|e| invalid(e.to_string()))?;
    }
    let mut ports = Vec::with_capacity(request.ports.len());
    for port in request.ports {
        let number = u16::try_from(port.port).ok().filter(|number| *number > 0);
        let number = number.ok_or_else(|| invalid(format!("{} is not a port", port.port)))?;
        if port
            .inbound_address
            .parse::<std::net::SocketAddr>()
            .is_err()
        {
            let address = port.inbound_address;
            return Err(invalid(format!(
                "{address:?} is not an address with a port"
            )));
        }
        ports.push(ServedPort {
            port: number,
            inbound_address: port.inbound_address,
            protocol: port.protocol,
            name: port.name,
            first: port.first,
        });
    }
    if !request.capture.is_empty() {
        naka_types::host::check_label(&request.capture).map_err(|e| invalid(e.to_string()))?;
    }
    Ok(Registration {
        workload_id: request.workload_id,
        namespace: request.namespace,
        service: request.service,
        service_account: request.service_account,
        labels: request.labels,
        workload_name: request.workload_name,
        ports,
        ip: request.ip,
        gateway: request.gateway,
        capture: request.capture,
        seen_at: caller.remote.map_or_else(String::new, |ip| ip.to_string()),
    })
}

/// The wait of one draining workload.
#[derive(Debug)]
struct Drain {
    workload_id: String,
    since: Instant,
    epoch: Option<Epoch>,
    complete: bool,
    last: Option<DrainProgress>,
    waiting: BTreeMap<SubscriberId, String>,
}

impl Drain {
    fn new(workload_id: String) -> Self {
        Self {
            workload_id,
            since: Instant::now(),
            epoch: None,
            complete: false,
            last: None,
            waiting: BTreeMap::new(),
        }
    }

    /// When to look again if nothing moves.
    fn wake(&self) -> Option<Instant> {
        if self.complete {
            return None;
        }
        let now = Instant::now();
        [WITHOUT_ACK, SILENT]
            .into_iter()
            .map(|after| self.since + after)
            .find(|at| *at > now)
    }

    /// Looks at who still may call; progress if it differs from what was said last.
    fn step(&mut self, plane: &Plane) -> Option<DrainProgress> {
        if self.complete {
            return None;
        }
        // The wait starts with the first world that says so.
        let epoch = self.epoch.or_else(|| published(plane, &self.workload_id))?;
        self.epoch = Some(epoch);
        let elapsed = self.since.elapsed();
        self.waiting = plane
            .hub
            .callers(&self.workload_id, epoch)
            .into_iter()
            .filter(|(who, _, behind)| *behind && (who.drain_ack || elapsed < WITHOUT_ACK))
            .map(|(who, id, _)| (id, who.name))
            .collect();
        let names: Vec<String> = self.waiting.values().cloned().collect();
        let silent = elapsed >= SILENT;
        let progress = DrainProgress {
            complete: names.is_empty() || silent,
            waiting_for: if silent { Vec::new() } else { names.clone() },
            dropped_silent: if silent { names } else { Vec::new() },
        };
        self.complete = progress.complete;
        if self.last.as_ref() == Some(&progress) {
            return None;
        }
        self.last = Some(progress.clone());
        Some(progress)
    }
}

/// The current epoch, if its world knows that the workload drains (or does not know it at all).
fn published(plane: &Plane, workload_id: &str) -> Option<Epoch> {
    let (world, epoch) = plane.hub.current();
    let health = world.workload(workload_id).and_then(|member| member.health);
    matches!(health, None | Some(Health::Draining)).then_some(epoch)
}
