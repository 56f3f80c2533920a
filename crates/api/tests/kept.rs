//! What the mesh itself does not read is kept as it was written, and what is written for convenience is stored in the
//! one form that is read. Each row has a twin without the field.

use naka_api::{Mode, Object, decode_yaml};
use serde_json::{Value, json};

/// The one object of a text, which has no finding.
#[track_caller]
fn sound(text: &str) -> Object {
    let decoded = decode_yaml("f.yaml", text.as_bytes(), Mode::Strict);
    assert_eq!(decoded.findings, Vec::new(), "{text}");
    let mut objects = decoded.objects.into_iter();
    objects.next().expect("an object")
}

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: pay}
spec:
  clusterIP: 10.0.0.1
  clusterIPs: [10.0.0.1, '2001:db8::1']
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: PreferDualStack
  ports: [{port: 80}]
";

const MAP: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: notes}
data: {a.txt: hello}
binaryData: {b.bin: AAEC}
immutable: true
";

#[test]
fn what_is_not_read_is_kept_as_it_is() {
    for (text, line, at, value) in [
        (
            SERVICE,
            "  clusterIP: 10.0.0.1\n",
            "/spec/clusterIP",
            json!("10.0.0.1"),
        ),
        (
            SERVICE,
            "  clusterIPs: [10.0.0.1, '2001:db8::1']\n",
            "/spec/clusterIPs",
            json!(["10.0.0.1", "2001:db8::1"]),
        ),
        (
            SERVICE,
            "  ipFamilies: [IPv4, IPv6]\n",
            "/spec/ipFamilies",
            json!(["IPv4", "IPv6"]),
        ),
        (
            SERVICE,
            "  ipFamilyPolicy: PreferDualStack\n",
            "/spec/ipFamilyPolicy",
            json!("PreferDualStack"),
        ),
        (MAP, "data: {a.txt: hello}\n", "/data/a.txt", json!("hello")),
        (
            MAP,
            "binaryData: {b.bin: AAEC}\n",
            "/binaryData/b.bin",
            json!("AAEC"),
        ),
        (MAP, "immutable: true\n", "/immutable", json!(true)),
    ] {
        // JSON pointers write a slash as ~1; there is none in these names.
        let (with, without) = (sound(text), sound(&text.replacen(line, "", 1)));
        assert_eq!(with.raw.pointer(at), Some(&value), "{at}");
        assert_eq!(without.raw.pointer(at), None, "without {at}");
        // It decides nothing: what the mesh reads is the same.
        assert_eq!(with.spec, without.spec, "{at}");
    }
}

const SECRET: &str = "apiVersion: v1
kind: Secret
metadata: {name: card}
type: kubernetes.io/tls
data: {k: b2xk}
stringData: {k: new, t: text}
";

#[test]
fn a_secret_is_of_its_type_and_its_texts_win() {
    let value = |object: &Object, key: &str| {
        let data = &object.secret().expect("a Secret").data;
        data.get(key)
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    let kind = |object: &Object| object.secret().expect("a Secret").kind.clone();
    let with = sound(SECRET);
    assert_eq!(value(&with, "k").as_deref(), Some("new"));
    assert_eq!(value(&with, "t").as_deref(), Some("text"));
    assert_eq!(with.raw["data"], json!({"k": "bmV3", "t": "dGV4dA=="}));
    assert_eq!(with.raw.get("stringData"), None::<&Value>);
    let without = sound(&SECRET.replacen("stringData: {k: new, t: text}\n", "", 1));
    assert_eq!(value(&without, "k").as_deref(), Some("old"));
    assert_eq!(value(&without, "t"), None);
    assert_eq!(kind(&with), "kubernetes.io/tls");
    let plain = sound(&SECRET.replacen("type: kubernetes.io/tls\n", "", 1));
    assert_eq!(kind(&plain), "Opaque");
}
