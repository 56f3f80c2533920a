//! RequestGuard: what is refused, who is banned and for how long, as the called program and a client outside saw it.

use crate::limits::EDGE;
use crate::trust::signed;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use naka_testkit::mesh::{Mesh, SOON, testprog};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Guards of the gateway; a ban is as short as it may be, so that its end is seen.
const GUARD: &str = "apiVersion: naka.dev/v1alpha1
kind: RequestGuard
metadata: {name: edge, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  guards:
  - {name: seen, patterns: {xss: true}, action: Log}
  - {name: methods, methods: {}}
  - {name: strict, syntax: strict}
  - {name: sql, patterns: {sqlInjection: true}}
  - {name: probe, patterns: {custom: [{name: admin, regex: ^/wp-admin}]}, action: Ban, banFor: 4s}
  - {name: tokens, tokens: {}, action: Ban, failures: 2, banFor: 1h}
";

/// What a client at an address of this machine got: status and reason.
fn ask(port: u16, from: &str, words: &[&str], path: &str) -> (u16, String) {
    let url = format!("http://127.0.0.1:{port}{path}");
    let head = ["-s", "-m", "10", "--path-as-is", "--interface", from];
    let told = [
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %header{x-naka-reason}",
    ];
    let mut curl = Command::new("curl");
    let output = curl.args(head).args(told).args(words).arg(url).output();
    let text = String::from_utf8_lossy(&output.expect("curl").stdout).into_owned();
    let (status, reason) = text.split_once(' ').unwrap_or((&text, ""));
    (status.parse().unwrap_or(0), reason.to_owned())
}

fn reasons(mesh: &Mesh) -> BTreeSet<(String, String)> {
    let all: Value =
        serde_json::from_str(&mesh.ok(["get", "denials", "-o", "json"])).expect("JSON");
    let all = all["items"].as_array().cloned().unwrap_or_default();
    let of = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
    all.iter()
        .map(|one| (of(one, "reason"), of(one, "rule")))
        .collect()
}

/// Attacks, what becomes of each with the guards, and what the rule of its denial says.
const ATTACKS: &[(&[&str], &str, u16, &str)] = &[
    (
        &[],
        "/?id=1'+or+'1'='1",
        403,
        "edge/sql]-pattern[sqlInjection]",
    ),
    (
        &["-H", "x-id: x' union select null,null--"],
        "/",
        403,
        "edge/sql]-pattern[sqlInjection]",
    ),
    (&["-X", "PROPFIND"], "/", 403, "edge/methods]"),
    (
        &[],
        "/?id=%zz",
        400,
        "edge/strict]: the query has a broken escape",
    ),
    (
        &["-H", "x_id: 1"],
        "/",
        400,
        "edge/strict]: the name of a header",
    ),
];

fn gateway(mesh: &Mesh) -> (Program, u16) {
    let port = free_port();
    let bind = format!("80=127.0.0.1:{port}");
    let mut command = mesh.command(["proxy", "gateway", "--workers", "2", "--port", &bind]);
    let edge = Program::start("edge", mesh.home(), &mut command).expect("a gateway");
    mesh.apply("edge.yaml", EDGE);
    until("the gateway takes requests", SOON, || {
        (ask(port, "127.0.0.1", &[], "/pay").0 == 200).then_some(())
    });
    (edge, port)
}

/// Each attack is refused and told of, and never reaches the program; a ban is of one address, at all workers, and ends.
/// The twin: without the object every attack reaches the program and nobody is banned.
#[test]
fn what_a_guard_refuses_never_arrives_and_a_ban_is_of_one_peer_for_a_time() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let (_edge, port) = gateway(&mesh);
    let served = || mesh.logged("payment-v1").len();
    let probe = |from: &str| ask(port, from, &[], "/wp-admin/x").0;
    for (words, path, ..) in ATTACKS {
        assert_eq!(
            ask(port, "127.0.0.2", words, path).0,
            200,
            "the twin: {path}"
        );
    }
    assert_eq!(
        (probe("127.0.0.3"), probe("127.0.0.3")),
        (200, 200),
        "the twin"
    );
    mesh.apply("guard.yaml", GUARD);
    until("the guards stand", SOON, || {
        (ask(port, "127.0.0.2", &["-X", "PROPFIND"], "/").0 == 403).then_some(())
    });
    let before = served();
    for (words, path, status, _) in ATTACKS {
        assert_eq!(
            ask(port, "127.0.0.2", words, path).0,
            *status,
            "{words:?} {path}"
        );
    }
    assert_eq!(served(), before, "no attack arrived");
    let clean = "/?name=O'Brien&q=SELECT+a+plan&w=Tom+%26+Jerry";
    assert_eq!(ask(port, "127.0.0.2", &[], clean).0, 200);
    assert_eq!(
        ask(port, "127.0.0.2", &[], "/?q=%3Cscript%3E").0,
        200,
        "only told of"
    );
    assert_eq!(served(), before + 2);
    assert_eq!(probe("127.0.0.3"), 403);
    for _ in 0..12 {
        let got = ask(port, "127.0.0.3", &[], "/");
        assert_eq!(got.0, 403, "banned at every worker");
        assert_eq!(ask(port, "127.0.0.2", &[], "/").0, 200, "and nobody else");
    }
    until("the ban ends", SOON, || {
        (ask(port, "127.0.0.3", &[], "/").0 == 200).then_some(())
    });
    let wanted: Vec<(&str, &str)> = vec![
        ("guard-pattern", "edge/sql]-pattern[sqlInjection]"),
        ("guard-pattern", "edge/probe]-pattern[admin]"),
        ("guard-method", "edge/methods]"),
        (
            "guard-syntax",
            "edge/strict]: the query has a broken escape",
        ),
        ("peer-banned", "guard[istio-system/edge]"),
    ];
    until("the denials are in the trail", SOON, || {
        let told = reasons(&mesh);
        let stands = |(reason, rule): &(&str, &str)| {
            told.iter()
                .any(|(r, text)| r == reason && text.contains(rule))
        };
        wanted.iter().all(stands).then_some(())
    });
    faults_of_tokens(&mesh, port);
    mesh.ok(["delete", "requestguard/edge", "-n", "istio-system"]);
    until("nobody is banned without the object", SOON, || {
        (ask(port, "127.0.0.4", &[], "/").0 == 200).then_some(())
    });
    for (words, path, ..) in ATTACKS {
        assert_eq!(
            ask(port, "127.0.0.2", words, path).0,
            200,
            "the twin: {path}"
        );
    }
}

