//! TrustModel: clearance, zone, hours, approvals, network and session, at a Naka sidecar and at an Envoy, with the texts
//! that callers read, as the called programs saw it.

use crate::access::seeds::by_token;
use crate::envoy;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use naka_testkit::mesh::{Mesh, SOON, testprog};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData, SigningKey};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

const CLOSED: &str = "hours: [{days: [DAY], from: '00:00', to: '24:00'}]";

/// `DAY` is a day three days away from today, in every time zone.
const MODEL: &str = "apiVersion: naka.dev/v1alpha1
kind: TrustModel
metadata: {name: bank, namespace: istio-system}
spec:
  selector: {matchLabels: {ledger: 'yes'}}
  crossings:
  - {from: INTERNAL_ZONE, to: DATA_ZONE}
  - {from: EXTERNAL_ZONE, to: DATA_ZONE, operations: [read]}
  operations:
  - {name: read, paths: [/read*], clearance: internal}
  - {name: change, methods: [POST], paths: ['/change/*/value'], clearance: sensitive}
  - {name: elsewhere, hosts: [somebody-else], paths: ['*'], clearance: top_secret}
  - {name: open, paths: [/open], hours: [{days: [DAY], from: '00:00', to: '24:00'}, {days: [Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday], from: '00:00', to: '24:00', timeZone: Asia/Kolkata}]}
  - {name: closed, paths: [/closed], CLOSED}
  - {name: here, paths: [/here], networks: [127.0.0.0/8, '::1']}
  - {name: there, paths: [/there], networks: [10.255.0.0/16]}
  - {name: pay, paths: [/pay], clearance: critical}
  demands:
  - {from: critical, dualAuthorization: true, auditTrail: comprehensive, sessionTimeout: 15m}
";

/// Callers and what their tokens grant.
const CALLERS: &[(&str, &[&str])] = &[
    ("nobody", &[]),
    ("front", &["security-clearance=sensitive", "trust-zone=DMZ"]),
    (
        "clerk",
        &["security-clearance=internal", "trust-zone=INTERNAL_ZONE"],
    ),
    (
        "officer",
        &["security-clearance=critical", "trust-zone=INTERNAL_ZONE"],
    ),
    (
        "partner",
        &["security-clearance=critical", "trust-zone=EXTERNAL_ZONE"],
    ),
    (
        "inside",
        &["security-clearance=emperor", "trust-zone=DATA_ZONE"],
    ),
];

/// Reason and text of a refusal.
type Told = (&'static str, &'static str);

