//! Tables of the server side of the delta protocol.

use super::{Change, Ledger, Notice};
use crate::reject;
use crate::resource::{Encoded, Reject};
use naka_wire::envoy::google::protobuf::Any;
use naka_wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use naka_wire::type_url::{CLUSTER, ENDPOINT, VIRTUAL_HOST};
use std::sync::Arc;

fn change(type_url: &'static str, name: &str, version: Option<&str>) -> Change {
    let resource = version.map(|version| {
        Arc::new(Encoded {
            version: version.into(),
            any: Any {
                type_url: type_url.to_owned(),
                value: vec![0; 8],
            },
        })
    });
    Change {
        type_url,
        name: name.into(),
        resource,
    }
}

fn ask(type_url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn answer(response: &DeltaDiscoveryResponse, rejects: &[Reject]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        error_detail: reject::encode(rejects),
        ..DeltaDiscoveryRequest::default()
    }
}

/// Responses as `type +added -removed`.
fn shown(responses: &[DeltaDiscoveryResponse]) -> Vec<String> {
    responses
        .iter()
        .map(|response| {
            let kind = response.type_url.rsplit('.').next().unwrap();
            let added = response.resources.iter().map(|r| format!(" +{}", r.name));
            let removed = response.removed_resources.iter().map(|n| format!(" -{n}"));
            added
                .chain(removed)
                .fold(kind.to_owned(), |all, next| all + &next)
        })
        .collect()
}

#[test]
fn additions_go_in_order_and_removals_after_them_the_other_way_round() {
    let mut ledger = Ledger::new();
    ledger.plan(
        [
            change(CLUSTER, "old", Some("1")),
            change(VIRTUAL_HOST, "gone", Some("1")),
        ],
        "1",
    );
    let responses = ledger.plan(
        [
            change(VIRTUAL_HOST, "gone", None),
            change(CLUSTER, "old", None),
            change(VIRTUAL_HOST, "new", Some("1")),
            change(ENDPOINT, "c", Some("1")),
            change(CLUSTER, "c", Some("1")),
        ],
        "2",
    );
    assert_eq!(
        shown(&responses),
        [
            "Cluster +c",
            "ClusterLoadAssignment +c",
            "VirtualHost +new -gone",
            "Cluster -old",
        ]
    );
    assert!(
        responses
            .iter()
            .all(|response| response.system_version_info == "2")
    );
}

#[test]
fn an_equal_version_is_sent_once() {
    let mut ledger = Ledger::new();
    let again = || [change(CLUSTER, "a", Some("1"))];
    assert_eq!(ledger.plan(again(), "").len(), 1);
    assert_eq!(ledger.plan(again(), "").len(), 0);
    assert_eq!(ledger.plan([change(CLUSTER, "a", Some("2"))], "").len(), 1);
    assert_eq!(ledger.plan([change(CLUSTER, "b", None)], "").len(), 0);
}

#[test]
fn what_the_client_brings_along_is_not_sent_again() {
    let mut ledger = Ledger::new();
    let mut first = ask(CLUSTER, &["a", "b", "c"]);
    first.initial_resource_versions = [("a", "1"), ("b", "1")]
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .into();
    ledger.on(&first);
    let responses = ledger.plan(
        [
            change(CLUSTER, "a", Some("1")),
            change(CLUSTER, "b", Some("2")),
            change(CLUSTER, "c", None),
        ],
        "",
    );
    // The missing one is answered too: the client waits for it.
    assert_eq!(shown(&responses), ["Cluster +b -c"]);
}

