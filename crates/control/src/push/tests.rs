//! The cache against compiling everything anew, and who is told of a change.

use super::cache::Cache;
use super::{Hub, Subscriber};
use crate::compile::tests::{class, member, snapshot, world};
use crate::compile::{Binds, Class, Dialect, Key, compile, roots};
use crate::push::session::Session;
use crate::registry::{Health, Member};
use crate::world::World;
use naka_types::host::Host;
use naka_types::labels::Labels;
use naka_types::node::Role;
use naka_wire::envoy::config::core::v3::Node;
use naka_wire::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use naka_wire::type_url::{CLUSTER, ENDPOINT, LISTENER, NAME_FILTER, ROUTE, SECRET, VIRTUAL_HOST};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A world of chance: a few services, objects on or off, healths anyhow.
fn chance(rng: &mut fastrand::Rng) -> World {
    let mut yaml = String::new();
    for service in ["a", "b", "c"] {
        if rng.bool() {
            let weight = rng.u32(1..5);
            yaml += &format!(
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {service}, namespace: default}}\nspec:\n  hosts: [{service}]\n  http: [{{route: [{{destination: {{host: b, subset: v1}}, weight: {weight}}}, {{destination: {{host: c}}, weight: 1}}]}}]\n---\n"
            );
        }
        if rng.bool() {
            let host = if rng.bool() {
                service
            } else {
                "'*.default.svc.cluster.local'"
            };
            yaml += &format!(
                "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {service}, namespace: default}}\nspec: {{host: {host}, subsets: [{{name: v1, labels: {{version: v{}}}}}]}}\n---\n",
                rng.u32(1..3)
            );
        }
    }
    if rng.bool() {
        yaml += "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: istio-system}\nspec: {mtls: {mode: STRICT}}\n";
    }
    let healths = [Health::Healthy, Health::Draining, Health::Unhealthy];
    let mut members: Vec<Member> = Vec::new();
    for (id, service) in (1..).zip(["a", "b", "b", "c"]) {
        if rng.u8(..) > 50 {
            let version = if rng.bool() { "v1" } else { "v2" };
            members.push(member(id, service, version, healths[rng.usize(..3)]));
        }
    }
    world(&snapshot(&yaml), members)
}

fn everything(world: &World) -> Vec<Key> {
    let mut keys: Vec<Key> = roots::listeners(world, &class()).into_iter().collect();
    keys.extend([Key::RootCa, Key::Revoked, Key::RevokedTokens, Key::Names]);
    for service in ["a", "b", "c"] {
        for port in [80, 8080] {
            let host = Host::of_service(service, "default").to_string();
            keys.push(Key::VirtualHost(naka_types::name::VirtualHostName {
                host: host.clone(),
                port,
            }));
            for subset in ["", "v1"] {
                let name = naka_types::name::ClusterName::outbound(port, subset, &host);
                keys.push(Key::Cluster(name.clone()));
                keys.push(Key::Endpoints(name));
            }
        }
    }
    keys
}

#[test]
fn what_is_kept_equals_what_is_compiled_anew() {
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..20 {
        let mut cache = Cache::default();
        cache.advance(Arc::new(chance(&mut rng)));
        for key in everything(cache.world()) {
            cache.hold(1, &key, &class());
        }
        for _ in 0..20 {
            let before: Vec<_> = cache
                .slots()
                .map(|(slot, compiled)| (slot.clone(), compiled.resource.clone()))
                .collect();
            let next = Arc::new(chance(&mut rng));
            let told: BTreeSet<Key> = cache
                .advance(Arc::clone(&next))
                .keys
                .into_iter()
                .map(|(key, _)| key)
                .collect();
            for (slot, old) in before {
                let fresh = compile(&next, &slot.0, &slot.1);
                let kept = cache.get(&slot.0, &slot.1).unwrap();
                let versions = [&old, &kept.resource, &fresh.resource]
                    .map(|resource| resource.as_ref().map(|resource| resource.version.clone()));
                assert_eq!(versions[1], versions[2], "{:?} is stale", slot.0);
                assert_eq!(kept.refers, fresh.refers, "{:?}", slot.0);
                assert_eq!(kept.name, fresh.name);
                if let (Some(old), Some(kept)) = (&old, &kept.resource) {
                    // What streams hold of an equal resource is the same allocation, not a copy.
                    assert_eq!(Arc::ptr_eq(old, kept), old.version == kept.version);
                }
                if versions[0] != versions[1] {
                    assert!(told.contains(&slot.0), "{:?} changed in silence", slot.0);
                }
            }
        }
    }
}

