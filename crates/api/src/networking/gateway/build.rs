//! The typed Gateway from a checked tree.

use super::{Gateway, Server, ServerHost};
use crate::codes;
use crate::decode::Report;
use crate::decode::meta::labels;
use crate::networking::read;
use crate::tree::Node;
use naka_types::host::Host;

/// Protocols a server may name, as Istio's list.
const PROTOCOLS: &[&str] = &[
    "HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTPS", "TLS", "TCP", "MONGO",
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
    for (index, node) in spec
        .get("servers")
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let at = format!("spec.servers[{index}]");
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
    protocol(report, port, at);
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
    Some(Server {
        index,
        name: read::text(node.get("name")),
        port: number?,
        port_name: read::text(port.get("name"))?,
        hosts,
    })
}

fn protocol(report: &mut Report, port: &Node, at: &str) {
    let Some(node) = port.get("protocol") else {
        return;
    };
    let Some(word) = node.text().map(str::to_ascii_uppercase) else {
        return;
    };
    let at = format!("{at}.port.protocol");
    match word.as_str() {
        "HTTP" | "HTTP2" | "GRPC" => {}
        known if PROTOCOLS.contains(&known) => report.error(
            codes::E901,
            &at,
            node.place,
            format!("protocol {known} is not enforced yet, and serving these hosts as plain HTTP would let through what must not"),
            "leave the server out until it is supported, or write HTTP".to_owned(),
        ),
        "" => {}
        _ => report.invalid(&at, node, format!("{word:?} is no protocol"), format!("write one of {}", PROTOCOLS.join(", "))),
    }
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
