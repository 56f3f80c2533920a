//! Route configurations of an Envoy: the forward proxy's, an upstream's, a gateway port's.
//!
//! Domains of a configuration must differ, or Envoy refuses all of it: the first service to claim a name keeps it.
//! Hosts of the mesh that nobody serves get 503, as at our own proxies, and never leave the mesh; other names go out by DNS.

use super::HTTP_PROXY;
use super::acceptable::acceptable;
use super::helper::Helper;
use crate::compile::gateway::chain::Serves;
use crate::compile::{Built, Class, Key, Upstream, View, cluster, gateway, names, route, vhost};
use crate::world::{Read, Service};
use naka_types::header;
use naka_types::host::{DOMAIN, Host};
use naka_types::name::ClusterName;
use naka_types::node::Role;
use naka_types::protocol::Protocol;
use naka_wire::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, Route, RouteAction, RouteConfiguration, RouteMatch,
    VirtualHost, header_matcher, route as pb, route_action, route_match,
};
use naka_wire::envoy::r#type::matcher::v3::{
    RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};
use naka_wire::google::protobuf::UInt32Value;
use naka_wire::time;
use std::collections::BTreeSet;
use std::time::Duration;

/// Largest body of a direct response, as manifests may hold them.
const DIRECT_BYTES: u32 = 1 << 20;
const FORBIDDEN: u32 = 403;
const BAD_GATEWAY: u32 = 502;
const UNAVAILABLE: u32 = 503;
/// The machine itself: reached without a proxy, never through one.
const LOOPBACK: &str = r"(127\.[0-9.]+|localhost|\[::1\])(:[0-9]+)?";

/// Routes by name.
pub(super) fn routes(view: &View<'_>, name: &str, class: &Class) -> Option<Built> {
    if class.role == Role::Gateway {
        return edge(view, name, class);
    }
    if name == HTTP_PROXY {
        return Some(forward(view, name, class, None));
    }
    if let Some(bind) = super::saying(view, name, class) {
        return Some(forward(view, name, class, Some(bind.port())));
    }
    let mut upstreams = super::upstreams(view, class).into_iter();
    let (upstream, _) = upstreams.find(|(upstream, _)| upstream.listener() == name)?;
    Some(one(view, name, &upstream, class))
}

/// What an Envoy adds to answers and our own proxies do not.
const SERVICE_TIME: &str = "x-envoy-upstream-service-time";
/// What an Envoy adds to requests and our own proxies do not.
const MARKS: [&str; 2] = ["x-envoy-internal", "x-envoy-external-address"];

fn configuration(name: &str, virtual_hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration {
        request_headers_to_remove: MARKS.map(str::to_owned).to_vec(),
        response_headers_to_remove: vec![SERVICE_TIME.to_owned()],
        name: name.to_owned(),
        virtual_hosts,
        max_direct_response_body_size_bytes: Some(UInt32Value {
            value: DIRECT_BYTES,
        }),
        ..RouteConfiguration::default()
    }
}

fn edge(view: &View<'_>, name: &str, class: &Class) -> Option<Built> {
    let port = gateway::routes_port(name)?;
    let at = gateway::place(view, class, port);
    let chains = gateway::chain::chains(&at);
    let chain = chains
        .iter()
        .find(|chain| gateway::routes_name(&chain.name) == name)?;
    let Serves::Http(hosts) = &chain.serves else {
        return None;
    };
    let refers = hosts
        .values()
        .flat_map(|host| vhost::clusters(&at, &host.routes))
        .collect();
    let messages = gateway::virtual_hosts(hosts, port);
    let messages = messages.into_iter().map(acceptable).collect();
    let mut config = configuration(name, messages);
    config.ignore_port_in_host_matching = true;
    // Strangers neither read nor write the mesh's own headers.
    let own = [header::REASON, header::KEEP, header::WORKLOAD].map(str::to_owned);
    config.request_headers_to_remove.extend(own.clone());
    config.response_headers_to_remove.extend(own);
    Some(Built::new(&(name, hosts), naka_wire::pack(&config)).referring(refers))
}

/// The cluster an upstream leads to and what is spoken there.
pub(super) fn destination(
    view: &View<'_>,
    upstream: &Upstream,
    class: &Class,
) -> (ClusterName, Protocol) {
    let host = Host::resolve(&upstream.host, &class.namespace).ok();
    let known = host.as_ref().and_then(|host| {
        view.serving(host, class)
            .filter(|s| view.admits_at(s, host, upstream.port, class))
    });
    let port = known.and_then(|service| service.ports.get(&upstream.port));
    let name = match (known, host) {
        (Some(service), _) => service.host.as_str().to_owned(),
        (None, Some(host)) => host.as_str().to_owned(),
        (None, None) => upstream.host.clone(),
    };
    let protocol = port.map_or(Protocol::Auto, |port| port.protocol);
    (ClusterName::outbound(upstream.port, "", &name), protocol)
}

