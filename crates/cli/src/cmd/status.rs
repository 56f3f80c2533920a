//! `naka status`: what has reached whom. The whole mesh on one page, or one object with its conditions.

use crate::args::{self, Output};
use crate::client::{Client, ask_socket};
use crate::cmd::apply::{show, text};
use crate::cmd::history::items;
use crate::cmd::names::Target;
use crate::exit::Outcome;
use crate::home::Home;
use crate::out::{self, Table};
use http::Method;
use naka_api::Kind;
use serde_json::Value;
use std::time::Duration;

/// A proxy of this machine that does not answer by then is left out.
const PROXY_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Runs `naka status`.
pub(crate) async fn run(args: &args::Status, context: Option<&str>) -> Outcome {
    let whole = args.object.is_none() && !matches!(args.output, Some(Output::Json | Output::Yaml));
    let mut client = match Client::open(context).await {
        Ok(client) => client,
        Err(exit) => {
            // What runs on this machine answers for itself, above all when the control plane does not.
            if whole {
                unready().await?;
            }
            return Err(exit);
        }
    };
    let Some(object) = &args.object else {
        let status = client.get("/naka/v1/status").await?;
        match args.output {
            Some(Output::Json) => out::json(&status),
            Some(Output::Yaml) => out::raw(out::yaml(&status)),
            Some(Output::Wide) | None => {
                mesh(&mut client, &status).await?;
                unready().await?;
            }
        }
        return Ok(());
    };
    let (kind, name) = Target::one(object, None)?;
    match args.output {
        Some(Output::Json | Output::Yaml) => {
            let status = client.get(&path(kind, &args.namespace, &name)).await?;
            if args.output == Some(Output::Json) {
                out::json(&status);
            } else {
                out::raw(out::yaml(&status));
            }
            Ok(())
        }
        Some(Output::Wide) | None => self::object(&mut client, kind, &args.namespace, &name).await,
    }
}

/// The proxies of this machine that are not ready, why, and what to do; asked at their own sockets.
async fn unready() -> Outcome {
    for dir in std::fs::read_dir(Home::from_env()?.runs())
        .into_iter()
        .flatten()
        .flatten()
    {
        let socket = dir.path().join("admin.sock");
        let asked = ask_socket(&socket, Method::GET, "/ready?serving=1", None);
        // One that ended has left its directory for its next start.
        let Ok(Ok(answer)) = tokio::time::timeout(PROXY_ANSWERS_WITHIN, asked).await else {
            continue;
        };
        let client = answer.body.get("service").is_none_or(Value::is_null);
        for lack in answer
            .body
            .get("why")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            // A client takes no calls, so nothing of that is missing to it.
            if client && matches!(text(lack, "what").as_str(), "program" | "registration") {
                continue;
            }
            out::line(format!(
                "not ready: {}: {}; {}",
                dir.file_name().display(),
                text(lack, "why"),
                text(lack, "fix")
            ));
        }
    }
    Ok(())
}

fn path(kind: Kind, namespace: &str, name: &str) -> String {
    let namespace = if kind.namespaced() { namespace } else { "-" };
    format!("/naka/v1/status/{kind}/{namespace}/{name}")
}

