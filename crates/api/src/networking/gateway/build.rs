//! The typed Gateway from a checked tree.

use super::{Gateway, Server, ServerHost, ServerProtocol, tls};
use crate::codes;
use crate::decode::Report;
use crate::decode::meta::labels;
use crate::networking::read;
use crate::tree::Node;
use naka_types::host::Host;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Protocols a server may name, as Istio's list.
const PROTOCOLS: &[(&str, ServerProtocol)] = &[
    ("HTTP", ServerProtocol::Http),
    ("HTTP2", ServerProtocol::Http),
    ("GRPC", ServerProtocol::Http),
    ("GRPC-WEB", ServerProtocol::Http),
    ("HTTPS", ServerProtocol::Https),
    ("TLS", ServerProtocol::Tls),
    ("TCP", ServerProtocol::Tcp),
    ("MONGO", ServerProtocol::Tcp),
];
/// Ports the proxy uses itself, and what for.
const RESERVED: &[(u16, &str)] = &[
    (15000, "proxy administration"),
    (15001, "outbound capture"),
    (15006, "inbound capture"),
    (15008, "tunnels of the mesh"),
    (15020, "merged metrics"),
    (15021, "proxy health"),
    (15053, "DNS"),
    (15090, "proxy metrics"),
];

/// Builds. A Gateway with no sound server stays, so that references to it resolve; it serves nothing.
pub(crate) fn build(report: &mut Report, spec: &Node, namespace: &str) -> Gateway {
    let mut servers = Vec::new();
    let mut names = BTreeSet::new();
    for (index, node) in spec
        .get("servers")
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let at = format!("spec.servers[{index}]");
        // Istio refuses such a Gateway as a whole; here the earlier server stays.
        if let Some(name) = node.at(&["port", "name"])
            && let Some(text) = name.text().filter(|text| !names.insert(*text))
        {
            let message = format!("a server before has a port of the name {text:?}");
            let fix = "give each server's port a name of its own".to_owned();
            report.invalid(&format!("{at}.port.name"), name, message, fix);
        }
        if let Some(server) =
            server(report, node, &at, index, namespace).filter(|_| report.sound(&at))
        {
            servers.push(server);
        }
    }
    Gateway {
        selector: labels(spec.get("selector")),
        servers,
    }
}

fn server(
    report: &mut Report,
    node: &Node,
    at: &str,
    index: usize,
    namespace: &str,
) -> Option<Server> {
    let port = node.get("port")?;
    let protocol = protocol(report, port, at);
    let number = read::port(port.get("number"));
    if let Some((number, use_)) =
        number.and_then(|number| RESERVED.iter().find(|(reserved, _)| *reserved == number))
    {
        report.error(
            codes::E330,
            &format!("{at}.port.number"),
            port.place,
            format!("port {number} is reserved for {use_}"),
            "use another port".to_owned(),
        );
    }
    let mut hosts = Vec::new();
    for (place, item) in node
        .get("hosts")
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        hosts.extend(server_host(
            report,
            item,
            &format!("{at}.hosts[{place}]"),
            namespace,
        ));
    }
    let bind = bind(report, node, at);
    let (tls, https_redirect) = security(report, node, at, protocol?);
    Some(Server {
        index,
        name: read::text(node.get("name")),
        port: number?,
        port_name: read::text(port.get("name"))?,
        protocol: protocol?,
        grpc_web: read::text(port.get("protocol"))
            .is_some_and(|word| word.eq_ignore_ascii_case("GRPC-WEB")),
        bind,
        hosts,
        tls,
        https_redirect,
    })
}

/// An address, or nothing for all of them. Another form, a Unix socket for one, takes the server out.
fn bind(report: &mut Report, node: &Node, at: &str) -> Option<IpAddr> {
    let text = read::text(node.get("bind"))?;
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => None,
        Ok(address) => Some(address),
        Err(_) => {
            report.invalid(
                &format!("{at}.bind"),
                node.get("bind")?,
                format!("{text:?} is no IP address"),
                "write an address of the gateway's machine, or leave it out".to_owned(),
            );
            None
        }
    }
}

/// TLS where the protocol has it; a redirect to https where it has none.
fn security(
    report: &mut Report,
    node: &Node,
    at: &str,
    protocol: ServerProtocol,
) -> (Option<tls::ServerTls>, bool) {
    let written = node.get("tls");
    let redirect = written
        .and_then(|tls| tls.get("httpsRedirect"))
        .and_then(Node::truth)
        .unwrap_or(false);
    let at = format!("{at}.tls");
    match (protocol, written) {
        (ServerProtocol::Https | ServerProtocol::Tls, None) => {
            report.error(
                codes::E006,
                &at,
                node.place,
                "a server of HTTPS or TLS needs tls".to_owned(),
                "add tls with mode and credentialName".to_owned(),
            );
            (None, false)
        }
        (ServerProtocol::Https | ServerProtocol::Tls, Some(tls)) => {
            (Some(tls::build(report, tls, &at)), redirect)
        }
        (ServerProtocol::Http | ServerProtocol::Tcp, None) => (None, false),
        (ServerProtocol::Http | ServerProtocol::Tcp, Some(tls)) => {
            let others = tls
                .entries()
                .iter()
                .any(|entry| entry.key != "httpsRedirect");
            if others || protocol == ServerProtocol::Tcp {
                report.invalid(
                    &at,
                    tls,
                    "TLS settings on a port whose protocol has no TLS: it would be served in plaintext"
                        .to_owned(),
                    "write protocol HTTPS or TLS; httpsRedirect alone goes with HTTP".to_owned(),
                );
            }
            (None, redirect)
        }
    }
}

fn protocol(report: &mut Report, port: &Node, at: &str) -> Option<ServerProtocol> {
    let node = port.get("protocol")?;
    let word = node.text()?.to_ascii_uppercase();
    let known = PROTOCOLS.iter().find(|(name, _)| *name == word);
    if known.is_none() && !word.is_empty() {
        let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
        report.invalid(
            &format!("{at}.port.protocol"),
            node,
            format!("{word:?} is no protocol"),
            format!("write one of {}", names.join(", ")),
        );
    }
    known.map(|(_, protocol)| *protocol)
}

fn server_host(report: &mut Report, node: &Node, at: &str, own: &str) -> Option<ServerHost> {
    let text = node.text()?;
    let (namespace, host) = match text.split_once('/') {
        None | Some(("*", _)) => (None, text.rsplit('/').next().unwrap_or(text)),
        Some((".", host)) => (Some(own.to_owned()), host),
        Some((namespace, host)) => (Some(namespace.to_owned()), host),
    };
    // Not resolved: hosts of a gateway are names in the outside world; only a full mesh name means a service.
    match Host::parse(host) {
        Ok(host) if namespace.as_deref() != Some("") => Some(ServerHost { namespace, host }),
        Ok(_) => {
            report.invalid(
                at,
                node,
                format!("{text:?} has an empty namespace"),
                "write namespace/host or host".to_owned(),
            );
            None
        }
        Err(error) => {
            report.invalid(
                at,
                node,
                error.to_string(),
                "write a host such as shop.example.com or *".to_owned(),
            );
            None
        }
    }
}