/// The route of connections that an upstream's bytes take, if a VirtualService has one.
pub(super) fn routed(
    view: &View<'_>,
    upstream: &Upstream,
    class: &Class,
) -> Option<gateway::bytes::Route> {
    let (cluster, protocol) = destination(view, upstream, class);
    let ClusterName::Outbound { host, .. } = &cluster else {
        return None;
    };
    let host = Host::parse(host).ok()?;
    let at = route::Place {
        view,
        class,
        port: upstream.port,
        gateway: None,
    };
    let opaque = matches!(protocol, Protocol::Tcp | Protocol::Tls);
    let object = view.route(&host, &class.namespace).filter(|_| opaque)?;
    let led = gateway::bytes::at_sidecar(&at, object, &host, protocol);
    let whole = led.into_iter().find(|led| led.destinations.is_empty());
    whole.map(|led| led.route)
}

fn one(view: &View<'_>, name: &str, upstream: &Upstream, class: &Class) -> Built {
    let (cluster, protocol) = destination(view, upstream, class);
    let at = route::Place {
        view,
        class,
        port: upstream.port,
        gateway: None,
    };
    let host = match &cluster {
        ClusterName::Outbound { host, .. } => Host::parse(host).ok(),
        ClusterName::Inbound { .. } => None,
    };
    let service = host.as_ref().and_then(|host| view.seen(host, class));
    let models = host
        .as_ref()
        .zip(service)
        .map(|(host, service)| vhost::models(&at, host, service, protocol))
        .unwrap_or_default();
    let refers = vhost::clusters(&at, &models);
    let everything = acceptable(VirtualHost {
        name: cluster.to_string(),
        domains: vec!["*".to_owned()],
        routes: models.iter().flat_map(route::messages).collect(),
        ..VirtualHost::default()
    });
    let config = configuration(name, vec![everything]);
    Built::new(&(name, &models), naka_wire::pack(&config)).referring(refers)
}

/// Every service of the mesh, under every name a program of the namespace may know it by; at one port only, where that
/// is given.
fn forward(view: &View<'_>, name: &str, class: &Class, only: Option<u16>) -> Built {
    let mut taken = BTreeSet::new();
    let mut model = Vec::new();
    let mut refers = vec![Key::Helper(Helper::External), Key::Helper(Helper::Tunnel)];
    let mut messages = Vec::new();
    for (host, service) in callable(view, class) {
        for (port, known) in &service.ports {
            let at = route::Place {
                view,
                class,
                port: *port,
                gateway: None,
            };
            let asked = only.is_none_or(|only| only == *port);
            if !asked || !view.admits_at(service, &host, *port, class) {
                continue;
            }
            let mut domains = domains(&host, *port, only.unwrap_or(80), &class.namespace);
            domains.retain(|domain| taken.insert(domain.clone()));
            if domains.is_empty() {
                continue;
            }
            let models = vhost::models(&at, &host, service, known.protocol);
            refers.extend(vhost::clusters(&at, &models));
            let own = ClusterName::outbound(*port, "", service.host.as_str());
            // Where they are not known to be bytes.
            refers.push(Key::Cluster(own.clone()));
            let bytes = matches!(known.protocol, Protocol::Tcp | Protocol::Tls);
            let tunnel = if bytes {
                own.to_string()
            } else {
                Helper::Tunnel.name().to_owned()
            };
            let routes = models.iter().flat_map(route::messages);
            // A route cannot lead CONNECT on through a proxy; bytes sent to the proxy itself would go astray.
            let closed = bytes && cluster::tunnel(view, &own, class).is_some();
            let first = match closed {
                true => answer("tunnel", ".*", true, UNAVAILABLE),
                false => connect(&tunnel, bytes.then(|| models.first()).flatten()),
            };
            messages.push(acceptable(VirtualHost {
                name: format!("{host}:{port}"),
                domains: domains.clone(),
                routes: std::iter::once(first).chain(routes).collect(),
                ..VirtualHost::default()
            }));
            model.push((
                host.as_str().to_owned(),
                *port,
                domains,
                tunnel,
                closed,
                models,
            ));
        }
    }
    let outside = view
        .sidecar(class)
        .and_then(|sidecar| sidecar.outside.as_ref());
    let through = outside.and_then(|outside| names::through(view, outside, class));
    refers.extend(through.iter().cloned().map(Key::Cluster));
    let denied = outside.is_some_and(|outside| outside.registry_only);
    messages.push(self::outside(denied, through.as_ref()));
    let config = configuration(name, messages);
    Built::new(&(name, &model, denied, &through), naka_wire::pack(&config)).referring(refers)
}

