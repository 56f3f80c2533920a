//! Filter chains of a gateway's port: which server takes which connection, and what becomes of it.
//!
//! Servers in plaintext share one chain, because their hosts are told apart by the request; a server with TLS has its
//! own, told apart by the server name, with its own hosts inside, so that a client of one server never reaches a host
//! of another that asks more of its clients. What two Gateways claim belongs to the older one.

use super::{HostRoutes, bytes, hosts};
use crate::compile::credential::{self, Credential};
use crate::compile::{View, route};
use crate::world::Read;
use naka_api::networking::gateway::{
    Certificate, Gateway, Roots, Server, ServerProtocol, ServerTls, TlsMode,
};
use naka_api::networking::virtual_service::GatewayRef;
use naka_api::{Object, codes};
use naka_types::cidr::Cidr;
use naka_types::finding::Finding;
use naka_types::labels::selects;
use naka_types::name::ClusterName;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// A server with the object it stands in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stand<'a> {
    pub(crate) object: &'a Object,
    pub(crate) server: &'a Server,
}

impl Stand<'_> {
    pub(crate) fn gateway(&self) -> GatewayRef {
        GatewayRef::Named {
            namespace: self.object.meta.namespace.clone(),
            name: self.object.meta.name.clone(),
        }
    }

    fn complain(&self, view: &View<'_>, code: &str, field: &str, message: String) {
        let path = format!("spec.servers[{}].{field}", self.server.index);
        let finding = Finding::new(code, message);
        view.finding(finding.at(path).on(self.object.reference()));
    }

    /// Name of its chain and its routes: `443/edge/shop/0`.
    fn name(&self) -> String {
        let meta = &self.object.meta;
        let Server { port, index, .. } = self.server;
        format!("{port}/{}/{}/{index}", meta.namespace, meta.name)
    }
}

/// One chain.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) name: String,
    pub(crate) wants: Wants,
    pub(crate) security: Security,
    pub(crate) serves: Serves,
    /// Whether gRPC-Web is made gRPC; servers that share a chain share this, as in Istio.
    pub(crate) grpc_web: bool,
    /// Name its requests are counted under: of the server that ends TLS of HTTP, as in Istio.
    pub(crate) server: Option<String>,
}

/// Which connections are a chain's own; empty = any.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wants {
    pub(crate) tls: bool,
    pub(crate) server_names: Vec<String>,
    pub(crate) local: Vec<Cidr>,
    pub(crate) remote: Vec<Cidr>,
}

/// How connections are secured.
#[derive(Debug)]
pub(crate) enum Security {
    /// Not here.
    None,
    /// With certificates for strangers.
    Served(Box<ServerTls>, Vec<Credential>, Option<Credential>),
    /// With the mesh's own.
    Mesh,
}

/// What becomes of connections.
#[derive(Debug)]
pub(crate) enum Serves {
    Http(HostRoutes),
    Bytes(bytes::Route),
    /// To the cluster that the server name names, one of these.
    Named(Vec<ClusterName>),
}

/// All servers of a port that this proxy is to serve, those of older Gateways first.
pub(crate) fn stands<'a>(at: &route::Place<'a, '_>) -> Vec<Stand<'a>> {
    let world = at.view.read(Read::Gateways);
    let mut objects: Vec<(&Object, &Gateway)> = world
        .gateways
        .values()
        .filter_map(|object| Some((&**object, object.gateway()?)))
        .filter(|(_, gateway)| selects(&gateway.selector, &at.class.labels))
        .collect();
    objects.sort_by(|(a, _), (b, _)| super::age(a).cmp(&super::age(b)));
    objects
        .into_iter()
        .flat_map(|(object, gateway)| {
            let servers = gateway.servers.iter();
            servers.map(move |server| Stand { object, server })
        })
        .filter(|stand| stand.server.port == at.port)
        .collect()
}

