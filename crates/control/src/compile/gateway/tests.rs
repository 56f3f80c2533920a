//! What a gateway is told of servers with TLS, and what it is not told.

use crate::compile::tests::{class, member, snapshot, world};
use crate::compile::{Class, Compiled, Credential, Dialect, Key, compile};
use crate::registry::{Health, Member};
use crate::world::World;
use base64::Engine as _;
use naka_types::node::Role;
use naka_wire::envoy::config::listener::v3::{FilterChain, Listener};
use naka_wire::envoy::extensions::transport_sockets::tls::v3::{
    DownstreamTlsContext, Secret, secret,
};

fn members() -> Vec<Member> {
    vec![
        member(1, "order", "v1", Health::Healthy),
        member(2, "payment", "v1", Health::Healthy),
    ]
}

fn gateway(dialect: Dialect) -> Class {
    Class {
        role: Role::Gateway,
        dialect,
        labels: [("app".to_owned(), "edge".to_owned())].into(),
        ..class()
    }
}

/// A Secret with a certificate of its own.
fn certificate(name: &str) -> String {
    let made = rcgen::generate_simple_self_signed([format!("{name}.example.com")]).unwrap();
    let base64 = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    let (chain, key) = (
        base64(made.cert.pem()),
        base64(made.signing_key.serialize_pem()),
    );
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\ntype: kubernetes.io/tls\ndata: {{tls.crt: {chain}, tls.key: {key}}}\n---\n"
    )
}

fn servers(name: &str, servers: &[&str]) -> String {
    let all: Vec<String> = servers
        .iter()
        .map(|one| format!("  - {{{one}}}\n"))
        .collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  selector: {{app: edge}}\n  servers:\n{}---\n",
        all.concat()
    )
}

fn https(host: &str, secret: &str) -> String {
    format!(
        "port: {{number: 443, name: 'https-{host}', protocol: HTTPS}}, hosts: ['{host}'], tls: {{mode: SIMPLE, credentialName: {secret}}}"
    )
}

fn at(yaml: &str) -> World {
    world(&snapshot(yaml), members())
}

fn listener(world: &World, port: u16, class: &Class) -> (Listener, Compiled) {
    let compiled = compile(world, &Key::Listener(format!("0.0.0.0_{port}")), class);
    let any = &compiled.resource.as_ref().expect("a listener").any;
    (naka_wire::unpack(any).unwrap(), compiled)
}

fn names(chain: &FilterChain) -> Vec<&str> {
    let wanted = chain.filter_chain_match.as_ref().unwrap();
    wanted.server_names.iter().map(String::as_str).collect()
}

fn credential(name: &str) -> Key {
    Key::Credential(Credential {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        roots: false,
    })
}

#[test]
fn servers_with_tls_have_chains_of_their_own_and_refer_to_their_certificates() {
    let yaml = certificate("a")
        + &certificate("b")
        + &servers(
            "edge",
            &[&https("a.example.com", "a"), &https("*.example.com", "b")],
        );
    let world = at(&yaml);
    for dialect in [Dialect::Naka, Dialect::Envoy] {
        let (listener, compiled) = listener(&world, 443, &gateway(dialect));
        let chains: Vec<Vec<&str>> = listener.filter_chains.iter().map(names).collect();
        assert_eq!(chains, [["a.example.com"], ["*.example.com"]]);
        for name in ["a", "b"] {
            assert!(compiled.refers.contains(&credential(name)), "{name}");
        }
        assert_eq!(compiled.findings, []);
    }
}

#[test]
fn a_certificate_goes_to_gateways_of_its_namespace_only() {
    let yaml = certificate("a") + &servers("edge", &[&https("a.example.com", "a")]);
    let world = at(&yaml);
    let own = gateway(Dialect::Naka);
    let compiled = compile(&world, &credential("a"), &own);
    let message: Secret = naka_wire::unpack(&compiled.resource.unwrap().any).unwrap();
    assert!(matches!(
        message.r#type,
        Some(secret::Type::TlsCertificate(_))
    ));
    for other in [
        Class {
            namespace: "other".to_owned(),
            ..own.clone()
        },
        Class {
            role: Role::Sidecar,
            ..own.clone()
        },
    ] {
        let scoped = credential("a").scope(&other);
        assert_eq!(compile(&world, &credential("a"), &scoped).resource, None);
    }
}