/// Every host that programs of a class see and may call, and of a pattern the single names that their Sidecar lets
/// through.
fn callable<'a>(view: &View<'a>, class: &Class) -> Vec<(Host, &'a Service)> {
    let world = view.read(Read::Hosts);
    let egress = view
        .sidecar(class)
        .and_then(|sidecar| sidecar.egress.as_ref());
    let mut all = Vec::new();
    for host in world.services.keys() {
        let Some(service) = view.seen(host, class) else {
            continue;
        };
        if view.admits(service, host, class) {
            all.push((host.clone(), &**service));
            // Hosts of a pattern that have routes of their own.
            if let Some(suffix) = host.as_str().strip_prefix('*') {
                let routed = world.routes.keys().filter(|one| {
                    let below = one.as_str().ends_with(suffix) && !one.is_wildcard();
                    below && !world.services.contains_key(*one)
                });
                all.extend(routed.map(|one| (one.clone(), &**service)));
            }
        } else if let Some(suffix) = host.as_str().strip_prefix('*') {
            let patterns = egress.into_iter().flatten().flat_map(|one| &one.hosts);
            let named = patterns.map(|one| &one.host);
            let named = named.filter(|named| {
                named.as_str().ends_with(suffix) && view.admits(service, named, class)
            });
            all.extend(named.map(|named| (named.clone(), &**service)));
        }
    }
    all
}

/// Names of a service port: full and shortened, with the port, and without it where it is the one that is meant then.
fn domains(host: &Host, port: u16, meant: u16, namespace: &str) -> Vec<String> {
    let mut names = vec![host.as_str().to_owned()];
    if let Some((name, own)) = host.service() {
        names.push(format!("{name}.{own}.svc"));
        names.push(format!("{name}.{own}"));
        if own == namespace {
            names.push(name.to_owned());
        }
    }
    let with = names.iter().map(|name| format!("{name}:{port}"));
    let mut all: Vec<String> = with.collect();
    if port == meant {
        all.extend(names);
    }
    all
}

/// What comes through CONNECT: to a cluster, or to where a route of connections leads.
fn connect(cluster: &str, bytes: Option<&route::Model>) -> Route {
    let shares = bytes.and_then(|model| match route::messages(model).pop()?.action? {
        pb::Action::Route(action) => action.cluster_specifier,
        _ => None,
    });
    let mut base = action(cluster);
    if shares.is_some() {
        base.cluster_specifier = shares;
    }
    let connect = route_action::UpgradeConfig {
        upgrade_type: "CONNECT".to_owned(),
        connect_config: Some(route_action::upgrade_config::ConnectConfig::default()),
        ..route_action::UpgradeConfig::default()
    };
    Route {
        name: "connect".to_owned(),
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::ConnectMatcher(
                route_match::ConnectMatcher {},
            )),
            ..RouteMatch::default()
        }),
        action: Some(pb::Action::Route(RouteAction {
            upgrade_configs: vec![connect],
            ..base
        })),
        ..Route::default()
    }
}

fn action(cluster: &str) -> RouteAction {
    RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
        timeout: Some(time::to_wire(Duration::ZERO)),
        ..RouteAction::default()
    }
}

/// Everything the mesh has no service for.
fn outside(denied: bool, through: Option<&ClusterName>) -> VirtualHost {
    let external = through.map_or_else(|| Helper::External.name().to_owned(), ToString::to_string);
    let external = external.as_str();
    let mesh = format!(r".*\.{}\.?(:[0-9]+)?", DOMAIN.replace('.', r"\."));
    let mut routes = Vec::new();
    for connects in [true, false] {
        routes.push(answer("mesh", &mesh, connects, UNAVAILABLE));
        routes.push(answer("loopback", LOOPBACK, connects, FORBIDDEN));
    }
    if denied {
        // Istio's name and status for what may not leave.
        routes.push(answer("block_all", ".*", true, BAD_GATEWAY));
        routes.push(answer("block_all", ".*", false, BAD_GATEWAY));
    }
    routes.push(connect(external, None));
    routes.push(Route {
        name: "external".to_owned(),
        r#match: Some(prefix(Vec::new())),
        action: Some(pb::Action::Route(action(external))),
        ..Route::default()
    });
    VirtualHost {
        name: "outside".to_owned(),
        domains: vec!["*".to_owned()],
        routes,
        ..VirtualHost::default()
    }
}

fn prefix(headers: Vec<HeaderMatcher>) -> RouteMatch {
    RouteMatch {
        path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
        headers,
        ..RouteMatch::default()
    }
}

fn answer(name: &str, authority: &str, connects: bool, status: u32) -> Route {
    let pattern = MatchPattern::SafeRegex(RegexMatcher {
        regex: format!("(?i){authority}"),
        ..RegexMatcher::default()
    });
    let header = HeaderMatcher {
        name: ":authority".to_owned(),
        header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::StringMatch(
            StringMatcher {
                match_pattern: Some(pattern),
                ..StringMatcher::default()
            },
        )),
        ..HeaderMatcher::default()
    };
    let mut matched = prefix(vec![header]);
    if connects {
        matched.path_specifier = Some(route_match::PathSpecifier::ConnectMatcher(
            route_match::ConnectMatcher {},
        ));
    }
    Route {
        name: name.to_owned(),
        r#match: Some(matched),
        action: Some(pb::Action::DirectResponse(DirectResponseAction {
            status,
            ..DirectResponseAction::default()
        })),
        ..Route::default()
    }
}
