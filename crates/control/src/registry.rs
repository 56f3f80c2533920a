//! Who is in the mesh: workloads and the leases they hold.
//!
//! A registration is a lease on a stream (design decision 6). Joining, leaving, relabelling and becoming ready for
//! the first time are events of the store; that a stream is alive never is. This is the core without sockets, clock
//! or store: the caller says what happened and when (milliseconds of a clock that starts with the process) and gets
//! back what to store and whether endpoints changed.
//!
//! Invariants: for the grace time after a start nothing is removed because it has not come back, and what was
//! restored from the store counts as healthy until then; a lost stream makes its workload unhealthy after
//! `unhealthy_after` and removes it after `removed_after`; when more than a third of the mesh vanishes within
//! `guard_window` those workloads are kept (unhealthy) for up to an hour; an undeclared service belongs to the
//! service account that first ran it.

use crate::settings::Leases;
use naka_types::labels::Labels;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Milliseconds since the control plane started.
pub type Millis = u64;

/// The guard against mass vanishing needs at least this many: in a mesh of three, one killed workload is no anomaly.
const GUARD_LEAST: usize = 5;
/// Guarded workloads that never come back are removed after this.
const GUARD_LIMIT: Duration = Duration::from_hours(1);

/// What a workload says of itself. Stored, so fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// ULID.
    pub workload_id: String,
    /// Namespace.
    pub namespace: String,
    /// Service it runs; empty for a client only.
    #[serde(default)]
    pub service: String,
    /// Service account.
    pub service_account: String,
    /// Labels.
    #[serde(default)]
    pub labels: Labels,
    /// Name.
    #[serde(default)]
    pub workload_name: String,
    /// Ports it serves.
    #[serde(default)]
    pub ports: Vec<ServedPort>,
    /// Address, for display.
    #[serde(default)]
    pub ip: String,
    /// Whether it is a gateway.
    #[serde(default)]
    pub gateway: bool,
    /// How its program's calls are captured, for display.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub capture: String,
    /// IP address that the control plane saw it come from, which it cannot choose.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub seen_at: String,
}

/// What a workload's proxy saw of its traffic since it started. For display only: never stored, and never a reason to
/// compile anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Seen {
    /// HTTP requests.
    pub http: u64,
    /// Tunnels by CONNECT.
    pub tunnelled: u64,
    /// Connections of bytes inside the mesh.
    pub opaque: u64,
    /// What left the mesh.
    pub bypassed: u64,
    /// How often the capture rules of its machine were changed and put right.
    pub repaired: u64,
    /// Connections and requests without mTLS at ports that take both.
    pub plain: u64,
    /// Connections and requests without mTLS at ports that take none.
    pub plain_refused: u64,
    /// Calls that a program made while it was at work on a request, in a trace that it was given.
    pub traced: u64,
    /// The same in none.
    pub untraced: u64,
}

impl Seen {
    /// Whether the program does not pass `traceparent` on: more than one in ten of such calls name no trace.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.untraced.saturating_mul(10) > self.traced.saturating_add(self.untraced)
    }
}

/// What a workload's proxy found out by itself about those it calls. For display only, as [`Seen`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// `outlier`, `health-check` or `breaker`.
    pub kind: &'static str,
    /// Cluster, as xDS names it.
    pub cluster: String,
    /// Endpoint; empty for a breaker, which is the cluster's.
    pub address: String,
    /// Milliseconds since 1970; 0: a breaker that is closed, or not known.
    pub since_ms: u64,
    /// When it ends by itself, or the breaker's trials begin; 0: at no certain time.
    pub until_ms: u64,
}

/// One port of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedPort {
    /// The program's own port.
    pub port: u16,
    /// What others dial to reach it by mTLS.
    pub inbound_address: String,
    /// Word of `types::Protocol`.
    #[serde(default)]
    pub protocol: String,
    /// Name.
    #[serde(default)]
    pub name: String,
    /// Whether service port 80 leads here.
    #[serde(default)]
    pub first: bool,
}

/// What a workload says of its condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not to be called yet.
    Starting,
    /// Serving.
    Ready,
    /// Stopping: avoid while another one serves.
    Draining,
    /// Its health check fails.
    Unhealthy,
    /// It leaves.
    Gone,
}

/// What others should think of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Call it.
    Healthy,
    /// Avoid it while a healthy one exists.
    Draining,
    /// Do not call it.
    Unhealthy,
}

/// A workload as the rest of the control plane sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// What it said.
    pub registration: Arc<Registration>,
    /// `None` until it was ready for the first time.
    pub health: Option<Health>,
    /// Whether its stream is open.
    pub connected: bool,
}

