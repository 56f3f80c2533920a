//! Calls from one network to another go through its gateway. What is observed is the bytes on the way there and the
//! called program's log; each twin takes one of the reasons away.

use crate::envoy::{ENVOY_SOON, run};
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::{Program, free_port};
use naka_testkit::relay::{Relay, contains, is_tls};
use naka_testkit::wait::until;
use std::net::SocketAddr;
use std::process::Command;

const SERVER_NAME: &str = "outbound_.80_._.payment.default.svc.cluster.local";

/// A program of a network, and its proxy's address.
fn caller(mesh: &Mesh, proxy: &str, network: &str) -> (Program, String) {
    let label = format!("topology.istio.io/network={network}");
    let mut options = vec!["--service-account", "caller", "-l", &label];
    options.extend(match proxy {
        "envoy" => ["--proxy", "envoy"],
        _ => ["--capture", "proxy"],
    });
    let script = "printf '%s\\n' \"$http_proxy\"; exec sleep infinity";
    let program = run(mesh, network, &options, &["sh", "-c", script]);
    let address = until("the proxy variable", ENVOY_SOON, || {
        let out = std::fs::read_to_string(&program.stdout).ok()?;
        out.split_once('\n').map(|(line, _)| line.to_owned())
    });
    (program, address)
}

fn get(proxy: &str) -> String {
    let output = Command::new("curl")
        .args(["-s", "-m", "15", "-o", "/dev/null", "-x", proxy])
        .args(["-w", "%{http_code}", "http://payment/"])
        .output()
        .expect("curl");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The gateway of the network that everybody is in who names none.
fn gateway(mesh: &Mesh) -> (Program, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let bind = format!("15443={address}");
    let mut command = mesh.command(["proxy", "gateway", "-l", "istio=eastwest", "-p", &bind]);
    let gateway = Program::start("east-west", mesh.home(), &mut command).expect("a gateway");
    mesh.apply(
        "gateway.yaml",
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: istio-system, labels: {topology.istio.io/network: there}}\n---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: east-west, namespace: istio-system}\nspec: {selector: {istio: eastwest}, servers: [{port: {number: 15443, name: tls, protocol: TLS}, hosts: ['*.local'], tls: {mode: AUTO_PASSTHROUGH}}]}\n",
    );
    (gateway, address)
}

fn crosses(proxy: &str) {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let (mut gateway, address) = gateway(&mesh);
    let relay = Relay::to(address);
    let carried = || relay.seen().iter().map(|one| one.up.len()).sum::<usize>();
    let (_here, here) = caller(&mesh, proxy, "here");
    let (_there, there) = caller(&mesh, proxy, "there");
    until(
        "both call while no network has a gateway",
        ENVOY_SOON,
        || (get(&here) == "200" && get(&there) == "200").then_some(()),
    );
    assert_eq!(carried(), 0);
    let port = relay.address.port();
    mesh.apply(
        "service.yaml",
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: east-west, namespace: istio-system, labels: {{topology.istio.io/network: there, networking.istio.io/gatewayPort: '{port}'}}}}\nspec: {{selector: {{istio: eastwest}}, ports: [{{name: tls, port: 15443}}], externalIPs: [127.0.0.1]}}\n"
        ),
    );
    until("a call goes through the gateway", ENVOY_SOON, || {
        let before = carried();
        (get(&here) == "200" && carried() > before).then_some(())
    });
    let seen = relay.seen();
    let way = seen.last().expect("a connection");
    assert!(is_tls(&way.up) && contains(&way.up, SERVER_NAME.as_bytes()));
    let log = mesh.logged("payment-v1");
    let peer = "spiffe://cluster.local/ns/default/sa/caller";
    assert_eq!(log.last().expect("a call")["peer"], peer);
    // Of the same network: past the gateway, also when that is gone; and of the other one then not at all.
    let before = carried();
    assert_eq!((get(&there), carried()), ("200".to_owned(), before));
    gateway.signal(rustix::process::Signal::KILL);
    let _ = gateway.wait(SOON);
    assert_eq!((get(&there).as_str(), get(&here).as_str()), ("200", "503"));
    // Without a gateway that anybody knows of, both dial directly.
    mesh.ok(["delete", "service", "east-west", "-n", "istio-system"]);
    until("it is dialled directly", ENVOY_SOON, || {
        (get(&here) == "200").then_some(())
    });
}

#[test]
fn calls_between_networks_go_through_the_gateway() {
    crosses("naka");
}

#[test]
fn an_envoys_calls_between_networks_go_through_the_gateway() {
    crosses("envoy");
}
