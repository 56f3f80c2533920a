//! Break-glass, the first mode: what it takes to open, what it opens, and that it ends by itself, as the callers saw it.

use crate::access::seeds::by_token;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::Program;
use naka_testkit::wait::until;
use serde_json::Value;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The seeds' emergency rule, shut; break-glass opens it.
const OBJECTS: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: emergency, namespace: default}
spec:
  selector: {matchLabels: {app: payment}}
  action: ALLOW
---
apiVersion: naka.dev/v1alpha1
kind: Mode
metadata: {name: break-glass, namespace: default}
spec:
  owner: security@bank.example
  description: incident response may call payment
  maxTime: 1h
  incident: INC-*
  approvals: 2
  patches:
  - target: {kind: AuthorizationPolicy, name: emergency}
    merge:
      spec:
        rules:
        - from: [{source: {principals: [cluster.local/ns/default/sa/incident-response]}}]
          to: [{operation: {paths: ['/api/v1/emergency/*']}}]
          when:
          - {key: 'source.labels[emergency-authorization]', values: [active]}
          - {key: 'request.headers[incident-id]', values: ['INC-*']}
          - {key: 'request.headers[authorizer-level]', values: [director, ciso]}
";

/// Calls all the time, as somebody with these granted labels and the headers of the rule; one status a line.
fn calling(mesh: &Mesh, name: &str, account: &str, granted: &[&str]) -> Program {
    let script = "while :; do curl -s -m 5 -o /dev/null -H incident-id:INC-4711 -H authorizer-level:ciso -w '%{http_code}\\n' http://payment/api/v1/emergency/stop; sleep 0.02; done";
    let who = ("default", account, granted);
    by_token(mesh, name, who, &[], &["sh", "-c", script]).1
}

fn last(program: &Program) -> String {
    let out = program.out();
    out.lines().last().unwrap_or_default().to_owned()
}

fn until_last(program: &Program, wanted: &str) {
    until(format_args!("{wanted}: {}", program.said()), SOON, || {
        (last(program) == wanted).then_some(())
    });
}

/// A person with an API token of their own, as a context of that name.
fn person(mesh: &Mesh, name: &str, role: &str) {
    let token = mesh.ok(["token", "create", "--kind", "api", "--role", role]);
    mesh.ok(["join", token.trim(), "--name", name]);
    mesh.ok(["context", "local"]);
}

fn by(mesh: &Mesh, who: &str, words: &[&str]) -> Output {
    let mut all = vec!["--context", who, "mode"];
    all.extend(words);
    mesh.naka(all)
}

#[track_caller]
fn done(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{out}\n{err}");
    out
}

#[track_caller]
fn refused(output: &Output, why: &str) {
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && err.contains(why),
        "{why}: {err}"
    );
}

const ON: &[&str] = &["on", "break-glass", "--why", "payments are stuck"];
const WITH_INCIDENT: &[&str] = &[
    "on",
    "break-glass",
    "--why",
    "payments are stuck",
    "--incident",
    "INC-4711",
];

