//! Data classes: what fulfils the demands of a class, and what does not.

use naka_api::{Mode, decode_yaml};

const APPROVED: &str = "apiVersion: naka.dev/v1alpha1\nkind: CertificatePolicy\nmetadata: {name: p, namespace: NS}\nspec: {approval: Manual}\n";
const AUTOMATIC: &str = "apiVersion: naka.dev/v1alpha1\nkind: CertificatePolicy\nmetadata: {name: p, namespace: NS}\nspec: {approval: Automatic}\n";
const OPEN: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: NS}\nspec: {mtls: {mode: DISABLE}}\n";

fn found(class: &str, other: &str) -> Vec<String> {
    let head = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: vault, labels: {{naka.dev/data-class: {class}}}}}\n---\n"
    );
    let decoded = decode_yaml("c.yaml", format!("{head}{other}").as_bytes(), Mode::Compat);
    decoded
        .findings
        .iter()
        .chain(&decoded.lint())
        .map(|f| f.code.to_string())
        .collect()
}

#[test]
fn what_a_class_demands_is_missed_until_it_is_there() {
    for (class, other, namespace, codes) in [
        ("public", OPEN, "vault", &[][..]),
        ("internal", OPEN, "vault", &[]),
        ("confidential", APPROVED, "vault", &[]),
        ("confidential", APPROVED, "istio-system", &[]),
        ("confidential", APPROVED, "elsewhere", &["W985"]),
        ("confidential", AUTOMATIC, "vault", &["W985"]),
        ("confidential", OPEN, "vault", &["W983", "W985"]),
        ("confidential", OPEN, "elsewhere", &["W985"]),
        ("restricted", APPROVED, "vault", &["W984"]),
    ] {
        let mut seen = found(class, &other.replace("NS", namespace));
        // Others have their own words about these objects.
        seen.retain(|code| code.starts_with("W98"));
        seen.sort();
        assert_eq!(seen, codes, "{class} {namespace} {other}");
    }
}
