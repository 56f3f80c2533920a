//! How long a change of policy takes until every proxy acts on it: each is called all the time, and the caller writes
//! down when its answers changed.
//!
//! The figure runs from the start of `naka apply` to the first refusal of the last proxy; it is printed, and the bound
//! holds in the full size only, because a busy machine proves nothing about a mesh.

use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::Program;
use naka_testkit::size;
use naka_testkit::wait::until;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const POLICY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: istio-system}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/asked]}}]}]}
";

/// One thread a service; a line when an answer differs from the last. Captured or by proxy variables, as it comes.
const CALLER: &str = r#"
import json, sys, threading, time, urllib.error, urllib.request
lock = threading.Lock()
def call(service):
    last = None
    while True:
        try:
            status = urllib.request.urlopen("http://" + service + "/asked", timeout=5).status
        except urllib.error.HTTPError as answer:
            status = answer.code
        except OSError as error:
            status = str(error)
        if status != last:
            with lock:
                print(json.dumps({"service": service, "status": status, "at": time.time()}), flush=True)
            last = status
        time.sleep(0.02)
for service in sys.argv[1:]:
    threading.Thread(target=call, args=(service,)).start()
"#;

/// The last answer of each service and since when it has been that, in seconds of the epoch.
fn answers(caller: &Program) -> BTreeMap<String, (Value, f64)> {
    let out = caller.out();
    let lines = out
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .map(|line| {
            let service = line["service"].as_str().unwrap_or_default().to_owned();
            (
                service,
                (
                    line["status"].clone(),
                    line["at"].as_f64().unwrap_or_default(),
                ),
            )
        })
        .collect()
}

/// Waits until all answer so; when the last one began to.
fn all(caller: &Program, services: usize, status: u16) -> f64 {
    until(
        format_args!("{status} of all: {}", caller.said()),
        SOON,
        || {
            let answers = answers(caller);
            let alike = answers.values().filter(|(said, _)| *said == status).count();
            let last = answers.values().map(|(_, at)| *at).fold(0.0, f64::max);
            (alike == services).then_some(last)
        },
    )
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

#[test]
fn a_change_of_policy_is_in_force_at_every_proxy_within_a_second() {
    let (services, changes) = size().pick((6, 1), (50, 5));
    let mesh = Mesh::up();
    let names: Vec<String> = (0..services).map(|n| format!("web-{n}")).collect();
    let programs: Vec<Program> = names.iter().map(|name| mesh.serve(name, "v1")).collect();
    let mut command = vec!["python3", "-c", CALLER];
    command.extend(names.iter().map(String::as_str));
    let caller = mesh.run("caller", &["-s", "caller"], &command);
    all(&caller, services, 200);
    let file = mesh.file("nobody.yaml", POLICY);
    let file = file.to_str().expect("printable");
    let mut took = Vec::new();
    for _ in 0..changes {
        for (order, status) in [(["apply", "-f", file], 403), (["delete", "-f", file], 200)] {
            let began = now();
            mesh.ok(order);
            took.push(all(&caller, services, status) - began);
        }
    }
    took.sort_by(f64::total_cmp);
    let (middle, slowest) = (took[took.len() / 2], took[took.len() - 1]);
    println!(
        "{} changes of policy at {services} proxies, from the start of the command to the last one that acts on it: \
         median {:.0} ms, slowest {:.0} ms",
        took.len(),
        middle * 1e3,
        slowest * 1e3
    );
    assert!(Duration::from_secs_f64(slowest) < size().pick(SOON, Duration::from_secs(1)));
    drop(programs);
}
