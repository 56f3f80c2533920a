//! Compares a tree with a field table and reports what does not fit.
//!
//! The walk never changes the tree. Which part falls out follows from the paths of the errors: see
//! [`crate::decode::Report::sound`].

use super::{Field, Now, Ty, nearest};
use crate::codes;
use crate::decode::Report;
use crate::kind::Kind;
use crate::tree::{Data, Entry, Node, Place, join};
use naka_types::duration;

/// Checks the fields of a map. `path` is empty for the object itself.
pub(crate) fn object(report: &mut Report, node: &Node, fields: &'static [Field], path: &str) {
    for entry in node.entries() {
        let at = join(path, &entry.key);
        let Some(field) = fields.iter().find(|field| field.name == entry.key) else {
            unknown(report, entry, fields, path);
            continue;
        };
        if entry.value.data == Data::Null {
            continue;
        }
        match field.now {
            Now::NotYet => not_yet(report, entry.place, &at),
            Now::Default(only) if !reads_as(&entry.value, only) => {
                not_yet(report, entry.place, &at)
            }
            Now::Refused(why) => {
                report.error(
                    codes::E901,
                    &at,
                    entry.place,
                    format!("{} is not enforced yet, and {why}", entry.key),
                    format!("remove {} until it is supported", entry.key),
                );
            }
            Now::Ignored(why) => report.error(
                codes::W902,
                &at,
                entry.place,
                format!("{} has no effect: {why}", entry.key),
                format!("remove {}", entry.key),
            ),
            Now::Yes | Now::Default(_) | Now::Alias(_) | Now::Label(_) => {}
        }
        value(report, &entry.value, field.ty, &at);
    }
    for field in fields.iter().filter(|field| field.required) {
        let empty = match node.get(field.name).map(|value| &value.data) {
            None => true,
            Some(Data::Text(text)) => text.is_empty(),
            Some(Data::List(items)) => items.is_empty(),
            Some(_) => false,
        };
        if empty {
            report.error(
                codes::E006,
                &join(path, field.name),
                node.place,
                format!("{} is required", field.name),
                format!("add {}: {}", field.name, word(field.ty)),
            );
        }
    }
}

fn reads_as(value: &Node, json: &str) -> bool {
    let shown = value.to_json().to_string();
    shown == json
}

fn not_yet(report: &mut Report, place: Place, at: &str) {
    idle(report, place, at, "this field");
}

/// Says of an object of a kind that is not in force that it does nothing, however empty it is: to Istio an empty
/// AuthorizationPolicy denies everything.
pub(crate) fn object_not_yet(report: &mut Report, place: Place, kind: Kind) {
    if report.findings.iter().all(|f| f.code != codes::W900.id) {
        idle(report, place, "kind", kind.as_str());
    }
}

fn idle(report: &mut Report, place: Place, at: &str, what: &str) {
    report.error(
        codes::W900,
        at,
        place,
        format!("{what} is not enforced yet: it is kept and does nothing"),
        "nothing to change; do not rely on it today".to_owned(),
    );
}

fn unknown(report: &mut Report, entry: &Entry, fields: &'static [Field], path: &str) {
    let at = join(path, &entry.key);
    let names = fields
        .iter()
        .filter(|field| !matches!(field.now, Now::Alias(_)))
        .map(|field| field.name);
    let (message, fix) = match nearest(&entry.key, names.clone()) {
        Some(near) => (
            format!("unknown field {}; did you mean {near}?", entry.key),
            format!("write {near}"),
        ),
        None => {
            let all: Vec<&str> = names.collect();
            (
                format!("unknown field {}", entry.key),
                format!("remove it; fields here: {}", all.join(", ")),
            )
        }
    };
    report.error(codes::E002, &at, entry.place, message, fix);
}

