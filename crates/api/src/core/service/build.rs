//! The typed Service from a checked tree.

use super::{Service, ServicePort, TargetPort};
use crate::codes;
use crate::decode::Report;
use crate::decode::meta::labels;
use crate::networking::read;
use crate::tree::Node;
use naka_types::protocol::Protocol;
use std::net::IpAddr;

/// Builds. Ports with an error are left out.
pub(crate) fn build(report: &mut Report, spec: &Node) -> Service {
    if let Some(node) = spec
        .get("type")
        .filter(|node| node.text() == Some("ExternalName"))
    {
        report.error(
            codes::E901,
            "spec.type",
            node.place,
            "ExternalName is not enforced yet, and calls would go to other endpoints".to_owned(),
            "use a WorkloadEntry with the address and a selector".to_owned(),
        );
    }
    let items = spec.get("ports").map(Node::items).unwrap_or_default();
    let mut ports: Vec<ServicePort> = Vec::new();
    for (index, node) in items.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        let Some(port) = port(report, node, &at, index) else {
            continue;
        };
        if items.len() > 1 && port.name.is_empty() {
            report.error(
                codes::E006,
                &format!("{at}.name"),
                node.place,
                "name is required when a service has several ports".to_owned(),
                "add name: http or the like".to_owned(),
            );
        }
        if ports.iter().any(|other| other.port == port.port) {
            report.invalid(
                &format!("{at}.port"),
                node,
                format!("port {} is defined twice", port.port),
                "keep one of them".to_owned(),
            );
        }
        if ports
            .iter()
            .any(|other| !port.name.is_empty() && other.name == port.name)
        {
            report.invalid(
                &format!("{at}.name"),
                node,
                format!("port name {} is used twice", port.name),
                "give each port a name of its own".to_owned(),
            );
        }
        if report.sound(&at) {
            ports.push(port);
        }
    }
    Service {
        selector: labels(spec.get("selector")),
        ports,
        external_ips: external(report, spec),
    }
}

fn external(report: &mut Report, spec: &Node) -> Vec<IpAddr> {
    let items = spec.get("externalIPs").map(Node::items);
    let mut all = Vec::new();
    for (index, node) in items.unwrap_or_default().iter().enumerate() {
        match node.text().and_then(|text| text.parse().ok()) {
            Some(ip) => all.push(ip),
            None => report.invalid(
                &format!("spec.externalIPs[{index}]"),
                node,
                "this is no IP address".to_owned(),
                "write an address such as 192.0.2.1".to_owned(),
            ),
        }
    }
    all
}

fn port(report: &mut Report, node: &Node, at: &str, index: usize) -> Option<ServicePort> {
    if let Some(transport) = node
        .get("protocol")
        .filter(|node| matches!(node.text(), Some("UDP" | "SCTP")))
    {
        report.error(
            codes::E901,
            &format!("{at}.protocol"),
            transport.place,
            "only TCP is carried yet, and calls to this port would go around the mesh".to_owned(),
            "remove the port".to_owned(),
        );
    }
    let port = read::port(node.get("port"))?;
    let target = match node.get("targetPort") {
        None => TargetPort::Number(port),
        Some(target) => match (
            target
                .integer()
                .and_then(|n| u16::try_from(n).ok())
                .filter(|n| *n > 0),
            target.text(),
        ) {
            (Some(number), _) => TargetPort::Number(number),
            (None, Some(name)) if !name.is_empty() && name.len() <= 63 => {
                TargetPort::Name(name.to_owned())
            }
            _ => {
                report.invalid(
                    &format!("{at}.targetPort"),
                    target,
                    "no port".to_owned(),
                    "write a number from 1 to 65535 or a port name".to_owned(),
                );
                return None;
            }
        },
    };
    let name = read::text(node.get("name")).unwrap_or_default();
    let app = read::text(node.get("appProtocol"));
    let protocol = Protocol::declared(
        Some(name.as_str()).filter(|name| !name.is_empty()),
        app.as_deref(),
    );
    Some(ServicePort {
        index,
        name,
        port,
        target,
        protocol,
    })
}
