//! `naka mode`: switches modes on and off, and approves them.

use crate::args::{self, ModeCommand, Output, Which};
use crate::client::Client;
use crate::cmd::apply::{show, text, wait};
use crate::cmd::history::items;
use crate::exit::Outcome;
use crate::out::{self, Table};
use serde_json::{Value, json};

/// Runs `naka mode`.
pub(crate) async fn run(args: &args::Mode, context: Option<&str>) -> Outcome {
    let mut client = Client::open(context).await?;
    match &args.command {
        ModeCommand::List { output } => list(&client.get("/naka/v1/modes").await?, *output),
        ModeCommand::On {
            which,
            why,
            incident,
            length,
        } => {
            let mut wanted = json!({"why": why, "incident": incident});
            if let Some(length) = length {
                let length = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
                wanted["for_ms"] = json!(length);
            }
            let answer = client.post(&path(which, "on"), &wanted).await?;
            switched(&mut client, which, &answer).await
        }
        ModeCommand::Approve { which } => {
            let answer = client.post(&path(which, "approve"), &json!({})).await?;
            switched(&mut client, which, &answer).await
        }
        ModeCommand::Off { which, why } => {
            let answer = client
                .post(&path(which, "off"), &json!({"why": why}))
                .await?;
            out::line(format!("{} is off", text(&answer, "mode")));
            let revision = answer["revision"].as_u64().unwrap_or_default();
            wait(&mut client, revision, which.timeout, false).await
        }
    }
}

fn path(which: &Which, what: &str) -> String {
    let Which {
        name, namespace, ..
    } = which;
    format!("/naka/v1/modes/{namespace}/{name}/{what}")
}

async fn switched(client: &mut Client, which: &Which, answer: &Value) -> Outcome {
    let mode = text(answer, "mode");
    let by = approvals(answer);
    if answer["on"] != true {
        out::line(format!(
            "{mode} is asked for by {by}; {} more must approve within 15 minutes: naka mode approve {} -n {}",
            text(answer, "missing"),
            which.name,
            which.namespace
        ));
        return Ok(());
    }
    out::line(format!(
        "{mode} is on until {} ({by}); then it ends by itself",
        text(answer, "until")
    ));
    let revision = answer["revision"].as_u64().unwrap_or_default();
    wait(client, revision, which.timeout, false).await
}

fn approvals(value: &Value) -> String {
    let all = value["approvals"].as_array();
    let names: Vec<String> = all.into_iter().flatten().map(show).collect();
    names.join(", ")
}

fn list(answer: &Value, output: Option<Output>) -> Outcome {
    match output {
        Some(Output::Json) => out::json(answer),
        Some(Output::Yaml) => out::raw(out::yaml(answer)),
        Some(Output::Wide) | None => {
            let columns = [
                "MODE",
                "NAMESPACE",
                "STATE",
                "UNTIL",
                "INCIDENT",
                "WANTED BY",
                "OWNER",
            ];
            let mut table = Table::new(&columns);
            for mode in items(answer) {
                table.row([
                    text(mode, "name"),
                    text(mode, "namespace"),
                    text(mode, "state"),
                    text(mode, "until"),
                    text(mode, "incident"),
                    approvals(mode),
                    text(mode, "owner"),
                ]);
            }
            table.print("there are no modes: docs/tasks/break-glass.md makes one");
        }
    }
    Ok(())
}
