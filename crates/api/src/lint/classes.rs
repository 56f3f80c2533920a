//! Data classes: words that are none, objects that say something else, and demands that nothing fulfils.

use super::say;
use crate::codes;
use crate::kind::Kind;
use crate::object::Object;
use crate::security::peer_authentication::MtlsMode;
use naka_types::data_class::{DATA_CLASS, DataClass};
use naka_types::finding::Finding;
use naka_types::host::ROOT_NAMESPACE;
use naka_types::labels::{Labels, selects};

/// Whose class an object says: the namespace, the labels of the workloads (`None`: all of it), the class, the field.
struct Said<'o> {
    namespace: &'o str,
    labels: Option<&'o Labels>,
    class: DataClass,
}

impl Said<'_> {
    /// Whether an object with such a selector holds for all that is meant.
    fn is_held(&self, by: &Object, selector: Option<&Labels>) -> bool {
        let here = [self.namespace, ROOT_NAMESPACE].contains(&by.meta.namespace.as_str());
        here && match (selector, self.labels) {
            (None, _) => true,
            (Some(selector), Some(labels)) => selects(selector, labels),
            (Some(_), None) => false,
        }
    }
}

fn said(object: &Object) -> Option<Said<'_>> {
    let (namespace, labels, all) = match object.kind {
        Kind::Namespace => (object.meta.name.as_str(), &object.meta.labels, true),
        _ => (
            object.meta.namespace.as_str(),
            &object.workload_entry()?.labels,
            false,
        ),
    };
    labels.contains_key(DATA_CLASS).then(|| Said {
        namespace,
        labels: (!all).then_some(labels),
        class: DataClass::of(labels),
    })
}

pub(super) fn check(out: &mut Vec<Finding>, object: &Object, all: &[&Object]) {
    weaker(out, object, all);
    let Some(said) = said(object) else { return };
    let (field, labels) = match said.labels {
        None => ("metadata.labels", &object.meta.labels),
        Some(labels) => ("spec.labels", labels),
    };
    let word = &labels[DATA_CLASS];
    let at = format!("{field}.{DATA_CLASS}");
    if DataClass::parse(word).is_none() {
        let message = format!("{word:?} is no data class: it is read as restricted");
        let fix = "write public, internal, confidential or restricted".to_owned();
        say(out, codes::W982, object, &at, message, fix);
    }
    if said.class == DataClass::Restricted && !all.iter().any(|other| approves(other, &said)) {
        let message =
            "nothing demands two approvals and a trail of each call to what is restricted"
                .to_owned();
        let fix = format!(
            "apply a TrustModel in namespace {} whose operations have dualAuthorization: true and auditTrail: comprehensive",
            said.namespace
        );
        say(out, codes::W984, object, &at, message, fix);
    }
    if said.class == DataClass::Confidential && !all.iter().any(|other| admits(other, &said)) {
        let message = "nobody approves who gets at what is confidential".to_owned();
        let fix = format!(
            "apply a CertificatePolicy in namespace {} with approval: Manual, or a TrustModel whose operations have dualAuthorization: true",
            said.namespace
        );
        say(out, codes::W985, object, &at, message, fix);
    }
}

/// A PeerAuthentication that asks less than the class of a workload it holds for.
fn weaker(out: &mut Vec<Finding>, object: &Object, all: &[&Object]) {
    let Some(policy) = object.peer_authentication() else {
        return;
    };
    let weak = |mode: Option<MtlsMode>| mode.is_some_and(|mode| mode != MtlsMode::Strict);
    let field = match policy.ports.iter().find(|(_, mode)| weak(**mode)) {
        _ if weak(policy.mode) => "spec.mtls.mode".to_owned(),
        Some((port, _)) => format!("spec.portLevelMtls.{port}.mode"),
        None => return,
    };
    let own = object.meta.namespace.as_str();
    let holds = |said: &Said<'_>| {
        let here = own == said.namespace || own == ROOT_NAMESPACE && policy.selector.is_none();
        let chosen = match (&policy.selector, said.labels) {
            (Some(_), Some(labels)) => policy.selects_workload(labels),
            _ => true,
        };
        said.class.wants_encryption() && here && chosen
    };
    let found = all
        .iter()
        .find(|other| said(other).is_some_and(|said| holds(&said)));
    if let Some(of) = found {
        let message = format!(
            "it lets callers without mTLS in, and {} says {DATA_CLASS} of workloads it holds for: they stay refused there",
            of.reference()
        );
        let fix = "write STRICT, or give data that may be called so another class".to_owned();
        say(out, codes::W983, object, &field, message, fix);
    }
}

/// Whether a TrustModel demands two approvals and a trail of some calls there.
fn approves(object: &Object, said: &Said<'_>) -> bool {
    demands(object, said, |dual, trail| dual && trail)
}

/// Whether somebody approves the workloads there, or calls to them.
fn admits(object: &Object, said: &Said<'_>) -> bool {
    let by_certificate = object.certificate_policy().is_some_and(|policy| {
        policy.manual
            && policy.accounts.is_empty()
            && said.is_held(object, policy.selector.as_ref())
    });
    by_certificate || demands(object, said, |dual, _| dual)
}

fn demands(object: &Object, said: &Said<'_>, enough: impl Fn(bool, bool) -> bool) -> bool {
    object.trust_model().is_some_and(|model| {
        let mut operations = model.operations.iter();
        said.is_held(object, model.selector.as_ref())
            && operations.any(|operation| {
                let demand = model.demanded(operation);
                enough(demand.dual, demand.audit)
            })
    })
}
