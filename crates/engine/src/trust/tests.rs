//! Tables of callers, calls and what a trust model says of them.

use super::{Ask, Decision, Facts, Refused, decide};
use crate::model::{Crossing, Hours, Operation, Test, TextCondition, TrustModel, Zones};
use naka_types::cidr::Cidr;
use naka_types::reason::Reason;
use std::time::Duration;

/// A call to a path; `None`: bytes, whose path nobody knows.
struct Call {
    path: Option<&'static str>,
    open: bool,
}

impl Ask for Call {
    fn holds(&self, test: &Test) -> Option<bool> {
        match test {
            Test::Always => Some(true),
            Test::Path(wanted) => Some(wanted.holds(self.path?.as_bytes())),
            _ => None,
        }
    }

    fn open(&self, _: &Hours) -> bool {
        self.open
    }
}

fn operation(name: &str, path: &str, clearance: u32) -> Operation {
    Operation {
        name: name.into(),
        test: Test::Path(TextCondition::exact(path)),
        clearance,
        hours: Box::default(),
        networks: Box::default(),
        dual: false,
        session: None,
        audit: false,
    }
}

fn bank() -> TrustModel {
    let levels = [
        ("public", 0),
        ("internal", 1),
        ("sensitive", 2),
        ("critical", 3),
        ("top_secret", 4),
    ];
    let office = Hours {
        windows: Box::default(),
        shown: "09:00-18:00 Monday-Friday (Asia/Kolkata)".into(),
    };
    let range = Cidr::parse("10.0.0.0/8").unwrap();
    TrustModel {
        name: "istio-system/bank".into(),
        clearance_label: "security-clearance".into(),
        zone_label: "trust-zone".into(),
        levels: levels.map(|(name, at)| (name.into(), at)).into(),
        zones: Some(Zones {
            own: Some("DATA_ZONE".into()),
            crossings: Box::new([
                Crossing {
                    from: "INTERNAL_ZONE".into(),
                    operations: Box::default(),
                },
                Crossing {
                    from: "EXTERNAL_ZONE".into(),
                    operations: Box::new(["read".into()]),
                },
            ]),
        }),
        operations: Box::new([
            operation("read", "/read", 1),
            Operation {
                hours: Box::new([office]),
                ..operation("change", "/change", 2)
            },
            Operation {
                networks: Box::new([Box::new([range])]),
                dual: true,
                session: Some(Duration::from_secs(900)),
                audit: true,
                ..operation("pay", "/pay", 3)
            },
        ]),
        approval_claim: Box::new(["approved_by".into()]),
    }
}

fn asked<'a>(
    model: &'a TrustModel,
    facts: &Facts<'a>,
    path: Option<&'static str>,
    open: bool,
) -> Decision<'a> {
    decide(model, facts, &Call { path, open })
}

#[test]
fn clearance_by_zone_by_operation() {
    let model = bank();
    let clearances = [
        None,
        Some("unheard"),
        Some("public"),
        Some("internal"),
        Some("sensitive"),
    ];
    let zones = [
        None,
        Some("DMZ"),
        Some("INTERNAL_ZONE"),
        Some("DATA_ZONE"),
        Some("EXTERNAL_ZONE"),
    ];
    for clearance in clearances {
        for zone in zones {
            for (path, needs) in [("/other", 0), ("/read", 1), ("/change", 2)] {
                let has = match clearance {
                    Some("internal") => 1,
                    Some("sensitive") => 2,
                    _ => 0,
                };
                let cross = match zone {
                    Some("INTERNAL_ZONE" | "DATA_ZONE") => true,
                    Some("EXTERNAL_ZONE") => path == "/read",
                    _ => false,
                };
                let wanted = if has < needs {
                    format!("Insufficient clearance: has {has}, needs {needs}")
                } else if cross {
                    String::new()
                } else {
                    let from = zone.unwrap_or("none");
                    format!("Cross-zone access not allowed: {from} -> DATA_ZONE")
                };
                let facts = Facts {
                    clearance,
                    zone,
                    ..Facts::default()
                };
                let said = asked(&model, &facts, Some(path), true);
                let text = said.refused.map(|refused| refused.to_string());
                assert_eq!(text.unwrap_or_default(), wanted, "{facts:?} {path}");
                assert_eq!((said.has, said.needs), (has, needs));
            }
        }
    }
}

#[test]
fn what_else_is_demanded() {
    let model = bank();
    let sound = Facts {
        clearance: Some("top_secret"),
        zone: Some("INTERNAL_ZONE"),
        address: Some([10, 1, 2, 3].into()),
        approvers: 2,
        session: Some(Duration::from_secs(900)),
    };
    let said = asked(&model, &sound, Some("/pay"), false);
    assert_eq!(said.refused, None);
    assert!(said.audit && said.dual && said.location);
    assert_eq!(said.operation, Some("pay"));
    for (facts, path, reason, text) in [
        (
            sound,
            "/change",
            Reason::TrustHours,
            "Outside allowed hours: 09:00-18:00 Monday-Friday (Asia/Kolkata)",
        ),
        (
            Facts {
                approvers: 1,
                ..sound
            },
            "/pay",
            Reason::TrustApproval,
            "Dual authorization required: has 1, needs 2",
        ),
        (
            Facts {
                address: Some([192, 0, 2, 1].into()),
                ..sound
            },
            "/pay",
            Reason::TrustLocation,
            "Location not allowed: 192.0.2.1",
        ),
        (
            Facts {
                address: None,
                ..sound
            },
            "/pay",
            Reason::TrustLocation,
            "Location not allowed: unknown",
        ),
        (
            Facts {
                session: Some(Duration::from_secs(901)),
                ..sound
            },
            "/pay",
            Reason::TrustSession,
            "Session too old: 901s, at most 900s",
        ),
        (
            Facts {
                session: None,
                ..sound
            },
            "/pay",
            Reason::TrustSession,
            "Session not known, at most 900s are allowed",
        ),
    ] {
        let refused = asked(&model, &facts, Some(path), false)
            .refused
            .expect("refused");
        assert_eq!(
            (refused.reason(), refused.to_string().as_str()),
            (reason, text)
        );
    }
}

/// Bytes are of every operation whose path nobody can know, and never of one that a crossing is for.
#[test]
fn what_cannot_be_known_is_not_in_the_callers_favour() {
    let model = bank();
    let facts = Facts {
        clearance: Some("sensitive"),
        zone: Some("DATA_ZONE"),
        ..Facts::default()
    };
    let said = asked(&model, &facts, None, true);
    assert_eq!(said.refused, Some(Refused::Clearance { has: 2, needs: 3 }));
    let facts = Facts {
        clearance: Some("top_secret"),
        zone: Some("EXTERNAL_ZONE"),
        ..Facts::default()
    };
    let refused = asked(&model, &facts, None, true).refused.expect("refused");
    assert_eq!(refused.reason(), Reason::TrustZone);
    let mut model = bank();
    model.zones = Some(Zones::default());
    let call = Call {
        path: Some("/other"),
        open: true,
    };
    let refused = decide(&model, &facts, &call).refused.expect("refused");
    assert_eq!(
        refused.to_string(),
        "Cross-zone access not allowed: EXTERNAL_ZONE -> none"
    );
    // Nobody's zone is no zone: two that have none are not in the same one.
    let refused = decide(&model, &Facts::default(), &call)
        .refused
        .expect("refused");
    assert_eq!(
        refused.to_string(),
        "Cross-zone access not allowed: none -> none"
    );
    model.zones = None;
    assert_eq!(decide(&model, &Facts::default(), &call).refused, None);
}
