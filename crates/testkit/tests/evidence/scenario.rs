//! `naka demo --scenario NAME`: every claim holds, counted by the called programs; without the object that a claim
//! rests on, that claim fails.

use serde_json::Value;
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

/// All claims hold; without each object those that hold the words fail.
#[track_caller]
fn proves(scenario: &str, twins: &[(&str, &str)]) {
    let (code, proved) = play(scenario, "");
    assert!(
        proved.len() >= 3 && proved.iter().all(|(_, ok)| *ok),
        "{scenario}: {proved:?}"
    );
    assert_eq!(code, Some(0));
    for (without, words) in twins {
        let (code, proved) = play(scenario, without);
        let about: Vec<_> = proved
            .iter()
            .filter(|(claim, _)| claim.contains(words))
            .collect();
        assert!(
            !about.is_empty() && about.iter().all(|(_, ok)| !ok),
            "{scenario} without {without}: {proved:?}"
        );
        assert_eq!(code, Some(1), "{scenario} without {without}");
    }
}

#[test]
fn upi() {
    proves(
        "upi",
        &[
            ("DestinationRule/upi", "canary"),
            ("VirtualService/upi", "settlement"),
        ],
    );
}

#[test]
fn tiers() {
    proves(
        "tiers",
        &[
            ("DestinationRule/premium", "premium"),
            ("DestinationRule/standard", "savings"),
            ("VirtualService/tiers", "savings"),
        ],
    );
}

#[test]
fn zones() {
    proves(
        "zones",
        &[
            ("DestinationRule/delivery", "is served by"),
            ("VirtualService/zones", "counter"),
        ],
    );
}

#[test]
fn merchants() {
    proves(
        "merchants",
        &[
            ("DestinationRule/merchants", "stays with"),
            ("VirtualService/merchants", "floods"),
            ("LocalRateLimit/merchants", "floods"),
        ],
    );
}

#[test]
fn bank_failover() {
    proves(
        "bank-failover",
        &[
            ("DestinationRule/banks", "every payment succeeds"),
            ("VirtualService/banks", "share the payments"),
        ],
    );
}

#[test]
fn booking() {
    proves(
        "booking",
        &[
            ("DestinationRule/tickets", "own region"),
            ("VirtualService/booking", "shared service"),
            ("DestinationRule/seats", "region named"),
        ],
    );
}
