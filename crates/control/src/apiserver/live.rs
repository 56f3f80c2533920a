//! What the API server asks of the running mesh. The control plane implements it; the API server knows no xDS.
//!
//! Object-safe on purpose: one implementation at run time, a small one in tests.

use naka_store::Snapshot;
use naka_types::finding::Finding;
use naka_types::name::ObjectRef;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A future of an answer.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The running mesh as the API server sees it.
pub trait Live: Send + Sync + fmt::Debug {
    /// Waits until every connected proxy that holds something affected by `revision` has it, one refuses it, or the
    /// time is over.
    fn rollout(&self, revision: u64, timeout: Duration) -> Answer<'_, Rollout>;

    /// Connected proxies, one JSON object each with at least `name`, `namespace`, `service`, `state`, `revision`,
    /// `behind`, `version`, `identity`.
    fn proxies(&self) -> Answer<'_, Vec<Value>>;

    /// Workloads, one JSON object each with at least `workload_id`, `workload_name`, `namespace`, `service`, `state`,
    /// `ports`, `identity`.
    fn workloads(&self) -> Answer<'_, Vec<Value>>;

    /// How far an object has come.
    fn status_of(&self, object: ObjectRef) -> Answer<'_, ObjectStatus>;

    /// Findings on the live configuration as a whole: references that lead nowhere, shadowed routes, …
    fn findings(&self) -> Answer<'_, Vec<Finding>>;

    /// What a change would do. `changed` are the objects that differ between the two; the answer has one entry for
    /// each of them, in the same order.
    fn effect(
        &self,
        before: Arc<Snapshot>,
        after: Arc<Snapshot>,
        changed: Vec<ObjectRef>,
    ) -> Answer<'_, Vec<Effect>>;

    /// Requests and errors so far, by edge. Counters only grow; they may start again at 0 when a proxy restarts.
    fn edges(&self) -> Answer<'_, Observed>;

    /// Hosts whose traffic these objects touch, as they are and as they will be, for the band of `apply --confirm`.
    fn hosts_of(&self, after: Arc<Snapshot>, objects: Vec<ObjectRef>) -> Answer<'_, Vec<String>>;

    /// Gateway objects with the number of connected proxies that serve each: `{gateway, proxies}`.
    fn gateways(&self) -> Answer<'_, Vec<Value>>;

    /// Deletions of the watched directory that wait to be released, with their id.
    fn held(&self) -> Option<(String, Vec<ObjectRef>)>;

    /// Lets them happen; how many there were, `None` when none of this id wait.
    fn release(&self, id: String) -> Answer<'_, Option<usize>>;

    /// Traces that are kept, the newest first, at most so many: one JSON object each.
    fn traces(&self, limit: usize) -> Answer<'_, Vec<Value>>;

    /// One of them in full, by the beginning of its id; the newest without one.
    fn trace(&self, id: String) -> Answer<'_, Option<Value>>;

    /// What `naka explain` needs of the live state: `{objects: […], endpoints: {…}, services: {…}}`.
    fn world(&self) -> Answer<'_, Value>;
}

/// How far a revision has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Everybody concerned has it (or nobody is concerned).
    pub done: bool,
    /// No connected proxy holds anything that changed.
    pub none_affected: bool,
    /// Proxies that have it.
    pub acked: Vec<String>,
    /// Proxies that do not have it yet.
    pub behind: Vec<String>,
    /// Proxies that refuse it.
    pub nacks: Vec<Nack>,
}

/// A proxy's refusal, in its own words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nack {
    /// Which proxy.
    pub proxy: String,
    /// What it says.
    pub message: String,
}

/// Status of one object: never stored, computed on demand.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ObjectStatus {
    /// Revision of the object's last change.
    pub revision: u64,
    /// One word: `programmed`, `pending`, `refused`, `unused`, …
    pub state: String,
    /// Kubernetes conditions: Accepted, Enforced, ResolvedRefs, Programmed, Conflicted.
    pub conditions: Vec<Condition>,
    /// Proxies that have it.
    pub acked: Vec<String>,
    /// Proxies that do not have it yet.
    pub behind: Vec<String>,
    /// Proxies that refuse it.
    pub nacked: Vec<Nack>,
    /// Proxies that need it and are not connected.
    pub away: Vec<String>,
    /// Connected proxies that do not need it.
    pub unaffected: Vec<String>,
    /// Findings on it.
    pub findings: Vec<Finding>,
}

/// A condition in the shape of Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Accepted, ResolvedRefs, Programmed or Conflicted.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// CamelCase word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// What a change does to the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// Connected proxies whose configuration would change.
    pub proxies: Vec<String>,
    /// Routes that come to be.
    pub routes_added: Vec<String>,
    /// Routes that go.
    pub routes_removed: Vec<String>,
    /// Routes that stay and change.
    pub routes_changed: Vec<String>,
    /// Endpoints that become reachable, as `address (cluster)`.
    pub endpoints_added: Vec<String>,
    /// Endpoints that are no longer reachable.
    pub endpoints_removed: Vec<String>,
    /// Routes that can never match, because one before them takes everything.
    pub shadowed: Vec<String>,
}

/// What is known of the traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Counters by edge.
    pub edges: BTreeMap<Edge, Counts>,
    /// Connected proxies whose counters cannot be read from here.
    pub unwatched: Vec<String>,
}

/// Who calls whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Edge {
    /// Caller, `namespace/service`.
    pub from: String,
    /// Called host.
    pub to: String,
    /// Workload id of the proxy that counts.
    pub proxy: String,
}

/// Counters of an edge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests.
    pub requests: u64,
    /// Those answered by 5xx or not at all.
    pub errors: u64,
}