/// Something to write to the store.
#[derive(Debug, Clone, PartialEq)]
pub enum Note {
    /// A workload joined, or said something new.
    Put {
        /// Kind of event: `registration.join` or `registration.change`.
        event: &'static str,
        /// What it said.
        registration: Arc<Registration>,
        /// Whether it was ever ready.
        ready: bool,
    },
    /// A workload left.
    Leave {
        /// Which.
        workload_id: String,
        /// Why.
        why: &'static str,
    },
    /// A service account is now the owner of an undeclared service.
    Own {
        /// Namespace.
        namespace: String,
        /// Service.
        service: String,
        /// Owner.
        service_account: String,
    },
}

/// What a step changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// To be stored, in order.
    pub notes: Vec<Note>,
    /// Whether members or their health changed.
    pub changed: bool,
    /// Whether an endpoint became worse: push at once.
    pub urgent: bool,
}

/// Why a workload may not register.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another identity serves under that name.
    #[error(
        "service {service} in namespace {namespace} belongs to the service account {owner}, this workload is {claimant}; declare the Service with the annotation naka.dev/service-accounts to share it"
    )]
    Owned {
        /// Namespace.
        namespace: String,
        /// Service.
        service: String,
        /// Who serves.
        owner: String,
        /// Who asked.
        claimant: String,
    },
}

