//! Events of the log go by their age, under a running mesh.

use super::export::{caught_up, change, lines, numbers, status};
use super::{calls, dir, edited, verify};
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::wait::until;
use std::collections::BTreeSet;
use std::path::Path;

/// Events go, what is in force stays, over a restart too; the log verifies and says up to where events went by their
/// age; an edit of what is left is found; what went had left before, to where the trail goes. The twin: without
/// `--audit-keep` the log is kept whole.
#[test]
fn events_go_by_their_age_and_what_is_in_force_stays() {
    let scratch = tempfile::tempdir().expect("a directory");
    let file = scratch.path().join("events.jsonl");
    let path = file.to_str().expect("printable");
    // Nobody is there.
    let dead = "http://127.0.0.1:1/v1/logs";
    let options = ["--audit-keep", "2s", "--audit-to", path, "--audit-to", dead];
    let mut mesh = Mesh::up_with(&options);
    let _payment = mesh.serve("payment", "v1");
    for name in ["one", "two", "three"] {
        change(&mesh, name).expect("taken");
    }
    let noted = mesh.ok(["audit", "head"]);
    let head: u64 = noted
        .split(':')
        .next()
        .and_then(|seq| seq.parse().ok())
        .expect("a number");
    until("the changes are too old", SOON, || {
        (status(&mesh)["begins_after"].as_u64() >= Some(head)).then_some(())
    });
    let gone = status(&mesh)["begins_after"].as_u64().expect("a number");
    until("what a dead place never gets is counted", SOON, || {
        let all = status(&mesh);
        (all["places"][1]["dropped"].as_u64() >= Some(head)).then_some(())
    });
    for restart in [false, true] {
        if restart {
            mesh.kill_control();
            mesh.start_control();
        }
        let names = mesh.ok(["get", "virtualservice"]);
        assert!(
            ["one", "two", "three"]
                .iter()
                .all(|name| names.contains(name)),
            "{names}"
        );
        let history = mesh.naka(["history", "virtualservice/one"]);
        let said = [history.stdout, history.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!said.contains("user:"), "its event is gone: {said}");
        assert!(said.contains("went by their age"), "{said}");
        let name = if restart { "order-again" } else { "order" };
        assert_eq!(calls(&mesh, name, &["http://payment/"]), ["200"]);
        let (code, said) = verify(&mesh, &[]);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("gone by age, as the log tells"), "{said}");
    }
    if gone > head {
        let (code, said) = verify(&mesh, &["--head", noted.trim()]);
        assert!(code == 0 && said.contains("1 of the heads"), "{said}");
    }
    change(&mesh, "four").expect("taken");
    caught_up(&mesh, 0);
    // Every event is where it was sent, or was overtaken while the control plane was away, and that is told.
    let mut all: BTreeSet<u64> = numbers(&file, "log").into_iter().collect();
    for event in lines(&file) {
        if event["kind"] == "audit.undelivered" && event["after"]["to"] == path {
            let part = |name: &str| event["after"][name].as_u64().expect("a number");
            all.extend(part("first")..=part("last"));
        }
    }
    let last = *all.last().expect("events");
    assert!(last > head && all.len() as u64 == last, "{all:?}");
    // Told once each, without gaps, over the restart too.
    let mut next = 1;
    for event in lines(&file) {
        if event["kind"] == "audit.undelivered" && event["after"]["to"] == dead {
            let told = &event["after"];
            assert_eq!(told["first"].as_u64(), Some(next));
            next = told["last"].as_u64().expect("a number") + 1;
        }
    }
    assert!(next > head, "{next}");
    // A copy of the files is verified without the control plane, and one that was edited is not as it was.
    let copy = scratch.path().join("copy");
    let place = ["--dir", copy.to_str().expect("printable")];
    copied(&mesh, &copy);
    let (_, said) = verify(&mesh, &place);
    assert!(said.contains("gone by age, as the log tells"), "{said}");
    let head = said
        .split("head ")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    let noted = ["--head", head.expect("a head")];
    assert_eq!(verify(&mesh, &[place, noted].concat()).0, 0, "the twin");
    let sound = std::fs::read(copy.join("log")).expect("the log");
    let (bytes, seq) = edited(&sound, "\"actor\":\"system\"", "\"actor\":\"syst3m\"");
    std::fs::write(copy.join("log"), bytes).expect("write the log");
    let (code, said) = verify(&mesh, &[place, noted].concat());
    assert_eq!(code, 1, "event {seq}: {said}");

    let twin = Mesh::up();
    change(&twin, "one").expect("taken");
    assert_eq!(status(&twin)["begins_after"], 0);
    assert!(twin.ok(["history", "virtualservice/one"]).contains("user:"));
}

/// Copies the files of the log, all of one moment.
fn copied(mesh: &Mesh, copy: &Path) {
    let place = ["--dir", copy.to_str().expect("printable")];
    until("a copy of one moment", SOON, || {
        let _ = std::fs::remove_dir_all(copy);
        std::fs::create_dir(copy).expect("a directory");
        for entry in std::fs::read_dir(dir(mesh)).expect("the mesh").flatten() {
            let name = entry.file_name();
            let text = name.to_string_lossy();
            if text == "log" || text.starts_with("base-") {
                std::fs::copy(entry.path(), copy.join(&name)).ok()?;
            }
        }
        (verify(mesh, &place).0 == 0).then_some(())
    });
}
