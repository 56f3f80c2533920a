//! What a service manager is told, read from the socket itself: ready only when it serves, alive only while it
//! answers, stopping when it stops. Each promise has its twin in the same test.

use naka_testkit::ear::Ear;
use naka_testkit::mesh::{Mesh, SOON, testprog};
use naka_testkit::program::{Program, children, free_port};
use naka_testkit::wait::until;
use rustix::process::Signal;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// What the manager allows; signs of life come twice as often.
const WATCHDOG: Duration = Duration::from_millis(200);
/// Long enough that a sign of life must have come.
const QUIET: Duration = Duration::from_millis(1200);

fn alive(ear: &Ear) {
    let _ = ear.said();
    for _ in 0..2 {
        assert!(ear.hears("WATCHDOG=1", SOON).is_some(), "no sign of life");
    }
}

/// No sign of life while `pid` stands still, and again when it goes on.
fn stuck_is_silent(ear: &Ear, pid: u32) {
    alive(ear);
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process id");
    rustix::process::kill_process(pid, Signal::STOP).expect("it runs");
    // One may have been under way.
    let _ = ear.hears("WATCHDOG=1", WATCHDOG);
    let _ = ear.said();
    assert_eq!(ear.hears("WATCHDOG=1", QUIET), None, "{pid:?} stands still");
    rustix::process::kill_process(pid, Signal::CONT).expect("it stands still");
    alive(ear);
}

#[test]
fn a_control_plane_says_ready_when_it_serves_and_never_when_it_cannot() {
    let mesh = Mesh::up();
    let start = |ear: &Ear, name: &str| {
        let mut command = mesh.command(["control", "--mesh", "second"]);
        Program::start(name, mesh.home(), ear.tell(&mut command, WATCHDOG)).expect("it starts")
    };
    let ear = Ear::open(mesh.home(), "control");
    let mut control = start(&ear, "second");
    let said = ear.hears("READY=1", SOON).expect("ready");
    assert!(
        said.contains("STATUS=serves 0 proxies; xDS 127.0.0.1:"),
        "{said}"
    );
    let ports = std::fs::read(mesh.home().join("mesh/second/ports.json")).expect("its ports");
    let ports: serde_json::Value = serde_json::from_slice(&ports).expect("JSON");
    let port = |name: &str| u16::try_from(ports[name].as_u64().expect("a port")).expect("a port");
    for name in ["xds", "api", "metrics"] {
        TcpStream::connect(("127.0.0.1", port(name))).expect("it listened before it said so");
    }
    stuck_is_silent(&ear, control.pid());
    control.signal(Signal::TERM);
    assert!(ear.hears("STOPPING=1", SOON).is_some());
    assert!(control.wait(SOON).expect("it ends").success());

    // The twin: the same control plane whose port somebody else has.
    let _taken = TcpListener::bind(("127.0.0.1", port("xds"))).expect("the port is free now");
    let deaf = Ear::open(mesh.home(), "control-twin");
    let mut control = start(&deaf, "second-twin");
    assert!(!control.wait(SOON).expect("it ends").success());
    let said = deaf.said();
    assert!(
        said.iter().all(|message| !message.contains("READY")),
        "{said:?}"
    );
    let port = port("xds").to_string();
    assert!(control.err().contains(&port), "{}", control.err());
}

#[test]
fn a_workload_says_ready_when_its_program_listens_and_is_alive_while_both_processes_are() {
    let mesh = Mesh::up();
    let ear = Ear::open(mesh.home(), "run");
    let port = free_port().to_string();
    // It listens once its standard input ends.
    let script = format!(
        "read x; exec {} serve --port {port} --name payment --version v1 --log {}",
        testprog().display(),
        mesh.log("payment").display()
    );
    let mut command = mesh.command([
        "run", "-s", "payment", "-p", &port, "--", "sh", "-c", &script,
    ]);
    let mut run = Program::start("payment", mesh.home(), ear.tell(&mut command, WATCHDOG))
        .expect("it starts");
    until("the sidecar to be there", SOON, || {
        mesh.workloads()
            .iter()
            .any(|workload| workload["service"] == "payment")
            .then_some(())
    });
    alive(&ear);
    assert!(
        ear.said().iter().all(|message| !message.contains("READY")),
        "nothing listens yet"
    );
    run.close_stdin();
    let said = ear.hears("READY=1", SOON).expect("ready");
    assert!(
        said.contains(&format!("STATUS=the program listens on {port}")),
        "{said}"
    );
    stuck_is_silent(&ear, mesh.sidecar_of(&run).expect("a sidecar"));
    stuck_is_silent(&ear, run.pid());
    for child in children(run.pid()) {
        let environment = std::fs::read(format!("/proc/{child}/environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        assert!(
            !environment.contains("NOTIFY_SOCKET") && !environment.contains("WATCHDOG"),
            "the ear is for naka run alone: {environment}"
        );
    }
    run.signal(Signal::TERM);
    assert!(ear.hears("STOPPING=1", SOON).is_some());
    run.wait(SOON).expect("it ends");
}

#[test]
fn a_proxy_says_why_it_is_not_ready_and_a_gateway_is_ready_and_alive() {
    let mesh = Mesh::up();
    let ear = Ear::open(mesh.home(), "gateway");
    let mut command = mesh.command(["proxy", "gateway"]);
    let mut gateway =
        Program::start("gateway", mesh.home(), ear.tell(&mut command, WATCHDOG)).expect("starts");
    assert!(ear.hears("READY=1", SOON).is_some(), "{}", gateway.err());
    stuck_is_silent(&ear, gateway.pid());
    gateway.signal(Signal::TERM);
    assert!(ear.hears("STOPPING=1", SOON).is_some());
    gateway.wait(SOON).expect("it ends");

    // The twin: a sidecar whose control plane is not there and that has nothing saved.
    let ear = Ear::open(mesh.home(), "sidecar");
    let dir = mesh.home().join("alone");
    let nobody = format!("127.0.0.1:{}", free_port());
    let settings = serde_json::json!({
        "run_dir": dir, "service_account": "alone", "service": "alone", "workload_name": "alone-0",
        "control": {"addresses": [nobody], "token": null}, "outbound": {"bind": "127.0.0.1:0"},
    });
    let file = mesh.file("alone.json", &settings.to_string());
    let file = file.to_str().expect("printable");
    let mut command = mesh.command(["proxy", "sidecar", "--settings", file]);
    let sidecar =
        Program::start("alone", mesh.home(), ear.tell(&mut command, WATCHDOG)).expect("starts");
    let said = ear
        .hears("STATUS=not ready", SOON)
        .unwrap_or_else(|| panic!("{}", sidecar.err()));
    assert!(said.contains("naka token create -s alone"), "{said}");
    alive(&ear);
    let said = ear.said();
    assert!(
        said.iter().all(|message| !message.contains("READY")),
        "{said:?}"
    );
}