/// Caller, words of curl, and what it is told; none: it passes.
const ROWS: &[(&str, &str, Option<Told>)] = &[
    (
        "nobody",
        "HOST/read",
        Some(("trust-clearance", "Insufficient clearance: has 0, needs 1")),
    ),
    (
        "nobody",
        "HOST/other",
        Some((
            "trust-zone",
            "Cross-zone access not allowed: none -> DATA_ZONE",
        )),
    ),
    (
        "nobody",
        "-H trust-zone:DATA_ZONE -H security-clearance:top_secret HOST/read",
        Some(("trust-clearance", "Insufficient clearance: has 0, needs 1")),
    ),
    (
        "front",
        "HOST/read",
        Some((
            "trust-zone",
            "Cross-zone access not allowed: DMZ -> DATA_ZONE",
        )),
    ),
    (
        "front",
        "HOST/pay",
        Some(("trust-clearance", "Insufficient clearance: has 2, needs 3")),
    ),
    ("clerk", "HOST/read", None),
    ("clerk", "HOST/read/1", None),
    ("clerk", "HOST/other", None),
    ("clerk", "HOST/change/1/value", None),
    ("clerk", "-X POST HOST/change/1/2/value", None),
    (
        "clerk",
        "-X POST HOST/change/1/value",
        Some(("trust-clearance", "Insufficient clearance: has 1, needs 2")),
    ),
    (
        "clerk",
        "--path-as-is -X POST HOST/x/../change/1/value",
        Some(("trust-clearance", "Insufficient clearance: has 1, needs 2")),
    ),
    ("officer", "-X POST HOST/change/1/value", None),
    ("officer", "HOST/open", None),
    (
        "officer",
        "HOST/closed",
        Some((
            "trust-hours",
            "Outside allowed hours: 00:00-24:00 DAY (UTC)",
        )),
    ),
    ("officer", "HOST/here", None),
    (
        "officer",
        "HOST/there",
        Some(("trust-location", "Location not allowed: 127.0.0.1")),
    ),
    (
        "officer",
        "HOST/pay",
        Some((
            "trust-approval",
            "Dual authorization required: has 0, needs 2",
        )),
    ),
    (
        "officer",
        "-H 'authorization: Bearer ALONE' HOST/pay",
        Some((
            "trust-approval",
            "Dual authorization required: has 1, needs 2",
        )),
    ),
    (
        "officer",
        "-H 'authorization: Bearer TIMELESS' HOST/pay",
        Some((
            "trust-session",
            "Session not known, at most 900s are allowed",
        )),
    ),
    ("officer", "-H 'authorization: Bearer FRESH' HOST/pay", None),
    (
        "clerk",
        "-H 'authorization: Bearer FRESH' HOST/pay",
        Some(("trust-clearance", "Insufficient clearance: has 1, needs 3")),
    ),
    ("partner", "HOST/read", None),
    (
        "partner",
        "HOST/other",
        Some((
            "trust-zone",
            "Cross-zone access not allowed: EXTERNAL_ZONE -> DATA_ZONE",
        )),
    ),
    ("inside", "HOST/other", None),
    (
        "inside",
        "HOST/read",
        Some(("trust-clearance", "Insufficient clearance: has 0, needs 1")),
    ),
];

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

/// A day that is not today, nor next to it.
fn other_day() -> &'static str {
    let days = [
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "Monday",
        "Tuesday",
        "Wednesday",
    ];
    days[usize::try_from((now() / 86_400 + 3) % 7).expect("a day")]
}

fn model() -> String {
    MODEL.replace("CLOSED", CLOSED).replace("DAY", other_day())
}

pub(crate) fn signed(key: &KeyPair, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!(
        "{}.{}",
        part(&json!({"alg": "EdDSA", "kid": "k"})),
        part(claims)
    );
    let signature = key.sign(text.as_bytes()).expect("a signature");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The issuer's object and tokens by the words of the rows.
pub(crate) fn issuer() -> (String, Vec<(&'static str, String)>) {
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let x = URL_SAFE_NO_PAD.encode(key.der_bytes());
    let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]});
    let object = format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: people, namespace: default}}\nspec: {{jwtRules: [{{issuer: bank, jwks: '{jwks}'}}]}}\n"
    );
    let both = ["asha", "ravi"];
    let own = ["asha", "meera", "asha"];
    let sound = json!({"iss": "bank", "sub": "meera", "exp": now() + 3600});
    let with = |more: Value| {
        let mut claims = sound.clone();
        for (name, value) in more.as_object().expect("claims") {
            claims[name] = value.clone();
        }
        signed(&key, &claims)
    };
    let tokens = vec![
        (
            "FRESH",
            with(json!({"approved_by": both, "auth_time": now()})),
        ),
        (
            "ALONE",
            with(json!({"approved_by": own, "auth_time": now()})),
        ),
        ("TIMELESS", with(json!({"approved_by": both}))),
    ];
    (object, tokens)
}

fn serve(mesh: &Mesh, service: &str, proxy: &str) -> Program {
    let port = free_port().to_string();
    let (prog, log) = (testprog(), mesh.log(service));
    let options = [
        "--proxy",
        proxy,
        "-s",
        service,
        "-p",
        &port,
        "-l",
        "ledger=yes",
        "-l",
        "trust-zone=DATA_ZONE",
    ];
    let server = [
        prog.to_str().expect("printable"),
        "serve",
        "--port",
        &port,
        "--name",
        service,
        "--version",
        "v1",
        "--log",
        log.to_str().expect("printable"),
    ];
    let program = envoy::run(mesh, service, &options, &server);
    mesh.wait_ready(service, Some(&port), &program);
    program
}

/// What a row got: status, reason, text.
type Got = (u16, String, String);

