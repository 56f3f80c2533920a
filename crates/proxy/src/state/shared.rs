//! What the parts of the main thread know of each other: settings, identity, lease, line, and how far things are.

use crate::admin::Order;
use crate::control_client::Line;
use crate::dns::forward::Host;
use crate::intake::listener::{At, Opening};
use crate::lease::Lease;
use crate::names::Filter;
use crate::rotation::Feed;
use crate::run::Addresses;
use crate::seen::{self, Seen};
use crate::settings::{Role, Settings};
use crate::worker::Workers;
use naka_engine::model::{Health, Snapshot};
use naka_engine::runtime::Bar;
use naka_telemetry::{Metrics, name};
use naka_wire::v1;
use naka_wire::v1::register_request::State;
use naka_xds::Resource;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, watch};

/// A gateway without listeners cannot tell "none yet" from "none": after this long it counts as configured.
const GATEWAY_SETTLES: Duration = Duration::from_millis(200);

/// The longest that the end of a process waits for the disk.
const SAVING: Duration = Duration::from_secs(1);

/// How far configuration has come.
#[derive(Debug, Clone, Default)]
struct Progress {
    snapshot: Arc<Snapshot>,
    resources: Arc<Vec<Arc<Resource>>>,
    revision: String,
    applied: u64,
    rejected: u64,
    step: u64,
    names: Option<Arc<Filter>>,
    has_listener: bool,
    has_names: bool,
    has_tls: bool,
    first_answer: Option<Instant>,
    addresses: Addresses,
    inside: Option<u32>,
    ready_after: Option<Duration>,
    drain: Json,
}

/// Seen by admin, drain and readiness.
#[derive(Debug)]
pub struct Shared {
    /// Settings of the process.
    pub settings: Arc<Settings>,
    /// The host's name servers.
    pub(crate) servers: Arc<Host>,
    /// Who we are.
    pub feed: Arc<Feed>,
    /// What we register.
    pub lease: Arc<Lease>,
    /// The line to the control plane.
    pub line: Arc<watch::Sender<Line>>,
    /// Ports that configuration asks for.
    pub(crate) openings: watch::Sender<BTreeMap<At, Opening>>,
    /// All metrics.
    pub metrics: Metrics,
    /// The workers.
    pub workers: Arc<Workers>,
    /// Orders from the admin socket.
    pub orders: mpsc::Sender<Order>,
    /// When the process began.
    pub started: Instant,
    /// What the workers see, and (last) what was reported to be made around us.
    seen: Vec<Arc<Seen>>,
    /// Rung when somebody is to look who may be called again.
    barred: Arc<Notify>,
    progress: Mutex<Progress>,
    /// Asks the configuration's owner to save what is not saved yet, and says that it has.
    stopping: Notify,
    saved: Notify,
    /// Rings whenever something changed that readiness may depend on.
    bell: watch::Sender<u64>,
}

/// What [`Shared`] is built from.
#[derive(Debug)]
pub struct SharedParams {
    /// Settings of the process.
    pub settings: Arc<Settings>,
    /// Who we are.
    pub feed: Arc<Feed>,
    /// What we register.
    pub lease: Arc<Lease>,
    /// The line to the control plane.
    pub line: Arc<watch::Sender<Line>>,
    /// All metrics.
    pub metrics: Metrics,
    /// The workers.
    pub workers: Arc<Workers>,
    /// Where orders go.
    pub orders: mpsc::Sender<Order>,
    /// When the process began.
    pub started: Instant,
    /// What the workers see.
    pub seen: Vec<Arc<Seen>>,
    /// Rung when somebody is to look who may be called again.
    pub barred: Arc<Notify>,
}

impl Shared {
    /// Nothing has come yet.
    #[must_use]
    pub fn new(params: SharedParams) -> Self {
        Self {
            servers: Arc::new(Host::new(params.settings.resolv_conf.clone())),
            settings: params.settings,
            feed: params.feed,
            lease: params.lease,
            line: params.line,
            openings: watch::Sender::default(),
            metrics: params.metrics,
            workers: params.workers,
            orders: params.orders,
            started: params.started,
            seen: params.seen.into_iter().chain([Arc::default()]).collect(),
            barred: params.barred,
            progress: Mutex::default(),
            stopping: Notify::new(),
            saved: Notify::new(),
            bell: watch::Sender::new(0),
        }
    }

    /// What was seen of the program's traffic so far.
    #[must_use]
    pub fn seen(&self) -> v1::Seen {
        seen::total(&self.seen)
    }

