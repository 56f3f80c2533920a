//! Routes: from a VirtualService's HTTP routes to Envoy's, through a model that decides the version.
//!
//! The model is the sound route of the object plus what only the world knows: the clusters its destinations mean.
//! A destination that does not exist keeps its cluster name, so that its requests get 503 with the reason
//! `unknown-cluster` instead of another route; the finding goes into the object's status.

use super::limit::{self, Limit};
use super::{Class, Dialect, View};
use naka_api::networking::virtual_service::delegate::expand;
use naka_api::networking::virtual_service::policies::{Cors, Fault};
use naka_api::networking::virtual_service::{
    Action, DelegateRef, Destination, GatewayRef, Headers, HttpMatch, HttpRoute, Redirect,
    RedirectPort, Retries, Rewrite, VirtualService,
};
use naka_api::{Object, codes};
use naka_types::cidr::Cidr;
use naka_types::finding::Finding;
use naka_types::host::Host;
use naka_types::labels::{Labels, selects};
use naka_types::name::ClusterName;
use std::time::Duration;

mod message;
mod policies;
mod retries;

/// Port of a service that a gateway's route means when it names none.
const HTTP: u16 = 80;

pub(crate) use message::messages;
pub(crate) use policies::{CORS, FAULT};

/// Where routes are compiled for.
pub(crate) struct Place<'a, 'w> {
    pub(crate) view: &'a View<'w>,
    pub(crate) class: &'a Class,
    /// Port of the virtual host.
    pub(crate) port: u16,
    /// Port of the gateway's listener, when it is one.
    pub(crate) gateway: Option<u16>,
}

/// One route with everything that decides what it does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Model {
    name: String,
    /// Namespace and name of the VirtualService; `None` for the default route.
    origin: Option<(String, String)>,
    /// Alternatives; empty = every request.
    matches: Vec<HttpMatch>,
    /// Addresses that a connection of bytes must have been made to; empty = any.
    destinations: Vec<Cidr>,
    action: ModelAction,
    rewrite: Option<Rewrite>,
    timeout: Option<Duration>,
    retries: Option<Retries>,
    headers: Headers,
    /// An expression that must hold as well.
    when: Option<String>,
    /// Rate limits, at gateways.
    limits: Vec<Limit>,
    fault: Option<Fault>,
    cors: Option<Cors>,
    /// Copies: where to, and the share in parts of a million.
    mirrors: Vec<(ClusterName, u32)>,
}

#[derive(Debug, Clone, PartialEq)]
enum ModelAction {
    Clusters(Vec<Share>),
    Redirect(Redirect, u16),
    Direct(u16, Vec<u8>),
}

#[derive(Debug, Clone, PartialEq)]
struct Share {
    cluster: ClusterName,
    weight: u32,
    headers: Headers,
}

impl Model {
    /// Name of the route.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Rate limits the route is under.
    pub(crate) fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// Clusters the route names, existing or not.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &ClusterName> {
        let shares = match &self.action {
            ModelAction::Clusters(shares) => shares.as_slice(),
            _ => &[],
        };
        let copies = self.mirrors.iter().map(|(cluster, _)| cluster);
        shares.iter().map(|share| &share.cluster).chain(copies)
    }
}

/// A route of connections.
pub(crate) fn of_bytes(at: &Place<'_, '_>, host: &Host, led: super::gateway::bytes::Led) -> Model {
    let route = led.route;
    let share = |(cluster, weight)| Share {
        cluster,
        weight,
        headers: Headers::default(),
    };
    Model {
        name: route.name,
        action: ModelAction::Clusters(route.shares.into_iter().map(share).collect()),
        destinations: led.destinations,
        ..default(at, host)
    }
}

