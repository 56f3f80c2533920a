//! What the running mesh says of itself: the API server's [`Live`], answered from hub, registry and world.
//!
//! Status is computed when it is asked for and never stored: the truth about "who has it" is the ledgers, the truth
//! about references is the world. Findings come from the same compile that proxies get.

use crate::apiserver::live::{Answer, Effect, Live, Nack, ObjectStatus, Observed, Rollout};
use crate::ca_service::certificate;
use crate::certificates;
use crate::compile::{Dialect, envoy, grpc};
use crate::modes;
use crate::plane::Plane;
use naka_api::Object;
use naka_store::Snapshot;
use naka_types::finding::{Finding, Severity};
use naka_types::labels::selects;
use naka_types::name::ObjectRef;
use naka_types::node::Role;
use naka_types::workload::Ulid;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

mod claims;
mod edges;
mod effect;
mod object;
mod targets;
mod touch;
mod traces;

/// The running mesh.
#[derive(Debug)]
pub struct Status {
    plane: Arc<Plane>,
    /// Counters of this machine's proxies.
    edges: edges::Reader,
}

impl Status {
    /// Status of a plane; `run_dir` holds one directory per proxy of this machine.
    #[must_use]
    pub fn new(plane: Arc<Plane>, run_dir: PathBuf) -> Arc<Self> {
        let edges = edges::Reader::new(run_dir);
        Arc::new(Self { plane, edges })
    }

    /// Where the connected proxies of this machine serve their metrics, in the form of Prometheus' `http_sd_config`.
    pub async fn metrics_targets(&self) -> Value {
        let seen = self.plane.hub.seen().into_iter();
        let connected = seen.map(|proxy| proxy.who.class.workload_id).collect();
        targets::of(&self.edges.run_dir, &connected).await
    }

    async fn wait(&self, revision: u64, timeout: Duration) -> Rollout {
        let deadline = Instant::now() + timeout;
        let mut moves = self.plane.hub.moves();
        loop {
            moves.borrow_and_update();
            let progress = self.plane.hub.progress(revision);
            let settled = progress.published && progress.behind.is_empty();
            if settled || !progress.nacks.is_empty() || Instant::now() >= deadline {
                return Rollout {
                    done: settled && progress.nacks.is_empty(),
                    none_affected: settled && progress.acked.is_empty(),
                    acked: progress.acked,
                    behind: progress.behind,
                    nacks: progress
                        .nacks
                        .into_iter()
                        .map(|refusal| Nack {
                            proxy: refusal.proxy,
                            message: refusal.message,
                        })
                        .collect(),
                };
            }
            // Either something moves or the time is over; both are looked at above.
            let _ = tokio::time::timeout_at(deadline, moves.changed()).await;
        }
    }

