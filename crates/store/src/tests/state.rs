//! Folds, preconditions, history, undo, secrets, watching.

use super::{named, open, put, runtime, service};
use crate::{Action, Draft, Error, Filter, Settings, Store};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;

#[test]
fn objects_get_identity_generation_and_one_revision_for_the_whole_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    runtime().block_on(async {
        let first = store
            .commit(vec![put("a", 80), put("b", 80)])
            .await
            .unwrap();
        assert_eq!(
            (first.revision, first.actions.as_slice()),
            (2, &[Action::Created, Action::Created][..])
        );
        assert_eq!(
            first.events[0].revision, 2,
            "both events belong to one revision"
        );
        let before = store.snapshot().value(&named("Service", "a")).unwrap()["metadata"].clone();
        assert_eq!(
            (&before["generation"], &before["resourceVersion"]),
            (&json!(1), &json!("1"))
        );
        assert_eq!(before["uid"].as_str().unwrap().len(), 36);

        let same = store.commit(vec![put("a", 80)]).await.unwrap();
        assert_eq!(
            (same.revision, same.events.len(), same.actions[0]),
            (2, 0, Action::Unchanged)
        );

        let mut labelled = service("a", 80);
        labelled["metadata"]["labels"] = json!({"x": "y"});
        labelled["status"] = json!({"conditions": []});
        store
            .commit(vec![Draft::put("u", "", named("Service", "a"), labelled)])
            .await
            .unwrap();
        let snapshot = store.snapshot();
        let after = snapshot.value(&named("Service", "a")).unwrap();
        assert_eq!(
            after["metadata"]["generation"], 1,
            "a label is no change of the spec"
        );
        assert_eq!(after["metadata"]["resourceVersion"], "3");
        assert!(after.get("status").is_none(), "status never enters the log");
        assert_eq!(
            (
                &after["metadata"]["uid"],
                &after["metadata"]["creationTimestamp"]
            ),
            (&before["uid"], &before["creationTimestamp"])
        );

        let mut ported = after.clone();
        ported["spec"] = service("a", 81)["spec"].clone();
        store
            .commit(vec![Draft::put("u", "", named("Service", "a"), ported)])
            .await
            .unwrap();
        assert_eq!(
            store.snapshot().value(&named("Service", "a")).unwrap()["metadata"]["generation"],
            2
        );
    });
    let before = store.snapshot().as_ref().clone();
    drop(store);
    let again = open(dir.path()).snapshot();
    assert_eq!(
        (again.revision, &again.objects),
        (before.revision, &before.objects),
        "a restart changes nothing"
    );
}

#[test]
fn a_commit_is_all_or_nothing_and_preconditions_hold() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    runtime().block_on(async {
        store.commit(vec![put("a", 80)]).await.unwrap();
        let size = || std::fs::metadata(dir.path().join("log")).unwrap().len();
        let before = size();
        let stale = store
            .commit(vec![put("b", 80), put("a", 81).expecting(Some(7))])
            .await;
        assert!(
            matches!(
                stale,
                Err(Error::Conflict {
                    expected: 7,
                    actual: 1,
                    ..
                })
            ),
            "{stale:?}"
        );
        assert!(matches!(
            store.commit(vec![put("a", 81).expecting(Some(0))]).await,
            Err(Error::AlreadyExists(_))
        ));
        assert!(matches!(
            store.commit(vec![put("c", 81).expecting(Some(1))]).await,
            Err(Error::NotFound(_))
        ));
        let gone = Draft::delete("u", "", named("Service", "nobody"));
        assert!(matches!(
            store.commit(vec![put("b", 1), gone]).await,
            Err(Error::NotFound(_))
        ));
        assert_eq!(
            (size(), store.snapshot().revision),
            (before, 1),
            "a refused commit leaves no trace"
        );
        // Drafts of one commit see each other.
        let both = vec![
            put("b", 1),
            put("b", 2).expecting(Some(2)),
            Draft::delete("u", "", named("Service", "b")),
        ];
        let done = store.commit(both).await.unwrap();
        assert_eq!(
            done.actions,
            [Action::Created, Action::Configured, Action::Deleted]
        );
        assert!(store.snapshot().value(&named("Service", "b")).is_none());
    });
}

