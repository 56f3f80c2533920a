//! Tables of the client side of the delta protocol.

use super::{Action, Client, Event, Subscription, Update};
use crate::resource::Reject;
use naka_wire::envoy::config::core::v3::Node;
use naka_wire::envoy::google::protobuf::Any;
use naka_wire::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use naka_wire::type_url::{CLUSTER, VIRTUAL_HOST};

fn client() -> Client {
    Client::new(
        Node::default(),
        [
            (VIRTUAL_HOST, Subscription::everything().and(["a"])),
            (CLUSTER, Subscription::everything()),
        ],
    )
}

fn response(nonce: &str, names: &[(&str, &str)], removed: &[&str]) -> Event {
    let resource = |(name, version): &(&str, &str)| Resource {
        name: (*name).to_owned(),
        version: (*version).to_owned(),
        resource: Some(Any {
            type_url: CLUSTER.to_owned(),
            value: Vec::new(),
        }),
        ..Resource::default()
    };
    Event::Response(DeltaDiscoveryResponse {
        type_url: CLUSTER.to_owned(),
        nonce: nonce.to_owned(),
        resources: names.iter().map(resource).collect(),
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryResponse::default()
    })
}

fn sent(actions: Vec<Action>) -> Vec<DeltaDiscoveryRequest> {
    let request = |action| match action {
        Action::Send(request) => Some(request),
        Action::Deliver(_) => None,
    };
    actions.into_iter().filter_map(request).collect()
}

fn delivered(actions: Vec<Action>) -> Update {
    match actions.into_iter().next() {
        Some(Action::Deliver(update)) => update,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_node_is_named_once_and_dependencies_are_opened_first() {
    let requests = sent(client().on(Event::Connected));
    let types: Vec<&str> = requests.iter().map(|r| r.type_url.as_str()).collect();
    assert_eq!(types, [CLUSTER, VIRTUAL_HOST]);
    assert!(requests[0].node.is_some() && requests[1].node.is_none());
    assert_eq!(requests[1].resource_names_subscribe, ["*", "a"]);
}

#[test]
fn only_what_was_accepted_is_held_and_named_after_a_reconnect() {
    let mut client = client();
    client.on(Event::Connected);
    let update = delivered(client.on(response("n1", &[("good", "1"), ("bad", "1")], &[])));
    let rejects = vec![Reject {
        name: "bad".into(),
        reason: "why".into(),
    }];
    let ticket = update.ticket;
    let acks = sent(client.on(Event::Verdict { ticket, rejects }));
    assert_eq!(acks.len(), 1);
    assert_eq!(acks[0].response_nonce, "n1");
    assert_eq!(acks[0].error_detail.as_ref().unwrap().message, "bad: why");
    // One verdict for each response.
    let again = client.on(Event::Verdict {
        ticket,
        rejects: Vec::new(),
    });
    assert_eq!(again, []);
    client.on(Event::Disconnected);
    let requests = sent(client.on(Event::Connected));
    let held: Vec<_> = requests[0].initial_resource_versions.iter().collect();
    assert_eq!(held, [(&"good".to_owned(), &"1".to_owned())]);
    let update = delivered(client.on(response("n2", &[], &["good"])));
    client.on(Event::Verdict {
        ticket: update.ticket,
        rejects: Vec::new(),
    });
    assert!(client.held(CLUSTER).unwrap().is_empty());
}

#[test]
fn a_verdict_of_an_older_stream_is_not_sent_on_the_new_one() {
    let mut client = client();
    client.on(Event::Connected);
    let update = delivered(client.on(response("n1", &[("a", "1")], &[])));
    client.on(Event::Disconnected);
    client.on(Event::Connected);
    let late = client.on(Event::Verdict {
        ticket: update.ticket,
        rejects: Vec::new(),
    });
    assert_eq!(late, []);
}

#[test]
fn names_are_asked_for_once_and_given_up_once() {
    let mut client = client();
    client.on(Event::Connected);
    let type_url = || VIRTUAL_HOST.to_owned();
    let names = || vec!["b".to_owned()];
    let subscribe = |client: &mut Client| {
        sent(client.on(Event::Subscribe {
            type_url: type_url(),
            names: names(),
        }))
    };
    assert_eq!(subscribe(&mut client)[0].resource_names_subscribe, ["b"]);
    assert_eq!(subscribe(&mut client), []);
    let given_up = sent(client.on(Event::Unsubscribe {
        type_url: type_url(),
        names: names(),
    }));
    assert_eq!(given_up[0].resource_names_unsubscribe, ["b"]);
    assert_eq!(subscribe(&mut client).len(), 1);
}

#[test]
fn a_resource_of_another_type_is_refused_with_its_response() {
    let mut client = client();
    client.on(Event::Connected);
    let Event::Response(mut wrong) = response("n", &[("a", "1")], &[]) else {
        unreachable!()
    };
    wrong.type_url = VIRTUAL_HOST.to_owned();
    let actions = client.on(Event::Response(wrong));
    let nacks = sent(actions);
    assert!(
        nacks[0]
            .error_detail
            .as_ref()
            .unwrap()
            .message
            .contains("not a")
    );
}
