//! What is made of documents, and where findings say a fault is.

use super::*;
use naka_api::Mode;

/// The matrix as a program has it, a Python dictionary: read as it stands.
const LITERAL: &str = "{
            'authorization_policies': {
                'banking_service_matrix': {
                    'customer_facing_services': {
                        'allowed_to_call': [
                            'authentication_service',
                            'account_service',
                            'transaction_service'
                        ],
                        'forbidden_to_call': [
                            'internal_admin_services',
                            'core_banking_system',
                            'regulatory_reporting'
                        ]
                    },
                    
                    'internal_services': {
                        'allowed_to_call': [
                            'database_services',
                            'audit_service',
                            'logging_service'
                        ],
                        'forbidden_to_call': [
                            'customer_facing_apis',
                            'external_integrations'
                        ]
                    },
                }
            },
}
";

fn made(text: &str) -> (Vec<Made>, Vec<String>) {
    let mut document = Document::read("m.yaml", text.as_bytes());
    let made = make(&mut document, "default");
    document.sort();
    let found = document.findings.iter();
    let found = found.map(|f| format!("{} {}:{} {}", f.code, f.line, f.column, f.message));
    (made, found.collect())
}

fn named<'a>(made: &'a [Made], name: &str) -> &'a Value {
    let found = made
        .iter()
        .find(|one| one.object["metadata"]["name"] == name);
    &found
        .unwrap_or_else(|| panic!("{name}: {}", text(made)))
        .object
}

#[test]
fn a_dictionary_of_a_program_is_read_as_it_stands() {
    let (all, found) = made(LITERAL);
    assert!(found.is_empty(), "{found:?}");
    let policy = named(&all, "matrix-account-service");
    assert_eq!(
        policy["spec"]["rules"][0]["from"][0]["source"]["principals"],
        json!(["cluster.local/ns/default/sa/customer-facing-services"])
    );
    assert_eq!(
        policy["metadata"]["annotations"]["naka.dev/generated-from"],
        "m.yaml:7:29"
    );
    let never = named(&all, "matrix-core-banking-system-never");
    assert_eq!(never["spec"]["action"], "DENY");
    // Nobody was allowed to call it, so nobody is.
    assert_eq!(
        named(&all, "matrix-core-banking-system")["spec"].get("rules"),
        None
    );
    assert_eq!(
        text(&all),
        text(&made(LITERAL).0),
        "the same file, the same objects"
    );
}

