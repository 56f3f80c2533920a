//! `naka split payment v1=90 v2=10`: write the weights for me.
//!
//! When a VirtualService already routes the service, only the weights of its catch-all route change (matched routes
//! are the user's own business); subsets that are missing are added to the DestinationRule. What it would write is
//! shown by `-o yaml`.

use crate::args::{self, Output};
use crate::client::Client;
use crate::cmd::apply::{self, Request};
use crate::cmd::history::items;
use crate::cmd::names;
use crate::exit::{Exit, Outcome};
use crate::out;
use naka_api::{Kind, Mode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// Runs `naka split`.
pub(crate) async fn run(args: &args::Split, context: Option<&str>) -> Outcome {
    let weights = parse(&args.weights)?;
    let mut client = Client::open(context).await?;
    let rules = client
        .get(&names::collection(Kind::DestinationRule, &args.namespace))
        .await?;
    let services = client
        .get(&names::collection(Kind::VirtualService, &args.namespace))
        .await?;
    let name = Name::new(&args.service, &args.namespace);
    let rule = with_subsets(find(&rules, &name, rule_is_for), &name, &weights);
    let route = with_weights(find(&services, &name, routes), &name, &weights);
    let objects = [rule, route];
    match args.output {
        Some(Output::Json) => {
            out::json(&json!({"apiVersion": "v1", "kind": "List", "items": objects}));
            return Ok(());
        }
        Some(Output::Yaml | Output::Wide) => {
            let documents: Vec<String> = objects.iter().map(out::yaml).collect();
            out::raw(documents.join("---\n"));
            return Ok(());
        }
        None => {}
    }
    let mut decoded = Vec::new();
    let mut findings = Vec::new();
    for object in &objects {
        let (object, found) = naka_api::decode_json(object, Mode::Compat);
        decoded.extend(object);
        findings.extend(found);
    }
    let request = Request {
        cause: format!("naka split {} {}", args.service, args.weights.join(" ")),
        ..Request::default()
    };
    let applied = apply::send(&mut client, &decoded, findings, &request).await?;
    apply::report(&applied, None, false);
    if applied.changed() {
        apply::wait(
            &mut client,
            applied.revision,
            Duration::from_secs(10),
            false,
        )
        .await?;
    }
    if let Ok(workloads) = client.get("/naka/v1/workloads").await
        && let Some(note) = unserved(&workloads, &name, &weights)
    {
        out::note(note);
    }
    applied.verdict()
}

/// What to say when a version with a share has no workload: splitting ahead of a deployment is fine, a typing mistake
/// is not, and nobody else can tell them apart.
fn unserved(workloads: &Value, name: &Name<'_>, weights: &[(String, u32)]) -> Option<String> {
    let is = |workload: &Value, field: &str, wanted: &str| {
        workload.get(field).and_then(Value::as_str) == Some(wanted)
    };
    let all = items(workloads);
    let here = |workload: &&Value| is(workload, "namespace", name.namespace);
    let versions: BTreeSet<&str> = all
        .iter()
        .filter(here)
        .filter(|workload| is(workload, "service", name.service))
        .filter_map(|workload| workload.pointer("/labels/version").and_then(Value::as_str))
        .collect();
    if versions.is_empty() {
        let services = all.iter().filter(here);
        let services = services.filter_map(|w| w.get("service").and_then(Value::as_str));
        let near = naka_api::schema::nearest(name.service, services);
        let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
        return Some(format!(
            "naka: no workload serves {} in {}{hint}",
            name.service, name.namespace
        ));
    }
    let missing = weights
        .iter()
        .find(|(version, share)| *share > 0 && !versions.contains(version.as_str()))?;
    let known: Vec<&str> = versions.into_iter().collect();
    Some(format!(
        "naka: no workload of {} has version={}; it runs {}: its share gets 503 until one does",
        name.service,
        missing.0,
        known.join(", ")
    ))
}

/// A service's name in the forms hosts are written in.
struct Name<'a> {
    service: &'a str,
    namespace: &'a str,
    host: String,
}

