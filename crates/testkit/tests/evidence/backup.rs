//! Backup and restore of a whole mesh: the control plane's machine is lost, the workloads' machines are not.
//!
//! The workloads run under homes of their own and hold only tokens, as on other machines: nothing but the restored
//! authority, log and addresses can bring them back.

use crate::identity::{run_with_token, served};
use crate::traffic::split;
use naka_testkit::mesh::{Mesh, SOON, testprog};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A program of the tests on "another machine": its home has a join token and nothing else of the mesh.
fn elsewhere(mesh: &Mesh, name: &str, token: &str, options: &[&str], program: &[&str]) -> Program {
    let home = mesh.home().join(format!("machine-{name}"));
    std::fs::create_dir_all(&home).expect("a directory");
    let there = |args: Vec<&str>| {
        let mut command = mesh.command(args);
        command.env("NAKA_HOME", &home).env("HOME", &home);
        // Attempts to reach a control plane are told at this level only.
        command.env("NAKA_LOG", "debug");
        command
    };
    let joined = there(vec!["join", token]).output().expect("naka join");
    assert!(joined.status.success(), "{joined:?}");
    let prog = testprog();
    let log = mesh.log(name);
    let mut args = vec!["run"];
    args.extend_from_slice(options);
    args.extend(["--", prog.to_str().expect("printable")]);
    args.extend_from_slice(program);
    args.extend(["--log", log.to_str().expect("printable")]);
    Program::start(name, mesh.home(), &mut there(args)).expect("naka run")
}

fn token(mesh: &Mesh, service: &str, uses: &str) -> String {
    let made = mesh.ok(["token", "create", "-s", service, "--uses", uses]);
    made.trim().to_owned()
}

/// Workload ids of the connected proxies that have everything, by name.
fn programmed(mesh: &Mesh) -> BTreeMap<String, String> {
    let output = mesh.naka(["get", "proxies", "-A", "-o", "json"]).stdout;
    let list: Value = serde_json::from_slice(&output).unwrap_or_default();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items
        .iter()
        .filter(|proxy| proxy["state"] == "programmed")
        .map(|proxy| (proxy["name"].to_string(), proxy["workload_id"].to_string()))
        .collect()
}

/// Lines that the proxies of a "machine" wrote about themselves.
fn proxy_log(mesh: &Mesh, name: &str) -> String {
    let runs = mesh.home().join(format!("machine-{name}/run"));
    let runs = std::fs::read_dir(runs).into_iter().flatten().flatten();
    runs.filter_map(|run| std::fs::read_to_string(run.path().join("proxy.log")).ok())
        .collect()
}

