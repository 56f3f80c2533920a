//! `naka token`: create, list, revoke.

use crate::args::{self, Output, TokenCommand, TokenKind, TokenRole};
use crate::client::Client;
use crate::cmd::apply::text;
use crate::cmd::history::items;
use crate::exit::{Exit, Outcome};
use crate::out;
use http::Method;
use serde_json::{Map, Value, json};

/// Runs `naka token`.
pub(crate) async fn run(args: &args::Token, context: Option<&str>) -> Outcome {
    let mut client = Client::open(context).await?;
    match &args.command {
        TokenCommand::Create(create) => {
            let answer = client.post("/naka/v1/tokens", &request(create)?).await?;
            out::line(text(&answer, "token"));
        }
        TokenCommand::List { output } => list(&client.get("/naka/v1/tokens").await?, *output),
        TokenCommand::Revoke { id } => {
            client
                .call(Method::DELETE, &format!("/naka/v1/tokens/{id}"), None)
                .await?;
            out::line(format!("token {id} revoked"));
        }
    }
    Ok(())
}

fn request(create: &args::TokenCreate) -> Outcome<Value> {
    Ok(match create.kind {
        TokenKind::Join => {
            let account = create
                .service_account
                .clone()
                .or_else(|| create.service.first().cloned())
                .ok_or_else(|| {
                    Exit::usage(
                        "a join token is for somebody: give -s NAME or --service-account SA",
                    )
                })?;
            join(
                &create.namespace,
                &account,
                &create.service,
                labels(&create.labels)?,
                create.uses,
                create.ttl.as_secs(),
            )
        }
        TokenKind::Api => {
            let role = match create.role {
                TokenRole::Viewer => "viewer",
                TokenRole::Operator => "operator",
                TokenRole::Admin => "admin",
            };
            json!({"kind": "api", "role": role, "namespaces": [], "ttl_seconds": create.ttl.as_secs()})
        }
    })
}

/// Body of a request for a join token.
pub(crate) fn join(
    namespace: &str,
    account: &str,
    services: &[String],
    labels: Map<String, Value>,
    uses: u32,
    ttl_seconds: u64,
) -> Value {
    json!({
        "kind": "join", "namespace": namespace, "service_account": account, "services": services,
        "labels": labels, "uses": uses, "ttl_seconds": ttl_seconds,
    })
}

/// Reads `k=v` labels.
pub(crate) fn labels(given: &[String]) -> Outcome<Map<String, Value>> {
    given
        .iter()
        .map(|label| match label.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), json!(value))),
            _ => Err(Exit::usage(format!(
                "{label:?} is no label: write key=value"
            ))),
        })
        .collect()
}

fn list(answer: &Value, form: Option<Output>) {
    match form {
        Some(Output::Json) => return out::json(answer),
        Some(Output::Yaml) => return out::raw(out::yaml(answer)),
        Some(Output::Wide) | None => {}
    }
    let mut table = out::Table::new(&["ID", "KIND", "FOR", "USES LEFT", "EXPIRES"]);
    let now = crate::cmd::history::now_ms() / 1000;
    for token in items(answer) {
        let subject = if text(token, "kind") == "api" {
            text(token, "role")
        } else {
            format!(
                "{}/{}",
                text(token, "namespace"),
                text(token, "service_account")
            )
        };
        let expires = token.get("expires").and_then(Value::as_u64).map_or_else(
            || text(token, "expires"),
            |at| {
                if at > now {
                    format!("in {}", out::age(at - now))
                } else {
                    "expired".to_owned()
                }
            },
        );
        table.row([
            text(token, "id"),
            text(token, "kind"),
            subject,
            text(token, "uses_left"),
            expires,
        ]);
    }
    table.print("no tokens");
}