fn subscriber(name: &str) -> Subscriber {
    Subscriber {
        name: name.to_owned(),
        node: String::new(),
        class: Class {
            role: Role::Sidecar,
            namespace: "default".to_owned(),
            workload_id: name.to_owned(),
            labels: Labels::new(),
            ..Class::default()
        },
        drain_ack: true,
        closure: true,
        name_filter: true,
        version: String::new(),
    }
}

const CLOSURE: [&str; 4] = [CLUSTER, ENDPOINT, LISTENER, VIRTUAL_HOST];

fn ask(session: &mut Session, type_url: &str) {
    let wildcard = (type_url != ENDPOINT).then(|| "*".to_owned());
    session.request(&DeltaDiscoveryRequest {
        node: Some(Node::default()),
        type_url: type_url.to_owned(),
        resource_names_subscribe: wildcard.into_iter().collect(),
        ..DeltaDiscoveryRequest::default()
    });
}

fn open(hub: &Arc<Hub>, name: &str) -> Session {
    let mut session = Session::new(Arc::clone(hub), subscriber(name));
    for type_url in CLOSURE {
        ask(&mut session, type_url);
        let early = session.plan();
        assert_eq!(
            early.is_empty(),
            type_url != VIRTUAL_HOST,
            "nothing before all is open"
        );
        for response in early {
            ack(&mut session, &response.type_url, &response.nonce);
        }
    }
    session
}

fn ack(session: &mut Session, type_url: &str, nonce: &str) {
    session.request(&DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        response_nonce: nonce.to_owned(),
        ..DeltaDiscoveryRequest::default()
    });
}

#[test]
fn a_slow_reader_delays_nobody_and_gets_the_latest_only() {
    let hub = Arc::new(Hub::new());
    let at = |health| world(&snapshot(""), vec![member(1, "a", "v1", health)]);
    hub.publish(at(Health::Healthy));
    let mut quick = open(&hub, "quick");
    let mut slow = open(&hub, "slow");
    let mut revision = 1;
    for health in [Health::Draining, Health::Unhealthy, Health::Draining] {
        let mut next = at(health);
        revision += 1;
        next.revision = revision;
        hub.publish(next);
        let responses = quick.plan();
        assert!(!responses.is_empty());
        assert!(
            responses
                .iter()
                .all(|response| response.type_url == ENDPOINT)
        );
        assert_eq!(hub.progress(revision).acked, Vec::<String>::new());
        for response in responses {
            ack(&mut quick, &response.type_url, &response.nonce);
        }
        assert_eq!(hub.progress(revision).acked, ["quick"]);
        assert_eq!(hub.progress(revision).behind, ["slow"]);
    }
    let responses = slow.plan();
    let sets: usize = responses
        .iter()
        .map(|response| response.resources.len())
        .sum();
    assert_eq!(
        sets, 2,
        "one set for each of the two ports, not one for each change"
    );
    for response in responses {
        ack(&mut slow, &response.type_url, &response.nonce);
    }
    for revision in 2..=revision {
        assert_eq!(hub.progress(revision).behind, Vec::<String>::new());
        assert_eq!(hub.progress(revision).acked, ["quick", "slow"]);
    }
    // A world that says the same moves nobody.
    let mut same = at(Health::Draining);
    same.revision = revision + 1;
    hub.publish(same);
    assert!(quick.plan().is_empty() && slow.plan().is_empty());
    assert_eq!(hub.progress(revision + 1).acked, Vec::<String>::new());
    drop(quick);
    assert_eq!(hub.connected(), 1);
}

