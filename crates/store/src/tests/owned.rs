//! What a source owns: nobody else changes it.

use super::{named, open, put, runtime, service};
use crate::{Draft, Error, Owned, SOURCE};

#[test]
fn only_its_source_changes_an_object_and_only_the_store_marks_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let object = named("Service", "a");
    let by = |actor: &str, port| Draft::put(actor, "", object.clone(), service("a", port));
    let mark = || {
        let snapshot = store.snapshot();
        let raw = snapshot.value(&object).unwrap();
        raw["metadata"]["annotations"][SOURCE]
            .as_str()
            .map(str::to_owned)
    };
    runtime().block_on(async {
        store.commit(vec![by("dir:/x", 80)]).await.unwrap();
        assert_eq!(mark().as_deref(), Some("dir:/x"));
        store.own(Owned {
            actor: "dir:/x".to_owned(),
            places: [(object.clone(), "/x/a.yaml:3".to_owned())].into(),
        });
        for draft in [
            by("user:asha", 81),
            Draft::delete("user:asha", "", object.clone()),
        ] {
            // One refused draft refuses all of them.
            let refused = store.commit(vec![put("b", 80), draft]).await.unwrap_err();
            assert!(matches!(&refused, Error::Owned { .. }), "{refused}");
            assert!(refused.to_string().contains("/x/a.yaml:3"), "{refused}");
        }
        assert!(store.snapshot().value(&named("Service", "b")).is_none());
        store
            .commit(vec![by("dir:/x", 82), put("b", 80)])
            .await
            .unwrap();
        // The twin: nobody's any more, and free; what a caller claims to be its source is not believed.
        store.own(Owned::default());
        let mut forged = service("a", 83);
        forged["metadata"]["annotations"][SOURCE] = "dir:/y".into();
        let forged = Draft::put("user:asha", "", object.clone(), forged);
        store.commit(vec![forged]).await.unwrap();
        assert_eq!(mark(), None);
    });
}
