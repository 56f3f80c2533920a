//! Faults, mirrors and cross-origin rules of a route.

use super::super::policies::{ALL, Abort, AbortStatus, Cors, Delay, Fault, Mirror};
use super::super::{Destination, StringMatch};
use super::string_match;
use crate::codes;
use crate::decode::{Mode, Report};
use crate::networking::read;
use crate::tree::{Data, Node};

/// gRPC statuses by name, in the order of their numbers.
const GRPC: &[&str] = &[
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A deprecated field that is read as the one that replaced it.
fn old(report: &mut Report, node: &Node, at: &str, now: &str) {
    let code = match report.mode {
        Mode::Strict => codes::E114,
        Mode::Compat => codes::W114,
    };
    report.error(
        code,
        at,
        node.place,
        format!("a deprecated field; read as {now}"),
        format!("write {now}"),
    );
}

/// A percentage as parts of a million, cut off as Istio does.
fn share(value: &Node) -> u32 {
    let number = match &value.data {
        Data::Number(number) => number.as_f64().unwrap_or_default(),
        _ => 0.0,
    };
    let percent = number.clamp(0.0, 100.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=100 just above"
    )]
    let parts = (percent * 10_000.0) as u32;
    parts.min(ALL)
}

fn percentage(node: &Node) -> Option<u32> {
    let block = node.get("percentage")?;
    Some(block.get("value").map_or(0, share))
}

pub(super) fn fault(report: &mut Report, node: &Node, at: &str) -> Fault {
    let built = Fault {
        delay: node
            .get("delay")
            .and_then(|delay| self::delay(report, delay, &format!("{at}.delay"))),
        abort: node
            .get("abort")
            .and_then(|abort| self::abort(report, abort, &format!("{at}.abort"))),
    };
    if node.get("delay").is_none() && node.get("abort").is_none() {
        report.error(
            codes::E006,
            at,
            node.place,
            "a fault needs delay or abort".to_owned(),
            "add delay: or abort:, or remove fault".to_owned(),
        );
    }
    built
}

fn delay(report: &mut Report, node: &Node, at: &str) -> Option<Delay> {
    let mut often = percentage(node);
    if let Some(percent) = node.get("percent") {
        old(report, percent, &format!("{at}.percent"), "percentage");
        often = often.or_else(|| Some(share(percent)));
    }
    let Some(fixed) = node.get("fixedDelay") else {
        if node.get("exponentialDelay").is_none() {
            report.error(
                codes::E006,
                &format!("{at}.fixedDelay"),
                node.place,
                "fixedDelay is required".to_owned(),
                "add fixedDelay: 1s".to_owned(),
            );
        }
        return None;
    };
    let wait = read::duration(Some(fixed))?;
    if wait.as_millis() == 0 {
        report.invalid(
            &format!("{at}.fixedDelay"),
            fixed,
            "a delay is 1ms or longer".to_owned(),
            "write 1ms or more, or remove delay".to_owned(),
        );
    }
    Some(Delay {
        wait,
        share: often.unwrap_or(0),
    })
}

fn abort(report: &mut Report, node: &Node, at: &str) -> Option<Abort> {
    let given: Vec<&str> = ["httpStatus", "grpcStatus", "http2Error"]
        .into_iter()
        .filter(|key| node.get(key).is_some())
        .collect();
    match given.as_slice() {
        [] => report.error(
            codes::E006,
            &format!("{at}.httpStatus"),
            node.place,
            "an abort needs httpStatus or grpcStatus".to_owned(),
            "add httpStatus: 503".to_owned(),
        ),
        [_] => {}
        several => report.invalid(
            at,
            node,
            format!("{} exclude each other", several.join(" and ")),
            "keep one of them".to_owned(),
        ),
    }
    let http = node.get("httpStatus").and_then(Node::integer);
    let status = match (http, node.get("grpcStatus")) {
        (Some(status), _) => AbortStatus::Http(u16::try_from(status).ok()?),
        (None, Some(grpc)) => {
            AbortStatus::Grpc(grpc_status(report, grpc, &format!("{at}.grpcStatus"))?)
        }
        // http2Error: Istio knows the field and does nothing with it.
        (None, None) => return None,
    };
    Some(Abort {
        status,
        share: percentage(node).unwrap_or(0),
    })
}