/// The route of a service without VirtualService.
pub(crate) fn default(at: &Place<'_, '_>, host: &Host) -> Model {
    Model {
        name: "default".to_owned(),
        origin: None,
        matches: Vec::new(),
        destinations: Vec::new(),
        action: ModelAction::Clusters(vec![Share {
            cluster: ClusterName::outbound(at.port, "", host.as_str()),
            weight: 100,
            headers: Headers::default(),
        }]),
        rewrite: None,
        timeout: None,
        retries: None,
        headers: Headers::default(),
        when: None,
        limits: Vec::new(),
        fault: None,
        cors: None,
        mirrors: Vec::new(),
    }
}

/// The routes of a VirtualService for one gateway, or for sidecars (`mesh`).
pub(crate) fn models(
    at: &Place<'_, '_>,
    object: &Object,
    spec: &VirtualService,
    gateway: &GatewayRef,
) -> Vec<Model> {
    let mut all = Vec::new();
    for route in &spec.http {
        match &route.action {
            Action::Delegate(to) => all.extend(delegated(at, object, route, to, gateway)),
            _ => all.extend(model(at, object, object, route, gateway)),
        }
    }
    all
}

/// The routes of a delegate in place of one of the root's; what is wrong with that is told on the root.
fn delegated(
    at: &Place<'_, '_>,
    root: &Object,
    route: &HttpRoute,
    to: &DelegateRef,
    gateway: &GatewayRef,
) -> Vec<Model> {
    let found = at.view.delegate(&to.namespace, &to.name);
    let spec = found.and_then(|object| object.virtual_service());
    let expanded = expand(route, to, &root.meta.namespace, spec);
    for problem in expanded.problems {
        let finding = Finding::new(codes::L317.id, problem)
            .at(format!("spec.http[{}].delegate", route.index))
            .on(root.reference());
        at.view.finding(finding);
    }
    let object = found.map_or(root, |object| object.as_ref());
    expanded
        .routes
        .iter()
        .filter_map(|route| model(at, root, object, route, gateway))
        .collect()
}

/// A route of `object`; for a delegate's, `root` is who has the hosts.
fn model(
    at: &Place<'_, '_>,
    root: &Object,
    object: &Object,
    route: &HttpRoute,
    gateway: &GatewayRef,
) -> Option<Model> {
    // Only our own proxies know expressions; without its condition the route would take more than was meant.
    if route.when.is_some() && at.class.dialect != Dialect::Naka {
        return None;
    }
    let here = |wanted: &&HttpMatch| {
        let namespace = wanted.source_namespace.as_deref();
        wanted.port.is_none_or(|port| port == at.port)
            && (wanted.gateways.is_empty() || wanted.gateways.contains(gateway))
            && namespace.is_none_or(|namespace| namespace == at.class.namespace)
            && selects(&wanted.source_labels, &at.class.labels)
    };
    let matches: Vec<HttpMatch> = route
        .matches
        .iter()
        .filter(here)
        .map(|wanted| HttpMatch {
            // Decided here, so nothing of it is left to the proxy or to the version.
            port: None,
            gateways: Vec::new(),
            source_labels: Labels::new(),
            source_namespace: None,
            ..wanted.clone()
        })
        .collect();
    if matches.is_empty() && !route.matches.is_empty() {
        return None;
    }
    let action = match &route.action {
        Action::Route(destinations) => ModelAction::Clusters(
            destinations
                .iter()
                .enumerate()
                .map(|(index, weighted)| Share {
                    cluster: {
                        let path = format!("spec.http[{}].route[{index}].destination", route.index);
                        destination(at, object, &path, &weighted.destination)
                    },
                    weight: weighted.weight,
                    headers: weighted.headers.clone(),
                })
                .collect(),
        ),
        Action::Redirect(redirect) => ModelAction::Redirect(redirect.clone(), port(at, redirect)),
        Action::Direct(direct) => ModelAction::Direct(direct.status, direct.body.clone()),
        // Only one level; `expand` left it out.
        Action::Delegate(_) => return None,
    };
    let forwards = matches!(action, ModelAction::Clusters(_));
    let copies = route.mirrors.iter().filter(|_| forwards);
    let meta = &root.meta;
    Some(Model {
        name: format!("{}/{}/{}", meta.namespace, meta.name, route.label()),
        origin: Some((meta.namespace.clone(), meta.name.clone())),
        matches,
        destinations: Vec::new(),
        action,
        rewrite: route.rewrite.clone(),
        timeout: route.timeout,
        retries: route.retries.clone(),
        headers: route.headers.clone(),
        when: route.when.clone(),
        limits: limits(at, object, route, gateway),
        fault: route.fault.clone(),
        cors: route.cors.clone(),
        mirrors: copies
            .map(|mirror| {
                let path = format!("spec.http[{}].{}", route.index, mirror.at);
                let cluster = destination(at, object, &path, &mirror.destination);
                (cluster, mirror.share)
            })
            .collect(),
    })
}

