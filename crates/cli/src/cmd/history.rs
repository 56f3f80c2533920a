//! `naka history` and `naka undo`: queries and one change on the mesh's log of events.

use crate::args;
use crate::client::{Client, query};
use crate::cmd::apply::text;
use crate::cmd::names::Target;
use crate::exit::Outcome;
use crate::out;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// Runs `naka history`.
pub(crate) async fn history(args: &args::History, context: Option<&str>) -> Outcome {
    let mut path = format!("/naka/v1/history?limit={}", args.limit);
    if let Some(object) = &args.object {
        let (kind, name) = Target::one(object, None)?;
        let reference = if kind.namespaced() {
            format!("{kind} {}/{name}", args.namespace)
        } else {
            format!("{kind} {name}")
        };
        path.push_str(&format!("&object={}", query(&reference)));
    }
    if let Some(since) = args.since {
        let from = now_ms().saturating_sub(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        path.push_str(&format!("&since={from}"));
    }
    let answer = Client::open(context).await?.get(&path).await?;
    match args.output {
        Some(args::Output::Json) => {
            out::json(&answer);
            return Ok(());
        }
        Some(args::Output::Yaml) => {
            out::raw(out::yaml(&answer));
            return Ok(());
        }
        Some(args::Output::Wide) | None => {}
    }
    let mut table = out::Table::new(&[
        "REVISION", "AGE", "WHO", "WHAT", "OBJECT", "CHANGE", "CAUSE",
    ]);
    for event in items(&answer).iter().rev() {
        table.row([
            revision(event),
            age(event),
            text(event, "actor"),
            text(event, "kind"),
            object(event),
            changes(event),
            text(event, "cause"),
        ]);
    }
    match answer["begins_after"].as_u64() {
        None | Some(0) => table.print("nothing has happened yet"),
        Some(last) => {
            table.print("nothing that is kept");
            out::note(format!(
                "events up to {last} went by their age (--audit-keep)"
            ));
        }
    }
    Ok(())
}

/// Runs `naka undo`.
pub(crate) async fn undo(args: &args::Undo, context: Option<&str>) -> Outcome {
    let body = args
        .revision
        .map_or_else(|| json!({}), |revision| json!({ "revision": revision }));
    let answer = Client::open(context)
        .await?
        .post("/naka/v1/undo", &body)
        .await?;
    let results = answer.get("results").and_then(Value::as_array);
    for result in results.into_iter().flatten() {
        out::line(format!(
            "{} {}",
            text(result, "object"),
            text(result, "action")
        ));
    }
    out::line(format!(
        "taken back by revision {}",
        text(&answer, "revision")
    ));
    Ok(())
}

/// The list of an answer: its `items`, or itself.
pub(crate) fn items(answer: &Value) -> &[Value] {
    answer
        .get("items")
        .unwrap_or(answer)
        .as_array()
        .map_or(&[], Vec::as_slice)
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| {
            u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
        })
}

fn revision(event: &Value) -> String {
    let seq = text(event, "seq");
    if seq.is_empty() {
        text(event, "revision")
    } else {
        seq
    }
}

fn age(event: &Value) -> String {
    event
        .get("time_ms")
        .and_then(Value::as_u64)
        .map(|at| out::age(now_ms().saturating_sub(at) / 1000))
        .unwrap_or_default()
}

fn object(event: &Value) -> String {
    match event.get("object") {
        Some(Value::Object(parts)) => {
            let part = |name: &str| parts.get(name).and_then(Value::as_str).unwrap_or_default();
            match (part("kind"), part("namespace"), part("name")) {
                (kind, "", name) => format!("{kind} {name}"),
                (kind, namespace, name) => format!("{kind} {namespace}/{name}"),
            }
        }
        Some(Value::String(text)) => text.clone(),
        _ => String::new(),
    }
}

/// A few words on what changed inside the object: the first fields, without what the server itself sets.
fn changes(event: &Value) -> String {
    let side = |name: &str| event.get(name).filter(|value| !value.is_null());
    match (side("before"), side("after")) {
        (None, Some(_)) => "created".to_owned(),
        (Some(_), None) => "removed".to_owned(),
        (None, None) => String::new(),
        (before, after) => {
            let fields: Vec<String> = naka_api::diff(before, after)
                .into_iter()
                .filter(|change| !change.path.starts_with("metadata"))
                .map(|change| change.path)
                .collect();
            match fields.len() {
                0 => "metadata".to_owned(),
                1 | 2 => fields.join(", "),
                more => format!("{}, {} and {} more", fields[0], fields[1], more - 2),
            }
        }
    }
}