/// Answers of all rows, asked by one program for each caller.
fn answers(mesh: &Mesh, turn: &str, service: &str, tokens: &[(&str, String)]) -> Vec<Got> {
    let mut all = vec![Got::default(); ROWS.len()];
    for (caller, granted) in CALLERS {
        let rows = ROWS.iter().enumerate().filter(|(_, row)| row.0 == *caller);
        let calls = rows.map(|(index, (_, words, _))| {
            let mut words = words.replace("HOST", &format!("http://{service}"));
            for (name, token) in tokens {
                words = words.replace(&format!("Bearer {name}"), &format!("Bearer {token}"));
            }
            format!(
                "text=$(curl -s -m 20 -H x-row:{index} -w '|%{{http_code}}|%header{{x-naka-reason}}' {words} | tr '\\n' ' '); echo \"{index}|$text\""
            )
        });
        let script = calls.collect::<Vec<_>>().join("\n");
        let name = format!("{caller}-{turn}");
        let who = ("default", *caller, *granted);
        let (_, mut run) = by_token(mesh, &name, who, &[], &["sh", "-c", &script]);
        crate::traffic::finish(&mut run);
        for line in run.out().lines() {
            let (index, rest) = line.split_once('|').expect("a row");
            let mut parts = rest.rsplitn(3, '|');
            let mut part = || parts.next().unwrap_or_default().trim().to_owned();
            let (reason, status, text) = (part(), part(), part());
            let row: usize = index.parse().expect("a row");
            all[row] = (status.parse().unwrap_or(0), reason, text);
        }
    }
    all
}

fn arrived(mesh: &Mesh, service: &str, seen: usize) -> Vec<usize> {
    let logged = mesh.logged(service).split_off(seen);
    let rows = logged.iter().filter_map(|line| {
        let headers = line["headers"].as_array()?;
        let own = headers.iter().find(|pair| pair[0] == "x-row")?;
        own[1].as_str()?.parse().ok()
    });
    let mut rows: Vec<usize> = rows.collect();
    rows.sort_unstable();
    rows
}

/// Every row gets what the model says, with the texts of the contract, and what is refused never reaches the program. The
/// twin: without the model every row does.
#[test]
fn each_call_gets_what_the_model_says_of_it() {
    let mesh = Mesh::up();
    let _ledger = serve(&mesh, "ledger", "naka");
    let (issuer, tokens) = issuer();
    mesh.apply("people.yaml", &issuer);
    let open = answers(&mesh, "open", "ledger", &tokens);
    for (row, got) in ROWS.iter().zip(&open) {
        assert_eq!(got.0, 200, "the twin: {row:?}: {got:?}");
    }
    let all: Vec<usize> = (0..ROWS.len()).collect();
    assert_eq!(arrived(&mesh, "ledger", 0), all, "the twin");
    mesh.apply("bank.yaml", &model());
    let seen = mesh.logged("ledger").len();
    let held = answers(&mesh, "held", "ledger", &tokens);
    let mut passed = Vec::new();
    for (index, ((_, _, wanted), got)) in ROWS.iter().zip(&held).enumerate() {
        let row = ROWS[index];
        match wanted {
            None => {
                assert_eq!(got.0, 200, "{row:?}: {got:?}");
                passed.push(index);
            }
            Some((reason, text)) => {
                let text = text.replace("DAY", other_day());
                let said = format!("naka: {reason}: {text}");
                let wanted = (403, (*reason).to_owned(), said);
                assert_eq!(*got, wanted, "{row:?}");
            }
        }
    }
    assert_eq!(arrived(&mesh, "ledger", seen), passed);
    println!(
        "{} calls as the model says, and all of them without it",
        ROWS.len()
    );
    let log = access_log(&mesh, "ledger");
    for wanted in [
        "trust_denied[istio-system/bank: Insufficient clearance: has 1, needs 2]",
        "trust_denied[istio-system/bank: Cross-zone access not allowed: DMZ -> DATA_ZONE]",
        "audited trust[istio-system/bank]-operation[pay]",
    ] {
        assert!(log.contains(wanted), "{wanted}\n{log}");
    }
}

