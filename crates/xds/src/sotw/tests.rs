//! Tables of the state-of-the-world translation, on a real ledger.

use super::Sotw;
use crate::delta::server::{Change, Ledger, Notice};
use crate::resource::Encoded;
use naka_wire::envoy::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use naka_wire::envoy::google::protobuf::Any;
use naka_wire::envoy::google::rpc::Status;
use naka_wire::type_url::{CLUSTER, ENDPOINT};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Default)]
struct Server {
    sotw: Sotw,
    ledger: Ledger,
    world: BTreeMap<(&'static str, String), u32>,
}

fn encoded(name: &str, version: u32) -> Arc<Encoded> {
    Arc::new(Encoded {
        version: version.to_string().into(),
        any: Any {
            type_url: name.to_owned(),
            value: Vec::new(),
        },
    })
}

impl Server {
    fn set(&mut self, url: &'static str, name: &str, version: u32) {
        self.world.insert((url, name.to_owned()), version);
    }

    fn on(&mut self, request: &DiscoveryRequest) -> Vec<Notice> {
        let deltas = self.sotw.on(request);
        deltas
            .iter()
            .flat_map(|delta| self.ledger.on(delta))
            .collect()
    }

    /// Plans like a session: what is subscribed and exists, and removal of what is owed.
    fn plan(&mut self) -> Vec<DiscoveryResponse> {
        let mut changes = Vec::new();
        for url in [CLUSTER, ENDPOINT] {
            let Some(state) = self.ledger.of(url) else {
                continue;
            };
            let of_type = self.world.iter().filter(|((kind, _), _)| *kind == url);
            for ((_, name), version) in of_type {
                if state.wildcard() || state.names().contains(name) {
                    changes.push(Change {
                        type_url: url,
                        name: name.as_str().into(),
                        resource: Some(encoded(name, *version)),
                    });
                }
            }
            let owed = state.owed().iter().map(|name| name.as_str().into());
            let held = state.held().keys().cloned().chain(owed);
            for name in held.filter(|name| !self.world.contains_key(&(url, name.to_string()))) {
                changes.push(Change {
                    type_url: url,
                    name,
                    resource: None,
                });
            }
        }
        let deltas = self.ledger.plan(changes, "7");
        let (ledger, world) = (&self.ledger, &self.world);
        let all = |url: &str| {
            let held = ledger.of(url).unwrap().held().iter();
            held.filter(|(_, held)| held.sent.is_some())
                .filter_map(|(name, _)| {
                    let key = (CLUSTER, name.to_string());
                    Some(encoded(name, *world.get(&key)?))
                })
                .collect()
        };
        let (out, unsaid) = self.sotw.respond(deltas, all);
        for request in unsaid {
            self.ledger.on(&request);
        }
        out
    }
}

fn ask(url: &str, names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: url.to_owned(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    }
}

fn names(responses: &[DiscoveryResponse]) -> Vec<Vec<&str>> {
    responses
        .iter()
        .map(|response| {
            response
                .resources
                .iter()
                .map(|any| any.type_url.as_str())
                .collect()
        })
        .collect()
}

#[test]
fn clusters_come_whole_and_endpoints_as_they_change() {
    let mut server = Server::default();
    for name in ["a", "b"] {
        server.set(CLUSTER, name, 1);
        server.set(ENDPOINT, name, 1);
    }
    // Nothing named at first: everything, as Envoy asks.
    server.on(&ask(CLUSTER, &[], ""));
    let first = server.plan();
    assert_eq!(names(&first), [["a", "b"]]);
    server.on(&ask(CLUSTER, &[], &first[0].nonce));
    server.on(&ask(ENDPOINT, &["a", "b"], ""));
    let endpoints = server.plan();
    assert_eq!(names(&endpoints), [["a", "b"]]);
    server.on(&ask(ENDPOINT, &["a", "b"], &endpoints[0].nonce));
    assert_eq!(server.plan(), [], "all is answered");
    assert_eq!(server.ledger.unanswered(), 0);
    // One cluster and its endpoints change: all clusters come, one set of endpoints.
    server.set(CLUSTER, "b", 2);
    server.set(ENDPOINT, "b", 2);
    assert_eq!(names(&server.plan()), [vec!["a", "b"], vec!["b"]]);
    // One goes: the rest comes.
    server.world.remove(&(CLUSTER, "a".to_owned()));
    assert_eq!(names(&server.plan()), [["b"]]);
}

#[test]
fn stale_and_invented_nonces_change_nothing() {
    let mut server = Server::default();
    server.set(ENDPOINT, "a", 1);
    server.set(ENDPOINT, "b", 1);
    server.on(&ask(ENDPOINT, &["a"], ""));
    let first = server.plan();
    for bogus in ["99", "0", "x", "-1", "18446744073709551615"] {
        assert!(
            server.on(&ask(ENDPOINT, &["b"], bogus)).is_empty(),
            "{bogus}"
        );
    }
    assert_eq!(server.plan(), []);
    server.set(ENDPOINT, "a", 2);
    let second = server.plan();
    // The answer to the first is late: it counts as an answer, its names do not.
    let notices = server.on(&ask(ENDPOINT, &["b"], &first[0].nonce));
    assert!(matches!(notices[..], [Notice::Acked { .. }]), "{notices:?}");
    assert_eq!(server.plan(), []);
    server.on(&ask(ENDPOINT, &["a", "b"], &second[0].nonce));
    assert_eq!(names(&server.plan()), [["b"]]);
}

#[test]
fn a_refusal_is_told_once_and_not_answered_with_the_same() {
    let mut server = Server::default();
    server.set(CLUSTER, "a", 1);
    server.on(&ask(CLUSTER, &["a"], ""));
    let first = server.plan();
    let refusal = DiscoveryRequest {
        error_detail: Some(Status {
            message: "no".into(),
            ..Status::default()
        }),
        ..ask(CLUSTER, &["a"], &first[0].nonce)
    };
    let notices = server.on(&refusal);
    assert!(
        matches!(notices[..], [Notice::Nacked { .. }]),
        "{notices:?}"
    );
    assert_eq!(server.plan(), []);
    server.set(CLUSTER, "a", 2);
    let second = server.plan();
    let notices = server.on(&ask(CLUSTER, &["a"], &second[0].nonce));
    assert!(matches!(notices[..], [Notice::Acked { .. }]), "{notices:?}");
}

#[test]
fn who_asks_again_is_answered_again_and_who_gives_up_is_not() {
    let mut server = Server::default();
    server.set(ENDPOINT, "a", 1);
    server.on(&ask(ENDPOINT, &["a"], ""));
    let first = server.plan();
    server.on(&ask(ENDPOINT, &["a"], &first[0].nonce));
    assert_eq!(server.plan(), [], "an acknowledgement is no question");
    server.on(&ask(ENDPOINT, &["a"], &first[0].nonce));
    let again = server.plan();
    assert_eq!(names(&again), [["a"]], "a warming cluster asks like this");
    server.on(&ask(ENDPOINT, &[], &again[0].nonce));
    server.set(ENDPOINT, "a", 2);
    assert_eq!(server.plan(), []);
}

#[test]
fn what_does_not_exist_leaves_nothing_waiting() {
    let mut server = Server::default();
    server.on(&ask(ENDPOINT, &["nowhere"], ""));
    assert_eq!(server.plan(), []);
    assert_eq!(server.ledger.unanswered(), 0);
    // Of clusters it can be said: the whole set lacks it.
    server.on(&ask(CLUSTER, &["nowhere"], ""));
    assert_eq!(names(&server.plan()), [[""; 0]]);
}
