//! One object: who it is, what is in force of it, and what the user wrote.
//!
//! `spec` holds only sound parts, with hosts resolved and defaults left as `None`; `raw` is the whole object as JSON in
//! the storage version, faithful to what was written (aliases included), so that decoding `raw` again gives the same
//! object and the same findings. `Debug` never shows values of a Secret.

use crate::core::{secret::Secret, service::Service};
use crate::kind::Kind;
use crate::limits::local_rate_limit::LocalRateLimit;
use crate::mesh::MeshConfig;
use crate::networking::{
    destination_rule::DestinationRule, gateway::Gateway, service_entry::ServiceEntry,
    sidecar::Sidecar, virtual_service::VirtualService, workload_entry::WorkloadEntry,
};
use crate::own::{
    backend_policy::BackendPolicy, certificate_policy::CertificatePolicy, mode::Mode,
    request_guard::RequestGuard, rollout::Rollout, trust_model::TrustModel,
};
use crate::security::authorization_policy::AuthorizationPolicy;
use crate::security::peer_authentication::PeerAuthentication;
use crate::security::request_authentication::RequestAuthentication;
use naka_types::labels::Labels;
use naka_types::name::ObjectRef;
use serde_json::{Map, Value};
use std::fmt;

/// Standard metadata. What only the server sets is empty or 0 in objects that come from files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// Name.
    pub name: String,
    /// Namespace, empty for cluster-wide kinds.
    pub namespace: String,
    /// Set by the server at creation.
    pub uid: String,
    /// Counts changes of the spec.
    pub generation: u64,
    /// Store-wide revision of the last change.
    pub resource_version: String,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// RFC 3339, set by the server.
    pub creation_timestamp: String,
}

/// What is in force of an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Spec {
    /// A namespace has labels only.
    Namespace,
    /// v1 Service.
    Service(Service),
    /// v1 Secret.
    Secret(Secret),
    /// WorkloadEntry.
    WorkloadEntry(WorkloadEntry),
    /// VirtualService.
    VirtualService(VirtualService),
    /// DestinationRule.
    DestinationRule(Box<DestinationRule>),
    /// Gateway.
    Gateway(Gateway),
    /// BackendPolicy.
    BackendPolicy(Box<BackendPolicy>),
    /// CertificatePolicy.
    CertificatePolicy(Box<CertificatePolicy>),
    /// PeerAuthentication.
    PeerAuthentication(PeerAuthentication),
    /// AuthorizationPolicy.
    AuthorizationPolicy(AuthorizationPolicy),
    /// RequestAuthentication.
    RequestAuthentication(RequestAuthentication),
    /// LocalRateLimit.
    LocalRateLimit(LocalRateLimit),
    /// Rollout.
    Rollout(Rollout),
    /// TrustModel.
    TrustModel(Box<TrustModel>),
    /// RequestGuard.
    RequestGuard(RequestGuard),
    /// Mode.
    Mode(Box<Mode>),
    /// ServiceEntry.
    ServiceEntry(ServiceEntry),
    /// Sidecar.
    Sidecar(Sidecar),
    /// The ConfigMap with options of the whole mesh.
    MeshConfig(MeshConfig),
    /// Fields checked and kept in `raw`; nothing of it is in force.
    Kept,
}

/// A decoded object.
#[derive(Clone, PartialEq)]
pub struct Object {
    /// Kind.
    pub kind: Kind,
    /// Metadata.
    pub meta: Meta,
    /// The sound parts, typed.
    pub spec: Spec,
    /// The whole object as JSON in the storage version, without `status`.
    pub raw: Value,
}