impl<'a> Name<'a> {
    fn new(service: &'a str, namespace: &'a str) -> Self {
        Self {
            service,
            namespace,
            host: format!("{service}.{namespace}.svc.cluster.local"),
        }
    }

    fn is(&self, host: &str) -> bool {
        host == self.service
            || host == self.host
            || host == format!("{}.{}", self.service, self.namespace)
            || host == format!("{}.{}.svc", self.service, self.namespace)
    }
}

/// Reads `v1=90 v2=10`; the percents must add up to 100.
fn parse(words: &[String]) -> Outcome<Vec<(String, u32)>> {
    let mut weights: Vec<(String, u32)> = Vec::new();
    for word in words {
        let (version, percent) = word
            .split_once('=')
            .filter(|(version, _)| !version.is_empty())
            .ok_or_else(|| Exit::usage(format!("{word:?}: write VERSION=PERCENT")))?;
        let percent = percent
            .trim_end_matches('%')
            .parse()
            .map_err(|_| Exit::usage(format!("{word:?}: {percent:?} is no whole number")))?;
        if weights.iter().any(|(known, _)| known == version) {
            return Err(Exit::usage(format!("{version} is named twice")));
        }
        weights.push((version.to_owned(), percent));
    }
    let sum: u64 = weights.iter().map(|(_, percent)| u64::from(*percent)).sum();
    if sum == 100 {
        Ok(weights)
    } else {
        Err(Exit::usage(format!(
            "the percents add up to {sum}, not to 100"
        )))
    }
}

fn find(list: &Value, name: &Name<'_>, is_for: fn(&Value, &Name<'_>) -> bool) -> Option<Value> {
    items(list)
        .iter()
        .find(|object| is_for(object, name))
        .cloned()
}

fn rule_is_for(object: &Value, name: &Name<'_>) -> bool {
    object
        .pointer("/spec/host")
        .and_then(Value::as_str)
        .is_some_and(|host| name.is(host))
}

/// In-mesh routing only: a VirtualService bound to gateways alone says nothing about calls between services.
fn routes(object: &Value, name: &Name<'_>) -> bool {
    let words = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
    };
    let in_mesh =
        words("/spec/gateways").next().is_none() || words("/spec/gateways").any(|g| g == "mesh");
    in_mesh && words("/spec/hosts").any(|host| name.is(host))
}

fn with_subsets(existing: Option<Value>, name: &Name<'_>, weights: &[(String, u32)]) -> Value {
    let mut rule = existing.unwrap_or_else(|| {
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": {"name": name.service, "namespace": name.namespace},
            "spec": {"host": name.service, "subsets": []},
        })
    });
    trim(&mut rule);
    if !rule.pointer("/spec/subsets").is_some_and(Value::is_array) {
        rule["spec"]["subsets"] = json!([]);
    }
    if let Some(subsets) = rule
        .pointer_mut("/spec/subsets")
        .and_then(Value::as_array_mut)
    {
        for (version, _) in weights {
            if !subsets
                .iter()
                .any(|s| s.get("name").and_then(Value::as_str) == Some(version))
            {
                subsets.push(json!({"name": version, "labels": {"version": version}}));
            }
        }
    }
    rule
}

fn with_weights(existing: Option<Value>, name: &Name<'_>, weights: &[(String, u32)]) -> Value {
    let destinations: Vec<Value> = weights
        .iter()
        .map(|(version, percent)| json!({"destination": {"host": name.service, "subset": version}, "weight": percent}))
        .collect();
    let mut service = existing.unwrap_or_else(|| {
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": name.service, "namespace": name.namespace},
            "spec": {"hosts": [name.service], "http": []},
        })
    });
    trim(&mut service);
    if !service.pointer("/spec/http").is_some_and(Value::is_array) {
        service["spec"]["http"] = json!([]);
    }
    if let Some(http) = service
        .pointer_mut("/spec/http")
        .and_then(Value::as_array_mut)
    {
        let catch_all = http.iter_mut().find(|route| {
            route
                .get("match")
                .and_then(Value::as_array)
                .is_none_or(Vec::is_empty)
        });
        match catch_all {
            Some(route) => route["route"] = Value::Array(destinations),
            None => http.push(json!({ "route": destinations })),
        }
    }
    service
}