    /// Connections that the program is known to have made around us.
    pub(crate) fn bypassed(&self, count: u64) {
        if let Some(reported) = self.seen.last() {
            reported.bypassed.fetch_add(count, Relaxed);
        }
    }

    /// The rules that capture this machine were changed by somebody and put right.
    pub(crate) fn repaired(&self, count: u64) {
        if let Some(reported) = self.seen.last().filter(|_| count > 0) {
            tracing::warn!(
                "somebody changed the capture rules of this machine; they were put right"
            );
            reported.repaired.fetch_add(count, Relaxed);
        }
    }

    /// The names of the mesh, once they are known.
    pub(crate) fn names(&self) -> Option<Arc<Filter>> {
        self.progress().names.clone()
    }

    pub(crate) fn names_are(&self, names: Arc<Filter>) {
        self.progress().names = Some(names);
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whoever waits for readiness to look again.
    pub fn bell(&self) {
        if self.progress().ready_after.is_none() && self.missing(false).is_empty() {
            self.progress().ready_after = Some(self.started.elapsed());
        }
        self.bell.send_modify(|rings| *rings += 1);
    }

    /// Has what is not saved yet written to disk; returns when it is, or after a moment.
    pub(crate) async fn save_now(&self) {
        self.stopping.notify_one();
        let _ = tokio::time::timeout(SAVING, self.saved.notified()).await;
    }

    pub(crate) async fn stopping(&self) {
        self.stopping.notified().await;
    }

    pub(crate) fn all_saved(&self) {
        self.saved.notify_one();
    }

    pub(crate) fn in_force(&self, snapshot: Arc<Snapshot>) {
        self.progress().snapshot = snapshot;
        self.barred.notify_one();
        self.bell();
    }

    pub(crate) fn identified(&self) {
        self.progress().has_tls = true;
        self.bell();
    }

    pub(crate) fn holds(&self, resources: Vec<Arc<Resource>>) {
        self.progress().resources = Arc::new(resources);
    }

    pub(crate) fn has(&self, listener: bool, names: bool) {
        let mut progress = self.progress();
        progress.has_listener = listener;
        progress.has_names = names;
    }

    pub(crate) fn first_answer(&self) {
        self.progress()
            .first_answer
            .get_or_insert_with(Instant::now);
    }

    pub(crate) fn count(&self, rejects: usize, revision: &str) {
        let mut progress = self.progress();
        progress.applied += 1;
        progress.rejected += u64::from(rejects > 0);
        if !revision.is_empty() {
            revision.clone_into(&mut progress.revision);
        }
    }

    pub(crate) fn step_passed(&self, step: u64) {
        self.progress().step = step;
        self.bell();
    }

    pub(crate) fn passed_step(&self) -> u64 {
        self.progress().step
    }

    /// Where we listen.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.progress().addresses.clone()
    }

    /// A process of the program's network namespace, where that is not ours.
    pub(crate) fn inside(&self) -> Option<u32> {
        self.progress().inside
    }

    pub(crate) fn set_inside(&self, inside: Option<u32>) {
        self.progress().inside = inside;
    }

    pub(crate) fn set_addresses(&self, addresses: Addresses) {
        self.progress().addresses = addresses;
        self.bell();
    }