#[test]
fn a_missing_or_bad_secret_takes_its_own_server_out_only() {
    let good = certificate("a");
    let other = certificate("b");
    // The key of another certificate.
    let field = |text: &str, name: &str| {
        let start = text.find(name).unwrap() + name.len();
        let end = text[start..].find(['}', ',']).unwrap();
        text[start..start + end].to_owned()
    };
    let swapped = other.replace(&field(&other, "tls.key: "), &field(&good, "tls.key: "));
    for (secret, words) in [
        (String::new(), "no Secret b in namespace default"),
        (swapped, "cannot be served"),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: b, namespace: default}\nstringData: {tls.crt: x}\n---\n".to_owned(),
            "has no tls.key",
        ),
    ] {
        let yaml = good.clone()
            + &secret
            + &servers("edge", &[&https("a.example.com", "a"), &https("b.example.com", "b")]);
        let world = at(&yaml);
        let (listener, compiled) = listener(&world, 443, &gateway(Dialect::Naka));
        assert_eq!(listener.filter_chains.len(), 1);
        assert_eq!(names(&listener.filter_chains[0]), ["a.example.com"]);
        let [finding] = compiled.findings.as_slice() else {
            panic!("{:?}", compiled.findings);
        };
        assert_eq!(finding.code, "E332");
        assert_eq!(finding.field, "spec.servers[1].tls.credentialName");
        assert!(finding.message.contains(words), "{finding}");
        assert!(!finding.message.contains("BEGIN"), "{finding}");
    }
}

#[test]
fn what_two_gateways_claim_belongs_to_the_older_one() {
    let yaml = certificate("a")
        + &certificate("b")
        + &servers("zz-older", &[&https("shop.example.com", "a")])
        + &servers(
            "aa-younger",
            &[
                "port: {number: 443, name: https, protocol: HTTPS}, hosts: [shop.example.com, other.example.com], tls: {mode: SIMPLE, credentialName: b}",
            ],
        );
    let world = at(&yaml);
    let (listener, compiled) = listener(&world, 443, &gateway(Dialect::Envoy));
    let mut chains: Vec<(&str, Vec<&str>)> = listener
        .filter_chains
        .iter()
        .map(|chain| (chain.name.as_str(), names(chain)))
        .collect();
    chains.sort();
    assert_eq!(
        chains,
        [
            ("443/default/aa-younger/0", vec!["other.example.com"]),
            ("443/default/zz-older/0", vec!["shop.example.com"])
        ]
    );
    assert_eq!(compiled.findings.len(), 1);
    assert_eq!(compiled.findings[0].code, "E331");
}

/// As in Istio: the name of a server that ends TLS of HTTP is what its requests are counted under.
#[test]
fn a_server_with_a_name_has_counts_of_its_own() {
    use naka_wire::envoy::config::listener::v3::filter::ConfigType;
    use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
    for dialect in [Dialect::Envoy, Dialect::Naka] {
        for (name, named) in [(", name: shop", true), ("", false)] {
            let server = https("a.example.com", "a") + name;
            let world = at(&(certificate("a") + &servers("edge", &[&server])));
            let (listener, _) = listener(&world, 443, &gateway(dialect));
            let last = listener.filter_chains[0].filters.last().unwrap();
            let Some(ConfigType::TypedConfig(any)) = &last.config_type else {
                panic!("{last:?}");
            };
            let manager: HttpConnectionManager = naka_wire::unpack(any).unwrap();
            let expect = if named { "shop" } else { &listener.name };
            assert_eq!(manager.stat_prefix, expect, "{dialect:?}");
        }
    }
}

#[test]
fn clients_are_asked_for_what_the_mode_says() {
    let roots = certificate("a-cacert").replace("tls.crt", "cacert");
    for (mode, extra, asked, required) in [
        ("SIMPLE", "", false, false),
        ("MUTUAL", ", subjectAltNames: [ops.example.com]", true, true),
        ("OPTIONAL_MUTUAL", "", true, false),
    ] {
        let server = format!(
            "port: {{number: 443, name: https, protocol: HTTPS}}, hosts: [a.example.com], tls: {{mode: {mode}, credentialName: a{extra}}}"
        );
        let yaml = certificate("a") + &roots + &servers("edge", &[&server]);
        let world = at(&yaml);
        let (listener, compiled) = listener(&world, 443, &gateway(Dialect::Envoy));
        let socket = listener.filter_chains[0].transport_socket.as_ref().unwrap();
        use naka_wire::envoy::config::core::v3::transport_socket::ConfigType;
        let Some(ConfigType::TypedConfig(any)) = &socket.config_type else {
            panic!("{socket:?}");
        };
        let context: DownstreamTlsContext = naka_wire::unpack(any).unwrap();
        assert_eq!(context.require_client_certificate.unwrap().value, required);
        let common = context.common_tls_context.unwrap();
        assert_eq!(common.validation_context_type.is_some(), asked, "{mode}");
        let wanted = Key::Credential(Credential {
            namespace: "default".to_owned(),
            name: "a".to_owned(),
            roots: true,
        });
        assert_eq!(compiled.refers.contains(&wanted), asked, "{mode}");
    }
}

