//! What a stranger on the wire sees, and which sockets exist at all.

use naka_testkit::mesh::{Mesh, SOON, naka, testprog};
use naka_testkit::program::{Program, children, free_port};
use naka_testkit::relay::{Relay, chosen, contains, is_tls};
use naka_testkit::wait;
use serde_json::json;
use std::net::SocketAddr;
use std::process::Command;

const CARD: &str = "4929-1234-5678-9012";
const TLS13: u16 = 0x0304;
/// X25519MLKEM768 (IANA TLS supported groups).
const HYBRID: u16 = 0x11ec;

/// A relay between two sidecars sees TLS 1.3 with the hybrid key exchange and never the planted card number. The twin:
/// the same relay before the program itself sees the number at once.
#[test]
fn between_sidecars_there_is_only_tls() {
    let mesh = Mesh::up();
    let (port, inbound) = (free_port(), free_port());
    let relay = Relay::to(SocketAddr::from(([127, 0, 0, 1], inbound)));
    let token = mesh.ok(["token", "create", "--service", "payment", "--uses", "1"]);
    let settings = json!({
        "run_dir": mesh.home().join("run/relayed"), "service": "payment", "service_account": "payment",
        "workload_name": "payment-1", "labels": {"app": "payment", "version": "v1"}, "outbound": {},
        "ports": [{"port": port, "bind": format!("127.0.0.1:{inbound}"), "advertise": relay.address.to_string()}],
        "control": {"token": token.trim()},
    });
    std::fs::create_dir_all(mesh.home().join("run/relayed")).expect("a directory");
    let file = mesh.file("relayed.json", &settings.to_string());
    let serve = |port: u16, log: &str| {
        let mut command = Command::new(testprog());
        command
            .args([
                "serve",
                "--port",
                &port.to_string(),
                "--name",
                "payment",
                "--version",
                "v1",
                "--log",
            ])
            .arg(mesh.log(log));
        Program::start(log, mesh.home(), &mut command).expect("a program")
    };
    let _program = serve(port, "payment-v1");
    let mut command = Command::new(naka());
    command
        .args(["proxy", "sidecar", "--settings"])
        .arg(&file)
        .env("NAKA_HOME", mesh.home());
    let sidecar = Program::start("sidecar", mesh.home(), &mut command).expect("a sidecar");
    mesh.wait_ready("payment", None, &sidecar);

    crate::traffic::load(
        &mesh,
        "load",
        &[
            "--url",
            "http://payment/",
            "--count",
            "20",
            "--marker",
            CARD,
        ],
        &["payment-v1"],
    )
    .assert_clean();
    let seen: Vec<_> = relay
        .seen()
        .into_iter()
        .filter(|s| !s.up.is_empty())
        .collect();
    assert!(!seen.is_empty(), "the relay stands between the two");
    for connection in &seen {
        assert!(
            is_tls(&connection.up) && is_tls(&connection.down),
            "only TLS records"
        );
        assert_eq!(chosen(&connection.down), Some((TLS13, HYBRID)));
        assert!(
            !contains(&connection.up, CARD.as_bytes())
                && !contains(&connection.down, CARD.as_bytes())
        );
    }

    let bare = free_port();
    let _bare = serve(bare, "bare");
    wait::until("the bare program listens", SOON, || {
        std::net::TcpStream::connect(("127.0.0.1", bare)).ok()
    });
    let relay = Relay::to(SocketAddr::from(([127, 0, 0, 1], bare)));
    let url = format!("http://{}/", relay.address);
    let status = Command::new(testprog())
        .args(["load", "--url", &url, "--count", "1", "--marker", CARD])
        .status();
    assert!(status.expect("the load runs").success());
    let twin = relay.seen();
    assert!(
        twin.iter()
            .any(|s| contains(&s.up, CARD.as_bytes()) && !is_tls(&s.up)),
        "the twin must see the number"
    );
}

/// Established TCP connections as `(own pid, own address, other address)`, from ss.
fn sockets() -> Vec<(u32, String, String)> {
    let output = Command::new("ss")
        .args(["-tnpH", "state", "established"])
        .output()
        .expect("ss (iproute2)");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let pid = line.split("pid=").nth(1)?.split(',').next()?.parse().ok()?;
            let mut words = line.split_whitespace().skip(2);
            Some((pid, words.next()?.to_owned(), words.next()?.to_owned()))
        })
        .collect()
}

fn descendants(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(next) = all.get(at).copied() {
        all.extend(children(next));
        at += 1;
    }
    all
}

/// Processes below `run` that are not naka's own.
fn programs(run: &Program) -> Vec<u32> {
    let own = [naka(), naka().with_file_name("naka-proxy")];
    descendants(run.pid())
        .into_iter()
        .filter(|p| {
            std::fs::read_link(format!("/proc/{p}/exe")).is_ok_and(|exe| !own.contains(&exe))
        })
        .collect()
}

/// Pairs of programs that talk past the sidecars.
fn direct(from: &[u32], to: &[u32]) -> usize {
    let all = sockets();
    let ends = |pids: &[u32]| -> Vec<(String, String)> {
        all.iter()
            .filter(|(p, _, _)| pids.contains(p))
            .map(|(_, a, b)| (a.clone(), b.clone()))
            .collect()
    };
    let called = ends(to);
    ends(from)
        .iter()
        .filter(|(own, other)| called.contains(&(other.clone(), own.clone())))
        .count()
}

/// While calls run, no socket joins the two programs. The twin: a call around the mesh makes one.
#[test]
fn no_socket_joins_two_programs() {
    let mesh = Mesh::up();
    let payment = mesh.serve("payment", "v1");
    let order = mesh.load(
        "load",
        &["-s", "order"],
        &[
            "--url",
            "http://payment/slow/50",
            "--rate",
            "100",
            "--for",
            "60",
        ],
    );
    wait::until("first answers", SOON, || {
        (mesh.logged("load").len() > 20).then_some(())
    });
    let (caller, called) = (programs(&order), programs(&payment));
    assert!(!caller.is_empty() && !called.is_empty());
    for _ in 0..20 {
        assert_eq!(direct(&caller, &called), 0);
    }

    let port = free_port();
    let start = |name: &str, args: &[&str]| {
        let mut command = Command::new(testprog());
        command.args(args);
        Program::start(name, mesh.home(), &mut command).expect("a program")
    };
    let bare = start(
        "bare",
        &["serve", "--port", &port.to_string(), "--name", "bare"],
    );
    wait::until("the bare program listens", SOON, || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let around = start(
        "around",
        &[
            "load",
            "--url",
            &format!("http://127.0.0.1:{port}/slow/50"),
            "--rate",
            "100",
            "--for",
            "60",
        ],
    );
    wait::until("a direct socket", SOON, || {
        (direct(&[around.pid()], &[bare.pid()]) > 0).then_some(())
    });
}
