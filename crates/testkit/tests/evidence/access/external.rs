//! Policies with CUSTOM: an authorizer of Flask and one of Envoy's own Go messages are asked by a Naka and by an Envoy,
//! and say of each call what they say; the called programs' logs tell what came of it.

use super::told;
use crate::envoy;
use crate::newcomer::{program, venv};
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use serde_json::Value;

const HTTP: &str = "envoyExtAuthzHttp:
        service: authz.default.svc.cluster.local
        port: 80
        timeout: 2s
        pathPrefix: /check
        includeRequestHeadersInCheck: [x-ext, 'x-told-*']
        includeAdditionalHeadersInCheck: {x-mesh: naka}
        includeRequestBodyInCheck: {maxRequestBytes: 8, allowPartialMessage: true}
        headersToUpstreamOnAllow: [x-user]
        headersToDownstreamOnDeny: [x-why]
        headersToDownstreamOnAllow: [x-checked]";
const GRPC: &str = "envoyExtAuthzGrpc:
        service: authz.default.svc.cluster.local
        port: 80
        timeout: 2s
        includeRequestBodyInCheck: {maxRequestBytes: 8, packAsBytes: true}";

/// So that the service is there when nothing runs under its name.
const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: authz, namespace: default}
spec: {selector: {app: authz}, ports: [{port: 80, name: http}]}
";

/// The mesh's provider, with more of its own.
fn config(provider: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    extensionProviders:\n    - name: authz\n      {provider}{more}\n"
    )
}

/// A policy that asks about everything but one path.
fn policy(service: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: asks-{service}, namespace: default}}\nspec:\n  selector: {{matchLabels: {{app: {service}}}}}\n  action: CUSTOM\n  provider: {{name: authz}}\n  rules: [{{to: [{{operation: {{notPaths: [/open]}}}}]}}]\n"
    )
}

fn authorizer(mesh: &Mesh, command: &[&str], word: &str) -> Program {
    let (port, log) = (free_port().to_string(), mesh.log("authz"));
    let declared = format!("{port}/{word}");
    let log = log.to_str().expect("printable");
    let mut all = command.to_vec();
    all.extend([port.as_str(), log]);
    let run = mesh.run("authz", &["-s", "authz", "-p", &declared], &all);
    mesh.wait_ready("authz", None, &run);
    run
}

/// Status, body and headers of one call of `order`.
fn call(mesh: &Mesh, service: &str, words: &str) -> (String, String) {
    let script = format!("curl -s -m 20 -i {words} http://{service}/{service}-path");
    let script = match words.split_once("PATH=") {
        Some((words, path)) => format!("curl -s -m 20 -i {words} http://{service}{path}"),
        None => script,
    };
    let name = format!("calls-{service}");
    let mut run = mesh.run(&name, &["-s", "order"], &["sh", "-c", &script]);
    let before = run.out().len();
    crate::traffic::finish(&mut run);
    // The log holds what earlier runs of that name said, too.
    let answer = run.out().split_off(before.min(run.out().len()));
    let answer = match answer.rfind("HTTP/") {
        Some(at) => answer[at..].to_owned(),
        None => answer,
    };
    let status = answer.split_whitespace().nth(1).unwrap_or_default();
    (status.to_owned(), answer.to_ascii_lowercase())
}

fn becomes(mesh: &Mesh, service: &str, words: &str, status: &str) -> String {
    until(
        format_args!("{service} answers {status} to {words:?}"),
        SOON,
        || {
            let (got, answer) = call(mesh, service, words);
            (got == status).then_some(answer)
        },
    )
}

/// Headers of the last request that a program got.
fn last(mesh: &Mesh, server: &str) -> Value {
    mesh.logged(server).pop().expect("a request")
}

fn header<'a>(seen: &'a Value, name: &str) -> Option<&'a str> {
    match &seen["headers"] {
        Value::Object(all) => all.get(name)?.as_str(),
        Value::Array(all) => {
            let own = all.iter().find(|pair| pair[0] == name)?;
            own[1].as_str()
        }
        _ => None,
    }
}

/// What both kinds of authorizers do at a service.
fn decides(mesh: &Mesh, service: &str) {
    let server = format!("{service}-v1");
    let denied = becomes(mesh, service, "", "401");
    assert!(denied.contains("x-why: no x-ext"), "{denied}");
    assert!(denied.contains("refused by the authorizer"), "{denied}");
    let before = mesh.logged(&server).len();
    let (status, _) = call(mesh, service, "-H x-ext:no");
    assert_eq!(
        (status.as_str(), mesh.logged(&server).len()),
        ("401", before)
    );
    let (status, answer) = call(mesh, service, "-H x-ext:allow -H x-user:root");
    assert_eq!(status, "200", "{answer}");
    assert!(answer.contains("x-checked: yes"), "{answer}");
    let seen = last(mesh, &server);
    assert_eq!(header(&seen, "x-user"), Some("alice"), "{seen}");
    assert_eq!(header(&seen, "x-other"), None, "{seen}");
    // Nobody is asked about this one.
    let asked = mesh.logged("authz").len();
    assert_eq!(call(mesh, service, "PATH=/open").0, "200");
    assert_eq!(mesh.logged("authz").len(), asked);
    // No answer in time, and an error.
    for word in ["slow", "break"] {
        let (status, answer) = call(mesh, service, &format!("-H x-ext:{word}"));
        assert_eq!(status, "403", "{word}: {answer}");
    }
}

