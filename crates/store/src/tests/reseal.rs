//! Changes of the sealing key: online, cut off at every step, killed at any moment.

use super::crash::{child, kill_when};
use super::{named, open, put, runtime};
use crate::keyfile::{self, SealKey};
use crate::log::Checks;
use crate::passphrase::Passphrase;
use crate::reseal::{Change, NEW, rewrite};
use crate::seal::is_secret;
use crate::store::{Replay, open_log};
use crate::{Draft, Error, Filter, Lock, Settings, Store};
use base64::Engine;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

pub(super) fn secret(name: &str, value: &str) -> Draft {
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "default"},
        "stringData": {"k": value}});
    Draft::put("user:test", "", named("Secret", name), object)
}

/// Three secrets, one of which had another value before, and one that was deleted.
pub(super) fn with_secrets() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    runtime().block_on(async {
        for (name, value) in [
            ("a", "one"),
            ("b", "two"),
            ("c", "three"),
            ("a", "four"),
            ("gone", "five"),
        ] {
            store
                .commit(vec![secret(name, value), put(name, 80)])
                .await
                .unwrap();
        }
        let gone = Draft::delete("user:test", "", named("Secret", "gone"));
        store.commit(vec![gone]).await.unwrap();
    });
    dir
}

fn value(store: &Store, name: &str) -> Result<Vec<u8>, Error> {
    Ok(store.reveal(&named("Secret", name))?["k"].clone())
}

pub(super) fn all_open(store: &Store) {
    for (name, wanted) in [("a", &b"four"[..]), ("b", b"two"), ("c", b"three")] {
        assert_eq!(value(store, name).unwrap(), wanted);
    }
}

/// How many sealed values of all events a key opens, of how many.
pub(super) fn opened_by(key: &SealKey, store: &Store) -> (usize, usize) {
    let events = store
        .events(1..=u64::MAX, &Filter::default(), usize::MAX)
        .unwrap();
    let (mut opened, mut all) = (0, 0);
    for event in events {
        let Some(object) = event.object.clone().filter(is_secret) else {
            continue;
        };
        for side in [&event.before, &event.after].into_iter().flatten() {
            all += 1;
            opened += usize::from(key.reveal(&object, side).is_ok());
        }
    }
    (opened, all)
}

#[test]
fn a_change_of_key_reseals_past_and_present_while_writers_write() {
    let dir = with_secrets();
    let old = keyfile::open(dir.path(), false, None, true, |_| None).unwrap();
    let old_file = std::fs::read(dir.path().join("seal.key")).unwrap();
    let store = open(dir.path());
    let (opened, all) = opened_by(&old, &store);
    assert!(
        opened == all && all > 6,
        "the twin: before, the old key opens everything"
    );
    let before = store.snapshot();
    runtime().block_on(async {
        let writes: Vec<_> = (0..50)
            .map(|n| store.commit(vec![put(&format!("w{n}"), 80)]))
            .collect();
        let resealed = store.reseal(Lock::Same, "user:test");
        let (writes, resealed) = tokio::join!(join_all(writes), resealed);
        assert!(writes.iter().all(Result::is_ok));
        let sealing = resealed.unwrap();
        assert_eq!((sealing.secrets, sealing.locked), (3, false));
        assert_ne!(sealing.key, old.id);
        assert_eq!(store.sealing(), sealing);
    });
    all_open(&store);
    assert_eq!(
        opened_by(&old, &store),
        (0, all),
        "the old key opens nothing, past values included"
    );
    let now = store.snapshot();
    for (key, object) in before.objects.iter() {
        assert_eq!(
            object.meta.resource_version, now.objects[key].meta.resource_version,
            "{key}"
        );
    }
    // What was is still there to be taken back.
    let change = store
        .history(&Filter::object(&named("Secret", "a")), 1)
        .unwrap()[0]
        .revision;
    runtime().block_on(async {
        let service = Draft::delete("user:test", "", named("Service", "w1"));
        store.commit(vec![service]).await.unwrap();
        let drafts = store.undo(change, "user:test", "").unwrap();
        store.commit(drafts).await.unwrap();
    });
    assert_eq!(value(&store, "a").unwrap(), b"one");
    drop(store);
    let store = open(dir.path());
    assert_eq!(value(&store, "a").unwrap(), b"one");
    drop(store);
    std::fs::write(dir.path().join("seal.key"), old_file).unwrap();
    let refused = Store::open(dir.path(), Settings::default()).unwrap_err();
    assert!(refused.to_string().contains("not the key"), "{refused}");
}

async fn join_all<T>(all: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut done = Vec::new();
    for one in all {
        done.push(one.await);
    }
    done
}

