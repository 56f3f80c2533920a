//! Listeners: the declared ports of a sidecar's program; a gateway's are read by [`super::edge`].
//!
//! A filter that is not known here might be the one that refuses somebody: the chain that holds it is left out.

use super::{Error, Taken, access, check, edge, extras, route, token};
use crate::edge::spec::Spec;
use naka_engine::model::{Access, MtlsMode, RateLimit, Security};
use naka_types::name::ClusterName;
use naka_types::node::{GUARD, LIMIT, NAKA, TRUST};
use naka_types::protocol::Protocol;
use naka_wire::envoy::config::core::v3::address;
use naka_wire::envoy::config::listener::v3::{FilterChain, Listener, filter};
use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use naka_wire::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use naka_wire::values;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// What names of listeners for the program's calls start with.
const EGRESS: &str = "egress_";
/// Name of a sidecar's listener.
pub const INBOUND: &str = "virtualInbound";
pub(super) const HTTP: &str = "envoy.filters.network.http_connection_manager";
pub(super) const TCP: &str = "envoy.filters.network.tcp_proxy";
const ROUTER: &str = "envoy.filters.http.router";
pub(super) const GRPC_WEB: &str = "envoy.filters.http.grpc_web";

/// A declared port as received.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// The program's port.
    pub port: u16,
    /// Declared protocol.
    pub protocol: Protocol,
    /// What it takes.
    pub mode: MtlsMode,
    /// Cluster of the program.
    pub cluster: Arc<str>,
    /// Full host of the service, empty if none.
    pub service: Arc<str>,
    /// Who may call, and what.
    pub access: Option<Arc<Access>>,
    /// Tokens a request needs.
    pub limit: Option<Arc<RateLimit>>,
    /// Whether calls under way end when they would not be let in any more.
    pub closes: bool,
    /// TLS for callers from outside the mesh, where the port takes plaintext only, under the name of its chain.
    pub own: Option<(Arc<str>, Spec)>,
    /// An address for it beside the one that was registered.
    pub listen: Option<SocketAddr>,
}

/// What a listener turns out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// The program's ports.
    Inbound(Vec<Declared>),
    /// A port of a gateway.
    Gateway(edge::Port),
    /// A port of this machine for calls of the program.
    Egress(Egress),
}

/// A port of this machine for calls of the program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Egress {
    /// Where it listens.
    pub bind: At,
    /// Port of the host that is called; of requests that say theirs, the one that is meant without one.
    pub port: u16,
    /// What is spoken, if that is said.
    pub protocol: Protocol,
    /// Full host that it leads to; `None`: requests say theirs.
    pub host: Option<Arc<str>>,
}

impl Part {
    /// Whether a policy asks for labels of callers.
    #[must_use]
    pub fn asks_labels(&self) -> bool {
        let asks = |access: &Option<Arc<Access>>| access.as_ref().is_some_and(|a| a.labels);
        match self {
            Self::Inbound(ports) => ports.iter().any(|port| asks(&port.access)),
            Self::Gateway(port) => port.edge.chains().iter().any(|chain| asks(&chain.access)),
            Self::Egress(_) => false,
        }
    }
}

/// Where something listens on this machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// At an address.
    Ip(SocketAddr),
    /// At a Unix socket; with `@` an abstract one.
    Unix(Arc<str>),
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix://{path}"),
        }
    }
}

/// What a port that configuration asks for is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// Calls of the program.
    Calls(Egress),
    /// Callers of one of its ports.
    Callers {
        /// The program's port.
        port: u16,
    },
}

/// A listener.
///
/// # Errors
/// [`Error`] when it is unsound as a whole.
pub fn listener(wire: &Listener, ids: route::Ids<'_>) -> Result<Taken<Part>, Error> {
    if wire.name == INBOUND {
        Ok(inbound(wire, ids))
    } else if wire.name.starts_with(EGRESS) {
        Ok(Taken {
            model: Part::Egress(egress(wire)?),
            left_out: Vec::new(),
        })
    } else {
        let taken = edge::port(wire, ids)?;
        Ok(Taken {
            model: Part::Gateway(taken.model),
            left_out: taken.left_out,
        })
    }
}

