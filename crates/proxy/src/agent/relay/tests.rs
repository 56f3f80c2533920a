//! Tables of the relay: what is sent, told and kept for each thing that happens.

use super::{Effect, Message, Relay, Wants};
use naka_wire::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, Resource as Sent,
};
use naka_wire::google::protobuf::Any;
use naka_wire::google::rpc::Status;
use naka_wire::type_url::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
use naka_xds::Resource;
use naka_xds::delta::client::{Action, Client, Event, Subscription, Ticket, Update};
use std::time::Duration;

const NOW: Duration = Duration::ZERO;
const LATER: Duration = Duration::from_secs(3);

/// The control plane's side: updates with tickets of a real client.
struct Above(Client);

impl Above {
    fn new() -> Self {
        let none: [(&str, Subscription); 0] = [];
        let mut client = Client::new(Default::default(), none);
        client.on(Event::Connected);
        Self(client)
    }

    fn update(&mut self, url: &str, resources: &[(&str, &str)], removed: &[&str]) -> Update {
        let resources = resources.iter().map(|(name, version)| Sent {
            name: (*name).to_owned(),
            version: (*version).to_owned(),
            resource: Some(any(url)),
            ..Sent::default()
        });
        let response = DeltaDiscoveryResponse {
            type_url: url.to_owned(),
            nonce: "n".to_owned(),
            resources: resources.collect(),
            removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryResponse::default()
        };
        match self.0.on(Event::Response(response)).pop() {
            Some(Action::Deliver(update)) => update,
            other => panic!("{other:?}"),
        }
    }
}

fn any(url: &str) -> Any {
    Any {
        type_url: url.to_owned(),
        value: Vec::new(),
    }
}

fn ask(url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: url.to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn answer(response: &DeltaDiscoveryResponse, refusal: Option<&str>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        error_detail: refusal.map(|words| Status {
            message: words.to_owned(),
            ..Status::default()
        }),
        ..DeltaDiscoveryRequest::default()
    }
}