fn restore(mesh: &Mesh, file: &Path, passphrase: &Path) -> (Option<i32>, String) {
    let output = mesh.naka([
        "restore".as_ref(),
        file.as_os_str(),
        "--passphrase-file".as_ref(),
        passphrase.as_os_str(),
    ]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

fn lose(mesh: &Mesh) {
    std::fs::remove_dir_all(mesh.home().join("mesh")).expect("remove the mesh");
    let _ = std::fs::remove_file(mesh.home().join("config"));
}

/// Payment in two versions and a caller under load, each with a token's identity and nothing else.
fn workloads(mesh: &Mesh, order: &str) -> Vec<Program> {
    let pay = token(mesh, "payment", "2");
    let mut all = Vec::new();
    for version in ["v1", "v2"] {
        let (name, port) = (format!("payment-{version}"), free_port().to_string());
        let label = format!("version={version}");
        let options = ["-s", "payment", "-p", &port, "-l", &label];
        let serve = [
            "serve",
            "--port",
            &port,
            "--name",
            "payment",
            "--version",
            version,
        ];
        all.push(elsewhere(mesh, &name, &pay, &options, &serve));
        mesh.wait_version("payment", version);
    }
    mesh.apply("split.yaml", &split(100, 0));
    let load = [
        "load",
        "--url",
        "http://payment/",
        "--rate",
        "100",
        "--for",
        "600",
    ];
    all.push(elsewhere(mesh, "order", order, &["-s", "order"], &load));
    until("first answers", SOON, || {
        (mesh.logged("order").len() > 50).then_some(())
    });
    all
}

fn sealed(mesh: &Mesh) -> (PathBuf, PathBuf) {
    let (file, passphrase) = (
        mesh.home().join("mesh.backup"),
        mesh.file("passphrase", "kanda batata\n"),
    );
    mesh.ok([
        "backup".as_ref(),
        file.as_os_str(),
        "--passphrase-file".as_ref(),
        passphrase.as_os_str(),
    ]);
    let mode = file.metadata().expect("the backup").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    (file, passphrase)
}

/// The control plane's machine is lost under load and restored from a backup: every proxy comes back as who it was and
/// gets the next change, no call fails, tokens are as used as they were. The twins: an authority made anew on the same
/// ports brings nobody back; a wrong passphrase and a flipped byte restore nothing.
#[test]
fn a_restore_on_an_empty_machine_brings_every_proxy_back() {
    let mut mesh = Mesh::up();
    let (order, unused) = (token(&mesh, "order", "1"), token(&mesh, "late", "1"));
    let mut programs = workloads(&mesh, &order);
    let before = until("all proxies programmed", SOON, || {
        Some(programmed(&mesh)).filter(|all| all.len() == 3)
    });
    let (file, passphrase) = sealed(&mesh);
    let ports = std::fs::read(mesh.home().join("mesh/local/ports.json")).expect("ports");

    mesh.kill_control();
    lose(&mesh);
    std::fs::create_dir_all(mesh.home().join("mesh/local")).expect("a directory");
    std::fs::write(mesh.home().join("mesh/local/ports.json"), ports).expect("ports");
    let said = proxy_log(&mesh, "order").len();
    mesh.start_control();
    until(
        "the caller's proxy does not believe a stranger",
        SOON,
        || {
            let log = proxy_log(&mesh, "order");
            let tries = log[said..].matches("no line to the control plane");
            (tries.count() >= 3 && log[said..].contains("TLS")).then_some(())
        },
    );
    assert!(
        programmed(&mesh).is_empty(),
        "the twin: without a restore nobody comes back"
    );
    mesh.kill_control();
    lose(&mesh);

    let wrong = mesh.file("wrong", "vada pav\n");
    let (code, told) = restore(&mesh, &file, &wrong);
    assert!(
        code == Some(2) && told.contains("passphrase is wrong"),
        "{told}"
    );
    let mut bytes = std::fs::read(&file).expect("the backup");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let flipped = mesh.home().join("flipped.backup");
    std::fs::write(&flipped, bytes).expect("write");
    let (code, told) = restore(&mesh, &flipped, &passphrase);
    assert!(code == Some(2) && told.contains("damaged"), "{told}");
    assert!(
        !mesh.home().join("mesh/local").exists(),
        "nothing is left of a refused restore"
    );

    let began = Instant::now();
    let (code, told) = restore(&mesh, &file, &passphrase);
    assert_eq!(code, Some(0), "{told}");
    let restored = began.elapsed();
    mesh.start_control();
    until("everybody is back as who it was", SOON, || {
        (programmed(&mesh) == before).then_some(())
    });
    let back = began.elapsed();
    mesh.apply("split.yaml", &split(0, 100));
    let seen = mesh.logged("payment-v2").len();
    until("calls follow the next change", SOON, || {
        (mesh.logged("payment-v2").len() > seen + 20).then_some(())
    });
    println!("restore {restored:?}, all three proxies back and programmed after {back:?}");
    assert_eq!(
        restore(&mesh, &file, &passphrase).0,
        Some(2),
        "a mesh that is there stays"
    );

    let load = programs.last_mut().expect("the load");
    load.signal(Signal::TERM);
    let _ = load.wait(SOON);
    let calls = mesh.logged("order");
    let bad: Vec<&Value> = calls.iter().filter(|call| call["status"] != 200).collect();
    assert!(
        bad.is_empty(),
        "{} of {} calls failed: {:?}",
        bad.len(),
        calls.len(),
        bad[0]
    );

    let again = run_with_token(
        &mesh,
        &mesh.home().join("again"),
        "again",
        &order,
        &["-s", "order"],
    );
    until("a used token stays used", SOON, || {
        again.err().contains("used").then_some(())
    });
    let late = run_with_token(
        &mesh,
        &mesh.home().join("late"),
        "late",
        &unused,
        &["-s", "late"],
    );
    until("an unused token is good", SOON, || {
        served(&mesh, "late").then_some(())
    });
    drop((again, late));
}