/// The chains of a port, sorted by name.
pub(crate) fn chains(at: &route::Place<'_, '_>) -> Vec<Chain> {
    let mut taken = Taken::default();
    let stands = stands(at);
    let plain = plain_http(at, &stands, &mut taken);
    let mut all: Vec<Chain> = plain;
    for stand in &stands {
        match (stand.server.protocol, &stand.server.tls) {
            (ServerProtocol::Http, _) => {}
            (ServerProtocol::Tcp, _) => all.extend(tcp(at, stand, &mut taken)),
            (_, Some(tls)) => all.extend(secured(at, stand, tls, &mut taken)),
            // Nothing is served without the TLS that was wanted.
            (_, None) => {}
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// What older servers have.
#[derive(Debug, Default)]
struct Taken {
    /// Who speaks plaintext at an address.
    plain: Vec<(Option<IpAddr>, ServerProtocol, String)>,
    wants: BTreeSet<Wants>,
}

impl Taken {
    /// Whether plaintext at this address is this server's; what differs in protocol from an older one is not.
    fn plain(&mut self, view: &View<'_>, stand: &Stand<'_>) -> bool {
        let Server { bind, protocol, .. } = stand.server;
        match self.plain.iter().find(|(known, ..)| known == bind) {
            None => {
                let owner = stand.object.reference().to_string();
                self.plain.push((*bind, *protocol, owner));
                true
            }
            Some((_, known, _)) if known == protocol => true,
            Some((_, known, owner)) => {
                let port = stand.server.port;
                let message = format!("port {port} has {known:?} of {owner}, which is older");
                stand.complain(view, codes::E331.id, "port.protocol", message);
                false
            }
        }
    }

    /// Takes what is free of some server names; the rest has a finding.
    fn names(&mut self, view: &View<'_>, stand: &Stand<'_>, wants: &Wants) -> Option<Wants> {
        let mut free = wants.clone();
        let each: Vec<Vec<String>> = if wants.server_names.is_empty() {
            vec![Vec::new()]
        } else {
            wants
                .server_names
                .iter()
                .map(|name| vec![name.clone()])
                .collect()
        };
        let mut left = 0;
        for names in each {
            let one = Wants {
                server_names: names.clone(),
                ..wants.clone()
            };
            if self.wants.insert(one) {
                left += 1;
                continue;
            }
            free.server_names.retain(|name| !names.contains(name));
            let what = names.first().map_or("*", String::as_str);
            let message = format!(
                "{what} is served on port {} by an older server",
                stand.server.port
            );
            stand.complain(view, codes::E331.id, "hosts", message);
        }
        (left > 0).then_some(free)
    }
}

fn local(server: &Server) -> Vec<Cidr> {
    server.bind.map(Cidr::of).into_iter().collect()
}

/// One chain for all servers of HTTP in plaintext at an address.
fn plain_http(at: &route::Place<'_, '_>, stands: &[Stand<'_>], taken: &mut Taken) -> Vec<Chain> {
    let plain: Vec<Stand<'_>> = stands
        .iter()
        .filter(|stand| stand.server.tls.is_none())
        .filter(|stand| {
            matches!(
                stand.server.protocol,
                ServerProtocol::Http | ServerProtocol::Tcp
            )
        })
        .filter(|stand| taken.plain(at.view, stand))
        .filter(|stand| stand.server.protocol == ServerProtocol::Http)
        .copied()
        .collect();
    let binds: BTreeSet<Option<IpAddr>> = plain.iter().map(|stand| stand.server.bind).collect();
    binds
        .into_iter()
        .map(|bind| {
            let here: Vec<Stand<'_>> = plain
                .iter()
                .filter(|stand| stand.server.bind == bind)
                .copied()
                .collect();
            Chain {
                name: bind.map_or_else(
                    || format!("{}/http", at.port),
                    |bind| format!("{}/http/{bind}", at.port),
                ),
                wants: Wants {
                    local: bind.map(Cidr::of).into_iter().collect(),
                    ..Wants::default()
                },
                security: Security::None,
                serves: Serves::Http(hosts(at, &here)),
                grpc_web: here.iter().any(|stand| stand.server.grpc_web),
                server: None,
            }
        })
        .collect()
}

/// Chains of a server of bytes in plaintext: one per route that a caller can reach.
fn tcp(at: &route::Place<'_, '_>, stand: &Stand<'_>, taken: &mut Taken) -> Vec<Chain> {
    let known = taken
        .plain
        .iter()
        .find(|(bind, ..)| *bind == stand.server.bind);
    if known.is_none_or(|(_, protocol, _)| *protocol != ServerProtocol::Tcp) {
        return Vec::new();
    }
    let base = Wants {
        local: local(stand.server),
        ..Wants::default()
    };
    routed(at, stand, &base, false, &|| Security::None, taken)
}

/// Chains of routes of bytes, each with what its match adds to what the server wants.
fn routed(
    at: &route::Place<'_, '_>,
    stand: &Stand<'_>,
    base: &Wants,
    by_name: bool,
    security: &dyn Fn() -> Security,
    taken: &mut Taken,
) -> Vec<Chain> {
    let mut all = Vec::new();
    for (number, found) in bytes::at_gateway(at, stand, by_name)
        .into_iter()
        .enumerate()
    {
        let mut wants = base.clone();
        if by_name {
            wants.server_names = found.server_names;
        }
        if !found.destinations.is_empty() {
            wants.local = found.destinations;
        }
        wants.remote = found.sources;
        if let Some(wants) = taken.names(at.view, stand, &wants) {
            all.push(Chain {
                name: format!("{}/{number}", stand.name()),
                wants,
                security: security(),
                serves: Serves::Bytes(found.route),
                grpc_web: false,
                server: None,
            });
        }
    }
    all
}

/// Chains of a server with TLS; none when it cannot be carried out.
fn secured(
    at: &route::Place<'_, '_>,
    stand: &Stand<'_>,
    tls: &ServerTls,
    taken: &mut Taken,
) -> Vec<Chain> {
    let names = stand
        .server
        .hosts
        .iter()
        .map(|one| one.host.as_str().to_owned());
    let names: BTreeSet<String> = names.collect();
    // A server for every name takes also who names none.
    let server_names = if names.contains("*") {
        Vec::new()
    } else {
        names.into_iter().collect()
    };
    let base = Wants {
        tls: true,
        server_names,
        local: local(stand.server),
        ..Wants::default()
    };
    match tls.mode {
        TlsMode::Passthrough => routed(at, stand, &base, true, &|| Security::None, taken),
        TlsMode::AutoPassthrough => named(at, stand, base, taken).into_iter().collect(),
        TlsMode::Simple | TlsMode::Mutual | TlsMode::IstioMutual | TlsMode::OptionalMutual => {
            let Some((certificates, roots)) = credentials(at, stand, tls) else {
                return Vec::new();
            };
            let security = || match tls.mode {
                TlsMode::IstioMutual => Security::Mesh,
                _ => Security::Served(Box::new(tls.clone()), certificates.clone(), roots.clone()),
            };
            if stand.server.protocol == ServerProtocol::Tls {
                return routed(at, stand, &base, false, &security, taken);
            }
            let Some(wants) = taken.names(at.view, stand, &base) else {
                return Vec::new();
            };
            vec![Chain {
                name: stand.name(),
                wants,
                security: security(),
                serves: Serves::Http(hosts(at, std::slice::from_ref(stand))),
                grpc_web: stand.server.grpc_web,
                server: stand.server.name.clone(),
            }]
        }
    }
}

/// Secrets of a server, all of them usable; `None` when one is not.
fn credentials(
    at: &route::Place<'_, '_>,
    stand: &Stand<'_>,
    tls: &ServerTls,
) -> Option<(Vec<Credential>, Option<Credential>)> {
    let of = |name: &str, roots| Credential {
        namespace: at.class.namespace.clone(),
        name: name.to_owned(),
        roots,
    };
    let named = tls.certificates.iter().filter_map(|one| match one {
        Certificate::Secret(name) => Some(name.as_str()),
        Certificate::Files { .. } => None,
    });
    let names: Vec<&str> = named.collect();
    let beside = match &tls.roots {
        _ if !tls.mode.asks() => None,
        Some(Roots::Secret(name)) => Some(of(name, true)),
        Some(Roots::File(_)) => None,
        None => names.first().map(|name| of(name, true)),
    };
    let certificates: Vec<Credential> = names.iter().map(|name| of(name, false)).collect();
    for credential in certificates.iter().chain(&beside) {
        if let Err(why) = credential::check(at.view, credential) {
            stand.complain(
                at.view,
                codes::E332.id,
                "tls.credentialName",
                format!("{why}; this server is not in force"),
            );
            return None;
        }
    }
    Some((certificates, beside))
}

/// The chain of a server whose clients name the service by the server name.
fn named(
    at: &route::Place<'_, '_>,
    stand: &Stand<'_>,
    mut base: Wants,
    taken: &mut Taken,
) -> Option<Chain> {
    // `outbound_.80_._.payment.default.svc.cluster.local` lies below the host it names.
    for name in &mut base.server_names {
        if !name.starts_with('*') {
            *name = format!("*.{name}");
        }
    }
    let wants = taken.names(at.view, stand, &base)?;
    Some(Chain {
        name: stand.name(),
        wants,
        security: Security::None,
        serves: Serves::Named(bytes::named(at, stand.server)),
        grpc_web: false,
        server: None,
    })
}
