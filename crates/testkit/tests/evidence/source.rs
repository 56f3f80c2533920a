//! A watched directory owns its objects, and `apply --prune` removes only what its own set gave. What is in force is
//! read by kubectl's paths; what proxies got shows in the programs' answers.

use crate::api::kubectl;
use crate::traffic::split;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::{size, wait};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A route of its own.
fn route(name: &str, timeout: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec:\n  hosts: [{name}]\n  http:\n  - timeout: {timeout}s\n    route: [{{destination: {{host: {name}}}}}]\n"
    )
}

/// A directory with this many routes, one a file, and a mesh that watches it.
fn watched(count: usize) -> (Mesh, PathBuf, tempfile::TempDir) {
    let kept = tempfile::tempdir().expect("a directory");
    let dir = kept.path().join("objects");
    std::fs::create_dir(&dir).expect("a directory");
    for number in 0..count {
        write(
            &dir,
            &format!("r{number}.yaml"),
            &route(&format!("r{number}"), 1),
        );
    }
    let mesh = Mesh::up_with(&["--dir", dir.to_str().expect("printable")]);
    (mesh, dir, kept)
}

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).expect("write");
}

fn remove(dir: &Path, name: &str) {
    std::fs::remove_file(dir.join(name)).expect("remove");
}

/// Timeouts of the routes in the store, by name.
fn routes(mesh: &Mesh) -> Vec<(String, String)> {
    let list = mesh.naka(["get", "virtualservices", "-o", "json"]).stdout;
    let list: Value = serde_json::from_slice(&list).unwrap_or_default();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let of = |item: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (
            text(&item["metadata"]["name"]),
            text(&item["spec"]["http"][0]["timeout"]),
        )
    };
    items.iter().map(of).collect()
}

fn names(mesh: &Mesh) -> Vec<String> {
    routes(mesh).into_iter().map(|(name, _)| name).collect()
}

#[track_caller]
fn until_routes(mesh: &Mesh, what: &str, want: &[(&str, &str)]) {
    let want: Vec<(String, String)> = want
        .iter()
        .map(|(name, timeout)| ((*name).to_owned(), (*timeout).to_owned()))
        .collect();
    wait::until(format_args!("{what}: {want:?}"), SOON, || {
        (routes(mesh) == want).then_some(())
    });
}

/// The findings of `naka status` with this code.
fn said(mesh: &Mesh, code: &str) -> Vec<Value> {
    let status = mesh.naka(["status", "-o", "json"]).stdout;
    let status: Value = serde_json::from_slice(&status).unwrap_or_default();
    let all = status["findings"].as_array().cloned().unwrap_or_default();
    all.into_iter().filter(|f| f["code"] == code).collect()
}

#[track_caller]
fn until_said(mesh: &Mesh, code: &str) -> String {
    wait::until(format_args!("a finding {code}"), SOON, || {
        said(mesh, code).first().map(Value::to_string)
    })
}

#[track_caller]
fn until_silent(mesh: &Mesh, code: &str) {
    wait::until(format_args!("no finding {code}"), SOON, || {
        said(mesh, code).is_empty().then_some(())
    });
}

