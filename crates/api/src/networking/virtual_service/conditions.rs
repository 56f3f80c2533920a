//! Conditions of routes by annotation: `naka.dev/match.<route name>: <expression>`.
//!
//! An annotation because Kubernetes would prune a field that Istio's kind does not have. A condition that cannot be
//! taken takes its route with it: without it the route would take more requests than was meant. One that names no
//! route takes the whole object, because it is not known which route it was to narrow.

use super::VirtualService;
use crate::codes;
use crate::decode::Report;
use crate::tree::{Node, join};
use naka_expr::{Expression, Place, Use};

/// What these annotations start with.
const PREFIX: &str = "naka.dev/match.";

/// Gives routes their conditions; routes with a bad one fall out.
pub(crate) fn attach(report: &mut Report, annotations: Option<&Node>, spec: &mut VirtualService) {
    let entries = annotations.map(Node::entries).unwrap_or_default();
    for entry in entries {
        let Some(name) = entry.key.strip_prefix(PREFIX) else {
            continue;
        };
        let field = join("metadata.annotations", &entry.key);
        let Some(source) = entry.value.text() else {
            // Reported by the walk.
            continue;
        };
        let named = |route: &&mut super::HttpRoute| route.name.as_deref() == Some(name);
        let checked = Expression::compile(source, Use::Condition, Place::Route);
        let mut parts = Vec::new();
        for route in spec.http.iter_mut().filter(named) {
            parts.push(format!("spec.http[{}]", route.index));
            route.when = Some(source.to_owned());
        }
        match checked {
            Err(error) => {
                let (place, message) = (entry.value.place, error.to_string());
                report.error_in(&parts, codes::E370, &field, place, message, error.fix);
            }
            Ok(_) if parts.is_empty() => {
                let names: Vec<&str> = spec.http.iter().filter_map(|r| r.name.as_deref()).collect();
                report.error(
                    codes::E371,
                    &field,
                    entry.place,
                    format!("no route in force is named {name:?}"),
                    if names.is_empty() {
                        "give the route a name".to_owned()
                    } else {
                        format!("routes are named {}", names.join(", "))
                    },
                );
            }
            Ok(_) => {}
        }
    }
    let sound = |route: &super::HttpRoute| report.sound(&format!("spec.http[{}]", route.index));
    spec.http.retain(sound);
}