#[test]
fn records_are_folded_by_kind_and_id() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    runtime().block_on(async {
        let token = |id: &str, value| Draft::record("u", "", "token.create", "token", id, value);
        store
            .commit(vec![
                token("1", Some(json!({"uses": 1}))),
                token("2", Some(json!(2))),
            ])
            .await
            .unwrap();
        store
            .commit(vec![Draft::record(
                "u",
                "",
                "registration.join",
                "registration",
                "1",
                Some(json!({})),
            )])
            .await
            .unwrap();
        let same = store
            .commit(vec![token("2", Some(json!(2)))])
            .await
            .unwrap();
        assert_eq!(same.actions, [Action::Unchanged]);
        store.commit(vec![token("2", None)]).await.unwrap();
        store
            .commit(vec![Draft::note(
                "u",
                "",
                "mesh.started",
                None,
                json!({"v": 1}),
            )])
            .await
            .unwrap();
    });
    drop(store);
    let store = open(dir.path());
    let snapshot = store.snapshot();
    let ids: Vec<_> = snapshot.records_of("token").map(|(id, _)| id).collect();
    assert_eq!(
        (ids, snapshot.records.len(), snapshot.revision),
        (vec!["1"], 2, 5)
    );
    assert_eq!(snapshot.record("token", "1").unwrap()["uses"], 1);
}

#[test]
fn history_then_and_undo() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    runtime().block_on(async {
        store
            .commit(vec![put("a", 80), put("b", 80)])
            .await
            .unwrap(); // 1, 2
        store
            .commit(vec![
                put("a", 81),
                Draft::delete("asha", "", named("Service", "b")),
            ])
            .await
            .unwrap(); // 3, 4
        store.commit(vec![put("c", 80)]).await.unwrap(); // 5
        let of_a = store
            .history(&Filter::object(&named("Service", "a")), 10)
            .unwrap();
        assert_eq!(of_a.iter().map(|e| e.seq).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(store.history(&Filter::default(), 2).unwrap().len(), 2);
        let some = store.events(2..=4, &Filter::default(), 100).unwrap();
        assert_eq!(some.iter().map(|e| e.seq).collect::<Vec<_>>(), [2, 3, 4]);

        let then = store.at(2).unwrap();
        assert_eq!(
            then.value(&named("Service", "a")).unwrap()["spec"],
            service("a", 80)["spec"]
        );
        assert_eq!(then.objects.len(), 2);
        assert_eq!(
            store.at(3).unwrap().revision,
            4,
            "a state in the middle of a commit never existed"
        );
        assert_eq!(store.at(0).unwrap().objects.len(), 0);
        assert!(matches!(store.at(6), Err(Error::NoSuchRevision(6))));

        let conflict = store.undo(2, "u", "undo");
        assert!(
            matches!(conflict, Err(Error::UndoConflict { later: 4, .. })),
            "{conflict:?}"
        );
        let drafts = store.undo(4, "u", "undo 4").unwrap();
        let undone = store.commit(drafts).await.unwrap();
        assert_eq!(undone.actions, [Action::Created, Action::Configured]);
        let now = store.snapshot();
        assert_eq!(
            now.value(&named("Service", "a")).unwrap()["spec"],
            service("a", 80)["spec"]
        );
        assert!(
            now.value(&named("Service", "b")).is_some()
                && now.value(&named("Service", "c")).is_some()
        );
        assert_eq!(store.last_change().unwrap(), Some(7));
        store
            .commit(vec![Draft::note("u", "", "n", None, json!(1))])
            .await
            .unwrap();
        assert!(matches!(
            store.undo(8, "u", ""),
            Err(Error::NothingToUndo(8))
        ));
        assert!(matches!(
            store.undo(99, "u", ""),
            Err(Error::NoSuchRevision(99))
        ));
        assert!(matches!(
            store.undo(0, "u", ""),
            Err(Error::NoSuchRevision(0))
        ));
    });
}

