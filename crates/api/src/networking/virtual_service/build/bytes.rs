//! Routes of `spec.tcp` and `spec.tls` from a checked tree.

use super::super::{BytesMatch, BytesRoute};
use super::{actions, gateways};
use crate::codes;
use crate::decode::Report;
use crate::decode::meta::labels;
use crate::networking::gateway::overlap;
use crate::networking::read;
use crate::tree::Node;
use naka_types::cidr::Cidr;
use naka_types::host::Host;

/// The sound routes of a list; whether one was written at all is the caller's to see.
pub(super) fn routes(
    report: &mut Report,
    spec: &Node,
    tls: bool,
    hosts: &[Host],
    namespace: &str,
) -> Vec<BytesRoute> {
    let list = if tls { "tls" } else { "tcp" };
    let entries = spec.get(list).map(Node::items).unwrap_or_default();
    let mut out = Vec::new();
    for (index, node) in entries.iter().enumerate() {
        let at = format!("spec.{list}[{index}]");
        let route = route(report, node, &at, (index, tls), hosts, namespace);
        out.extend(route.filter(|_| report.sound(&at)));
    }
    out
}

fn route(
    report: &mut Report,
    node: &Node,
    at: &str,
    (index, tls): (usize, bool),
    hosts: &[Host],
    namespace: &str,
) -> Option<BytesRoute> {
    let mut matches = Vec::new();
    for (number, item) in node
        .get("match")
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let at = format!("{at}.match[{number}]");
        matches.push(condition(report, item, &at, hosts, namespace));
    }
    let Some(route) = node.get("route") else {
        report.error(
            codes::E006,
            &format!("{at}.route"),
            node.place,
            "a route of connections needs route".to_owned(),
            "add route: with a destination".to_owned(),
        );
        return None;
    };
    let destinations = actions::destinations(report, route, &format!("{at}.route"), namespace)?;
    Some(BytesRoute {
        index,
        tls,
        matches,
        destinations,
    })
}

fn condition(
    report: &mut Report,
    node: &Node,
    at: &str,
    hosts: &[Host],
    namespace: &str,
) -> BytesMatch {
    BytesMatch {
        sni_hosts: names(report, node, at, hosts),
        destinations: ranges(report, node, at, "destinationSubnets"),
        port: read::port(node.get("port")),
        sources: ranges(report, node, at, "sourceSubnet"),
        source_labels: labels(node.get("sourceLabels")),
        source_namespace: read::text(node.get("sourceNamespace")),
        gateways: gateways(
            report,
            node.get("gateways"),
            &format!("{at}.gateways"),
            namespace,
        ),
    }
}

/// Server names. Each must lie within a host of the object, as Istio asks; else a route could take what was not given
/// to its object.
fn names(report: &mut Report, node: &Node, at: &str, hosts: &[Host]) -> Vec<Host> {
    let Some(list) = node.get("sniHosts") else {
        return Vec::new();
    };
    let mut out = Vec::new();
    for (index, item) in list.items().iter().enumerate() {
        let at = format!("{at}.sniHosts[{index}]");
        let Some(text) = item.text() else { continue };
        let Ok(name) = Host::parse(text) else {
            report.invalid(
                &at,
                item,
                format!("{text:?} is no server name"),
                "write a name such as shop.example.com or *.example.com".to_owned(),
            );
            continue;
        };
        if !hosts.iter().any(|host| within(&name, host)) {
            report.invalid(
                &at,
                item,
                format!("{text:?} lies in none of spec.hosts"),
                "add it to spec.hosts, or correct it".to_owned(),
            );
            continue;
        }
        out.push(name);
    }
    if list.items().is_empty() {
        report.error(
            codes::E006,
            &format!("{at}.sniHosts"),
            node.place,
            "sniHosts is empty".to_owned(),
            "write the server names".to_owned(),
        );
    }
    out
}

/// Whether every name of `narrow` is one of `wide`.
fn within(narrow: &Host, wide: &Host) -> bool {
    let both = overlap(narrow.as_str(), wide.as_str());
    both && (!narrow.is_wildcard()
        || wide.is_wildcard() && narrow.as_str().len() >= wide.as_str().len())
}

fn ranges(report: &mut Report, node: &Node, at: &str, key: &str) -> Vec<Cidr> {
    let Some(value) = node.get(key) else {
        return Vec::new();
    };
    let one = value.text().map(|_| std::slice::from_ref(value));
    let mut out = Vec::new();
    for (index, item) in one.unwrap_or(value.items()).iter().enumerate() {
        let Some(text) = item.text() else { continue };
        match Cidr::parse(text) {
            Ok(range) => out.push(range),
            Err(error) => {
                let at = match one {
                    Some(_) => format!("{at}.{key}"),
                    None => format!("{at}.{key}[{index}]"),
                };
                report.invalid(&at, item, error.to_string(), "write 10.0.0.0/8".to_owned());
            }
        }
    }
    out
}
