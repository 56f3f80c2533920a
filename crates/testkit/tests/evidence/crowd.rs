//! Bad days of the control plane: a thousand proxies at once, subscribers that misbehave, half of all sidecars gone.
//! What is counted is counted by the clients (`naka-swarm`), the programs, and `/proc`.

use crate::traffic::{joined, split};
use naka_testkit::mesh::{Mesh, SOON, testprog};
use naka_testkit::program::Program;
use naka_testkit::{size, wait};
use rustix::process::Signal;
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

/// Longest time for a whole crowd to connect on two busy cores that do other things too.
const ALL: Duration = Duration::from_secs(240);

/// Most resident memory of a control plane with a thousand clients, in KiB.
const LARGEST: u64 = 100 * 1024;

fn swarm(mesh: &Mesh, name: &str, arguments: &[&str]) -> Program {
    let token = mesh.ok(["token", "create", "-s", "swarm", "--uses", "2000"]);
    let mut command = Command::new(testprog().with_file_name("naka-swarm"));
    command.args(arguments).args(["--token", token.trim()]);
    Program::start(name, mesh.home(), &mut command).expect("start naka-swarm")
}

/// The last line that a swarm printed.
fn said(swarm: &Program) -> Value {
    let out = swarm.out();
    let line = out
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str(line).ok());
    line.unwrap_or_default()
}

fn seen(swarm: &Program, what: &str) -> u64 {
    said(swarm)["seen"][what].as_u64().unwrap_or_default()
}

/// Resident memory of a process in KiB.
pub(crate) fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or_default()
}

/// Starts an endless load of GET requests from `order` to `payment` and waits for its first answers.
fn load(mesh: &Mesh, name: &str) -> Program {
    let arguments = [
        "--url",
        "http://payment/",
        "--rate",
        "100",
        "--connections",
        "8",
        "--for",
        "600",
    ];
    let load = mesh.load(name, &["-s", "order"], &arguments);
    answered(mesh, name, 20);
    load
}

/// Waits for so many more answers.
fn answered(mesh: &Mesh, name: &str, more: usize) {
    let before = mesh.logged(name).len();
    wait::until("answers", SOON, || {
        (mesh.logged(name).len() > before + more).then_some(())
    });
}

fn end(mut load: Program) {
    load.signal(Signal::TERM);
    let _ = load.wait(SOON);
}

/// A crowd of clients that decode and acknowledge, ten real sidecars among them: all come back at once after the
/// control plane was killed, all get the next change, no call fails meanwhile, and memory stays within bounds.
#[test]
fn a_thousand_proxies_come_back_at_once() {
    let (clients, real) = size().pick((200u64, 3usize), (1_000, 10));
    let mut mesh = Mesh::down_with(&[]);
    // Fewer open files than clients, as a shell gives them: the control plane must ask for more itself.
    let few = ["prlimit", "--nofile=128:"];
    mesh.within(few);
    mesh.start_control();
    mesh.within(Vec::<String>::new());
    let mut servers = vec![mesh.serve("payment", "v1"), mesh.serve("payment", "v2")];
    for number in 3..real {
        servers.push(mesh.serve("payment", &format!("v{number}")));
    }
    mesh.apply("canary.yaml", &split(90, 10));
    let load = load(&mesh, "load");
    let idle = resident(mesh.control_pid());
    let count = clients.to_string();
    let want = "payment.default.svc.cluster.local:80";
    let crowd = swarm(
        &mesh,
        "crowd",
        &["crowd", "--count", &count, "--want", want],
    );
    wait::until("everybody has joined", ALL, || {
        (seen(&crowd, "connected") == clients && seen(&crowd, "wanted") >= clients).then_some(())
    });
    println!(
        "{clients} clients: joined in {} ms, control plane {idle} -> {} KiB",
        said(&crowd)["ms"],
        resident(mesh.control_pid())
    );

    mesh.kill_control();
    // The twin of what follows: without a control plane nobody is connected.
    wait::until("everybody notices", SOON, || {
        (seen(&crowd, "connected") == 0).then_some(())
    });
    let start = Instant::now();
    mesh.within(few);
    mesh.start_control();
    mesh.within(Vec::<String>::new());
    wait::until("everybody is back", ALL, || {
        (seen(&crowd, "connected") == clients).then_some(())
    });
    let back = start.elapsed();
    let before = seen(&crowd, "wanted");
    let start = Instant::now();
    mesh.apply("canary.yaml", &split(50, 50));
    wait::until("everybody has the change", ALL, || {
        (seen(&crowd, "wanted") >= before + clients).then_some(())
    });
    println!(
        "{clients} clients: back {:.1} s after the start, a change at all of them {} ms after apply, control plane {} KiB",
        back.as_secs_f64(),
        start.elapsed().as_millis(),
        resident(mesh.control_pid())
    );
    // What their coming needed is given back a moment later; what is left is what they cost.
    let held = wait::until("its memory settles within bounds", SOON, || {
        Some(resident(mesh.control_pid())).filter(|held| *held <= LARGEST)
    });
    println!("{clients} clients: settled at {held} KiB");
    answered(&mesh, "load", 50);
    end(load);
    let names: Vec<String> = (1..=servers.len())
        .map(|v| format!("payment-v{v}"))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let got = joined(&mesh, "load", &names);
    assert_eq!(got.failed.len(), 0, "of {}", got.sent);
}