fn grpc_status(report: &mut Report, node: &Node, at: &str) -> Option<u8> {
    let text = node.text()?;
    let named = GRPC.iter().position(|name| *name == text);
    let number = named.or_else(|| text.parse().ok().filter(|number| *number < GRPC.len()));
    if number.is_none() {
        let hint = crate::schema::nearest(text, GRPC.iter().copied())
            .map_or_else(String::new, |near| format!("; did you mean {near}?"));
        report.invalid(
            at,
            node,
            format!("{text:?} is no gRPC status{hint}"),
            format!("write one of {}", GRPC.join(", ")),
        );
    }
    number.and_then(|number| u8::try_from(number).ok())
}

/// `mirror` with its percentage, or `mirrors`. A share of zero is no mirror.
pub(super) fn mirrors(report: &mut Report, route: &Node, at: &str, namespace: &str) -> Vec<Mirror> {
    let mut out = Vec::new();
    if let (Some(_), Some(several)) = (route.get("mirror"), route.get("mirrors")) {
        report.invalid(
            &format!("{at}.mirrors"),
            several,
            "mirror and mirrors exclude each other".to_owned(),
            "keep mirrors".to_owned(),
        );
    }
    let mut often = route
        .get("mirrorPercentage")
        .map(|block| block.get("value").map_or(0, share));
    for key in ["mirrorPercent", "mirror_percent"] {
        if let Some(node) = route.get(key) {
            old(report, node, &format!("{at}.{key}"), "mirrorPercentage");
            often = often.or_else(|| Some(share(node)));
        }
    }
    if let Some(node) = route.get("mirror") {
        let below = "mirror".to_owned();
        if let Some(destination) = destination(report, node, &format!("{at}.mirror"), namespace) {
            out.push(Mirror {
                destination,
                share: often.unwrap_or(ALL),
                at: below,
            });
        }
    }
    let list = route.get("mirrors").map(Node::items).unwrap_or_default();
    for (index, item) in list.iter().enumerate() {
        let below = format!("mirrors[{index}].destination");
        let target = item.get("destination");
        let built =
            target.and_then(|node| destination(report, node, &format!("{at}.{below}"), namespace));
        if let Some(destination) = built {
            out.push(Mirror {
                destination,
                share: percentage(item).unwrap_or(ALL),
                at: below,
            });
        }
    }
    out.retain(|mirror| mirror.share > 0);
    out
}

fn destination(report: &mut Report, node: &Node, at: &str, namespace: &str) -> Option<Destination> {
    Some(Destination {
        host: read::host(
            report,
            node.get("host"),
            &format!("{at}.host"),
            namespace,
            false,
        )?,
        subset: read::text(node.get("subset")),
        port: read::port(node.at(&["port", "number"])),
    })
}

pub(super) fn cors(report: &mut Report, node: &Node, at: &str) -> Cors {
    let mut origins = Vec::new();
    let list = node.get("allowOrigins");
    for (index, item) in list.map(Node::items).unwrap_or_default().iter().enumerate() {
        let path = format!("{at}.allowOrigins[{index}]");
        origins.extend(string_match(report, item, &path, false));
    }
    if let Some(older) = node.get("allowOrigin") {
        old(
            report,
            older,
            &format!("{at}.allowOrigin"),
            "allowOrigins with exact",
        );
        if list.is_none() {
            origins.extend(read::texts(Some(older)).into_iter().map(StringMatch::Exact));
        }
    }
    let mut words = |key: &str| {
        let value = node.get(key);
        for (index, item) in value
            .map(Node::items)
            .unwrap_or_default()
            .iter()
            .enumerate()
        {
            if let Some(text) = item.text() {
                let path = format!("{at}.{key}[{index}]");
                let sound = text == "*" || read::is_header_name(text);
                if !sound {
                    report.invalid(
                        &path,
                        item,
                        format!("{text:?} is neither a name nor *"),
                        "write one name for each item".to_owned(),
                    );
                }
            }
        }
        read::texts(value)
    };
    Cors {
        methods: words("allowMethods"),
        headers: words("allowHeaders"),
        expose: words("exposeHeaders"),
        origins,
        max_age: read::duration(node.get("maxAge")),
        credentials: node.get("allowCredentials").and_then(Node::truth),
        forward_unmatched: node.get("unmatchedPreflights").and_then(Node::text) != Some("IGNORE"),
    }
}
