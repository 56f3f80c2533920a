//! `naka get`: objects and live kinds.

use crate::args::{self, Output};
use crate::client::{Client, query};
use crate::cmd::apply::{show, text};
use crate::cmd::history::{items, now_ms};
use crate::cmd::names::{self, Target};
use crate::exit::{Exit, Outcome};
use crate::out::{self, Table};
use naka_api::Kind;
use serde_json::{Value, json};

/// Live kinds: what a person types, the API path, the columns and where their values are.
const LIVE: &[Live] = &[
    Live {
        words: &["proxies", "proxy", "px"],
        path: "/naka/v1/proxies",
        columns: &[
            ("NAME", "name"),
            ("NAMESPACE", "namespace"),
            ("SERVICE", "service"),
            ("STATE", "state"),
            ("REVISION", "revision"),
            ("VERSION", "version"),
        ],
    },
    Live {
        words: &["workloads", "workload", "wl"],
        path: "/naka/v1/workloads",
        columns: &[
            ("NAME", "workload_name"),
            ("NAMESPACE", "namespace"),
            ("SERVICE", "service"),
            ("STATE", "state"),
            ("PORTS", "ports"),
            ("CAPTURE", "capture"),
            ("IDENTITY", "identity"),
        ],
    },
    Live {
        words: &["certs", "certificates", "cert"],
        path: "/naka/v1/certificates",
        columns: &[
            ("WORKLOAD", "workload_name"),
            ("ID", "workload_id"),
            ("IDENTITY", "identity"),
            ("STATE", "state"),
            ("KEY", "key_type"),
            ("POLICY", "policy"),
            ("UNTIL", "until"),
        ],
    },
    Live {
        words: &["denials", "denial", "denied"],
        path: "/naka/v1/denials",
        columns: &[
            ("TIME", "time"),
            ("COUNT", "count"),
            ("FROM", "from"),
            ("TO", "to"),
            ("ASKED", "asked"),
            ("REASON", "reason"),
            ("RULE", "rule"),
        ],
    },
    Live {
        words: &["traces", "trace"],
        path: "/naka/v1/traces",
        columns: &[
            ("ID", "id"),
            ("TIME", "time"),
            ("MS", "duration_ms"),
            ("SERVICE", "service"),
            ("REQUEST", "request"),
            ("STATUS", "status"),
            ("WHY", "why"),
            ("SPANS", "spans"),
            ("COMPLETE", "complete"),
        ],
    },
    Live {
        words: &["revoked-tokens", "revoked-token"],
        path: "/naka/v1/revoked-tokens",
        columns: &[
            ("ID", "id"),
            ("ISSUER", "issuer"),
            ("JTI", "jti"),
            ("REASON", "reason"),
        ],
    },
    Live {
        words: &["revisions", "revision", "rev"],
        path: "/naka/v1/history",
        columns: &[
            ("REVISION", "seq"),
            ("WHO", "actor"),
            ("WHAT", "kind"),
            ("OBJECT", "object"),
            ("CAUSE", "cause"),
        ],
    },
    Live {
        words: &["events", "event", "ev"],
        path: "/naka/v1/events",
        columns: &[
            ("REVISION", "seq"),
            ("WHO", "actor"),
            ("WHAT", "kind"),
            ("OBJECT", "object"),
            ("CAUSE", "cause"),
        ],
    },
];

struct Live {
    words: &'static [&'static str],
    path: &'static str,
    columns: &'static [(&'static str, &'static str)],
}