/// What the called proxy's log and counters say of calls that were refused, or that nobody answered for, and what
/// explain says without asking anybody.
fn is_told(mesh: &Mesh) {
    let dir = envoy::run_dir(mesh, "payment");
    let rule = "istio-ext-authz-authz-ns[default]-policy[asks-payment]-rule[0]";
    for (key, words) in [
        ("response_code_details", format!("ext_authz_denied[{rule}]")),
        ("response_code_details", format!("ext_authz_error[{rule}]")),
        ("policies", format!("unanswered {rule}")),
    ] {
        until(format_args!("a line with {words}"), SOON, || {
            let lines = told::lines(&dir);
            lines.iter().any(|line| line[key] == words).then_some(())
        });
    }
    let page = told::page(&dir, "/metrics");
    let counted = page.lines().find(|line| {
        line.starts_with("naka_policy_notices_total") && line.contains("outcome=\"unanswered\"")
    });
    assert!(counted.is_some_and(|line| line.contains(rule)), "{page}");
    let said = mesh.ok([
        "explain",
        "--from",
        "default/order",
        "--to",
        "payment",
        "GET /x",
    ]);
    assert!(
        said.contains("asks outbound|80||authz.default.svc.cluster.local"),
        "{said}"
    );
    assert!(said.contains("nobody is asked here"), "{said}");
    let open = [
        "explain",
        "--from",
        "default/order",
        "--to",
        "payment",
        "GET /open",
    ];
    let said = mesh.ok(open);
    assert!(said.contains("no CUSTOM rule matches"), "{said}");
}

/// A Flask program decides about calls to a Naka and to an Envoy: what it refuses never reaches the program, what it lets
/// pass does, changed as it says, and so do calls that nobody asks about. The twins: without the policy the same call
/// passes unasked; with `failOpen` one passes that nobody answers for; without the provider none does.
#[test]
fn an_authorizer_by_http_decides() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let _ledger = envoy::serve(&mesh, "ledger", "v1");
    let flask = [&*venv("python3"), &*program("flask_authz.py")];
    let mut authz = Some(authorizer(&mesh, &flask, "http"));
    mesh.apply("mesh.yaml", &(config(HTTP, "") + SERVICE));
    for service in ["payment", "ledger"] {
        becomes(&mesh, service, "", "200");
        mesh.apply("policy.yaml", &policy(service));
        decides(&mesh, service);
        let words = "-X POST -d 0123456789 -H x-ext:allow -H x-told-a:1 -H x-secret:2 -H authorization:basic";
        assert_eq!(call(&mesh, service, words).0, "200");
        let seen = last(&mesh, "authz");
        assert_eq!(seen["method"], "POST");
        assert_eq!(seen["path"], format!("/check/{service}-path"));
        assert_eq!(seen["host"], service);
        assert_eq!(seen["body"], "01234567", "{seen}");
        for (name, value) in [
            ("x-told-a", Some("1")),
            ("x-mesh", Some("naka")),
            ("authorization", Some("basic")),
            ("x-secret", None),
            ("x-envoy-auth-partial-body", Some("true")),
        ] {
            assert_eq!(header(&seen, name), value, "{name}: {seen}");
        }
        let server = format!("{service}-v1");
        assert_eq!(last(&mesh, &server)["body_bytes"], 10);
        // What was not told is passed on all the same.
        let long = mesh.file("long", &"x".repeat(300_000));
        for more in ["", "-H transfer-encoding:chunked"] {
            let long = long.display();
            let words = format!("{more} --data-binary @{long} -H x-ext:allow");
            let (status, answer) = call(&mesh, service, &words);
            assert_eq!(status, "200", "{more}: {answer}");
            assert_eq!(last(&mesh, "authz")["body"], "xxxxxxxx", "{more}");
            assert_eq!(last(&mesh, &server)["body_bytes"], 300_000, "{more}");
        }
    }
    let shown = mesh.ok(["describe", "authorizationpolicy", "asks-payment"]);
    assert!(!shown.contains("E334"), "{shown}");

    // The authorizer is gone.
    drop(authz.take());
    for service in ["payment", "ledger"] {
        becomes(&mesh, service, "-H x-ext:allow", "403");
    }
    mesh.apply("mesh.yaml", &config(HTTP, "\n        statusOnError: '503'"));
    for service in ["payment", "ledger"] {
        becomes(&mesh, service, "-H x-ext:allow", "503");
    }
    let told = mesh.ok(["get", "authorizationpolicies", "-n", "default"]);
    assert!(told.contains("CUSTOM"), "{told}");
    mesh.apply("mesh.yaml", &config(HTTP, "\n        failOpen: true"));
    for service in ["payment", "ledger"] {
        becomes(&mesh, service, "", "200");
    }

    is_told(&mesh);

    // The mesh has no such provider any more.
    mesh.ok(["delete", "configmap", "istio", "-n", "istio-system"]);
    for service in ["payment", "ledger"] {
        becomes(&mesh, service, "-H x-ext:allow", "403");
        assert_eq!(call(&mesh, service, "PATH=/open").0, "200");
    }
    until("the missing provider to be told", SOON, || {
        let shown = mesh.ok(["describe", "authorizationpolicy", "asks-payment"]);
        shown.contains("no provider \"authz\"").then_some(())
    });
    for service in ["payment", "ledger"] {
        mesh.ok(["delete", "authorizationpolicy", &format!("asks-{service}")]);
        becomes(&mesh, service, "", "200");
    }
}

