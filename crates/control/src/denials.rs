//! Refused calls, as proxies tell them and as the audit trail keeps them.
//!
//! A proxy is believed of its own refusals only: which workload they are of, its certificate says, and when they came
//! in, our clock. Fields are named as the attributes of expressions are, so that what is masked is decided in one place.

use crate::plane::{Caller, Plane, REGISTRATION_RECORD};
use naka_store::Entry;
use naka_types::reason::Reason;
use naka_wire::v1::{Denial, DeniedRequest};
use serde_json::{Value, json};

/// Name of the stream, and of its directory.
pub const STREAM: &str = "denials";
/// Kind of a refused call's event.
pub const DENIED: &str = "request.denied";
/// Kind of an event that says how many more there were.
pub const UNCOUNTED: &str = "request.uncounted";

/// Entries of one message that are taken; ours has no more.
const MOST: usize = 256;
/// Longest text that is kept.
const LONGEST: usize = 512;

/// What a proxy told, as events.
pub(crate) fn entries(plane: &Plane, caller: &Caller, told: DeniedRequest, now: u64) -> Vec<Entry> {
    let snapshot = plane.store.snapshot();
    let registration = snapshot.record(REGISTRATION_RECORD, &caller.workload_id);
    let name = registration.and_then(|value| value["workload_name"].as_str());
    let whose = json!({
        "destination.workload": name.unwrap_or_default(),
        "destination.namespace": caller.spiffe.namespace(),
    });
    let entry = |kind: &str, value: Value| Entry {
        time_ms: now,
        actor: format!("workload:{}", caller.spiffe),
        kind: kind.to_owned(),
        value,
    };
    let over = told.denials.len().saturating_sub(MOST) as u64;
    let denials = told.denials.into_iter().take(MOST);
    let mut all: Vec<Entry> = denials
        .filter_map(|denial| value(denial, whose.clone()))
        .map(|value| entry(DENIED, value))
        .collect();
    let uncounted = told.uncounted.saturating_add(over);
    if uncounted > 0 {
        let mut value = whose;
        value["count"] = json!(uncounted);
        all.push(entry(UNCOUNTED, value));
    }
    all
}

/// One entry; `None` for what is no refusal.
fn value(denial: Denial, mut value: Value) -> Option<Value> {
    let reason = Reason::parse(&denial.reason).filter(|reason| reason.is_denial())?;
    let texts = [
        ("source.principal", denial.peer),
        ("source.address", denial.source_address),
        ("request.method", denial.method),
        ("request.host", denial.host),
        ("request.path", denial.path),
        ("rule", denial.rule),
    ];
    for (name, text) in texts {
        if !text.is_empty() {
            value[name] = json!(kept(&text));
        }
    }
    value["destination.port"] = json!(denial.port);
    value["reason"] = json!(reason.code());
    value["count"] = json!(denial.count.max(1));
    value["first_ms"] = json!(denial.time_ms);
    Some(value)
}

fn kept(text: &str) -> String {
    let sound = text.chars().filter(|c| !c.is_control());
    sound.take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::{kept, value};
    use naka_wire::v1::Denial;
    use serde_json::json;

    #[test]
    fn a_refusal_is_named_by_attributes_and_anything_else_is_none() {
        let denial = Denial {
            count: 0,
            port: 8080,
            path: "/a\u{1b}[31m".to_owned(),
            reason: "permission-denied".to_owned(),
            ..Denial::default()
        };
        let told = value(denial.clone(), json!({"destination.workload": "pay-1"})).unwrap();
        assert_eq!(
            told,
            json!({"destination.workload": "pay-1", "destination.port": 8080, "request.path": "/a[31m", "reason":
                "permission-denied", "count": 1, "first_ms": 0})
        );
        for reason in ["connect-failed", "", "nonsense"] {
            let other = Denial {
                reason: reason.to_owned(),
                ..denial.clone()
            };
            assert_eq!(value(other, json!({})), None, "{reason}");
        }
        assert_eq!(kept(&"x".repeat(9999)).len(), 512);
    }
}