fn words(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// Nobody else writes what the directory owns, by any way in; what it does not own stays free (the twin).
#[test]
fn a_directory_owns_its_objects() {
    let (mesh, dir, _kept) = watched(4);
    assert_eq!(
        names(&mesh),
        ["r0", "r1", "r2", "r3"],
        "there from the start"
    );
    write(
        &dir,
        "r0.yaml",
        &format!("# a comment first\n{}", route("r0", 2)),
    );
    until_routes(
        &mesh,
        "a change arrives",
        &[("r0", "2s"), ("r1", "1s"), ("r2", "1s"), ("r3", "1s")],
    );
    let place = dir.join("r0.yaml").display().to_string() + ":2";
    let other = mesh.file("other.yaml", &route("r0", 9));
    let other = other.to_str().expect("printable");
    for arguments in [
        vec!["apply", "-f", other],
        vec!["delete", "virtualservice", "r0"],
        vec!["delete", "-f", other],
        vec!["undo"],
    ] {
        let output = mesh.naka(&arguments);
        let words = words(&output);
        assert!(
            output.status.code() != Some(0) && words.contains(&place),
            "{arguments:?}: {words}"
        );
    }
    assert_eq!(routes(&mesh)[0].1, "2s");
    let history = mesh.ok(["history", "VirtualService/r0", "-o", "json"]);
    assert!(
        history.contains(&format!("\"dir:{}\"", dir.display())) && history.contains(&place),
        "{history}"
    );

    // The twin: an object of nobody's directory, and one whose file is gone.
    let free = mesh.file("free.yaml", &route("free", 1));
    let free = free.to_str().expect("printable");
    mesh.ok(["apply", "-f", free]);
    remove(&dir, "r0.yaml");
    until_routes(
        &mesh,
        "a deletion arrives",
        &[("free", "1s"), ("r1", "1s"), ("r2", "1s"), ("r3", "1s")],
    );
    mesh.ok(["apply", "-f", other]);
    mesh.ok(["delete", "virtualservice", "free", "r0"]);
    assert_eq!(names(&mesh), ["r1", "r2", "r3"]);
}

/// kubectl meets the same wall.
#[test]
fn kubectl_cannot_edit_what_a_directory_owns() {
    let (mesh, dir, _kept) = watched(1);
    let run = |name: &str| {
        let patch = r#"{"metadata":{"labels":{"a":"b"}}}"#;
        let arguments = ["patch", "virtualservice", name, "--type=merge", "-p", patch];
        let output = kubectl(&mesh, &arguments);
        (output.status.success(), words(&output))
    };
    let (done, said) = run("r0");
    assert!(
        !done && said.contains(&format!("{}:1", dir.join("r0.yaml").display())),
        "{said}"
    );
    let free = mesh.file("free.yaml", &route("free", 1));
    mesh.ok(["apply", "-f", free.to_str().expect("printable")]);
    let (done, said) = run("free");
    assert!(done, "the twin: {said}");
}

/// Broken files cost nothing but themselves.
#[test]
fn bad_files_are_named_and_the_rest_applies() {
    let (mesh, dir, _kept) = watched(5);
    // A misspelt field with nothing sound around it, then a sound document in the same file.
    let bad = route("r0", 5).replace("hosts", "hots") + "---\n" + &route("more", 1);
    write(&dir, "r0.yaml", &bad);
    let all = [
        ("more", "1s"),
        ("r0", "1s"),
        ("r1", "1s"),
        ("r2", "1s"),
        ("r3", "1s"),
        ("r4", "1s"),
    ];
    until_routes(
        &mesh,
        "the sound rest applies, the last good r0 stays",
        &all,
    );
    let said = until_said(&mesh, "E002");
    assert!(
        said.contains("r0.yaml")
            && said.contains("\"line\":5")
            && said.contains("last good version stays"),
        "{said}"
    );
    // Bytes that are no text: nothing is deleted, not even what another file has lost.
    std::fs::write(dir.join("r1.yaml"), [0xff, 0xfe, 0x00]).expect("write");
    remove(&dir, "r2.yaml");
    until_said(&mesh, "W962");
    assert_eq!(routes(&mesh).len(), 6);
    // Editors' droppings are not read.
    write(&dir, ".r3.yaml.swp", "nonsense: [");
    write(&dir, "r3.yaml~", "nonsense: [");
    // The same object twice, differently: named, the last good version stays.
    write(&dir, "twice.yaml", &route("r3", 7));
    let said = until_said(&mesh, "E961");
    assert!(
        said.contains("r3.yaml:1") && said.contains("twice.yaml:1"),
        "{said}"
    );
    remove(&dir, "twice.yaml");
    write(&dir, "r1.yaml", &route("r1", 3));
    write(
        &dir,
        "r0.yaml",
        &(route("r0", 5) + "---\n" + &route("more", 1)),
    );
    let all = [
        ("more", "1s"),
        ("r0", "5s"),
        ("r1", "3s"),
        ("r3", "1s"),
        ("r4", "1s"),
    ];
    until_routes(&mesh, "the twin: good files", &all);
    for code in ["E002", "E961", "W962", "E960"] {
        until_silent(&mesh, code);
    }
}

/// Too much gone at once is not believed, until it is back or somebody says so.
#[test]
fn a_mass_deletion_is_held() {
    let (mut mesh, dir, kept) = watched(6);
    let aside = kept.path().join("aside");
    std::fs::rename(&dir, &aside).expect("rename");
    until_said(&mesh, "E960");
    std::fs::create_dir(&dir).expect("a directory");
    let held = until_said(&mesh, "W961");
    assert!(held.contains("6 of 6"), "{held}");
    until_silent(&mesh, "E960");
    assert_eq!(routes(&mesh).len(), 6);
    // A restart in between does not let them go.
    mesh.kill_control();
    mesh.start_control();
    until_said(&mesh, "W961");
    assert_eq!(routes(&mesh).len(), 6);
    // The files come back by themselves, the directory as a link now.
    std::fs::remove_dir(&dir).expect("remove");
    std::os::unix::fs::symlink(&aside, &dir).expect("link");
    until_silent(&mesh, "W961");
    for name in ["r0.yaml", "r1.yaml", "r2.yaml"] {
        remove(&dir, name);
    }
    let held = until_said(&mesh, "W961");
    let id = held.split("naka confirm ").nth(1).expect("a command");
    let id: String = id
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '-')
        .collect();
    let output = mesh.naka(["confirm", "dir-00000000"]);
    assert_ne!(output.status.code(), Some(0), "another id releases nothing");
    assert_eq!(routes(&mesh).len(), 6);
    mesh.ok(["confirm", &id]);
    assert_eq!(names(&mesh), ["r3", "r4", "r5"]);
    until_silent(&mesh, "W961");
}

