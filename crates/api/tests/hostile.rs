//! Nothing that comes in makes decoding panic or take long.

use naka_api::{Kind, Mode, decode_json, decode_yaml};
use serde_json::Value;
use std::time::{Duration, Instant};

fn seeds() -> Vec<Vec<u8>> {
    let dir = format!("{}/../../cases/seeds", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .expect("cases/seeds can be read")
        .map(|entry| entry.expect("cases/seeds can be read").path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|path| std::fs::read(path).expect("cases/seeds can be read"))
        .collect()
}

#[test]
fn mutated_bytes_never_panic() {
    let mut rng = fastrand::Rng::with_seed(7);
    let seeds = seeds();
    let words: &[&str] = &[
        "- ", "&a ", "*a", "{", "}", "[", "<<: ", "\t", "\u{0}", "!!str ", "---\n", "|\n", "null",
        "9e999", "-1", "~", "\"", "ÿ", ": ", "? ",
    ];
    let (mut with_objects, mut with_findings) = (0, 0);
    for round in 0..3000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(0..bytes.len());
            match rng.u8(0..5) {
                0 => bytes[at] = rng.u8(..),
                1 => drop(bytes.remove(at)),
                2 => {
                    let word = words[rng.usize(0..words.len())];
                    bytes.splice(at..at, word.bytes());
                }
                3 => bytes.truncate(at.max(1)),
                _ => {
                    let end = (at + rng.usize(1..40)).min(bytes.len());
                    let part = bytes[at..end].to_vec();
                    let to = rng.usize(0..bytes.len());
                    bytes.splice(to..to, part);
                }
            }
        }
        let mode = if rng.bool() {
            Mode::Compat
        } else {
            Mode::Strict
        };
        let decoded = decode_yaml("fuzz.yaml", &bytes, mode);
        with_objects += usize::from(!decoded.objects.is_empty());
        with_findings += usize::from(!decoded.findings.is_empty());
        let _ = decoded.lint();
    }
    assert!(
        with_objects > 300 && with_findings > 300,
        "the mutations reach both sides: {with_objects} {with_findings}"
    );
}

/// A random value; field names come from the real tables now and then.
fn random(rng: &mut fastrand::Rng, depth: u8) -> Value {
    const NAMES: &[&str] = &[
        "spec",
        "http",
        "match",
        "route",
        "destination",
        "host",
        "hosts",
        "weight",
        "uri",
        "exact",
        "regex",
        "headers",
        "subsets",
        "name",
        "trafficPolicy",
        "outlierDetection",
        "circuitBreaker",
        "consecutiveErrors",
        "servers",
        "port",
        "number",
        "tls",
        "mode",
        "ports",
        "mtls",
        "data",
        "stringData",
        "portLevelMtls",
        "labels",
        "timeout",
    ];
    match rng.u8(0..if depth == 0 { 6 } else { 9 }) {
        0 => Value::Null,
        1 => rng.bool().into(),
        2 => rng.i64(..).into(),
        3 => rng.f64().into(),
        4 => ["", "a", "*", "10s", "(", "HTTP", "../..", "ISTIO_MUTUAL"][rng.usize(0..8)].into(),
        5 => rng.u32(0..70000).into(),
        6 => (0..rng.usize(0..4))
            .map(|_| random(rng, depth - 1))
            .collect(),
        _ => Value::Object(
            (0..rng.usize(0..6))
                .map(|_| {
                    (
                        NAMES[rng.usize(0..NAMES.len())].to_owned(),
                        random(rng, depth - 1),
                    )
                })
                .collect(),
        ),
    }
}

#[test]
fn random_objects_never_panic() {
    let mut rng = fastrand::Rng::with_seed(11);
    for kind in Kind::all() {
        for _ in 0..400 {
            let value = serde_json::json!({
                "apiVersion": kind.api_version(), "kind": kind.as_str(),
                "metadata": if rng.u8(0..4) > 0 { serde_json::json!({"name": "a"}) } else { random(&mut rng, 3) },
                "spec": random(&mut rng, 6), "data": random(&mut rng, 2), "stringData": random(&mut rng, 2),
            });
            let (object, findings) = decode_json(&value, Mode::Compat);
            if let Some(object) = &object {
                let _ = naka_api::cross_check(&[object]);
                assert_eq!(object.kind, kind);
            } else {
                assert!(!findings.is_empty(), "refused without a word: {value}");
            }
        }
    }
}

#[test]
fn bombs_end_at_once() {
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..30 {
        let all = vec![format!("*a{}", level - 1); 10].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{all}]\n"));
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let block: String = (0..5000)
        .map(|level| format!("{}a:\n", " ".repeat(level)))
        .collect();
    let mut nested_alias = String::from("b0: &b0 {a: 1}\n");
    for level in 1..200 {
        nested_alias.push_str(&format!("b{level}: &b{level} {{a: *b{}}}\n", level - 1));
    }
    let large = vec![b'#'; 9 << 20];
    let self_alias = "a: &a [*a]\n".to_owned();
    for (name, bytes) in [
        ("laughs", laughs.as_bytes()),
        ("deep", deep.as_bytes()),
        ("block", block.as_bytes()),
        ("nested alias", nested_alias.as_bytes()),
        ("large", &large),
        ("self", self_alias.as_bytes()),
        ("not text", b"a: \xff\xfe\n"),
        ("zero", b"\0"),
    ] {
        let start = Instant::now();
        let decoded = decode_yaml(name, bytes, Mode::Compat);
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{name}: {:?}",
            start.elapsed()
        );
        assert!(decoded.objects.is_empty());
        assert!(
            decoded
                .findings
                .iter()
                .any(|finding| finding.code == "E001"),
            "{name}: {:?}",
            decoded.findings
        );
    }
}
