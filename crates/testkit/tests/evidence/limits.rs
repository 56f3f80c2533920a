//! Rate limits and expressions, counted by the called programs.

use crate::traffic::finish;
use naka_testkit::mesh::{Mesh, SOON, testprog};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A VirtualService whose routes with conditions lead to v2, its last one to v1.
fn narrowed(conditions: &[(&str, &str)]) -> String {
    let notes: String = conditions
        .iter()
        .map(|(name, cel)| format!("    naka.dev/match.{name}: \"{cel}\"\n"))
        .collect();
    let routes: String = conditions
        .iter()
        .map(|(name, _)| {
            format!(
                "  - name: {name}\n    route: [{{destination: {{host: payment, subset: v2}}}}]\n"
            )
        })
        .collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: payment}}\nspec:\n  host: payment\n  subsets:\n  - {{name: v1, labels: {{version: v1}}}}\n  - {{name: v2, labels: {{version: v2}}}}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: payment\n  annotations:\n{notes}spec:\n  hosts: [payment]\n  http:\n{routes}  - route: [{{destination: {{host: payment, subset: v1}}}}]\n"
    )
}

fn limit(targets: &str, rule: &str) -> String {
    format!(
        "apiVersion: naka.dev/v1alpha1\nkind: LocalRateLimit\nmetadata: {{name: payment}}\nspec:\n  targetRefs: [{targets}]\n  rules:\n  - {{name: all, {rule}}}\n"
    )
}

pub(crate) const EDGE: &str = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  selector: {istio: ingressgateway}\n  servers:\n  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [\"*\"]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: edge}\nspec:\n  hosts: [\"*\"]\n  gateways: [edge]\n  http:\n  - name: ready\n    match: [{uri: {exact: /ready}}]\n    directResponse: {status: 200}\n  - name: pay\n    route: [{destination: {host: payment}}]\n";

/// Statuses a load got.
fn statuses(mesh: &Mesh, load: &str) -> BTreeMap<u64, usize> {
    let mut all = BTreeMap::new();
    for line in mesh.logged(load) {
        *all.entry(line["status"].as_u64().unwrap_or(0)).or_default() += 1;
    }
    all
}

/// Versions of `payment` that served requests, as they say themselves.
fn served(mesh: &Mesh, version: &str) -> usize {
    mesh.logged(&format!("payment-{version}")).len()
}

/// The status of a call from outside.
fn code(url: &str) -> String {
    let curl = [
        "-s",
        "-m",
        "2",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        url,
    ];
    let output = Command::new("curl").args(curl).output().expect("curl");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Many connections over two workers of a gateway: exactly the burst reaches the program. The twin: without the object
/// every request does.
#[test]
fn a_limit_is_exact_over_the_workers_of_a_gateway() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let port = free_port();
    let bind = format!("80=127.0.0.1:{port}");
    let mut command = mesh.command(["proxy", "gateway", "--workers", "2", "--port", &bind]);
    let _edge = Program::start("edge", mesh.home(), &mut command).expect("a gateway");
    mesh.apply("edge.yaml", EDGE);
    let url = format!("http://127.0.0.1:{port}/ready");
    until("the gateway takes requests", SOON, || {
        let curl = Command::new("curl").args(["-sf", "-m", "2", &url]).status();
        curl.ok().filter(std::process::ExitStatus::success)
    });
    let target = "{kind: VirtualService, name: edge, sectionName: pay}";
    mesh.apply(
        "limit.yaml",
        &limit(target, "requests: 1, per: 1h, burst: 150"),
    );
    let load = |name: &str| {
        let (log, url) = (mesh.log(name), format!("http://127.0.0.1:{port}/pay"));
        let status = Command::new(testprog())
            .args([
                "load",
                "--url",
                &url,
                "--rate",
                "2000",
                "--connections",
                "8",
                "--count",
                "600",
                "--log",
            ])
            .arg(log)
            .status();
        assert!(status.expect("a load").success());
        statuses(&mesh, name)
    };
    let got = load("limited");
    println!(
        "limit: burst 150, {} of 600 served, answers {got:?}",
        served(&mesh, "v1")
    );
    assert_eq!(served(&mesh, "v1"), 150);
    assert_eq!(got, BTreeMap::from([(200, 150), (429, 450)]));
    // The section is one route, and no other one is limited; without a section all of them are.
    let ready = format!("http://127.0.0.1:{port}/ready");
    assert_eq!(code(&ready), "200");
    let whole = "{kind: VirtualService, name: edge}";
    mesh.apply(
        "limit.yaml",
        &limit(whole, "requests: 1, per: 1h, burst: 1"),
    );
    until("the other route is limited, too", SOON, || {
        (code(&ready) == "429").then_some(())
    });
    mesh.ok(["delete", "localratelimit/payment"]);
    let url = format!("http://127.0.0.1:{port}/pay");
    until("the limit is gone", SOON, || {
        let curl = Command::new("curl").args(["-sf", "-m", "2", &url]).output();
        curl.ok().filter(|output| output.status.success())
    });
    let before = served(&mesh, "v1");
    assert_eq!(load("free"), BTreeMap::from([(200, 600)]), "the twin");
    assert_eq!(served(&mesh, "v1"), before + 600);
}

/// A workload takes so many requests of each caller, by who they are. The twin: in a dry run nobody is refused.
#[test]
fn a_workload_gives_each_caller_its_own_share() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let rule = "requests: 1, per: 1h, burst: 40, keys: [source.principal]";
    mesh.apply("limit.yaml", &limit("{kind: Service, name: payment}", rule));
    let load = |name: &str, who: &str| {
        let arguments = [
            "--url",
            "http://payment/",
            "--rate",
            "400",
            "--connections",
            "4",
            "--count",
            "100",
        ];
        finish(&mut mesh.load(name, &["-s", who], &arguments));
        statuses(&mesh, name)
    };
    for (name, who, total) in [("first", "order", 40), ("second", "cart", 80)] {
        assert_eq!(
            load(name, who),
            BTreeMap::from([(200, 40), (429, 60)]),
            "{who}"
        );
        assert_eq!(served(&mesh, "v1"), total, "{who}");
        let reasons = mesh.logged(name);
        let told = reasons
            .iter()
            .filter(|line| line["reason"] == "rate-limited");
        assert_eq!(told.count(), 60, "{who}");
    }
    let dry = format!("{rule}, dryRun: true");
    mesh.apply("limit.yaml", &limit("{kind: Service, name: payment}", &dry));
    assert_eq!(
        load("dry", "order"),
        BTreeMap::from([(200, 100)]),
        "the twin"
    );
    assert_eq!(served(&mesh, "v1"), 180);
}

