//! `apiVersion` and `metadata`: checked, completed with the namespace, brought to the storage version.

use super::Report;
use crate::codes;
use crate::kind::Kind;
use crate::object::Meta;
use crate::schema::{COUNT, Field, Now, STRINGS, TEXTS, Ty, walk};
use crate::tree::{Data, Node};
use naka_types::host::check_label;
use naka_types::labels::Labels;

/// Fields of `metadata`.
pub(crate) const METADATA: &[Field] = &[
    Field::new("name", Ty::Str, Now::Yes, "Name.").required(),
    Field::new(
        "namespace",
        Ty::Str,
        Now::Yes,
        "Namespace; `default` unless given.",
    ),
    Field::new("labels", STRINGS, Now::Yes, "Labels."),
    Field::new("annotations", STRINGS, Now::Yes, "Annotations."),
    Field::new("uid", Ty::Str, Now::Yes, "Set by the server."),
    Field::new(
        "resourceVersion",
        Ty::Str,
        Now::Yes,
        "Set by the server; when sent, the change is refused if the object has moved on.",
    ),
    Field::new("generation", COUNT, Now::Yes, "Set by the server."),
    Field::new("creationTimestamp", Ty::Str, Now::Yes, "Set by the server."),
    Field::new("managedFields", Ty::Any, Now::Yes, "Set by Kubernetes."),
    Field::new("selfLink", Ty::Str, Now::Yes, "Set by Kubernetes."),
    Field::new("deletionTimestamp", Ty::Str, Now::Yes, "Set by Kubernetes."),
    Field::new(
        "deletionGracePeriodSeconds",
        COUNT,
        Now::Yes,
        "Set by Kubernetes.",
    ),
    Field::new("generateName", Ty::Str, Now::NotYet, "Name prefix."),
    Field::new("finalizers", TEXTS, Now::NotYet, "Delays deletion."),
    Field::new(
        "ownerReferences",
        Ty::Any,
        Now::NotYet,
        "Deletes with the owner.",
    ),
];

/// Reads the metadata; sets `apiVersion` and `metadata.namespace` of the tree to what is stored.
pub(crate) fn decode(report: &mut Report, node: &mut Node, kind: Kind, namespace: &str) -> Meta {
    let place = node
        .get("apiVersion")
        .map_or(node.place, |value| value.place);
    if let Some(version) = node.get_mut("apiVersion") {
        version.data = Data::Text(kind.api_version());
    }
    if node.get("metadata").is_none() {
        report.error(
            codes::E006,
            "metadata",
            place,
            "metadata is required".to_owned(),
            "add metadata with a name".to_owned(),
        );
        return Meta::default();
    }
    let Some(metadata) = node.get_mut("metadata") else {
        return Meta::default();
    };
    let start = metadata.place;
    if !matches!(metadata.data, Data::Map(_)) {
        report.error(
            codes::E003,
            "metadata",
            start,
            format!("wants a map, found {}", metadata.what()),
            "write fields such as name below metadata".to_owned(),
        );
        return Meta::default();
    }
    walk::object(report, metadata, METADATA, "metadata");
    if kind.namespaced() {
        if metadata.get("namespace").is_none() {
            metadata.put(
                "namespace",
                start,
                Node {
                    data: Data::Text(namespace.to_owned()),
                    place: start,
                },
            );
        }
    } else if let Some(entry) = metadata
        .take("namespace")
        .filter(|entry| entry.value.text().is_some_and(|text| !text.is_empty()))
    {
        report.error(
            codes::E007,
            "metadata.namespace",
            entry.place,
            format!("{kind} is not in a namespace"),
            "remove metadata.namespace".to_owned(),
        );
    }
    let text = |key: &str| {
        metadata
            .get(key)
            .and_then(Node::text)
            .unwrap_or_default()
            .to_owned()
    };
    let meta = Meta {
        name: text("name"),
        namespace: text("namespace"),
        uid: text("uid"),
        generation: metadata
            .get("generation")
            .and_then(Node::integer)
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or(0),
        resource_version: text("resourceVersion"),
        labels: labels(metadata.get("labels")),
        annotations: labels(metadata.get("annotations")),
        creation_timestamp: text("creationTimestamp"),
    };
    check_names(report, metadata, kind, &meta);
    meta
}

fn check_names(report: &mut Report, metadata: &Node, kind: Kind, meta: &Meta) {
    // Services and namespaces become parts of host names; other objects may have dots, as in Kubernetes.
    let sound = |name: &str| match kind {
        Kind::Service | Kind::Namespace => check_label(name).is_ok(),
        _ => name.len() <= 253 && name.split('.').all(|part| check_label(part).is_ok()),
    };
    let advice = "use lower-case letters, digits and '-', at most 63 characters".to_owned();
    if let Some(name) = metadata
        .get("name")
        .filter(|_| !meta.name.is_empty() && !sound(&meta.name))
    {
        report.invalid(
            "metadata.name",
            name,
            format!("{:?} is not a name", meta.name),
            advice.clone(),
        );
    }
    if let Some(namespace) = metadata
        .get("namespace")
        .filter(|_| check_label(&meta.namespace).is_err() && kind.namespaced())
    {
        report.invalid(
            "metadata.namespace",
            namespace,
            format!("{:?} is not a namespace name", meta.namespace),
            advice,
        );
    }
}

/// Pairs of texts; anything else was reported by the walk.
pub(crate) fn labels(node: Option<&Node>) -> Labels {
    node.map(Node::entries)
        .unwrap_or_default()
        .iter()
        .filter_map(|entry| Some((entry.key.clone(), entry.value.text()?.to_owned())))
        .collect()
}
