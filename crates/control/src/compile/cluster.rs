//! Clusters: destinations of a workload, and its own program.

use super::inbound::{At, Chain};
use super::{Built, Class, Dialect, Key, View, tls};
use crate::world::{Domains, Read, Service};
use naka_api::networking::destination_rule::{
    ConnectionPool, HttpUpgrade, OutlierDetection, ProxyHeader, TlsMode, TrafficPolicy,
};
use naka_types::host::Host;
use naka_types::name::ClusterName;
use naka_types::node::{NAKA, Role};
use naka_types::protocol::Protocol;
use naka_types::spiffe::SpiffeId;
use naka_wire::envoy::config::cluster::v3::{CircuitBreakers, Cluster, cluster};
use naka_wire::envoy::config::core::v3::{
    Address, Http1ProtocolOptions, Metadata, Pipe, SocketAddress, address, socket_address,
};
use naka_wire::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use naka_wire::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions,
    http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
        explicit_http_config::ProtocolConfig,
    },
};
use naka_wire::{time, values};
use std::time::Duration;

pub(super) mod backend;
pub(crate) mod balance;
mod outlier;
mod outside;
mod pool;

use outside::{Found, Origination};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// What decides how a destination is called.
#[derive(Debug)]
struct Outbound<'a> {
    name: String,
    sni: String,
    service: (&'a Host, &'a str, &'a str),
    protocol: Protocol,
    policy: &'a TrafficPolicy,
    found: Found<'a>,
    origination: Option<Origination<'a>>,
    identities: Vec<String>,
    dialect: Dialect,
    backend: Option<backend::Model>,
}

/// A destination as far as a cluster name leads to one: the service has the port, the rule has the subset.
pub(crate) struct Target<'a> {
    pub(crate) host: Host,
    pub(crate) service: &'a Service,
    pub(crate) protocol: Protocol,
    pub(crate) rule: Option<&'a naka_api::networking::destination_rule::DestinationRule>,
}

/// What a cluster name means for callers of a class; `None`: nothing.
pub(crate) fn target<'a>(view: &View<'a>, name: &ClusterName, class: &Class) -> Option<Target<'a>> {
    let ClusterName::Outbound { port, subset, host } = name else {
        return None;
    };
    let host = Host::parse(host).ok()?;
    let service = view.seen(&host, class)?;
    let protocol = service.ports.get(port)?.protocol;
    let rule = view
        .rule(service, class)
        .and_then(|object| object.destination_rule());
    if !subset.is_empty() {
        rule?.subset(subset)?;
    }
    Some(Target {
        host,
        service,
        protocol,
        rule,
    })
}

/// The limits of a destination.
pub(crate) fn pool(view: &View<'_>, name: &ClusterName, class: &Class) -> ConnectionPool {
    let (Some(target), ClusterName::Outbound { port, subset, .. }) =
        (target(view, name, class), name)
    else {
        return ConnectionPool::default();
    };
    let subset = (!subset.is_empty()).then_some(subset.as_str());
    let policy = target.rule.map(|rule| rule.effective(subset, *port));
    policy.and_then(|p| p.connection_pool).unwrap_or_default()
}

