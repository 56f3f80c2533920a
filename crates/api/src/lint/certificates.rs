//! Certificates that somebody has to approve faster than people do, or that a workload can keep out of.

use super::say;
use crate::codes;
use crate::object::Object;
use crate::own::certificate_policy::CertificatePolicy;
use naka_types::finding::Finding;
use std::time::Duration;

/// Lifetime where no policy has one.
const USUAL: Duration = Duration::from_hours(24);
/// Less notice than that is no notice: nobody is there by night.
const NOTICE: Duration = Duration::from_hours(24);

pub(super) fn check(out: &mut Vec<Finding>, object: &Object, policy: &CertificatePolicy) {
    if !policy.manual {
        return;
    }
    let notice = policy.notice(USUAL);
    if notice < NOTICE {
        let lifetime = policy.lifetime.unwrap_or(USUAL);
        let hours = |time: Duration| time.as_secs_f64() / 3600.0;
        say(
            out,
            codes::L381,
            object,
            "spec.approval",
            format!(
                "each certificate of {:.0} h must be approved within {:.1} h after it is asked for, or the workload has none",
                hours(lifetime),
                hours(notice)
            ),
            "write approval: Automatic, or a longer duration with renewBefore of 24h or more"
                .to_owned(),
        );
    }
    if policy.selector.is_some() {
        say(
            out,
            codes::L382,
            object,
            "spec.selector",
            "labels are what a workload says of itself: one that leaves them out is not held back"
                .to_owned(),
            "name serviceAccounts instead".to_owned(),
        );
    }
}