fn state(mesh: &Mesh) -> String {
    let said: Value = serde_json::from_str(&mesh.ok(["mode", "list", "-o", "json"])).expect("JSON");
    said["items"][0]["state"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Who asks for it needs an incident, and somebody else who approves; then the rule is open for whom it names and for
/// nobody else, until it is switched off. The twin: before and afterwards the same caller is refused.
#[test]
fn break_glass_takes_an_incident_and_two_people() {
    let mesh = Mesh::up();
    let _server = mesh.serve("payment", "v1");
    mesh.apply("objects.yaml", OBJECTS);
    for (name, role) in [
        ("asha", "operator"),
        ("ravi", "operator"),
        ("guest", "viewer"),
    ] {
        person(&mesh, name, role);
    }
    let active = &["emergency-authorization=active"];
    let responder = calling(&mesh, "responder", "incident-response", active);
    let off_duty = calling(&mesh, "off-duty", "incident-response", &[]);
    until_last(&responder, "403");
    until_last(&off_duty, "403");

    refused(&by(&mesh, "asha", ON), "INC-*");
    let other = ["on", "break-glass", "--why", "x", "--incident", "TICKET-1"];
    refused(&by(&mesh, "asha", &other), "no incident");
    refused(&by(&mesh, "guest", WITH_INCIDENT), "viewer");
    let mut long = WITH_INCIDENT.to_vec();
    long.extend(["--for", "2h"]);
    refused(&by(&mesh, "asha", &long), "at most 1h");
    assert_eq!(state(&mesh), "off");

    let said = done(&by(&mesh, "asha", WITH_INCIDENT));
    assert!(said.contains("1 more must approve"), "{said}");
    assert_eq!(state(&mesh), "waiting");
    refused(
        &by(&mesh, "asha", &["approve", "break-glass"]),
        "somebody else",
    );
    refused(&by(&mesh, "guest", &["approve", "break-glass"]), "viewer");
    assert_eq!(
        (last(&responder).as_str(), state(&mesh).as_str()),
        ("403", "waiting")
    );
    let said = done(&by(&mesh, "ravi", &["approve", "break-glass"]));
    assert!(said.contains("is on until"), "{said}");
    until_last(&responder, "200");
    until_last(&off_duty, "403");

    let status = mesh.ok(["status"]);
    assert!(
        status.contains("W975") && status.contains("INC-4711"),
        "{status}"
    );
    let stored = mesh.ok(["get", "AuthorizationPolicy/emergency", "-o", "json"]);
    assert!(
        !stored.contains("incident-response"),
        "what is stored stays: {stored}"
    );
    let said = done(&by(
        &mesh,
        "asha",
        &["off", "break-glass", "--why", "mended"],
    ));
    assert!(said.contains("is off"), "{said}");
    until_last(&responder, "403");
    assert!(!mesh.ok(["status"]).contains("W975"));
    let events = mesh.ok(["get", "events", "-o", "json"]);
    for wanted in [
        "mode.request",
        "mode.on",
        "mode.off",
        "INC-4711: payments are stuck",
    ] {
        assert!(events.contains(wanted), "{wanted}: {events}");
    }
}

/// A token that somebody made is not another person than who made it: the owner cannot approve by one of their own.
#[test]
fn who_makes_a_token_is_not_two_people() {
    let mesh = Mesh::up();
    mesh.apply("objects.yaml", OBJECTS);
    person(&mesh, "asha", "operator");
    let mut words = vec!["mode"];
    words.extend(WITH_INCIDENT);
    mesh.ok(words);
    refused(
        &by(&mesh, "asha", &["approve", "break-glass"]),
        "one person",
    );
    mesh.ok(["mode", "off", "break-glass"]);
    // The twin: two tokens that neither made.
    person(&mesh, "ravi", "operator");
    done(&by(&mesh, "asha", WITH_INCIDENT));
    done(&by(&mesh, "ravi", &["approve", "break-glass"]));
    assert_eq!(state(&mesh), "on");
    // What was approved is what was written then.
    mesh.apply(
        "objects.yaml",
        &OBJECTS.replace("director, ciso", "director, ciso, anybody"),
    );
    until("a changed mode is off", SOON, || {
        (state(&mesh) == "off").then_some(())
    });
}

/// It ends by itself after its time, also when the control plane is killed meanwhile. The twin is the time before.
#[test]
fn break_glass_ends_by_itself_across_a_restart() {
    let mut mesh = Mesh::up();
    let _server = mesh.serve("payment", "v1");
    mesh.apply("objects.yaml", OBJECTS);
    person(&mesh, "asha", "operator");
    person(&mesh, "ravi", "operator");
    let active = &["emergency-authorization=active"];
    let responder = calling(&mesh, "responder", "incident-response", active);
    until_last(&responder, "403");
    let mut short = WITH_INCIDENT.to_vec();
    short.extend(["--for", "3s"]);
    for restart in [false, true] {
        done(&by(&mesh, "asha", &short));
        let began = Instant::now();
        done(&by(&mesh, "ravi", &["approve", "break-glass"]));
        until_last(&responder, "200");
        if restart {
            mesh.kill_control();
            mesh.start_control();
        }
        until_last(&responder, "403");
        let lasted = began.elapsed();
        assert!(lasted >= Duration::from_millis(2_900), "{lasted:?}");
        println!(
            "restart {restart}: shut {} ms after it was opened for 3000",
            lasted.as_millis()
        );
        until("its end in the log", SOON, || {
            (state(&mesh) == "off"
                && mesh
                    .ok(["get", "events", "-o", "json"])
                    .contains("its time is over"))
            .then_some(())
        });
    }
}

/// Workloads that an emergency lets plain callers into, for a time.
const BYPASS: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: critical, namespace: default, annotations: {naka.dev/close-denied: 'true'}}
spec: {selector: {matchLabels: {app: payment}}, mtls: {mode: STRICT}}
---
apiVersion: naka.dev/v1alpha1
kind: Mode
metadata: {name: mtls-bypass, namespace: default}
spec:
  owner: security@bank.example
  description: plain callers may call payment while certificates are replaced
  maxTime: 15m
  incident: INC-*
  approvals: 2
  patches:
  - target: {kind: PeerAuthentication, name: critical}
    merge: {spec: {mtls: {mode: PERMISSIVE}}}
";

/// The emergency protocol's bypass: plain callers get into the named workload and no other, for minutes, with an incident
/// and two people, told loudly; it ends by itself, and so does what came in by it. The twins: before and afterwards the
/// same call is refused, and meanwhile it is refused at a workload that the mode does not name.
#[test]
fn plain_callers_get_into_a_critical_workload_for_minutes() {
    let mesh = Mesh::up();
    let _servers = [mesh.serve("payment", "v1"), mesh.serve("ledger", "v1")];
    let address = |service: &str| {
        let all = mesh.workloads();
        let own = all.iter().find(|one| one["service"] == service);
        let address = own.and_then(|one| one["ports"][0]["inbound_address"].as_str());
        address.expect("an address").to_owned()
    };
    let (payment, ledger) = (address("payment"), address("ledger"));
    let curl = |address: &str, path: &str| {
        let url = format!("http://{address}{path}");
        let call = ["-s", "-m", "30", "-o", "/dev/null", "-w", "%{http_code}"];
        let mut curl = Command::new("curl");
        let started = curl.args(call).arg(url).stdout(Stdio::piped()).spawn();
        started.expect("curl")
    };
    let status = |call: Child| {
        let out = call.wait_with_output().expect("it ends");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let plain = |address: &str| status(curl(address, "/plain"));
    mesh.apply("bypass.yaml", BYPASS);
    for name in ["asha", "ravi"] {
        person(&mesh, name, "operator");
    }
    assert_eq!((plain(&payment), plain(&ledger)), both("403", "403"));
    let on = [
        "on",
        "mtls-bypass",
        "--why",
        "certificates are being replaced",
    ];
    refused(&by(&mesh, "asha", &on), "INC-*");
    let long = [&on[..], &["--incident", "INC-13", "--for", "1h"]].concat();
    refused(&by(&mesh, "asha", &long), "at most 15m");
    let asked = [&on[..], &["--incident", "INC-13", "--for", "4s"]].concat();
    done(&by(&mesh, "asha", &asked));
    assert_eq!(plain(&payment), "403", "one is not enough");
    let began = Instant::now();
    done(&by(&mesh, "ravi", &["approve", "mtls-bypass"]));
    until("plain callers at payment", SOON, || {
        (plain(&payment) == "200").then_some(())
    });
    assert_eq!(plain(&ledger), "403", "nobody named it");
    let under_way = curl(&payment, "/slow/60000");
    let told = mesh.ok(["status"]);
    assert!(told.contains("W975") && told.contains("INC-13"), "{told}");
    until("its end", SOON, || (plain(&payment) == "403").then_some(()));
    let lasted = began.elapsed();
    assert!(lasted >= Duration::from_millis(3_900), "{lasted:?}");
    assert_eq!(status(under_way), "403", "what came in by it ends with it");
    let calls = mesh.logged("payment-v1");
    let came = calls.iter().any(|line| line["path"] == "/plain");
    let elsewhere = mesh.logged("ledger-v1").is_empty();
    assert!(came && elsewhere, "{calls:?}");
    let events = mesh.ok(["get", "events", "-o", "json"]);
    for wanted in [
        "mode.request",
        "mode.on",
        "mode.end",
        "INC-13: certificates",
    ] {
        assert!(events.contains(wanted), "{wanted}: {events}");
    }
}

fn both(one: &str, other: &str) -> (String, String) {
    (one.to_owned(), other.to_owned())
}
