//! The typed Sidecar from a checked tree.

use super::{
    Bind, Capture, Egress, EgressHost, EgressProxy, Ingress, ListenerPort, Outside, Program,
    Sidecar, Within,
};
use crate::codes;
use crate::decode::Report;
use crate::decode::meta::labels;
use crate::networking::destination_rule::build::pool::build as pool;
use crate::networking::gateway::{TlsMode, server_tls};
use crate::networking::read;
use crate::tree::Node;
use naka_types::host::{Host, check_label};
use naka_types::protocol::Protocol;
use std::net::{IpAddr, SocketAddr};

const UNIX: &str = "unix://";

/// Builds. A pattern that cannot be read is left out, so that less may be called, not more; so is a listener that
/// cannot be had as it is written.
pub(crate) fn build(report: &mut Report, spec: &Node, namespace: &str) -> Sidecar {
    let entries = |key: &str| spec.get(key).map(Node::items).filter(|all| !all.is_empty());
    let egress = entries("egress").map(|listeners| {
        let all = listeners.iter().enumerate();
        all.filter_map(|(index, node)| egress(report, node, index, namespace))
            .collect()
    });
    let mut ingress: Vec<Ingress> = Vec::new();
    let listeners = entries("ingress").unwrap_or_default().iter().enumerate();
    for (index, node) in listeners {
        let at = format!("spec.ingress[{index}]");
        let Some(one) = self::ingress(report, node, &at).filter(|_| report.sound(&at)) else {
            continue;
        };
        if ingress
            .iter()
            .any(|known| known.port.number == one.port.number)
        {
            let message = format!("port {} is served by an entry before", one.port.number);
            let at = format!("{at}.port.number");
            report.invalid(&at, node, message, "merge the two".to_owned());
            continue;
        }
        ingress.push(one);
    }
    Sidecar {
        selector: spec
            .get("workloadSelector")
            .map(|selector| labels(selector.get("labels"))),
        ingress,
        egress,
        pool: spec
            .get("inboundConnectionPool")
            .map(|node| pool(report, node, "spec.inboundConnectionPool")),
        outside: spec
            .get("outboundTrafficPolicy")
            .map(|node| outside(report, node, namespace)),
    }
}

/// `named`: where no protocol is written the name says it.
fn port(node: Option<&Node>, named: bool) -> Option<ListenerPort> {
    let node = node?;
    let name = read::text(node.get("name")).unwrap_or_default();
    let word = read::text(node.get("protocol")).filter(|word| !word.is_empty());
    let says = named.then_some(name.as_str());
    Some(ListenerPort {
        number: u16::try_from(read::count(node.get("number")).unwrap_or(0)).ok()?,
        protocol: Protocol::declared(says, word.as_deref()),
        name,
    })
}

fn capture(node: &Node) -> Capture {
    match node.get("captureMode").and_then(Node::text) {
        Some("NONE") => Capture::None,
        Some("IPTABLES") => Capture::Rules,
        _ => Capture::Default,
    }
}

fn ingress(report: &mut Report, node: &Node, at: &str) -> Option<Ingress> {
    let port = port(node.get("port"), true).filter(|port| port.number > 0);
    let Some(port) = port else {
        let message = "a port served has a number from 1 to 65535".to_owned();
        let fix = "write the port that callers mean".to_owned();
        report.invalid(&format!("{at}.port.number"), node, message, fix);
        return None;
    };
    let bind = read::text(node.get("bind")).map(|text| text.parse::<IpAddr>().map_err(|_| text));
    let bind = match bind {
        Some(Err(text)) => {
            let message = format!("{text:?} is no IP address");
            let fix = "write an address of the workload's machine, or leave it out".to_owned();
            report.invalid(&format!("{at}.bind"), node, message, fix);
            None
        }
        Some(Ok(ip)) => Some(ip),
        None => None,
    };
    let endpoint = match read::text(node.get("defaultEndpoint")) {
        None => Some(Program::Same),
        Some(text) => program(&text).or_else(|| {
            let message = format!("{text:?} is no place of the workload's own program");
            let fix = "write 127.0.0.1:PORT, [::1]:PORT, 0.0.0.0:PORT, [::]:PORT or unix:///PATH";
            report.invalid(
                &format!("{at}.defaultEndpoint"),
                node,
                message,
                fix.to_owned(),
            );
            None
        }),
    };
    let tls = node.get("tls").map(|tls| {
        let at = format!("{at}.tls");
        let built = server_tls(report, tls, &at);
        if !matches!(built.mode, TlsMode::Simple | TlsMode::Mutual) {
            let message = "a sidecar takes TLS of mode SIMPLE or MUTUAL".to_owned();
            let fix = "write one of them; mesh identities are asked for by PeerAuthentication";
            report.invalid(&format!("{at}.mode"), tls, message, fix.to_owned());
        }
        Box::new(built)
    });
    Some(Ingress {
        port,
        bind,
        capture: capture(node),
        endpoint: endpoint?,
        tls,
        pool: node
            .get("connectionPool")
            .map(|node| pool(report, node, &format!("{at}.connectionPool"))),
    })
}

