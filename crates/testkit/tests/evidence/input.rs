//! Bad input and bad upstreams: what is refused says why, the sound part is kept, nothing panics.

use crate::traffic::{finish, load, split};
use naka_testkit::http1::Client;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::free_port;
use naka_testkit::{size, wait};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;

fn findings(mesh: &Mesh, name: &str, text: &str) -> (Option<i32>, Vec<(String, u64, String)>) {
    let file = mesh.file(name, text);
    let output = mesh.naka([
        "check".as_ref(),
        "-f".as_ref(),
        file.as_os_str(),
        "-o".as_ref(),
        "json".as_ref(),
    ]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let list = value["findings"].as_array().cloned().unwrap_or_default();
    let short = |f: &Value| {
        (
            f["code"].as_str().unwrap_or_default().to_owned(),
            f["line"].as_u64().unwrap_or(0),
            f["fix"].as_str().unwrap_or_default().to_owned(),
        )
    };
    (output.status.code(), list.iter().map(short).collect())
}

/// Each mistake gets its code and its line; the twin is the same file without the mistake.
#[test]
fn mistakes_in_manifests_are_named() {
    let mesh = Mesh::up();
    let good = split(90, 10);
    assert_eq!(findings(&mesh, "good.yaml", &good).0, Some(0));
    for (name, from, to, code) in [
        ("unknown", "  http:\n", "  htpp:\n", "E002"),
        ("type", "weight: 90", "weight: ninety", "E003"),
        (
            "duplicate",
            "  hosts: [payment]\n",
            "  hosts: [payment]\n  hosts: [payment]\n",
            "E004",
        ),
        ("syntax", "hosts: [payment]", "hosts: [payment", "E001"),
        (
            "kind",
            "kind: VirtualService",
            "kind: VirtualServise",
            "E005",
        ),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{name} changes nothing");
        let (status, found) = findings(&mesh, &format!("{name}.yaml"), &bad);
        assert_eq!(status, Some(1), "{name}: {found:?}");
        assert!(
            found.iter().any(|(c, line, _)| c == code && *line > 0),
            "{name} wants {code}: {found:?}"
        );
    }
}

/// Of two documents with one bad, the good one is applied and the exit code says that not all was.
#[test]
fn the_good_document_of_two_is_applied() {
    let mesh = Mesh::up();
    let text = split(90, 10).replacen("weight: 90", "weight: ninety", 1);
    let file = mesh.file("half.yaml", &text);
    let output = mesh.naka(["apply".as_ref(), "-f".as_ref(), file.as_os_str()]);
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(mesh.ok(["get", "destinationrules"]).contains("payment"));
}

/// A route to an unknown subset answers 503 with its reason and says so in the object's status; others are unaffected.
#[test]
fn an_unknown_subset_is_a_503_with_a_reason() {
    let mesh = Mesh::up();
    let _v1 = mesh.serve("payment", "v1");
    let text = split(90, 10).replace("  http:\n", "  http:\n  - match: [{uri: {prefix: /bad}}]\n    route: [{destination: {host: payment, subset: v9}}]\n  - match: [{uri: {prefix: /gone}}]\n    route: [{destination: {host: nowhere}}]\n  - match: [{uri: {prefix: /good}}]\n    route: [{destination: {host: payment, subset: v1}}]\n");
    mesh.apply("routes.yaml", &text);
    for (path, want) in [("bad", 503), ("gone", 503), ("good", 200)] {
        let got = load(
            &mesh,
            path,
            &["--url", &format!("http://payment/{path}"), "--count", "3"],
            &["payment-v1"],
        );
        let log = mesh.logged(path);
        assert!(
            log.iter().all(|l| l["status"] == want),
            "{path}: {:?}",
            log.first()
        );
        assert!(
            want == 200 || (log[0]["reason"] == "unknown-cluster" && got.served == 0),
            "{:?}",
            log[0]
        );
    }
    let described = mesh.ok(["describe", "virtualservice", "payment"]);
    assert!(
        described.contains("ResolvedRefs") && described.contains("v9"),
        "{described}"
    );
}

/// Upstreams that talk garbage, cut their answer short or are gone, and callers over the limits.
#[test]
fn bad_peers_get_reasons() {
    let mesh = Mesh::up();
    let _v1 = mesh.serve("payment", "v1");
    for (path, statuses) in [("garbage/1", [502, 503]), ("cut/1", [200, 502])] {
        let name = path.replace('/', "-");
        load(
            &mesh,
            &name,
            &[
                "--url",
                &format!("http://payment/{path}"),
                "--count",
                "2",
                "--method",
                "POST",
            ],
            &["payment-v1"],
        );
        let log = mesh.logged(&name);
        let sound =
            |l: &Value| statuses.iter().any(|s| l["status"] == *s) || l["error"].is_string();
        assert!(log.iter().all(sound), "{path}: {log:?}");
    }
    // A name that does not exist has no address; a program that leaves names to its proxy gets that one's answer.
    let unknown = |name: &str, options: &[&str]| {
        let url = "http://no-such-service.default.svc.cluster.local/";
        let mut run = mesh.load(name, options, &["--url", url, "--count", "2"]);
        finish(&mut run);
        mesh.logged(name)
    };
    let log = unknown("unresolved", &["-s", "order"]);
    assert!(log.iter().all(|l| l["status"] == 0), "{log:?}");
    let log = unknown("unknown", &["-s", "order", "--capture", "proxy"]);
    assert!(
        log.iter()
            .all(|l| l["status"] == 503 && l["reason"] == "unknown-host"),
        "{log:?}"
    );
    load(
        &mesh,
        "after",
        &["--url", "http://payment/", "--count", "5"],
        &["payment-v1"],
    )
    .assert_clean();
}

/// Headers over the limits are refused by the sidecar, not by the program; idle connections do not hurt others.
#[test]
fn limits_hold_and_idle_connections_are_cheap() {
    let mesh = Mesh::up();
    let _v1 = mesh.serve("payment", "v1");
    let bind = free_port();
    let caller = mesh.run(
        "caller",
        &[
            "-s",
            "order",
            "--capture",
            "proxy",
            "--upstream",
            &format!("payment:80={bind}"),
        ],
        &["sleep", "600"],
    );
    let url = format!("http://127.0.0.1:{bind}/");
    let get = |headers: &[(&str, &str)]| {
        Client::open(&url).and_then(|mut c| c.request("GET", &url, headers, b""))
    };
    wait::until("the bind answers", SOON, || {
        get(&[]).ok().filter(|a| a.status == 200)
    });
    let long = "x".repeat(70 * 1024);
    let refused = get(&[("x-long", &long)]);
    assert!(
        refused.as_ref().map_or(true, |a| a.status == 431),
        "{refused:?}"
    );

    let count = size().pick(1000, 10_000);
    let sidecar = mesh.sidecar_of(&caller).expect("a sidecar");
    let before = naka_testkit::program::resident_bytes(sidecar);
    let mut idle = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(("127.0.0.1", bind)).expect("one more idle connection");
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: payment\r\n\r\n")
            .expect("sent");
        let mut first = [0; 12];
        stream.read_exact(&mut first).expect("answered");
        assert_eq!(&first, b"HTTP/1.1 200");
        idle.push(stream);
    }
    let each = naka_testkit::program::resident_bytes(sidecar).saturating_sub(before) / count;
    println!("{count} idle connections: {each} bytes of sidecar memory each");
    assert_eq!(get(&[]).expect("still answers").status, 200);
}
