//! What a service is like, and what follows: `services.NAME.{service_criticality, data_sensitivity,
//! compliance_requirements}` → authentication, authorization, encryption, monitoring, compliance.

use super::Made;
use super::document::{Document, said};
use super::names::{Names, Service};
use super::objects;
use naka_api::codes;
use naka_api::tree::{Entry, Node};
use serde_json::{Value, json};

const KEYS: &[&str] = &[
    "service_criticality",
    "data_sensitivity",
    "compliance_requirements",
];
/// How critical, and how long its certificates live.
const CRITICALITY: &[(&str, &str)] = &[
    ("low", "720h"),
    ("medium", "168h"),
    ("high", "24h"),
    ("critical", "24h"),
];
/// How sensitive, and the clearance that takes; the levels are those of a TrustModel that names none.
const SENSITIVITY: &[(&str, &str)] = &[
    ("public", "public"),
    ("internal", "internal"),
    ("confidential", "sensitive"),
    ("restricted", "critical"),
];

/// Objects of each service that says what it is like.
pub(crate) fn make(document: &mut Document, names: &Names) -> Vec<Made> {
    let root = document.root.clone();
    let services = root.get("services").map(Node::entries).unwrap_or_default();
    let mut made = Vec::new();
    for entry in services {
        let field = format!("services.{}", entry.key);
        let own = document.map(&entry.value, &field);
        if own.is_empty() {
            continue;
        }
        for inner in &own {
            if !KEYS.contains(&inner.key.as_str()) {
                document.unknown(inner.place, &format!("{field}.{}", inner.key), KEYS);
            }
        }
        let meant = names.meant(document, &entry.key, entry.place, &field);
        for service in meant.into_iter().flat_map(|meant| meant.services) {
            made.extend(one(document, entry, &service));
        }
    }
    made
}

fn one(document: &mut Document, entry: &Entry, service: &Service) -> Vec<Made> {
    let selector = || Some(objects::selector(service));
    let name = format!("service-{}", service.name);
    let criticality = chosen(document, entry, KEYS[0], CRITICALITY);
    let sensitivity = chosen(document, entry, KEYS[1], SENSITIVITY);
    let compliance = entry.value.get(KEYS[2]);
    let line = |document: &Document, key: &str, node: &Node| {
        format!(
            "{} services.{}.{key}: {}",
            document.at(node.place),
            entry.key,
            said(node)
        )
    };
    let lines: Vec<String> = KEYS
        .iter()
        .filter_map(|key| Some(line(document, key, entry.value.get(key)?)))
        .collect();
    let mut made = vec![objects::strict(
        &service.namespace,
        &name,
        selector(),
        lines.clone(),
    )];
    if let Some((_, duration)) = criticality {
        let spec = json!({"serviceAccounts": [service.name], "duration": duration});
        let own = lines
            .iter()
            .filter(|line| line.contains(KEYS[0]))
            .cloned()
            .collect();
        made.push(objects::certificates(&service.namespace, &name, spec, own));
    }
    let mut operation = json!({"name": "any"});
    if let Some((word, level)) = sensitivity {
        operation["clearance"] = json!(level);
        if *word == "restricted" {
            operation["dualAuthorization"] = json!(true);
        }
        if matches!(*word, "confidential" | "restricted") {
            operation["auditTrail"] = json!("comprehensive");
        }
    }
    if compliance.is_some() {
        operation["auditTrail"] = json!("comprehensive");
    }
    if operation.as_object().is_some_and(|fields| fields.len() > 1) {
        let spec = json!({"selector": objects::selector(service), "operations": [operation]});
        let own: Vec<String> = lines
            .iter()
            .filter(|line| !line.contains(KEYS[0]))
            .cloned()
            .collect();
        let mut model = objects::trust_model(&service.namespace, &name, spec, own);
        comply(document, compliance, &mut model.object);
        made.push(model);
    }
    let logged = sensitivity.is_some_and(|(word, _)| *word != "public") || compliance.is_some();
    if logged {
        made.push(objects::access_logs(
            &service.namespace,
            &name,
            selector(),
            lines,
        ));
    }
    made
}

/// The regulations, for whoever asks an object why it is there.
fn comply(document: &mut Document, compliance: Option<&Node>, object: &mut Value) {
    let Some(node) = compliance else {
        return;
    };
    let texts = document.texts(node, KEYS[2]);
    let names: Vec<String> = texts.into_iter().map(|(text, _)| text).collect();
    object["metadata"]["annotations"]["naka.dev/compliance"] = json!(names.join(" "));
}

fn chosen<'t>(
    document: &mut Document,
    entry: &Entry,
    key: &str,
    table: &'t [(&str, &str)],
) -> Option<&'t (&'t str, &'t str)> {
    let node = entry.value.get(key)?;
    let found = table.iter().find(|(word, _)| *word == said(node));
    if found.is_none() {
        let words: Vec<&str> = table.iter().map(|(word, _)| *word).collect();
        let field = format!("services.{}.{key}", entry.key);
        document.found(
            &codes::E007,
            node.place,
            &field,
            format!("{:?} is none of {}", said(node), words.join(", ")),
            "Write one of these.",
        );
    }
    found
}