fn egress(wire: &Listener) -> Result<Egress, Error> {
    let bind = match wire.address.as_ref().and_then(|one| one.address.as_ref()) {
        Some(address::Address::Pipe(pipe)) if pipe.path.starts_with(['/', '@']) => {
            Some(At::Unix(pipe.path.as_str().into()))
        }
        _ => wire
            .address
            .as_ref()
            .and_then(super::socket_address)
            .map(At::Ip),
    };
    let wrong = || Error::at("address", "neither an IP address with a port nor a path");
    let bind = bind.ok_or_else(wrong)?;
    let own = values::of_metadata(wire.metadata.as_ref(), NAKA)
        .ok_or_else(|| Error::at("metadata", "it says not where calls go"))?;
    let text = |key: &str| values::get_str(own, key).filter(|text| !text.is_empty());
    let port = text("port").and_then(|port| port.parse().ok());
    let port = port.or(match &bind {
        At::Ip(address) => Some(address.port()),
        At::Unix(_) => None,
    });
    Ok(Egress {
        port: port.ok_or_else(|| Error::at("metadata", "it says no port"))?,
        bind,
        protocol: Protocol::declared(None, text("protocol")),
        host: text("host").map(Arc::from),
    })
}

/// One way into a port.
struct Way {
    port: u16,
    protocol: Protocol,
    tls: bool,
    cluster: Arc<str>,
    service: Arc<str>,
    access: Option<Arc<Access>>,
    limit: Option<Arc<RateLimit>>,
    closes: bool,
    own: Option<(Arc<str>, Spec)>,
    listen: Option<SocketAddr>,
}

fn inbound(wire: &Listener, ids: route::Ids<'_>) -> Taken<Part> {
    let mut left_out = Vec::new();
    let mut ports: BTreeMap<u16, Declared> = BTreeMap::new();
    for (index, chain) in wire.filter_chains.iter().enumerate() {
        let way = match way(chain, ids) {
            Ok(way) => way,
            Err(error) => {
                left_out.push(error.within(&format!("filter_chains[{index}]")));
                continue;
            }
        };
        let alone = if way.tls {
            MtlsMode::Strict
        } else {
            MtlsMode::Disable
        };
        ports
            .entry(way.port)
            .and_modify(|declared| {
                if declared.mode != alone {
                    declared.mode = MtlsMode::Permissive;
                }
            })
            .or_insert(Declared {
                port: way.port,
                protocol: way.protocol,
                mode: alone,
                cluster: way.cluster,
                service: way.service,
                access: way.access,
                limit: way.limit,
                closes: way.closes,
                own: way.own,
                listen: way.listen,
            });
    }
    Taken {
        model: Part::Inbound(ports.into_values().collect()),
        left_out,
    }
}

fn way(chain: &FilterChain, ids: route::Ids<'_>) -> Result<Way, Error> {
    let wanted = chain
        .filter_chain_match
        .as_ref()
        .ok_or_else(|| Error::at("filter_chain_match", "it is missing"))?;
    let port = wanted
        .destination_port
        .as_ref()
        .and_then(|port| u16::try_from(port.value).ok())
        .filter(|port| *port > 0)
        .ok_or_else(|| Error::at("filter_chain_match.destination_port", "not a port"))?;
    for (present, field) in [
        (!wanted.prefix_ranges.is_empty(), "prefix_ranges"),
        (
            !wanted.source_prefix_ranges.is_empty(),
            "source_prefix_ranges",
        ),
        (!wanted.source_ports.is_empty(), "source_ports"),
        (!wanted.server_names.is_empty(), "server_names"),
        (wanted.source_type != 0, "source_type"),
    ] {
        if present {
            return Err(Error::at(
                format!("filter_chain_match.{field}"),
                "not supported",
            ));
        }
    }
    let (security, served) = edge::security(chain)?;
    let tls = security == Security::Mesh;
    match wanted.transport_protocol.as_str() {
        "" => {}
        "tls" if tls => {}
        "raw_buffer" if !tls => {}
        other => {
            return Err(Error::at(
                "filter_chain_match.transport_protocol",
                format!("{other:?} does not go with the transport socket"),
            ));
        }
    }
    let Program {
        http,
        cluster,
        access,
        limit,
    } = program(chain, ids)?;
    let own = values::of_metadata(chain.metadata.as_ref(), NAKA);
    let text = |key: &str| own.and_then(|own| values::get_str(own, key));
    let protocol = match text("protocol") {
        Some(word) => Protocol::declared(None, Some(word)),
        None if http => Protocol::Auto,
        None => Protocol::Tcp,
    };
    let cluster = cluster.unwrap_or_else(|| ClusterName::Inbound { port }.to_string());
    if ClusterName::parse(&cluster) != Some(ClusterName::Inbound { port }) {
        return Err(Error::at(
            "filters",
            format!("{cluster:?} is not the program's cluster"),
        ));
    }
    Ok(Way {
        port,
        protocol,
        tls,
        cluster: cluster.into(),
        service: text("service").unwrap_or_default().into(),
        access,
        limit,
        closes: text("closes") == Some("true"),
        own: served.map(|spec| (chain.name.as_str().into(), spec)),
        listen: text("listen").and_then(|text| text.parse().ok()),
    })
}

