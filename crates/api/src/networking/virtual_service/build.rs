//! The typed VirtualService from a checked tree.

use super::{
    Action, Destination, DirectResponse, GatewayRef, HeaderOps, Headers, HttpMatch, HttpRoute,
    Redirect, RedirectPort, Retries, Rewrite, StringMatch, VirtualService, Weighted,
};
use crate::codes;
use crate::decode::Report;
use crate::networking::read;
use crate::tree::{Data, Node, join};
use naka_types::host::Host;
use std::collections::BTreeMap;

/// Conditions of `retryOn` that Envoy knows.
const RETRY_ON: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];
/// Longest fixed body.
const MAX_BODY: usize = 64 << 10;
/// Status codes a redirect may have.
const REDIRECT_CODES: &[u16] = &[301, 302, 303, 307, 308];

/// Builds; `None` when nothing of it could be in force.
pub(crate) fn build(report: &mut Report, spec: &Node, namespace: &str) -> Option<VirtualService> {
    let hosts = hosts(report, spec, namespace);
    let gateways = gateways(report, spec.get("gateways"), "spec.gateways", namespace);
    let entries = spec.get("http").map(Node::items).unwrap_or_default();
    let mut http = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let at = format!("spec.http[{index}]");
        let route = route(report, entry, &at, index, namespace);
        if let Some(route) = route.filter(|_| report.sound(&at)) {
            http.push(route);
        }
    }
    if !entries.is_empty() && http.is_empty() {
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
        export_to: read::texts(spec.get("exportTo")),
        http,
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
        ["route"] => destinations(
            report,
            node.get("route")?,
            &format!("{at}.route"),
            namespace,
        )
        .map(Action::Route),
        ["redirect"] => {
            redirect(report, node.get("redirect")?, &format!("{at}.redirect")).map(Action::Redirect)
        }
        ["directResponse"] => direct(
            report,
            node.get("directResponse")?,
            &format!("{at}.directResponse"),
        )
        .map(Action::Direct),
        // Refused by the walk already.
        ["delegate", ..] | [_, "delegate", ..] => None,
        [] => {
            report.error(
                codes::E006,
                &format!("{at}.route"),
                node.place,
                "a route needs one of route, redirect, directResponse".to_owned(),
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
        .map(|rewrite| self::rewrite(report, rewrite, &format!("{at}.rewrite")));
    let retries = node
        .get("retries")
        .map(|retries| self::retries(report, retries, &format!("{at}.retries")));
    let headers = headers(report, node.get("headers"), &format!("{at}.headers"));
    Some(HttpRoute {
        index,
        name: read::text(node.get("name")),
        matches,
        action: action?,
        rewrite,
        timeout: read::duration(node.get("timeout")),
        retries,
        headers,
    })
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
    }
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
        let name = if header {
            entry.key.to_ascii_lowercase()
        } else {
            entry.key.clone()
        };
        if header && !read::is_header_name(name.strip_prefix(':').unwrap_or(&name)) {
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

fn destinations(
    report: &mut Report,
    node: &Node,
    at: &str,
    namespace: &str,
) -> Option<Vec<Weighted>> {
    let items = node.items();
    if items.is_empty() && matches!(node.data, Data::List(_)) {
        report.error(
            codes::E006,
            at,
            node.place,
            "route has no destination".to_owned(),
            "add - destination: {host: …}".to_owned(),
        );
        return None;
    }
    let mut out = Vec::new();
    let mut total: u64 = 0;
    for (index, item) in items.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let Some(target) = item.get("destination") else {
            continue;
        };
        let host = read::host(
            report,
            target.get("host"),
            &format!("{at}.destination.host"),
            namespace,
            false,
        );
        let written = item
            .get("weight")
            .and_then(Node::integer)
            .and_then(|weight| u32::try_from(weight).ok());
        let weight = written.unwrap_or(if items.len() == 1 { 100 } else { 0 });
        if items.len() > 1 && item.get("weight").is_none() {
            report.error(
                codes::E006,
                &format!("{at}.weight"),
                item.place,
                "weight is required when a route has several destinations".to_owned(),
                "add weight to each destination".to_owned(),
            );
        }
        total += u64::from(weight);
        if let Some(host) = host {
            let destination = Destination {
                host,
                subset: read::text(target.get("subset")),
                port: read::port(target.at(&["port", "number"])),
            };
            out.push(Weighted {
                destination,
                weight,
                headers: headers(report, item.get("headers"), &format!("{at}.headers")),
            });
        }
    }
    if total == 0 && !items.is_empty() {
        report.invalid(
            at,
            node,
            "the weights add up to 0: no destination can be picked".to_owned(),
            "give at least one a weight above 0".to_owned(),
        );
    } else if total > u64::from(u32::MAX) {
        report.invalid(
            at,
            node,
            format!("the weights add up to {total}, more than {}", u32::MAX),
            "use smaller weights".to_owned(),
        );
    }
    (!out.is_empty()).then_some(out)
}

fn redirect(report: &mut Report, node: &Node, at: &str) -> Option<Redirect> {
    let (uri, prefix) = (
        read::text(node.get("uri")),
        read::text(node.get("prefixRewrite")),
    );
    if uri.is_some() && prefix.is_some() {
        report.invalid(
            at,
            node,
            "uri and prefixRewrite exclude each other".to_owned(),
            "keep one of them".to_owned(),
        );
    }
    let port = match (
        read::port(node.get("port")),
        node.get("derivePort").and_then(Node::text),
    ) {
        (Some(_), Some(_)) => {
            report.invalid(
                at,
                node,
                "port and derivePort exclude each other".to_owned(),
                "keep one of them".to_owned(),
            );
            None
        }
        (Some(number), None) => Some(RedirectPort::Number(number)),
        (None, Some("FROM_REQUEST_PORT")) => Some(RedirectPort::Request),
        (None, Some(_)) => Some(RedirectPort::ProtocolDefault),
        (None, None) => None,
    };
    let code = node
        .get("redirectCode")
        .and_then(Node::integer)
        .and_then(|code| u16::try_from(code).ok())
        .unwrap_or(301);
    if let Some(written) = node
        .get("redirectCode")
        .filter(|_| (300..400).contains(&code) && !REDIRECT_CODES.contains(&code))
    {
        report.invalid(
            &format!("{at}.redirectCode"),
            written,
            format!("{code} is no redirect"),
            "write 301, 302, 303, 307 or 308".to_owned(),
        );
    }
    let (authority, scheme) = (
        read::text(node.get("authority")),
        read::text(node.get("scheme")),
    );
    for (key, value) in [
        ("uri", &uri),
        ("prefixRewrite", &prefix),
        ("authority", &authority),
        ("scheme", &scheme),
    ] {
        read::check_value(report, value.as_deref(), &format!("{at}.{key}"), node);
    }
    Some(Redirect {
        uri,
        prefix,
        authority,
        port,
        scheme,
        code,
    })
}

fn direct(report: &mut Report, node: &Node, at: &str) -> Option<DirectResponse> {
    let status = u16::try_from(node.get("status")?.integer()?).ok()?;
    let body = match (
        node.at(&["body", "string"]).and_then(Node::text),
        node.at(&["body", "bytes"]),
    ) {
        (Some(_), Some(bytes)) => {
            report.invalid(
                &format!("{at}.body"),
                bytes,
                "string and bytes exclude each other".to_owned(),
                "keep one of them".to_owned(),
            );
            return None;
        }
        (Some(text), None) => text.as_bytes().to_vec(),
        (None, Some(bytes)) => {
            read::base64(report, bytes, &format!("{at}.body.bytes")).unwrap_or_default()
        }
        (None, None) => Vec::new(),
    };
    if body.len() > MAX_BODY {
        report.invalid(
            &format!("{at}.body"),
            node,
            format!("{} bytes: at most {MAX_BODY}", body.len()),
            "serve it from a program".to_owned(),
        );
    }
    Some(DirectResponse { status, body })
}

fn rewrite(report: &mut Report, node: &Node, at: &str) -> Rewrite {
    let uri = read::text(node.get("uri"));
    let uri_regex = node.get("uriRegexRewrite").and_then(|regex| {
        let pattern = regex.get("match")?;
        let path = format!("{at}.uriRegexRewrite.match");
        let text = pattern.text()?.to_owned();
        read::regex(report, &text, &path, pattern)
            .then(|| (text, read::text(regex.get("rewrite")).unwrap_or_default()))
    });
    if uri.is_some() && node.get("uriRegexRewrite").is_some() {
        report.invalid(
            at,
            node,
            "uri and uriRegexRewrite exclude each other".to_owned(),
            "keep one of them".to_owned(),
        );
    }
    let authority = read::text(node.get("authority"));
    read::check_value(report, uri.as_deref(), &format!("{at}.uri"), node);
    read::check_value(
        report,
        authority.as_deref(),
        &format!("{at}.authority"),
        node,
    );
    Rewrite {
        uri,
        uri_regex,
        authority,
    }
}

fn retries(report: &mut Report, node: &Node, at: &str) -> Retries {
    let mut on = Vec::new();
    if let Some(list) = node.get("retryOn")
        && let Some(text) = list.text()
    {
        for word in text
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
        {
            let status = word.len() == 3
                && word
                    .parse::<u16>()
                    .is_ok_and(|code| (100..600).contains(&code));
            if !status && !RETRY_ON.contains(&word) {
                let hint = crate::schema::nearest(word, RETRY_ON.iter().copied())
                    .map_or_else(String::new, |near| format!("; did you mean {near}?"));
                report.invalid(
                    &format!("{at}.retryOn"),
                    list,
                    format!("{word:?} is no retry condition{hint}"),
                    format!("write a status code or one of {}", RETRY_ON.join(", ")),
                );
            }
            on.push(word.to_owned());
        }
    }
    let attempts = node
        .get("attempts")
        .and_then(Node::integer)
        .and_then(|n| u32::try_from(n).ok());
    Retries {
        // Istio: attempts left out means its default of 2; an explicit 0 turns retries off.
        attempts: attempts.unwrap_or(2),
        per_try_timeout: read::duration(node.get("perTryTimeout")),
        on,
        backoff: read::duration(node.get("backoff")),
    }
}

fn headers(report: &mut Report, node: Option<&Node>, at: &str) -> Headers {
    let mut side = |key: &str| {
        let ops = node.and_then(|node| node.get(key));
        let at = format!("{at}.{key}");
        HeaderOps {
            set: pairs(
                report,
                ops.and_then(|ops| ops.get("set")),
                &format!("{at}.set"),
            ),
            add: pairs(
                report,
                ops.and_then(|ops| ops.get("add")),
                &format!("{at}.add"),
            ),
            remove: ops
                .and_then(|ops| ops.get("remove"))
                .map(Node::items)
                .unwrap_or_default()
                .iter()
                .enumerate()
                .filter_map(|(index, item)| {
                    let name = item.text()?.to_ascii_lowercase();
                    read::check_header(report, &name, "", &format!("{at}.remove[{index}]"), item);
                    Some(name)
                })
                .collect(),
        }
    };
    Headers {
        request: side("request"),
        response: side("response"),
    }
}

fn pairs(report: &mut Report, node: Option<&Node>, at: &str) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for entry in node.map(Node::entries).unwrap_or_default() {
        if let Some(value) = entry.value.text() {
            let name = entry.key.to_ascii_lowercase();
            read::check_header(report, &name, value, &join(at, &entry.key), &entry.value);
            out.insert(name, value.to_owned());
        }
    }
    out
}
