//! `naka describe`: one object, its conditions, which proxies have it, and its last changes; or one proxy.

use crate::args;
use crate::client::{Client, query};
use crate::cmd::apply::text;
use crate::cmd::history::items;
use crate::cmd::names::{self, Target};
use crate::cmd::status;
use crate::exit::{Exit, Outcome};
use crate::out;
use http::{Method, StatusCode};
use serde_json::Value;

/// Runs `naka describe`.
pub(crate) async fn run(args: &args::Describe, context: Option<&str>) -> Outcome {
    let mut client = Client::open(context).await?;
    let (word, inner) = args.kind.split_once('/').map_or(
        (args.kind.as_str(), args.name.as_deref()),
        |(word, name)| (word, Some(name)),
    );
    if matches!(word, "proxy" | "proxies" | "workload" | "workloads") {
        let name = inner.ok_or_else(|| Exit::usage(format!("which one? write {word}/NAME")))?;
        return live(&mut client, word, name).await;
    }
    let (kind, name) = Target::one(&args.kind, args.name.as_deref())?;
    let path = names::object(kind, &args.namespace, &name);
    let answer = client.send(Method::GET, &path, None).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Err(Exit::bad(format!("no {kind} {}/{name}", args.namespace)));
    }
    if !answer.status.is_success() {
        return Err(answer.refusal());
    }
    out::raw(out::yaml(&answer.body));
    status::object(&mut client, kind, &args.namespace, &name).await?;
    let reference = if kind.namespaced() {
        format!("{kind} {}/{name}", args.namespace)
    } else {
        format!("{kind} {name}")
    };
    let history = client
        .get(&format!(
            "/naka/v1/history?limit=5&object={}",
            query(&reference)
        ))
        .await?;
    out::line("Last changes:");
    for event in items(&history) {
        out::line(format!(
            "  {}  {}  {}  {}",
            text(event, "seq"),
            text(event, "actor"),
            text(event, "kind"),
            text(event, "cause")
        ));
    }
    Ok(())
}

async fn live(client: &mut Client, word: &str, name: &str) -> Outcome {
    let path = if word.starts_with("prox") {
        "/naka/v1/proxies"
    } else {
        "/naka/v1/workloads"
    };
    let answer = client.get(path).await?;
    let mut found = false;
    for item in items(&answer) {
        let fields = ["name", "workload_name", "workload_id", "service", "id"];
        if fields.iter().any(|field| text(item, field) == name) {
            found = true;
            out::raw(format!("---\n{}", out::yaml(&without_nulls(item))));
        }
    }
    if found {
        Ok(())
    } else {
        Err(Exit::bad(format!("no {word} {name}")))
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        ),
        other => other.clone(),
    }
}
