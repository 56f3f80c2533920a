//! The typed MeshConfig from the text in its ConfigMap.

use super::fields::{BY_GRPC, BY_HTTP};
use super::{BodyInCheck, HttpCheck, KEY, MeshConfig, Provider, Speaks, TIMEOUT};
use crate::codes;
use crate::decode::{Mode, Report};
use crate::networking::read::{duration, is_header_name};
use crate::schema::{TEXTS, walk};
use crate::security::authorization_policy::Text;
use crate::tree::{self, Data, Node, Place, Problem, join};
use naka_types::host::Host;
use naka_types::spiffe::SpiffeId;
use std::collections::{BTreeMap, BTreeSet};

/// Options that are read.
const READ: [&str; 2] = ["extensionProviders", "trustDomainAliases"];
/// Path of the aliases in the ConfigMap.
const ALIASES: &str = "data.mesh.trustDomainAliases";
/// Path of the providers in the ConfigMap.
const PROVIDERS: &str = "data.mesh.extensionProviders";
/// Status of an answer where a provider does not say.
const FORBIDDEN: u16 = 403;

/// Builds from the whole ConfigMap.
pub(crate) fn build(report: &mut Report, config_map: &Node) -> MeshConfig {
    let mut out = MeshConfig::default();
    let Some(text) = config_map.at(&["data", KEY]) else {
        return out;
    };
    let Some(root) = read(report, text) else {
        return out;
    };
    for entry in root.entries() {
        if !READ.contains(&entry.key.as_str()) {
            let at = join("data.mesh", &entry.key);
            unread(report, &at, entry.place, "this option of the MeshConfig");
        }
    }
    out.trust_domain_aliases = aliases(report, &root);
    let all = root.get("extensionProviders");
    if let Some(node) = all.filter(|node| !matches!(node.data, Data::List(_) | Data::Null)) {
        let (what, fix) = (node.what(), "write a list of providers".to_owned());
        let message = format!("wants a list, found {what}");
        report.error(codes::E003, "data.mesh", node.place, message, fix);
    }
    let mut names = BTreeSet::new();
    for (index, node) in all.map(Node::items).unwrap_or_default().iter().enumerate() {
        let at = format!("{PROVIDERS}[{index}]");
        let Some((name, provider)) = entry(report, &at, node) else {
            continue;
        };
        if !names.insert(name.clone()) {
            // Which of them was meant nobody knows.
            out.providers.remove(&name);
            let message = format!("{name:?} is the name of another provider: neither is in force");
            let fix = "give each its own".to_owned();
            report.invalid(&join(&at, "name"), node, message, fix);
        } else if report.sound(&at) {
            out.providers.insert(name, provider);
        }
    }
    out
}

/// Other names of the trust domain. One that is none, or is written twice, is left out alone.
fn aliases(report: &mut Report, root: &Node) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let Some(all) = root.get("trustDomainAliases") else {
        return out;
    };
    walk::value(report, all, TEXTS, ALIASES);
    for (index, item) in all.items().iter().enumerate() {
        let at = format!("{ALIASES}[{index}]");
        let Some(text) = item.text() else {
            continue;
        };
        if SpiffeId::new(text, "default", "default").is_err() {
            report.invalid(
                &at,
                item,
                format!("{text:?} is no trust domain"),
                "write a name in small letters, such as old.example.com".to_owned(),
            );
        } else if out.iter().any(|known| known == text) {
            let message = format!("{text:?} is written twice: once is enough");
            report.error(
                codes::L383,
                &at,
                item.place,
                message,
                "remove one of them".to_owned(),
            );
        } else {
            out.push(text.to_owned());
        }
    }
    out
}

/// The text as a tree, whose places are those of the file as far as that is known.
fn read(report: &mut Report, text: &Node) -> Option<Node> {
    let place = text.place;
    let mut documents = tree::read(text.text()?.as_bytes()).into_iter();
    let document = documents.next()?;
    for problem in &document.problems {
        let (at, message) = match problem {
            Problem::Broken { place, message } => (*place, message.clone()),
            Problem::Duplicate { place, field, .. } => {
                (*place, format!("{field} is written twice"))
            }
        };
        let fix = "correct the text at this line".to_owned();
        report.error(codes::E001, "data.mesh", moved(at, place), message, fix);
    }
    let mut root = document.root?;
    shift(&mut root, place);
    Some(root)
}