/// Rate limits stand on the called side: a gateway's for itself and for the routes it carries.
fn limits(
    at: &Place<'_, '_>,
    object: &Object,
    route: &HttpRoute,
    gateway: &GatewayRef,
) -> Vec<Limit> {
    let GatewayRef::Named { namespace, name } = gateway else {
        return Vec::new();
    };
    let meta = &object.meta;
    let mut all = limit::at_gateway(at.view, namespace, name);
    let own = (meta.namespace.as_str(), meta.name.as_str());
    all.extend(limit::at_route(at.view, own, route.name.as_deref()));
    all
}

fn port(at: &Place<'_, '_>, redirect: &Redirect) -> u16 {
    match redirect.port {
        None => 0,
        Some(RedirectPort::Number(number)) => number,
        Some(RedirectPort::ProtocolDefault) => match redirect.scheme.as_deref() {
            Some("https") => 443,
            _ => 80,
        },
        Some(RedirectPort::Request) => at.port,
    }
}

/// The cluster a destination means: its port, else the virtual host's if the service has it, else its only one.
pub(crate) fn destination(
    at: &Place<'_, '_>,
    object: &Object,
    path: &str,
    destination: &Destination,
) -> ClusterName {
    let service = at.view.seen(&destination.host, at.class);
    let port = destination.port.unwrap_or_else(|| {
        let ports = service.map(|service| &service.ports);
        // A gateway's own port means nothing to the services behind it.
        let wished = at.gateway.map_or(at.port, |_| HTTP);
        let only = || ports.filter(|ports| ports.len() == 1 || at.gateway.is_some());
        match ports {
            Some(ports) if ports.contains_key(&wished) => wished,
            _ => only()
                .and_then(|ports| ports.keys().next().copied())
                .unwrap_or(wished),
        }
    });
    let subset = destination.subset.as_deref().unwrap_or_default();
    let name = ClusterName::outbound(port, subset, destination.host.as_str());
    let host = &destination.host;
    let complaint = match service {
        None => Some((
            codes::L314,
            "host",
            format!("no service {host}: nothing declares it and no workload runs under that name"),
        )),
        Some(service) if !service.ports.contains_key(&port) => {
            let known: Vec<String> = service.ports.keys().map(u16::to_string).collect();
            Some((
                codes::L314,
                "port",
                format!("{host} has no port {port}; it has {}", known.join(", ")),
            ))
        }
        Some(_) if super::cluster::target(at.view, &name, at.class).is_none() => Some((
            codes::L310,
            "subset",
            format!("no DestinationRule defines the subset {subset:?} of {host}"),
        )),
        Some(_) => None,
    };
    if let Some((code, field, message)) = complaint {
        let path = format!("{path}.{field}");
        let so = if path.contains(".mirror") {
            "nothing is copied"
        } else {
            "requests of this route get 503"
        };
        let finding = Finding::new(code.id, format!("{message}; {so}"));
        at.view.finding(finding.at(path).on(object.reference()));
    }
    name
}
