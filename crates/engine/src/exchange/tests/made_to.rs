//! Calls whose address is known apart from their name: where they go on to, and which route of connections takes them.

use super::{World, address, always, refused, route, to, tried};
use crate::canonical::Origin;
use crate::exchange::{Dial, Effect, Input, Need};
use crate::model::{Action, Match, OutsideTls};
use naka_types::cidr::Cidr;
use naka_types::reason::Reason;
use std::net::SocketAddr;
use std::sync::Arc;

fn at(text: &str) -> Option<SocketAddr> {
    Some(text.parse().unwrap())
}

#[test]
fn a_host_that_keeps_its_address_is_called_there_at_its_own_port_or_at_the_one_written() {
    let tls = Arc::new(OutsideTls {
        sni: None,
        names: Arc::default(),
        roots: None,
        revoked: None,
        certificate: None,
        verify: true,
        nobody: false,
    });
    for (keeps, made_to, begins_tls, target, expect) in [
        (true, at("10.0.0.1:80"), false, None, (80, true)),
        (true, at("10.0.0.1:80"), true, None, (80, true)),
        (true, at("10.0.0.1:80"), true, Some(8443), (8443, true)),
        (true, None, false, None, (80, false)),
        (true, None, true, None, (443, false)),
        (false, at("10.0.0.1:80"), false, None, (80, false)),
    ] {
        let mut world = World::new();
        let cluster = world.cluster_with("a", &[], |spec| {
            spec.by_caller = true;
            spec.keeps_address = keeps;
            spec.port = target;
            spec.outside = begins_tls.then(|| Arc::clone(&tls));
        });
        world.host(always(to(vec![cluster])));
        world.origin.made_to = made_to;
        let mut request = world.request("GET", "/", &[]);
        let (_, effect) = world.begin(&mut request);
        let Effect::Need(Need::Addresses { port, kept, .. }) = effect else {
            panic!("{effect:?}")
        };
        assert_eq!((port, kept), expect, "{keeps} {made_to:?} {begins_tls}");
    }
}

/// The port of an authority means nothing where that of the connection is known.
#[test]
fn the_connections_own_port_chooses_the_virtual_host() {
    let mut world = World::new();
    let cluster = world.cluster("a", &[1]);
    world.host(always(to(vec![cluster])));
    let mut request = world.request("GET", "/", &[("host", "payment:9999")]);
    assert!(matches!(world.begin(&mut request).1, Effect::Need(_)));
    world.origin.made_to = at("10.0.0.1:80");
    let mut request = world.request("GET", "/", &[("host", "payment:9999")]);
    assert_eq!(
        tried(world.begin(&mut request).1).endpoint.address,
        address(1)
    );
}

#[test]
fn a_request_agrees_with_its_connection_by_name_or_by_the_address_called() {
    for (made_to, said, expect) in [
        (None, "db.example.com", true),
        (None, "DB.example.com", true),
        (None, "10.0.0.1", false),
        (at("10.0.0.1:80"), "10.0.0.1", true),
        (at("10.0.0.1:80"), "10.0.0.2", false),
        (at("10.0.0.1:80"), "db.example.com", true),
        (at("10.0.0.1:80"), "other.example.com", false),
        (at("[2001:db8::1]:80"), "[2001:db8::1]", true),
        (at("[2001:db8::1]:80"), "[2001:db8::2]", false),
    ] {
        let mut origin = Origin::outbound(80);
        origin.made_to = made_to;
        assert_eq!(
            origin.agrees("db.example.com", said),
            expect,
            "{made_to:?} {said}"
        );
    }
}

#[test]
fn the_first_route_of_connections_that_has_the_address_takes_them() {
    let range = |text: &str| Match {
        made_to: [Cidr::parse(text).unwrap()].into(),
        ..Match::default()
    };
    for (made_to, expect) in [
        (at("10.1.0.1:80"), 1),
        (at("10.2.0.1:80"), 2),
        (at("192.0.2.1:80"), 3),
        (None, 3),
    ] {
        let mut world = World::new();
        let routes = [range("10.1.0.0/16"), range("10.0.0.0/8"), Match::default()];
        let routes = (1..).zip(routes).map(|(number, wanted)| {
            let name = format!("r{number}");
            let cluster = world.cluster(&name, &[number]);
            route(&name, wanted, Action::Forward(to(vec![cluster])))
        });
        let routes = routes.collect();
        world.host(routes);
        world.origin.destination = Some(("payment".into(), 80));
        world.origin.made_to = made_to;
        let effect = Dial::new().step(Input::Begin, &mut world.cx());
        assert_eq!(
            tried(effect).endpoint.address,
            address(expect),
            "{made_to:?}"
        );
        // Requests are held to it no less.
        let mut request = world.request("GET", "/", &[]);
        let effect = world.begin(&mut request).1;
        assert_eq!(
            tried(effect).endpoint.address,
            address(expect),
            "{made_to:?}"
        );
    }
    let mut world = World::new();
    let cluster = world.cluster("a", &[1]);
    let only = route("r", range("10.0.0.0/8"), Action::Forward(to(vec![cluster])));
    world.host(vec![only]);
    world.origin.destination = Some(("payment".into(), 80));
    let effect = Dial::new().step(Input::Begin, &mut world.cx());
    assert_eq!(refused(effect), Reason::NoRoute);
}
