//! The typed VirtualService from a checked tree.

use super::{Action, DelegateRef, GatewayRef, HttpMatch, HttpRoute, StringMatch, VirtualService};
use crate::codes;
use crate::decode::Report;
use crate::networking::{export, read};
use crate::tree::{Data, Node, join};
use naka_types::host::Host;
use naka_types::labels::Labels;

mod actions;
mod bytes;
mod policies;

/// Builds; `None` when nothing of it could be in force.
pub(crate) fn build(report: &mut Report, spec: &Node, namespace: &str) -> Option<VirtualService> {
    let hosts = hosts(report, spec, namespace);
    let gateways = gateways(report, spec.get("gateways"), "spec.gateways", namespace);
    if let (true, Some(bound)) = (hosts.is_empty(), spec.get("gateways")) {
        report.invalid(
            "spec.gateways",
            bound,
            "without hosts it is a delegate, and a delegate has no gateways".to_owned(),
            "add hosts, or remove gateways".to_owned(),
        );
    }
    let export = export::read(report, spec, namespace);
    let entries = spec.get("http").map(Node::items).unwrap_or_default();
    let mut http = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let at = format!("spec.http[{index}]");
        let route = route(report, entry, &at, index, namespace);
        if let Some(route) = route.filter(|_| report.sound(&at)) {
            http.push(route);
        }
    }
    let tls = bytes::routes(report, spec, true, &hosts, namespace);
    let tcp = bytes::routes(report, spec, false, &hosts, namespace);
    let written = |list: &str| spec.get(list).is_some_and(|list| !list.items().is_empty());
    let lost = [
        ("http", http.is_empty()),
        ("tls", tls.is_empty()),
        ("tcp", tcp.is_empty()),
    ];
    if lost.iter().any(|(list, empty)| *empty && written(list)) {
        // An object without any route would answer 404 to everything; the last good version is the better choice.
        return None;
    }
    Some(VirtualService {
        hosts,
        gateways: if gateways.is_empty() {
            vec![GatewayRef::Mesh]
        } else {
            gateways
        },
        export,
        http,
        tls,
        tcp,
    })
}

fn hosts(report: &mut Report, spec: &Node, namespace: &str) -> Vec<Host> {
    let mut out: Vec<Host> = Vec::new();
    for (index, node) in spec
        .get("hosts")
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let at = format!("spec.hosts[{index}]");
        if let Some(host) = read::host(report, Some(node), &at, namespace, true)
            && !out.contains(&host)
        {
            out.push(host);
        }
    }
    out
}

/// `mesh`, `name`, `namespace/name`, `name.namespace.svc…` (old).
fn gateways(
    report: &mut Report,
    list: Option<&Node>,
    at: &str,
    namespace: &str,
) -> Vec<GatewayRef> {
    let mut out = Vec::new();
    for (index, node) in list.map(Node::items).unwrap_or_default().iter().enumerate() {
        let Some(text) = node.text() else { continue };
        let gateway = match text.split_once('/') {
            _ if text == "mesh" => GatewayRef::Mesh,
            Some((ns, name)) if !ns.is_empty() && !name.is_empty() && !name.contains('/') => {
                GatewayRef::Named {
                    namespace: if ns == "." {
                        namespace.to_owned()
                    } else {
                        ns.to_owned()
                    },
                    name: name.to_owned(),
                }
            }
            None if !text.is_empty() => match text.split_once('.') {
                // Old form: a full name. Names of Gateways may hold dots, so only the whole suffix counts.
                Some((name, rest)) if rest.ends_with(".svc.cluster.local") => GatewayRef::Named {
                    namespace: rest.trim_end_matches(".svc.cluster.local").to_owned(),
                    name: name.to_owned(),
                },
                _ => GatewayRef::Named {
                    namespace: namespace.to_owned(),
                    name: text.to_owned(),
                },
            },
            _ => {
                report.invalid(
                    &format!("{at}[{index}]"),
                    node,
                    format!("{text:?} is not a gateway"),
                    "write mesh, name or namespace/name".to_owned(),
                );
                continue;
            }
        };
        out.push(gateway);
    }
    out
}