/// Its routes may be others than those of somebody without labels. The twin is [`open`]: without such a rule it gets
/// everything at once.
#[test]
fn where_labels_decide_nothing_goes_to_whom_the_world_does_not_know() {
    let rule = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: default}\nspec:\n  hosts: [a]\n  http: [{match: [{sourceLabels: {app: b}}], route: [{destination: {host: a}}]}]\n";
    let hub = Arc::new(Hub::new());
    let a = || member(1, "a", "v1", Health::Healthy);
    let late = member(2, "b", "v1", Health::Healthy);
    hub.publish(world(&snapshot(rule), vec![a()]));
    let id = late.registration.workload_id.clone();
    let mut session = Session::new(Arc::clone(&hub), subscriber(&id));
    for type_url in CLOSURE {
        ask(&mut session, type_url);
        assert!(session.plan().is_empty(), "{type_url}");
    }
    hub.publish(world(&snapshot(rule), vec![a(), late]));
    let mut told = BTreeSet::new();
    loop {
        let responses = session.plan();
        if responses.is_empty() {
            break;
        }
        for response in responses {
            ack(&mut session, &response.type_url, &response.nonce);
            told.insert(response.type_url);
        }
    }
    assert!(
        told.contains(VIRTUAL_HOST) && told.contains(LISTENER),
        "{told:?}"
    );
}

/// A name that was asked for comes back by a pattern, too, without being asked for again.
#[test]
fn a_name_that_was_asked_for_is_followed_through_patterns() {
    let entry = |host: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: bank, namespace: default}}\nspec: {{hosts: ['{host}'], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC, endpoints: [{{address: 192.0.2.1}}]}}\n---\n"
        )
    };
    let rule = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: one, namespace: default}\nspec: {hosts: [api.bank.example], http: [{directResponse: {status: 418}}]}\n";
    let name = "80/api.bank.example:80";
    let hub = Arc::new(Hub::new());
    hub.publish(world(&snapshot(&entry("api.bank.example")), Vec::new()));
    let mut session = open(&hub, "caller");
    session.request(&DeltaDiscoveryRequest {
        type_url: VIRTUAL_HOST.to_owned(),
        resource_names_subscribe: vec![name.to_owned()],
        ..DeltaDiscoveryRequest::default()
    });
    let mut told = || {
        let mut names = BTreeSet::new();
        loop {
            let responses = session.plan();
            if responses.is_empty() {
                return names;
            }
            for response in responses {
                ack(&mut session, &response.type_url, &response.nonce);
                let here = response.resources.iter().map(|one| one.name.clone());
                names.extend(here);
                let gone = response.removed_resources.iter();
                names.extend(gone.map(|name| format!("-{name}")));
            }
        }
    };
    assert!(told().contains(name));
    hub.publish(world(&snapshot(""), Vec::new()));
    assert!(told().contains(&format!("-{name}")));
    hub.publish(world(
        &snapshot(&(entry("*.bank.example") + rule)),
        Vec::new(),
    ));
    assert!(told().contains(name), "by the pattern");
}

#[test]
fn what_is_gone_is_removed_after_what_refers_to_it() {
    let hub = Arc::new(Hub::new());
    let members = vec![
        member(1, "a", "v1", Health::Healthy),
        member(2, "b", "v1", Health::Healthy),
    ];
    hub.publish(world(&snapshot(""), members.clone()));
    let mut session = open(&hub, "proxy");
    hub.publish(world(&snapshot(""), members[..1].to_vec()));
    let removed: Vec<(String, usize)> = session
        .plan()
        .into_iter()
        .map(|response| (response.type_url, response.removed_resources.len()))
        .collect();
    let expected = [(VIRTUAL_HOST, 2), (ENDPOINT, 2), (CLUSTER, 2)];
    assert_eq!(
        removed,
        expected.map(|(url, count)| (url.to_owned(), count))
    );
}