/// A place in a text that begins at `base`.
fn moved(place: Place, base: Place) -> Place {
    match (base.line, place.line) {
        (0, _) => Place::default(),
        (line, 0) => Place { line, column: 0 },
        (line, inner) => Place {
            line: line.saturating_add(inner - 1),
            column: 0,
        },
    }
}

fn shift(node: &mut Node, base: Place) {
    node.place = moved(node.place, base);
    match &mut node.data {
        Data::List(items) => items.iter_mut().for_each(|item| shift(item, base)),
        Data::Map(entries) => {
            for entry in entries {
                entry.place = moved(entry.place, base);
                shift(&mut entry.value, base);
            }
        }
        _ => {}
    }
}

fn unread(report: &mut Report, at: &str, place: Place, what: &str) {
    let message = format!("{what} is not read: it does nothing");
    let fix = "nothing to change; do not rely on it today".to_owned();
    report.error(codes::W900, at, place, message, fix);
}

/// A provider with its name; `None`: it is none that can be asked.
fn entry(report: &mut Report, at: &str, node: &Node) -> Option<(String, Provider)> {
    let name = node.get("name").and_then(Node::text).unwrap_or_default();
    if name.is_empty() {
        let fix = "add name".to_owned();
        let message = "a provider without name can be named by nobody".to_owned();
        report.error(codes::E006, &join(at, "name"), node.place, message, fix);
    }
    let mut found = None;
    for kind in node.entries() {
        let inner = join(at, &kind.key);
        let read = match kind.key.as_str() {
            "name" => continue,
            "envoyExtAuthzHttp" => by_http(report, &inner, &kind.value),
            "envoyExtAuthzGrpc" => by_grpc(report, &inner, &kind.value),
            _ => {
                unread(report, &inner, kind.place, "a provider of this kind");
                continue;
            }
        };
        found = found.or(read);
    }
    Some((name.to_owned(), found?))
}

fn by_grpc(report: &mut Report, at: &str, node: &Node) -> Option<Provider> {
    walk::value(report, node, BY_GRPC, at);
    provider(report, at, node, Speaks::Grpc)
}

fn by_http(report: &mut Report, at: &str, node: &Node) -> Option<Provider> {
    walk::value(report, node, BY_HTTP, at);
    let text = |field: &str| node.get(field).and_then(Node::text).unwrap_or_default();
    let prefix = text("pathPrefix");
    if !prefix.is_empty() && !sound_prefix(prefix) {
        report.invalid(
            &join(at, "pathPrefix"),
            node,
            format!("{prefix:?} is no beginning of a path"),
            "write a path with a slash at its beginning, such as /check".to_owned(),
        );
    }
    let mut request_headers = patterns(report, at, node, "includeRequestHeadersInCheck");
    if let Some(old) = node.get("includeHeadersInCheck") {
        let code = match report.mode {
            Mode::Compat => codes::W114,
            Mode::Strict => codes::E114,
        };
        let message =
            "deprecated, read as includeRequestHeadersInCheck unless that is set too".to_owned();
        let fix = "write includeRequestHeadersInCheck".to_owned();
        let field = join(at, "includeHeadersInCheck");
        report.error(code, &field, old.place, message, fix);
        if request_headers.is_empty() {
            request_headers = patterns(report, at, node, "includeHeadersInCheck");
        }
    }
    let added = added(report, at, node);
    let check = HttpCheck {
        path_prefix: prefix.to_owned(),
        request_headers,
        added,
        upstream_on_allow: patterns(report, at, node, "headersToUpstreamOnAllow"),
        downstream_on_deny: patterns(report, at, node, "headersToDownstreamOnDeny"),
        downstream_on_allow: patterns(report, at, node, "headersToDownstreamOnAllow"),
    };
    provider(report, at, node, Speaks::Http(Box::new(check)))
}

/// What cannot change the meaning of the path behind it.
fn sound_prefix(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#\\%".contains(&byte);
    text.starts_with('/')
        && text.bytes().all(plain)
        && text.split('/').all(|part| part != ".." && part != ".")
}

