//! A captured program and the life of its sidecar: an address that the program remembers still leads to the name.

use crate::namespace::door_of;
use naka_testkit::mesh::{Mesh, SOON, testprog};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Resolves the name once, and calls the address from then on; a line per call.
const CALLER: &str = "
A=$(getent ahostsv4 payment | head -n 1 | cut -d ' ' -f 1)
while :; do curl -s -m 5 -o /dev/null -w \"%{http_code} $A\\n\" \"http://$A/\"; sleep 0.05; done";

/// Kills the sidecar and waits for the next one.
fn replace_sidecar(mesh: &Mesh, program: &Program, meanwhile: impl FnOnce()) {
    let before = mesh.sidecar_of(program).expect("a sidecar");
    let pid = i32::try_from(before).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a number of a process"), Signal::KILL).expect("our own process");
    meanwhile();
    until("another sidecar", SOON, || {
        mesh.sidecar_of(program).ok().filter(|pid| *pid != before)
    });
}

/// The codes that calls had since there were `from` lines.
fn codes(program: &Program, from: usize) -> Vec<String> {
    let calls = program.out();
    let codes = calls.lines().skip(from);
    codes
        .filter_map(|line| Some(line.split_once(' ')?.0.to_owned()))
        .collect()
}

fn calls_of(program: &Program, from: usize, code: &str) {
    until(
        format_args!("five calls with {code}; {}", program.said()),
        SOON,
        || {
            let codes = codes(program, from);
            (codes.iter().filter(|got| *got == code).count() >= 5).then_some(())
        },
    );
}

fn found(dir: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            found(&path, name)
        } else {
            (entry.file_name() == name).then_some(path)
        }
    })
}

/// How a workload's calls are captured and what was seen of them, as the control plane tells it.
fn seen(mesh: &Mesh, service: &str) -> Option<(String, u64, u64)> {
    let all = mesh.workloads();
    let one = all.iter().find(|one| one["service"] == service)?;
    let count = |what: &str| one["seen"][what].as_u64();
    let capture = one["capture"].as_str()?.to_owned();
    Some((capture, count("http")?, count("bypassed")?))
}

/// Nobody believes traffic to be in the mesh that is not: calls by name count as requests. The twin calls a port of the
/// host that was opened to it: as many calls, none of them in the mesh.
#[test]
fn what_was_seen_of_a_workload_is_told() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let _inside = mesh.run(
        "caller",
        &["-s", "caller", "--capture", "namespace"],
        &["sh", "-c", CALLER],
    );
    let host = free_port().to_string();
    let mut serve = Command::new(testprog());
    serve.args([
        "serve",
        "--port",
        &host,
        "--name",
        "host",
        "--version",
        "v1",
    ]);
    let _host = Program::start("host", mesh.home(), &mut serve).expect("a program of the host");
    let calls = format!("while :; do curl -s http://127.0.0.1:{host}/ && echo; sleep 0.05; done");
    let twin = mesh.run(
        "twin",
        &["-s", "twin", "--capture", "namespace", "--host-port", &host],
        &["sh", "-c", &calls],
    );
    let (capture, bypassed) = until("requests of the caller", SOON, || {
        let (capture, http, bypassed) = seen(&mesh, "caller")?;
        (http >= 5).then_some((capture, bypassed))
    });
    assert_eq!((capture.as_str(), bypassed), ("namespace", 0));
    let http = until(
        format_args!("calls of the twin; {}", twin.err()),
        SOON,
        || {
            let (_, http, bypassed) = seen(&mesh, "twin")?;
            (bypassed >= 5).then_some(http)
        },
    );
    assert_eq!(http, 0);
}

/// The twin loses the file of addresses: a remembered one then leads nowhere, and certainly not to somebody else.
#[test]
fn an_address_that_a_program_remembers_outlives_its_sidecar() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let caller = mesh.run(
        "caller",
        &["-s", "caller", "--capture", "namespace"],
        &["sh", "-c", CALLER],
    );
    calls_of(&caller, 0, "200");
    assert!(
        caller.out().starts_with("200 24") || caller.out().starts_with("200 25"),
        "a virtual address: {}",
        caller.out()
    );
    let saved = until("the addresses are saved", SOON, || {
        found(mesh.home(), "virtual-addresses.json")
            .filter(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("payment")))
    });
    replace_sidecar(&mesh, &caller, || {});
    let from = caller.out().lines().count();
    calls_of(&caller, from, "200");

    replace_sidecar(&mesh, &caller, || std::fs::remove_file(&saved).unwrap());
    let from = caller.out().lines().count();
    calls_of(&caller, from, "000");
    assert!(!codes(&caller, from + 1).contains(&"200".to_owned()));
}

/// A door that has no file descriptor left keeps its callers waiting and goes on once there is one. The twin is inside:
/// as long as there is none, the next sidecar does not come up.
#[test]
fn a_door_outlives_a_want_of_descriptors() {
    // Fewer than it has open (its listeners), more than it waits for (its callers).
    const FEW: Option<u64> = Some(6);
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let caller = mesh.run(
        "caller",
        &["-s", "caller", "--capture", "namespace"],
        &["sh", "-c", CALLER],
    );
    calls_of(&caller, 0, "200");
    let door = i32::try_from(door_of(&caller)).ok().and_then(Pid::from_raw);
    let allow = |current| {
        let maximum = Some(1024);
        let limit = Rlimit { current, maximum };
        prlimit(door, Resource::Nofile, limit).expect("our own process")
    };
    replace_sidecar(&mesh, &caller, || {
        allow(FEW);
    });
    let from = caller.out().lines().count();
    until("a call that is lost", SOON, || {
        codes(&caller, from)
            .contains(&"000".to_owned())
            .then_some(())
    });
    let before = allow(Some(1024));
    assert_eq!(before.current, FEW);
    let from = caller.out().lines().count();
    calls_of(&caller, from + 1, "200");
    assert_eq!(
        door_of(&caller),
        door.expect("a number")
            .as_raw_nonzero()
            .get()
            .unsigned_abs()
    );
}