/// What a request goes to by its body and by the clock, as the programs count it.
#[test]
fn routes_follow_a_json_body_and_the_clock() {
    let mesh = Mesh::up();
    let (_v1, _v2) = (mesh.serve("payment", "v1"), mesh.serve("payment", "v2"));
    let counts = || (served(&mesh, "v1"), served(&mesh, "v2"));
    let post = |number: usize, body: &str| {
        let before = counts();
        // A caller of its own: another one's sidecar would begin with the copy that it saved before the last change.
        let name = format!("call-{number}");
        let mut call = mesh.run(
            &name,
            &["-s", &name],
            &["curl", "-sf", "-m", "10", "-d", body, "http://payment/pay"],
        );
        assert!(
            call.wait(Duration::from_secs(30)).expect("ends").success(),
            "{}",
            call.err()
        );
        let after = counts();
        (after.0 - before.0, after.1 - before.1)
    };
    mesh.apply(
        "body.yaml",
        &narrowed(&[("high", "request.body.amount > 100000")]),
    );
    let long = format!(
        "{{\"amount\": 100001, \"pad\": \"{}\"}}",
        "x".repeat(70_000)
    );
    for (number, (body, want)) in [
        ("{\"amount\": 100001}", (0, 1)),
        ("{\"amount\": 100000}", (1, 0)),
        ("{\"amount\": 100001", (1, 0)),
        (long.as_str(), (1, 0)),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(post(number, body), want, "{}", &body[..body.len().min(40)]);
    }
    let lines = mesh.logged("payment-v2");
    let body = lines.last().and_then(|line: &Value| line["bytes"].as_u64());
    assert!(
        body.is_none_or(|bytes| bytes == 18),
        "the body arrives whole: {lines:?}"
    );

    let hour = |offset: i64| {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970");
        let at = i64::try_from(now.as_secs()).expect("small") + offset * 3600;
        format!("int(request.time) >= {at}")
    };
    for (number, (from, to, want)) in [(-1, 1, (0, 1)), (1, 2, (1, 0))].into_iter().enumerate() {
        let window = format!("{} && !({})", hour(from), hour(to));
        mesh.apply("time.yaml", &narrowed(&[("sale", &window)]));
        assert_eq!(post(10 + number, "x"), want, "{window}");
    }
}