/// `outbound|<port>|<subset>|<host>`.
pub(crate) fn outbound(view: &View<'_>, name: &ClusterName, class: &Class) -> Option<Built> {
    let ClusterName::Outbound { port, subset, .. } = name else {
        return None;
    };
    let target = target(view, name, class)?;
    let (host, service, rule) = (target.host.clone(), target.service, target.rule);
    // As in Istio: a gateway does not find out what a program speaks. Its callers are browsers with HTTP/2, programs that
    // declare nothing mostly speak HTTP/1.1; who speaks HTTP/2 or gRPC says so in its Service.
    let protocol = match (target.protocol, class.role) {
        (Protocol::Auto, Role::Gateway) => Protocol::Http,
        (known, _) => known,
    };
    let domains = &view.read(Read::Trust).domains;
    let subset_name = (!subset.is_empty()).then_some(subset.as_str());
    let labels = subset_name
        .and_then(|name| rule?.subset(name))
        .map(|subset| &subset.labels);
    let mut policy = rule.map_or_else(TrafficPolicy::default, |rule| {
        rule.effective(subset_name, *port)
    });
    policy.ports.clear();
    let backend = backend::of(view, (&host, *port, subset), class);
    let instead = backend.as_ref().and_then(|b| b.cluster.clone());
    let mut refers: Vec<Key> = instead.map(Key::Cluster).into_iter().collect();
    let model = Outbound {
        name: name.to_string(),
        sni: format!("outbound_.{port}_.{subset}_.{host}"),
        service: (&host, &service.name, &service.namespace),
        protocol,
        policy: &policy,
        found: outside::found(service, *port, labels).reached(
            view,
            (service, *port, labels),
            class,
            &policy,
        ),
        origination: Origination::of(
            view,
            class,
            &Target { protocol, ..target },
            policy.tls.as_deref(),
            (subset_name, *port),
        ),
        identities: identities(service, domains),
        dialect: class.dialect,
        backend,
    };
    let any = naka_wire::pack(&message(&model));
    refers.extend(model.origination.iter().flat_map(Origination::refers));
    if model.found.is_told() {
        refers.push(Key::Endpoints(name.clone()));
    }
    Some(Built::new(&model, any).referring(refers))
}

/// Whether a destination's endpoints come apart from its cluster.
pub(crate) fn is_told(target: &Target<'_>, port: u16) -> bool {
    outside::found(target.service, port, None).is_told()
}

/// Identities that may serve a service, in the trust domain and under each of its aliases.
fn identities(service: &Service, domains: &Domains) -> Vec<String> {
    let each = |domain: &str, namespace: &str, account: &str| {
        let id = SpiffeId::new(domain, namespace, account);
        id.ok().map(|id| id.to_string())
    };
    let named = |namespace: &str, account: &str| -> Vec<String> {
        let all = domains.all();
        all.filter_map(|domain| each(domain, namespace, account))
            .collect()
    };
    match &service.entry {
        None => {
            let accounts = service.accounts.iter();
            accounts
                .flat_map(|account| named(&service.namespace, account))
                .collect()
        }
        // What the object says itself holds for its workloads, too.
        Some(entry) if entry.internal && !entry.names.is_empty() => entry
            .names
            .iter()
            .flat_map(|name| under_each(name, domains))
            .collect(),
        Some(entry) => entry
            .identities
            .iter()
            .flat_map(|(namespace, account)| named(namespace, account))
            .collect(),
    }
}

/// A name of a certificate: an identity of the trust domain also under its aliases, as Istio expands what a
/// ServiceEntry says.
fn under_each(name: &str, domains: &Domains) -> Vec<String> {
    match SpiffeId::parse(name) {
        Ok(id) if domains.has(id.trust_domain()) => {
            let all = domains.all();
            all.filter_map(|domain| {
                SpiffeId::new(domain, id.namespace(), id.service_account()).ok()
            })
            .map(|id| id.to_string())
            .collect()
        }
        _ => vec![name.to_owned()],
    }
}

fn message(model: &Outbound<'_>) -> Cluster {
    if model.dialect == Dialect::Grpc {
        return grpc(model);
    }
    let pool = model.policy.connection_pool.clone().unwrap_or_default();
    let keepalive = pool::keepalive(&pool);
    let mut message = Cluster {
        name: model.name.clone(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Eds as i32,
        )),
        eds_cluster_config: Some(cluster::EdsClusterConfig {
            eds_config: Some(tls::ads()),
            ..cluster::EdsClusterConfig::default()
        }),
        connect_timeout: Some(time::to_wire(
            pool.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
        )),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![pool::limits(model.policy, model.dialect)],
            ..CircuitBreakers::default()
        }),
        transport_socket_matches: sockets(model),
        typed_extension_protocol_options: http_options(
            spoken(model.protocol, pool.http),
            &Http {
                pool,
                outlier: model.policy.outlier_detection.as_ref(),
                dialect: model.dialect,
            },
        ),
        upstream_connection_options: keepalive,
        metadata: Some(metadata(model)),
        health_checks: model.backend.iter().flat_map(backend::checks).collect(),
        common_lb_config: outlier::panic(model.policy.outlier_detection.as_ref(), model.dialect),
        outlier_detection: model
            .policy
            .outlier_detection
            .as_ref()
            .map(outlier::detection),
        ..Cluster::default()
    };
    balance::apply(&mut message, model.policy, model.dialect);
    model.found.write(&mut message);
    if let Some(origination) = &model.origination {
        message.transport_socket_matches.clear();
        message.transport_socket = Some(origination.socket(model.dialect));
    }
    if let Some(header) = model.policy.proxy_protocol {
        introduce(&mut message, header);
    }
    message
}