    /// The snapshot all workers use.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.progress().snapshot)
    }

    /// Resources in force.
    #[must_use]
    pub fn resources(&self) -> Vec<Arc<Resource>> {
        self.progress().resources.to_vec()
    }

    /// Revision of the control plane's last word.
    #[must_use]
    pub fn revision(&self) -> String {
        self.progress().revision.clone()
    }

    /// Updates taken.
    #[must_use]
    pub fn updates_applied(&self) -> u64 {
        self.progress().applied
    }

    /// Updates of which something was refused.
    #[must_use]
    pub fn updates_rejected(&self) -> u64 {
        self.progress().rejected
    }

    /// Milliseconds from start to ready.
    #[must_use]
    pub fn ready_after_ms(&self) -> Option<f64> {
        self.progress()
            .ready_after
            .map(|after| after.as_secs_f64() * 1000.0)
    }

    /// How the drain stands.
    #[must_use]
    pub fn drain_report(&self) -> Json {
        self.progress().drain.clone()
    }

    pub(crate) fn set_drain_report(&self, report: Json) {
        self.progress().drain = report;
    }

    /// Whether calls for every bound port of the program can be taken.
    #[must_use]
    pub fn takes_calls(&self) -> bool {
        let progress = self.progress();
        progress
            .addresses
            .inbound
            .keys()
            .all(|port| progress.snapshot.inbound(*port).is_some())
    }

    /// What is still missing: for carrying the program's own calls, or with `serving` also for taking calls.
    #[must_use]
    pub fn missing(&self, serving: bool) -> Vec<&'static str> {
        let mut missing = Vec::new();
        {
            let progress = self.progress();
            if !progress.has_tls {
                missing.push("identity");
            }
            let gateway = self.settings.role == Role::Gateway;
            let settled = progress
                .first_answer
                .is_some_and(|at| at.elapsed() >= GATEWAY_SETTLES);
            let configured = if gateway {
                settled || progress.snapshot.virtual_hosts().next().is_some()
            } else {
                progress.has_listener && progress.has_names
            };
            if !configured || progress.step == 0 {
                missing.push("configuration");
            }
            if progress.addresses == Addresses::default() {
                missing.push("listeners");
            }
        }
        if !self.takes_calls() {
            missing.push("inbound configuration");
        }
        if serving {
            match self.lease.now().state() {
                State::Ready => {}
                State::Draining | State::Gone => missing.push("draining"),
                State::Starting | State::Unhealthy => missing.push("program"),
            }
            if !self.line.borrow().registered {
                missing.push("registration");
            }
        }
        missing
    }

    /// Resolves when nothing is missing.
    pub async fn until_ready(&self, serving: bool) {
        let mut bell = self.bell.subscribe();
        while !self.missing(serving).is_empty() {
            // The timeout is for what changes without a bell: a gateway that settles.
            let _ = tokio::time::timeout(Duration::from_millis(50), bell.changed()).await;
        }
    }

    /// Resolves at the next change that readiness may depend on, or after this time.
    pub(crate) async fn rung(&self, limit: Duration) {
        let mut bell = self.bell.subscribe();
        let _ = tokio::time::timeout(limit, bell.changed()).await;
    }

    /// Resolves when calls for every bound port can be taken.
    pub async fn until_takes_calls(&self) {
        let mut bell = self.bell.subscribe();
        while !self.takes_calls() {
            if bell.changed().await.is_err() {
                return;
            }
        }
    }

    /// Sets the gauges that are read rather than counted.
    pub fn refresh_gauges(&self) {
        let connected = u64::from(self.line.borrow().connected);
        self.metrics
            .number(name::CONTROL_CONNECTED, &[])
            .set(connected);
        if let Ok(revision) = self.revision().parse() {
            self.metrics
                .number(name::CONFIG_REVISION, &[])
                .set(revision);
        }
        let now = crate::io::process_start().elapsed();
        super::gauges::refresh(&self.metrics, &self.snapshot(), now);
    }
}

/// Clusters and endpoints, in the form of Envoy's `/clusters`.
#[must_use]
pub fn describe_clusters(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    let mut clusters: Vec<_> = snapshot.clusters().collect();
    clusters.sort_by_key(|cluster| Arc::clone(cluster.name()));
    for cluster in clusters {
        let name = cluster.name();
        let numbers = [
            ("lb_policy", cluster.spec.policy.as_str().to_owned()),
            ("protocol", cluster.spec.protocol.as_str().to_owned()),
            ("rq_active", cluster.runtime.requests().to_string()),
            ("cx_active", cluster.runtime.connections().to_string()),
            ("rq_pending", cluster.runtime.pending().to_string()),
            ("retries_active", cluster.runtime.retries().to_string()),
        ];
        for (key, value) in numbers {
            let _ = writeln!(out, "{name}::{key}::{value}");
        }
        for endpoint in &cluster.endpoints {
            let health = match endpoint.health {
                Health::Healthy => "healthy",
                Health::Draining => "draining",
                Health::Unhealthy => "unhealthy",
            };
            let at = endpoint.address;
            let bars = Bar::ALL.iter().filter(|bar| endpoint.state.has(**bar));
            for bar in bars {
                let _ = writeln!(out, "{name}::{at}::barred::{}", bar.as_str());
            }
            let _ = writeln!(out, "{name}::{at}::health_flags::{health}");
            let _ = writeln!(out, "{name}::{at}::weight::{}", endpoint.weight);
            let _ = writeln!(out, "{name}::{at}::mtls::{}", endpoint.mtls);
            let _ = writeln!(out, "{name}::{at}::workload::{}", endpoint.workload.name);
            let _ = writeln!(out, "{name}::{at}::rq_active::{}", endpoint.state.active());
        }
    }
    out
}