/// What both kinds have.
fn provider(report: &mut Report, at: &str, node: &Node, speaks: Speaks) -> Option<Provider> {
    let text = |field: &str| node.get(field).and_then(Node::text).unwrap_or_default();
    let (namespace, service) = match text("service").split_once('/') {
        Some((namespace, service)) => (Some(namespace.to_owned()), service),
        None => (None, text("service")),
    };
    let service = host(report, at, node, service);
    let port = port(report, at, node);
    let status = match text("statusOnError") {
        "" => Some(FORBIDDEN),
        text => text.parse().ok().filter(|code| (200..=599).contains(code)),
    };
    if status.is_none() {
        report.invalid(
            &join(at, "statusOnError"),
            node,
            format!("{:?} is no status of an answer", text("statusOnError")),
            "write a status as text, such as \"503\"".to_owned(),
        );
    }
    let truth = |field: &str| node.get(field).and_then(Node::truth).unwrap_or(false);
    let body = node.get("includeRequestBodyInCheck").and_then(|body| {
        let truth = |field: &str| body.get(field).and_then(Node::truth).unwrap_or(false);
        let most = body.get("maxRequestBytes").and_then(Node::integer)?;
        Some(BodyInCheck {
            most: u32::try_from(most).ok()?,
            partial: truth("allowPartialMessage"),
            as_bytes: truth("packAsBytes"),
        })
    });
    Some(Provider {
        namespace,
        service: service?,
        port: port?,
        timeout: duration(node.get("timeout")).unwrap_or(TIMEOUT),
        fail_open: truth("failOpen"),
        status_on_error: status?,
        body,
        speaks,
    })
}

/// A provider is a service of the mesh, so that nobody is asked whom the mesh does not know.
fn host(report: &mut Report, at: &str, node: &Node, text: &str) -> Option<Host> {
    if text.is_empty() {
        return None;
    }
    let sound = Host::parse(text).ok().filter(|host| {
        let name = host.as_str();
        let local = name == "localhost" || name.ends_with(".localhost");
        !host.is_wildcard() && !local && name.parse::<std::net::IpAddr>().is_err()
    });
    if sound.is_none() {
        report.invalid(
            &join(at, "service"),
            node,
            format!("{text:?} is no host of a service"),
            "write the host of a service of the mesh, such as authz.default.svc.cluster.local; for anything else declare a ServiceEntry and write its host".to_owned(),
        );
    }
    sound
}

fn port(report: &mut Report, at: &str, node: &Node) -> Option<u16> {
    let given = node.get("port")?;
    let number = given.integer().or_else(|| given.text()?.parse().ok());
    let port = number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|port| *port > 0);
    if port.is_none() {
        let fix = "write a number from 1 to 65535".to_owned();
        let message = "this is no port".to_owned();
        report.invalid(&join(at, "port"), given, message, fix);
    }
    port
}

/// Names of headers: whole, `begin*` or `*end`.
fn patterns(report: &mut Report, at: &str, node: &Node, field: &str) -> Vec<Text> {
    let at = join(at, field);
    let items = node.get(field).map(Node::items).unwrap_or_default();
    let mut out = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let text = item.text().unwrap_or_default().to_ascii_lowercase();
        let pattern = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(""), _) => Text::Present,
            (Some(end), _) => Text::Suffix(end.to_owned()),
            (None, Some(begin)) => Text::Prefix(begin.to_owned()),
            (None, None) => Text::Exact(text.clone()),
        };
        let bare = text.strip_prefix('*').unwrap_or(&text);
        let bare = bare.strip_suffix('*').unwrap_or(bare);
        let both = text.len() > 1 && text.starts_with('*') && text.ends_with('*');
        if text != "*" && (both || bare.contains('*') || !is_header_name(bare)) {
            report.invalid(
                &format!("{at}[{index}]"),
                item,
                format!("{text:?} is no name of a header"),
                "write a name, begin* or *end".to_owned(),
            );
            continue;
        }
        out.push(pattern);
    }
    out
}

fn added(report: &mut Report, at: &str, node: &Node) -> Vec<(String, String)> {
    let at = join(at, "includeAdditionalHeadersInCheck");
    let given = node.get("includeAdditionalHeadersInCheck");
    let mut out = BTreeMap::new();
    for entry in given.map(Node::entries).unwrap_or_default() {
        let value = entry.value.text().unwrap_or_default();
        let name = entry.key.to_ascii_lowercase();
        let sendable = value
            .bytes()
            .all(|byte| byte == b'\t' || (0x20..0x7f).contains(&byte));
        let framing = ["host", "content-length", "transfer-encoding", "connection"];
        if !is_header_name(&name) || !sendable || framing.contains(&name.as_str()) {
            report.invalid(
                &join(&at, &entry.key),
                &entry.value,
                format!("{:?} cannot be sent as a header", entry.key),
                "write a name of a header and a value in one line".to_owned(),
            );
            continue;
        }
        out.insert(name, value.to_owned());
    }
    out.into_iter().collect()
}

#[cfg(test)]
mod tests;