/// Whatever a connection is secured by, a PROXY header comes first.
fn introduce(message: &mut Cluster, header: ProxyHeader) {
    let matches = message.transport_socket_matches.iter_mut();
    let sockets = matches.map(|candidate| &mut candidate.transport_socket);
    for socket in sockets.chain([&mut message.transport_socket]) {
        *socket = socket.take().map(|inner| tls::introduced(inner, header));
    }
}

/// Whether mesh mTLS is turned off.
fn plain(model: &Outbound<'_>) -> bool {
    let tls = model.policy.tls.as_ref();
    tls.is_some_and(|tls| tls.mode == TlsMode::Disable)
}

/// What a gRPC client takes: more would be ignored or refused.
fn grpc(model: &Outbound<'_>) -> Cluster {
    let plain = plain(model);
    Cluster {
        name: model.name.clone(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Eds as i32,
        )),
        eds_cluster_config: Some(cluster::EdsClusterConfig {
            eds_config: Some(tls::ads()),
            ..cluster::EdsClusterConfig::default()
        }),
        lb_policy: cluster::LbPolicy::RoundRobin as i32,
        transport_socket: (!plain).then(|| tls::grpc_upstream(&model.identities)),
        ..Cluster::default()
    }
}

/// The protocol that a destination is spoken to in. An upgrade is of HTTP: bytes stay bytes.
fn spoken(declared: Protocol, upgrade: HttpUpgrade) -> Protocol {
    match (declared, upgrade) {
        (Protocol::Tcp | Protocol::Tls, _) | (_, HttpUpgrade::Declared) => declared,
        // gRPC is HTTP/2 already; as such its statuses are counted.
        (Protocol::Grpc | Protocol::GrpcWeb, HttpUpgrade::Http2) => declared,
        (_, HttpUpgrade::Http2) => Protocol::Http2,
        (_, HttpUpgrade::Client) => Protocol::Auto,
    }
}

/// What an Envoy names as the protocol inside a TLS connection. Where nothing was declared it names none, so that
/// the called side finds out from the first bytes.
fn alpn(model: &Outbound<'_>) -> &'static [&'static str] {
    if model.dialect != Dialect::Envoy {
        return &["istio"];
    }
    let pool = model.policy.connection_pool.as_ref();
    let upgrade = pool.map_or(HttpUpgrade::Declared, |pool| pool.http);
    match spoken(model.protocol, upgrade) {
        Protocol::Http => &["http/1.1"],
        Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb => &["h2"],
        Protocol::Tcp | Protocol::Tls => &["naka-tcp"],
        Protocol::Auto => &[],
    }
}

/// Mutual TLS where there is the mesh mark; where a rule asks for it in so many words everywhere, as in Istio.
fn sockets(model: &Outbound<'_>) -> Vec<cluster::TransportSocketMatch> {
    let asked = model.policy.tls.as_ref();
    let always = asked.is_some_and(|tls| tls.mode == TlsMode::IstioMutual);
    let marked: &[(&str, &str)] = if always { &[] } else { &[("tlsMode", "istio")] };
    let plain = cluster::TransportSocketMatch {
        name: "tlsMode-disabled".to_owned(),
        r#match: Some(values::string_struct::<String, String>([])),
        transport_socket: Some(tls::raw()),
    };
    if self::plain(model) {
        return vec![plain];
    }
    let mutual = cluster::TransportSocketMatch {
        name: "tlsMode-istio".to_owned(),
        r#match: Some(values::string_struct(marked.iter().copied())),
        transport_socket: Some(tls::upstream(
            &model.sni,
            &model.identities,
            alpn(model),
            model.dialect,
        )),
    };
    if always {
        return vec![mutual];
    }
    vec![mutual, plain]
}

/// What decides how HTTP is spoken on connections to a destination.
#[derive(Default)]
struct Http<'a> {
    pool: ConnectionPool,
    outlier: Option<&'a OutlierDetection>,
    dialect: Dialect,
}

