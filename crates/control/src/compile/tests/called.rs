//! By which addresses hosts are called: what the filter of names says, which cluster keeps an address, which routes ask
//! for one, and whom bytes at a bind belong to.

use super::{class, message, snapshot, world};
use crate::compile::{Class, Dialect, Key, compile, egress, vhost};
use crate::world::World;
use naka_types::host::Host;
use naka_types::name::{ClusterName, VirtualHostName};
use naka_types::node::NAKA;
use naka_wire::envoy::config::cluster::v3::Cluster;
use naka_wire::envoy::config::listener::v3::Listener;
use naka_wire::envoy::config::route::v3::{Route, VirtualHost};
use naka_wire::envoy::r#type::matcher::v3::filter_state_matcher::Matcher;
use naka_wire::v1::NameFilter;
use naka_wire::values;

fn entry(host: &str, port: &str, more: &str) -> String {
    let name = host.replace('*', "any");
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  hosts: ['{host}']\n  ports: [{port}]\n{more}"
    )
}

fn filter(objects: &str) -> NameFilter {
    let compiled = compile(&world(&snapshot(objects), vec![]), &Key::Names, &class());
    message(&compiled)
}

#[test]
fn names_are_answered_as_istio_answers_them() {
    let http = "{number: 80, name: http, protocol: HTTP}";
    let fixed = "  resolution: STATIC\n  endpoints: [{address: 192.0.2.7}]\n";
    for (host, more, expect) in [
        ("a.x", "  resolution: NONE\n".to_owned(), Some("")),
        ("*.x", "  resolution: NONE\n".to_owned(), Some("")),
        ("a.x", fixed.to_owned(), None),
        ("*.x", "  resolution: DYNAMIC_DNS\n".to_owned(), None),
        (
            "a.x",
            format!("{fixed}  addresses: [10.0.0.1, 10.0.0.2/32]\n"),
            Some("10.0.0.1,10.0.0.2"),
        ),
        (
            "a.x",
            format!("{fixed}  addresses: [10.0.0.0/8]\n"),
            Some(""),
        ),
        (
            "a.x",
            format!("{fixed}  addresses: [10.0.0.1, 10.0.0.0/8]\n"),
            Some("10.0.0.1"),
        ),
        // What is loopback is never captured.
        ("a.x", format!("{fixed}  addresses: [127.0.0.9]\n"), None),
        (
            "a.x",
            "  resolution: NONE\n  addresses: [10.0.0.1]\n".to_owned(),
            Some("10.0.0.1"),
        ),
    ] {
        let filter = filter(&entry(host, http, &more));
        let got = filter.answers.get(host).map(String::as_str);
        assert_eq!(got, expect, "{host} {more}");
    }
}

#[test]
fn a_port_names_whose_connections_to_any_address_are_its_own() {
    let port = |protocol: &str| format!("{{number: 443, name: p, protocol: {protocol}}}");
    let kept = "  resolution: NONE\n";
    for (objects, expect) in [
        (entry("a.x", &port("HTTP"), kept), Some("http")),
        (entry("a.x", &port("HTTPS"), kept), Some("tls")),
        (entry("a.x", &port("TCP"), kept), Some("bytes=a.x")),
        (
            entry("z.x", &port("TCP"), kept) + &entry("a.x", &port("TCP"), kept),
            Some("bytes=z.x"),
        ),
        (
            entry("z.x", &port("TCP"), kept)
                + &entry("a.x", &port("TLS"), kept)
                + &entry("b.x", &port("GRPC"), kept),
            Some("http,tls,bytes=z.x"),
        ),
        // An address of its own says whose the connection is; the authority says it anywhere.
        (
            entry(
                "a.x",
                &port("TCP"),
                "  resolution: NONE\n  addresses: [10.0.0.1]\n",
            ),
            None,
        ),
        (
            entry(
                "a.x",
                &port("HTTP"),
                "  resolution: NONE\n  addresses: [10.0.0.1]\n",
            ),
            Some("http"),
        ),
        (
            entry(
                "a.x",
                &port("HTTP"),
                "  resolution: STATIC\n  endpoints: [{address: 192.0.2.7}]\n",
            ),
            None,
        ),
    ] {
        let filter = filter(&objects);
        assert_eq!(
            filter.ports.get(&443).map(String::as_str),
            expect,
            "{objects}"
        );
    }
}

