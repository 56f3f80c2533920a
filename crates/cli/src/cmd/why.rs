//! `naka why [SERVICE]`: what is wrong now with a service, its cause, and what to change.
//!
//! The facts are the live mesh's own (objects, endpoints, workloads, proxies); what they mean is decided by one pure
//! function ([`verdict`]). Exit code 1 when something is wrong, so that scripts can ask.

mod verdict;

use crate::args::{self, Output};
use crate::client::Client;
use crate::cmd::explain::world;
use crate::cmd::history::now_ms;
use crate::cmd::standing::{self, Kind, Told};
use crate::exit::{BAD, Exit, Outcome};
use crate::out;
use naka_proxy::names::{self, InMesh};
use naka_types::finding::{Finding, Severity};
use naka_types::host::Host;
use serde_json::{Value, json};
use verdict::Facts;

/// Runs `naka why`.
pub(crate) async fn run(args: &args::Why, context: Option<&str>) -> Outcome {
    let mut client = Client::open(context).await?;
    let live = client.get("/naka/v1/world").await?;
    let installation = client.get("/naka/v1/installation").await?;
    let workloads = client.get("/naka/v1/workloads").await?;
    let found = world::of_value(&live);
    let list = |value: &Value, name: &str| {
        let all = value.get(name).and_then(Value::as_array);
        all.cloned().unwrap_or_default()
    };
    let told = installation.get("findings").cloned().unwrap_or_default();
    let facts = Facts {
        world: &found,
        objects: list(&live, "objects"),
        proxies: list(&installation, "proxies"),
        told: standing::read(&list(&workloads, "items")),
        workloads: list(&workloads, "items"),
        now: now_ms(),
        findings: serde_json::from_value(told).unwrap_or_default(),
    };
    let hosts: Vec<Host> = match &args.service {
        Some(name) => {
            let knows = |host: &str| {
                let host = Host::parse(host).ok();
                host.is_some_and(|host| found.services.contains_key(&host))
            };
            match names::in_mesh(name, &args.namespace, knows) {
                Ok(InMesh::Yes(host)) => vec![host],
                Ok(InMesh::No) | Err(_) => {
                    let host = Host::resolve(name, &args.namespace);
                    vec![host.map_err(|error| Exit::usage(format!("{name}: {error}")))?]
                }
            }
        }
        None => found.services.keys().cloned().collect(),
    };
    let mut all = Vec::new();
    let mut shown = Vec::new();
    for host in &hosts {
        let findings = verdict::of(&facts, host);
        let decided = verdict::decided_by(&facts, host);
        let breakers: Vec<&Told> = standing::about(&facts.told, host, Kind::Breaker)
            .into_values()
            .flatten()
            .collect();
        let stand: Vec<Value> = breakers.iter().map(|one| one.to_json(facts.now)).collect();
        shown.push(
            json!({"host": host.as_str(), "decided_by": decided, "breakers": stand,
            "findings": findings}),
        );
        if args.service.is_some() || !findings.is_empty() {
            show(args.output, host, &decided, &closed(&breakers), &findings);
        }
        all.extend(findings);
    }
    let whole = json!({"services": shown, "findings": all});
    match args.output {
        Some(Output::Json) => out::json(&whole),
        Some(Output::Yaml) => out::raw(out::yaml(&whole)),
        Some(Output::Wide) | None if all.is_empty() => {
            out::note(format!("nothing is wrong with {}", counted(hosts.len())));
        }
        Some(Output::Wide) | None => {}
    }
    if all
        .iter()
        .any(|one: &Finding| one.severity != Severity::Info)
    {
        return Err(Exit::silent(BAD));
    }
    Ok(())
}

fn counted(services: usize) -> String {
    match services {
        1 => "this service".to_owned(),
        many => format!("these {many} services"),
    }
}

/// Breakers that are closed, in one line; findings tell of the others.
fn closed(breakers: &[&Told]) -> String {
    let closed = breakers.iter().filter(|told| told.since == 0);
    let mut proxies: Vec<&str> = closed.map(|told| told.proxy.as_str()).collect();
    proxies.sort_unstable();
    proxies.dedup();
    proxies.join(", ")
}

fn show(
    output: Option<Output>,
    host: &Host,
    decided: &[String],
    closed: &str,
    findings: &[Finding],
) {
    if matches!(output, Some(Output::Json | Output::Yaml)) {
        return;
    }
    out::line(host.as_str());
    if !decided.is_empty() {
        out::line(format!("  decided by {}", decided.join(", ")));
    }
    if !closed.is_empty() {
        out::line(format!("  breaker closed in {closed}"));
    }
    for finding in findings {
        let at = [finding.object.as_str(), finding.field.as_str()];
        let at: Vec<&str> = at.into_iter().filter(|text| !text.is_empty()).collect();
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "note",
        };
        out::line(format!(
            "  {severity} {}: {}",
            finding.code, finding.message
        ));
        if !at.is_empty() {
            out::line(format!("    at  {}", at.join(" ")));
        }
        if !finding.fix.is_empty() {
            out::line(format!("    fix {}", finding.fix));
        }
    }
}
