//! `naka demo --scenario NAME`: every claim holds, counted by the called programs; without the object that a claim
//! rests on, that claim fails, and no other one.

use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;

/// Exit code, and the claims with whether they hold.
fn play(scenario: &str, without: &str) -> (Option<i32>, Vec<(String, bool)>) {
    let home = tempfile::Builder::new()
        .prefix("naka-scenario-")
        .tempdir()
        .expect("a directory");
    let mut command = Command::new(naka_testkit::mesh::naka());
    command
        .args(["demo", "--scenario", scenario, "--report", "json"])
        .env("NAKA_HOME", home.path());
    if !without.is_empty() {
        command.args(["--without", without]);
    }
    let output = command.output().expect("naka");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = stdout.lines().last().unwrap_or_default();
    let report: Value = serde_json::from_str(last).unwrap_or_else(|_| {
        panic!(
            "{scenario}: {stdout}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    });
    assert_eq!(report["scenario"], scenario);
    let proved = report["proved"].as_array().expect("claims").iter();
    let proved = proved.map(|one| {
        assert!(one["observed"].is_string(), "{one}");
        (
            one["claim"].as_str().unwrap_or_default().to_owned(),
            one["ok"] == true,
        )
    });
    let proved = proved.collect();
    // Nothing stays.
    assert!(!home.path().join("mesh/demo").exists());
    (output.status.code(), proved)
}

/// Leaves this object out, and then exactly the claims with one of these words fail.
type Twin = (&'static str, &'static [&'static str]);

/// Words of every claim.
const ALL: &[&str] = &[""];

/// All claims hold. Without each object those with the words fail and no others, and each claim fails without some
/// object.
#[track_caller]
fn proves(scenario: &str, twins: &[Twin]) {
    let (code, proved) = play(scenario, "");
    assert!(
        proved.len() >= 3 && proved.iter().all(|(_, ok)| *ok),
        "{scenario}: {proved:?}"
    );
    assert_eq!(code, Some(0));
    let mut untried: BTreeSet<String> = proved.into_iter().map(|(claim, _)| claim).collect();
    for (without, words) in twins {
        let (code, proved) = play(scenario, without);
        let rests = |claim: &str| words.iter().any(|word| claim.contains(word));
        assert!(
            proved.iter().all(|(claim, ok)| *ok != rests(claim)),
            "{scenario} without {without}: {proved:?}"
        );
        assert_eq!(code, Some(1), "{scenario} without {without}");
        for (claim, ok) in &proved {
            if !ok {
                untried.remove(claim);
            }
        }
        for word in *words {
            let about = proved.iter().any(|(claim, _)| claim.contains(word));
            assert!(about, "{scenario}: no claim says {word:?}: {proved:?}");
        }
    }
    assert_eq!(
        untried,
        BTreeSet::new(),
        "{scenario}: claims without a twin"
    );
}

#[test]
fn upi() {
    proves(
        "upi",
        &[
            ("DestinationRule/upi", &["canary"]),
            ("VirtualService/upi", ALL),
        ],
    );
}

#[test]
fn tiers() {
    proves(
        "tiers",
        &[
            ("DestinationRule/premium", &["tier premium"]),
            ("DestinationRule/standard", &["tier savings", "tier other"]),
            ("VirtualService/tiers", ALL),
        ],
    );
}

#[test]
fn zones() {
    proves(
        "zones",
        &[
            // That some zone gets 404 shows something only beside a zone that is served.
            ("DestinationRule/delivery", &["is served by", "gets 404"]),
            ("VirtualService/zones", ALL),
        ],
    );
}

#[test]
fn merchants() {
    proves(
        "merchants",
        &[
            ("DestinationRule/merchants", &["stays with", "are spread"]),
            ("LocalRateLimit/merchants", &["floods"]),
            ("VirtualService/merchants", ALL),
        ],
    );
}

#[test]
fn bank_failover() {
    proves(
        "bank-failover",
        &[
            (
                "DestinationRule/banks",
                &[
                    "out after five",
                    "every payment succeeds",
                    "share the payments",
                ],
            ),
            ("VirtualService/banks", ALL),
        ],
    );
}

#[test]
fn booking() {
    proves(
        "booking",
        &[
            ("DestinationRule/tickets", &["own region"]),
            (
                "DestinationRule/seats",
                &["left after three failures", "region named"],
            ),
            ("VirtualService/booking", ALL),
        ],
    );
}

#[test]
fn delivery() {
    proves(
        "delivery",
        &[
            ("VirtualService/delivery", &["from outside"]),
            ("AuthorizationPolicy/swiggy-delivery-authorization", ALL),
        ],
    );
}

/// What the story says of certificates is seen before, at and after the end in one run; its payments rest on a route.
#[test]
fn expired_cert() {
    for (without, right) in [("", true), ("VirtualService/payments", false)] {
        let (code, proved) = play("expired-cert", without);
        assert!(proved.len() >= 6, "{proved:?}");
        for (claim, ok) in &proved {
            let rests = claim.contains("payment fails") || claim.contains("payment sidecar");
            assert_eq!(*ok, right || !rests, "without {without:?}: {claim}");
        }
        assert_eq!(code, Some(i32::from(!right)));
    }
}

#[test]
fn zero_trust() {
    proves(
        "zero-trust",
        &[
            ("TrustModel/bank", &["from the DMZ", "too little clearance"]),
            ("AuthorizationPolicy/ledger", &["not named"]),
            ("VirtualService/bank", ALL),
        ],
    );
}
