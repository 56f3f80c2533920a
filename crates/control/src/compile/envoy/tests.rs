//! What an Envoy and a gRPC client are told, message by message.

use crate::compile::tests::{class, member, snapshot, world};
use crate::compile::{Binds, Class, Compiled, Dialect, Key, Upstream, compile};
use crate::registry::{Health, Member};
use crate::world::World;
use naka_store::Snapshot;
use naka_types::name::ClusterName;
use naka_wire::envoy::config::cluster::v3::Cluster;
use naka_wire::envoy::config::endpoint::v3::ClusterLoadAssignment;
use naka_wire::envoy::config::listener::v3::Listener;
use naka_wire::envoy::config::route::v3::{RouteConfiguration, route, route_action};
use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use naka_wire::envoy::extensions::transport_sockets::tls::v3::{
    DownstreamTlsContext, UpstreamTlsContext, common_tls_context::ValidationContextType,
};
use std::collections::BTreeSet;
use std::sync::Arc;

const PAYMENT: &str = "payment.default.svc.cluster.local";

fn members() -> Vec<Member> {
    vec![
        member(1, "order", "v1", Health::Healthy),
        member(2, "payment", "v1", Health::Healthy),
        member(3, "payment", "v2", Health::Draining),
    ]
}

fn envoy() -> Class {
    Class {
        dialect: Dialect::Envoy,
        binds: Arc::new(Binds {
            http_proxy: Some(([127, 0, 0, 1], 3128).into()),
            upstreams: vec![Upstream {
                bind: ([127, 0, 0, 1], 5432).into(),
                host: "payment".to_owned(),
                port: 80,
            }],
            ..Binds::default()
        }),
        ..class()
    }
}

fn grpc() -> Class {
    Class {
        dialect: Dialect::Grpc,
        ..class()
    }
}

fn message<M>(compiled: &Compiled) -> M
where
    M: naka_wire::prost::Message + naka_wire::prost::Name + Default,
{
    let resource = compiled.resource.as_ref().expect("a resource");
    naka_wire::unpack(&resource.any).unwrap()
}

fn get<M>(world: &World, key: &Key, class: &Class) -> M
where
    M: naka_wire::prost::Message + naka_wire::prost::Name + Default,
{
    message(&compile(world, key, class))
}

fn typed<M>(socket: &naka_wire::envoy::config::core::v3::TransportSocket) -> M
where
    M: naka_wire::prost::Message + naka_wire::prost::Name + Default,
{
    use naka_wire::envoy::config::core::v3::transport_socket::ConfigType;
    let Some(ConfigType::TypedConfig(any)) = &socket.config_type else {
        panic!("no configuration in {socket:?}");
    };
    naka_wire::unpack(any).unwrap()
}

#[test]
fn a_cluster_says_what_envoy_would_get_wrong() {
    let world = world(&Snapshot::default(), members());
    let key = Key::Cluster(ClusterName::outbound(80, "", PAYMENT));
    let cluster: Cluster = get(&world, &key, &envoy());
    let lb = cluster.common_lb_config.unwrap();
    assert_eq!(lb.healthy_panic_threshold.unwrap().value, 0.0);
    let limits = &cluster.circuit_breakers.as_ref().unwrap().thresholds[0];
    let budget = limits.retry_budget.as_ref().unwrap().budget_percent;
    assert_eq!(budget.unwrap().value, 20.0);
    let socket = cluster.transport_socket_matches[0]
        .transport_socket
        .as_ref();
    let tls: UpstreamTlsContext = typed(socket.unwrap());
    let common = tls.common_tls_context.unwrap();
    let parameters = common.tls_params.unwrap();
    assert_eq!(
        (
            parameters.tls_minimum_protocol_version,
            parameters.tls_maximum_protocol_version
        ),
        (4, 4)
    );
    assert_eq!(
        parameters.ecdh_curves,
        ["X25519MLKEM768", "X25519", "P-256"]
    );
    assert_eq!(common.alpn_protocols, ["http/1.1"]);
    // The same for a Naka proxy has none of it.
    let own: Cluster = get(&world, &key, &class());
    assert!(own.common_lb_config.is_none());
}

#[test]
fn a_declared_port_has_a_listener_that_asks_who_calls() {
    let strict = snapshot(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: istio-system}\nspec: {mtls: {mode: STRICT}}\n",
    );
    for (snapshot, chains) in [(strict, 1), (Snapshot::default(), 2)] {
        let world = world(&snapshot, members());
        let key = Key::Listener("inbound_8080".to_owned());
        let listener: Listener = get(&world, &key, &envoy());
        assert_eq!(listener.filter_chains.len(), chains);
        let socket = listener.filter_chains[0].transport_socket.as_ref();
        let tls: DownstreamTlsContext = typed(socket.unwrap());
        assert!(tls.require_client_certificate.unwrap().value);
        assert_eq!(listener.listener_filters.len(), chains - 1);
    }
    let world = world(&Snapshot::default(), members());
    let key = Key::Listener("inbound_8081".to_owned());
    assert!(compile(&world, &key, &envoy()).resource.is_none());
}