/// Who may serve a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// No Service object: the first owner keeps the name.
    Undeclared,
    /// A Service object names these accounts.
    Declared(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lease {
    Live { stream: u64 },
    Lost { since: Millis },
    Restored,
}

#[derive(Debug)]
struct Entry {
    registration: Arc<Registration>,
    state: State,
    ready: bool,
    lease: Lease,
    seen: Seen,
    /// Serial number of the certificate it shows.
    serial: String,
    verdicts: Vec<Verdict>,
    guarded: Option<Millis>,
    shown: Option<Health>,
}

/// The registry.
#[derive(Debug)]
pub struct Registry {
    leases: Leases,
    entries: BTreeMap<String, Entry>,
    owners: BTreeMap<(String, String), String>,
    grace_over: bool,
}

impl Registry {
    /// An empty registry at time zero.
    #[must_use]
    pub fn new(leases: Leases) -> Self {
        Self {
            leases,
            entries: BTreeMap::new(),
            owners: BTreeMap::new(),
            grace_over: false,
        }
    }

    /// Takes a registration from the store: not yet returned, healthy if it was ever ready.
    pub fn restore(&mut self, registration: Registration, ready: bool) {
        let id = registration.workload_id.clone();
        let entry = Entry {
            registration: Arc::new(registration),
            state: if ready { State::Ready } else { State::Starting },
            ready,
            lease: Lease::Restored,
            seen: Seen::default(),
            serial: String::new(),
            verdicts: Vec::new(),
            guarded: None,
            shown: ready.then_some(Health::Healthy),
        };
        self.entries.insert(id, entry);
    }

    /// Takes an owner from the store.
    pub fn restore_owner(&mut self, namespace: &str, service: &str, account: &str) {
        let key = (namespace.to_owned(), service.to_owned());
        self.owners.insert(key, account.to_owned());
    }

    /// The owner of an undeclared service.
    #[must_use]
    pub fn owner(&self, namespace: &str, service: &str) -> Option<&str> {
        let key = (namespace.to_owned(), service.to_owned());
        self.owners.get(&key).map(String::as_str)
    }

    /// All owners, by namespace and service.
    #[must_use]
    pub fn owners(&self) -> &BTreeMap<(String, String), String> {
        &self.owners
    }

    /// A workload said something on its stream: everything it has to say, so the same twice changes nothing.
    ///
    /// # Errors
    /// [`Refused`] when it may not serve under its name; nothing changed then.
    pub fn register(
        &mut self,
        stream: u64,
        registration: Registration,
        state: State,
        claim: &Claim,
        now: Millis,
    ) -> Result<Outcome, Refused> {
        if state == State::Gone {
            return Ok(self.leave(&registration.workload_id, "said goodbye"));
        }
        let mut outcome = Outcome::default();
        self.claim(&registration, claim, &mut outcome)?;
        self.drop_predecessors(&registration, &mut outcome);
        let id = registration.workload_id.clone();
        let ready_now = matches!(state, State::Ready | State::Draining);
        match self.entries.get_mut(&id) {
            Some(entry) => {
                let same = *entry.registration == registration;
                let first_ready = ready_now && !entry.ready;
                if !same {
                    entry.registration = Arc::new(registration);
                }
                entry.ready |= ready_now;
                entry.state = state;
                entry.guarded = None;
                outcome.changed |= !same || entry.lease != (Lease::Live { stream });
                entry.lease = Lease::Live { stream };
                if !same || first_ready {
                    outcome.notes.push(Note::Put {
                        event: "registration.change",
                        registration: Arc::clone(&entry.registration),
                        ready: entry.ready,
                    });
                }
            }
            None => {
                let registration = Arc::new(registration);
                outcome.notes.push(Note::Put {
                    event: "registration.join",
                    registration: Arc::clone(&registration),
                    ready: ready_now,
                });
                outcome.changed = true;
                let entry = Entry {
                    registration,
                    state,
                    ready: ready_now,
                    lease: Lease::Live { stream },
                    seen: Seen::default(),
                    serial: String::new(),
                    verdicts: Vec::new(),
                    guarded: None,
                    shown: None,
                };
                self.entries.insert(id, entry);
            }
        }
        self.refresh(now, &mut outcome);
        Ok(outcome)
    }

    fn claim(
        &mut self,
        registration: &Registration,
        claim: &Claim,
        outcome: &mut Outcome,
    ) -> Result<(), Refused> {
        let Registration {
            namespace,
            service,
            service_account: claimant,
            ..
        } = registration;
        if service.is_empty() {
            return Ok(());
        }
        let refused = |owner: String| Refused::Owned {
            namespace: namespace.clone(),
            service: service.clone(),
            owner,
            claimant: claimant.clone(),
        };
        let key = (namespace.clone(), service.clone());
        match (claim, self.owners.get(&key)) {
            (Claim::Declared(accounts), _) if accounts.contains(claimant) => Ok(()),
            (Claim::Declared(accounts), _) => Err(refused(accounts.join(", "))),
            (Claim::Undeclared, Some(owner)) if owner == claimant => Ok(()),
            (Claim::Undeclared, Some(owner)) => Err(refused(owner.clone())),
            (Claim::Undeclared, None) => {
                self.owners.insert(key, claimant.clone());
                outcome.notes.push(Note::Own {
                    namespace: namespace.clone(),
                    service: service.clone(),
                    service_account: claimant.clone(),
                });
                outcome.changed = true;
                Ok(())
            }
        }
    }

    /// A workload that listens where a vanished one listened has taken its place.
    fn drop_predecessors(&mut self, registration: &Registration, outcome: &mut Outcome) {
        let taken = |port: &ServedPort| {
            registration
                .ports
                .iter()
                .any(|own| own.inbound_address == port.inbound_address)
        };
        let gone: Vec<String> = self
            .entries
            .iter()
            .filter(|(id, entry)| {
                **id != registration.workload_id
                    && !matches!(entry.lease, Lease::Live { .. })
                    && entry.registration.ports.iter().any(taken)
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            merge(outcome, self.leave(&id, "its address was taken"));
        }
    }

    fn leave(&mut self, id: &str, why: &'static str) -> Outcome {
        match self.entries.remove(id) {
            None => Outcome::default(),
            Some(_) => Outcome {
                notes: vec![Note::Leave {
                    workload_id: id.to_owned(),
                    why,
                }],
                changed: true,
                urgent: true,
            },
        }
    }

    /// A stream ended without goodbye. Streams that were replaced by a newer one of the same workload mean nothing.
    pub fn lost(&mut self, stream: u64, now: Millis) -> Outcome {
        let mut outcome = Outcome::default();
        for entry in self.entries.values_mut() {
            if entry.lease == (Lease::Live { stream }) {
                entry.lease = Lease::Lost { since: now };
                outcome.changed = true;
            }
        }
        if outcome.changed {
            self.guard(now);
        }
        self.refresh(now, &mut outcome);
        outcome
    }

    fn guard(&mut self, now: Millis) {
        let window = millis(self.leases.guard_window);
        let total = self.entries.len();
        let recent = |entry: &Entry| matches!(entry.lease, Lease::Lost { since } if now.saturating_sub(since) <= window);
        let vanished = self.entries.values().filter(|e| recent(e)).count();
        if vanished >= GUARD_LEAST && vanished * 3 > total {
            for entry in self.entries.values_mut().filter(|e| recent(e)) {
                entry.guarded.get_or_insert(now);
            }
        }
    }

    /// Time passed: leases run out.
    pub fn tick(&mut self, now: Millis) -> Outcome {
        let mut outcome = Outcome::default();
        if !self.grace_over && now >= millis(self.leases.grace) {
            self.grace_over = true;
            self.end_grace(now);
        }
        let gone: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, entry)| self.removal(entry).is_some_and(|at| at <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            merge(&mut outcome, self.leave(&id, "its stream was lost"));
        }
        self.refresh(now, &mut outcome);
        outcome
    }

    /// What has not come back until now counts as lost for good, unless it is too much to be believed.
    fn end_grace(&mut self, now: Millis) {
        let total = self.entries.len();
        let missing = |entry: &Entry| entry.lease == Lease::Restored;
        let vanished = self.entries.values().filter(|e| missing(e)).count();
        let too_many = vanished >= GUARD_LEAST && vanished * 3 > total;
        let since = now.saturating_sub(millis(self.leases.removed_after));
        for entry in self.entries.values_mut().filter(|e| missing(e)) {
            entry.lease = Lease::Lost { since };
            if too_many {
                entry.guarded = Some(now);
            }
        }
    }

    /// When an entry is to be removed if nothing happens.
    fn removal(&self, entry: &Entry) -> Option<Millis> {
        let Lease::Lost { since } = entry.lease else {
            return None;
        };
        let due = match entry.guarded {
            Some(at) => at + millis(GUARD_LIMIT),
            None => since + millis(self.leases.removed_after),
        };
        Some(due.max(millis(self.leases.grace)))
    }

    /// The next time at which [`Registry::tick`] has something to do.
    #[must_use]
    pub fn deadline(&self, now: Millis) -> Option<Millis> {
        let grace = (!self.grace_over).then_some(millis(self.leases.grace));
        let unhealthy = millis(self.leases.unhealthy_after);
        self.entries
            .values()
            .flat_map(|entry| {
                let worse = match entry.lease {
                    Lease::Lost { since } => Some(since + unhealthy).filter(|at| *at > now),
                    _ => None,
                };
                [worse, self.removal(entry)]
            })
            .flatten()
            .chain(grace)
            .min()
    }

    fn refresh(&mut self, now: Millis, outcome: &mut Outcome) {
        let limit = millis(self.leases.unhealthy_after);
        for entry in self.entries.values_mut() {
            let lost =
                matches!(entry.lease, Lease::Lost { since } if now.saturating_sub(since) >= limit);
            let health = match entry.state {
                _ if !entry.ready => None,
                _ if lost => Some(Health::Unhealthy),
                State::Ready => Some(Health::Healthy),
                State::Draining => Some(Health::Draining),
                State::Starting | State::Unhealthy | State::Gone => Some(Health::Unhealthy),
            };
            if health != entry.shown {
                outcome.changed = true;
                outcome.urgent |= entry.shown.is_some() && entry.shown < health;
                entry.shown = health;
            }
        }
    }

    /// What a workload's proxy saw.
    pub fn saw(&mut self, workload: &str, seen: Seen) {
        if let Some(entry) = self.entries.get_mut(workload) {
            entry.seen = seen;
        }
    }

    /// Serial number of the certificate that a workload shows.
    pub fn shows(&mut self, workload: &str, serial: String) {
        if let Some(entry) = self.entries.get_mut(workload) {
            entry.serial = serial;
        }
    }

    /// Serial number of the certificate that a workload shows, as far as it said.
    #[must_use]
    pub fn shown(&self, workload: &str) -> &str {
        let entry = self.entries.get(workload);
        entry.map_or("", |entry| &entry.serial)
    }

    /// What a workload's proxy saw as far as it said.
    #[must_use]
    pub fn seen(&self, workload: &str) -> Seen {
        let entry = self.entries.get(workload);
        entry.map(|entry| entry.seen).unwrap_or_default()
    }

    /// What a workload's proxy found out about those it calls.
    pub fn found(&mut self, workload: &str, verdicts: Vec<Verdict>) {
        if let Some(entry) = self.entries.get_mut(workload) {
            entry.verdicts = verdicts;
        }
    }

    /// What a workload's proxy found out; nothing while it is not connected, for then nobody knows whether it still
    /// holds.
    #[must_use]
    pub fn verdicts(&self, workload: &str) -> &[Verdict] {
        let entry = self.entries.get(workload);
        let live = entry.filter(|entry| matches!(entry.lease, Lease::Live { .. }));
        live.map_or(&[], |entry| &entry.verdicts)
    }

    /// All workloads, sorted by id, that is by age.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.entries
            .values()
            .map(|entry| Member {
                registration: Arc::clone(&entry.registration),
                health: entry.shown,
                connected: matches!(entry.lease, Lease::Live { .. }),
            })
            .collect()
    }

    /// Ids of workloads that are kept only because too many vanished at once.
    #[must_use]
    pub fn guarded(&self) -> Vec<String> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.guarded.is_some())
            .map(|(id, _)| id.clone())
            .collect()
    }
}

fn merge(into: &mut Outcome, other: Outcome) {
    into.notes.extend(other.notes);
    into.changed |= other.changed;
    into.urgent |= other.urgent;
}

fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}
