//! `naka cert`: takes back the certificates of a workload.

use crate::args::{self, CertCommand};
use crate::client::Client;
use crate::cmd::apply::{show, text, wait};
use crate::exit::Outcome;
use crate::out;
use clap::ValueEnum;
use serde_json::json;

/// Runs `naka cert`.
pub(crate) async fn run(args: &args::Cert, context: Option<&str>) -> Outcome {
    let CertCommand::Revoke {
        workload,
        reason,
        timeout,
    } = &args.command;
    let reason = reason.to_possible_value();
    let reason = reason
        .as_ref()
        .map_or("unspecified", |value| value.get_name());
    let mut client = Client::open(context).await?;
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
    wait(&mut client, revision, *timeout, false).await
}