/// A passphrase locks the key from the next change on; without it, and with another, the store does not open.
#[test]
fn a_locked_store_opens_with_its_passphrase_only() {
    let dir = with_secrets();
    let word = |text: &str| Passphrase::new(text.as_bytes().to_vec()).unwrap();
    let open_with = |passphrase: Option<&str>| {
        let settings = Settings {
            passphrase: passphrase.map(word),
            ..Settings::default()
        };
        Store::open(dir.path(), settings).map(|(store, _)| store)
    };
    let store = open_with(None).unwrap();
    runtime()
        .block_on(store.reseal(Lock::Passphrase(word("a")), "user:test"))
        .unwrap();
    all_open(&store);
    drop(store);
    assert!(open_with(None).unwrap_err().to_string().contains("locked"));
    assert!(
        open_with(Some("b"))
            .unwrap_err()
            .to_string()
            .contains("not the one")
    );
    let store = open_with(Some("a")).unwrap();
    all_open(&store);
    assert!(store.sealing().locked);
    runtime()
        .block_on(store.reseal(Lock::Same, "user:test"))
        .unwrap();
    drop(store);
    assert!(open_with(None).is_err(), "still locked");
    let store = open_with(Some("a")).unwrap();
    runtime()
        .block_on(store.reseal(Lock::Plain, "user:test"))
        .unwrap();
    drop(store);
    all_open(&open_with(None).unwrap());
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        if entry.file_name() != "lock" {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Power is cut after each step of a change: every secret opens, one key is left, nothing lies about.
#[test]
fn a_change_cut_off_at_any_step_leaves_one_key_that_opens_all() {
    let dir = with_secrets();
    let cuts = tempfile::tempdir().unwrap();
    let old = keyfile::open(dir.path(), false, None, true, |_| None).unwrap();
    let new = SealKey::fresh(None).unwrap();
    let file = open_log(&dir.path().join("log")).unwrap();
    let replay = Replay::read(dir.path(), &file, Checks::ALL).unwrap();
    let change = Change {
        dir: dir.path(),
        file: &file,
        spans: &replay.scan.spans,
        old: &old,
        new: &new,
        actor: "user:test",
        start: replay.start,
    };
    let mut steps = Vec::new();
    rewrite(&change, &mut |step| {
        copy(dir.path(), &cuts.path().join(steps.len().to_string()));
        steps.push(step.to_owned());
    })
    .unwrap();
    assert_eq!(steps.len(), 4);
    for (place, step) in steps.iter().enumerate() {
        let cut = cuts.path().join(place.to_string());
        let both = std::fs::read_to_string(cut.join("seal.key")).unwrap();
        assert!(both.contains(&old.id) && both.contains(&new.id), "{step}");
        let store = open(&cut);
        all_open(&store);
        let used = if place == 3 { &new.id } else { &old.id };
        assert_eq!(&store.sealing().key, used, "{step}");
        let one = std::fs::read_to_string(cut.join("seal.key")).unwrap();
        assert_eq!(one.matches("\"id\"").count(), 1, "{step}");
        assert!(!cut.join(NEW).exists(), "{step}");
        // The wrong one of the two opens nothing: the choice matters.
        let wrong = if place == 3 { &old } else { &new };
        assert_eq!(opened_by(wrong, &store).0, 0, "{step}");
    }
}

/// A process that does nothing but change its key is killed with -9 while the new log is being written, while the file
/// holds two keys, and at whatever moment comes.
#[test]
fn kill_9_in_the_middle_of_a_change_loses_no_secret() {
    let rounds = if super::full() { 100 } else { 8 };
    let dir = with_secrets();
    let mut keys = std::collections::BTreeSet::new();
    for round in 0..rounds {
        let keys_held = || {
            let text = std::fs::read_to_string(dir.path().join("seal.key")).unwrap_or_default();
            text.matches("\"id\"").count()
        };
        kill_when(child(dir.path(), "reseal"), "resealed", || {
            match round % 3 {
                0 => dir.path().join(NEW).exists(),
                1 => keys_held() == 2,
                _ => true,
            }
        });
        let store = open(dir.path());
        all_open(&store);
        keys.insert(store.sealing().key);
        let one = std::fs::read_to_string(dir.path().join("seal.key")).unwrap();
        assert_eq!(one.matches("\"id\"").count(), 1);
    }
    assert!(keys.len() > 1, "the child did change keys");
}

/// What the killed child does.
pub(super) fn change_for_ever(dir: &Path) {
    let store: Arc<Store> = open(dir);
    loop {
        runtime()
            .block_on(store.reseal(Lock::Same, "user:child"))
            .unwrap();
        super::crash::say("resealed");
    }
}

/// Base64 of a sealed value never stands for itself after a change: it is opened and sealed, not wrapped.
#[test]
fn a_value_is_not_sealed_twice() {
    let dir = with_secrets();
    let store = open(dir.path());
    runtime()
        .block_on(store.reseal(Lock::Same, "user:test"))
        .unwrap();
    let snapshot = store.snapshot();
    let text = snapshot.value(&named("Secret", "b")).unwrap()["data"]["k"]
        .as_str()
        .unwrap();
    let sealed = base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap();
    assert_eq!(
        sealed.len(),
        4 + 12 + 3 + 16,
        "magic, nonce, three bytes, tag"
    );
}