/// Runs `naka get`.
pub(crate) async fn run(args: &args::Get, context: Option<&str>) -> Outcome {
    let word = args.kind.to_ascii_lowercase();
    if let Some(live) = LIVE.iter().find(|live| live.words.contains(&word.as_str())) {
        return self::live(args, live, context).await;
    }
    let target = Target::parse(&args.kind, args.name.as_deref())?;
    let namespace = if args.all_namespaces {
        ""
    } else {
        args.namespace.as_str()
    };
    let mut client = Client::open(context).await?;
    if let Some(name) = &target.name {
        if args.all_namespaces {
            return Err(Exit::usage(
                "a name needs one namespace: -A and NAME do not go together",
            ));
        }
        let mut path = names::object(target.kind, namespace, name);
        if let Some(revision) = args.at {
            path.push_str(&format!("?at={revision}"));
        }
        let answer = client.send(http::Method::GET, &path, None).await?;
        if answer.status == http::StatusCode::NOT_FOUND {
            return Err(Exit::bad(format!("no {} {namespace}/{name}", target.kind)));
        }
        if !answer.status.is_success() {
            return Err(answer.refusal());
        }
        print_one(target.kind, &answer.body, args);
        return Ok(());
    }
    let mut query_parts = Vec::new();
    if let Some(selector) = &args.selector {
        query_parts.push(format!("labelSelector={}", query(selector)));
    }
    if let Some(revision) = args.at {
        query_parts.push(format!("at={revision}"));
    }
    let path = with_query(names::collection(target.kind, namespace), &query_parts);
    let list = client.get(&path).await?;
    print_list(target.kind, &list, args);
    if args.watch {
        let revision = list
            .pointer("/metadata/resourceVersion")
            .map(show)
            .unwrap_or_default();
        query_parts.push("watch=true".to_owned());
        query_parts.push(format!("resourceVersion={revision}"));
        let path = with_query(names::collection(target.kind, namespace), &query_parts);
        return follow(client, &path, target.kind, args).await;
    }
    Ok(())
}

async fn follow(mut client: Client, path: &str, kind: Kind, args: &args::Get) -> Outcome {
    let mut lines = client.watch(path).await?;
    while let Some(event) = lines.next().await? {
        let change = text(&event, "type");
        let Some(object) = event.get("object") else {
            continue;
        };
        match change.as_str() {
            "BOOKMARK" => {}
            "ERROR" => return Err(Exit::failed(text(object, "message"))),
            _ if args.output == Some(Output::Json) => out::line(event.to_string()),
            _ => {
                let mut cells = vec![change];
                cells.extend(row(kind, object, args));
                out::line(cells.join("   "));
            }
        }
    }
    Ok(())
}

async fn live(args: &args::Get, live: &Live, context: Option<&str>) -> Outcome {
    let answer = Client::open(context).await?.get(live.path).await?;
    let wanted = |item: &&Value| {
        let namespace = item.get("namespace").and_then(Value::as_str);
        let in_namespace =
            args.all_namespaces || namespace.is_none_or(|namespace| namespace == args.namespace);
        let named = args.name.as_ref().is_none_or(|name| {
            ["name", "workload_name", "id", "workload_id", "service"]
                .iter()
                .any(|field| text(item, field) == *name)
        });
        in_namespace && named
    };
    let chosen: Vec<&Value> = items(&answer).iter().filter(wanted).collect();
    match args.output {
        Some(Output::Json) => out::json(&json!({ "items": chosen })),
        Some(Output::Yaml) => out::raw(out::yaml(&json!({ "items": chosen }))),
        Some(Output::Wide) | None => {
            let headings: Vec<&str> = live.columns.iter().map(|(heading, _)| *heading).collect();
            let mut table = Table::new(&headings);
            for item in chosen {
                table.row(live.columns.iter().map(|(_, field)| cell(item, field)));
            }
            table.print("none found");
        }
    }
    Ok(())
}

/// A field of a live item in few words.
fn cell(item: &Value, field: &str) -> String {
    match item.get(field) {
        Some(Value::Array(items)) => items.iter().map(brief).collect::<Vec<_>>().join(","),
        Some(value) => brief(value),
        None => String::new(),
    }
}

fn brief(value: &Value) -> String {
    let part = |name: &str| value.get(name).map(show).unwrap_or_default();
    match value {
        Value::Object(map) if map.contains_key("port") => part("port"),
        Value::Object(map) if map.contains_key("name") => {
            format!("{} {}/{}", part("kind"), part("namespace"), part("name"))
        }
        other => show(other),
    }
}

fn with_query(path: String, parts: &[String]) -> String {
    if parts.is_empty() {
        path
    } else {
        format!("{path}?{}", parts.join("&"))
    }
}

fn print_one(kind: Kind, object: &Value, args: &args::Get) {
    match args.output {
        Some(Output::Json) => out::json(object),
        Some(Output::Yaml) => out::raw(out::yaml(object)),
        Some(Output::Wide) | None => table(kind, std::slice::from_ref(object), args),
    }
}

fn print_list(kind: Kind, list: &Value, args: &args::Get) {
    match args.output {
        Some(Output::Json) => out::json(list),
        Some(Output::Yaml) => {
            let documents: Vec<String> = items(list).iter().map(out::yaml).collect();
            out::raw(documents.join("---\n"));
        }
        Some(Output::Wide) | None => table(kind, items(list), args),
    }
}