/// Subscribers that never read, never answer, invent nonces, refuse in a storm or ask for 10⁵ names cost others
/// nothing: a change is in force as fast as ever and memory is bounded. The twin: a stopped control plane is noticed
/// by the same measure.
#[test]
fn misbehaving_subscribers_harm_nobody() {
    let mesh = Mesh::up();
    let (_v1, _v2) = (mesh.serve("payment", "v1"), mesh.serve("payment", "v2"));
    mesh.apply("canary.yaml", &split(100, 0));
    let load = load(&mesh, "load");
    let idle = resident(mesh.control_pid());
    let seconds = size().pick(4, 20).to_string();
    for crime in ["mute", "silent", "nonces", "nacks", "names"] {
        let mut swarm = swarm(&mesh, crime, &[crime, "--for", &seconds]);
        wait::until("the crime has begun", SOON, || {
            swarm.out().contains("open").then_some(())
        });
        for (v1, v2) in [(0, 100), (100, 0)] {
            let file = mesh.file("canary.yaml", &split(v1, v2));
            let file = file.to_str().expect("printable");
            // Without --wait: a subscriber that never answers would be waited for, as it should.
            mesh.ok(["apply", "-f", file]);
            let took = turned(&mesh, if v1 == 0 { "v2" } else { "v1" });
            println!(
                "{crime}: a change is in force after {} ms",
                took.as_millis()
            );
        }
        let _ = swarm.wait(SOON);
        let now = resident(mesh.control_pid());
        println!(
            "{crime}: {} control plane {idle} -> {now} KiB",
            said(&swarm)
        );
        assert!(now < idle + 40 * 1024, "{crime}: {idle} -> {now} KiB");
        // The twin: the crime was committed.
        let done = match crime {
            "silent" => said(&swarm)["got"]["VirtualHost"].as_u64() >= Some(1),
            _ => said(&swarm)["sent"].as_u64() >= Some(10),
        };
        assert!(done, "{crime}: {}", said(&swarm));
    }
    end(load);
    let got = joined(&mesh, "load", &["payment-v1", "payment-v2"]);
    assert_eq!(got.failed.len(), 0, "of {}", got.sent);
}

/// How long until the load is answered by this version only.
fn turned(mesh: &Mesh, version: &str) -> Duration {
    let start = Instant::now();
    wait::until(format_args!("answers of {version}"), SOON, || {
        let log = mesh.logged("load");
        let last = log.iter().rev().take(5);
        last.clone()
            .all(|line| line["version"] == version)
            .then_some(())
    });
    start.elapsed()
}

/// A proxy gets secrets and records that are its own and nothing of others.
#[test]
fn nobody_gets_another_identitys_resources() {
    let mesh = Mesh::up();
    let _server = mesh.serve("payment", "v1");
    mesh.file(
        "secret.yaml",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: card-key, namespace: default}\nstringData: {key: planted-4711}\n",
    );
    mesh.ok([
        "apply",
        "-f",
        mesh.home().join("secret.yaml").to_str().expect("printable"),
    ]);
    let secret = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    let asked = |name: &str, names: &str| {
        let arguments = ["foreign", "--type", secret, "--names", names, "--for", "2"];
        let mut swarm = swarm(&mesh, name, &arguments);
        let _ = swarm.wait(SOON);
        assert!(!swarm.out().contains("planted"));
        said(&swarm)["got"]["Secret"].as_u64().unwrap_or_default()
    };
    let foreign = "default,card-key,kubernetes://card-key,kubernetes://default/card-key,kubernetes-gateway://default/card-key,file-cert:/etc/passwd";
    assert_eq!(asked("foreign", foreign), 0);
    assert_eq!(
        asked("own", "ROOTCA"),
        1,
        "the twin: what everybody may have comes"
    );
}

