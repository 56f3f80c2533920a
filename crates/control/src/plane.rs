//! The running control plane without its sockets: store, registry and hub, and the loops between them.
//!
//! Changes come from two sides, commits to the store and what workloads say on their streams. [`Plane::push`] joins
//! both into worlds: at once when an endpoint became worse, else after a short pause in which more may come.
//! What the registry wants remembered goes through one journal task, so its order in the log is the order in which it
//! happened, and many joins at once share one commit.
//!
//! Invariant: the registry decides in memory and never waits for the disk; losing the journal's tail to a crash
//! costs a repeated join, because every proxy says everything again when it reconnects.

use crate::ca_service::{Certificate, PeerIdentity, certificate};
use crate::certificates::Rules;
use crate::jwks;
use crate::modes;
use crate::push::{Hub, Phases};
use crate::registry::{Millis, Note, Outcome, Refused, Registration, Registry, State};
use crate::settings::Leases;
use crate::source::Source;
use crate::traces::Traces;
use crate::world::{Inputs, World, claim, secrets};
use naka_identity::Revoked;
use naka_store::{Draft, Store, Stream};
use naka_telemetry::Metrics;
use naka_types::spiffe::SpiffeId;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, watch};

/// Record kind of registrations.
pub const REGISTRATION_RECORD: &str = "registration";
/// Record kind of owners of undeclared services; the id is `<namespace>/<service>`.
pub const OWNER_RECORD: &str = "service-owner";

/// How long a change that is not urgent waits for company.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// Notes that share one commit at most.
const BATCH: usize = 256;

/// Who is on a connection, as its TLS or its token proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Identity.
    pub spiffe: SpiffeId,
    /// Workload id.
    pub workload_id: String,
    /// Services its proof covers.
    pub services: Vec<String>,
    /// Where it comes from.
    pub remote: Option<IpAddr>,
}

/// All certificates are to lead to this root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// SHA-256 of the root.
    pub root: String,
    /// Renewals are spread over this time.
    pub within: Duration,
}

impl Order {
    /// Whether a workload that shows the certificate with this serial number (empty: not said) is meant.
    #[must_use]
    pub fn means(&self, issued: &Certificate, shown: &str) -> bool {
        issued.root != self.root || !shown.is_empty() && shown != issued.serial
    }
}

/// Everything the services share.
#[derive(Debug)]
pub struct Plane {
    /// Events and state.
    pub store: Arc<Store>,
    /// Worlds and subscribers.
    pub hub: Arc<Hub>,
    registry: Mutex<Registry>,
    trust_domain: Arc<str>,
    roots: Mutex<Arc<str>>,
    /// Who is to renew its certificate before its time.
    pub renewals: watch::Sender<Option<Order>>,
    /// Workloads whose certificates count no more.
    pub revoked: watch::Sender<Arc<Revoked>>,
    /// What decides about certificates: registrations tell workloads anew when it differs.
    pub rules: watch::Sender<Rules>,
    started: Instant,
    poke: Notify,
    hurry: Notify,
    urgent: AtomicBool,
    next_stream: AtomicU64,
    /// The watched directory, if there is one.
    pub source: OnceLock<Arc<Source>>,
    /// Traces that are kept.
    pub traces: Traces,
    /// The stream of refused calls.
    pub denials: OnceLock<Arc<Stream>>,
    /// Who fetches keys of issuers, once the control plane serves.
    pub keys: OnceLock<Arc<jwks::Fetcher>>,
    journal: mpsc::UnboundedSender<Note>,
    written: Mutex<Option<mpsc::UnboundedReceiver<Note>>>,
}

