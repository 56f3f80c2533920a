//! Counts for rollouts, and does what they call for.
//!
//! One task looks: at once after each change of the store, and a few times a second while a rollout is under way. It is
//! the only one that takes steps; the API only writes objects and records (start, promote, abort). Rollouts are done one
//! after the other, the oldest object first.
//!
//! Invariant: the authority changes first, then the record. Cut off in between, the next look finds the step done.

use super::strict::Watched;
use super::{Action, Change, Counts, Live, Phase, Plain, ROLLOUT, Rollout, gate, step};
use crate::ca_service::{CERTIFICATE, Certificate, REVOKED};
use crate::compile::ROOT_CA;
use crate::plane::{Order, Plane};
use crate::push::Epoch;
use naka_api::own::rollout as api;
use naka_api::security::peer_authentication::MtlsMode;
use naka_api::{Kind, Object};
use naka_identity::rotate::Next;
use naka_identity::tls::control_server_tls;
use naka_identity::{Authority, ServerCert, now_s};
use naka_store::{Draft, Filter, Snapshot, rfc3339};
use naka_types::host::ROOT_NAMESPACE;
use naka_types::labels::selects;
use naka_types::name::ObjectRef;
use serde::Deserialize;
use serde_json::json;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_rustls::rustls::ServerConfig;

/// How often a rollout under way is looked at.
const LOOK: Duration = Duration::from_millis(200);
const AFTER_ERROR: Duration = Duration::from_secs(2);
/// Agents of proxies that are none of ours acknowledge before those do; they get this long, in whole seconds.
const FOREIGN_S: u64 = 3;
/// Certificates are renewed at this rate, and in a hurry at ten times of it.
const RENEWALS_A_SECOND: u64 = 50;
const LEAST_SPREAD: Duration = Duration::from_secs(2);
const LEAST_HURRIED: Duration = Duration::from_millis(500);

/// The driver of one control plane.
#[derive(Debug)]
pub struct Driver {
    plane: Arc<Plane>,
    authority: Arc<Authority>,
    certificate: Arc<ServerCert>,
    tls: watch::Sender<Arc<ServerConfig>>,
    sent: Mutex<Sent>,
    watched: Mutex<Watched>,
    /// Held from reading a record to having written it.
    turn: tokio::sync::Mutex<()>,
}

/// Where to look for the trust bundle of the present step.
#[derive(Debug, Clone, Copy)]
enum Sent {
    /// In the world of this store revision, once there is one.
    With(u64),
    /// In this world.
    In(Epoch),
}

