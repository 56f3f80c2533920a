//! The zero-trust posture: five sections of one document, each line made an object, or told where it is kept otherwise.
//!
//! What the mesh does anyway needs no object and is said in a comment at the top; what no mesh can do is a warning, so
//! that nobody believes it done.

use super::Made;
use super::document::{Document, is_matrix, said, yes};
use super::names::Names;
use super::objects::{self, ROOT};
use naka_api::codes;
use naka_api::tree::{Entry, Node};
use serde_json::{Value, json};

/// Who keeps a line that no object is made of.
enum Keeper {
    /// It holds in every mesh.
    Always(&'static str),
    /// An object made here.
    Object,
    /// Nobody in the mesh.
    Elsewhere(&'static str),
}
use Keeper::{Always, Elsewhere, Object};

/// Every line that a posture may have.
const LINES: &[(&str, Keeper)] = &[
    ("identity_verification.mutual_tls.required", Object),
    (
        "identity_verification.mutual_tls.certificate_rotation",
        Object,
    ),
    ("identity_verification.mutual_tls.key_size", Object),
    (
        "identity_verification.mutual_tls.signature_algorithm",
        Object,
    ),
    (
        "identity_verification.mutual_tls.ca_hierarchy",
        Always("root, intermediate, workload: naka ca"),
    ),
    (
        "identity_verification.service_identity.spiffe_format",
        Always("each identity is a SPIFFE id"),
    ),
    (
        "identity_verification.service_identity.identity_validation",
        Always("names in certificates are compared on both sides"),
    ),
    (
        "identity_verification.service_identity.identity_propagation",
        Elsewhere("programs pass tokens on; a RequestAuthentication verifies them"),
    ),
    (
        "identity_verification.service_identity.identity_refresh",
        Object,
    ),
    ("authorization_policies.default_policy", Object),
    (
        "authorization_policies.policy_enforcement",
        Always("policies have no mode in which they are only advice"),
    ),
    ("authorization_policies.policy_audit_logging", Object),
    (
        "authorization_policies.policy_violation_alerting",
        Always("each refusal is an event: naka get events"),
    ),
    (
        "network_segmentation.micro_segmentation",
        Always("each service has policies of its own: the matrix"),
    ),
    (
        "network_segmentation.namespace_isolation",
        Always("the matrix names who calls across namespaces; nobody else does"),
    ),
    (
        "network_segmentation.pod_security_policies",
        Elsewhere("the cluster's admission keeps them"),
    ),
    (
        "network_segmentation.network_policies",
        Elsewhere("firewalls and the cluster's network keep them"),
    ),
    ("data_protection.encryption_in_transit", Object),
    (
        "data_protection.encryption_at_rest",
        Always("keys and Secrets lie sealed: naka store seal; disks are their owners'"),
    ),
    (
        "data_protection.data_classification",
        Elsewhere("owners of the data say what it is: data_sensitivity of `services`"),
    ),
    (
        "data_protection.pii_detection",
        Elsewhere("the mesh reads no bodies for it"),
    ),
    (
        "monitoring_and_detection.anomaly_detection",
        Elsewhere("what reads the metrics does it"),
    ),
    (
        "monitoring_and_detection.behavioral_analysis",
        Elsewhere("what reads the metrics does it"),
    ),
    (
        "monitoring_and_detection.threat_intelligence_integration",
        Elsewhere("a CUSTOM policy can ask who does it"),
    ),
    (
        "monitoring_and_detection.real_time_alerting",
        Elsewhere("what reads metrics and events raises the alarm"),
    ),
];

/// Objects of the posture; none for a document that has no such section.
pub(crate) fn make(document: &mut Document, names: &Names) -> Vec<Made> {
    let root = document.root.clone();
    let mut comments = Vec::new();
    for section in root.entries().iter().filter(|entry| is_section(&entry.key)) {
        walk(document, &section.key, section, &mut comments);
    }
    let mut made = Vec::new();
    made.extend(encrypted(document, &root));
    made.extend(certificates(document, &root));
    made.extend(closed(document, &root, names));
    made.extend(logged(document, &root));
    if let Some(first) = made.first_mut() {
        comments.append(&mut first.comments);
        first.comments = comments;
    }
    made
}

fn is_section(key: &str) -> bool {
    LINES
        .iter()
        .any(|(path, _)| path.split('.').next() == Some(key))
}

fn walk(document: &mut Document, path: &str, entry: &Entry, comments: &mut Vec<String>) {
    for inner in &document.map(&entry.value, path) {
        if is_matrix(&inner.key) {
            continue;
        }
        let path = format!("{path}.{}", inner.key);
        let line = LINES.iter().find(|(known, _)| *known == path);
        let deeper = LINES
            .iter()
            .any(|(known, _)| known.starts_with(&format!("{path}.")));
        match line {
            _ if deeper => walk(document, &path, inner, comments),
            Some((_, Always(how))) => {
                comments.push(format!("{} {path}: {how}", document.at(inner.place)))
            }
            Some((_, Elsewhere(who))) => {
                let said = format!("{}: {}: no object says this", inner.key, said(&inner.value));
                document.found(&codes::W972, inner.place, &path, said, &format!("{who}."));
            }
            Some((_, Object)) => {}
            None => {
                let keys: Vec<&str> = LINES
                    .iter()
                    .filter_map(|(known, _)| known.rsplit('.').next())
                    .collect();
                document.unknown(inner.place, &path, &keys);
            }
        }
    }
}

/// Comment of a line that an object is made of.
fn from(document: &Document, path: &str, node: &Node) -> String {
    format!("{} {path}: {}", document.at(node.place), said(node))
}

fn encrypted(document: &mut Document, root: &Node) -> Option<Made> {
    let mut comments = Vec::new();
    for (path, good) in [
        (
            ["identity_verification", "mutual_tls", "required"].as_slice(),
            "true",
        ),
        (
            ["data_protection", "encryption_in_transit"].as_slice(),
            "mandatory",
        ),
    ] {
        let Some(node) = root.at(path) else {
            continue;
        };
        let path = path.join(".");
        if said(node) == good || good == "true" && yes(node) {
            comments.push(from(document, &path, node));
        } else {
            let said = format!("{:?}: mutual TLS stays as it is", said(node));
            document.found(
                &codes::W972,
                node.place,
                &path,
                said,
                &format!("Write {good}, or leave it out."),
            );
        }
    }
    (!comments.is_empty()).then(|| objects::strict(ROOT, "default", None, comments))
}

/// Lifetime and key; the lifetime is the shorter of rotation and refresh.
fn certificates(document: &mut Document, root: &Node) -> Option<Made> {
    let mut spec = json!({});
    let mut comments = Vec::new();
    let mut shortest: Option<std::time::Duration> = None;
    for (section, key) in [
        ("mutual_tls", "certificate_rotation"),
        ("service_identity", "identity_refresh"),
    ] {
        let Some(node) = root.at(&["identity_verification", section, key]) else {
            continue;
        };
        let path = format!("identity_verification.{section}.{key}");
        match naka_types::duration::parse(&said(node)) {
            Ok(length) => {
                comments.push(from(document, &path, node));
                if shortest.is_none_or(|known| length < known) {
                    shortest = Some(length);
                    spec["duration"] = json!(said(node));
                }
            }
            Err(_) => {
                let said = format!("{:?} is no length of time", said(node));
                document.found(
                    &codes::E007,
                    node.place,
                    &path,
                    said,
                    "Write for example 24h.",
                );
            }
        }
    }
    if let Some(key) = private_key(document, root, &mut comments) {
        spec["privateKey"] = key;
    }
    (!comments.is_empty()).then(|| objects::certificates(ROOT, "posture", spec, comments))
}

/// The key that a size and a signature ask for; where no such key exists, the strongest of that algorithm.
fn private_key(document: &mut Document, root: &Node, comments: &mut Vec<String>) -> Option<Value> {
    let tls = root.at(&["identity_verification", "mutual_tls"])?;
    let (size, algorithm) = (tls.get("key_size"), tls.get("signature_algorithm"));
    let node = algorithm.or(size)?;
    let name = algorithm.map(said).unwrap_or_default().to_ascii_uppercase();
    let wanted: Option<u64> = size.and_then(|size| said(size).parse().ok());
    let (algorithm, sizes): (&str, [u64; 2]) = match &name {
        name if name.starts_with("ECDSA") => ("ECDSA", [256, 384]),
        name if name.starts_with("RSA")
            || name.is_empty() && wanted.is_some_and(|size| size >= 2048) =>
        {
            ("RSA", [2048, 4096])
        }
        name if name.is_empty() => ("ECDSA", [256, 384]),
        _ => {
            let said = format!("{name:?}: no certificate of the mesh is signed so");
            document.found(
                &codes::E973,
                node.place,
                "signature_algorithm",
                said,
                "Write ECDSA-SHA256 or RSA-SHA256.",
            );
            return None;
        }
    };
    let taken = match wanted {
        None => sizes[0],
        Some(wanted) if sizes.contains(&wanted) => wanted,
        Some(wanted) => {
            let said = format!(
                "{algorithm} has no key of {wanted} bits: {} is used",
                sizes[1]
            );
            let place = size.unwrap_or(node).place;
            document.found(
                &codes::W972,
                place,
                "identity_verification.mutual_tls.key_size",
                said,
                &format!("Write {} or {}, or another algorithm.", sizes[0], sizes[1]),
            );
            sizes[1]
        }
    };
    for (key, node) in [
        ("key_size", size),
        ("signature_algorithm", tls.get("signature_algorithm")),
    ] {
        if let Some(node) = node {
            comments.push(from(
                document,
                &format!("identity_verification.mutual_tls.{key}"),
                node,
            ));
        }
    }
    Some(json!({"algorithm": algorithm, "size": taken}))
}

/// `default_policy: deny_all`: who no policy lets in stays outside, in the whole mesh.
fn closed(document: &mut Document, root: &Node, _names: &Names) -> Option<Made> {
    let path = "authorization_policies.default_policy";
    let node = root.at(&["authorization_policies", "default_policy"])?;
    if said(node) != "deny_all" {
        let said = format!("{:?}: nothing is made of this", said(node));
        document.found(
            &codes::E973,
            node.place,
            path,
            said,
            "Write deny_all, or leave it out.",
        );
        return None;
    }
    Some(objects::policy(
        ROOT,
        "deny-all",
        json!({}),
        vec![from(document, path, node)],
    ))
}

fn logged(document: &Document, root: &Node) -> Option<Made> {
    let node = root
        .at(&["authorization_policies", "policy_audit_logging"])
        .filter(|node| yes(node))?;
    let line = from(
        document,
        "authorization_policies.policy_audit_logging",
        node,
    );
    Some(objects::access_logs(ROOT, "posture", None, vec![line]))
}
