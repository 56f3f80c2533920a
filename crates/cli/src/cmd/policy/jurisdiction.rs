//! Clearance by service and operation, with purposes: `jurisdiction: {levels, clearance, operations}`.
//!
//! Levels are numbers: compared as texts, as it is often written, `civilian_level` passes where `admin_level` is asked
//! for. An operation that nobody described is not allowed by this: a TrustModel allows nothing, policies do.

use super::Made;
use super::document::{Document, said};
use super::names::{Names, Service};
use super::objects;
use naka_api::codes;
use naka_api::tree::{Entry, Node};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const SECTIONS: &[&str] = &["levels", "clearance", "operations"];
const KEYS: &[&str] = &[
    "clearance",
    "services",
    "methods",
    "paths",
    "purpose",
    "consent",
];

/// One TrustModel, and a DENY policy for each operation that asks for a purpose or a consent.
pub(crate) fn make(document: &mut Document, names: &Names) -> Vec<Made> {
    let Some(section) = document.root.get("jurisdiction").cloned() else {
        return Vec::new();
    };
    for entry in &document.map(&section, "jurisdiction") {
        if !SECTIONS.contains(&entry.key.as_str()) {
            document.unknown(
                entry.place,
                &format!("jurisdiction.{}", entry.key),
                SECTIONS,
            );
        }
    }
    let levels = levels(document, &section);
    let mut comments = clearances(document, names, &section, &levels);
    let mut operations = Vec::new();
    let mut made = Vec::new();
    for entry in section
        .get("operations")
        .map(Node::entries)
        .unwrap_or_default()
    {
        let field = format!("jurisdiction.operations.{}", entry.key);
        for inner in &document.map(&entry.value, &field) {
            if !KEYS.contains(&inner.key.as_str()) {
                document.unknown(inner.place, &format!("{field}.{}", inner.key), KEYS);
            }
        }
        comments.push(format!("{} {field}", document.at(entry.place)));
        operations.push(operation(document, names, entry, &levels, &field));
        made.extend(purposes(document, names, entry, &field));
    }
    let spec = json!({"levels": levels, "operations": operations});
    made.insert(
        0,
        objects::trust_model(&names.namespace, "jurisdiction", spec, comments),
    );
    made
}

fn levels(document: &mut Document, section: &Node) -> BTreeMap<String, u64> {
    let mut levels = BTreeMap::new();
    let Some(node) = section.get("levels") else {
        let said = "levels have no numbers: names are not compared".to_owned();
        document.found(
            &codes::E006,
            section.place,
            "jurisdiction.levels",
            said,
            "Write `levels: {civilian_level: 0, officer_level: 3}`.",
        );
        return levels;
    };
    for entry in node.entries() {
        match entry.value.to_json().as_u64() {
            Some(number) => {
                levels.insert(entry.key.clone(), number);
            }
            None => document.found(
                &codes::E003,
                entry.value.place,
                &format!("jurisdiction.levels.{}", entry.key),
                "not a number".to_owned(),
                "Write a whole number, larger for more.",
            ),
        }
    }
    levels
}

fn level(
    document: &mut Document,
    node: &Node,
    field: &str,
    levels: &BTreeMap<String, u64>,
) -> Option<String> {
    let name = said(node);
    if levels.contains_key(&name) {
        return Some(name);
    }
    let near = naka_api::schema::nearest(&name, levels.keys().map(String::as_str));
    let fix = near.map_or_else(
        || "Name it under levels.".to_owned(),
        |near| format!("Did you mean {near}?"),
    );
    document.found(
        &codes::E007,
        node.place,
        field,
        format!("{name:?} is no level"),
        &fix,
    );
    None
}

/// A clearance is a label that a token grants; the comments say which tokens that takes.
fn clearances(
    document: &mut Document,
    names: &Names,
    section: &Node,
    levels: &BTreeMap<String, u64>,
) -> Vec<String> {
    let mut comments = Vec::new();
    for entry in section
        .get("clearance")
        .map(Node::entries)
        .unwrap_or_default()
    {
        let field = format!("jurisdiction.clearance.{}", entry.key);
        let level = level(document, &entry.value, &field, levels);
        let meant = names.meant(document, &entry.key, entry.place, &field);
        if let (Some(level), Some(meant)) = (level, meant) {
            for service in &meant.services {
                comments.push(format!(
                    "{} naka token create -n {} -s {} -l security-clearance={level}",
                    document.at(entry.place),
                    service.namespace,
                    service.name
                ));
            }
        }
    }
    comments
}

