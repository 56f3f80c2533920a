//! Configuration for a stock Envoy beside a program or at the edge.
//!
//! An Envoy gets everything that is visible to it, as from any other control plane. What Envoy's defaults would get
//! wrong is written out: TLS 1.3 only with the mesh's key exchanges, no panic routing, path normal form and header
//! limits as our own proxies have them. Everything that changes often stands in routes, clusters and endpoints;
//! listeners name their route configuration and places for policies and limits, so that a change of weights or of who may
//! call drains no connection.
//!
//! Keys come from the agent beside the Envoy (the static cluster `naka-agent`), never from here.

use super::{Built, Class, Key, Upstream, View, cluster, egress, endpoint, inbound};
use crate::world::World;
use naka_types::name::ClusterName;
use naka_types::node::Role;
use naka_types::protocol::Protocol;
use std::collections::BTreeSet;

mod acceptable;
mod answers;
mod denied;
mod extension;
mod helper;
mod limit;
mod listener;
mod manager;
mod route;

pub use extension::Extension;
pub use helper::Helper;
pub(crate) use helper::dns;

/// The forward proxy of a program: its listener and its routes.
pub const HTTP_PROXY: &str = "http_proxy";

/// What names of listeners of a program's ports start with.
pub const INBOUND: &str = "inbound_";
/// What names of listeners that lead to one service start with, and of their routes.
pub const UPSTREAM: &str = "upstream_";

/// Ports of the machine that lead to one service each: what the agent was told, and what a Sidecar binds.
fn upstreams(view: &View<'_>, class: &Class) -> Vec<(Upstream, Protocol)> {
    let told = class.binds.upstreams.iter();
    let told = told.map(|upstream| (upstream.clone(), Protocol::Auto));
    let bound = egress::listens(view, class).into_iter();
    let bound = bound.filter_map(|listen| {
        let upstream = Upstream {
            bind: listen.bind.ip()?,
            host: listen.host.as_ref()?.as_str().to_owned(),
            port: listen.port,
        };
        Some((upstream, listen.protocol))
    });
    told.chain(bound).collect()
}

/// The port of a listener for calls that say their host themselves.
fn saying(view: &View<'_>, name: &str, class: &Class) -> Option<std::net::SocketAddr> {
    let mut all = egress::listens(view, class).into_iter();
    let found = all.find(|listen| listen.host.is_none() && listen.name() == name);
    found.and_then(|listen| listen.bind.ip())
}

/// Listeners of an Envoy.
pub(crate) fn listeners(world: &World, class: &Class) -> BTreeSet<Key> {
    let view = View::new(world);
    let upstreams = upstreams(&view, class).into_iter();
    let mut names: BTreeSet<String> = upstreams.map(|(one, _)| one.listener()).collect();
    let saying = egress::listens(&view, class).into_iter();
    let saying = saying.filter(|l| l.host.is_none() && l.bind.ip().is_some());
    names.extend(saying.map(|l| l.name()));
    if class.binds.http_proxy.is_some() {
        names.insert(HTTP_PROXY.to_owned());
    }
    if let Some(member) = world.workload(&class.workload_id)
        && class.role == Role::Sidecar
    {
        let ports = inbound::chains(&view, &member.registration).into_iter();
        names.extend(ports.map(|chain| listener::inbound_name(chain.port)));
    }
    if class.role == Role::Gateway {
        let ports = super::roots::gateway_ports(&View::new(world), class);
        names.extend(ports.into_iter().map(super::gateway::name));
    }
    names.into_iter().map(Key::Listener).collect()
}