#[test]
fn the_forward_proxy_knows_every_name_once() {
    let world = world(&Snapshot::default(), members());
    let key = Key::Routes("http_proxy".to_owned());
    let compiled = compile(&world, &key, &envoy());
    let config: RouteConfiguration = message(&compiled);
    let mut seen = BTreeSet::new();
    for host in &config.virtual_hosts {
        for domain in &host.domains {
            assert!(seen.insert(domain.clone()), "{domain} twice");
        }
    }
    for name in ["payment", "payment:80", "payment.default", PAYMENT, "*"] {
        assert!(seen.contains(name), "no {name} in {seen:?}");
    }
    let own = Key::Cluster(ClusterName::outbound(80, "", PAYMENT));
    assert!(compiled.refers.contains(&own));
    // Weights change routes and nothing else of an Envoy's listeners.
    let canary = snapshot(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: payment, namespace: default}\nspec: {hosts: [payment], http: [{route: [{destination: {host: payment}, weight: 90}, {destination: {host: order}, weight: 10}]}]}\n",
    );
    let after = crate::compile::tests::world(&canary, members());
    let listener = Key::Listener("http_proxy".to_owned());
    let versions = [&world, &after].map(|world| {
        [&key, &listener].map(|key| {
            compile(world, key, &envoy())
                .resource
                .unwrap()
                .version
                .clone()
        })
    });
    assert_ne!(versions[0][0], versions[1][0]);
    assert_eq!(versions[0][1], versions[1][1]);
}

#[test]
fn a_name_leads_a_grpc_client_to_endpoints_by_mtls() {
    let canary = snapshot(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: payment, namespace: default}\nspec: {hosts: [payment], http: [{route: [{destination: {host: payment}, weight: 90}, {destination: {host: order}, weight: 10}]}]}\n",
    );
    let world = world(&canary, members());
    for name in [
        "payment",
        "payment:80",
        PAYMENT,
        "payment.default.svc.cluster.local:80",
    ] {
        let listener: Listener = get(&world, &Key::Listener(name.to_owned()), &grpc());
        assert_eq!(listener.name, name);
        let api = listener.api_listener.unwrap().api_listener.unwrap();
        let manager: HttpConnectionManager = naka_wire::unpack(&api).unwrap();
        let Some(RouteSpecifier::Rds(rds)) = manager.route_specifier else {
            panic!("no RDS for {name}");
        };
        assert_eq!(rds.route_config_name, format!("{PAYMENT}:80"));
    }
    let unknown = Key::Listener("nowhere:80".to_owned());
    assert!(compile(&world, &unknown, &grpc()).resource.is_none());
    let routes: RouteConfiguration = get(&world, &Key::Routes(format!("{PAYMENT}:80")), &grpc());
    let Some(route::Action::Route(action)) = &routes.virtual_hosts[0].routes[0].action else {
        panic!("no route in {routes:?}");
    };
    let Some(route_action::ClusterSpecifier::WeightedClusters(shares)) = &action.cluster_specifier
    else {
        panic!("no shares in {action:?}");
    };
    let weights: Vec<u32> = shares
        .clusters
        .iter()
        .map(|share| share.weight.unwrap().value)
        .collect();
    assert_eq!(weights, [90, 10]);
    let name = ClusterName::outbound(80, "", PAYMENT);
    let cluster: Cluster = get(&world, &Key::Cluster(name.clone()), &grpc());
    let tls: UpstreamTlsContext = typed(&cluster.transport_socket.unwrap());
    let common = tls.common_tls_context.unwrap();
    assert!(common.tls_params.is_none() && common.alpn_protocols.is_empty());
    assert!(common.tls_certificate_provider_instance.is_some());
    let Some(ValidationContextType::ValidationContext(validation)) = common.validation_context_type
    else {
        panic!("no validation context");
    };
    #[expect(deprecated, reason = "the field gRPC reads")]
    let names = validation.match_subject_alt_names;
    assert_eq!(names.len(), 1);
    assert!(validation.ca_certificate_provider_instance.is_some());
    let endpoints: ClusterLoadAssignment = get(&world, &Key::Endpoints(name), &grpc());
    assert_eq!(endpoints.endpoints[0].lb_endpoints.len(), 2);
    assert!(endpoints.endpoints[0].locality.is_some());
}

/// What is spoken and where is a listener's own; who may call, with what token and how often, stands in its places.
#[test]
fn policies_and_limits_change_places_and_no_listener() {
    let held = |yaml: &str| {
        let world = world(
            &snapshot(yaml),
            vec![member(1, "order", "v1", Health::Healthy)],
        );
        let listener = compile(&world, &Key::Listener("inbound_8080".to_owned()), &envoy());
        let version = |compiled: Compiled| compiled.resource.expect("a resource").version.clone();
        let extension = |key: &&Key| matches!(key, Key::Extension(_));
        let places = listener.refers.iter().filter(extension);
        let places: Vec<_> = places
            .map(|key| version(compile(&world, key, &envoy())))
            .collect();
        (version(listener), places)
    };
    let (listener, places) = held("");
    assert_eq!(
        places.len(),
        7,
        "tokens, two for CUSTOM, three kinds of rules, limits"
    );
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: default}\nspec: {action: DENY, rules: [{}]}\n";
    let limit = "apiVersion: naka.dev/v1alpha1\nkind: LocalRateLimit\nmetadata: {name: l, namespace: default}\nspec: {targetRefs: [{kind: Service, name: order}], rules: [{name: all, requests: 1}]}\n";
    let custom = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: default}\nspec: {action: CUSTOM, provider: {name: nobody}, rules: [{}]}\n";
    for object in [policy, limit, custom] {
        let (same, others) = held(object);
        assert_eq!(same, listener, "{object}");
        assert_ne!(others, places, "{object}");
    }
    // The twins: an address beside the own one, another one, and the mode.
    let beside = |bind: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: s, namespace: default}}\nspec: {{ingress: [{{port: {{number: 8080, protocol: HTTP, name: a}}, bind: {bind}}}]}}\n"
        )
    };
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: default}\nspec: {mtls: {mode: STRICT}}\n";
    let mut seen = vec![listener];
    for object in [&beside("127.0.0.2"), &beside("127.0.0.3"), strict] {
        let (other, _) = held(object);
        assert!(!seen.contains(&other), "{object}");
        seen.push(other);
    }
}
