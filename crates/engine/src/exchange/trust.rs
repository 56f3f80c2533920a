//! Trust models before a port: what is known of a call is put together, [`crate::trust`] judges.

use super::Cx;
use super::access::{About, By, Judged, Noticed, granted, truth};
use crate::canonical::{Canonical, Direction, Origin};
use crate::model::{Access, Claims, Hours, MtlsMode, Operation, Snapshot, Test, TrustModel};
use crate::trust::{APPROVERS, Ask, Decision, Facts, decide};
use crate::why::{Stage, Why};
use http::HeaderName;
use naka_expr::{Body, Text, Values};
use naka_types::labels::Labels;
use naka_types::reason::Reason;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::time::Duration;

/// How far ahead of ours an issuer's clock may be.
const LEEWAY: Duration = Duration::from_secs(60);

/// Asks the models of a port; bytes have no request.
pub(super) fn admit(
    access: &Access,
    request: Option<&Canonical>,
    judged: &mut Option<Box<Judged>>,
    cx: &mut Cx<'_>,
) -> Result<(), Reason> {
    for model in &access.trust {
        let asked = Asked {
            about: About {
                request,
                origin: cx.origin,
                granted: granted(cx),
            },
            now: Clock(cx.now + cx.around.epoch),
        };
        let decision = decide(model, &asked.facts(model), &asked);
        if let Some(trail) = &mut cx.why {
            trail.push(why(model, &decision));
            let told = told(model, &decision, cx.origin, cx.snapshot);
            judged.get_or_insert_default().trust.push(told);
        }
        if let Some(refused) = decision.refused {
            let judged = judged.get_or_insert_default();
            judged.refused_by = Some(format!("{}: {refused}", model.name).into());
            judged.by = By::Trust;
            judged.text = Some(refused.to_string().into());
            return Err(refused.reason());
        }
        if decision.audit {
            let operation = decision.operation.unwrap_or_default();
            let rule = format!("trust[{}]-operation[{operation}]", model.name);
            judged.get_or_insert_default().noticed.push(Noticed {
                outcome: "audited",
                rule: rule.into(),
            });
        }
    }
    Ok(())
}

fn why(model: &TrustModel, decision: &Decision<'_>) -> Why {
    let name = &model.name;
    if let Some(refused) = &decision.refused {
        let because = format!("TrustModel {name}: {refused}");
        return Why::new(Stage::Policy, "denied", because);
    }
    let Decision { has, needs, .. } = decision;
    let mut because = format!("TrustModel {name}: clearance has {has}, needs {needs}");
    if let (Some(from), Some(to)) = (decision.from, decision.to) {
        because.push_str(&format!(", zone {from} -> {to}"));
    }
    Why::new(Stage::Policy, "allowed", because)
}

/// All of a decision, for an explanation.
fn told(
    model: &TrustModel,
    decision: &Decision<'_>,
    origin: &Origin,
    snapshot: &Snapshot,
) -> Value {
    let inbound = match origin.direction {
        Direction::Inbound { port } => snapshot.inbound(port),
        _ => None,
    };
    let hours = decision
        .hours
        .map(|hours| json!({"allowed_hours": hours, "exception_approvals_required": true}));
    let session = decision.session.map(|most| format!("{}s", most.as_secs()));
    json!({
        "model": &*model.name,
        "operation": decision.operation,
        "clearance": {"has": decision.has, "needs": decision.needs},
        "zone": {"from": decision.from, "to": decision.to},
        "source_identity_required": true,
        "mutual_tls_required": inbound.is_some_and(|inbound| inbound.mode == MtlsMode::Strict),
        "operation_logging": true,
        "rate_limiting": inbound.is_some_and(|inbound| inbound.limit.is_some()),
        "time_based_access": hours,
        "additional_requirements": {
            "dual_authorization": decision.dual,
            "audit_trail": if decision.audit { "comprehensive" } else { "denials" },
            "session_timeout": session,
            "location_validation": decision.location,
        },
        "access_decision": if decision.refused.is_some() { "DENY" } else { "ALLOW" },
        "reason": decision.refused.as_ref().map(ToString::to_string),
    })
}