fn sent(effects: &[Effect]) -> Vec<DeltaDiscoveryResponse> {
    let delta = effects.iter().filter_map(|effect| match effect {
        Effect::Send(_, message) => match &**message {
            Message::Delta(response) => Some(response.clone()),
            Message::Whole(_) => None,
        },
        _ => None,
    });
    delta.collect()
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<String> {
    response.resources.iter().map(|r| r.name.clone()).collect()
}

fn verdict(effects: &[Effect]) -> Option<(Ticket, Vec<String>)> {
    effects.iter().find_map(|effect| match effect {
        Effect::Verdict(ticket, rejects) => {
            Some((*ticket, rejects.iter().map(|r| r.name.clone()).collect()))
        }
        _ => None,
    })
}

fn good(relay: &Relay) -> Vec<(String, String)> {
    let all = relay.good().into_iter();
    all.map(|resource| (resource.name, resource.version))
        .collect()
}

/// An Envoy that has asked for everything and was told of nothing.
fn envoy(relay: &mut Relay) {
    relay.open(1, false);
    assert_eq!(relay.delta(NOW, 1, &ask(CLUSTER, &[])), []);
    assert_eq!(relay.delta(NOW, 1, &ask(LISTENER, &[])), []);
}

#[test]
fn a_verdict_goes_up_only_after_the_client_gave_it() {
    let (mut above, mut relay) = (Above::new(), Relay::new(Wants::Everything, Vec::new()));
    envoy(&mut relay);
    let update = above.update(CLUSTER, &[("a", "1")], &[]);
    let ticket = update.ticket;
    let effects = relay.update(NOW, update);
    assert_eq!(verdict(&effects), None);
    let responses = sent(&effects);
    assert_eq!(names(&responses[0]), ["a"]);
    assert!(good(&relay).is_empty());
    let effects = relay.delta(NOW, 1, &answer(&responses[0], None));
    assert_eq!(verdict(&effects), Some((ticket, vec![])));
    assert!(effects.contains(&Effect::Save));
    assert_eq!(good(&relay), [("a".to_owned(), "1".to_owned())]);
    // Time alone is no verdict while the client is away, or has it and says nothing.
    let update = above.update(CLUSTER, &[("a", "2")], &[]);
    relay.close(1);
    relay.update(NOW, update);
    assert_eq!(relay.tick(LATER), []);
    envoy_again(&mut relay, "2");
}

/// A new Envoy gets everything at once.
fn envoy_again(relay: &mut Relay, version: &str) {
    relay.open(2, false);
    let effects = relay.delta(LATER, 2, &ask(CLUSTER, &["*"]));
    assert_eq!(sent(&effects)[0].resources[0].version, version);
    assert_eq!(verdict(&effects), None);
    let effects = relay.delta(LATER, 2, &answer(&sent(&effects)[0], None));
    assert!(verdict(&effects).is_some());
}

#[test]
fn one_bad_resource_is_found_and_the_rest_counts() {
    let (mut above, mut relay) = (Above::new(), Relay::new(Wants::Everything, Vec::new()));
    envoy(&mut relay);
    let update = above.update(CLUSTER, &[("a", "1"), ("b", "1")], &[]);
    let first = sent(&relay.update(NOW, update));
    relay.delta(NOW, 1, &answer(&first[0], None));
    let update = above.update(CLUSTER, &[("a", "2"), ("b", "2")], &[]);
    let ticket = update.ticket;
    let both = sent(&relay.update(NOW, update));
    let effects = relay.delta(NOW, 1, &answer(&both[0], Some("bad b")));
    assert_eq!(verdict(&effects), None);
    let single = sent(&effects);
    assert_eq!(
        single.iter().map(names).collect::<Vec<_>>(),
        [vec!["a"], vec!["b"]]
    );
    assert_eq!(
        verdict(&relay.delta(NOW, 1, &answer(&single[0], None))),
        None
    );
    let effects = relay.delta(NOW, 1, &answer(&single[1], Some("bad b")));
    assert_eq!(verdict(&effects), Some((ticket, vec!["b".to_owned()])));
    let kept = [("a", "2"), ("b", "1")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(good(&relay), kept);
    // The next Envoy gets the last good one of both.
    relay.open(2, false);
    let effects = relay.delta(NOW, 2, &ask(CLUSTER, &["*"]));
    let versions: Vec<_> = sent(&effects)[0]
        .resources
        .iter()
        .map(|r| r.version.clone())
        .collect();
    assert_eq!(versions, ["2", "1"]);
}

#[test]
fn endpoints_are_passed_on_again_even_when_they_are_the_same() {
    let (mut above, mut relay) = (Above::new(), Relay::new(Wants::Everything, Vec::new()));
    envoy(&mut relay);
    relay.update(NOW, above.update(CLUSTER, &[("a", "1")], &[]));
    // Endpoints that are not there yet are not denied: the Envoy would call nobody.
    let effects = relay.delta(NOW, 1, &ask(ENDPOINT, &["a"]));
    assert_eq!(sent(&effects), []);
    for _ in 0..2 {
        let effects = relay.update(NOW, above.update(ENDPOINT, &[("a", "7")], &[]));
        let response = sent(&effects);
        assert_eq!(names(&response[0]), ["a"]);
        relay.delta(NOW, 1, &answer(&response[0], None));
    }
    // Asked for again, it is answered again.
    let effects = relay.delta(NOW, 1, &ask(ENDPOINT, &["a"]));
    assert_eq!(names(&sent(&effects)[0]), ["a"]);
}

#[test]
fn what_nobody_wants_is_not_waited_for_long() {
    let (mut above, mut relay) = (Above::new(), Relay::new(Wants::Everything, Vec::new()));
    envoy(&mut relay);
    let update = above.update(ROUTE, &[("r", "1")], &[]);
    let ticket = update.ticket;
    assert_eq!(verdict(&relay.update(NOW, update)), None);
    assert_eq!(verdict(&relay.tick(LATER)), Some((ticket, vec![])));
    assert_eq!(good(&relay).len(), 1);
}

#[test]
fn a_saved_copy_serves_a_new_envoy_without_a_control_plane() {
    let saved = [(CLUSTER, "a"), (ENDPOINT, "a")].map(|(url, name)| Resource {
        type_url: url.to_owned(),
        name: name.to_owned(),
        version: "5".to_owned(),
        any: any(url),
    });
    let mut relay = Relay::new(Wants::Everything, saved.to_vec());
    assert!(relay.speaks());
    assert_eq!(relay.versions(CLUSTER), [("a".to_owned(), "5".to_owned())]);
    relay.open(1, false);
    let effects = relay.delta(NOW, 1, &ask(CLUSTER, &["*"]));
    assert_eq!(names(&sent(&effects)[0]), ["a"]);
    assert_eq!(
        names(&sent(&relay.delta(NOW, 1, &ask(ENDPOINT, &["a"])))[0]),
        ["a"]
    );
    // There is no listener, and that is an answer too.
    let effects = relay.delta(NOW, 1, &ask(LISTENER, &["*"]));
    assert_eq!(sent(&effects).len(), 1);
    let nothing = Relay::new(Wants::Everything, Vec::new());
    assert!(!nothing.speaks());
}

#[test]
fn a_grpc_client_gets_what_it_names_and_the_whole_of_it() {
    let (mut above, mut relay) = (Above::new(), Relay::new(Wants::Named, Vec::new()));
    relay.open(1, true);
    let mut request = DiscoveryRequest {
        type_url: LISTENER.to_owned(),
        resource_names: vec!["payment".to_owned()],
        ..DiscoveryRequest::default()
    };
    let effects = relay.whole(NOW, 1, &request);
    let asked = Effect::Ask(LISTENER, vec!["payment".to_owned()]);
    assert_eq!(effects, [asked]);
    let update = above.update(LISTENER, &[("payment", "1")], &[]);
    let ticket = update.ticket;
    let effects = relay.update(NOW, update);
    let Some(Effect::Send(1, message)) = effects.first() else {
        panic!("{effects:?}");
    };
    let Message::Whole(response) = &**message else {
        panic!("{message:?}");
    };
    assert_eq!(response.resources.len(), 1);
    request.response_nonce.clone_from(&response.nonce);
    let effects = relay.whole(NOW, 1, &request);
    assert_eq!(verdict(&effects), Some((ticket, vec![])));
    assert_eq!(good(&relay).len(), 1);
    // A second program is served from the copy; nothing is asked twice.
    relay.open(2, true);
    request.response_nonce.clear();
    let effects = relay.whole(NOW, 2, &request);
    assert!(matches!(effects.as_slice(), [Effect::Send(2, _)]));
}