/// A proxy one version off names fewer capabilities and gets nothing it lacks: no clusters and endpoints unasked, no
/// filter of names. What it asks for by name it gets. The twin with the capabilities gets all of it.
#[test]
fn a_proxy_one_version_off_gets_nothing_it_lacks() {
    let sent = |capable: bool| {
        let hub = Arc::new(Hub::new());
        let members = vec![member(1, "a", "v1", Health::Healthy)];
        hub.publish(world(&snapshot(""), members));
        let who = Subscriber {
            closure: capable,
            name_filter: capable,
            version: "0.0.9".to_owned(),
            ..subscriber("old")
        };
        let mut session = Session::new(Arc::clone(&hub), who);
        let mut got: BTreeSet<String> = BTreeSet::new();
        let mut ask = |type_url: &str, name: &str| -> BTreeSet<String> {
            session.request(&DeltaDiscoveryRequest {
                type_url: type_url.to_owned(),
                resource_names_subscribe: vec![name.to_owned()],
                ..DeltaDiscoveryRequest::default()
            });
            for response in session.plan() {
                if !response.resources.is_empty() {
                    got.insert(response.type_url.clone());
                }
                ack(&mut session, &response.type_url, &response.nonce);
            }
            got.clone()
        };
        ask(CLUSTER, "none");
        ask(ENDPOINT, "none");
        ask(LISTENER, "*");
        ask(NAME_FILTER, "*");
        let unasked = ask(VIRTUAL_HOST, "80/a.default.svc.cluster.local:80");
        let asked = ask(CLUSTER, "outbound|80||a.default.svc.cluster.local");
        (unasked, asked)
    };
    let (unasked, asked) = sent(false);
    for lacking in [CLUSTER, ENDPOINT, NAME_FILTER] {
        assert!(!unasked.contains(lacking), "{unasked:?}");
    }
    assert!(
        unasked.contains(VIRTUAL_HOST) && asked.contains(CLUSTER),
        "{asked:?}"
    );
    let (twin, _) = sent(true);
    for known in [CLUSTER, ENDPOINT, NAME_FILTER, VIRTUAL_HOST] {
        assert!(twin.contains(known), "{twin:?}");
    }
}

/// An agent asks for everything in the name of its Envoy, and for the roots. The twin of what comes again after a
/// change: nothing comes when nothing changed.
#[test]
fn an_agent_gets_roots_and_endpoints_again_after_their_cluster() {
    let hub = Arc::new(Hub::new());
    let members = || vec![member(1, "a", "v1", Health::Healthy)];
    hub.publish(world(&snapshot(""), members()));
    let mut who = subscriber("agent");
    who.class.dialect = Dialect::Envoy;
    who.class.binds = Arc::new(Binds {
        http_proxy: Some(([127, 0, 0, 1], 3128).into()),
        ..Binds::default()
    });
    let mut session = Session::new(Arc::clone(&hub), who);
    for (type_url, name) in [
        (SECRET, "ROOTCA"),
        (CLUSTER, "*"),
        (ENDPOINT, "*"),
        (LISTENER, "*"),
        (ROUTE, "*"),
    ] {
        session.request(&DeltaDiscoveryRequest {
            node: Some(Node::default()),
            type_url: type_url.to_owned(),
            resource_names_subscribe: vec![name.to_owned()],
            ..DeltaDiscoveryRequest::default()
        });
    }
    let sent = |session: &mut Session| -> Vec<(String, Vec<String>)> {
        let responses = session.plan();
        for response in &responses {
            ack(session, &response.type_url, &response.nonce);
        }
        let names = |all: &[naka_wire::envoy::service::discovery::v3::Resource]| {
            all.iter().map(|resource| resource.name.clone()).collect()
        };
        responses
            .iter()
            .map(|response| (response.type_url.clone(), names(&response.resources)))
            .collect()
    };
    let types: Vec<String> = sent(&mut session).into_iter().map(|(url, _)| url).collect();
    assert_eq!(types, [SECRET, CLUSTER, ENDPOINT, LISTENER, ROUTE]);
    assert_eq!(sent(&mut session), []);
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a, namespace: default}\nspec: {host: a, trafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}}\n";
    hub.publish(world(&snapshot(rule), members()));
    let [(first, clusters), (second, endpoints)] = &sent(&mut session)[..] else {
        panic!("more than clusters and endpoints");
    };
    assert_eq!((first.as_str(), second.as_str()), (CLUSTER, ENDPOINT));
    assert_eq!(clusters, endpoints);
    assert!(!clusters.is_empty());
}
