//! `naka diff`: field changes and effect of an apply that does not happen. Exits 1 when there is a difference, as
//! `diff` and `kubectl diff` do.

use crate::args;
use crate::client::Client;
use crate::cmd::apply::{show, text};
use crate::exit::{BAD, Exit, Outcome};
use crate::{manifests, out};
use naka_api::Mode;
use serde_json::{Value, json};

/// Runs `naka diff`.
pub(crate) async fn run(args: &args::Diff, context: Option<&str>) -> Outcome {
    let decoded = manifests::decode(&args.files.files, &args.files.namespace, Mode::Compat)?;
    for finding in &decoded.findings {
        out::note(finding.to_string());
    }
    let objects: Vec<&Value> = decoded.objects.iter().map(|object| &object.raw).collect();
    let mut client = Client::open(context).await?;
    let answer = client
        .post("/naka/v1/diff", &json!({ "objects": objects }))
        .await?;
    let changes: Vec<Value> = answer
        .get("changes")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    match args.output {
        Some(args::Output::Json) => out::json(&answer),
        Some(args::Output::Yaml) => out::raw(out::yaml(&answer)),
        Some(args::Output::Wide) | None => changes.iter().for_each(print),
    }
    let different = changes.iter().any(|change| {
        change
            .get("fields")
            .and_then(Value::as_array)
            .is_some_and(|fields| !fields.is_empty())
    });
    if different
        || decoded
            .findings
            .iter()
            .any(naka_types::finding::Finding::is_error)
    {
        Err(Exit::silent(BAD))
    } else {
        Ok(())
    }
}

/// Prints one object's changes and whom they touch.
fn print(change: &Value) {
    let fields = change.get("fields").and_then(Value::as_array);
    let Some(fields) = fields.filter(|fields| !fields.is_empty()) else {
        return;
    };
    out::line(text(change, "object"));
    for field in fields {
        let side = |name: &str| field.get(name).filter(|v| !v.is_null()).map(show);
        let path = text(field, "path");
        match (side("before"), side("after")) {
            (Some(before), Some(after)) => out::line(format!("  ~ {path}: {before} -> {after}")),
            (None, Some(after)) => out::line(format!("  + {path}: {after}")),
            (Some(before), None) => out::line(format!("  - {path}: {before}")),
            (None, None) => {}
        }
    }
    let Some(effect) = change.get("effect").and_then(Value::as_object) else {
        return;
    };
    for (what, value) in effect {
        let shown = match value {
            Value::Array(items) if items.is_empty() => continue,
            Value::Array(items) => items.iter().map(show).collect::<Vec<_>>().join(", "),
            Value::Null => continue,
            other => show(other),
        };
        out::line(format!("    {}: {shown}", what.replace('_', " ")));
    }
}
