//! Data classes: words that are none, objects that say something else, and demands that nothing fulfils.

use super::say;
use crate::codes;
use crate::kind::Kind;
use crate::object::Object;
use crate::security::peer_authentication::MtlsMode;
use naka_types::data_class::{DATA_CLASS, DataClass};
use naka_types::finding::Finding;
use naka_types::host::ROOT_NAMESPACE;
use naka_types::labels::Labels;

/// Whose class an object says: the namespace, the labels of the workloads (`None`: all of it), the class, the field.
struct Said<'o> {
    namespace: &'o str,
    labels: Option<&'o Labels>,
    class: DataClass,
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

/// Whether a TrustModel demands both for all that is called there.
fn approves(object: &Object, said: &Said<'_>) -> bool {
    let Some(model) = object.trust_model() else {
        return false;
    };
    let here = [said.namespace, ROOT_NAMESPACE].contains(&object.meta.namespace.as_str());
    let chosen = said
        .labels
        .map_or(model.selector.is_none(), |labels| model.holds_for(labels));
    let mut operations = model.operations.iter();
    let demanded = operations.any(|operation| {
        let demand = model.demanded(operation);
        demand.dual && demand.audit
    });
    here && chosen && demanded
}