/// A thousand clients that come back bring a thousand copies of the same names: they are kept once.
#[test]
fn what_the_client_brings_along_and_we_have_is_kept_once() {
    let mut ledger = Ledger::new();
    let mut first = ask(CLUSTER, &["a"]);
    first.initial_resource_versions = [("a".to_owned(), "1".to_owned())].into();
    ledger.on(&first);
    let ours = change(CLUSTER, "a", Some("1"));
    let kept = |ledger: &Ledger| {
        let (name, held) = ledger.of(CLUSTER)?.held().first_key_value()?;
        let version = &ours.resource.as_ref()?.version;
        let same = |kept: &Option<Arc<str>>| kept.as_ref().is_some_and(|v| Arc::ptr_eq(v, version));
        Some((Arc::ptr_eq(name, &ours.name), same(&held.sent)))
    };
    assert_eq!(kept(&ledger), Some((false, false)), "the twin");
    assert!(ledger.plan([ours.clone()], "").is_empty());
    assert_eq!(kept(&ledger), Some((true, true)));
}

#[test]
fn no_more_names_are_kept_than_the_limit() {
    for (most, kept) in [(2, 2), (9, 3)] {
        let mut ledger = Ledger::limited(most);
        ledger.on(&ask(VIRTUAL_HOST, &["a", "b", "c"]));
        let state = ledger.of(VIRTUAL_HOST).expect("opened");
        assert_eq!(state.names().len(), kept);
    }
}

#[test]
fn a_name_asked_for_anew_is_answered_anew() {
    let mut ledger = Ledger::new();
    ledger.on(&ask(VIRTUAL_HOST, &["a"]));
    let again = || [change(VIRTUAL_HOST, "a", Some("1"))];
    assert_eq!(ledger.plan(again(), "").len(), 1);
    ledger.on(&ask(VIRTUAL_HOST, &["a"]));
    assert_eq!(ledger.plan(again(), "").len(), 1);
    assert_eq!(ledger.plan(again(), "").len(), 0);
}

#[test]
fn verdicts_are_per_resource_and_foreign_nonces_mean_nothing() {
    let mut ledger = Ledger::new();
    let all = [
        change(CLUSTER, "a", Some("1")),
        change(CLUSTER, "b", Some("1")),
    ];
    let responses = ledger.plan(all, "");
    let mut stray = answer(&responses[0], &[]);
    stray.response_nonce = "77".to_owned();
    let verdicts = |notices: Vec<Notice>| -> Vec<Notice> {
        let verdict = |n: &Notice| matches!(n, Notice::Acked { .. } | Notice::Nacked { .. });
        notices.into_iter().filter(verdict).collect()
    };
    assert_eq!(verdicts(ledger.on(&stray)), []);
    let reject = Reject {
        name: "b".into(),
        reason: "no".into(),
    };
    let notices = verdicts(ledger.on(&answer(&responses[0], std::slice::from_ref(&reject))));
    let type_url = CLUSTER.to_owned();
    assert_eq!(
        notices,
        [
            Notice::Acked {
                type_url: type_url.clone(),
                resources: vec![("a".into(), Some("1".into()))]
            },
            Notice::Nacked {
                type_url,
                rejects: vec![reject]
            },
        ]
    );
    assert_eq!(ledger.held(CLUSTER, "a").unwrap().refused, None);
    assert!(ledger.held(CLUSTER, "b").unwrap().refused.is_some());
    // Refused content is not repeated; new content is tried.
    assert_eq!(ledger.plan([change(CLUSTER, "b", Some("1"))], "").len(), 0);
    assert_eq!(ledger.plan([change(CLUSTER, "b", Some("2"))], "").len(), 1);
    assert_eq!(ledger.unanswered(), 1);
}

#[test]
fn unsubscribed_names_are_forgotten_without_a_word() {
    let mut ledger = Ledger::new();
    ledger.on(&ask(VIRTUAL_HOST, &["a"]));
    ledger.plan([change(VIRTUAL_HOST, "a", Some("1"))], "");
    let mut request = ask(VIRTUAL_HOST, &[]);
    request.resource_names_unsubscribe = vec!["a".to_owned()];
    let notices = ledger.on(&request);
    assert!(matches!(notices.as_slice(), [Notice::Unsubscribed { names, .. }] if names == &["a"]));
    assert_eq!(ledger.plan([change(VIRTUAL_HOST, "a", None)], "").len(), 0);
}