/// A call, as models ask about it.
struct Asked<'a> {
    about: About<'a>,
    now: Clock,
}

impl Asked<'_> {
    fn facts(&self, model: &TrustModel) -> Facts<'_> {
        let label = |key: &str| {
            let labels: Option<&Labels> = self.about.granted;
            labels?.get(key).map(String::as_str)
        };
        let claims = self.about.request.and_then(|r| r.claims.as_deref());
        let asks =
            |what: fn(&Operation) -> bool| claims.filter(|_| model.operations.iter().any(what));
        Facts {
            clearance: label(&model.clearance_label),
            zone: label(&model.zone_label),
            address: self.about.origin.address,
            approvers: asks(|operation| operation.dual)
                .map_or(0, |claims| approvers(claims, model)),
            session: asks(|operation| operation.session.is_some())
                .and_then(|claims| session(claims, self.now.0)),
        }
    }
}

/// How many others than the token's own subject approved; more than are ever asked for are not told apart.
fn approvers(claims: &Claims, model: &TrustModel) -> usize {
    const { assert!(APPROVERS == 2, "two are told apart, no more") };
    let own = claims.0.get("sub").and_then(Value::as_str);
    let is_other = |name: &&str| !name.is_empty() && Some(*name) != own;
    match claims.at(&model.approval_claim) {
        Some(Value::Array(all)) => {
            let mut others = all.iter().filter_map(Value::as_str).filter(is_other);
            let first = others.next();
            usize::from(first.is_some()) + usize::from(others.any(|name| Some(name) != first))
        }
        Some(Value::String(one)) => usize::from(is_other(&one.as_str())),
        _ => 0,
    }
}

/// Time since the login; `None` where the token says none, or one that is still to come.
fn session(claims: &Claims, now: Duration) -> Option<Duration> {
    let at = claims.0.get("auth_time").or_else(|| claims.0.get("iat"))?;
    let at = Duration::try_from_secs_f64(at.as_f64()?).ok()?;
    (at <= now + LEEWAY).then(|| now.saturating_sub(at))
}

impl Ask for Asked<'_> {
    fn holds(&self, test: &Test) -> Option<bool> {
        truth(test, &self.about)
    }

    fn open(&self, hours: &Hours) -> bool {
        let mut windows = hours.windows.iter();
        windows.any(|window| window.truth(&self.now) == Ok(true))
    }
}

/// The time since 1970, and nothing else.
struct Clock(Duration);

impl Values for Clock {
    fn text(&self, _: Text) -> Option<Cow<'_, str>> {
        None
    }

    fn header(&self, _: &HeaderName) -> Option<Cow<'_, str>> {
        None
    }

    fn has_header(&self, _: &HeaderName) -> bool {
        false
    }

    fn query(&self, _: &str) -> Option<Cow<'_, str>> {
        None
    }

    fn body(&self) -> Body<'_> {
        Body::Unknown
    }

    fn port(&self) -> Option<u16> {
        None
    }

    fn time(&self) -> Duration {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::approvers;
    use crate::model::{Claims, TrustModel};
    use serde_json::json;

    #[test]
    fn others_who_approved_count_once_and_the_caller_never() {
        let model = TrustModel {
            name: "m".into(),
            clearance_label: "c".into(),
            zone_label: "z".into(),
            levels: std::collections::BTreeMap::default(),
            zones: None,
            operations: Box::default(),
            approval_claim: Box::new(["approved_by".into()]),
        };
        for (approved, count) in [
            (json!(null), 0),
            (json!([]), 0),
            (json!("me"), 0),
            (json!("anna"), 1),
            (json!(["anna", "", 7, "me"]), 1),
            (json!(["anna", "anna"]), 1),
            (json!(["anna", "anna", "ben"]), 2),
            (json!(["me", "anna", "ben"]), 2),
        ] {
            let claims = json!({"sub": "me", "approved_by": approved});
            let claims = Claims(claims.as_object().cloned().unwrap_or_default());
            assert_eq!(approvers(&claims, &model), count, "{approved}");
        }
    }
}
