//! Backups of a store that is being written, and what a restore makes of them.

use super::{named, open, put, runtime, written};
use crate::passphrase::Passphrase;
use crate::{Draft, Store, backup, restore};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub(super) fn word(text: &str) -> Passphrase {
    Passphrase::new(text.as_bytes().to_vec()).unwrap()
}

pub(super) fn authority(dir: &Path) {
    std::fs::create_dir(dir.join("ca")).unwrap();
    std::fs::write(dir.join("ca/root.pem"), "root").unwrap();
}

fn to(dir: PathBuf) -> impl Fn(&crate::Contents) -> PathBuf {
    move |_| dir.clone()
}

#[test]
fn a_name_that_leads_elsewhere_is_not_believed() {
    let dir = written(1);
    authority(dir.path());
    for (name, sound) in [
        ("m", true),
        ("m.eu-1", true),
        ("../m", false),
        ("/m", false),
        ("a/m", false),
        ("m/", false),
        ("..", false),
        (".", false),
        ("", false),
    ] {
        let out = tempfile::tempdir().unwrap();
        let (file, homes) = (out.path().join("backup"), out.path().join("homes/mesh"));
        backup(dir.path(), name, &file, &word("a")).unwrap();
        let restored = restore(&file, &word("a"), |contents| homes.join(&contents.mesh));
        assert_eq!(restored.is_ok(), sound, "{name:?}: {restored:?}");
        assert_eq!(out.path().join("homes").exists(), sound, "{name:?}");
    }
}

/// While four writers commit, backups are taken; each restores to exactly the state of its revision.
#[test]
fn a_backup_of_a_store_under_writes_is_the_state_of_its_revision() {
    let dir = written(10);
    authority(dir.path());
    let store = open(dir.path());
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"}, "stringData": {"k": "4111"}});
    let draft = Draft::put("user:test", "", named("Secret", "s"), secret);
    runtime().block_on(store.commit(vec![draft])).unwrap();
    let out = tempfile::tempdir().unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || {
                runtime().block_on(async {
                    for round in 0..2000u16 {
                        if stop.load(std::sync::atomic::Ordering::Relaxed) {
                            break;
                        }
                        let draft = put(&format!("w{writer}"), 1000 + round);
                        store.commit(vec![draft]).await.unwrap();
                    }
                });
            });
        }
        for round in 0..5 {
            let (file, target) = (
                out.path().join(format!("{round}.backup")),
                out.path().join(format!("{round}")),
            );
            let known = store.snapshot().revision;
            let contents = backup(dir.path(), "m", &file, &word("a")).unwrap();
            assert!(contents.revision >= known, "acknowledged before it began");
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            let (same, made) = restore(&file, &word("a"), to(target)).unwrap();
            assert_eq!(same, contents);
            let back = open(&made);
            assert_eq!(back.snapshot().revision, contents.revision);
            let then = store.at(contents.revision).unwrap();
            assert_eq!(back.snapshot().objects, then.objects);
            assert_eq!(back.reveal(&named("Secret", "s")).unwrap()["k"], b"4111");
            assert_eq!(std::fs::read(made.join("ca/root.pem")).unwrap(), b"root");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let text = std::fs::read(out.path().join("0.backup")).unwrap();
    assert!(!text.windows(4).any(|part| part == b"root"), "sealed");
}

#[test]
fn what_cannot_be_restored_leaves_the_directory_as_it_was() {
    let dir = written(5);
    authority(dir.path());
    let out = tempfile::tempdir().unwrap();
    let (file, target) = (out.path().join("backup"), out.path().join("mesh/m"));
    backup(dir.path(), "m", &file, &word("a")).unwrap();
    let twice = backup(dir.path(), "m", &file, &word("a")).unwrap_err();
    assert!(twice.to_string().contains("exists"), "{twice}");
    for wrong in ["b", "aa"] {
        assert!(restore(&file, &word(wrong), to(target.clone())).is_err());
    }
    let foreign = out.path().join("foreign");
    std::fs::write(&foreign, "a letter").unwrap();
    let refused = restore(&foreign, &word("a"), to(target.clone())).unwrap_err();
    assert!(
        refused.to_string().contains("no backup of a Naka mesh"),
        "{refused}"
    );
    let left: Vec<_> = std::fs::read_dir(target.parent().unwrap())
        .map(|all| all.flatten().collect())
        .unwrap_or_default();
    assert!(left.is_empty(), "{left:?}");
    restore(&file, &word("a"), to(target.clone())).unwrap();
    let over = restore(&file, &word("a"), to(target)).unwrap_err();
    assert!(over.to_string().contains("not empty"), "{over}");
}

/// A damaged log is not backed up as if it were whole.
#[test]
fn a_damaged_log_is_refused() {
    let dir = written(20);
    authority(dir.path());
    let path = dir.path().join("log");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let out = tempfile::tempdir().unwrap();
    let refused = backup(dir.path(), "m", &out.path().join("b"), &word("a")).unwrap_err();
    assert!(refused.to_string().contains("damaged log"), "{refused}");
    assert!(!out.path().join("b").exists());
    Store::repair(dir.path()).unwrap();
    assert!(backup(dir.path(), "m", &out.path().join("b"), &word("a")).is_ok());
}