/// Two bad tokens are a ban, whatever is wrong with them; sound ones of the same address count for nothing.
fn faults_of_tokens(mesh: &Mesh, port: u16) {
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let other = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let x = URL_SAFE_NO_PAD.encode(key.der_bytes());
    let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]});
    mesh.apply("people.yaml", &format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: people, namespace: istio-system}}\nspec: {{jwtRules: [{{issuer: bank, jwks: '{jwks}'}}]}}\n"
    ));
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = since.expect("after 1970").as_secs();
    let claims = |issuer: &str, end: u64| json!({"iss": issuer, "sub": "a", "exp": end});
    let sound = signed(&key, &claims("bank", now + 3600));
    let with = |from: &str, token: &str| {
        let header = format!("authorization: Bearer {token}");
        ask(port, from, &["-H", &header], "/").0
    };
    until("tokens are read", SOON, || {
        (with("127.0.0.99", "a.b.c") == 401).then_some(())
    });
    for (from, bad) in [
        ("127.0.0.4", signed(&key, &claims("bank", now - 3600))),
        ("127.0.0.5", signed(&other, &claims("bank", now + 3600))),
        ("127.0.0.6", signed(&key, &claims("thief", now + 3600))),
    ] {
        assert_eq!(
            (with(from, &sound), with(from, &sound)),
            (200, 200),
            "{from}"
        );
        assert_eq!((with(from, &bad), with(from, &sound)), (401, 200), "{from}");
        assert_eq!(
            (with(from, &bad), with(from, &sound)),
            (401, 403),
            "{from}: banned"
        );
    }
    assert_eq!(with("127.0.0.7", &sound), 200);
}

/// Whether a TLS server showed its certificate to a client at an address that has none of its own.
fn certificate_shown(address: &str, from: &str) -> bool {
    let from = format!("{from}:0");
    let mut client = Command::new("timeout");
    client.args([
        "10", "openssl", "s_client", "-connect", address, "-bind", &from, "-tls1_3",
    ]);
    let output = client.stdin(std::process::Stdio::null()).output();
    String::from_utf8_lossy(&output.expect("openssl").stdout).contains("BEGIN CERTIFICATE")
}