/// Why a rollout cannot be started or moved by hand.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none of this name.
    #[error("there is no rollout {0:?}; \"naka rollout list\" shows those there are")]
    Unknown(String),
    /// It cannot be done now.
    #[error("{0}")]
    Not(String),
    /// The authority.
    #[error(transparent)]
    Identity(#[from] naka_identity::Error),
    /// The log.
    #[error(transparent)]
    Store(#[from] naka_store::Error),
}

/// What a rotation is asked for.
#[derive(Debug)]
pub struct Wanted {
    /// Where the next root comes from.
    pub next: Next,
    /// Each step waits for a word.
    pub manual: bool,
    /// Somebody else may have the present root's key: the time until it is dropped at the latest.
    pub compromised_within_s: Option<u64>,
}

impl Driver {
    /// A driver; call [`Driver::run`] to set it going.
    ///
    /// # Errors
    /// When the port's TLS cannot be set up.
    pub fn new(
        plane: Arc<Plane>,
        authority: Arc<Authority>,
        certificate: Arc<ServerCert>,
    ) -> Result<Arc<Self>, naka_identity::Error> {
        let tls = control_server_tls(Arc::clone(&certificate), &authority.bundle(), &[b"h2"])?;
        let sent = Sent::In(plane.hub.epoch());
        Ok(Arc::new(Self {
            plane,
            authority,
            certificate,
            tls: watch::Sender::new(tls),
            sent: Mutex::new(sent),
            watched: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }))
    }

    /// TLS of the port that proxies come to, by the roots of the moment.
    #[must_use]
    pub fn tls(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.tls.subscribe()
    }

    /// All rollouts, the oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Rollout> {
        all(&self.plane.store.snapshot())
    }

    /// Why a rollout does not go on; empty when it has ended.
    #[must_use]
    pub fn waits(&self, rollout: &Rollout) -> String {
        match step(rollout, &self.counts(rollout), now_s()) {
            Action::Wait(why) => why,
            _ => "it goes on at once".to_owned(),
        }
    }

    /// Starts another root.
    ///
    /// # Errors
    /// [`Error::Not`] while the root is being changed; the authority's own words when the root may not be the next.
    pub async fn rotate(self: &Arc<Self>, wanted: Wanted, actor: &str) -> Result<Rollout, Error> {
        let _turn = self.turn.lock().await;
        if let Some(open) = self.all().iter().find(|one| !one.phase.ended()) {
            return Err(Error::Not(format!(
                "rollout {} changes the root already (step {}); wait for it, or \"naka rollout abort {}\"",
                open.name,
                open.phase.word(),
                open.name
            )));
        }
        let compromised = wanted.compromised_within_s;
        self.prepare(wanted.next, compromised.is_some()).await?;
        let to = self.authority.stage().prepared.unwrap_or_default();
        let object = ObjectRef {
            kind: Kind::Rollout.as_str().to_owned(),
            namespace: ROOT_NAMESPACE.to_owned(),
            name: format!("root-{}", to.get(..8).unwrap_or(&to)),
        };
        let mut spec = json!({"rootRotation": {}});
        if let Some(within) = compromised {
            spec["rootRotation"]["compromisedWithin"] = json!(format!("{within}s"));
        }
        if wanted.manual {
            spec["manual"] = json!(true);
        }
        let value = json!({
            "apiVersion": Kind::Rollout.api_version(), "kind": object.kind, "spec": spec,
            "metadata": {"name": object.name, "namespace": object.namespace},
        });
        let draft = Draft::put(actor, "another root", object.clone(), value);
        self.plane.store.commit(vec![draft]).await?;
        let snapshot = self.plane.store.snapshot();
        let made = snapshot.objects.get(&object).map(AsRef::as_ref);
        let made = made.ok_or_else(|| Error::Unknown(object.name.clone()))?;
        self.begin(made, actor).await
    }

    async fn prepare(self: &Arc<Self>, next: Next, compromised: bool) -> Result<(), Error> {
        let this = Arc::clone(self);
        blocking(move || this.authority.prepare(&next, compromised, now_s())).await
    }

    /// The record of an object whose root is prepared, or could not be.
    async fn begin(self: &Arc<Self>, object: &Object, actor: &str) -> Result<Rollout, Error> {
        let wanted = object.rollout();
        let wanted = wanted.ok_or_else(|| Error::Unknown(object.meta.name.clone()))?;
        let now = now_s();
        let (change, phase, problem) = match &wanted.change {
            api::Change::RootRotation { compromised_within } => {
                let within = compromised_within.map(|within| within.as_secs());
                let (change, problem) = self.another_root(within).await;
                (change, Phase::Trust, problem)
            }
            api::Change::Strict {
                namespace,
                name,
                quiet_for,
                without_counts,
            } => {
                let change = Change::PeerAuthentication {
                    namespace: namespace.clone(),
                    name: name.clone(),
                    quiet_s: quiet_for.as_secs(),
                    without_counts: without_counts.clone(),
                };
                (change, Phase::Watch, self.mild(namespace, name).err())
            }
        };
        let rollout = Rollout {
            name: object.meta.name.clone(),
            uid: object.meta.uid.clone(),
            change,
            manual: wanted.manual,
            started_by: actor.to_owned(),
            started_s: now,
            phase: if problem.is_some() {
                Phase::Aborted
            } else {
                phase
            },
            since_s: now,
            promoted: false,
            aborted_by: None,
            left_behind: Vec::new(),
            problem: problem.unwrap_or_default(),
        };
        self.show().await?;
        self.write(&rollout, actor, "rollout.start").await?;
        Ok(rollout)
    }

    /// Another root, unless one is prepared already, and why it cannot be.
    async fn another_root(self: &Arc<Self>, within: Option<u64>) -> (Change, Option<String>) {
        let mut problem = None;
        if self.authority.stage().prepared.is_none()
            && let Err(error) = self.prepare(Next::Made, within.is_some()).await
        {
            problem = Some(error.to_string());
        }
        let stage = self.authority.stage();
        let change = Change::RootRotation {
            compromised_within_s: within,
            from: stage.signs,
            to: stage.prepared.unwrap_or_default(),
        };
        (change, problem)
    }

    /// The PeerAuthentication that is to become STRICT, if it is PERMISSIVE.
    fn mild(&self, namespace: &str, name: &str) -> Result<Arc<Object>, String> {
        let reference = peer_authentication(namespace, name);
        let snapshot = self.plane.store.snapshot();
        let object = snapshot.objects.get(&reference);
        let object = object.ok_or_else(|| format!("there is no {reference}"))?;
        let mode = object.peer_authentication().and_then(|one| one.mode);
        match mode {
            Some(MtlsMode::Permissive) => Ok(Arc::clone(object)),
            _ => Err(format!("{reference} is not PERMISSIVE")),
        }
    }

    /// Writes the mode of a PeerAuthentication.
    async fn mode(&self, rollout: &Rollout, mode: &str) -> Result<(), Error> {
        let Change::PeerAuthentication {
            namespace, name, ..
        } = &rollout.change
        else {
            return Ok(());
        };
        let reference = peer_authentication(namespace, name);
        let snapshot = self.plane.store.snapshot();
        let object = snapshot.objects.get(&reference);
        let object =
            object.ok_or_else(|| Error::Not(format!("there is no {reference} any more")))?;
        let mut value = object.raw.clone();
        value["spec"]["mtls"]["mode"] = json!(mode);
        let actor = format!("rollout:{}", rollout.name);
        let cause = format!("rollout {}", rollout.name);
        let draft = Draft::put(&actor, &cause, reference, value);
        self.plane.store.commit(vec![draft]).await?;
        Ok(())
    }

    /// The oldest object that no record is of.
    fn unbegun(&self) -> Option<(Arc<Object>, String)> {
        let snapshot = self.plane.store.snapshot();
        let known = all(&snapshot);
        let begun = |object: &Object| known.iter().any(|one| one.uid == object.meta.uid);
        let objects = snapshot.objects.values();
        let oldest = objects
            .filter(|object| object.rollout().is_some() && !begun(object))
            .min_by_key(|object| (&object.meta.creation_timestamp, &object.meta.name))?;
        let filter = Filter::object(&oldest.reference());
        let events = self.plane.store.history(&filter, 1).unwrap_or_default();
        let actor = events.first().map(|event| event.actor.clone());
        Some((
            Arc::clone(oldest),
            actor.unwrap_or_else(|| "system".to_owned()),
        ))
    }

    /// Whether the object of a rollout is gone: that takes it back, as long as it can be.
    fn is_gone(&self, rollout: &Rollout) -> bool {
        let snapshot = self.plane.store.snapshot();
        let mut objects = snapshot.objects.values();
        !objects.any(|object| object.meta.uid == rollout.uid)
    }

    /// Lets a rollout that waits for a word go on.
    ///
    /// # Errors
    /// [`Error::Not`] when its gate is shut, or it does not wait for anybody.
    pub async fn promote(&self, name: &str, actor: &str) -> Result<Rollout, Error> {
        let _turn = self.turn.lock().await;
        let mut rollout = self.open(name)?;
        gate(&rollout, &self.counts(&rollout), now_s()).map_err(|why| {
            Error::Not(format!(
                "{name} cannot go on (step {}): {why}",
                rollout.phase.word()
            ))
        })?;
        rollout.promoted = true;
        self.write(&rollout, actor, "rollout.promote").await?;
        Ok(rollout)
    }

    /// Takes a rollout back.
    ///
    /// # Errors
    /// [`Error::Not`] when nothing is left to take back.
    pub async fn abort(&self, name: &str, actor: &str) -> Result<Rollout, Error> {
        let _turn = self.turn.lock().await;
        let mut rollout = self.open(name)?;
        if let Some(why) = last(&rollout) {
            return Err(Error::Not(format!("{name} {why}")));
        }
        rollout.aborted_by.get_or_insert_with(|| actor.to_owned());
        self.write(&rollout, actor, "rollout.abort").await?;
        Ok(rollout)
    }

    fn open(&self, name: &str) -> Result<Rollout, Error> {
        let found = self.all().into_iter().find(|one| one.name == name);
        let rollout = found.ok_or_else(|| Error::Unknown(name.to_owned()))?;
        if rollout.phase.ended() {
            let word = rollout.phase.word();
            return Err(Error::Not(format!("{name} has ended: {word}")));
        }
        Ok(rollout)
    }

    /// Takes steps as long as the control plane runs.
    pub async fn run(self: Arc<Self>) {
        let mut revisions = self.plane.store.subscribe();
        if let Err(error) = self.recover().await {
            tracing::error!(%error, "what is left of a change of the root could not be taken up");
        }
        loop {
            revisions.mark_unchanged();
            match self.look().await {
                Ok(true) => {
                    let _ = tokio::time::timeout(LOOK, revisions.changed()).await;
                }
                Ok(false) => {
                    if revisions.changed().await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "a rollout could not take its next step");
                    tokio::time::sleep(AFTER_ERROR).await;
                }
            }
        }
    }

    /// What a start finds: a root that was prepared for no rollout goes; renewals that were ordered are ordered again.
    async fn recover(self: &Arc<Self>) -> Result<(), Error> {
        let open = self.all().into_iter().find(|one| !one.phase.ended());
        match open {
            None if self.authority.stage().prepared.is_some() && self.unbegun().is_none() => {
                let this = Arc::clone(self);
                blocking(move || this.authority.withdraw()).await?;
                self.show().await
            }
            None => Ok(()),
            Some(rollout) => {
                self.order(&rollout);
                Ok(())
            }
        }
    }

    /// Takes the next step if its time has come. Says whether a rollout is under way.
    async fn look(self: &Arc<Self>) -> Result<bool, Error> {
        let _turn = self.turn.lock().await;
        let open = self.all().into_iter().find(|one| !one.phase.ended());
        let Some(mut rollout) = open else {
            let Some((object, actor)) = self.unbegun() else {
                return Ok(false);
            };
            self.begin(&object, &actor).await?;
            return Ok(true);
        };
        if rollout.aborted_by.is_none() && self.is_gone(&rollout) && last(&rollout).is_none() {
            rollout.aborted_by = Some("the deletion of its object".to_owned());
            self.write(&rollout, "system", "rollout.abort").await?;
        }
        let this = Arc::clone(self);
        let now = now_s();
        let phase = match step(&rollout, &self.counts(&rollout), now) {
            Action::Wait(_) => return Ok(true),
            Action::Enter(phase) => phase,
            Action::Strict => {
                self.mode(&rollout, "STRICT").await?;
                Phase::Enforce
            }
            Action::Permissive(why) => {
                self.mode(&rollout, "PERMISSIVE").await?;
                rollout.problem = why;
                Phase::Aborted
            }
            Action::Switch => {
                blocking(move || this.authority.switch()).await?;
                Phase::Renew
            }
            Action::SwitchBack => {
                blocking(move || this.authority.switch_back()).await?;
                Phase::Revert
            }
            Action::Withdraw => {
                blocking(move || this.authority.withdraw()).await?;
                Phase::Aborted
            }
            Action::Drop(phase, left) => {
                blocking(move || this.authority.drop_retired()).await?;
                rollout.left_behind = left;
                phase
            }
        };
        rollout.phase = phase;
        rollout.since_s = now;
        rollout.promoted = false;
        tracing::info!(
            rollout = rollout.name,
            step = phase.word(),
            "a rollout goes on"
        );
        self.show().await?;
        self.order(&rollout);
        let actor = format!("rollout:{}", rollout.name);
        self.write(&rollout, &actor, "rollout.step").await?;
        Ok(true)
    }

    /// What follows from the authority's present state: whom the port believes and what it shows, whom proxies believe.
    async fn show(self: &Arc<Self>) -> Result<(), Error> {
        let this = Arc::clone(self);
        blocking(move || {
            let bundle = this.authority.bundle();
            this.certificate.reissue(&this.authority, now_s())?;
            let certificate = Arc::clone(&this.certificate);
            let tls = control_server_tls(certificate, &bundle, &[b"h2"])?;
            this.tls.send_replace(tls);
            this.plane.trust(&bundle.to_pem());
            Ok(())
        })
        .await
    }

    /// Asks for renewals as long as certificates of two roots are about.
    fn order(&self, rollout: &Rollout) {
        let Change::RootRotation {
            compromised_within_s,
            ..
        } = &rollout.change
        else {
            return;
        };
        let proxies = u64::try_from(self.plane.hub.connected()).unwrap_or(u64::MAX);
        let within = match compromised_within_s {
            Some(_) => Duration::from_millis(proxies * 100 / RENEWALS_A_SECOND).max(LEAST_HURRIED),
            None => Duration::from_millis(proxies * 1_000 / RENEWALS_A_SECOND).max(LEAST_SPREAD),
        };
        let order = matches!(rollout.phase, Phase::Renew | Phase::Revert).then(|| Order {
            root: self.authority.stage().signs,
            within,
        });
        self.plane.renewals.send_replace(order);
    }

    async fn write(&self, rollout: &Rollout, actor: &str, event: &str) -> Result<(), Error> {
        let value = serde_json::to_value(rollout).ok();
        let cause = rollout.phase.word();
        let draft = Draft::record(actor, cause, event, ROLLOUT, &rollout.name, value);
        let commit = self.plane.store.commit(vec![draft]).await?;
        if event != "rollout.promote" && event != "rollout.abort" {
            *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = Sent::With(commit.revision);
        }
        Ok(())
    }

    /// Counts.
    #[must_use]
    pub fn counts(&self, rollout: &Rollout) -> Counts {
        let snapshot = self.plane.store.snapshot();
        let stage = self.authority.stage();
        Counts {
            plain: self.plain(rollout, &snapshot),
            live: self.live(&snapshot, &stage.signs),
            behind: self.behind(&snapshot),
            stage,
        }
    }

    /// Calls without mTLS, as proxies tell them every few seconds.
    fn plain(&self, rollout: &Rollout, snapshot: &Snapshot) -> Plain {
        let Change::PeerAuthentication {
            namespace,
            name,
            without_counts,
            ..
        } = &rollout.change
        else {
            return Plain::default();
        };
        let object = snapshot.objects.get(&peer_authentication(namespace, name));
        let selector = object
            .and_then(|object| object.peer_authentication())
            .and_then(|one| one.selector.clone());
        let registry = self.plane.registry();
        let members = registry.members();
        let held = members
            .iter()
            .map(|member| &member.registration)
            .filter(|of| {
                let here = namespace == ROOT_NAMESPACE || of.namespace == *namespace;
                let selected = selector.as_ref().is_none_or(|one| selects(one, &of.labels));
                here && selected && !of.ports.is_empty()
            });
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.begin(&rollout.uid, rollout.phase);
        let mut uncounted = Vec::new();
        for of in held {
            let name = format!("{}.{}", of.workload_name, of.namespace);
            if matches!(of.capture.as_str(), "envoy" | "grpc") {
                // Somebody vouches for it by name.
                if !without_counts.contains(&name) {
                    uncounted.push(name);
                }
                continue;
            }
            let seen = registry.seen(&of.workload_id);
            watched.saw(&of.workload_id, &name, [seen.plain, seen.plain_refused]);
        }
        watched.begun();
        watched.told(uncounted)
    }

    /// Proxies without the present trust bundle: those that have not acknowledged it, and those whose lease runs while
    /// their line is down.
    fn behind(&self, snapshot: &Snapshot) -> Option<Vec<String>> {
        let epoch = {
            let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
            if let Sent::With(revision) = *sent {
                *sent = Sent::In(self.plane.hub.epoch_of(revision)?);
            }
            match *sent {
                Sent::In(epoch) => epoch,
                Sent::With(_) => return None,
            }
        };
        let lacking = self.plane.hub.lacking(epoch, ROOT_CA);
        let since = all(snapshot).iter().map(|one| one.since_s).max();
        let fresh = since.is_some_and(|since| now_s() < since + FOREIGN_S);
        if lacking.foreign && fresh {
            return None;
        }
        let world = self.plane.hub.world();
        let away = world
            .workloads
            .iter()
            .filter(|(id, _)| !lacking.present.contains(*id));
        let away = away.map(|(_, member)| {
            let of = &member.registration;
            format!("{}.{} (away)", of.workload_name, of.namespace)
        });
        Some(away.chain(lacking.behind).collect())
    }

    /// Certificates that are good and do not lead to this root. What a workload shows counts where it says so: the
    /// last one issued may not have arrived.
    fn live(&self, snapshot: &Snapshot, root: &str) -> Vec<Live> {
        let now = now_s();
        let order = Order {
            root: root.to_owned(),
            within: Duration::ZERO,
        };
        let registry = self.plane.registry();
        let world = self.plane.hub.world();
        let issued = snapshot.records_of(CERTIFICATE).filter_map(|(id, value)| {
            let certificate = Certificate::deserialize(value.as_ref()).ok()?;
            let good = certificate.not_after > now && snapshot.record(REVOKED, id).is_none();
            if !good || !order.means(&certificate, registry.shown(id)) {
                return None;
            }
            let of = match world.workload(id) {
                Some(member) => {
                    let of = &member.registration;
                    format!("{}.{}", of.workload_name, of.namespace)
                }
                None => format!("{} ({id}, not connected)", certificate.spiffe),
            };
            let until = rfc3339(certificate.not_after.saturating_mul(1_000));
            Some(Live { of, until })
        });
        issued.collect()
    }
}

