//! gRPC programs without a proxy in the mesh: their own xDS client, their agent's socket, their keys in files.

use crate::envoy::{ENVOY_SOON, ORDER, run, run_dir};
use crate::newcomer::{program, venv};
use crate::traffic::{finish, split};
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::{Program, free_port};
use naka_testkit::{size, wait};
use rustix::process::Signal;

/// A gRPC server that logs its calls, as the service `ledger` beside a Naka sidecar.
fn ledger(mesh: &Mesh, version: &str) -> Program {
    let (port, name) = (free_port().to_string(), format!("ledger-{version}"));
    let (log, label) = (mesh.log(&name), format!("version={version}"));
    let declared = format!("{port}/grpc");
    let server = mesh.run(
        &name,
        &["-s", "ledger", "-p", &declared, "-l", &label],
        &[
            &venv("python3"),
            &program("grpc_counted.py"),
            &port,
            version,
            log.to_str().expect("printable"),
        ],
    );
    mesh.wait_version("ledger", version);
    server
}

fn grpc(mesh: &Mesh, name: &str, how: &str, times: &str, targets: &[&str]) -> Program {
    let (python, client) = (venv("python3"), program("grpc_xds.py"));
    let mut command = vec![python.as_str(), client.as_str(), how, times];
    command.extend_from_slice(targets);
    let options = ["--proxy", "grpc", "--service-account", "order"];
    run(mesh, name, &options, &command)
}

/// A gRPC program without a proxy dials names of the mesh and calls a STRICT service by mTLS, with weights in force,
/// counted by the called programs. The twin: without its credentials it is refused.
#[test]
fn a_grpc_program_without_a_proxy_joins() {
    let (calls, band) = size().pick((400, 6.0), (4000, 2.0));
    let mut mesh = Mesh::up();
    let (_v1, _v2) = (ledger(&mesh, "v1"), ledger(&mesh, "v2"));
    mesh.apply("canary.yaml", &split(80, 20).replace("payment", "ledger"));
    let targets = [
        "xds:///ledger",
        "xds:///ledger.default.svc.cluster.local:80",
    ];
    let times = (calls / 2).to_string();
    let mut client = grpc(&mesh, "client", "mtls", &times, &targets);
    finish(&mut client);
    let answers: Vec<String> = client.out().lines().map(str::to_owned).collect();
    assert_eq!(answers.len(), calls, "{}", client.err());
    let bad: Vec<&String> = answers
        .iter()
        .filter(|l| !l.ends_with(" v1") && !l.ends_with(" v2"))
        .collect();
    assert!(bad.is_empty(), "{bad:?}\n{}", client.err());
    let logs = ["ledger-v1", "ledger-v2"].map(|name| mesh.logged(name));
    let served = logs[0].len() + logs[1].len();
    assert_eq!(served, calls);
    let verified = logs.iter().flatten().filter(|l| l["peer"] == ORDER).count();
    assert_eq!(verified, served, "{:?}", logs[0].first());
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of a test are far below 2^52"
    )]
    let share = 100.0 * logs[1].len() as f64 / served as f64;
    println!("proxyless: weight 20, observed {share:.2} % over {served} calls, all verified");
    assert!((share - 20.0).abs() <= band, "{share}");

    let mut refused = grpc(&mesh, "refused", "insecure", "2", &targets[..1]);
    finish(&mut refused);
    let refusals = [" UNAVAILABLE", " PERMISSION_DENIED"];
    let is_refused = |line: &str| refusals.iter().any(|code| line.ends_with(code));
    assert!(refused.out().lines().all(is_refused), "{}", refused.out());
    assert_eq!(refused.out().lines().count(), 2);
    assert_eq!(
        mesh.logged("ledger-v1").len() + mesh.logged("ledger-v2").len(),
        served
    );

    // With the control plane dead a program that starts is served from the agent's copy; the twin: a name that no
    // program ever dialled is not in it.
    mesh.kill_control();
    let mut again = grpc(&mesh, "again", "mtls", "5", &targets[..1]);
    finish(&mut again);
    assert_eq!(again.out().lines().count(), 5, "{}", again.err());
    assert!(
        again.out().lines().all(|l| l.contains(" v")),
        "{}",
        again.out()
    );
    let mut other = grpc(&mesh, "other", "mtls", "1", &["xds:///other"]);
    finish(&mut other);
    assert!(
        other.out().ends_with(" DEADLINE_EXCEEDED\n"),
        "{}",
        other.out()
    );
}