/// Checks one value.
pub(crate) fn value(report: &mut Report, node: &Node, ty: Ty, path: &str) {
    let fits = match (ty, &node.data) {
        (Ty::Any, _) | (Ty::Str | Ty::IntOrStr, Data::Text(_)) | (Ty::Bool, Data::Bool(_)) => true,
        (Ty::Int(low, high), Data::Number(_)) => match node.integer() {
            Some(number) => {
                if number < low || number > high {
                    report.invalid(
                        path,
                        node,
                        format!("{number} is out of range"),
                        format!("write a number from {low} to {high}"),
                    );
                }
                true
            }
            None => false,
        },
        (Ty::IntOrStr, Data::Number(_)) => node.integer().is_some(),
        (Ty::Percent, Data::Number(number)) => {
            if !number
                .as_f64()
                .is_some_and(|number| (0.0..=100.0).contains(&number))
            {
                report.invalid(
                    path,
                    node,
                    format!("{number} is out of range"),
                    "write a number from 0 to 100".to_owned(),
                );
            }
            true
        }
        (Ty::Number, Data::Number(number)) => {
            if number.as_f64().is_none_or(|number| number < 0.0) {
                report.invalid(
                    path,
                    node,
                    format!("{number} is out of range"),
                    "write a number that is not negative".to_owned(),
                );
            }
            true
        }
        (Ty::Duration, Data::Text(text)) => {
            if let Err(error) = duration::parse(text) {
                report.invalid(
                    path,
                    node,
                    error.to_string(),
                    "write a duration such as 10s".to_owned(),
                );
            }
            true
        }
        (Ty::Enum(words), Data::Text(text)) => {
            if !words.contains(&text.as_str()) {
                let hint = nearest(text, words.iter().copied())
                    .map_or_else(String::new, |near| format!("; did you mean {near}?"));
                report.invalid(
                    path,
                    node,
                    format!("{text:?} is none of the allowed words{hint}"),
                    format!("write one of {}", words.join(", ")),
                );
            }
            true
        }
        (Ty::List(inner), Data::List(items)) => {
            for (index, item) in items.iter().enumerate() {
                value(report, item, *inner, &format!("{path}[{index}]"));
            }
            true
        }
        (Ty::Object(fields), Data::Map(_)) => {
            object(report, node, fields, path);
            true
        }
        (Ty::Map(inner), Data::Map(entries)) => {
            for entry in entries {
                value(report, &entry.value, *inner, &join(path, &entry.key));
            }
            true
        }
        _ => false,
    };
    if !fits {
        misfit(report, node, ty, path);
    }
}

fn misfit(report: &mut Report, node: &Node, ty: Ty, path: &str) {
    let fix = match (ty, &node.data) {
        (Ty::Str, Data::Number(_) | Data::Bool(_)) => "put it into quotes".to_owned(),
        (Ty::Int(..), Data::Text(text)) if text.parse::<i64>().is_ok() => {
            "write it without quotes".to_owned()
        }
        (Ty::List(_), _) => "write it as a list, each item with \"- \"".to_owned(),
        (Ty::Duration, Data::Number(number)) => format!("write a unit: {number}s"),
        _ => format!("write {}", word(ty)),
    };
    report.error(
        codes::E003,
        path,
        node.place,
        format!("wants {}, found {}", word(ty), node.what()),
        fix,
    );
}

/// A type in words.
pub(crate) fn word(ty: Ty) -> String {
    match ty {
        Ty::Str => "a text".to_owned(),
        Ty::Bool => "true or false".to_owned(),
        Ty::Int(..) => "a whole number".to_owned(),
        Ty::Percent => "a number from 0 to 100".to_owned(),
        Ty::Number => "a number".to_owned(),
        Ty::Duration => "a duration such as 10s".to_owned(),
        Ty::Enum(words) => format!("one of {}", words.join(", ")),
        Ty::IntOrStr => "a number or a name".to_owned(),
        Ty::List(_) => "a list".to_owned(),
        Ty::Object(_) | Ty::Map(_) => "a map".to_owned(),
        Ty::Any => "any value".to_owned(),
    }
}