/// Whatever is made is sound by the strict reading of the kinds.
#[test]
fn what_is_made_is_sound() {
    let whole = "
groups: {front: [web], inner: [ledger, audit], admin: [console]}
definitions: {office_networks: [10.0.0.0/8], business_hours: {days: [Monday], from: '08:00', to: '20:00', timeZone: Asia/Kolkata}}
services:
  ledger: {service_criticality: critical, data_sensitivity: restricted, compliance_requirements: [pci-dss, rbi]}
service_matrix:
  front: {allowed_to_call: [audit], forbidden_to_call: [ledger]}
  admin:
    allowed_to_call: [ledger]
    access_conditions: [Admin user authentication required, Time-based access (business hours only), Location-based access (office networks only), Dual authorization required]
identity_verification:
  mutual_tls: {required: True, certificate_rotation: 24h, ca_hierarchy: three_tier, key_size: 4096, signature_algorithm: ECDSA-SHA256}
  service_identity: {spiffe_format: true, identity_refresh: 1h}
authorization_policies: {default_policy: deny_all, policy_audit_logging: true}
data_protection: {encryption_in_transit: mandatory, pii_detection: enabled}
jurisdiction:
  levels: {civilian_level: 0, constable_level: 1, inspector_level: 2, officer_level: 3}
  clearance: {web: constable_level, console: officer_level}
  operations:
    modify_financial_data: {clearance: officer_level, services: [ledger], methods: [POST]}
    access_user_pii: {clearance: constable_level, paths: [/pii/*], purpose: [compliance, investigation], consent: verified}
";
    let (all, found) = made(whole);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found
            .iter()
            .any(|f| f.contains("ECDSA has no key of 4096 bits: 384 is used")),
        "{found:?}"
    );
    assert!(
        found.iter().any(|f| f.contains("pii_detection")),
        "{found:?}"
    );
    let decoded = naka_api::decode_yaml("made", text(&all).as_bytes(), Mode::Strict);
    let errors: Vec<_> = decoded.findings.iter().filter(|f| f.is_error()).collect();
    assert!(errors.is_empty(), "{errors:?}\n{}", text(&all));
    assert_eq!(decoded.objects.len(), all.len());
    assert_eq!(named(&all, "posture")["spec"]["duration"], "1h");
    let model = named(&all, "matrix-conditions");
    assert_eq!(model["spec"]["operations"][0]["dualAuthorization"], true);
    let ranks = &named(&all, "jurisdiction")["spec"]["levels"];
    assert_eq!(
        (&ranks["civilian_level"], &ranks["officer_level"]),
        (&json!(0), &json!(3))
    );
    for one in &all {
        let from = one.object["metadata"]["annotations"]["naka.dev/generated-from"].as_str();
        let closed =
            one.object["spec"]["rules"].is_null() && one.object["kind"] == "AuthorizationPolicy";
        assert!(from.is_some() || closed, "{}", one.object);
    }
}

#[test]
fn each_contradiction_says_where() {
    let groups = "groups: {front: [web], inner: [ledger, audit]}\n";
    for (matrix, wanted) in [
        (
            "matrix: {web: {allowed_to_call: [ledger], forbidden_to_call: [ledger]}}",
            "E971 2:34 web calling ledger is allowed here and forbidden at line 2",
        ),
        (
            "matrix: {web: {allowed_to_call: [ledger], forbidden_to_call: ['*']}}",
            "E971 2:34 web calling ledger is allowed here and forbidden by the wider",
        ),
        (
            "matrix: {web: {allowed_to_call: ['*'], forbidden_to_call: [ledger]}}",
            "W971 2:60 web calling ledger is forbidden here and allowed by the wider",
        ),
        (
            "matrix: {web: {allowed_to_call: [inner], forbidden_to_call: [ledger]}}",
            "W971 2:62",
        ),
        (
            "matrix: {front: {allowed_to_call: [ledger]}, web: {forbidden_to_call: [ledger]}}",
            "W971 2:72",
        ),
        (
            "matrix: {web: {allowed_to_call: [leger]}}",
            "E972 2:34 leger is neither a service nor a group",
        ),
        (
            "matrix: {web: {allowed_to_call: [x-*]}}",
            "E972 2:34 x-* fits no service",
        ),
        ("matrix: {wbe: {allowed_to_call: [ledger]}}", "E972 2:10"),
        (
            "matrix: {web: {allowed_to_call: [ledger], access_conditions: [Only when it rains]}}",
            "E973 2:63",
        ),
        (
            "matrix: {web: {allowed_to_call: [ledger], access_conditions: [Location-based access]}}",
            "E973 2:63 which addresses the offices have",
        ),
        (
            "matrix: {web: {allow_to_call: [ledger]}}",
            "E002 2:16 unknown key allow_to_call",
        ),
        ("matrx: {}", "E002 2:1"),
        ("matrix: 3", "E003 2:9 not a map"),
        ("matrix: {web: [ledger]}", "E003 2:15 not a map"),
        (
            "identity_verification: {mutual_tls: true}",
            "E003 2:37 not a map",
        ),
        (
            "data_protection: {encryption_in_transit: sometimes}",
            "W972 2:42",
        ),
        (
            "jurisdiction: {operations: {read: {clearance: high}}}",
            "E006 2:15",
        ),
        ("matrix: [", "E001"),
    ] {
        let (_, found) = made(&format!("{groups}{matrix}\n"));
        assert!(
            found.iter().any(|f| f.starts_with(wanted)),
            "{matrix}: {found:?}"
        );
    }
    let (all, found) = made(&format!(
        "{groups}matrix: {{web: {{allowed_to_call: ['*'], forbidden_to_call: [ledger]}}}}\n"
    ));
    assert_eq!(found.len(), 1);
    assert!(
        named(&all, "matrix-ledger")["spec"].get("rules").is_none(),
        "the prohibition holds"
    );
    assert!(
        named(&all, "matrix-audit")["spec"].get("rules").is_some(),
        "the twin"
    );
}

/// Groups that name each other end, and give what they hold.
#[test]
fn groups_may_name_groups() {
    let (all, found) =
        made("groups: {a: [b, web], b: [a, ledger]}\nmatrix: {a: {allowed_to_call: [b]}}\n");
    assert!(found.is_empty(), "{found:?}");
    let policy = named(&all, "matrix-web");
    assert_eq!(
        policy["spec"]["rules"][0]["from"][0]["source"]["principals"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
}
