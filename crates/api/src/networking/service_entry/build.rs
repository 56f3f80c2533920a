//! The typed ServiceEntry from a checked tree. What Istio's CRD demands between fields is in `schema::rules`; here is
//! what a value itself must be.

use super::{Block, EntryEndpoint, EntryPort, Resolution, ServiceEntry};
use crate::codes;
use crate::decode::Report;
use crate::decode::meta::labels;
use crate::networking::{export, read};
use crate::tree::Node;
use naka_types::host::Host;
use naka_types::protocol::Protocol;

/// Builds; `None` without a usable host. Endpoints with an error are left out.
pub(crate) fn build(report: &mut Report, spec: &Node, namespace: &str) -> Option<ServiceEntry> {
    let resolution = match spec.get("resolution").and_then(Node::text) {
        Some("STATIC") => Resolution::Static,
        Some("DNS") => Resolution::Dns,
        Some("DNS_ROUND_ROBIN") => Resolution::DnsRoundRobin,
        Some("DYNAMIC_DNS") => Resolution::DynamicDns,
        _ => Resolution::None,
    };
    let items = |field: &str| spec.get(field).map(Node::items).unwrap_or_default();
    let mut hosts: Vec<Host> = Vec::new();
    for (index, node) in items("hosts").iter().enumerate() {
        let at = format!("spec.hosts[{index}]");
        let host = read::host(report, Some(node), &at, namespace, true);
        // `*` alone is refused by the rules of the CRD.
        hosts.extend(host.filter(|host| host.as_str() != "*"));
    }
    hosts.dedup();
    let selector = spec.get("workloadSelector");
    let named = !items("endpoints").is_empty() || selector.is_some();
    let by_name = matches!(resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    if let Some(at) = hosts.iter().position(Host::is_wildcard)
        && by_name
        && !named
        && let Some(node) = items("hosts").get(at)
    {
        report.invalid(
            &format!("spec.hosts[{at}]"),
            node,
            "a pattern cannot be looked up, and no endpoint is named".to_owned(),
            "add endpoints, or write resolution: DYNAMIC_DNS or NONE".to_owned(),
        );
    }
    let mut addresses = Vec::new();
    for (index, node) in items("addresses").iter().enumerate() {
        match node.text().and_then(Block::parse) {
            Some(block) => addresses.push(block),
            None => report.invalid(
                &format!("spec.addresses[{index}]"),
                node,
                "this is no address".to_owned(),
                "write an IP address, or a block such as 192.0.2.0/24".to_owned(),
            ),
        }
    }
    let ports = items("ports")
        .iter()
        .enumerate()
        .filter_map(|(index, node)| port(report, node, &format!("spec.ports[{index}]")))
        .collect();
    let mut endpoints = Vec::new();
    for (index, node) in items("endpoints").iter().enumerate() {
        let at = format!("spec.endpoints[{index}]");
        let endpoint = endpoint(report, node, &at, resolution);
        if report.sound(&at) {
            endpoints.extend(endpoint);
        }
    }
    if hosts.is_empty() {
        return None;
    }
    Some(ServiceEntry {
        hosts,
        addresses,
        ports,
        internal: spec.get("location").and_then(Node::text) == Some("MESH_INTERNAL"),
        resolution,
        endpoints,
        selector: selector.map(|selector| labels(selector.get("labels"))),
        export: export::read(report, spec, namespace),
        subject_alt_names: read::texts(spec.get("subjectAltNames")),
    })
}

const PROTOCOLS: &[&str] = &[
    "HTTP",
    "HTTPS",
    "HTTP2",
    "GRPC",
    "GRPC-WEB",
    "TCP",
    "TLS",
    "MONGO",
    "MYSQL",
    "REDIS",
    "UDP",
    "HTTP_PROXY",
];

fn port(report: &mut Report, node: &Node, at: &str) -> Option<EntryPort> {
    let number = read::port(node.get("number"))?;
    let name = read::text(node.get("name")).unwrap_or_default();
    let word = read::text(node.get("protocol"));
    if let (Some(word), Some(node)) = (&word, node.get("protocol"))
        && !PROTOCOLS.contains(&word.to_ascii_uppercase().as_str())
    {
        report.invalid(
            &format!("{at}.protocol"),
            node,
            format!("{word:?} is no protocol"),
            format!("write one of {}", PROTOCOLS.join(", ")),
        );
    }
    Some(EntryPort {
        number,
        protocol: Protocol::declared(Some(&name), word.as_deref()),
        name,
        target: read::port(node.get("targetPort")),
    })
}

fn endpoint(
    report: &mut Report,
    node: &Node,
    at: &str,
    resolution: Resolution,
) -> Option<EntryEndpoint> {
    let written = node.get("address");
    let address = written.and_then(Node::text).unwrap_or_default().to_owned();
    if let Some(node) = written {
        let is_ip = address.parse::<std::net::IpAddr>().is_ok();
        let is_name = Host::parse(&address).is_ok_and(|host| !host.is_wildcard());
        let (message, fix) = if address.starts_with("unix://") {
            let message = "Unix sockets are not supported, and there is no other address to call";
            report.error(
                codes::E901,
                &format!("{at}.address"),
                node.place,
                message.to_owned(),
                "write an IP address or a DNS name".to_owned(),
            );
            return None;
        } else if !is_ip && !is_name {
            (
                "this is no address",
                "write an IP address or a DNS name, without port",
            )
        } else if !is_ip && resolution == Resolution::Static {
            (
                "resolution STATIC takes IP addresses only",
                "write an IP address, or resolution: DNS",
            )
        } else {
            ("", "")
        };
        if !message.is_empty() {
            report.invalid(
                &format!("{at}.address"),
                node,
                format!("{address:?}: {message}"),
                fix.to_owned(),
            );
        }
    }
    if address.is_empty() {
        return None;
    }
    let ports = node.get("ports").map(Node::entries).unwrap_or_default();
    let mut labels = labels(node.get("labels"));
    if let Some(locality) = read::text(node.get("locality")) {
        labels.insert(naka_types::locality::LABEL.to_owned(), locality);
    }
    if let Some(network) = read::text(node.get("network")) {
        labels.insert(naka_types::locality::NETWORK.to_owned(), network);
    }
    Some(EntryEndpoint {
        address,
        ports: ports
            .iter()
            .filter_map(|entry| Some((entry.key.clone(), read::port(Some(&entry.value))?)))
            .collect(),
        labels,
        weight: read::count(node.get("weight")),
        service_account: read::text(node.get("serviceAccount")),
    })
}
