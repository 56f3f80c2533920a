//! What is wrong inside objects that are read and kept: old spellings, rules that cannot mean what they say, and what an
//! API server would refuse. Each kind has its file; codes are those of the table in [`crate::codes`].
//!
//! Looked at while decoding, because most of it concerns one object alone and some of it refuses the object. What needs
//! other objects is in [`crate::lint`].

mod deployment;
mod entry;
mod knative;
mod policy;
mod prometheus;
mod promql;

use crate::codes::Code;
use crate::decode::{Mode, Report};
use crate::kind::Kind;
use crate::tree::{Node, Place, join};

pub(crate) use policy::{one_segment, trusts_principals};

/// Checks an object whose fields have been walked.
pub(crate) fn check(report: &mut Report, object: &Node, kind: Kind) {
    let Some(spec) = object.get("spec") else {
        return;
    };
    match kind {
        Kind::AuthorizationPolicy => policy::check(report, spec),
        Kind::ServiceEntry => entry::service(report, spec),
        Kind::Gateway => entry::gateway(report, spec),
        Kind::Deployment => deployment::check(report, spec),
        Kind::PrometheusRule => prometheus::check(report, spec),
        Kind::KnativeService => knative::service(report, spec),
        Kind::Trigger => knative::trigger(report, spec),
        _ => {}
    }
}

/// Items of a list with their paths.
fn items<'n>(node: &'n Node, path: &str, field: &str) -> Vec<(String, &'n Node)> {
    let at = join(path, field);
    let all = node.get(field).map(Node::items).unwrap_or_default();
    let place = |(index, item)| (format!("{at}[{index}]"), item);
    all.iter().enumerate().map(place).collect()
}

/// A warning that is an error in strict mode.
fn warn(
    report: &mut Report,
    codes: (Code, Code),
    field: &str,
    place: Place,
    message: String,
    fix: String,
) {
    let code = if report.mode == Mode::Strict {
        codes.1
    } else {
        codes.0
    };
    report.error(code, field, place, message, fix);
}