    /// How many proxies are in each state, states without any included.
    #[must_use]
    pub fn states(&self) -> BTreeMap<&'static str, usize> {
        let proxies = self.proxies();
        let of = |state: &str| {
            proxies
                .iter()
                .filter(|proxy| proxy["state"] == state)
                .count()
        };
        ["programmed", "behind", "refused", "away"]
            .into_iter()
            .map(|state| (state, of(state)))
            .collect()
    }

    /// How many findings there are of each severity.
    #[must_use]
    pub fn severities(&self) -> [(&'static str, usize); 3] {
        let findings = self.findings();
        let of = |severity| findings.iter().filter(|f| f.severity == severity).count();
        [
            ("error", of(Severity::Error)),
            ("warning", of(Severity::Warning)),
            ("info", of(Severity::Info)),
        ]
    }

    fn proxies(&self) -> Vec<Value> {
        let world = self.plane.hub.world();
        let domain = self.plane.trust_domain();
        let snapshot = self.plane.store.snapshot();
        let mut seen: Vec<Value> = Vec::new();
        let mut present = Vec::new();
        for proxy in self.plane.hub.seen() {
            let class = &proxy.who.class;
            let member = world.workload(&class.workload_id);
            let registration = member.map(|member| &member.registration);
            let refused: Vec<Value> = proxy
                .refused
                .iter()
                .map(|(name, words)| json!({"resource": name, "message": words}))
                .collect();
            let id = Ulid::parse(&class.workload_id);
            let issued = id.and_then(|id| certificate(&snapshot, id));
            let issued = issued.as_ref();
            let state = match (refused.is_empty(), proxy.up_to_date) {
                (false, _) => "refused",
                (true, true) => "programmed",
                (true, false) => "behind",
            };
            seen.push(json!({
                "name": proxy.who.name,
                "node": proxy.who.node,
                "workload_id": class.workload_id,
                "namespace": class.namespace,
                "service": registration.map(|r| r.service.as_str()).unwrap_or_default(),
                "role": match class.role {
                    Role::Sidecar => "sidecar",
                    Role::Gateway => "gateway",
                },
                "state": state,
                "revision": world.revision,
                "behind": !proxy.up_to_date,
                "dialect": class.dialect.word(),
                "capture": registration.map(|r| r.capture.as_str()).unwrap_or_default(),
                "not_expressed": match class.dialect {
                    Dialect::Envoy => envoy::not_expressed(&world, class),
                    Dialect::Grpc => grpc::not_expressed(),
                    Dialect::Naka => Vec::new(),
                },
                "version": proxy.who.version,
                "certificate": {
                    "not_before": issued.map(|issued| issued.not_before),
                    "not_after": issued.map(|issued| issued.not_after),
                    "due": registration.zip(issued).and_then(|(one, held)| certificates::due(&snapshot, one, held)),
                },
                "identity": registration.map(|r| identity(domain, r)).unwrap_or_default(),
                "connected_s": proxy.connected_s,
                "refused": refused,
                "resources": proxy.held,
            }));
            present.push(class.workload_id.clone());
        }
        // A registered workload whose configuration stream is gone is away, not forgotten.
        for (id, member) in &world.workloads {
            if present.contains(id) {
                continue;
            }
            let registration = &member.registration;
            seen.push(json!({
                "name": format!("{}.{}", registration.workload_name, registration.namespace),
                "workload_id": id,
                "namespace": registration.namespace,
                "service": registration.service,
                "role": if registration.gateway { "gateway" } else { "sidecar" },
                "state": "away",
                "revision": Value::Null,
                "behind": true,
                "version": "",
                "identity": identity(domain, registration),
            }));
        }
        seen
    }

    fn gateways(&self) -> Vec<Value> {
        let snapshot = self.plane.store.snapshot();
        let seen = self.plane.hub.seen();
        let at_the_edge = || seen.iter().filter(|p| p.who.class.role == Role::Gateway);
        let objects = snapshot.objects.values();
        objects
            .filter_map(|object| {
                let gateway = object.gateway()?;
                let serves = at_the_edge()
                    .filter(|proxy| selects(&gateway.selector, &proxy.who.class.labels));
                let name = format!("{}/{}", object.meta.namespace, object.meta.name);
                Some(json!({"gateway": name, "proxies": serves.count()}))
            })
            .collect()
    }

    fn workloads(&self) -> Vec<Value> {
        let domain = self.plane.trust_domain();
        let registry = self.plane.registry();
        let guarded = registry.guarded();
        registry
            .members()
            .into_iter()
            .map(|member| {
                let registration = &member.registration;
                let state = match member.health {
                    None => json!("starting"),
                    Some(health) => json!(health),
                };
                json!({
                    "workload_id": registration.workload_id,
                    "workload_name": registration.workload_name,
                    "namespace": registration.namespace,
                    "service": registration.service,
                    "service_account": registration.service_account,
                    "state": state,
                    "connected": member.connected,
                    "kept": guarded.contains(&registration.workload_id),
                    "ports": registration.ports,
                    "labels": registration.labels,
                    "ip": registration.ip,
                    "gateway": registration.gateway,
                    "capture": registration.capture,
                    "seen": registry.seen(&registration.workload_id),
                    "verdicts": registry.verdicts(&registration.workload_id),
                    "identity": identity(domain, registration),
                })
            })
            .collect()
    }

    fn findings(&self) -> Vec<Finding> {
        let snapshot = self.plane.store.snapshot();
        let objects: Vec<&Object> = snapshot.objects.values().map(AsRef::as_ref).collect();
        let world = self.plane.hub.world();
        let mut findings = naka_api::cross_check(&objects);
        for object in &objects {
            for finding in object::unresolved(&world, object) {
                if !findings.contains(&finding) {
                    findings.push(finding);
                }
            }
            findings.extend(certificates::findings(&snapshot, object));
        }
        if let Some(source) = self.plane.source.get() {
            findings.extend(source.findings());
        }
        if let Some(keys) = self.plane.keys.get() {
            let failing = objects
                .iter()
                .flat_map(|object| keys.findings(object, &snapshot));
            findings.extend(failing);
        }
        findings.extend(modes::findings(&snapshot, modes::now_ms()));
        let kept = self.plane.registry().guarded();
        if !kept.is_empty() {
            let message = format!(
                "{} workloads vanished at once; too many to be believed, so none of them is removed",
                kept.len()
            );
            findings.push(Finding::new(naka_api::codes::W950.id, message));
        }
        findings.extend(self.repaired());
        findings.extend(self.untraced());
        findings
    }

    /// Machines whose capture rules somebody changed.
    fn repaired(&self) -> Vec<Finding> {
        let registry = self.plane.registry();
        let members = registry.members();
        let repaired = members.iter().filter_map(|member| {
            let registration = &member.registration;
            let times = registry.seen(&registration.workload_id).repaired;
            let message = format!(
                "the packet rules that capture the machine of {}.{} ({}) were changed by somebody {times} times since its sidecar started; each time they were put right within seconds, and in between calls went around the mesh",
                registration.workload_name, registration.namespace, registration.ip
            );
            (times > 0).then(|| Finding::new(naka_api::codes::W951.id, message))
        });
        repaired.collect()
    }

    fn world(&self) -> Value {
        let world = self.plane.hub.world();
        // As in force: with what modes lay over them.
        let stored = self.plane.store.snapshot();
        let laid = modes::overlay(&stored, modes::now_ms());
        let snapshot = laid.as_ref().unwrap_or(&*stored);
        let objects: Vec<Value> = snapshot
            .objects
            .values()
            .map(|object| match object.secret() {
                None => object.raw.clone(),
                Some(_) => {
                    let mut raw = object.raw.clone();
                    naka_store::redact(&mut raw);
                    raw
                }
            })
            .collect();
        let mut services = serde_json::Map::new();
        for (host, service) in &world.services {
            let ports: serde_json::Map<String, Value> = service
                .ports
                .iter()
                .map(|(number, port)| {
                    let value = json!({"name": port.name, "protocol": port.protocol});
                    (number.to_string(), value)
                })
                .collect();
            services.insert(
                host.as_str().to_owned(),
                json!({
                    "name": service.name,
                    "namespace": service.namespace,
                    "declared": service.declared,
                    "accounts": service.accounts,
                    "entry": service.entry.as_ref().map(|entry| &entry.name),
                    "ports": ports,
                }),
            );
        }
        let mut endpoints = serde_json::Map::new();
        for (host, ports) in &world.endpoints {
            let ports: serde_json::Map<String, Value> = ports
                .iter()
                .map(|(number, all)| (number.to_string(), all.iter().map(endpoint).collect()))
                .collect();
            endpoints.insert(host.as_str().to_owned(), Value::Object(ports));
        }
        json!({
            "revision": world.revision,
            "trust_domain": &*world.trust_domain,
            "objects": objects,
            "services": services,
            "endpoints": endpoints,
            "keys": world.keys,
        })
    }
}