/// The same with an authorizer of Google's gRPC and Envoy's own messages; it is told who calls, and a body that is too
/// long is refused unasked.
#[test]
fn an_authorizer_by_grpc_decides() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let _ledger = envoy::serve(&mesh, "ledger", "v1");
    let _authz = authorizer(&mesh, &[&venv("authz-go")], "grpc");
    mesh.apply("mesh.yaml", &config(GRPC, ""));
    for service in ["payment", "ledger"] {
        becomes(&mesh, service, "", "200");
        mesh.apply("policy.yaml", &policy(service));
        decides(&mesh, service);
        let words = "-X POST -d 01234567 -H x-ext:allow -H x-two:a -H x-two:b -H x-secret:2";
        assert_eq!(call(&mesh, service, words).0, "200");
        let server = format!("{service}-v1");
        let got = last(&mesh, &server);
        assert_eq!(header(&got, "x-secret"), None, "{got}");
        assert_eq!(got["body_bytes"], 8);
        let seen = last(&mesh, "authz");
        assert_eq!(seen["method"], "POST");
        assert_eq!(seen["path"], format!("/{service}-path"));
        assert_eq!(seen["host"], service);
        assert_eq!(seen["raw"], "01234567");
        assert_eq!(seen["source"], envoy::ORDER);
        let own = format!("spiffe://cluster.local/ns/default/sa/{service}");
        assert_eq!(seen["destination"], own);
        assert_eq!(header(&seen, "x-two"), Some("a,b"), "{seen}");
        let (asked, got) = (mesh.logged("authz").len(), mesh.logged(&server).len());
        let (status, _) = call(&mesh, service, "-X POST -d 0123456789 -H x-ext:allow");
        assert_eq!(status, "413");
        let after = (mesh.logged("authz").len(), mesh.logged(&server).len());
        assert_eq!(after, (asked, got), "neither was asked or called");
        mesh.ok(["delete", "authorizationpolicy", &format!("asks-{service}")]);
        becomes(&mesh, service, "", "200");
    }
}

/// A policy that holds for its own provider too asks nobody without end: what it would be asked about its own questions
/// is refused, whatever name it is called by. The twin: a policy that leaves the provider out lets the call pass.
#[test]
fn a_policy_that_holds_for_its_own_provider_ends() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let flask = [&*venv("python3"), &*program("flask_authz.py")];
    let _authz = authorizer(&mesh, &flask, "http");
    let alias = "---\napiVersion: v1\nkind: Service\nmetadata: {name: alias, namespace: default, annotations: {naka.dev/service-accounts: authz}}\nspec: {selector: {app: authz}, ports: [{port: 80, name: http}]}\n";
    let everywhere = policy("payment").replace("  selector: {matchLabels: {app: payment}}\n", "");
    for name in ["authz", "alias"] {
        let host = format!("{name}.default.svc.cluster.local");
        let config = config(HTTP, "").replace("authz.default.svc.cluster.local", &host);
        mesh.apply("mesh.yaml", &(config + SERVICE + alias));
        mesh.apply("policy.yaml", &policy("payment"));
        becomes(&mesh, "payment", "-H x-ext:allow", "200");
        let asked = mesh.logged("authz").len();
        mesh.apply("policy.yaml", &everywhere);
        becomes(&mesh, "payment", "-H x-ext:allow", "403");
        for _ in 0..3 {
            assert_eq!(call(&mesh, "payment", "-H x-ext:allow").0, "403", "{name}");
        }
        // Those that came before the policy did.
        let more = mesh.logged("authz").len() - asked;
        assert!(more < 3, "{name}: {more}");
        mesh.apply("policy.yaml", &policy("payment"));
        becomes(&mesh, "payment", "-H x-ext:allow", "200");
    }
}
