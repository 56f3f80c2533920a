//! ServiceEntry and the ports between clusters: endpoints that several hosts share, services of the mesh declared as
//! foreign, addresses that mean nothing.

use super::items;
use crate::codes;
use crate::decode::Report;
use crate::tree::Node;

/// Port that clusters reach each other by.
const EAST_WEST: i64 = 15_443;

pub(super) fn service(report: &mut Report, spec: &Node) {
    let hosts = items(spec, "spec", "hosts");
    let endpoints = items(spec, "spec", "endpoints");
    let text = |node: &Node, field: &str| {
        let value = node.get(field).and_then(Node::text);
        value.unwrap_or_default().to_owned()
    };
    if hosts.len() > 1
        && let Some((at, first)) = endpoints.first()
    {
        let message = format!(
            "{} hosts share endpoints: calls of each of them go to all",
            hosts.len()
        );
        let fix = "write one ServiceEntry for each host".to_owned();
        report.error(codes::L333, at, first.place, message, fix);
    }
    let same = endpoints.iter().enumerate().find(|(index, (_, node))| {
        endpoints[..*index].iter().any(|(_, other)| {
            text(other, "address") == text(node, "address")
                && text(other, "network") != text(node, "network")
        })
    });
    if let Some((_, (at, node))) = same {
        let message = format!(
            "another endpoint has the same address {} in another network; without a gateway for each network both are the same",
            text(node, "address")
        );
        let fix = "write the address of that network's gateway".to_owned();
        report.error(codes::L334, at, node.place, message, fix);
    }
    let internal = endpoints
        .iter()
        .find(|(_, node)| text(node, "address").contains(".svc."));
    if let (Some(location), Some((_, node))) = (spec.get("location"), internal)
        && location.text() == Some("MESH_EXTERNAL")
    {
        let message = format!(
            "{} is a service of the mesh; MESH_EXTERNAL calls it without mTLS",
            text(node, "address")
        );
        let fix = "write location: MESH_INTERNAL".to_owned();
        report.error(codes::L335, "spec.location", location.place, message, fix);
    }
    let ports = items(spec, "spec", "ports");
    let opaque = ports.iter().find(|(_, port)| {
        let protocol = text(port, "protocol");
        !["", "HTTP", "HTTP2", "GRPC", "GRPC-WEB"].contains(&protocol.as_str())
    });
    let address = items(spec, "spec", "addresses");
    if let (Some((at, node)), Some((_, port))) = (address.first(), opaque)
        && hosts.len() > 1
    {
        let message = format!(
            "{} hosts have one address; on port {} nothing in the traffic tells which was meant",
            hosts.len(),
            port.get("number").and_then(Node::integer).unwrap_or(0)
        );
        let fix = "give each host an address of its own".to_owned();
        report.error(codes::L336, at, node.place, message, fix);
    }
}

pub(super) fn gateway(report: &mut Report, spec: &Node) {
    for (at, server) in items(spec, "spec", "servers") {
        let number = server.at(&["port", "number"]).and_then(Node::integer);
        let mode = server.at(&["tls", "mode"]);
        if let Some(mode) = mode.filter(|mode| mode.text() == Some("ISTIO_MUTUAL"))
            && number == Some(EAST_WEST)
        {
            report.error(
                codes::L331,
                &format!("{at}.tls.mode"),
                mode.place,
                "ISTIO_MUTUAL ends TLS at this gateway; calls between clusters pass through it"
                    .to_owned(),
                "write mode: AUTO_PASSTHROUGH".to_owned(),
            );
        }
    }
}