/// A ConfigMap as Kubernetes mounts it: files are links through `..data`, which is swapped by a rename.
#[test]
fn links_are_swapped_and_files_are_renamed() {
    let (mesh, dir, _kept) = watched(4);
    let put = |version: &str, timeout: u32| {
        let data = dir.join(version);
        std::fs::create_dir(&data).expect("a directory");
        write(&data, "mounted.yaml", &route("mounted", timeout));
        let link = dir.join("..data_tmp");
        std::os::unix::fs::symlink(version, &link).expect("link");
        std::fs::rename(&link, dir.join("..data")).expect("rename");
    };
    put("..2026_01", 1);
    std::os::unix::fs::symlink("..data/mounted.yaml", dir.join("mounted.yaml")).expect("link");
    let rest = [("r0", "1s"), ("r1", "1s"), ("r2", "1s"), ("r3", "1s")];
    let with = |timeout| [&[("mounted", timeout)][..], &rest].concat();
    until_routes(&mesh, "through the links", &with("1s"));
    put("..2026_02", 2);
    until_routes(&mesh, "after the swap", &with("2s"));
    // Into another file: no event, and the new place is named.
    let revision = |mesh: &Mesh| mesh.ok(["history", "VirtualService/r0", "-o", "json"]);
    let before = revision(&mesh);
    std::fs::rename(dir.join("r0.yaml"), dir.join("z.yaml")).expect("rename");
    let file = mesh.file("r0.yaml", &route("r0", 9));
    let file = file.to_str().expect("printable");
    wait::until("the new place is named", SOON, || {
        words(&mesh.naka(["apply", "-f", file]))
            .contains("z.yaml:1")
            .then_some(())
    });
    assert_eq!(revision(&mesh), before);
}

/// Many objects: read at the start, unchanged ones cost nothing, a change of one arrives.
#[test]
fn ten_thousand_objects() {
    let count = size().pick(1_000, 10_000);
    let kept = tempfile::tempdir().expect("a directory");
    let dir = kept.path().to_owned();
    for file in 0..10 {
        let all: Vec<String> = (0..count / 10)
            .map(|n| route(&format!("r{file}-{n}"), 1))
            .collect();
        write(&dir, &format!("f{file}.yaml"), &all.join("---\n"));
    }
    let start = std::time::Instant::now();
    let mut mesh = Mesh::up_with(&["--dir", dir.to_str().expect("printable")]);
    println!("{count} objects: up in {} ms", start.elapsed().as_millis());
    assert_eq!(names(&mesh).len(), count);
    mesh.kill_control();
    let start = std::time::Instant::now();
    mesh.start_control();
    println!(
        "{count} objects, known already: up in {} ms",
        start.elapsed().as_millis()
    );
    let events = mesh.ok(["history", "VirtualService/r3-7", "-o", "json"]);
    assert_eq!(
        events.matches("object.put").count(),
        1,
        "a restart makes no event: {events}"
    );
    let all: Vec<String> = (0..count / 10)
        .map(|n| route(&format!("r3-{n}"), if n == 7 { 2 } else { 1 }))
        .collect();
    let start = std::time::Instant::now();
    write(&dir, "f3.yaml", &all.join("---\n"));
    let changed = || {
        mesh.ok(["get", "virtualservice", "r3-7", "-o", "json"])
            .contains("\"2s\"")
    };
    wait::until("the change", SOON, || changed().then_some(()));
    println!(
        "{count} objects: a change is in the store {} ms after it was written",
        start.elapsed().as_millis()
    );
    let other = mesh.ok(["history", "VirtualService/r3-8", "-o", "json"]);
    assert_eq!(other.matches("object.put").count(), 1, "{other}");
}