/// One bad object among a thousand is named, and the others are in force. The twin: the same file without it.
#[test]
fn one_bad_object_among_a_thousand() {
    let count = size().pick(200, 1_000);
    let mesh = Mesh::up();
    let object = |number: usize, field: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: s{number}}}\nspec:\n  hosts: [s{number}]\n  http:\n  - {field}: [{{destination: {{host: s{number}}}}}]\n---\n"
        )
    };
    let bad = count / 2;
    let text = |broken: bool| -> String {
        (0..count)
            .map(|n| object(n, if broken && n == bad { "ruote" } else { "route" }))
            .collect()
    };
    let apply = |name: &str, text: &str| {
        let file = mesh.file(name, text);
        mesh.naka(["apply", "-f", file.to_str().expect("printable")])
    };
    let output = apply("bad.yaml", &text(true));
    let words = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    let line = bad * 8 + 7;
    assert!(
        words.contains("ruote") && words.contains(&format!(":{line}:")),
        "line {line}: {words}"
    );
    let list: Value =
        serde_json::from_str(&mesh.ok(["get", "virtualservices", "-o", "json"])).expect("JSON");
    let stored = list["items"].as_array().map_or(0, Vec::len);
    assert!(stored >= count - 1, "{stored} of {count}");
    let output = apply("good.yaml", &text(false));
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Half of all sidecars are killed under load: they come back by themselves, and once they are noticed nothing fails.
/// The twin: sidecars killed with their programs stay away.
#[test]
fn half_of_all_sidecars_are_killed() {
    let mesh = Mesh::up();
    let replicas: Vec<Program> = (1..=4)
        .map(|n| mesh.serve("payment", &format!("v{n}")))
        .collect();
    let load = load(&mesh, "load");
    for replica in &replicas[..2] {
        let sidecar = mesh.sidecar_of(replica).expect("a sidecar");
        signal(sidecar, Signal::KILL);
    }
    let healthy = || {
        let is = |w: &&Value| w["service"] == "payment" && w["state"] == "healthy";
        mesh.workloads().iter().filter(is).count()
    };
    // The last hundred answers: good all of them, and of all four. None of them from before the kill.
    answered(&mesh, "load", 150);
    let back = || {
        let log = mesh.logged("load");
        let last: Vec<&Value> = log.iter().rev().take(100).collect();
        let good = last.iter().all(|line| line["status"] == 200);
        let of = |n| last.iter().any(|line| line["version"] == format!("v{n}"));
        (good && (1..=4).all(of) && healthy() == 4).then_some(log.len())
    };
    let noticed = wait::until("all four are back", SOON, || {
        let alive = |replica| mesh.sidecar_of(replica).is_ok();
        replicas.iter().all(alive).then(back).flatten()
    });
    answered(&mesh, "load", 200);
    end(load);
    let late = mesh.logged("load").split_off(noticed);
    let late = late.iter().filter(|line| line["status"] != 200).count();
    assert_eq!(late, 0, "nothing fails once they are back");
    let names = ["payment-v1", "payment-v2", "payment-v3", "payment-v4"];
    let got = joined(&mesh, "load", &names);
    println!(
        "half of the sidecars killed: {} requests, {} failed",
        got.sent,
        got.failed.len()
    );
    // What fails before that: tries under way when their sidecar died, which may have been processed, and what is more
    // than the retry budget allows until the sidecars are up again, which a busy machine takes its time for.
    assert!(
        got.failed.len() < got.sent / 4,
        "{} of {} failed: {:?}",
        got.failed.len(),
        got.sent,
        got.failed
    );

    for replica in &replicas[..2] {
        let group = i32::try_from(replica.pid())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process_group(group.expect("a pid"), Signal::KILL).expect("kill");
    }
    wait::until("two are gone", SOON, || (healthy() == 2).then_some(()));
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a pid"), signal).expect("signal");
}

/// The same configuration, sent ten times a second while a connection is upgraded: no revision, no drain. The twin:
/// changed configuration makes revisions.
#[test]
fn equal_configuration_again_and_again() {
    let mesh = Mesh::up();
    let (_v1, _v2) = (mesh.serve("payment", "v1"), mesh.serve("payment", "v2"));
    mesh.apply("canary.yaml", &split(90, 10));
    let (prog, log) = (testprog(), mesh.log("hold"));
    let (prog, log) = (
        prog.to_str().expect("printable"),
        log.to_str().expect("printable"),
    );
    let command = [prog, "hold", "--url", "http://payment/ws", "--log", log];
    let mut hold = mesh.run("hold", &["-s", "order"], &command);
    wait::until("the first echoes", SOON, || {
        (mesh.logged("hold").len() > 3).then_some(())
    });
    let revision = || -> Value {
        let list: Value =
            serde_json::from_str(&mesh.ok(["get", "virtualservices", "-o", "json"])).expect("JSON");
        list["metadata"]["resourceVersion"].clone()
    };
    let before = revision();
    let file = mesh.home().join("canary.yaml");
    let file = file.to_str().expect("printable");
    let times = size().pick(30, 300);
    let mut next = Instant::now();
    for _ in 0..times {
        mesh.ok(["apply", "-f", file]);
        next += Duration::from_millis(100);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    assert_eq!(revision(), before);
    let echoes = mesh.logged("hold").len();
    wait::until("echoes go on", SOON, || {
        (mesh.logged("hold").len() > echoes + 5).then_some(())
    });
    assert!(hold.alive(), "{}", hold.err());
    mesh.apply("canary.yaml", &split(80, 20));
    assert_ne!(revision(), before);
}
