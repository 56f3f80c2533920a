//! PrometheusRule: expressions that Prometheus refuses, and series that must exist for an alert ever to fire.

use super::{items, promql};
use crate::codes;
use crate::decode::Report;
use crate::tree::{Node, join};

/// Series and jobs that are neither Istio's nor every Prometheus' own.
const MUST_EXIST: [&str; 3] = [
    "certificate_expiry_timestamp",
    "job=\"istio-mesh\"",
    "job=\"istio-system\"",
];

pub(super) fn check(report: &mut Report, spec: &Node) {
    for (at, group) in items(spec, "spec", "groups") {
        for (at, rule) in items(group, &at, "rules") {
            let Some(expression) = rule.get("expr") else {
                continue;
            };
            let Some(text) = expression.text() else {
                continue;
            };
            let field = join(&at, "expr");
            if let Some((column, operator)) = promql::scalar_matching(text) {
                let message = format!(
                    "vector matching only allowed between instant vectors: one side of '{operator}' at character {column} is a scalar"
                );
                let fix = "remove on(…) or ignoring(…); an expiry is written (expiry - time()) / 86400 < 7";
                report.error(
                    codes::E350,
                    &field,
                    expression.place,
                    message,
                    fix.to_owned(),
                );
            }
            if text.contains("source_service_name") {
                report.error(
                    codes::L352,
                    &field,
                    expression.place,
                    "source_service_name is no label of Istio's metrics; Naka's have it, others' do not".to_owned(),
                    "use source_workload or source_canonical_service where the rule must work elsewhere too".to_owned(),
                );
            }
            if let Some(name) = MUST_EXIST.iter().find(|name| text.contains(**name)) {
                report.error(
                    codes::L353,
                    &field,
                    expression.place,
                    format!("{name} must exist, or the alert never fires"),
                    "add a rule with absent(…) for it".to_owned(),
                );
            }
        }
    }
}