fn route(
    report: &mut Report,
    node: &Node,
    at: &str,
    index: usize,
    namespace: &str,
) -> Option<HttpRoute> {
    let mut matches = Vec::new();
    if let Some(list) = node.get("match") {
        for (number, item) in list.items().iter().enumerate() {
            matches.push(http_match(
                report,
                item,
                &format!("{at}.match[{number}]"),
                namespace,
            ));
        }
    }
    let present: Vec<&str> = ["route", "redirect", "directResponse", "delegate"]
        .into_iter()
        .filter(|key| node.get(key).is_some())
        .collect();
    let action = match present.as_slice() {
        ["route"] => actions::destinations(
            report,
            node.get("route")?,
            &format!("{at}.route"),
            namespace,
        )
        .map(Action::Route),
        ["redirect"] => actions::redirect(report, node.get("redirect")?, &format!("{at}.redirect"))
            .map(Action::Redirect),
        ["directResponse"] => actions::direct(
            report,
            node.get("directResponse")?,
            &format!("{at}.directResponse"),
        )
        .map(Action::Direct),
        ["delegate"] => node
            .get("delegate")
            .and_then(|to| delegate(report, to, &format!("{at}.delegate"), namespace))
            .map(Action::Delegate),
        [] => {
            report.error(
                codes::E006,
                &format!("{at}.route"),
                node.place,
                "a route needs one of route, redirect, directResponse, delegate".to_owned(),
                "add route: with a destination".to_owned(),
            );
            None
        }
        many => {
            report.invalid(
                at,
                node,
                format!("{} exclude each other", many.join(" and ")),
                "keep one of them".to_owned(),
            );
            None
        }
    };
    let rewrite = node
        .get("rewrite")
        .map(|rewrite| actions::rewrite(report, rewrite, &format!("{at}.rewrite")));
    let retries = node
        .get("retries")
        .map(|retries| actions::retries(report, retries, &format!("{at}.retries")));
    let headers = actions::headers(report, node.get("headers"), &format!("{at}.headers"));
    let fault = node
        .get("fault")
        .map(|fault| policies::fault(report, fault, &format!("{at}.fault")));
    let mirrors = policies::mirrors(report, node, at, namespace);
    let cors = node
        .get("corsPolicy")
        .map(|cors| policies::cors(report, cors, &format!("{at}.corsPolicy")));
    Some(HttpRoute {
        index,
        name: read::text(node.get("name")),
        matches,
        action: action?,
        rewrite,
        timeout: read::duration(node.get("timeout")),
        retries,
        headers,
        when: None,
        fault,
        mirrors,
        cors,
    })
}

fn delegate(report: &mut Report, node: &Node, at: &str, namespace: &str) -> Option<DelegateRef> {
    let Some(name) = read::text(node.get("name")) else {
        report.error(
            codes::E006,
            &format!("{at}.name"),
            node.place,
            "name is required".to_owned(),
            "add the name of a VirtualService without hosts".to_owned(),
        );
        return None;
    };
    let namespace = read::text(node.get("namespace")).unwrap_or_else(|| namespace.to_owned());
    Some(DelegateRef { namespace, name })
}

fn source_labels(node: Option<&Node>) -> Labels {
    node.map(Node::entries)
        .unwrap_or_default()
        .iter()
        .filter_map(|entry| Some((entry.key.clone(), entry.value.text()?.to_owned())))
        .collect()
}

fn http_match(report: &mut Report, node: &Node, at: &str, namespace: &str) -> HttpMatch {
    let mut one = |key: &str| {
        node.get(key)
            .and_then(|value| string_match(report, value, &format!("{at}.{key}"), false))
    };
    let (uri, scheme, method, authority) =
        (one("uri"), one("scheme"), one("method"), one("authority"));
    HttpMatch {
        name: read::text(node.get("name")),
        uri,
        ignore_uri_case: node
            .get("ignoreUriCase")
            .and_then(Node::truth)
            .unwrap_or(false),
        scheme,
        method,
        authority,
        headers: named_matches(report, node.get("headers"), &format!("{at}.headers"), true),
        without_headers: named_matches(
            report,
            node.get("withoutHeaders"),
            &format!("{at}.withoutHeaders"),
            true,
        ),
        query_params: named_matches(
            report,
            node.get("queryParams"),
            &format!("{at}.queryParams"),
            false,
        ),
        port: read::port(node.get("port")),
        gateways: gateways(
            report,
            node.get("gateways"),
            &format!("{at}.gateways"),
            namespace,
        ),
        source_labels: source_labels(node.get("sourceLabels")),
        source_namespace: read::text(node.get("sourceNamespace")),
        stat_prefix: read::text(node.get("statPrefix")),
    }
}

/// What the names of claims begin with, among those of headers.
const CLAIM: &str = "@request.auth.claims";