/// The access log of a service's sidecar.
fn access_log(mesh: &Mesh, service: &str) -> String {
    let runs = std::fs::read_dir(mesh.home().join("run")).expect("runs");
    let own = runs.flatten().find(|dir| {
        let name = dir.file_name();
        name.to_string_lossy().contains(service)
    });
    let own = own.expect("its directory").path();
    std::fs::read_to_string(own.join("access.log")).unwrap_or_default()
}

/// What was said of a call that was not made: every output field, from the same decision.
#[test]
fn a_decision_is_explained_with_all_of_its_fields() {
    let mesh = Mesh::up();
    let file = mesh.file("bank.yaml", &model());
    let file = file.to_str().expect("printable");
    let service = mesh.file(
        "service.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: ledger, namespace: default}\nspec: {selector: {app: ledger, ledger: 'yes', trust-zone: DATA_ZONE}, ports: [{port: 80, name: http}]}\n---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: ledger, namespace: default}\nspec: {address: 192.0.2.1, labels: {app: ledger, ledger: 'yes', trust-zone: DATA_ZONE}, ports: {http: 8080}}\n---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: istio-system}\nspec: {mtls: {mode: STRICT}}\n",
    );
    let service = service.to_str().expect("printable");
    let ask = |labels: &[&str], call: &str| -> Value {
        let mut words = vec![
            "explain",
            "--from",
            "default/clerk",
            "--to",
            "ledger",
            "-o",
            "json",
        ];
        words.extend(labels.iter().flat_map(|label| ["-l", label]));
        words.extend(["-f", file, "-f", service, call]);
        serde_json::from_str(&mesh.ok(words)).expect("JSON")
    };
    let clerk = ["security-clearance=internal", "trust-zone=INTERNAL_ZONE"];
    let front = ["security-clearance=critical", "trust-zone=DMZ"];
    for (labels, call, decision, reason) in [
        (clerk, "GET /read", "ALLOW", Value::Null),
        (
            clerk,
            "GET /pay",
            "DENY",
            json!("Insufficient clearance: has 1, needs 3"),
        ),
        (
            front,
            "GET /pay",
            "DENY",
            json!("Cross-zone access not allowed: DMZ -> DATA_ZONE"),
        ),
    ] {
        let said = ask(&labels, call);
        let trust = &said["trust"][0];
        assert_eq!(trust["access_decision"], decision, "{said:#}");
        assert_eq!(trust["reason"], reason, "{said:#}");
        for field in [
            "source_identity_required",
            "mutual_tls_required",
            "operation_logging",
        ] {
            assert_eq!(trust[field], true, "{field}: {said:#}");
        }
        assert_eq!(trust["rate_limiting"], false);
        let more = &trust["additional_requirements"];
        let critical = call == "GET /pay";
        assert_eq!(more["dual_authorization"], critical, "{said:#}");
        let trail = if critical { "comprehensive" } else { "denials" };
        assert_eq!(more["audit_trail"], trail);
        assert_eq!(more["session_timeout"].as_str(), critical.then_some("900s"));
    }
}

/// An Envoy knows no labels of its callers, so it refuses what takes a zone; `naka status` says so. The twin: without
/// the model it passes every call.
#[test]
fn an_envoy_lets_nobody_in_whose_zone_it_cannot_know() {
    let mesh = Mesh::up();
    let _ledger = serve(&mesh, "ledger", "envoy");
    let call = |wanted: &str| {
        until(format_args!("{wanted} of the envoy"), SOON, || {
            let curl = [
                "curl",
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "http://ledger/other",
            ];
            let labels = [
                "-s",
                "clerk",
                "-l",
                "trust-zone=DATA_ZONE",
                "-l",
                "security-clearance=top_secret",
            ];
            let mut run = mesh.run("clerk", &labels, &curl);
            crate::traffic::finish(&mut run);
            run.out().ends_with(wanted).then_some(())
        });
    };
    call("200");
    mesh.apply("bank.yaml", &model());
    call("403");
    let said = mesh.ok(["status", "TrustModel/bank", "-n", "istio-system"]);
    assert!(said.contains("knows no labels"), "{said}");
}
