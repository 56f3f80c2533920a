//! `naka rollout`: where changes in steps are, and the word that lets them go on or takes them back.

use crate::args::{self, Output, RolloutCommand};
use crate::client::{Client, query};
use crate::cmd::apply::{show, text};
use crate::exit::{Exit, Outcome};
use crate::out;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How often an end is asked for.
const LOOK: Duration = Duration::from_millis(200);

/// Runs `naka rollout`.
pub(crate) async fn run(args: &args::Rollout, context: Option<&str>) -> Outcome {
    let mut client = Client::open(context).await?;
    match &args.command {
        RolloutCommand::List { output } => {
            let all = client.get("/naka/v1/rollouts").await?;
            list(&all, *output);
            Ok(())
        }
        RolloutCommand::Status { name, wait } => match wait {
            Some(time) => ended(&mut client, name, *time).await,
            None => {
                told(&find(&mut client, name).await?);
                Ok(())
            }
        },
        RolloutCommand::Promote { name } => steer(&mut client, name, "promote").await,
        RolloutCommand::Abort { name } => steer(&mut client, name, "abort").await,
    }
}

async fn steer(client: &mut Client, name: &str, verb: &str) -> Outcome {
    let path = format!("/naka/v1/rollouts/{}/{verb}", query(name));
    line(&client.post(&path, &json!({})).await?);
    Ok(())
}

fn list(all: &Value, output: Option<Output>) {
    match output {
        Some(Output::Json) => out::json(all),
        Some(Output::Yaml) => out::raw(out::yaml(all)),
        Some(Output::Wide) | None => {
            let mut table = out::Table::new(&["NAME", "STEP", "SINCE", "STARTED BY", "WAITS"]);
            for one in all["items"].as_array().into_iter().flatten() {
                let cells = ["name", "step", "since", "started_by", "waits"];
                table.row(cells.map(|cell| text(one, cell)));
            }
            table.print("no rollouts");
        }
    }
}

async fn find(client: &mut Client, name: &str) -> Outcome<Value> {
    let all = client.get("/naka/v1/rollouts").await?;
    let mut items = all["items"].as_array().into_iter().flatten();
    let found = items.find(|one| one["name"] == name);
    found.cloned().ok_or_else(|| {
        Exit::failed(format!(
            "there is no rollout {name:?}; \"naka rollout list\" shows those there are"
        ))
    })
}

fn told(one: &Value) {
    line(one);
    out::line(format!(
        "started {} by {}, in this step since {}",
        text(one, "started"),
        text(one, "started_by"),
        text(one, "since")
    ));
    let aborted = text(one, "aborted_by");
    if !aborted.is_empty() {
        out::line(format!("taken back by {aborted}"));
    }
    left(one);
}

/// One line on where it is.
pub(crate) fn line(one: &Value) {
    let waits = text(one, "waits");
    let waits = if waits.is_empty() {
        String::new()
    } else {
        format!(": {waits}")
    };
    out::line(format!(
        "rollout {} {}{waits}",
        text(one, "name"),
        text(one, "step")
    ));
}

fn left(one: &Value) {
    let all = one["left_behind"].as_array().into_iter().flatten();
    let names: Vec<String> = all.map(show).collect();
    if !names.is_empty() {
        out::line(format!(
            "left behind, until they get another certificate: {}",
            names.join(", ")
        ));
    }
}

/// Waits for the end, with a line for each step.
pub(crate) async fn ended(client: &mut Client, name: &str, time: Duration) -> Outcome {
    let end = Instant::now() + time;
    let mut last = Value::Null;
    loop {
        let one = find(client, name).await?;
        if one["step"] != last {
            line(&one);
            last = one["step"].clone();
        }
        if one["ended"] == true {
            left(&one);
            return match one["step"].as_str() {
                Some("done") => Ok(()),
                _ => Err(Exit::bad(format!("rollout {name} was taken back"))),
            };
        }
        if Instant::now() >= end {
            return Err(Exit::failed(format!(
                "rollout {name} has not ended (step {}): {}",
                text(&one, "step"),
                text(&one, "waits")
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}