/// The claim that a condition on a "header" asks for: `@request.auth.claims.a.b` or `@request.auth.claims[a][b]`.
#[must_use]
pub fn claim_path(name: &str) -> Option<Vec<&str>> {
    let rest = name.strip_prefix(CLAIM)?;
    let names: Vec<&str> = match rest.strip_prefix('.') {
        Some(names) => names.split('.').collect(),
        None => {
            let names = rest.strip_prefix('[')?.strip_suffix(']')?;
            names.split("][").collect()
        }
    };
    let sound = |name: &&str| !name.is_empty() && !name.contains(['[', ']']);
    names.iter().all(sound).then_some(names)
}

fn named_matches(
    report: &mut Report,
    node: Option<&Node>,
    at: &str,
    header: bool,
) -> Vec<(String, StringMatch)> {
    let mut out = Vec::new();
    for entry in node.map(Node::entries).unwrap_or_default() {
        let path = join(at, &entry.key);
        let claim = header && entry.key.starts_with(CLAIM);
        let name = if header && !claim {
            entry.key.to_ascii_lowercase()
        } else {
            entry.key.clone()
        };
        if claim {
            if claim_path(&name).is_none() {
                report.error(
                    codes::E007,
                    &path,
                    entry.place,
                    format!("{:?} names no claim", entry.key),
                    format!("write {CLAIM}.NAME or {CLAIM}[NAME][NAME]"),
                );
            }
        } else if header && !read::is_header_name(name.strip_prefix(':').unwrap_or(&name)) {
            report.error(
                codes::E007,
                &path,
                entry.place,
                format!("{:?} is not a header name", entry.key),
                "use letters, digits and '-'".to_owned(),
            );
        }
        if entry.value.data == Data::Null {
            // `null` would read as "no condition", which lets more through than the presence test probably meant.
            report.error(
                codes::E003,
                &path,
                entry.place,
                "wants a map, found nothing".to_owned(),
                "write {} to test presence".to_owned(),
            );
            continue;
        }
        if let Some(test) = string_match(report, &entry.value, &path, true) {
            out.push((name, test));
        }
    }
    out
}

fn string_match(
    report: &mut Report,
    node: &Node,
    at: &str,
    may_be_empty: bool,
) -> Option<StringMatch> {
    let text = |key: &str| node.get(key).and_then(Node::text).map(str::to_owned);
    match (text("exact"), text("prefix"), text("regex")) {
        (Some(exact), None, None) => Some(StringMatch::Exact(exact)),
        (None, Some(prefix), None) => Some(StringMatch::Prefix(prefix)),
        (None, None, Some(regex)) => {
            let place = node.get("regex").unwrap_or(node);
            read::regex(report, &regex, &format!("{at}.regex"), place)
                .then_some(StringMatch::Regex(regex))
        }
        (None, None, None) if node.entries().is_empty() && may_be_empty => {
            Some(StringMatch::Present)
        }
        (None, None, None) => {
            // Unknown or ill-typed fields inside were reported by the walk; an empty condition was not.
            if node.entries().is_empty() && matches!(node.data, Data::Map(_)) {
                report.error(
                    codes::E006,
                    at,
                    node.place,
                    "one of exact, prefix, regex is required".to_owned(),
                    "write for example exact: value".to_owned(),
                );
            }
            None
        }
        _ => {
            report.invalid(
                at,
                node,
                "exact, prefix and regex exclude each other".to_owned(),
                "keep one of them".to_owned(),
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::claim_path;
    use crate::{Mode, decode_yaml};

    #[test]
    fn names_of_claims_have_two_forms_and_what_is_neither_is_named() {
        for (name, path) in [
            ("@request.auth.claims.a", Some(vec!["a"])),
            ("@request.auth.claims.a.B", Some(vec!["a", "B"])),
            ("@request.auth.claims[a][b.c]", Some(vec!["a", "b.c"])),
            ("@request.auth.claims", None),
            ("@request.auth.claims.", None),
            ("@request.auth.claims.a..b", None),
            ("@request.auth.claims[a", None),
            ("@request.auth.claims[]", None),
            ("@request.auth.claimsx", None),
            ("x-header", None),
        ] {
            assert_eq!(claim_path(name), path, "{name}");
            let text = format!(
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a}}\nspec:\n  hosts: [a]\n  http:\n  - match: [{{headers: {{'{name}': {{exact: b}}}}}}]\n    route: [{{destination: {{host: a}}}}]\n  - route: [{{destination: {{host: a}}}}]\n"
            );
            let found = decode_yaml("a.yaml", text.as_bytes(), Mode::Compat).findings;
            let sound = path.is_some() || name == "x-header";
            assert_eq!(found.is_empty(), sound, "{name}: {found:?}");
        }
    }
}