fn called(document: &mut Document, names: &Names, entry: &Entry, field: &str) -> BTreeSet<Service> {
    let Some(node) = entry.value.get("services") else {
        return BTreeSet::new();
    };
    let field = format!("{field}.services");
    let texts = document.texts(node, &field);
    let all = texts
        .into_iter()
        .filter_map(|(name, place)| names.meant(document, &name, place, &field));
    let all: Vec<_> = all.collect();
    all.into_iter().flat_map(|meant| meant.services).collect()
}

fn words(document: &mut Document, entry: &Entry, key: &str, field: &str) -> Vec<String> {
    let Some(node) = entry.value.get(key) else {
        return Vec::new();
    };
    let texts = document.texts(node, &format!("{field}.{key}"));
    texts.into_iter().map(|(text, _)| text).collect()
}

fn operation(
    document: &mut Document,
    names: &Names,
    entry: &Entry,
    levels: &BTreeMap<String, u64>,
    field: &str,
) -> Value {
    let mut made = json!({"name": entry.key});
    let called = called(document, names, entry, field);
    if !called.is_empty() {
        let hosts = called
            .iter()
            .map(|one| format!("{}.{}.svc.cluster.local", one.name, one.namespace));
        made["hosts"] = hosts.collect();
    }
    for key in ["methods", "paths"] {
        let words = words(document, entry, key, field);
        if !words.is_empty() {
            made[key] = json!(words);
        }
    }
    match entry.value.get("clearance") {
        Some(node) => {
            made["clearance"] = json!(level(document, node, &format!("{field}.clearance"), levels))
        }
        None => document.found(
            &codes::E006,
            entry.place,
            &format!("{field}.clearance"),
            "says no clearance".to_owned(),
            "Write the name of a level.",
        ),
    }
    made
}

/// Requests without one of the purposes, or without consent, are refused, whoever sends them. The headers are the
/// caller's own word: they make a purpose stated and logged, and prove none.
fn purposes(document: &mut Document, names: &Names, entry: &Entry, field: &str) -> Vec<Made> {
    let mut asked = Vec::new();
    let mut comments = Vec::new();
    for (key, header) in [
        ("purpose", "audit-purpose"),
        ("consent", "customer-consent"),
    ] {
        let values = words(document, entry, key, field);
        if let Some(node) = entry.value.get(key) {
            comments.push(format!(
                "{} {field}.{key}: {}",
                document.at(node.place),
                values.join(", ")
            ));
            asked.push((header, values));
        }
    }
    if asked.is_empty() {
        return Vec::new();
    }
    let mut request = json!({});
    for key in ["methods", "paths"] {
        let words = words(document, entry, key, field);
        if !words.is_empty() {
            request[key] = json!(words);
        }
    }
    let rules: Vec<Value> = asked
        .iter()
        .map(|(header, values)| {
            let when = json!([{"key": format!("request.headers[{header}]"), "notValues": values}]);
            if request.as_object().is_some_and(serde_json::Map::is_empty) {
                json!({ "when": when })
            } else {
                json!({"to": [{"operation": request}], "when": when})
            }
        })
        .collect();
    let name = super::names::canonical(&entry.key);
    let services = called(document, names, entry, field);
    if services.is_empty() {
        let spec = json!({"action": "DENY", "rules": rules});
        return vec![objects::policy(
            &names.namespace,
            &format!("purpose-{name}"),
            spec,
            comments,
        )];
    }
    let one = |service: &Service| {
        let spec =
            json!({"selector": objects::selector(service), "action": "DENY", "rules": rules});
        let name = format!("purpose-{name}-{}", service.name);
        objects::policy(&service.namespace, &name, spec, comments.clone())
    };
    services.iter().map(one).collect()
}