#[test]
fn watching_sees_every_event_once_and_old_ones_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    runtime().block_on(async {
        let mut revisions = store.subscribe();
        store.commit(vec![put("a", 80)]).await.unwrap();
        revisions.changed().await.unwrap();
        assert_eq!(store.since(0).unwrap().len(), 1);
        for port in 0..5000u16 {
            if port % 100 == 0 {
                tokio::task::yield_now().await;
            }
            store
                .commit(vec![Draft::record(
                    "u",
                    "",
                    "r",
                    "r",
                    "1",
                    Some(json!(port)),
                )])
                .await
                .unwrap();
        }
        assert!(
            matches!(
                store.since(1),
                Err(Error::Gone {
                    asked: 1,
                    oldest: 905
                })
            ),
            "{:?}",
            store.since(1).map(|e| e.len())
        );
        assert_eq!(store.since(5000).unwrap().len(), 1);
        assert!(matches!(
            store.since(5002),
            Err(Error::NoSuchRevision(5002))
        ));
    });
}

#[test]
fn secrets_are_sealed_in_the_log_and_open_only_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let object = named("Secret", "bank");
    let secret = |text: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bank", "namespace": "default"},
            "type": "Opaque", "stringData": {"pin": text}})
    };
    runtime().block_on(async {
        let put = |text: &str| vec![Draft::put("u", "", named("Secret", "bank"), secret(text))];
        store.commit(put("planted-4929")).await.unwrap();
        assert_eq!(
            store.commit(put("planted-4929")).await.unwrap().actions,
            [Action::Unchanged]
        );
        store.commit(put("planted-5000")).await.unwrap();
        assert_eq!(store.reveal(&object).unwrap()["pin"], b"planted-5000");
        let drafts = store.undo(2, "u", "").unwrap();
        store.commit(drafts).await.unwrap();
        assert_eq!(store.reveal(&object).unwrap()["pin"], b"planted-4929");
    });
    assert!(matches!(
        store.reveal(&named("Service", "bank")),
        Err(Error::NotFound(_))
    ));
    assert!(!format!("{:?}", store.history(&Filter::default(), 9).unwrap()).contains("planted"));
    drop(store);
    let log = std::fs::read(dir.path().join("log")).unwrap();
    assert!(!log.windows(7).any(|bytes| bytes == b"planted"));
    assert!(
        log.windows(4).any(|bytes| bytes == b"bank"),
        "the search itself works"
    );
    // Without its key the mesh does not start with secrets it could never open.
    std::fs::remove_file(dir.path().join("seal.key")).unwrap();
    assert!(
        Store::open(dir.path(), Settings::default())
            .unwrap_err()
            .to_string()
            .contains("key is missing")
    );
}

#[test]
fn one_process_owns_the_directory_and_nobody_else_may_look() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mesh");
    let store = open(&path);
    let error = Store::open(&path, Settings::default()).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }));
    assert!(
        error.to_string().contains(&std::process::id().to_string()),
        "{error}"
    );
    let mode = |file: &str| {
        std::fs::metadata(path.join(file))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (mode(""), mode("log"), mode("seal.key"), mode("lock")),
        (0o700, 0o600, 0o600, 0o600)
    );
    drop(store);
    drop(open(&path));
}

#[test]
fn a_thousand_writers_at_once_each_get_their_own_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut seen: Vec<u64> = runtime().block_on(async {
        let tasks: Vec<_> = (0..1000u16)
            .map(|index| {
                let store = store.clone();
                tokio::spawn(async move {
                    store
                        .commit(vec![put(&format!("s{index}"), 80)])
                        .await
                        .unwrap()
                        .revision
                })
            })
            .collect();
        let mut seen = Vec::new();
        for task in tasks {
            seen.push(task.await.unwrap());
        }
        seen
    });
    seen.sort_unstable();
    assert_eq!(seen, (1..=1000).collect::<Vec<_>>());
    drop(store);
    assert_eq!(open(dir.path()).snapshot().objects.len(), 1000);
}