/// `defaultEndpoint`: of this workload and of nobody else.
fn program(text: &str) -> Option<Program> {
    if let Some(path) = text.strip_prefix(UNIX) {
        return path
            .starts_with('/')
            .then(|| Program::Unix(path.to_owned()));
    }
    let address: SocketAddr = text.parse().ok()?;
    match (address.ip(), address.port()) {
        (_, 0) => None,
        (ip, _) if ip.is_loopback() => Some(Program::Loopback(address)),
        (ip, port) if ip.is_unspecified() => Some(Program::Instance(port)),
        _ => None,
    }
}

fn egress(report: &mut Report, node: &Node, index: usize, namespace: &str) -> Option<Egress> {
    let at = format!("spec.egress[{index}]");
    let mut hosts = Vec::new();
    let all = node.get("hosts").map(Node::items).unwrap_or_default();
    for (place, node) in all.iter().enumerate() {
        hosts.extend(pattern(
            report,
            node,
            &format!("{at}.hosts[{place}]"),
            namespace,
        ));
    }
    let text = read::text(node.get("bind"));
    let bind = text.as_ref().map(|text| match text.strip_prefix(UNIX) {
        Some(path) => {
            (path.starts_with(['/', '@']) && path.len() > 1).then(|| Bind::Unix(path.to_owned()))
        }
        None => text.parse().ok().map(Bind::Ip),
    });
    let (port, capture) = (port(node.get("port"), false), capture(node));
    let wrong = match (&bind, &port) {
        (Some(None), _) => Some("bind is neither an IP address nor unix:///PATH or unix://@NAME"),
        (Some(Some(_)), None) => Some("a listener with bind needs a port"),
        (Some(Some(Bind::Unix(_))), Some(port)) if port.number > 0 => {
            Some("a Unix socket goes with port number 0")
        }
        (Some(Some(Bind::Unix(_))), _) if capture == Capture::Rules => {
            Some("calls of a Unix socket are not captured by rules")
        }
        (Some(Some(Bind::Ip(_))) | None, Some(port)) if port.number == 0 => {
            Some("port number 0 goes with bind: unix:///PATH")
        }
        _ => None,
    };
    if let Some(wrong) = wrong {
        let fix = "give the entry a port number and an address, or port 0 and a Unix socket";
        report.invalid(&at, node, wrong.to_owned(), fix.to_owned());
        return None;
    }
    Some(Egress {
        index,
        port,
        bind: bind.flatten(),
        capture,
        hosts,
    })
}

fn pattern(report: &mut Report, node: &Node, at: &str, own: &str) -> Option<EgressHost> {
    let text = node.text()?;
    let wrong = |report: &mut Report, why: String| {
        report.error(
            codes::L347,
            at,
            node.place,
            format!("{text:?} {why}: nothing is meant by it"),
            "write namespace/host, for example ./* or prod/*.example.com".to_owned(),
        );
        None
    };
    let Some((namespace, host)) = text.split_once('/') else {
        return wrong(report, "names no namespace".to_owned());
    };
    let within = match namespace {
        "*" => Within::Any,
        "~" => Within::Nowhere,
        "." => Within::Namespace(own.to_owned()),
        name if check_label(name).is_ok() => Within::Namespace(name.to_owned()),
        other => return wrong(report, format!("has {other:?} for a namespace")),
    };
    // Short names are of the namespace that is named.
    let of = match &within {
        Within::Namespace(name) => name.as_str(),
        Within::Any | Within::Nowhere => own,
    };
    match Host::resolve(host, of) {
        Ok(host) => Some(EgressHost {
            namespace: within,
            host,
        }),
        Err(error) => wrong(report, format!("has no host ({error})")),
    }
}

fn outside(report: &mut Report, node: &Node, namespace: &str) -> Outside {
    let at = "spec.outboundTrafficPolicy.egressProxy";
    let proxy = node.get("egressProxy").and_then(|proxy| {
        let host = read::host(
            report,
            proxy.get("host"),
            &format!("{at}.host"),
            namespace,
            false,
        )?;
        Some(EgressProxy {
            host,
            subset: read::text(proxy.get("subset")),
            port: read::port(proxy.at(&["port", "number"])),
        })
    });
    Outside {
        // The block without a mode means ALLOW_ANY only when it says so: Istio's enum begins with REGISTRY_ONLY.
        registry_only: node.get("mode").and_then(Node::text) != Some("ALLOW_ANY"),
        proxy,
    }
}
