//! A captured program and the life of its sidecar: an address that the program remembers still leads to the name.

use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::Program;
use naka_testkit::wait::until;
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};

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
        &format!("five calls with {code}; {}", program.err()),
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