impl Plane {
    /// Restores the registry from the store and publishes the first world.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        trust_domain: &str,
        roots: &str,
        leases: Leases,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let (journal, written) = mpsc::unbounded_channel();
        let plane = Arc::new(Self {
            registry: Mutex::new(restored(&store, leases)),
            store,
            hub: Arc::new(Hub::timed(Phases::of(metrics))),
            trust_domain: trust_domain.into(),
            roots: Mutex::new(roots.into()),
            renewals: watch::Sender::default(),
            revoked: watch::Sender::default(),
            rules: watch::Sender::default(),
            started: Instant::now(),
            poke: Notify::new(),
            hurry: Notify::new(),
            urgent: AtomicBool::new(false),
            next_stream: AtomicU64::new(0),
            source: OnceLock::new(),
            traces: Traces::default(),
            denials: OnceLock::new(),
            keys: OnceLock::new(),
            journal,
            written: Mutex::new(Some(written)),
        });
        plane.publish();
        plane
    }

    /// The registry, for reading.
    pub fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Trust domain of the mesh.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Roots that proxies are to trust from the next world on, PEM.
    pub fn trust(&self, roots: &str) {
        *self.roots.lock().unwrap_or_else(PoisonError::into_inner) = roots.into();
        self.poke.notify_one();
    }

    fn now(&self) -> Millis {
        Millis::try_from(self.started.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    /// A connection's peer with what its certificate was issued for.
    #[must_use]
    pub fn caller(&self, peer: &PeerIdentity) -> Caller {
        let issued = certificate(&self.store.snapshot(), peer.workload_id);
        Caller {
            spiffe: peer.spiffe.clone(),
            workload_id: peer.workload_id.to_string(),
            services: issued.map(|issued| issued.services).unwrap_or_default(),
            remote: None,
        }
    }

    /// A number for a new registration stream.
    pub fn stream(&self) -> u64 {
        self.next_stream.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A workload said something.
    ///
    /// # Errors
    /// [`Refused`] when it may not serve under its name.
    pub fn register(
        &self,
        stream: u64,
        registration: Registration,
        state: State,
    ) -> Result<(), Refused> {
        let snapshot = self.store.snapshot();
        let claim = claim(&snapshot, &registration.namespace, &registration.service);
        let now = self.now();
        let mut registry = self.registry();
        let outcome = registry.register(stream, registration, state, &claim, now)?;
        self.take(outcome);
        drop(registry);
        Ok(())
    }

    /// A stream ended.
    pub fn lost(&self, stream: u64) {
        let now = self.now();
        let mut registry = self.registry();
        let outcome = registry.lost(stream, now);
        self.take(outcome);
    }

    /// Called with the registry locked, so that the journal keeps its order.
    fn take(&self, outcome: Outcome) {
        for note in outcome.notes {
            // The journal ends with the plane; then nobody is left to remember for.
            let _ = self.journal.send(note);
        }
        if outcome.urgent {
            self.urgent.store(true, Ordering::Release);
            self.hurry.notify_one();
        }
        if outcome.changed {
            self.poke.notify_one();
        }
    }

    /// The world of this moment, on top of any snapshot, with what modes that are on lay over it.
    #[must_use]
    pub fn world_of(&self, snapshot: &naka_store::Snapshot) -> World {
        let laid = modes::overlay(snapshot, modes::now_ms());
        let snapshot = laid.as_ref().unwrap_or(snapshot);
        let registry = self.registry();
        let roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        World::build(Inputs {
            snapshot,
            secrets: secrets::named(snapshot, |object| self.store.reveal(object).ok()),
            members: registry.members(),
            owners: registry.owners(),
            trust_domain: Arc::clone(&self.trust_domain),
            roots: Arc::clone(&roots),
        })
    }

    fn publish(&self) {
        let began = Instant::now();
        let snapshot = self.store.snapshot();
        let world = self.world_of(&snapshot);
        let rules = Rules::of(&snapshot);
        self.rules.send_if_modified(|held| {
            let differs = *held != rules;
            *held = rules;
            differs
        });
        // Those who are on the list hear nothing of this world any more.
        self.revoked.send_if_modified(|held| {
            let differs = *held != world.revoked;
            *held = Arc::clone(&world.revoked);
            differs
        });
        self.hub.publish(world);
        self.hub.phases.compile.record(began.elapsed());
    }

    /// Publishes a world whenever something changed. Runs until it is dropped.
    pub async fn push(&self) {
        let mut revisions = self.store.subscribe();
        loop {
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return },
                () = self.poke.notified() => {}
            }
            let changed = Instant::now();
            if !self.urgent.load(Ordering::Acquire) {
                tokio::select! {
                    () = tokio::time::sleep(DEBOUNCE) => {}
                    () = self.hurry.notified() => {}
                }
            }
            self.urgent.store(false, Ordering::Release);
            revisions.mark_unchanged();
            self.hub.phases.debounce.record(changed.elapsed());
            self.publish();
        }
    }

    /// Ends modes. Runs until it is dropped. A world is made without a mode whose time has come even where the log takes
    /// no event any more.
    pub async fn modes(&self) {
        let mut watch = modes::Watch::default();
        loop {
            let snapshot = self.store.snapshot();
            let ended = watch.ended(&snapshot, modes::now_ms(), self.now());
            if !ended.is_empty() {
                if let Err(error) = self.store.commit(ended).await {
                    tracing::error!(%error, "a mode has ended, and that could not be remembered");
                }
                self.urgent.store(true, Ordering::Release);
                self.hurry.notify_one();
                self.poke.notify_one();
            }
            tokio::time::sleep(modes::TICK).await;
        }
    }

    /// Lets leases run out. Runs until it is dropped.
    pub async fn lease(&self) {
        loop {
            let now = self.now();
            let deadline = {
                let mut registry = self.registry();
                let outcome = registry.tick(now);
                self.take(outcome);
                registry.deadline(now)
            };
            // Deadlines that appear meanwhile are seconds away, so looking again each second misses none by much.
            let wait = deadline
                .map_or(1_000, |at| at.saturating_sub(now))
                .clamp(1, 1_000);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    }

    /// Writes what the registry wants remembered. Runs until it is dropped.
    pub async fn remember(&self) {
        let taken = self
            .written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(mut written) = taken else {
            return;
        };
        let mut notes = Vec::with_capacity(BATCH);
        while written.recv_many(&mut notes, BATCH).await > 0 {
            let drafts = notes.drain(..).map(draft).collect();
            if let Err(error) = self.store.commit(drafts).await {
                tracing::error!(%error, "registrations are not remembered across a restart");
            }
        }
    }
}

fn restored(store: &Store, leases: Leases) -> Registry {
    let mut registry = Registry::new(leases);
    let snapshot = store.snapshot();
    for (_, value) in snapshot.records_of(OWNER_RECORD) {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
        let (namespace, service) = (text("namespace"), text("service"));
        registry.restore_owner(namespace, service, text("service_account"));
    }
    for (id, value) in snapshot.records_of(REGISTRATION_RECORD) {
        let ready = value.get("ready").and_then(Value::as_bool).unwrap_or(false);
        match serde_json::from_value::<Registration>(value.as_ref().clone()) {
            Ok(registration) => registry.restore(registration, ready),
            Err(error) => tracing::warn!(id, %error, "a stored registration cannot be read"),
        }
    }
    registry
}

fn draft(note: Note) -> Draft {
    match note {
        Note::Put {
            event,
            registration,
            ready,
        } => {
            let mut value = json!(*registration);
            value["ready"] = Value::Bool(ready);
            let id = &registration.workload_id;
            let actor = format!("workload:{id}");
            Draft::record(&actor, "", event, REGISTRATION_RECORD, id, Some(value))
        }
        Note::Leave { workload_id, why } => {
            let actor = format!("workload:{workload_id}");
            let kind = "registration.leave";
            Draft::record(&actor, why, kind, REGISTRATION_RECORD, &workload_id, None)
        }
        Note::Own {
            namespace,
            service,
            service_account,
        } => {
            let id = format!("{namespace}/{service}");
            let value = json!({
                "namespace": namespace,
                "service": service,
                "service_account": service_account,
            });
            Draft::record(
                "system",
                "first to run it",
                "service.own",
                OWNER_RECORD,
                &id,
                Some(value),
            )
        }
    }
}
