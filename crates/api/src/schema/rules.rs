//! What Istio's CRDs demand beyond names and types, for the kinds whose fields are checked and kept: fields that
//! exclude each other, addresses and ports that fit the way endpoints are found.
//!
//! Kinds that are in force are judged where they are built; a finding here puts the whole object out of force, as an API
//! server with these CRDs would refuse it.

use crate::decode::Report;
use crate::kind::Kind;
use crate::tree::{Data, Node, join};
use std::collections::BTreeSet;

/// Checks an object whose fields have been walked.
pub(crate) fn check(report: &mut Report, object: &Node, kind: Kind) {
    let Some(spec) = object.get("spec") else {
        return;
    };
    match kind {
        Kind::ServiceEntry => service_entry(report, spec),
        Kind::WorkloadGroup => workload_group(report, spec),
        Kind::Sidecar => sidecar(report, spec),
        Kind::EnvoyFilter => attached(report, spec, "workloadSelector"),
        Kind::WasmPlugin => {
            attached(report, spec, "selector");
            module(report, spec, "spec");
        }
        Kind::TrafficExtension => {
            attached(report, spec, "selector");
            one_of(report, spec, "spec", &["wasm", "lua"]);
            if let Some(wasm) = spec.get("wasm") {
                module(report, wasm, "spec.wasm");
            }
        }
        Kind::AuthorizationPolicy | Kind::RequestGuard | Kind::Telemetry => {
            attached(report, spec, "selector")
        }
        Kind::RequestAuthentication => {
            attached(report, spec, "selector");
            for (at, rule) in items(spec, "spec", "jwtRules") {
                exclusive(report, rule, &at, &["jwks", "jwksUri", "jwks_uri"]);
            }
        }
        _ => {}
    }
}

fn set(node: &Node, field: &str) -> bool {
    node.get(field)
        .is_some_and(|value| value.data != Data::Null)
}

/// Items of a list with their paths.
fn items<'n>(node: &'n Node, path: &str, field: &str) -> Vec<(String, &'n Node)> {
    let at = join(path, field);
    let all = node.get(field).map(Node::items).unwrap_or_default();
    let place = |(index, item)| (format!("{at}[{index}]"), item);
    all.iter().enumerate().map(place).collect()
}

/// At most one of some fields; the later ones are named.
fn exclusive(report: &mut Report, node: &Node, path: &str, fields: &[&str]) {
    let given: Vec<&str> = fields
        .iter()
        .copied()
        .filter(|field| set(node, field))
        .collect();
    let [first, others @ ..] = given.as_slice() else {
        return;
    };
    for field in others {
        if let Some(value) = node.get(field) {
            report.invalid(
                &join(path, field),
                value,
                format!("{field} and {first} are both set; only one of them may be"),
                format!("keep {first} or {field}"),
            );
        }
    }
}

/// Exactly one of some fields.
fn one_of(report: &mut Report, node: &Node, path: &str, fields: &[&str]) {
    exclusive(report, node, path, fields);
    if !fields.iter().any(|field| set(node, field)) {
        let all = fields.join(" or ");
        report.invalid(
            path,
            node,
            format!("{all} is required"),
            format!("add {all}"),
        );
    }
}

/// What a policy is for: by labels or by references, not both; labels are written out.
fn attached(report: &mut Report, spec: &Node, selector: &str) {
    exclusive(report, spec, "spec", &[selector, "targetRef", "targetRefs"]);
    labels(report, spec, selector);
}

fn labels(report: &mut Report, spec: &Node, selector: &str) {
    let inside = ["matchLabels", "labels"];
    for field in inside {
        let Some(map) = spec.get(selector).and_then(|node| node.get(field)) else {
            continue;
        };
        let path = format!("spec.{selector}.{field}");
        for entry in map.entries() {
            let starred =
                entry.key.contains('*') || entry.value.text().is_some_and(|v| v.contains('*'));
            if starred || entry.key.is_empty() {
                report.invalid(
                    &join(&path, &entry.key),
                    &entry.value,
                    "a selector has no wildcards and no empty names".to_owned(),
                    "write the label and its value in full".to_owned(),
                );
            }
        }
    }
}

/// A module of WebAssembly: where it is from, and its environment.
fn module(report: &mut Report, node: &Node, path: &str) {
    if let Some(url) = node.get("url")
        && let Some((scheme, _)) = url.text().and_then(|text| text.split_once("://"))
        && !["http", "https", "file", "oci"].contains(&scheme)
    {
        report.invalid(
            &join(path, "url"),
            url,
            format!("a module cannot be fetched by {scheme}"),
            "write a URL of http, https, file or oci".to_owned(),
        );
    }
    let Some(machine) = node.get("vmConfig") else {
        return;
    };
    for (at, variable) in items(machine, &join(path, "vmConfig"), "env") {
        let host = variable.get("valueFrom").and_then(Node::text) == Some("HOST");
        if let Some(value) = variable.get("value").filter(|_| host) {
            report.invalid(
                &join(&at, "value"),
                value,
                "a value is given, and is to come from the host".to_owned(),
                "remove value, or write valueFrom: INLINE".to_owned(),
            );
        }
    }
}