fn endpoint(endpoint: &crate::world::Endpoint) -> Value {
    json!({
        "address": endpoint.address,
        "health": endpoint.health,
        "weight": endpoint.weight,
        "mtls": endpoint.mtls,
        "labels": endpoint.labels,
        "workload": endpoint.workload,
        "namespace": endpoint.namespace,
        "workload_id": endpoint.workload_id,
    })
}

fn identity(domain: &str, registration: &crate::registry::Registration) -> String {
    let (namespace, account) = (&registration.namespace, &registration.service_account);
    format!("spiffe://{domain}/ns/{namespace}/sa/{account}")
}

impl Live for Status {
    fn traces(&self, limit: usize) -> Answer<'_, Vec<Value>> {
        Box::pin(async move { self.kept_traces(limit) })
    }

    fn trace(&self, id: String) -> Answer<'_, Option<Value>> {
        Box::pin(async move { self.kept_trace(&id) })
    }

    fn rollout(&self, revision: u64, timeout: Duration) -> Answer<'_, Rollout> {
        Box::pin(self.wait(revision, timeout))
    }

    fn proxies(&self) -> Answer<'_, Vec<Value>> {
        Box::pin(async { self.proxies() })
    }

    fn workloads(&self) -> Answer<'_, Vec<Value>> {
        Box::pin(async { self.workloads() })
    }

    fn status_of(&self, object: ObjectRef) -> Answer<'_, ObjectStatus> {
        Box::pin(async move { object::status(&self.plane, &object) })
    }

    fn findings(&self) -> Answer<'_, Vec<Finding>> {
        Box::pin(async { self.findings() })
    }

    fn effect(
        &self,
        before: Arc<Snapshot>,
        after: Arc<Snapshot>,
        changed: Vec<ObjectRef>,
    ) -> Answer<'_, Vec<Effect>> {
        Box::pin(async move { effect::effects(&self.plane, &before, &after, &changed) })
    }

    fn edges(&self) -> Answer<'_, Observed> {
        Box::pin(async {
            let registered = self.plane.registry().members().into_iter().map(|member| {
                let registration = &member.registration;
                let name = format!("{}.{}", registration.workload_name, registration.namespace);
                (registration.workload_id.clone(), name)
            });
            let mut members: BTreeMap<String, String> = registered.collect();
            let mut connected = Vec::new();
            for proxy in self.plane.hub.seen() {
                let id = proxy.who.class.workload_id;
                connected.push(id.clone());
                members.entry(id).or_insert(proxy.who.name);
            }
            self.edges.read(&members, &connected).await
        })
    }

    fn gateways(&self) -> Answer<'_, Vec<Value>> {
        Box::pin(async { self.gateways() })
    }

    fn held(&self) -> Option<(String, Vec<ObjectRef>)> {
        self.plane.source.get()?.held()
    }

    fn release(&self, id: String) -> Answer<'_, Option<usize>> {
        Box::pin(async move { self.plane.source.get()?.release(&id).await })
    }

    fn world(&self) -> Answer<'_, Value> {
        Box::pin(async { self.world() })
    }

    fn hosts_of(&self, after: Arc<Snapshot>, objects: Vec<ObjectRef>) -> Answer<'_, Vec<String>> {
        Box::pin(async move {
            let before = self.plane.store.snapshot();
            let mut hosts: Vec<String> = Vec::new();
            for snapshot in [&*before, &*after] {
                let world = self.plane.world_of(snapshot);
                let found = objects.iter().filter_map(|key| snapshot.objects.get(key));
                let called = found.flat_map(|object| touch::called(&world, object));
                hosts.extend(called.map(|host| host.as_str().to_owned()));
            }
            hosts.sort();
            hosts.dedup();
            hosts
        })
    }
}
