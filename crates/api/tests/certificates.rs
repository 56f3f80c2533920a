//! CertificatePolicy: what is read of it, and what is said of what cannot be.

use naka_api::own::certificate_policy::{CertificatePolicy, Renewal};
use naka_api::{Mode, decode_yaml};
use naka_types::key::KeyType;
use std::time::Duration;

const HOUR: Duration = Duration::from_hours(1);

fn decoded(spec: &str) -> (Option<CertificatePolicy>, Vec<(String, String)>) {
    let text = format!(
        "apiVersion: naka.dev/v1alpha1\nkind: CertificatePolicy\nmetadata: {{name: c, namespace: bank}}\nspec: {spec}\n"
    );
    let decoded = decode_yaml("c.yaml", text.as_bytes(), Mode::Strict);
    let policy = decoded
        .objects
        .first()
        .and_then(|object| object.certificate_policy().cloned());
    let said = decoded.findings.into_iter();
    (
        policy,
        said.map(|finding| (finding.field, finding.message))
            .collect(),
    )
}

#[test]
fn a_tier_says_what_is_not_written() {
    let of = |spec: &str| {
        let (policy, said) = decoded(spec);
        assert!(said.is_empty(), "{said:?}");
        policy.unwrap()
    };
    let three_days = Renewal::Before(HOUR * 72);
    for (tier, days, key, manual) in [
        ("high", 7, KeyType::Rsa4096, true),
        ("medium", 30, KeyType::Rsa2048, false),
        ("low", 90, KeyType::Rsa2048, false),
    ] {
        let policy = of(&format!("{{tier: {tier}}}"));
        assert_eq!(policy.lifetime, Some(HOUR * 24 * days), "{tier}");
        assert_eq!((policy.key, policy.manual), (key, manual), "{tier}");
        assert_eq!(policy.renewal, three_days, "{tier}");
    }
    let written = of(
        "{tier: high, duration: 24h, renewBeforePercentage: 40, privateKey: {size: 384}, approval: Automatic}",
    );
    assert_eq!(written.lifetime, Some(HOUR * 24));
    assert_eq!(written.renewal, Renewal::Left(40));
    assert_eq!((written.key, written.manual), (KeyType::EcdsaP384, false));
    let bare = of(
        "{serviceAccounts: [pay], maintenanceWindow: {start: \"02:00\", end: \"04:00\", timeZone: Asia/Kolkata, maxDuration: 30m}}",
    );
    assert_eq!(
        (bare.lifetime, bare.renewal, bare.key),
        (None, Renewal::Usual, KeyType::EcdsaP256)
    );
    let window = bare.window.unwrap();
    assert_eq!(
        (window.opens, window.closes, window.most),
        (120, 240, Some(HOUR / 2))
    );
}

#[test]
fn what_cannot_be_is_said_at_its_field_and_nothing_of_it_is_in_force() {
    let sha = "a".repeat(64);
    for (spec, field, words) in [
        (
            "{privateKey: {algorithm: ECDSA, size: 4096}}",
            "spec.privateKey.size",
            "4096 is a size of RSA",
        ),
        (
            "{privateKey: {algorithm: ECDSA, size: 521}}",
            "spec.privateKey.size",
            "256 and 384",
        ),
        (
            "{privateKey: {algorithm: RSA, size: 1024}}",
            "spec.privateKey.size",
            "2048 or 4096",
        ),
        (
            "{privateKey: {algorithm: Ed25519, size: 256}}",
            "spec.privateKey.size",
            "one size",
        ),
        ("{duration: 10s}", "spec.duration", "live from 1m"),
        ("{duration: 10000h}", "spec.duration", "397 days"),
        (
            "{duration: 24h, renewBefore: 24h}",
            "spec.renewBefore",
            "24 h cannot be renewed",
        ),
        (
            "{renewBefore: 72h}",
            "spec.renewBefore",
            "24 h cannot be renewed",
        ),
        (
            "{tier: low, renewBefore: 1h, renewBeforePercentage: 9}",
            "spec.renewBeforePercentage",
            "exclude",
        ),
        ("{tier: severe}", "spec.tier", "severe"),
        (
            "{maintenanceWindow: {start: 2am, end: \"04:00\"}}",
            "spec.maintenanceWindow.start",
            "no time of a day",
        ),
        (
            "{maintenanceWindow: {start: \"24:00\", end: \"04:00\"}}",
            "spec.maintenanceWindow.start",
            "no time of a day",
        ),
        (
            "{maintenanceWindow: {start: \"04:00\", end: \"04:00\"}}",
            "spec.maintenanceWindow.end",
            "closes when it opens",
        ),
        (
            "{maintenanceWindow: {start: \"02:00\", end: \"04:00\", timeZone: Mumbai}}",
            "spec.maintenanceWindow.timeZone",
            "no time zone",
        ),
        (
            "{maintenanceWindow: {start: \"02:00\", end: \"04:00\", maxDuration: 3s}}",
            "spec.maintenanceWindow.maxDuration",
            "a minute at least",
        ),
        (
            "{attestation: {uid: 1000}}",
            "spec.attestation",
            "none is named",
        ),
        (
            "{serviceAccounts: [pay], attestation: {}}",
            "spec.attestation",
            "asks for nothing",
        ),
        (
            "{serviceAccounts: [pay], attestation: {executables: [abc]}}",
            "spec.attestation.executables[0]",
            "no SHA-256",
        ),
        (
            "{serviceAccounts: [pay], selector: {matchLabels: {a: b}}, attestation: {uid: 0}}",
            "spec.attestation",
            "leave the labels",
        ),
    ] {
        let (policy, said) = decoded(spec);
        assert_eq!(policy, None, "{spec}");
        let found = said
            .iter()
            .any(|(at, text)| at == field && text.contains(words));
        assert!(found, "{spec}: {said:?}");
    }
    let sound = format!(
        "{{serviceAccounts: [pay], attestation: {{uid: 0, executables: ['sha256:{sha}']}}}}"
    );
    let (policy, said) = decoded(&sound);
    assert!(said.is_empty(), "{said:?}");
    assert_eq!(policy.unwrap().attestation.unwrap().executables, [sha]);
}

/// An alias that is none is left out alone, and one that is written twice counts once.
#[test]
fn aliases_of_the_trust_domain_are_read_one_by_one() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    trustDomainAliases: [old-td, old-td, 'spiffe://x', 'a.example.com', 'A B', '*']\n";
    let decoded = decode_yaml("m.yaml", text.as_bytes(), Mode::Strict);
    let config = decoded.objects[0].mesh_config().unwrap();
    assert_eq!(config.trust_domain_aliases, ["old-td", "a.example.com"]);
    let said: Vec<(&str, &str, u32)> = decoded
        .findings
        .iter()
        .map(|one| (one.code.as_str(), one.field.as_str(), one.line))
        .collect();
    let at = |index: usize| format!("data.mesh.trustDomainAliases[{index}]");
    let (twice, uri, space, star) = (at(1), at(2), at(4), at(5));
    assert_eq!(
        said,
        [
            ("L383", twice.as_str(), 6),
            ("E007", uri.as_str(), 6),
            ("E007", space.as_str(), 6),
            ("E007", star.as_str(), 6),
        ]
    );
}