#[test]
fn a_cluster_of_a_host_without_endpoints_keeps_the_address_and_knows_its_port() {
    let port = "{number: 80, name: http, protocol: HTTP, targetPort: 8080}";
    let own = |more: &str, dialect: Dialect| {
        let key = Key::Cluster(ClusterName::outbound(80, "", "a.x"));
        let class = Class { dialect, ..class() };
        let compiled = compile(
            &world(&snapshot(&entry("a.x", port, more)), vec![]),
            &key,
            &class,
        );
        let cluster: Cluster = message(&compiled);
        let own = values::of_metadata(cluster.metadata.as_ref(), NAKA);
        let said = |name: &str| own.and_then(|own| values::get_str(own, name).map(str::to_owned));
        (said("address"), said("port"))
    };
    let kept = (Some("kept".to_owned()), Some("8080".to_owned()));
    assert_eq!(own("  resolution: NONE\n", Dialect::Naka), kept);
    assert_eq!(own("  resolution: NONE\n", Dialect::Envoy), (None, None));
    assert_eq!(
        own("  resolution: DYNAMIC_DNS\n", Dialect::Naka),
        (None, None)
    );
}

/// A world in which the routes of bytes to `a.x` have these matches.
fn routed(matches: &[&str]) -> World {
    let routes: Vec<String> = matches
        .iter()
        .map(|wanted| {
            format!("  - {{match: [{wanted}], route: [{{destination: {{host: a.x}}}}]}}\n")
        })
        .collect();
    let port = "{number: 9000, name: tcp, protocol: TCP}";
    let objects = entry("a.x", port, "  resolution: NONE\n")
        + "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: default}\nspec:\n  hosts: [a.x]\n  tcp:\n"
        + &routes.concat();
    world(&snapshot(&objects), vec![])
}

/// Names of routes with the ranges that they ask for.
fn ranges(matches: &[&str]) -> Vec<(String, Vec<String>)> {
    let name = VirtualHostName {
        host: "a.x".to_owned(),
        port: 9000,
    };
    let compiled = compile(&routed(matches), &Key::VirtualHost(name), &class());
    let vhost: VirtualHost = message(&compiled);
    let asked = |wire: &Route| {
        let wanted = wire.r#match.as_ref().expect("a match");
        let all = wanted.filter_state.iter();
        let all = all.filter_map(|one| match &one.matcher {
            Some(Matcher::AddressMatch(addresses)) => Some(&addresses.ranges),
            _ => None,
        });
        all.flatten()
            .map(|range| {
                let length = range.prefix_len.map_or(0, |length| length.value);
                format!("{}/{length}", range.address_prefix)
            })
            .collect()
    };
    let routes = vhost.routes.iter();
    routes
        .map(|route| (route.name.clone(), asked(route)))
        .collect()
}

#[test]
fn routes_of_bytes_by_address_are_narrowest_first_and_end_with_one_that_takes_all() {
    let wide = "{destinationSubnets: [10.0.0.0/8]}";
    let narrow = "{destinationSubnets: [10.1.0.0/16, 10.0.0.0/9]}";
    let route =
        |index: usize, range: &str| (format!("default/v/tcp/{index}"), vec![range.to_owned()]);
    let whole = |name: &str| (name.to_owned(), vec![]);
    for (matches, expect) in [
        (
            vec![wide, narrow],
            vec![
                route(1, "10.1.0.0/16"),
                route(1, "10.0.0.0/9"),
                route(0, "10.0.0.0/8"),
                whole("default"),
            ],
        ),
        // As in Istio nothing behind a route that takes everything is reached, and all of IPv4 is everything.
        (vec!["{port: 9000}", wide], vec![whole("default/v/tcp/0")]),
        (
            vec!["{destinationSubnets: [0.0.0.0/0]}", wide],
            vec![route(1, "10.0.0.0/8"), whole("default/v/tcp/0")],
        ),
        (
            vec!["{port: 1, destinationSubnets: [10.0.0.0/8]}"],
            vec![whole("default")],
        ),
        (vec!["{sourceSubnet: 10.0.0.0/8}"], vec![whole("default")]),
    ] {
        assert_eq!(ranges(&matches), expect, "{matches:?}");
    }
    // An Envoy captures nothing.
    let class = Class {
        dialect: Dialect::Envoy,
        ..class()
    };
    let host = Host::parse("a.x").unwrap();
    let all = vhost::described(&routed(&[wide]), &host, 9000, &class);
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["default"]);
}

