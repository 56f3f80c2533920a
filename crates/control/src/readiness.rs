//! Whether a control plane is ready, and when not, why and what to do.
//!
//! Ready means that workloads can be let in and are sent configuration. A log that takes no changes is no reason to
//! send anybody away: what is there is served on, so it is a warning.

use crate::plane::Plane;
use naka_identity::{Authority, ServerCert};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// One thing that is missing, or wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lack {
    /// One word for it.
    pub what: &'static str,
    /// Why.
    pub why: String,
    /// What to do.
    pub fix: String,
}

/// Answers the question whenever it is asked.
#[derive(Debug, Clone)]
pub struct Readiness {
    plane: Arc<Plane>,
    certificate: Arc<ServerCert>,
    authority: Arc<Authority>,
}

/// What an answer rests on.
#[derive(Debug, Clone, Default)]
struct Facts {
    stored: u64,
    published: u64,
    not_writing: Option<String>,
    now: u64,
    certificate_until: u64,
    intermediate_until: u64,
    root_until: u64,
}

impl Readiness {
    /// Of a running control plane.
    #[must_use]
    pub fn new(plane: Arc<Plane>, certificate: Arc<ServerCert>, authority: Arc<Authority>) -> Self {
        Self {
            plane,
            certificate,
            authority,
        }
    }

    /// What is missing, and what is wrong without being missing.
    #[must_use]
    pub fn now(&self) -> (Vec<Lack>, Vec<Lack>) {
        let store = &self.plane.store;
        let facts = Facts {
            stored: store.snapshot().revision,
            published: self.plane.hub.epoch(),
            not_writing: store.not_writing(),
            now: naka_identity::now_s(),
            certificate_until: self.certificate.not_after(),
            intermediate_until: self.authority.intermediate_not_after(),
            root_until: self.authority.root_not_after(),
        };
        (missing(&facts), warnings(&facts))
    }

    /// The page of `/ready`: whether it is, and the body.
    #[must_use]
    pub fn page(&self) -> (bool, Value) {
        let (why, warnings) = self.now();
        let missing: Vec<&str> = why.iter().map(|lack| lack.what).collect();
        let ready = why.is_empty();
        let body = json!({
            "status": if ready { "healthy" } else { "unhealthy" },
            "ready": ready,
            "missing": missing,
            "why": why,
            "warnings": warnings,
        });
        (ready, body)
    }

    /// How many proxies are connected, for one line of status.
    #[must_use]
    pub fn proxies(&self) -> usize {
        self.plane.hub.connected()
    }
}

fn missing(facts: &Facts) -> Vec<Lack> {
    let mut missing = Vec::new();
    if facts.published == 0 && facts.stored > 0 {
        missing.push(Lack {
            what: "configuration",
            why: format!(
                "revision {} is being compiled for the first time",
                facts.stored
            ),
            fix: "wait a moment; a start with many objects takes longer".to_owned(),
        });
    }
    for (what, until, name, fix) in [
        (
            "certificate",
            facts.certificate_until,
            "the control plane's own certificate",
            "set the clock right, then restart the control plane: it issues itself a new one",
        ),
        (
            "intermediate",
            facts.intermediate_until,
            "the authority's intermediate certificate",
            "set the clock right; when it is right: naka ca intermediate request, sign it with the root's key, naka ca intermediate install",
        ),
        (
            "root",
            facts.root_until,
            "the mesh's root certificate",
            "set the clock right; when it is right, restore a backup of the authority or make the mesh anew",
        ),
    ] {
        if facts.now >= until {
            missing.push(Lack {
                what,
                why: format!(
                    "{name} expired {} s ago by this machine's clock",
                    facts.now - until
                ),
                fix: fix.to_owned(),
            });
        }
    }
    missing
}

fn warnings(facts: &Facts) -> Vec<Lack> {
    let log = facts.not_writing.as_ref().map(|why| Lack {
        what: "log",
        why: format!("changes are not taken: {why}"),
        fix: "see naka check; damage: naka store repair; a full or failing disk: mend it and restart the control plane"
            .to_owned(),
    });
    log.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::{Facts, missing, warnings};

    #[test]
    fn every_cause_is_named_and_a_healthy_plane_lacks_nothing() {
        let healthy = Facts {
            stored: 3,
            published: 1,
            now: 100,
            certificate_until: 200,
            intermediate_until: 300,
            root_until: 400,
            ..Facts::default()
        };
        assert!(missing(&healthy).is_empty() && warnings(&healthy).is_empty());
        let sick: [(Facts, &str); 4] = [
            (
                Facts {
                    published: 0,
                    ..healthy.clone()
                },
                "configuration",
            ),
            (
                Facts {
                    now: 200,
                    ..healthy.clone()
                },
                "certificate",
            ),
            (
                Facts {
                    intermediate_until: 100,
                    ..healthy.clone()
                },
                "intermediate",
            ),
            (
                Facts {
                    root_until: 99,
                    ..healthy.clone()
                },
                "root",
            ),
        ];
        for (facts, what) in sick {
            let lacks = missing(&facts);
            assert_eq!(lacks.len(), 1, "{facts:?}");
            assert_eq!(lacks[0].what, what);
            assert!(!lacks[0].why.is_empty() && !lacks[0].fix.is_empty());
        }
        let full = Facts {
            not_writing: Some("no space left".to_owned()),
            ..healthy
        };
        assert!(missing(&full).is_empty());
        assert!(warnings(&full)[0].why.contains("no space left"));
    }
}
