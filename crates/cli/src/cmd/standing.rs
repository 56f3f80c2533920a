//! What proxies found out by themselves about those they call: who is out, and where breakers stand.
//!
//! A control plane cannot know it: each proxy ejects endpoints, asks after their health and counts for its breakers on
//! its own, and tells the control plane for people to read. `naka why` says it of a service, `naka explain` takes the
//! request along the way it would take in its caller's proxy. Pure; what a proxy says of itself is taken as said.

use naka_types::host::Host;
use naka_types::labels::{Labels, selects};
use naka_types::name::ClusterName;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a verdict is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Outlier detection ejected an endpoint.
    Outlier,
    /// An endpoint fails its health checks.
    HealthCheck,
    /// A breaker.
    Breaker,
}

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Closed,
    Open,
    HalfOpen,
}

/// A verdict of one proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    /// `workload.namespace`.
    pub(crate) proxy: String,
    /// Namespace of its workload, which its calls come from.
    pub(crate) namespace: String,
    account: String,
    labels: Labels,
    gateway: bool,
    pub(crate) kind: Kind,
    /// As xDS names it.
    pub(crate) cluster: String,
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) subset: String,
    /// Empty for a breaker.
    pub(crate) address: String,
    /// Milliseconds since 1970; 0: a closed breaker, or not known.
    pub(crate) since: u64,
    /// When it ends by itself; 0: at no certain time.
    pub(crate) until: u64,
}

/// The verdicts in a list of workloads. Those of a shape that is not known here say nothing.
pub(crate) fn read(workloads: &[Value]) -> Vec<Told> {
    let of = |workload: &Value| -> Vec<Told> {
        let all = workload["verdicts"].as_array().cloned().unwrap_or_default();
        let told = all.iter().filter_map(|verdict| one(workload, verdict));
        told.collect()
    };
    workloads.iter().flat_map(of).collect()
}

fn one(workload: &Value, verdict: &Value) -> Option<Told> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let cluster = word(&verdict["cluster"]);
    let ClusterName::Outbound { port, subset, host } = ClusterName::parse(&cluster)? else {
        return None;
    };
    let kind = match verdict["kind"].as_str()? {
        "outlier" => Kind::Outlier,
        "health-check" => Kind::HealthCheck,
        "breaker" => Kind::Breaker,
        _ => return None,
    };
    let namespace = word(&workload["namespace"]);
    let labels = workload.get("labels").cloned().unwrap_or_default();
    Some(Told {
        proxy: format!("{}.{namespace}", word(&workload["workload_name"])),
        namespace,
        account: word(&workload["service_account"]),
        labels: serde_json::from_value(labels).unwrap_or_default(),
        gateway: workload["gateway"].as_bool().unwrap_or(false),
        kind,
        cluster,
        host: Host::parse(&host).ok()?,
        port,
        subset,
        address: word(&verdict["address"]),
        since: verdict["since_ms"].as_u64().unwrap_or(0),
        until: verdict["until_ms"].as_u64().unwrap_or(0),
    })
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Caller<'a> {
    /// The sidecars of a service account of a namespace.
    Sidecar(&'a str, &'a str),
    /// The gateways with these labels.
    Gateway(&'a Labels),
}

/// What one proxy of the caller says: of several the first, by name, that keeps calls away from anybody. Others may
/// have found out something else, which is why the proxy is named wherever this is used.
pub(crate) fn seen_by(all: &[Told], caller: Caller<'_>) -> Vec<Told> {
    let is_its = |told: &&Told| match caller {
        Caller::Sidecar(namespace, account) => {
            !told.gateway && told.namespace == namespace && told.account == account
        }
        Caller::Gateway(labels) => told.gateway && selects(labels, &told.labels),
    };
    let away = all.iter().filter(is_its).filter(|told| told.since > 0);
    let Some(proxy) = away.map(|told| &told.proxy).min() else {
        return Vec::new();
    };
    let its = all.iter().filter(is_its);
    its.filter(|told| &told.proxy == proxy).cloned().collect()
}

impl Told {
    /// Where the breaker stands at a time.
    pub(crate) fn state(&self, now: u64) -> State {
        match (self.since, now < self.until) {
            (0, _) => State::Closed,
            (_, true) => State::Open,
            (_, false) => State::HalfOpen,
        }
    }

    /// In a sentence: "it is ...".
    pub(crate) fn words(&self, now: u64) -> String {
        let since = naka_store::rfc3339(self.since);
        let until = naka_store::rfc3339(self.until);
        let since = match self.since {
            0 => String::new(),
            _ => format!(" since {since}"),
        };
        match (self.kind, self.state(now)) {
            (Kind::Outlier, _) if self.until == 0 => {
                format!("ejected by outlier detection{since}")
            }
            (Kind::Outlier, _) => {
                format!("ejected by outlier detection{since} until {until} at the earliest")
            }
            (Kind::HealthCheck, _) => {
                format!("failing its health checks{since}, until they succeed")
            }
            (Kind::Breaker, State::Closed) => "closed".to_owned(),
            (Kind::Breaker, State::Open) => format!("open{since} until {until}"),
            (Kind::Breaker, State::HalfOpen) => {
                format!("half open since {until}: a few calls go through on trial")
            }
        }
    }

    /// Breakers for `-o json`.
    pub(crate) fn to_json(&self, now: u64) -> Value {
        let state = match self.state(now) {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half-open",
        };
        let time = |millis| (self.since > 0).then(|| naka_store::rfc3339(millis));
        json!({"proxy": self.proxy, "cluster": self.cluster, "state": state,
            "since": time(self.since), "until": time(self.until)})
    }
}

/// Verdicts of a kind on a host, those of several proxies about one thing together.
pub(crate) fn about<'a>(
    all: &'a [Told],
    host: &Host,
    kind: Kind,
) -> BTreeMap<(u16, &'a str, &'a str), Vec<&'a Told>> {
    let mut found: BTreeMap<_, Vec<&Told>> = BTreeMap::new();
    let its = all.iter().filter(|t| t.kind == kind && &t.host == host);
    for told in its {
        let key = (told.port, told.subset.as_str(), told.address.as_str());
        found.entry(key).or_default().push(told);
    }
    found
}

#[cfg(test)]
mod tests;
