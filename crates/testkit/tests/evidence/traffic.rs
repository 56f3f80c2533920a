//! Canary shares, mutual TLS as the receiver sees it, changes under load.

use crate::count::Joined;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::Program;
use naka_testkit::size;
use std::time::Duration;

const ORDER: &str = "spiffe://cluster.local/ns/default/sa/order";

/// A VirtualService with two weights and the DestinationRule it needs.
pub(crate) fn split(v1: u32, v2: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: payment\nspec:\n  host: payment\n  subsets:\n  - name: v1\n    labels: {{version: v1}}\n  - name: v2\n    labels: {{version: v2}}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: payment\nspec:\n  hosts: [payment]\n  http:\n  - route:\n    - destination: {{host: payment, subset: v1}}\n      weight: {v1}\n    - destination: {{host: payment, subset: v2}}\n      weight: {v2}\n"
    )
}

/// Runs a load from `order` to its end and joins it with the logs of the servers named.
#[track_caller]
pub(crate) fn load(mesh: &Mesh, name: &str, arguments: &[&str], servers: &[&str]) -> Joined {
    let mut program = mesh.load(name, &["-s", "order"], arguments);
    finish(&mut program);
    joined(mesh, name, servers)
}

#[track_caller]
pub(crate) fn finish(program: &mut Program) {
    let status = program
        .wait(Duration::from_secs(180))
        .expect("the load ends");
    assert!(
        status.success(),
        "the load failed: {} {}",
        program.out(),
        program.err()
    );
}

pub(crate) fn joined(mesh: &Mesh, name: &str, servers: &[&str]) -> Joined {
    let logs: Vec<_> = servers.iter().map(|s| mesh.logged(s)).collect();
    Joined::of(&mesh.logged(name), &logs, ORDER)
}

/// Over many calls the share is the weight, every call is verified by its receiver, nothing fails. The twin: with
/// other weights the same count leaves the band, so the band can be left.
#[test]
fn canary_share_is_the_weight_and_every_call_is_mutual_tls() {
    let mesh = Mesh::up();
    let (_v1, _v2) = (mesh.serve("payment", "v1"), mesh.serve("payment", "v2"));
    mesh.apply("canary.yaml", &split(90, 10));
    let (calls, band) = size().pick(("2000", 2.5), ("10000", 1.0));
    let got = load(
        &mesh,
        "load",
        &[
            "--url",
            "http://payment/",
            "--rate",
            "1000",
            "--connections",
            "4",
            "--count",
            calls,
        ],
        &["payment-v1", "payment-v2"],
    );
    got.assert_clean();
    let share = got.share("v2");
    println!(
        "canary: weight 10, observed {share:.2} % over {} calls",
        got.served
    );
    assert!(
        (share - 10.0).abs() <= band,
        "share {share} of {:?}",
        got.versions
    );
    assert_eq!(
        got.verified, got.served,
        "receivers that verified the caller"
    );

    mesh.apply("canary.yaml", &split(50, 50));
    let twin = load(
        &mesh,
        "twin",
        &[
            "--url",
            "http://payment/",
            "--rate",
            "1000",
            "--connections",
            "4",
            "--count",
            "1000",
        ],
        &["payment-v1", "payment-v2"],
    );
    twin.assert_clean();
    assert!(
        (twin.share("v2") - 10.0).abs() > band,
        "the twin must leave the band: {:?}",
        twin.versions
    );
}

/// The control plane is killed under load and started again: no request fails, and no proxy receives an endpoint or
/// anything else that did not change. The twin: killing the called sidecar does make requests fail.
#[test]
fn traffic_goes_on_while_the_control_plane_is_dead() {
    let mut mesh = Mesh::up();
    let v1 = mesh.serve("payment", "v1");
    let seconds: u64 = size().pick(10, 60);
    let total = (seconds + 4).to_string();
    let mut running = mesh.load(
        "load",
        &["-s", "order"],
        &["--url", "http://payment/", "--rate", "200", "--for", &total],
    );
    naka_testkit::wait::until("first answers", SOON, || {
        (mesh.logged("load").len() > 50).then_some(())
    });
    mesh.kill_control();
    let at_kill = mesh.logged("load").len();
    let dead = usize::try_from(seconds * 200).expect("small");
    naka_testkit::wait::until(
        "calls while dead",
        Duration::from_secs(seconds + 20),
        || (mesh.logged("load").len() >= at_kill + dead).then_some(()),
    );
    mesh.start_control();
    finish(&mut running);
    let got = joined(&mesh, "load", &["payment-v1"]);
    got.assert_clean();
    assert_eq!(got.verified, got.served);
    println!(
        "control plane dead for {seconds} s at 200/s: {} requests, 0 failed",
        got.sent
    );

    let sidecar = mesh.sidecar_of(&v1).expect("payment has a sidecar");
    let pid =
        rustix::process::Pid::from_raw(i32::try_from(sidecar).expect("a pid")).expect("not 0");
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stop the sidecar");
    let twin = load(
        &mesh,
        "twin",
        &[
            "--url",
            "http://payment/",
            "--rate",
            "20",
            "--count",
            "5",
            "--connections",
            "5",
        ],
        &["payment-v1"],
    );
    assert!(
        !twin.failed.is_empty(),
        "with its sidecar stopped the service must fail"
    );
}

/// The highest rate this machine carries: twice what was carried before, until answers come late; no request fails on
/// the way, and latency (from the scheduled time, so queueing counts) stays bounded at the rate that is reported.
#[test]
fn the_highest_rate_is_carried_without_errors() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let seconds = size().pick("2", "10");
    let bound = 50_000;
    let mut carried = None;
    for rate in [500u64, 1000, 2000, 4000, 8000, 16_000] {
        let name = format!("rate-{rate}");
        let text = rate.to_string();
        let got = load(
            &mesh,
            &name,
            &[
                "--url",
                "http://payment/",
                "--rate",
                &text,
                "--for",
                seconds,
                "--connections",
                "16",
            ],
            &["payment-v1"],
        );
        got.assert_clean();
        let mut latency: Vec<u64> = mesh
            .logged(&name)
            .iter()
            .filter_map(|l| l["latency_us"].as_u64())
            .collect();
        latency.sort_unstable();
        let p99 = latency[latency.len() * 99 / 100];
        if p99 > bound {
            println!("at {rate}/s p99 is {p99} µs: over the bound of {bound} µs, still 0 errors");
            break;
        }
        carried = Some((rate, p99));
    }
    let (rate, p99) = carried.expect("the lowest rate is carried");
    println!("highest rate carried with p99 within {bound} µs: {rate}/s, p99 {p99} µs, 0 errors");

    // The twin: the same count finds failures where there are some.
    let failing = load(
        &mesh,
        "twin",
        &["--url", "http://payment/status/500", "--count", "20"],
        &["payment-v1"],
    );
    assert_eq!(failing.failed.len(), 20);
}