fn http_options(
    protocol: Protocol,
    http: &Http<'_>,
) -> std::collections::HashMap<String, naka_wire::google::protobuf::Any> {
    let explicit = |config| {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(config),
        })
    };
    let bytes = matches!(protocol, Protocol::Tcp | Protocol::Tls);
    let common = pool::common(&http.pool, bytes);
    let upstream = match protocol {
        // An Envoy has what holds for bytes in its listener.
        Protocol::Tcp | Protocol::Tls if common.is_none() || http.dialect == Dialect::Envoy => {
            return std::collections::HashMap::new();
        }
        Protocol::Tcp | Protocol::Tls | Protocol::Http => explicit(
            ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default()),
        ),
        Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb => explicit(
            ProtocolConfig::Http2ProtocolOptions(pool::http2(&http.pool)),
        ),
        Protocol::Auto => {
            UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                http_protocol_options: Some(Http1ProtocolOptions::default()),
                http2_protocol_options: Some(pool::http2(&http.pool)),
                ..UseDownstreamHttpConfig::default()
            })
        }
    };
    let options = HttpProtocolOptions {
        common_http_protocol_options: common,
        upstream_protocol_options: Some(upstream),
        outlier_detection: http.outlier.and_then(outlier::statuses),
        ..HttpProtocolOptions::default()
    };
    [(HTTP_OPTIONS.to_owned(), naka_wire::pack(&options))].into()
}

fn metadata(model: &Outbound<'_>) -> Metadata {
    let (host, name, namespace) = model.service;
    let service = values::string_struct([
        ("host", host.as_str()),
        ("name", name),
        ("namespace", namespace),
    ]);
    let services = values::list([values::nested(service)]);
    let mut own = vec![("protocol", model.protocol.as_str().to_owned())];
    // An Envoy is told by the filter that uses the cluster.
    if let Some(tunnel) = &model.policy.tunnel {
        let by = if tunnel.post { "POST" } else { "CONNECT" };
        own.push(("tunnel", tunnel_target(&tunnel.host, tunnel.port)));
        own.push(("tunnel_by", by.to_owned()));
    }
    if model.dialect == Dialect::Naka {
        own.extend(model.found.own());
    }
    let mut own = values::string_struct(own);
    let priority = model
        .policy
        .connection_pool
        .as_ref()
        .and_then(|p| p.priority.as_ref());
    if let (Some((header, classes)), Dialect::Naka) = (priority, model.dialect) {
        let text = format!("{header}: {}", classes.join(", "));
        own.fields
            .insert("priority".to_owned(), values::string(text));
    }
    if let (Some(backend), Dialect::Naka) = (&model.backend, model.dialect) {
        own.fields.extend(backend::fields(backend));
    }
    values::metadata([
        ("istio", values::fields([("services", services)])),
        (NAKA, own),
    ])
}

/// Name of a service for callers who name it in their server name: `outbound_.<port>_.<subset>_.<host>`.
pub(crate) fn raw_name(name: &ClusterName) -> String {
    match name {
        ClusterName::Outbound { port, subset, host } => {
            format!("outbound_.{port}_.{subset}_.{host}")
        }
        ClusterName::Inbound { port } => format!("inbound_.{port}_._."),
    }
}

/// Reads [`raw_name`].
pub(crate) fn parse_raw(text: &str) -> Option<ClusterName> {
    let mut parts = text.strip_prefix("outbound_.")?.splitn(3, "_.");
    let (port, subset, host) = (parts.next()?, parts.next()?, parts.next()?);
    let port = port.parse().ok()?;
    (!host.is_empty()).then(|| ClusterName::outbound(port, subset, host))
}