/// Prints conditions and rollout of one object.
pub(crate) async fn object(
    client: &mut Client,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Outcome {
    let status = client.get(&path(kind, namespace, name)).await?;
    out::line(format!(
        "{kind} {namespace}/{name}, revision {}",
        text(&status, "revision")
    ));
    let conditions = status
        .get("conditions")
        .or_else(|| status.pointer("/status/conditions"))
        .and_then(Value::as_array);
    for condition in conditions.into_iter().flatten() {
        let detail = [text(condition, "reason"), text(condition, "message")];
        let detail: Vec<&str> = detail
            .iter()
            .map(String::as_str)
            .filter(|t| !t.is_empty())
            .collect();
        out::line(
            format!(
                "  {}: {}  {}",
                text(condition, "type"),
                text(condition, "status"),
                detail.join(": ")
            )
            .trim_end(),
        );
    }
    for (field, words) in [
        ("acked", "have it"),
        ("behind", "are behind"),
        ("nacked", "refuse it"),
        ("away", "are away"),
        ("unaffected", "do not need it"),
    ] {
        let names = status
            .get(field)
            .and_then(Value::as_array)
            .filter(|all| !all.is_empty());
        if let Some(names) = names {
            let names: Vec<String> = names.iter().map(proxy_name).collect();
            out::line(format!("  {} {words}: {}", names.len(), names.join(", ")));
        }
    }
    Ok(())
}

fn proxy_name(value: &Value) -> String {
    let name = text(value, "proxy");
    if name.is_empty() {
        return show(value);
    }
    match text(value, "message") {
        message if message.is_empty() => name,
        message => format!("{name} ({message})"),
    }
}

async fn mesh(client: &mut Client, status: &Value) -> Outcome {
    let info = client.get("/naka/v1/mesh").await?;
    out::line(format!(
        "mesh {}, trust domain {}, revision {}",
        text(&info, "name"),
        text(&info, "trust_domain"),
        text(status, "revision")
    ));
    let proxies = client.get("/naka/v1/proxies").await?;
    let mut table = Table::new(&[
        "PROXY",
        "NAMESPACE",
        "SERVICE",
        "STATE",
        "HAS",
        "VERSION",
        "IDENTITY",
    ]);
    for proxy in items(&proxies) {
        table.row([
            text(proxy, "name"),
            text(proxy, "namespace"),
            text(proxy, "service"),
            text(proxy, "state"),
            has(proxy),
            text(proxy, "version"),
            text(proxy, "identity"),
        ]);
    }
    table.print(
        "no proxy is connected: put a program into the mesh with \"naka run -s NAME -- COMMAND\"",
    );
    seen(&client.get("/naka/v1/workloads").await?);
    let objects = status
        .get("objects")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    if !objects.is_empty() {
        let mut table = Table::new(&["OBJECT", "STATE", "REVISION", "PROXIES"]);
        for object in objects {
            let counts: Vec<String> = [
                ("acked", "have it"),
                ("behind", "behind"),
                ("nacked", "refuse"),
                ("away", "away"),
            ]
            .iter()
            .filter_map(|(field, words)| {
                let count = match object.get(*field)? {
                    Value::Array(all) => all.len() as u64,
                    other => other.as_u64()?,
                };
                (count > 0).then(|| format!("{count} {words}"))
            })
            .collect();
            table.row([
                text(object, "object"),
                text(object, "state"),
                text(object, "revision"),
                counts.join(", "),
            ]);
        }
        out::line("");
        out::raw(table.render());
    }
    let findings = status.get("findings").cloned().unwrap_or_default();
    let findings: Vec<naka_types::finding::Finding> =
        serde_json::from_value(findings).unwrap_or_default();
    for finding in findings {
        out::line(finding.to_string());
    }
    Ok(())
}

/// What was seen of each workload's traffic: what is not HTTP is not routed or retried per request, and what went
/// around the mesh is not in it.
fn seen(workloads: &Value) {
    let columns = [
        "WORKLOAD",
        "CAPTURE",
        "HTTP",
        "TUNNELLED",
        "OPAQUE",
        "BYPASSED",
    ];
    let mut table = Table::new(&columns);
    for workload in items(workloads) {
        let count = |what: &str| {
            let counts = workload.get("seen");
            counts.map(|seen| text(seen, what)).unwrap_or_default()
        };
        let (name, namespace) = (text(workload, "workload_name"), text(workload, "namespace"));
        table.row([
            format!("{name}.{namespace}"),
            text(workload, "capture"),
            count("http"),
            count("tunnelled"),
            count("opaque"),
            count("bypassed"),
        ]);
    }
    if !items(workloads).is_empty() {
        out::line("");
        out::raw(table.render());
    }
}

/// The revision a proxy has, and whether newer ones are on their way to it.
fn has(proxy: &Value) -> String {
    match (text(proxy, "revision"), text(proxy, "behind")) {
        (revision, behind) if behind.is_empty() || behind == "0" || behind == "false" => revision,
        (revision, _) => format!("{revision} behind").trim_start().to_owned(),
    }
}
