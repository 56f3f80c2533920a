//! Tables: `kubectl get` prints the columns the server names.

use naka_api::Kind;
use serde_json::{Value, json};

/// Whether an `Accept` header asks for a table.
pub(crate) fn wanted(accept: &str) -> bool {
    accept.split(',').any(|part| {
        let mut parameters = part.split(';').map(str::trim);
        parameters.next() == Some("application/json")
            && parameters.any(|parameter| parameter == "as=Table")
            && part.contains("v=v1")
            && !part.contains("v=v1beta1")
    })
}

/// A table of objects. `revision` goes into its metadata, as in a list.
pub(crate) fn table(kind: Kind, objects: &[Value], revision: u64, now_s: u64) -> Value {
    let columns = columns(kind);
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut cells = vec![text(object, "/metadata/name")];
            cells.extend(columns.iter().map(|(_, cell)| cell(object)));
            cells.push(age(&text(object, "/metadata/creationTimestamp"), now_s));
            let partial = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                "metadata": object.get("metadata")});
            json!({"cells": cells, "object": partial})
        })
        .collect();
    let column = |name: &str| {
        json!({"name": name, "type": "string", "format": if name == "Name" { "name" } else { "" },
            "description": "", "priority": 0})
    };
    let mut definitions = vec![column("Name")];
    definitions.extend(columns.iter().map(|(name, _)| column(name)));
    definitions.push(column("Age"));
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": revision.to_string()},
        "columnDefinitions": definitions, "rows": rows})
}

type Column = (&'static str, fn(&Value) -> String);

fn columns(kind: Kind) -> &'static [Column] {
    match kind {
        Kind::Namespace => &[("Status", |_| "Active".to_owned())],
        Kind::Service => &[
            ("Type", |_| "ClusterIP".to_owned()),
            ("Ports", |o| ports(o, "/spec/ports", "/port", "/name")),
        ],
        Kind::Secret => &[
            ("Type", |o| text(o, "/type")),
            ("Data", |o| {
                o.get("data")
                    .and_then(Value::as_object)
                    .map_or(0, serde_json::Map::len)
                    .to_string()
            }),
        ],
        Kind::WorkloadEntry => &[("Address", |o| text(o, "/spec/address"))],
        Kind::VirtualService => &[
            ("Gateways", |o| words(o, "/spec/gateways")),
            ("Hosts", |o| words(o, "/spec/hosts")),
        ],
        Kind::DestinationRule => &[
            ("Host", |o| text(o, "/spec/host")),
            ("Subsets", |o| names(o, "/spec/subsets")),
        ],
        Kind::Gateway => &[("Ports", |o| {
            ports(o, "/spec/servers", "/port/number", "/port/protocol")
        })],
        Kind::PeerAuthentication => &[("Mode", |o| text(o, "/spec/mtls/mode"))],
        Kind::ServiceEntry => &[
            ("Hosts", |o| words(o, "/spec/hosts")),
            ("Location", |o| text(o, "/spec/location")),
            ("Resolution", |o| text(o, "/spec/resolution")),
        ],
        Kind::AuthorizationPolicy => &[("Action", |o| text(o, "/spec/action"))],
        _ => &[],
    }
}

fn text(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn words(object: &Value, pointer: &str) -> String {
    let words: Vec<&str> = list(object, pointer)
        .iter()
        .filter_map(Value::as_str)
        .collect();
    words.join(",")
}

fn names(object: &Value, pointer: &str) -> String {
    let names: Vec<String> = list(object, pointer)
        .iter()
        .map(|item| text(item, "/name"))
        .collect();
    names.join(",")
}

fn ports(object: &Value, items: &str, number: &str, word: &str) -> String {
    let ports: Vec<String> = list(object, items)
        .iter()
        .map(|item| match (text(item, number), text(item, word)) {
            (number, word) if word.is_empty() => number,
            (number, word) => format!("{number}/{word}"),
        })
        .collect();
    ports.join(",")
}

/// Time since an RFC 3339 stamp, in kubectl's words: `42s`, `5m`, `3h`, `2d`.
fn age(stamp: &str, now_s: u64) -> String {
    let Some(then) = seconds(stamp) else {
        return "<unknown>".to_owned();
    };
    match now_s.saturating_sub(then) {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Seconds since 1970 of `YYYY-MM-DDTHH:MM:SSZ`.
fn seconds(stamp: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| stamp.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years begin in March, so that the leap day is the last of its year.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::{age, seconds, wanted};
    use naka_store::rfc3339;

    #[test]
    fn kubectl_gets_its_table() {
        assert!(wanted(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
        ));
        assert!(!wanted("application/json"));
        assert!(!wanted("application/json;as=Table;v=v1beta1;g=meta.k8s.io"));
    }

    #[test]
    fn ages_are_the_inverse_of_stamps() {
        for time in [0, 951_782_400, 1_709_251_199, 1_795_383_196] {
            assert_eq!(seconds(&rfc3339(time * 1000)), Some(time));
        }
        assert_eq!(age("1970-01-01T00:00:00Z", 300), "5m");
        assert_eq!(age("soon", 300), "<unknown>");
    }
}