/// Why a rollout cannot be taken back any more.
fn last(rollout: &Rollout) -> Option<&'static str> {
    let compromised = matches!(
        &rollout.change,
        Change::RootRotation {
            compromised_within_s: Some(_),
            ..
        }
    );
    match rollout.phase {
        Phase::Settle => {
            Some("has dropped the root before; to change it again start another rotation")
        }
        Phase::Renew if compromised => {
            Some("replaces a root whose key others may have; that one does not sign again")
        }
        _ => None,
    }
}

fn peer_authentication(namespace: &str, name: &str) -> ObjectRef {
    ObjectRef {
        kind: Kind::PeerAuthentication.as_str().to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn all(snapshot: &Snapshot) -> Vec<Rollout> {
    let records = snapshot.records_of(ROLLOUT);
    let mut all: Vec<Rollout> = records
        .filter_map(|(name, value)| match Rollout::deserialize(value.as_ref()) {
            Ok(rollout) => Some(rollout),
            Err(error) => {
                tracing::warn!(name, %error, "a stored rollout cannot be read");
                None
            }
        })
        .collect();
    all.sort_by_key(|one| one.started_s);
    all
}

/// Files are written and keys are made beside the threads that answer others.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, naka_identity::Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(error) => Err(Error::Not(error.to_string())),
    }
}
