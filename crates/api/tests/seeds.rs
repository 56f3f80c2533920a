//! The seed manifests, byte for byte as published, get exactly the findings of the conformance table.
//!
//! W900 and E901 are left out of the comparison: they say that a field is read but not enforced yet, and go away as
//! enforcement arrives. A count is compared where the table states one.

use naka_api::{Decoded, Mode, decode_yaml, decode_yaml_in};
use std::collections::BTreeMap;

fn seed(name: &str) -> Vec<u8> {
    let path = format!(
        "{}/../../cases/seeds/{name}.yaml",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Codes with their numbers for one object.
fn codes(decoded: &Decoded, object: &str) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for finding in decoded.findings.iter().chain(&decoded.lint()) {
        assert!(finding.line > 0 && finding.column > 0, "{finding}");
        assert!(
            !finding.file.is_empty() && !finding.field.is_empty(),
            "{finding}"
        );
        let name = finding
            .object
            .split(['/', ' '])
            .next_back()
            .expect("a name");
        if name == object && finding.code != "W900" && finding.code != "E901" {
            *out.entry(finding.code.clone()).or_insert(0) += 1;
        }
    }
    out
}

/// `"W110 W111×3"` → code and number; no number = any.
fn check(decoded: &Decoded, object: &str, expected: &str) {
    let got = codes(decoded, object);
    let mut want: Vec<(&str, Option<usize>)> = expected
        .split_whitespace()
        .map(|word| {
            word.split_once('×').map_or((word, None), |(code, n)| {
                (code, Some(n.parse().expect("a number")))
            })
        })
        .collect();
    want.sort_unstable();
    assert_eq!(
        got.keys().map(String::as_str).collect::<Vec<_>>(),
        want.iter().map(|(code, _)| *code).collect::<Vec<_>>(),
        "{object}: {got:?}"
    );
    for (code, number) in want {
        if let Some(number) = number {
            assert_eq!(got[code], number, "{object} {code}");
        }
    }
}

/// File, object, findings in compat mode, whether strict mode accepts it. Strict mode: each W becomes the E of its number.
const TABLE: &[(&str, &str, &str, bool)] = &[
    (
        "user-service-load-balancing",
        "user-service-load-balancing",
        "W110 W111",
        false,
    ),
    (
        "hdfc-payment-tier-routing",
        "hdfc-payment-routing",
        "L310",
        true,
    ),
    (
        "delivery-zone-routing",
        "delivery-optimization",
        "L308 L310",
        true,
    ),
    ("phonepe-upi-canary", "phonepe-upi-canary", "L310", true),
    (
        "razorpay-load-balancing-strategy",
        "razorpay-load-balancing-strategy",
        "W110 L311",
        false,
    ),
    (
        "payment-service-destination",
        "payment-service-destination",
        "W101 W110 W111 L301b L303 L304 L311",
        false,
    ),
    (
        "paytm-payment-connection-pool",
        "paytm-payment-optimization",
        "W102 W103×3 W104 L301×2 L302×2 L303 L311",
        false,
    ),
    (
        "upi-payment-gateway-and-routing",
        "upi-payment-gateway",
        "",
        true,
    ),
    (
        "upi-payment-gateway-and-routing",
        "upi-payment-routing",
        "E312 L306 L307 L308",
        true,
    ),
    (
        "ab-testing-routing-and-subsets",
        "advanced-ab-testing",
        "L309 L312",
        true,
    ),
    (
        "ab-testing-routing-and-subsets",
        "recommendation-service-advanced",
        "W110 W111×3 L301 L304 L311 L312",
        false,
    ),
];

#[test]
fn the_conformance_table() {
    for (file, object, compat, accepted) in TABLE {
        let path = format!("{file}.yaml");
        let decoded = decode_yaml(&path, &seed(file), Mode::Compat);
        assert!(
            decoded.objects.iter().any(|o| o.meta.name == *object),
            "{object} is accepted"
        );
        check(&decoded, object, compat);
        let decoded = decode_yaml(&path, &seed(file), Mode::Strict);
        assert_eq!(
            decoded.objects.iter().any(|o| o.meta.name == *object),
            *accepted,
            "{object} strict"
        );
        check(&decoded, object, &compat.replace('W', "E"));
    }
}

#[test]
fn a_gateway_in_the_same_namespace_is_found() {
    let decoded = decode_yaml_in(
        "f",
        &seed("upi-payment-gateway-and-routing"),
        Mode::Compat,
        "payments",
    );
    check(&decoded, "upi-payment-routing", "L306 L307 L308");
    let decoded = decode_yaml("f", &seed("upi-payment-gateway-and-routing"), Mode::Compat);
    let lint = decoded.lint();
    let finding = lint.iter().find(|finding| finding.code == "E312").unwrap();
    assert_eq!(
        finding.message,
        "gateway default/upi-payment-gateway not found; did you mean payments/upi-payment-gateway?"
    );
    assert_eq!(
        (finding.line, finding.field.as_str()),
        (39, "spec.gateways[0]")
    );
}

#[test]
fn aliases_take_effect() {
    let decoded = decode_yaml("f", &seed("payment-service-destination"), Mode::Compat);
    let rule = decoded.objects[0].destination_rule().unwrap();
    let outlier = rule.policy.outlier_detection.as_ref().unwrap();
    assert_eq!(
        (outlier.consecutive_5xx, outlier.max_ejection_percent),
        (Some(5), Some(50))
    );
    assert_eq!(
        rule.policy.load_balancer,
        Some(naka_api::networking::destination_rule::LoadBalancer::LeastRequest)
    );
    // What the user wrote stays as it is.
    assert!(
        decoded.objects[0]
            .raw
            .pointer("/spec/trafficPolicy/circuitBreaker")
            .is_some()
    );
    assert_eq!(
        decoded.objects[0].raw["apiVersion"],
        "networking.istio.io/v1"
    );
}

#[test]
fn what_is_stored_decodes_to_the_same_again() {
    for entry in
        std::fs::read_dir(format!("{}/../../cases/seeds", env!("CARGO_MANIFEST_DIR"))).unwrap()
    {
        let decoded = decode_yaml(
            "f",
            &std::fs::read(entry.unwrap().path()).unwrap(),
            Mode::Compat,
        );
        for object in &decoded.objects {
            let (again, findings) = naka_api::decode_json(&object.raw, Mode::Compat);
            assert_eq!(again.as_ref(), Some(object));
            let first: Vec<_> = decoded
                .findings
                .iter()
                .filter(|f| f.object == object.reference().to_string())
                .map(|f| (&f.code, &f.field))
                .collect();
            let mut second: Vec<_> = findings.iter().map(|f| (&f.code, &f.field)).collect();
            let mut first_sorted = first.clone();
            first_sorted.sort_unstable();
            second.sort_unstable();
            assert_eq!(first_sorted, second, "{}", object.reference());
        }
    }
}
