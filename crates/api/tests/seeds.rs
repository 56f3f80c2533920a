//! The seed manifests, byte for byte as published, get exactly the findings of the conformance table.
//!
//! W900 and E901 are not codes of that table: they say that a field is read but not enforced yet, go away as
//! enforcement arrives, and `naka check -o json` lists them apart (`not_yet`). A count is compared where the table
//! states one. Each file is checked by itself.

use naka_api::{Decoded, Mode, decode_yaml, decode_yaml_in};
use std::collections::{BTreeMap, BTreeSet};

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
        "knative-payment-trigger-and-service",
        "payment-processing-trigger",
        "L360",
        true,
    ),
    (
        "knative-payment-trigger-and-service",
        "payment-processor",
        "W113×2",
        false,
    ),
    (
        "zomato-order-sidecar-deployment",
        "zomato-order-service",
        "E340 W341 W342",
        false,
    ),
    (
        "swiggy-delivery-authorization",
        "swiggy-delivery-authorization",
        "W120×6 W121×1 L320 L323",
        false,
    ),
    (
        "hdfc-payment-gateway-authorization",
        "hdfc-payment-gateway-access",
        "W120×2 W121×4 L320 L323",
        false,
    ),
    (
        "cross-cluster-gateway-and-remote-services",
        "cross-cluster-gateway",
        "E330 L331",
        true,
    ),
    (
        "cross-cluster-gateway-and-remote-services",
        "remote-cluster-services",
        "L333 L334 L335",
        true,
    ),
    (
        "service-mesh-prometheus-alerts",
        "service-mesh-alerts",
        "E350 L352 L353",
        true,
    ),
    (
        "security-checklist-and-verification-configmaps",
        "service-mesh-security-checklist",
        "",
        true,
    ),
    (
        "security-checklist-and-verification-configmaps",
        "implementation-verification",
        "",
        true,
    ),
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

/// The one object that is refused in either mode.
const REFUSED: &str = "zomato-order-service";

/// The table above has a row for each object of the seeds, and the page in the seeds says the same.
#[test]
fn every_object_has_its_row() {
    let page = std::fs::read_to_string(format!(
        "{}/../../cases/seeds/README.md",
        env!("CARGO_MANIFEST_DIR")
    ))
    .expect("the page of the seeds");
    let section = page
        .split("## Expected result per object")
        .nth(1)
        .expect("its table");
    let rows: Vec<(&str, &str)> = section
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            Some((cells.next()?, cells.next()?))
        })
        .collect();
    let all: BTreeSet<String> =
        std::fs::read_dir(format!("{}/../../cases/seeds", env!("CARGO_MANIFEST_DIR")))
            .expect("seeds")
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|e| e == "yaml"))
            .flat_map(|entry| {
                let text = std::fs::read(entry.path()).expect("read");
                let decoded = decode_yaml("f", &text, Mode::Compat);
                let sound = decoded.objects.iter().map(|o| o.meta.name.clone());
                sound.collect::<Vec<_>>()
            })
            .chain([REFUSED.to_owned()])
            .collect();
    let own: BTreeSet<String> = TABLE.iter().map(|row| row.1.to_owned()).collect();
    assert_eq!(own, all);
    for (_, object, compat, _) in TABLE {
        if compat.is_empty() {
            continue;
        }
        let (_, cell) = rows
            .iter()
            .find(|(name, _)| name.split(' ').any(|word| word == *object))
            .unwrap_or_else(|| panic!("{object} stands in the page"));
        let words = codes_in(cell);
        let mut want: Vec<String> = compat.split(' ').map(str::to_owned).collect();
        want.sort();
        assert_eq!(words, want, "{object}: {cell}");
    }
}

/// `accept, W120 ×6 W121 ×1, L320` → `L320 W120×6 W121×1`. What stands in brackets is for readers, but for the two
/// codes of the refused Deployment.
fn codes_in(cell: &str) -> Vec<String> {
    let cell = cell.replace("(W341 W342 reported too)", "W341 W342");
    let cell = cell
        .split('(')
        .map(|part| part.split_once(')').map_or(part, |(_, rest)| rest));
    let cell: String = cell.collect::<Vec<_>>().join(" ").replace(" ×", "×");
    let is_code = |word: &&str| {
        let number = word[1..]
            .trim_end_matches('b')
            .split('×')
            .next()
            .unwrap_or_default();
        word.starts_with(['W', 'E', 'L'])
            && !number.is_empty()
            && number.chars().all(|c| c.is_ascii_digit())
    };
    let words = cell
        .split([' ', ',', ':', ';', '.'])
        .filter(|w| w.is_ascii() && !w.is_empty() || w.contains('×'));
    let mut words: Vec<String> = words.filter(is_code).map(str::to_owned).collect();
    words.sort();
    words.dedup();
    words
}

#[test]
fn the_conformance_table() {
    for (file, object, compat, accepted) in TABLE {
        let path = format!("{file}.yaml");
        let decoded = decode_yaml(&path, &seed(file), Mode::Compat);
        assert_eq!(
            decoded.objects.iter().any(|o| o.meta.name == *object),
            *object != REFUSED,
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
        rule.policy
            .load_balancer
            .as_ref()
            .map(|lb| lb.algorithm.clone()),
        Some(naka_api::networking::destination_rule::balancer::Algorithm::LeastRequest)
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
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        let decoded = decode_yaml("f", &std::fs::read(path).unwrap(), Mode::Compat);
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