/// A change in a file reaches the programs.
#[test]
fn traffic_follows_the_file() {
    let kept = tempfile::tempdir().expect("a directory");
    write(kept.path(), "canary.yaml", &split(100, 0));
    let mesh = Mesh::up_with(&["--dir", kept.path().to_str().expect("printable")]);
    let _servers = (mesh.serve("payment", "v1"), mesh.serve("payment", "v2"));
    let load = mesh.load(
        "load",
        &["-s", "order", "--capture", "proxy"],
        &[
            "--url",
            "http://payment/",
            "--rate",
            "50",
            "--connections",
            "2",
            "--for",
            "600",
        ],
    );
    let only = |version: &str| {
        wait::until(format_args!("answers of {version} only"), SOON, || {
            let log = mesh.logged("load");
            let last: Vec<_> = log.iter().rev().take(10).collect();
            (last.len() == 10 && last.iter().all(|line| line["version"] == version)).then_some(())
        });
    };
    only("v1");
    write(kept.path(), "canary.yaml", &split(0, 100));
    only("v2");
    drop(load);
}

/// Only what the same set gave before is pruned.
#[test]
fn prune_removes_what_its_own_set_gave() {
    let kept = tempfile::tempdir().expect("a directory");
    let owned = tempfile::tempdir().expect("a directory");
    write(owned.path(), "o.yaml", &route("owned", 1));
    let mesh = Mesh::up_with(&["--dir", owned.path().to_str().expect("printable")]);
    let dir = kept.path();
    let path = dir.to_str().expect("printable");
    let by_hand = mesh.file("hand.yaml", &route("by-hand", 1));
    mesh.ok(["apply", "-f", by_hand.to_str().expect("printable")]);
    let other = mesh.file("other.yaml", &route("other", 1));
    let other = other.to_str().expect("printable");
    mesh.ok(["apply", "--prune=other", "-f", other]);
    for name in ["a", "b", "c"] {
        write(dir, &format!("{name}.yaml"), &route(name, 1));
    }
    let said = mesh.ok(["apply", "--prune", "-f", path]);
    assert!(!said.contains("pruned"), "{said}");
    remove(dir, "b.yaml");
    // The twin of pruning: a plain apply removes nothing.
    mesh.ok(["apply", "--dry-run", "-f", path]);
    assert_eq!(names(&mesh), ["a", "b", "by-hand", "c", "other", "owned"]);
    let dry = mesh.ok(["apply", "--prune", "--dry-run", "-f", path]);
    assert!(
        dry.contains("VirtualService default/b pruned (dry run)"),
        "{dry}"
    );
    assert_eq!(dry.matches("pruned").count(), 1, "{dry}");
    assert_eq!(names(&mesh).len(), 6);
    // A file that cannot be read would count as missing: nothing at all happens.
    write(dir, "c.yaml", "kind: [\n");
    let output = mesh.naka(["apply", "--prune", "-f", path]);
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    assert_eq!(names(&mesh).len(), 6);
    write(dir, "c.yaml", &route("c", 1));
    let said = mesh.ok(["apply", "--prune", "-f", path]);
    assert!(said.contains("VirtualService default/b pruned"), "{said}");
    assert_eq!(names(&mesh), ["a", "by-hand", "c", "other", "owned"]);
    // Another set's object is refused by name, not taken.
    write(dir, "other.yaml", &route("other", 2));
    let output = mesh.naka(["apply", "--prune", "-f", path]);
    let said = words(&output);
    assert!(
        output.status.code() != Some(0) && said.contains("the set other"),
        "{said}"
    );
    // One undo brings a pruned object back.
    remove(dir, "other.yaml");
    remove(dir, "a.yaml");
    mesh.ok(["apply", "--prune", "-f", path]);
    assert_eq!(names(&mesh), ["by-hand", "c", "other", "owned"]);
    mesh.ok(["undo"]);
    assert_eq!(names(&mesh), ["a", "by-hand", "c", "other", "owned"]);
}