/// Removes what only the server sets.
fn trim(object: &mut Value) {
    if let Some(all) = object.as_object_mut() {
        all.remove("status");
    }
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in [
            "uid",
            "generation",
            "resourceVersion",
            "creationTimestamp",
            "managedFields",
            "selfLink",
        ] {
            meta.remove(field);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_version_that_nobody_runs_is_named() {
        let workload = |service: &str, version: &str| json!({"namespace": "default", "service": service, "labels": {"version": version}});
        let all = json!({"items": [workload("payment", "v1"), workload("payment", "v2")]});
        let shares = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            super::parse(&words).unwrap()
        };
        for (service, split, said) in [
            ("payment", ["v1=90", "v2=10"], None),
            ("payment", ["v1=100", "v3=0"], None),
            (
                "payment",
                ["v1=90", "v3=10"],
                Some("has version=v3; it runs v1, v2"),
            ),
            ("paymnet", ["v1=90", "v2=10"], Some("did you mean payment?")),
        ] {
            let note =
                super::unserved(&all, &super::Name::new(service, "default"), &shares(&split));
            match said {
                None => assert_eq!(note, None),
                Some(words) => assert!(note.unwrap().contains(words)),
            }
        }
    }

    use super::*;

    fn weights(words: &[&str]) -> Outcome<Vec<(String, u32)>> {
        parse(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn percents_must_be_whole_and_add_up() {
        assert_eq!(
            weights(&["v1=90", "v2=10%"]).unwrap(),
            [("v1".to_owned(), 90), ("v2".to_owned(), 10)]
        );
        for bad in [
            &["v1=90"][..],
            &["v1=90", "v1=10"],
            &["v1"],
            &["=100"],
            &["v1=a"],
            &["v1=100", "v2=10"],
        ] {
            assert_eq!(weights(bad).unwrap_err().code, 64, "{bad:?}");
        }
    }

    #[test]
    fn a_new_split_writes_both_objects() {
        let name = Name::new("payment", "shop");
        let weights = weights(&["v1=90", "v2=10"]).unwrap();
        let rule = with_subsets(None, &name, &weights);
        assert_eq!(
            rule.pointer("/spec/subsets/1/labels/version"),
            Some(&json!("v2"))
        );
        let service = with_weights(None, &name, &weights);
        assert_eq!(
            service.pointer("/spec/http/0/route/1/weight"),
            Some(&json!(10))
        );
        for object in [rule, service] {
            let (decoded, findings) = naka_api::decode_json(&object, Mode::Strict);
            assert!(decoded.is_some() && findings.is_empty(), "{findings:?}");
        }
    }

    #[test]
    fn matched_routes_and_other_subsets_stay() {
        let name = Name::new("payment", "default");
        let beta = json!({"match": [{"headers": {"beta": {"exact": "1"}}}], "route": [{"destination": {"host": "payment", "subset": "v3"}}]});
        let existing = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "mine", "namespace": "default", "uid": "u", "resourceVersion": "7"},
            "spec": {"hosts": ["payment.default.svc.cluster.local"], "http": [beta.clone(), {"route": [{"destination": {"host": "payment"}}], "timeout": "3s"}]},
        });
        assert!(routes(&existing, &name));
        let after = with_weights(
            Some(existing),
            &name,
            &weights(&["v1=50", "v2=50"]).unwrap(),
        );
        assert_eq!(after.pointer("/spec/http/0"), Some(&beta));
        assert_eq!(after.pointer("/spec/http/1/timeout"), Some(&json!("3s")));
        assert_eq!(
            after.pointer("/spec/http/1/route/0/weight"),
            Some(&json!(50))
        );
        assert_eq!(after.pointer("/metadata/name"), Some(&json!("mine")));
        assert_eq!(after.pointer("/metadata/resourceVersion"), None);
    }

    #[test]
    fn a_gateway_only_route_is_not_edited() {
        let object = json!({"spec": {"hosts": ["payment"], "gateways": ["istio-system/in"]}});
        assert!(!routes(&object, &Name::new("payment", "default")));
    }
}
