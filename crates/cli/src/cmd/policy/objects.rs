//! The objects that are made, each with the lines it comes from as comments and as an annotation.

use super::Made;
use super::names::Service;
use serde_json::{Value, json};

/// Namespace whose objects are the whole mesh's.
pub(crate) const ROOT: &str = "istio-system";
/// Where an object comes from, for those who read it in the mesh.
const FROM: &str = "naka.dev/generated-from";

/// An object; comments that begin with `FILE:LINE:COLUMN ` are what its annotation names.
pub(crate) fn object(
    version: &str,
    kind: &str,
    namespace: &str,
    name: &str,
    spec: Value,
    comments: Vec<String>,
) -> Made {
    let places: Vec<&str> = comments
        .iter()
        .filter_map(|line| line.split(' ').next())
        .filter(|place| place.matches(':').count() >= 2)
        .collect();
    let mut metadata = json!({"name": name, "namespace": namespace});
    if !places.is_empty() {
        metadata["annotations"] = json!({ FROM: places.join(" ") });
    }
    Made {
        comments,
        object: json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}),
    }
}

/// An AuthorizationPolicy.
pub(crate) fn policy(namespace: &str, name: &str, spec: Value, comments: Vec<String>) -> Made {
    object(
        "security.istio.io/v1",
        "AuthorizationPolicy",
        namespace,
        name,
        spec,
        comments,
    )
}

/// A PeerAuthentication that takes mutual TLS only.
pub(crate) fn strict(
    namespace: &str,
    name: &str,
    selector: Option<Value>,
    comments: Vec<String>,
) -> Made {
    let mut spec = json!({"mtls": {"mode": "STRICT"}});
    if let Some(selector) = selector {
        spec["selector"] = selector;
    }
    object(
        "security.istio.io/v1",
        "PeerAuthentication",
        namespace,
        name,
        spec,
        comments,
    )
}

/// A TrustModel.
pub(crate) fn trust_model(namespace: &str, name: &str, spec: Value, comments: Vec<String>) -> Made {
    object(
        "naka.dev/v1alpha1",
        "TrustModel",
        namespace,
        name,
        spec,
        comments,
    )
}

/// A CertificatePolicy.
pub(crate) fn certificates(
    namespace: &str,
    name: &str,
    spec: Value,
    comments: Vec<String>,
) -> Made {
    object(
        "naka.dev/v1alpha1",
        "CertificatePolicy",
        namespace,
        name,
        spec,
        comments,
    )
}

/// A Telemetry object that asks for access logs.
pub(crate) fn access_logs(
    namespace: &str,
    name: &str,
    selector: Option<Value>,
    comments: Vec<String>,
) -> Made {
    let mut spec = json!({"accessLogging": [{"disabled": false}]});
    if let Some(selector) = selector {
        spec["selector"] = selector;
    }
    object(
        "telemetry.istio.io/v1",
        "Telemetry",
        namespace,
        name,
        spec,
        comments,
    )
}

/// Workloads of a service, by the label that each has unless it was started with another.
pub(crate) fn selector(service: &Service) -> Value {
    json!({"matchLabels": {"app": service.name}})
}