/// The endpoints of a service without TLS or HTTP of ours: what comes is theirs already.
pub(crate) fn raw(view: &View<'_>, name: &ClusterName, class: &Class) -> Option<Built> {
    target(view, name, class)?;
    let cluster = Cluster {
        name: raw_name(name),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Eds as i32,
        )),
        eds_cluster_config: Some(cluster::EdsClusterConfig {
            eds_config: Some(tls::ads()),
            service_name: name.to_string(),
        }),
        connect_timeout: Some(time::to_wire(CONNECT_TIMEOUT)),
        lb_policy: cluster::LbPolicy::LeastRequest as i32,
        common_lb_config: (class.dialect == Dialect::Envoy).then(|| cluster::CommonLbConfig {
            healthy_panic_threshold: Some(naka_wire::envoy::r#type::v3::Percent { value: 0.0 }),
            ..cluster::CommonLbConfig::default()
        }),
        ..Cluster::default()
    };
    let endpoints = vec![Key::Endpoints(name.clone())];
    Some(Built::new(&("raw", name, class.dialect), naka_wire::pack(&cluster)).referring(endpoints))
}

/// Host and port of a tunnel's end.
fn tunnel_target(host: &str, port: u16) -> String {
    match host.parse::<std::net::Ipv6Addr>() {
        Ok(six) => format!("[{six}]:{port}"),
        Err(_) => format!("{host}:{port}"),
    }
}

/// The tunnel that connections to a destination go through.
pub(crate) fn tunnel(view: &View<'_>, name: &ClusterName, class: &Class) -> Option<(String, bool)> {
    let ClusterName::Outbound { port, subset, .. } = name else {
        return None;
    };
    let subset = (!subset.is_empty()).then_some(subset.as_str());
    let policy = target(view, name, class)?.rule?.effective(subset, *port);
    let tunnel = policy.tunnel?;
    Some((tunnel_target(&tunnel.host, tunnel.port), tunnel.post))
}

/// A Unix socket.
pub(crate) fn pipe(path: &str) -> Address {
    Address {
        address: Some(address::Address::Pipe(Pipe {
            path: path.to_owned(),
            ..Pipe::default()
        })),
    }
}

/// `inbound|<port>||`: the workload's own program, as it is to be spoken to and within its limits.
pub(crate) fn inbound(chain: &Chain, dialect: Dialect) -> Built {
    let name = ClusterName::Inbound { port: chain.port }.to_string();
    let address = match &chain.at {
        At::Ip(address) => socket_address(&address.ip().to_string(), address.port()),
        At::Unix(path) => pipe(path),
    };
    let endpoint = Endpoint {
        address: Some(address),
        ..Endpoint::default()
    };
    let endpoints = LocalityLbEndpoints {
        lb_endpoints: vec![LbEndpoint {
            host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)),
            ..LbEndpoint::default()
        }],
        ..LocalityLbEndpoints::default()
    };
    let pool = &chain.pool;
    // As in Istio the called end does not upgrade to HTTP/2: that is the caller's to decide.
    let protocol = match pool.http {
        HttpUpgrade::Client if chain.is_http() => Protocol::Auto,
        HttpUpgrade::Client | HttpUpgrade::Http2 | HttpUpgrade::Declared => chain.protocol,
    };
    let policy = TrafficPolicy {
        connection_pool: Some(pool.clone()),
        ..TrafficPolicy::default()
    };
    let http = Http {
        pool: pool.clone(),
        outlier: None,
        dialect,
    };
    let cluster = Cluster {
        name: name.clone(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Static as i32,
        )),
        connect_timeout: Some(time::to_wire(
            pool.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
        )),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![pool::limits(&policy, dialect)],
            ..CircuitBreakers::default()
        }),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.clone(),
            endpoints: vec![endpoints],
            ..ClusterLoadAssignment::default()
        }),
        typed_extension_protocol_options: http_options(protocol, &http),
        upstream_connection_options: pool::keepalive(pool),
        ..Cluster::default()
    };
    Built::new(
        &(name, protocol, &chain.at, pool, dialect),
        naka_wire::pack(&cluster),
    )
}

/// An address as Envoy writes it.
pub(crate) fn socket_address(host: &str, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: host.to_owned(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(u32::from(port))),
            ..SocketAddress::default()
        })),
    }
}
