//! What a route does: destinations, redirects, fixed responses, rewrites, retries, header edits.

use super::super::{
    Destination, DirectResponse, HeaderOps, Headers, Redirect, RedirectPort, Retries, Rewrite,
    Weighted,
};
use crate::codes;
use crate::decode::Report;
use crate::networking::read;
use crate::tree::{Data, Node, join};
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

pub(super) fn destinations(
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

pub(super) fn redirect(report: &mut Report, node: &Node, at: &str) -> Option<Redirect> {
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

pub(super) fn direct(report: &mut Report, node: &Node, at: &str) -> Option<DirectResponse> {
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

pub(super) fn rewrite(report: &mut Report, node: &Node, at: &str) -> Rewrite {
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

pub(super) fn retries(report: &mut Report, node: &Node, at: &str) -> Retries {
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
        remote_localities: node
            .get("retryRemoteLocalities")
            .and_then(Node::truth)
            .unwrap_or(false),
        ignore_previous_hosts: node
            .get("retryIgnorePreviousHosts")
            .and_then(Node::truth)
            .unwrap_or(true),
    }
}

pub(super) fn headers(report: &mut Report, node: Option<&Node>, at: &str) -> Headers {
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