#[test]
fn a_server_offers_the_protocols_and_key_exchanges_that_it_names() {
    use naka_wire::envoy::config::core::v3::transport_socket::ConfigType;
    for (extra, protocols, curves) in [
        (
            "",
            &["h2", "http/1.1"][..],
            &["X25519MLKEM768", "X25519", "P-256"][..],
        ),
        (
            ", alpnProtocols: [http/1.1], ecdhCurves: [P-384, X448, P-256]",
            &["http/1.1"],
            &["P-384", "P-256"],
        ),
    ] {
        let server = format!(
            "port: {{number: 443, name: https, protocol: HTTPS}}, hosts: [a.example.com], tls: {{mode: SIMPLE, credentialName: a{extra}}}"
        );
        let world = at(&(certificate("a") + &servers("edge", &[&server])));
        for dialect in [Dialect::Naka, Dialect::Envoy] {
            let (listener, _) = listener(&world, 443, &gateway(dialect));
            let socket = listener.filter_chains[0].transport_socket.as_ref().unwrap();
            let Some(ConfigType::TypedConfig(any)) = &socket.config_type else {
                panic!("{socket:?}");
            };
            let context: DownstreamTlsContext = naka_wire::unpack(any).unwrap();
            let common = context.common_tls_context.unwrap();
            assert_eq!(common.alpn_protocols, protocols);
            assert_eq!(common.tls_params.unwrap().ecdh_curves, curves);
        }
    }
}

/// A server of HTTP that redirects serves nothing else in plaintext, whether routes are bound to it or not.
#[test]
fn a_redirecting_server_says_so_for_each_of_its_hosts() {
    let yaml = servers(
        "edge",
        &[
            "port: {number: 80, name: http, protocol: HTTP}, hosts: [a.example.com, b.example.com], tls: {httpsRedirect: true}",
            "port: {number: 80, name: http2, protocol: HTTP}, hosts: [c.example.com]",
        ],
    ) + "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: default}\nspec: {hosts: [a.example.com, c.example.com], gateways: [edge], http: [{route: [{destination: {host: order}}]}]}\n";
    let world = at(&yaml);
    let class = gateway(Dialect::Envoy);
    let (listener, compiled) = listener(&world, 80, &class);
    assert_eq!(
        listener.filter_chains.len(),
        1,
        "plain servers share a chain"
    );
    let routes = compiled
        .refers
        .iter()
        .find(|key| matches!(key, Key::Routes(_)))
        .unwrap();
    let compiled = compile(&world, routes, &class);
    let config: naka_wire::envoy::config::route::v3::RouteConfiguration =
        naka_wire::unpack(&compiled.resource.unwrap().any).unwrap();
    let hosts: Vec<(&str, i32, usize)> = config
        .virtual_hosts
        .iter()
        .map(|host| {
            (
                host.domains[0].as_str(),
                host.require_tls,
                host.routes.len(),
            )
        })
        .collect();
    assert_eq!(
        hosts,
        [
            ("a.example.com", 2, 1),
            ("b.example.com", 2, 0),
            ("c.example.com", 0, 1)
        ]
    );
}

#[test]
fn routes_by_server_name_lead_to_their_clusters() {
    let server = "port: {number: 443, name: tls, protocol: TLS}, hosts: ['*.example.com'], tls: {mode: PASSTHROUGH}";
    let yaml = servers("edge", &[server])
        + "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: default}\nspec:\n  hosts: ['*.example.com']\n  gateways: [edge]\n  tls:\n  - {match: [{sniHosts: [a.example.com], port: 443}], route: [{destination: {host: order}}]}\n  - {match: [{sniHosts: ['*.b.example.com'], port: 444}, {sniHosts: [b.example.com]}], route: [{destination: {host: payment}, weight: 3}, {destination: {host: order}, weight: 1}]}\n";
    let world = at(&yaml);
    let (listener, compiled) = listener(&world, 443, &gateway(Dialect::Naka));
    let chains: Vec<Vec<&str>> = listener.filter_chains.iter().map(names).collect();
    assert_eq!(chains, [["a.example.com"], ["b.example.com"]]);
    assert!(
        listener
            .filter_chains
            .iter()
            .all(|chain| chain.transport_socket.is_none())
    );
    assert_eq!(compiled.refers.len(), 2);
}

#[test]
fn a_port_has_one_protocol_in_plaintext_and_the_older_server_says_which() {
    let yaml = servers(
        "edge",
        &[
            "port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']",
            "port: {number: 9000, name: http, protocol: HTTP}, hosts: ['*']",
        ],
    ) + "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: default}\nspec: {hosts: ['*'], gateways: [edge], tcp: [{match: [{sourceSubnet: 10.0.0.0/8}], route: [{destination: {host: payment}}]}, {route: [{destination: {host: order}}]}]}\n";
    let world = at(&yaml);
    let (listener, compiled) = listener(&world, 9000, &gateway(Dialect::Naka));
    let ranges: Vec<usize> = listener
        .filter_chains
        .iter()
        .map(|chain| {
            chain
                .filter_chain_match
                .as_ref()
                .unwrap()
                .source_prefix_ranges
                .len()
        })
        .collect();
    assert_eq!(ranges, [1, 0]);
    assert!(
        compiled
            .findings
            .iter()
            .any(|f| f.code == "E331" && f.field == "spec.servers[1].port.protocol")
    );
}