impl Object {
    /// Its reference: kind, namespace, name.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        ObjectRef {
            kind: self.kind.as_str().to_owned(),
            namespace: self.meta.namespace.clone(),
            name: self.meta.name.clone(),
        }
    }

    /// The spec as JSON; for kinds without `spec` (Namespace, Secret) everything but `apiVersion`, `kind`, `metadata`
    /// and `status`. Equal specs mean that `generation` stays.
    #[must_use]
    pub fn spec_json(&self) -> Value {
        spec_json(&self.raw)
    }

    /// The VirtualService, if it is one.
    #[must_use]
    pub fn virtual_service(&self) -> Option<&VirtualService> {
        if let Spec::VirtualService(spec) = &self.spec {
            Some(spec)
        } else {
            None
        }
    }

    /// The DestinationRule, if it is one.
    #[must_use]
    pub fn destination_rule(&self) -> Option<&DestinationRule> {
        if let Spec::DestinationRule(spec) = &self.spec {
            Some(spec)
        } else {
            None
        }
    }

    /// The BackendPolicy, if it is one.
    #[must_use]
    pub fn backend_policy(&self) -> Option<&BackendPolicy> {
        if let Spec::BackendPolicy(spec) = &self.spec {
            Some(spec)
        } else {
            None
        }
    }

    /// The CertificatePolicy, if it is one.
    #[must_use]
    pub fn certificate_policy(&self) -> Option<&CertificatePolicy> {
        if let Spec::CertificatePolicy(spec) = &self.spec {
            Some(spec)
        } else {
            None
        }
    }

    /// The Gateway, if it is one.
    #[must_use]
    pub fn gateway(&self) -> Option<&Gateway> {
        if let Spec::Gateway(spec) = &self.spec {
            Some(spec)
        } else {
            None
        }
    }

    /// The Service, if it is one.
    #[must_use]
    pub fn service(&self) -> Option<&Service> {
        if let Spec::Service(spec) = &self.spec {
            Some(spec)
        } else {
            None
        }
    }

    /// The PeerAuthentication, if it is one.
    #[must_use]
    pub fn peer_authentication(&self) -> Option<&PeerAuthentication> {
        if let Spec::PeerAuthentication(spec) = &self.spec {
            Some(spec)
        } else {
            None
        }
    }

    /// The AuthorizationPolicy, if it is one.
    #[must_use]
    pub fn authorization_policy(&self) -> Option<&AuthorizationPolicy> {
        if let Spec::AuthorizationPolicy(spec) = &self.spec {
            Some(spec)
        } else {
            None
        }
    }

    /// The RequestAuthentication, if it is one.
    #[must_use]
    pub fn request_authentication(&self) -> Option<&RequestAuthentication> {
        if let Spec::RequestAuthentication(spec) = &self.spec {
            Some(spec)
        } else {
            None
        }
    }

    /// The Mode, if it is one.
    #[must_use]
    pub fn mode(&self) -> Option<&Mode> {
        if let Spec::Mode(spec) = &self.spec {
            Some(spec)
        } else {
            None
        }
    }

    /// The RequestGuard, if it is one.
    #[must_use]
    pub fn request_guard(&self) -> Option<&RequestGuard> {
        if let Spec::RequestGuard(spec) = &self.spec {
            Some(spec)
        } else {
            None
        }
    }

    /// The TrustModel, if it is one.
    #[must_use]
    pub fn trust_model(&self) -> Option<&TrustModel> {
        if let Spec::TrustModel(spec) = &self.spec {
            Some(spec)
        } else {
            None
        }
    }

    /// The LocalRateLimit, if it is one.
    #[must_use]
    pub fn local_rate_limit(&self) -> Option<&LocalRateLimit> {
        if let Spec::LocalRateLimit(spec) = &self.spec {
            Some(spec)
        } else {
            None
        }
    }

    /// The Rollout, if it is one.
    #[must_use]
    pub fn rollout(&self) -> Option<&Rollout> {
        if let Spec::Rollout(spec) = &self.spec {
            Some(spec)
        } else {
            None
        }
    }

    /// The WorkloadEntry, if it is one.
    #[must_use]
    pub fn workload_entry(&self) -> Option<&WorkloadEntry> {
        if let Spec::WorkloadEntry(spec) = &self.spec {
            Some(spec)
        } else {
            None
        }
    }

    /// The ServiceEntry, if it is one.
    #[must_use]
    pub fn service_entry(&self) -> Option<&ServiceEntry> {
        if let Spec::ServiceEntry(spec) = &self.spec {
            Some(spec)
        } else {
            None
        }
    }

    /// The options of the mesh, if it is the ConfigMap with them.
    #[must_use]
    pub fn mesh_config(&self) -> Option<&MeshConfig> {
        if let Spec::MeshConfig(spec) = &self.spec {
            Some(spec)
        } else {
            None
        }
    }

    /// The Sidecar, if it is one.
    #[must_use]
    pub fn sidecar(&self) -> Option<&Sidecar> {
        if let Spec::Sidecar(spec) = &self.spec {
            Some(spec)
        } else {
            None
        }
    }

    /// The Secret, if it is one.
    #[must_use]
    pub fn secret(&self) -> Option<&Secret> {
        if let Spec::Secret(spec) = &self.spec {
            Some(spec)
        } else {
            None
        }
    }
}

/// As [`Object::spec_json`], for an object that is JSON only.
#[must_use]
pub fn spec_json(raw: &Value) -> Value {
    let Some(all) = raw.as_object() else {
        return Value::Null;
    };
    if let Some(spec) = all.get("spec") {
        return spec.clone();
    }
    let rest: Map<String, Value> = all
        .iter()
        .filter(|(key, _)| !matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    Value::Object(rest)
}

/// An object as it may be shown to people and written to logs: values of a Secret are replaced, copies of them in
/// annotations too (`kubectl apply` keeps one). Other kinds come back as they are.
#[must_use]
pub fn redacted(raw: &Value) -> Value {
    let mut shown = raw.clone();
    if raw.get("kind").and_then(Value::as_str) != Some(Kind::Secret.manifest()) {
        return shown;
    }
    for at in ["/data", "/stringData", "/metadata/annotations"] {
        match shown.pointer_mut(at) {
            Some(Value::Object(values)) => values
                .values_mut()
                .for_each(|value| *value = Value::String(REDACTED.to_owned())),
            Some(other) => *other = Value::String(REDACTED.to_owned()),
            None => {}
        }
    }
    shown
}

/// Stands for a value that is not shown.
pub const REDACTED: &str = "(redacted)";

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Object");
        if self.kind == Kind::Secret {
            // Annotations may hold a copy of the values.
            out.field("kind", &self.kind)
                .field("name", &self.meta.name)
                .field("namespace", &self.meta.namespace);
            return out.field("spec", &self.spec).finish_non_exhaustive();
        }
        out.field("kind", &self.kind)
            .field("meta", &self.meta)
            .field("spec", &self.spec)
            .field("raw", &self.raw)
            .finish()
    }
}
