//! `naka cert`: approves certificates of workloads, and takes them back.

use crate::args::{self, CertCommand};
use crate::client::Client;
use crate::cmd::apply::{show, text, wait};
use crate::exit::Outcome;
use crate::out;
use clap::ValueEnum;
use serde_json::json;
use std::time::Duration;

/// Runs `naka cert`.
pub(crate) async fn run(args: &args::Cert, context: Option<&str>) -> Outcome {
    let mut client = Client::open(context).await?;
    match &args.command {
        CertCommand::Revoke {
            workload,
            reason,
            timeout,
        } => revoke(&mut client, workload, *reason, *timeout).await,
        CertCommand::Approve { workload } => approve(&mut client, workload).await,
    }
}

async fn approve(client: &mut Client, workload: &str) -> Outcome {
    let wanted = json!({ "workload": workload });
    let answer = client
        .post("/naka/v1/certificates/approve", &wanted)
        .await?;
    out::line(format!(
        "approved: {} ({}), {} key {}",
        text(&answer, "workload"),
        text(&answer, "identity"),
        text(&answer, "key_type"),
        text(&answer, "request")
    ));
    Ok(())
}

async fn revoke(
    client: &mut Client,
    workload: &str,
    reason: args::Reason,
    timeout: Duration,
) -> Outcome {
    let reason = reason.to_possible_value();
    let reason = reason
        .as_ref()
        .map_or("unspecified", |value| value.get_name());
    let wanted = json!({"workload": workload, "reason": reason});
    let answer = client.post("/naka/v1/certificates/revoke", &wanted).await?;
    out::line(format!(
        "revoked: {} ({})",
        text(&answer, "workload_id"),
        text(&answer, "identity")
    ));
    let deaf: Vec<String> = answer["not_told"]
        .as_array()
        .into_iter()
        .flatten()
        .map(show)
        .collect();
    if !deaf.is_empty() {
        out::note(format!(
            "these are no Naka proxies and go on believing it until its certificate ends: {}",
            deaf.join(", ")
        ));
    }
    let revision = answer["revision"].as_u64().unwrap_or_default();
    wait(client, revision, timeout, false).await
}