#[test]
fn bytes_at_a_bind_belong_to_the_oldest_service_and_the_object_is_told() {
    let port = "{number: 5432, name: tcp, protocol: TCP}";
    let fixed = "  resolution: STATIC\n  endpoints: [{address: 192.0.2.7}]\n";
    let sidecar = |hosts: &str, protocol: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: s, namespace: default}}\nspec: {{egress: [{{port: {{number: 5432, protocol: {protocol}, name: db}}, bind: 127.0.0.1, hosts: [{hosts}]}}]}}\n"
        )
    };
    let both = entry("z.x", port, fixed) + &entry("a.x", port, fixed);
    for (hosts, protocol, leads, told) in [
        ("'./*'", "TCP", "z.x", true),
        ("./a.x, ./z.x", "TCP", "z.x", true),
        ("./a.x, ./other.x", "TCP", "a.x", false),
        ("./a.x", "TCP", "a.x", false),
        ("'./*'", "HTTP", "", false),
    ] {
        let snapshot = snapshot(&(both.clone() + &sidecar(hosts, protocol)));
        let world = world(&snapshot, vec![]);
        let compiled = compile(
            &world,
            &Key::Listener("egress_127.0.0.1:5432".to_owned()),
            &class(),
        );
        let listener: Listener = message(&compiled);
        let own = values::of_metadata(listener.metadata.as_ref(), NAKA).expect("ours");
        assert_eq!(
            values::get_str(own, "host"),
            Some(leads),
            "{hosts} {protocol}"
        );
        let object = snapshot
            .objects
            .values()
            .find(|object| object.sidecar().is_some());
        let findings = egress::contested(&world, object.expect("a Sidecar"));
        assert_eq!(!findings.is_empty(), told, "{hosts} {protocol}");
        for finding in findings {
            assert_eq!(
                (finding.code.as_str(), finding.field.as_str()),
                ("L354", "spec.egress[0].hosts")
            );
            assert!(finding.message.contains("go to z.x"), "{}", finding.message);
        }
    }
}

#[test]
fn a_unix_socket_leads_to_the_only_port_of_its_host_or_to_80() {
    let fixed = "  resolution: STATIC\n  endpoints: [{address: 192.0.2.7}]\n";
    let one = entry("a.x", "{number: 5432, name: tcp, protocol: TCP}", fixed);
    let two = entry(
        "b.x",
        "{number: 80, name: http, protocol: HTTP}, {number: 81, name: more, protocol: HTTP}",
        fixed,
    );
    let other = entry(
        "c.x",
        "{number: 81, name: http, protocol: HTTP}, {number: 82, name: more, protocol: HTTP}",
        fixed,
    );
    let all = one + &two + &other;
    for (protocol, hosts, leads) in [
        ("TCP", "./a.x", Some(("a.x", "5432"))),
        ("HTTP", "./b.x", Some(("b.x", "80"))),
        ("HTTP", "./c.x", None),
        ("HTTP", "'./*'", Some(("", "80"))),
        ("TCP", "'./*'", Some(("a.x", "5432"))),
        ("TCP", "./nobody.x", None),
    ] {
        let sidecar = format!(
            "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: s, namespace: default}}\nspec: {{egress: [{{port: {{number: 0, protocol: {protocol}, name: own}}, bind: 'unix:///run/s', hosts: [{hosts}]}}]}}\n"
        );
        let world = world(&snapshot(&(all.clone() + &sidecar)), vec![]);
        let key = Key::Listener("egress_unix:///run/s".to_owned());
        let compiled = compile(&world, &key, &class());
        let listener = compiled
            .resource
            .is_some()
            .then(|| message::<Listener>(&compiled));
        let got = listener.as_ref().map(|listener| {
            let own = values::of_metadata(listener.metadata.as_ref(), NAKA).expect("ours");
            let said = |name| values::get_str(own, name).unwrap_or_default();
            (said("host"), said("port"))
        });
        assert_eq!(got, leads, "{protocol} {hosts}");
        // What it leads to may be called, and by a sidecar of Naka's only it is bound.
        if let Some((host, port)) = leads.filter(|(host, _)| !host.is_empty()) {
            let name = VirtualHostName {
                host: host.to_owned(),
                port: port.parse().unwrap(),
            };
            let known = compile(&world, &Key::VirtualHost(name), &class());
            assert!(known.resource.is_some(), "{host}");
        }
        let class = Class {
            dialect: Dialect::Envoy,
            ..class()
        };
        let words = crate::compile::envoy::not_expressed(&world, &class);
        let told = words.iter().any(|word| word.contains("unix:///run/s"));
        assert_eq!(told, leads.is_some(), "{protocol} {hosts}: {words:?}");
    }
}
