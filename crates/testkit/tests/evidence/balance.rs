//! Who is called, counted by the called programs: a slow endpoint loses its calls, a near place comes first, what it
//! cannot take goes on and comes back. Each with its twin.

use crate::traffic::{finish, joined, load};
use naka_testkit::mesh::{Mesh, SOON, testprog};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait;
use rustix::process::Signal;
use serde_json::Value;

/// A server of `payment` that takes this long over an answer.
fn serve(mesh: &Mesh, version: &str, place: &str, delay: &str) -> Program {
    let port = free_port().to_string();
    let name = format!("payment-{version}");
    let (prog, log) = (testprog(), mesh.log(&name));
    let (prog, log) = (prog.to_string_lossy(), log.to_string_lossy());
    let label = format!("version={version}");
    let options = [
        "-s",
        "payment",
        "-p",
        &port,
        "-l",
        &label,
        "--locality",
        place,
    ];
    let command = [
        &*prog,
        "serve",
        "--port",
        &port,
        "--name",
        "payment",
        "--version",
        version,
        "--delay",
        delay,
        "--log",
        &log,
    ];
    let program = mesh.run(&name, &options, &command);
    mesh.wait_ready("payment", Some(&port), &program);
    program
}

fn rule(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: payment}}\nspec:\n  host: payment\n  trafficPolicy: {policy}\n"
    )
}

const VERSIONS: [&str; 3] = ["payment-a", "payment-b", "payment-c"];

fn calls<'a>(rate: &'a str, count: &'a str) -> [&'a str; 8] {
    [
        "--url",
        "http://payment/",
        "--rate",
        rate,
        "--connections",
        "40",
        "--count",
        count,
    ]
}

/// The less busy of two, and the quicker of two, keep calls away from an endpoint that is slow; the twin: in turn, it
/// gets its third.
#[test]
fn a_slow_endpoint_loses_its_calls() {
    let mesh = Mesh::up();
    let _servers = [
        serve(&mesh, "a", "in", "300"),
        serve(&mesh, "b", "in", "0"),
        serve(&mesh, "c", "in", "0"),
    ];
    let share = |name: &str, manifest: &str| {
        mesh.apply("rule.yaml", manifest);
        let got = load(&mesh, name, &calls("100", "400"), &VERSIONS);
        got.assert_clean();
        let all: Vec<u64> = mesh
            .logged(name)
            .iter()
            .filter_map(|line| line["latency_us"].as_u64())
            .collect();
        let mean = all.iter().sum::<u64>() / u64::try_from(all.len().max(1)).expect("a count");
        println!("{name}: mean latency {mean} µs");
        got.share("a")
    };
    let turn = share("turn", &rule("{loadBalancer: {simple: ROUND_ROBIN}}"));
    assert!((turn - 33.3).abs() < 3.0, "in turn: {turn} %");
    let least = share("least", &rule("{loadBalancer: {simple: LEAST_REQUEST}}"));
    assert!(least < 15.0, "the less busy: {least} %");
    let ewma = rule("{}").replace(
        "{name: payment}",
        "{name: payment, annotations: {naka.dev/load-balancer: PEAK_EWMA}}",
    );
    let ewma = share("ewma", &ewma);
    assert!(ewma < 5.0, "the quicker: {ewma} %");
}

fn order_in_mumbai(mesh: &Mesh, name: &str, arguments: &[&str]) -> crate::count::Joined {
    // Without a saved copy: one of before a change may decide the first calls of the next run.
    let alone = "--no-saved-identity";
    let options = ["-s", "order", "--locality", "in/mumbai", alone];
    let mut program = mesh.load(name, &options, arguments);
    finish(&mut program);
    joined(mesh, name, &VERSIONS)
}

fn healthy(mesh: &Mesh) -> usize {
    let up = |w: &&Value| w["service"] == "payment" && w["state"] == "healthy";
    mesh.workloads().iter().filter(up).count()
}

/// The near place takes every call while it is there, the far one when it is gone, the near one again when it is back;
/// no outlier detection is written, and nothing fails. The twin: without the rule both are called.
#[test]
fn a_far_place_takes_over_and_gives_back() {
    let mesh = Mesh::up();
    let mut near = serve(&mesh, "a", "in/mumbai", "0");
    let _far = serve(&mesh, "b", "us/east", "0");
    mesh.apply(
        "rule.yaml",
        &rule("{loadBalancer: {localityLbSetting: {enabled: true}}}"),
    );
    let shares = |name: &str| {
        let got = order_in_mumbai(&mesh, name, &calls("100", "200"));
        got.assert_clean();
        (got.share("a"), got.share("b"))
    };
    assert_eq!(shares("near"), (100.0, 0.0));
    near.signal(Signal::TERM);
    near.wait(SOON).expect("it stops");
    wait::until("the near one is gone", SOON, || {
        (healthy(&mesh) == 1).then_some(())
    });
    assert_eq!(shares("far"), (0.0, 100.0));
    let _near = serve(&mesh, "a", "in/mumbai", "0");
    assert_eq!(shares("back"), (100.0, 0.0));
    mesh.ok(["delete", "DestinationRule", "payment"]);
    let (a, b) = shares("twin");
    assert!(a > 20.0 && b > 20.0, "without a rule: {a} % and {b} %");
}

/// A near place that is at its share of the limits passes on what comes, without a failure; the twin: without limits
/// it takes everything, however long that takes.
#[test]
fn a_place_at_its_limit_passes_on() {
    let mesh = Mesh::up();
    let _servers = [
        serve(&mesh, "a", "in/mumbai", "300"),
        serve(&mesh, "b", "us/east", "0"),
    ];
    let near = "loadBalancer: {localityLbSetting: {enabled: true}}";
    let limited = format!("{{{near}, connectionPool: {{http: {{http2MaxRequests: 16}}}}}}");
    mesh.apply("rule.yaml", &rule(&limited));
    let got = order_in_mumbai(&mesh, "limited", &calls("60", "300"));
    got.assert_clean();
    let far = got.share("b");
    assert!((20.0..90.0).contains(&far), "passed on: {far} %");
    mesh.apply("rule.yaml", &rule(&format!("{{{near}}}")));
    let got = order_in_mumbai(&mesh, "free", &calls("60", "120"));
    got.assert_clean();
    assert!(
        got.share("b") < f64::EPSILON,
        "without limits: {} %",
        got.share("b")
    );
}