/// The files of its keys follow the rotation, private as they were, and no call fails. The twin: the file is the same
/// as long as the certificate is young.
#[test]
fn keys_of_a_grpc_program_are_renewed() {
    let mesh = Mesh::up_with(&["--leaf-ttl", "20s"]);
    let _ledger = ledger(&mesh, "v1");
    let mut hold = grpc(&mesh, "hold", "hold", "0", &["xds:///ledger"]);
    wait::until("first answers", ENVOY_SOON, || {
        (hold.out().lines().count() > 5).then_some(())
    });
    let dir = run_dir(&mesh, "order");
    let chain = || std::fs::read(dir.join("grpc-chain.pem")).expect("the chain");
    let first = chain();
    assert_eq!(chain(), first);
    wait::until("new files", ENVOY_SOON, || (chain() != first).then_some(()));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(dir.join("grpc-key.pem"))
            .expect("the key")
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    assert!(
        hold.out().lines().all(|l| l.ends_with(" v1")),
        "{}",
        hold.out()
    );
    hold.signal(Signal::TERM);
    let _ = hold.wait(SOON);
}

/// The control plane's own state-of-the-world stream serves a stock gRPC client by mTLS, no agent in between: weights
/// are in force and a change of them arrives, counted by the called programs. The twin: without a certificate the
/// stream is refused, and nothing is ever called.
#[test]
fn a_grpc_program_reads_the_control_plane_itself() {
    let calls = size().pick(100, 1000);
    let mesh = Mesh::up();
    let (_v1, _v2) = (ledger(&mesh, "v1"), ledger(&mesh, "v2"));
    let shares = |v1, v2| {
        let rules = split(v1, v2).replace("payment", "ledger");
        mesh.apply(&format!("ledger-{v2}.yaml"), &rules);
    };
    let ports = std::fs::read(mesh.home().join("mesh/local/ports.json")).expect("ports");
    let ports: serde_json::Value = serde_json::from_slice(&ports).expect("JSON");
    let server = format!("localhost:{}", ports["xds"]);
    let target = ["xds:///ledger"];
    let times = calls.to_string();
    let served = || ["ledger-v1", "ledger-v2"].map(|name| mesh.logged(name).len());

    shares(0, 100);
    let how = format!("mtls={server}");
    let mut only = grpc(&mesh, "only", &how, &times, &target);
    finish(&mut only);
    assert_eq!(served(), [0, calls], "{}", only.err());
    let calls_of = |name: &str| mesh.logged(name).into_iter();
    let mut callers = calls_of("ledger-v2").map(|call| call["peer"].clone());
    assert!(callers.all(|peer| peer == ORDER));

    let hold = grpc(&mesh, "hold", &format!("hold={server}"), "0", &target);
    let before = served();
    wait::until("calls", ENVOY_SOON, || {
        (served()[1] > before[1]).then_some(())
    });
    shares(100, 0);
    wait::until("the change", ENVOY_SOON, || (served()[0] > 0).then_some(()));
    hold.signal(Signal::TERM);

    let before = served();
    let how = format!("unproven={server}");
    let mut unproven = grpc(&mesh, "unproven", &how, "1", &target);
    finish(&mut unproven);
    let out = unproven.out();
    assert!(
        out.ends_with(" DEADLINE_EXCEEDED\n") || out.ends_with(" UNAVAILABLE\n"),
        "{out}"
    );
    assert_eq!(served()[1], before[1]);
}
