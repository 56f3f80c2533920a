//! What policies said of a call besides letting it pass, for metrics and the access log.

use crate::worker::Worker;
use naka_engine::exchange::{By, Judged};

/// Counts what policies noticed that decide nothing.
pub(crate) fn count(worker: &Worker, judged: &Judged) {
    for one in &judged.noticed {
        worker.shard.policy(&one.rule, one.outcome);
    }
}

/// Which rule refused a call, in Envoy's words.
pub(crate) fn refused_by(rule: &str, by: By) -> String {
    match by {
        By::Rule => format!("rbac_access_denied_matched_policy[{rule}]"),
        By::Authorizer => format!("ext_authz_denied[{rule}]"),
        By::Guard => format!("guard_denied[{rule}]"),
        By::Trust => format!("trust_denied[{rule}]"),
        By::Silence => format!("ext_authz_error[{rule}]"),
    }
}

/// What was noticed, for the access log.
pub(crate) fn noticed(judged: &Judged) -> String {
    let each = judged.noticed.iter();
    let words: Vec<String> = each
        .map(|one| format!("{} {}", one.outcome, one.rule))
        .collect();
    words.join(", ")
}