/// An endpoint: a socket has a path and no ports.
fn endpoint(report: &mut Report, node: &Node, path: &str) {
    let Some(address) = node.get("address") else {
        return;
    };
    let Some(socket) = address.text().and_then(|text| text.strip_prefix("unix://")) else {
        return;
    };
    if !socket.starts_with(['/', '@']) || socket.ends_with('/') {
        report.invalid(
            &join(path, "address"),
            address,
            "this is no path of a socket".to_owned(),
            "write unix:///absolute/path".to_owned(),
        );
    }
    if let Some(ports) = node.get("ports") {
        report.invalid(
            &join(path, "ports"),
            ports,
            "a Unix socket has no ports".to_owned(),
            "remove ports".to_owned(),
        );
    }
}

fn service_entry(report: &mut Report, spec: &Node) {
    exclusive(report, spec, "spec", &["workloadSelector", "endpoints"]);
    labels(report, spec, "workloadSelector");
    for (at, host) in items(spec, "spec", "hosts") {
        if host.text() == Some("*") {
            let fix = "name the hosts, for example *.example.com".to_owned();
            report.invalid(&at, host, "a host cannot be everything".to_owned(), fix);
        }
    }
    let resolution = spec
        .get("resolution")
        .and_then(Node::text)
        .unwrap_or("NONE");
    let endpoints = items(spec, "spec", "endpoints");
    let too_many = match resolution {
        "NONE" => endpoints.first(),
        "DNS_ROUND_ROBIN" => endpoints.get(1),
        _ => None,
    };
    if let Some((at, node)) = too_many {
        let message = format!("resolution {resolution} takes no such endpoint as {at}");
        let fix = "remove it, or write resolution: STATIC".to_owned();
        // Of the whole object: which of the two was meant cannot be known.
        report.invalid(
            "spec.resolution",
            spec.get("resolution").unwrap_or(node),
            message,
            fix,
        );
    }
    for (at, node) in &endpoints {
        endpoint(report, node, at);
        if !set(node, "address") && !set(node, "network") {
            report.invalid(
                &join(at, "address"),
                node,
                "an endpoint has an address or a network".to_owned(),
                "add address".to_owned(),
            );
        }
    }
    for (at, address) in items(spec, "spec", "addresses") {
        let block = address.text().is_some_and(|text| text.contains('/'));
        if block && !["NONE", "STATIC"].contains(&resolution) {
            let message = format!("resolution {resolution} takes single addresses only");
            let fix = "write addresses without a length".to_owned();
            report.invalid(&at, address, message, fix);
        }
    }
    let mut numbers = BTreeSet::new();
    let mut names = BTreeSet::new();
    for (at, port) in items(spec, "spec", "ports") {
        let number = port.get("number").and_then(Node::integer);
        let name = port.get("name").and_then(Node::text);
        let again = number.is_some_and(|number| !numbers.insert(number))
            || name.is_some_and(|name| !names.insert(name.to_owned()));
        if again {
            let message = "an earlier port has this number or name".to_owned();
            report.invalid(&at, port, message, "keep one of the two".to_owned());
        }
    }
}

fn workload_group(report: &mut Report, spec: &Node) {
    if let Some(template) = spec.get("template") {
        endpoint(report, template, "spec.template");
    }
    let Some(probe) = spec.get("probe") else {
        return;
    };
    let ways = ["httpGet", "tcpSocket", "exec", "grpc"];
    exclusive(report, probe, "spec.probe", &ways);
    let scheme = probe.get("httpGet").and_then(|get| get.get("scheme"));
    if let Some(scheme) = scheme
        && scheme
            .text()
            .is_some_and(|text| !["", "HTTP", "HTTPS"].contains(&text))
    {
        let message = "a probe is made by HTTP or HTTPS".to_owned();
        let fix = "write HTTP or HTTPS".to_owned();
        report.invalid("spec.probe.httpGet.scheme", scheme, message, fix);
    }
}

fn sidecar(report: &mut Report, spec: &Node) {
    labels(report, spec, "workloadSelector");
    for (at, ingress) in items(spec, "spec", "ingress") {
        if let Some(tls) = ingress.get("tls") {
            let sources = ["credentialName", "credentialNames", "tlsCertificates"];
            exclusive(report, tls, &join(&at, "tls"), &sources);
        }
    }
}