/// A workload that says its data are confidential takes no call without mTLS, whatever a PeerAuthentication lets in. The
/// twin: one that says internal does.
#[test]
fn confidential_data_are_called_by_mtls_only() {
    let mesh = Mesh::up();
    let open = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: open}\nspec: {mtls: {mode: PERMISSIVE}}\n";
    mesh.apply("open.yaml", open);
    let serve = |name: &str, class: &str| {
        let (port, prog) = (free_port().to_string(), testprog());
        let prog = prog.to_str().expect("printable").to_owned();
        let label = format!("naka.dev/data-class={class}");
        let options = ["-s", name, "-p", &port, "-l", &label];
        let server = [&prog, "serve", "--port", &port, "--name", name];
        let run = mesh.run(name, &options, &server);
        mesh.wait_ready(name, Some(&port), &run);
        run
    };
    let _runs = (serve("diary", "internal"), serve("vault", "confidential"));
    let plain = |name: &str| {
        let all = mesh.workloads();
        let one = all
            .iter()
            .find(|one| one["service"] == name)
            .expect("a workload");
        let address = one["ports"][0]["inbound_address"]
            .as_str()
            .expect("an address");
        let (_, port) = address.rsplit_once(':').expect("a port");
        ask(port.parse().expect("a port"), "127.0.0.1", &[], "/")
    };
    until("the open door is in force", SOON, || {
        (plain("diary").0 == 200).then_some(())
    });
    assert_eq!(plain("vault"), (403, "mtls-required".to_owned()));
    let script = "curl -s -o /dev/null -w '%{http_code}' http://vault/";
    let mut run = mesh.run("reader", &["-s", "reader"], &["sh", "-c", script]);
    crate::traffic::finish(&mut run);
    assert_eq!(run.out(), "200");
}

/// Five failed handshakes of an address within a minute, and it gets no further one for a time; but where a verified
/// caller has the address nobody is banned. The twin: without the object the fiftieth is answered like the first.
#[test]
fn failed_handshakes_ban_an_address_and_never_that_of_a_verified_caller() {
    let mesh = Mesh::up();
    let payment = mesh.serve("payment", "v1");
    let mine = mesh
        .workloads()
        .into_iter()
        .find(|one| one["service"] == "payment");
    let ports = mine.expect("payment")["ports"].clone();
    let address = ports[0]["inbound_address"]
        .as_str()
        .expect("an address")
        .to_owned();
    for _ in 0..8 {
        assert!(certificate_shown(&address, "127.0.0.8"), "the twin");
    }
    mesh.apply("guard.yaml", "apiVersion: naka.dev/v1alpha1\nkind: RequestGuard\nmetadata: {name: hands}\nspec:\n  guards:\n  - {name: five, handshakes: failed, action: Ban, banFor: 6s}\n");
    let call = |name: &str| {
        let script = "curl -s -o /dev/null -w '%{http_code}' http://payment/";
        let mut run = mesh.run(name, &["-s", "order"], &["sh", "-c", script]);
        crate::traffic::finish(&mut run);
        run.out()
    };
    // A verified caller, whose address is then spared.
    assert_eq!(call("before"), "200");
    let shown = (0..5).filter(|_| certificate_shown(&address, "127.0.0.9"));
    assert_eq!(shown.count(), 5);
    until("the address is banned", SOON, || {
        (!certificate_shown(&address, "127.0.0.9")).then_some(())
    });
    for _ in 0..8 {
        assert!(
            certificate_shown(&address, "127.0.0.1"),
            "a verified caller has it"
        );
    }
    assert_eq!(call("meanwhile"), "200");
    until("the ban is told of", SOON, || {
        let told = reasons(&mesh);
        let banned = told.iter().any(|(reason, _)| reason == "peer-banned");
        let failed = |(reason, rule): &(String, String)| {
            reason == "peer-untrusted" && rule.contains("guard[default/hands/five]")
        };
        (banned && told.iter().any(failed)).then_some(())
    });
    until("the ban ends", SOON, || {
        certificate_shown(&address, "127.0.0.9").then_some(())
    });
    drop(payment);
}