fn table(kind: Kind, objects: &[Value], args: &args::Get) {
    let mut headings = Vec::new();
    if args.all_namespaces && kind.namespaced() {
        headings.push("NAMESPACE");
    }
    headings.push("NAME");
    headings.extend(columns(kind));
    headings.push("AGE");
    if args.output == Some(Output::Wide) {
        headings.extend(["GENERATION", "REVISION", "UID"]);
    }
    let mut table = Table::new(&headings);
    for object in objects {
        table.row(row(kind, object, args));
    }
    let place = if args.all_namespaces || !kind.namespaced() {
        String::new()
    } else {
        format!(" in namespace {}", args.namespace)
    };
    table.print(&format!("no {}{place}", kind.names().plural));
}

/// Headings between name and age.
fn columns(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::VirtualService => &["GATEWAYS", "HOSTS"],
        Kind::DestinationRule => &["HOST", "SUBSETS"],
        Kind::Gateway => &["PORTS"],
        Kind::Service => &["PORTS", "SELECTOR"],
        Kind::PeerAuthentication => &["MODE"],
        Kind::WorkloadEntry => &["ADDRESS"],
        Kind::Secret => &["TYPE"],
        Kind::ServiceEntry => &["HOSTS", "LOCATION", "RESOLUTION"],
        Kind::AuthorizationPolicy => &["ACTION"],
        _ => &[],
    }
}

fn row(kind: Kind, object: &Value, args: &args::Get) -> Vec<String> {
    let meta = |field: &str| {
        object
            .pointer(&format!("/metadata/{field}"))
            .map(show)
            .unwrap_or_default()
    };
    let mut cells = Vec::new();
    if args.all_namespaces && kind.namespaced() {
        cells.push(meta("namespace"));
    }
    cells.push(meta("name"));
    let at = |pointer: &str| object.pointer(pointer).map(words).unwrap_or_default();
    let each = |pointer: &str, field: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_array)
            .map(|all| {
                all.iter()
                    .filter_map(|one| one.pointer(field))
                    .map(show)
                    .collect::<Vec<_>>()
                    .join(",")
            })
            .unwrap_or_default()
    };
    match kind {
        Kind::VirtualService => cells.extend([at("/spec/gateways"), at("/spec/hosts")]),
        Kind::DestinationRule => cells.extend([at("/spec/host"), each("/spec/subsets", "/name")]),
        Kind::Gateway => cells.push(each("/spec/servers", "/port/number")),
        Kind::Service => cells.extend([each("/spec/ports", "/port"), at("/spec/selector")]),
        Kind::PeerAuthentication => cells.push(at("/spec/mtls/mode")),
        Kind::WorkloadEntry => cells.push(at("/spec/address")),
        Kind::Secret => cells.push(at("/type")),
        Kind::ServiceEntry => {
            cells.extend([
                at("/spec/hosts"),
                at("/spec/location"),
                at("/spec/resolution"),
            ]);
        }
        Kind::AuthorizationPolicy => cells.push(at("/spec/action")),
        _ => {}
    }
    cells.push(age(&meta("creationTimestamp")));
    if args.output == Some(Output::Wide) {
        cells.extend([meta("generation"), meta("resourceVersion"), meta("uid")]);
    }
    cells
}

/// Lists with commas, maps as `k=v`.
fn words(value: &Value) -> String {
    match value {
        Value::Array(items) => items.iter().map(show).collect::<Vec<_>>().join(","),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| format!("{key}={}", show(value)))
            .collect::<Vec<_>>()
            .join(","),
        other => show(other),
    }
}

/// Age of an RFC 3339 time in UTC.
fn age(stamp: &str) -> String {
    let Some(then) = seconds_of(stamp) else {
        return String::new();
    };
    out::age((now_ms() / 1000).saturating_sub(then))
}

/// Seconds since 1970 of `YYYY-MM-DDTHH:MM:SS[.f]Z`.
pub(crate) fn seconds_of(stamp: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| stamp.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || year < 1970 {
        return None;
    }
    // Days from civil: months counted from March, so that the leap day is the last of its year.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::seconds_of;

    #[test]
    fn times_are_read_in_utc() {
        assert_eq!(seconds_of("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds_of("2000-03-01T00:00:00Z"), Some(951_868_800));
        assert_eq!(seconds_of("2026-11-22T21:33:16.5Z"), Some(1_795_383_196));
        assert_eq!(seconds_of("soon"), None);
        assert_eq!(seconds_of("2026-13-01T00:00:00Z"), None);
    }
}