/// What the filters of a chain say.
struct Program {
    http: bool,
    cluster: Option<String>,
    access: Option<Arc<Access>>,
    limit: Option<Arc<RateLimit>>,
}

fn program(chain: &FilterChain, ids: route::Ids<'_>) -> Result<Program, Error> {
    let [first @ .., last] = chain.filters.as_slice() else {
        return Err(Error::at("filters", "there must be one"));
    };
    let known = [access::BYTES, GUARD, TRUST];
    if first.iter().any(|one| !known.contains(&one.name.as_str())) {
        return Err(Error::at(
            "filters",
            "only RBAC, guards and trust models may stand before the last",
        ));
    }
    let Some(filter::ConfigType::TypedConfig(any)) = &last.config_type else {
        return Err(Error::at("filters", "the last has no configuration"));
    };
    match last.name.as_str() {
        HTTP if !first.is_empty() => Err(Error::at(
            "filters",
            "before requests RBAC is one of their filters",
        )),
        HTTP => {
            let manager = manager(any)?;
            let own = manager.http_filters.iter().find(|f| f.name == LIMIT);
            let own = own.and_then(|filter| filter.config_type.as_ref());
            let limit = match own {
                Some(http_filter::ConfigType::TypedConfig(any)) => Some(super::limit::limit(any)),
                _ => None,
            };
            Ok(Program {
                http: true,
                cluster: None,
                access: access::of_requests(&manager.http_filters, ids)?,
                limit: limit.transpose()?,
            })
        }
        TCP => {
            let proxy: TcpProxy =
                naka_wire::unpack(any).map_err(|error| Error::at("filters[0]", error))?;
            match proxy.cluster_specifier {
                Some(tcp_proxy::ClusterSpecifier::Cluster(name)) => Ok(Program {
                    http: false,
                    cluster: Some(name),
                    access: access::of_bytes(first)?,
                    limit: None,
                }),
                _ => Err(Error::at("filters[0]", "it names no cluster")),
            }
        }
        other => Err(Error::at("filters[0]", format!("{other} is not supported"))),
    }
}

pub(super) fn manager(
    any: &naka_wire::google::protobuf::Any,
) -> Result<HttpConnectionManager, Error> {
    let manager: HttpConnectionManager =
        naka_wire::unpack(any).map_err(|error| Error::at("filters[0]", error))?;
    let known = [
        ROUTER,
        LIMIT,
        GUARD,
        TRUST,
        GRPC_WEB,
        access::HTTP,
        check::NAME,
        token::NAME,
    ];
    match manager
        .http_filters
        .iter()
        .find(|f| !known.contains(&f.name.as_str()) && !f.is_optional && !by_route(f))
    {
        Some(unknown) => Err(Error::at(
            "filters[0].http_filters",
            format!("{} is not supported", unknown.name),
        )),
        None => Ok(manager),
    }
}

/// Filters that do nothing by themselves: routes say what they do, and routes are read for it.
fn by_route(filter: &HttpFilter) -> bool {
    let idle = match &filter.config_type {
        Some(http_filter::ConfigType::TypedConfig(any)) => any.value.is_empty(),
        Some(_) => false,
        None => true,
    };
    idle && [extras::FAULT, extras::CORS].contains(&filter.name.as_str())
}
