//! `naka token`: create, list, revoke the mesh's own; refuse one of a user (JWT).

use crate::args::{self, Output, TokenCommand, TokenKind, TokenRole};
use crate::client::{Client, query};
use crate::cmd::apply::{text, wait};
use crate::cmd::history::items;
use crate::exit::{Exit, Outcome};
use crate::out;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
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
        TokenCommand::RevokeJwt(jwt) => revoke_jwt(&mut client, jwt).await?,
        TokenCommand::Revoke { id } => {
            client
                .call(Method::DELETE, &format!("/naka/v1/tokens/{id}"), None)
                .await?;
            out::line(format!("token {id} revoked"));
        }
    }
    Ok(())
}

/// A token of a user, not one of the mesh's own.
async fn revoke_jwt(client: &mut Client, args: &args::RevokeJwt) -> Outcome {
    let answer = match &args.take_back {
        Some(id) => {
            let path = format!("/naka/v1/revoked-tokens/{}", query(id));
            let answer = client.call(Method::DELETE, &path, None).await?;
            out::line(format!("taken again: {id}"));
            answer
        }
        None => {
            let wanted = named(args)?;
            let answer = client.post("/naka/v1/revoked-tokens", &wanted).await?;
            out::line(format!(
                "revoked: {} of {} ({})",
                text(&answer, "jti"),
                text(&answer, "issuer"),
                text(&answer, "id")
            ));
            answer
        }
    };
    let revision = answer["revision"].as_u64().unwrap_or_default();
    wait(client, revision, args.timeout, false).await
}

/// The token meant.
fn named(args: &args::RevokeJwt) -> Outcome<Value> {
    let until = match &args.until {
        None => None,
        Some(text) => {
            let at = naka_store::parse_rfc3339(text);
            let bad = || {
                Exit::usage(format!(
                    "{text:?} is no moment in UTC: write 2026-01-31T12:00:00Z"
                ))
            };
            Some(at.ok_or_else(bad)? / 1000)
        }
    };
    let given = json!({
        "issuer": args.issuer, "jti": args.jti, "until": until, "reason": args.reason,
    });
    let Some(file) = &args.token else {
        return Ok(given);
    };
    let read = match file.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin()),
        _ => std::fs::read_to_string(file),
    };
    let token =
        read.map_err(|error| Exit::failed(format!("reading {}: {error}", file.display())))?;
    let claims = claims(&token).ok_or_else(|| {
        Exit::bad(format!(
            "{} holds no signed token (RFC 7519)",
            file.display()
        ))
    })?;
    let word = |name: &str| {
        claims[name].as_str().map(str::to_owned).ok_or_else(|| {
            Exit::bad(format!(
                "the token has no text {name}: it cannot be named, let alone taken back"
            ))
        })
    };
    Ok(json!({
        "issuer": word("iss")?, "jti": word("jti")?, "until": seconds(&claims["exp"]), "reason": args.reason,
    }))
}

/// What a token says, whoever made it.
fn claims(token: &str) -> Option<Value> {
    let mut parts = token.trim().split('.').skip(1);
    let payload = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?;
    serde_json::from_slice(&payload).ok()
}

/// A time of a token, rounded up.
fn seconds(exp: &Value) -> Option<u64> {
    exp.as_u64().or_else(|| {
        let ceil = exp.as_f64()?.ceil();
        std::time::Duration::try_from_secs_f64(ceil)
            .ok()
            .map(|time| time.as_secs())
    })
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
