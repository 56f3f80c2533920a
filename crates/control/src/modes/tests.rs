//! What is laid over a snapshot when, and what ends a mode.

use super::{PATIENCE_MS, RECORD, Switch, Watch, findings, overlay};
use crate::compile::tests::snapshot;
use naka_store::Snapshot;
use serde_json::json;
use std::sync::Arc;

const OBJECTS: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: emergency, namespace: default}
spec: {action: ALLOW}
---
apiVersion: naka.dev/v1alpha1
kind: Mode
metadata: {name: break-glass, namespace: default}
spec:
  owner: security
  maxTime: 1h
  patches:
  - target: {kind: AuthorizationPolicy, name: emergency}
    merge: {spec: {rules: [{}]}}
  - target: {kind: AuthorizationPolicy, name: gone}
    merge: {spec: {rules: [{}]}}
";

fn switch(until_ms: Option<u64>) -> Switch {
    Switch {
        uid: String::new(),
        generation: 0,
        incident: "INC-1".to_owned(),
        why: "a fire".to_owned(),
        approvals: vec!["token:a".to_owned(), "token:b".to_owned()],
        asked_ms: 1_000,
        for_ms: 1_000,
        until_ms,
    }
}

fn with(switch: &Switch) -> Snapshot {
    let mut snapshot = snapshot(OBJECTS);
    let key = (RECORD.to_owned(), "default/break-glass".to_owned());
    Arc::make_mut(&mut snapshot.records).insert(key, Arc::new(json!(switch)));
    snapshot
}

fn rules(snapshot: &Snapshot) -> Vec<usize> {
    let all = snapshot.objects.values();
    all.filter_map(|object| Some(object.authorization_policy()?.rules.len()))
        .collect()
}

#[test]
fn a_mode_that_is_on_is_laid_over_and_nothing_else_changes() {
    for (until, now, on) in [
        (Some(2_000), 1_500, true),
        (Some(2_000), 1_999, true),
        (Some(2_000), 2_000, false),
        (None, 1_500, false),
    ] {
        let stored = with(&switch(until));
        let laid = overlay(&stored, now);
        assert_eq!(laid.is_some(), on, "{until:?} {now}");
        assert_eq!(rules(laid.as_ref().unwrap_or(&stored)), [usize::from(on)]);
        assert_eq!(rules(&stored), [0], "what is stored stays");
        let codes: Vec<String> = findings(&stored, now)
            .into_iter()
            .map(|f| f.code.to_string())
            .collect();
        let wanted: &[&str] = if on { &["W975", "W976"] } else { &[] };
        assert_eq!(codes, wanted);
    }
    let other = Switch {
        generation: 7,
        ..switch(Some(2_000))
    };
    assert!(
        overlay(&with(&other), 1_500).is_none(),
        "what was approved is another Mode"
    );
}

fn causes(watch: &mut Watch, snapshot: &Snapshot, now_ms: u64, now: u64) -> Vec<String> {
    let drafts = watch.ended(snapshot, now_ms, now);
    drafts.into_iter().map(|draft| draft.cause).collect()
}

#[test]
fn what_ends_a_mode() {
    let over = "its time is over";
    let on = with(&switch(Some(2_000)));
    let waiting = with(&switch(None));
    let changed = with(&Switch {
        generation: 7,
        ..switch(Some(2_000))
    });
    let mut orphan = with(&switch(Some(2_000)));
    Arc::make_mut(&mut orphan.objects).retain(|_, object| object.mode().is_none());
    for (snapshot, now, wanted) in [
        (&on, 1_999, None),
        (&on, 2_000, Some(over)),
        (&on, 9_000_000, Some(over)),
        (&waiting, 1_000 + PATIENCE_MS - 1, None),
        (
            &waiting,
            1_000 + PATIENCE_MS,
            Some("too few approved in time"),
        ),
        (&changed, 1_500, Some("its object was changed")),
        (&orphan, 1_500, Some("its object is gone")),
    ] {
        let said = causes(&mut Watch::default(), snapshot, now, 0);
        assert_eq!(said, wanted.into_iter().collect::<Vec<_>>(), "{now}");
    }
    // A clock that is put back does not lengthen it: half a second was left.
    let mut watch = Watch::default();
    assert!(causes(&mut watch, &on, 1_500, 10_000).is_empty());
    assert!(causes(&mut watch, &on, 100, 10_499).is_empty());
    assert_eq!(causes(&mut watch, &on, 100, 10_500), [over]);
}