/// What this Envoy cannot do that a Naka proxy would, in words for status.
#[must_use]
pub fn not_expressed(world: &World, class: &Class) -> Vec<String> {
    let mut words = vec![
        "draining: an Envoy acknowledges endpoints when it has read them, not when every worker uses them; it counts as done after 2 s".to_owned(),
        "hosts: the whole mesh is held, not only what is called, so its memory grows with the mesh".to_owned(),
        "patterns: an Envoy knows regular expressions as RE2 does; one that it cannot read makes it refuse the whole route configuration".to_owned(),
        "metrics: an Envoy counts under its own names, on its admin pages, not as istio_*".to_owned(),
        "paths: an Envoy keeps the digits of an escape as they were written (%2f), our own proxies write them large (%2F)".to_owned(),
    ];
    words.extend(conditions(world));
    let sockets = egress::listens(&View::new(world), class).into_iter();
    words.extend(sockets.filter(|l| l.bind.ip().is_none()).map(|l| {
        format!(
            "binds: beside an Envoy {} is not bound: bind an address of the machine",
            l.bind
        )
    }));
    words.extend(cluster::balance::not_expressed(world));
    words.extend(limit::not_expressed(world));
    if class.role == Role::Gateway {
        let view = View::new(world);
        let limited = super::roots::gateway_ports(&view, class)
            .into_iter()
            .any(|port| {
                let stands =
                    super::gateway::chain::stands(&super::gateway::place(&view, class, port));
                super::gateway::port::port(&view, &stands).by_address()
            });
        words.extend(limited.then(|| super::gateway::port::BY_ADDRESS.to_owned()));
        return words;
    }
    words.push("capture: an Envoy takes no handed-over sockets; only calls through its proxy or upstream ports are in the mesh".to_owned());
    if let Some(proxy) = class.binds.http_proxy {
        words.push(format!(
            "callers: any program of this machine that reaches {proxy} speaks as this workload"
        ));
    }
    words.push("tunnels: a destination with a tunnel is reached through an upstream port only; CONNECT to it through the proxy port gets 503".to_owned());
    let all = world.policies.values().flat_map(|all| all.iter());
    for object in all.filter(|object| object.trust_model().is_some()) {
        words.push(format!(
            "trust: an Envoy knows no labels of its callers; where {} holds for it, it refuses what takes a zone, more than the lowest clearance, hours, approvals or a session, without a text",
            object.reference()
        ));
    }
    let all = world.policies.values().flat_map(|all| all.iter());
    for object in all {
        let guard = object.request_guard();
        words.extend(guard.and_then(super::policy::guard::at_envoy).map(|what| {
            format!(
                "guards: where {} holds for an Envoy: {what}",
                object.reference()
            )
        }));
    }
    for (host, objects) in &world.backends {
        for object in objects.iter() {
            let parts = object
                .backend_policy()
                .map(|spec| cluster::backend::not_expressed(&spec.policy));
            for part in parts.into_iter().flatten() {
                let meta = &object.meta;
                words.push(format!(
                    "{part}: BackendPolicy {}/{} has one for {host}; an Envoy goes on calling and passes failures on",
                    meta.namespace, meta.name
                ));
            }
        }
    }
    for upstream in &class.binds.upstreams {
        let view = View::new(world);
        if route::destination(&view, upstream, class).1 == naka_types::protocol::Protocol::Auto {
            words.push(format!(
                "detection: {}:{} declares no protocol, so bytes are passed on without HTTP routes",
                upstream.host, upstream.port
            ));
        }
    }
    words
}

/// Routes that an Envoy does not get because it cannot ask their expressions.
fn conditions(world: &World) -> BTreeSet<String> {
    let bound = world.routes.values().chain(world.gateway_routes.values());
    let objects = bound.flat_map(|all| all.iter());
    let routes = objects.filter_map(|object| Some((object, object.virtual_service()?)));
    routes
        .flat_map(|(object, spec)| spec.http.iter().map(move |route| (object, route)))
        .filter(|(_, route)| route.when.is_some())
        .map(|(object, route)| {
            format!(
                "conditions: an Envoy does not ask expressions; route {} of {} is not sent, so its requests go on to the routes after it",
                route.label(),
                object.reference()
            )
        })
        .collect()
}

/// Compiles a resource for an Envoy.
pub(crate) fn resource(view: &View<'_>, key: &Key, class: &Class) -> Option<Built> {
    match key {
        Key::Cluster(ClusterName::Inbound { port }) => {
            let chain = inbound::chain(view, &class.workload_id, *port)?;
            Some(cluster::inbound(&chain, class.dialect))
        }
        Key::Cluster(name) => cluster::outbound(view, name, class),
        Key::Raw(name) => cluster::raw(view, name, class),
        Key::Endpoints(name) => endpoint::endpoints(view, name, class),
        Key::Listener(name) => listener::listener(view, name, class),
        Key::Routes(name) => route::routes(view, name, class),
        Key::Helper(helper) => helper.cluster(class),
        Key::Extension(place) => extension::resource(view, place, class),
        Key::Credential(credential) => super::credential::resource(view, credential, class),
        Key::RootCa
        | Key::Revoked
        | Key::RevokedTokens
        | Key::VirtualHost(_)
        | Key::Names
        | Key::Workload(_) => None,
    }
}

#[cfg(test)]
mod tests;
