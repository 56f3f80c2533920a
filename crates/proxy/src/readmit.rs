//! A fresh join token from the control socket of this machine's control plane.
//!
//! Who owns a mesh needs no token on the mesh's own machine: the kernel vouches for the uid at the other end of the
//! control socket (`naka run` got in the same way). A sidecar needs that way again when its certificate has expired
//! unrenewed, because the clock jumped, or the machine slept for days: the token it started with is used up.
//!
//! Sidecars of other machines have no such socket and need a new token by hand.

use crate::settings::Settings;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use naka_types::token::Token;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;

/// Time for the whole exchange.
const PATIENCE: Duration = Duration::from_secs(5);
/// Life of the token, in seconds: it is used at once.
const TTL_S: u64 = 60;
/// Longest answer read.
const ANSWER: usize = 64 * 1024;

/// Asks for a token for the workload of `settings`.
///
/// # Errors
/// Words for the log.
pub(crate) async fn token(socket: &Path, settings: &Settings) -> Result<Token, String> {
    tokio::time::timeout(PATIENCE, ask(socket, settings))
        .await
        .map_err(|_| "no answer in time".to_owned())?
}

async fn ask(socket: &Path, settings: &Settings) -> Result<Token, String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let stream = UnixStream::connect(socket).await.map_err(|e| said(&e))?;
    let (mut requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| said(&e))?;
    let connection = tokio::spawn(connection);
    let body = json!({
        "kind": "join",
        "namespace": settings.namespace,
        "service_account": settings.service_account,
        "services": settings.service.iter().collect::<Vec<_>>(),
        "labels": settings.labels,
        "uses": 1,
        "ttl_seconds": TTL_S,
    });
    let request = Request::builder()
        .method(Method::POST)
        .uri("/naka/v1/tokens")
        .header(header::HOST, "naka")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(bytes::Bytes::from(body.to_string())))
        .map_err(|e| said(&e))?;
    let answer = requests.send_request(request).await.map_err(|e| said(&e))?;
    let status = answer.status();
    let bytes = Limited::new(answer.into_body(), ANSWER)
        .collect()
        .await
        .map_err(|e| said(&e))?
        .to_bytes();
    connection.abort();
    let answer: Value = serde_json::from_slice(&bytes).map_err(|e| said(&e))?;
    let Some(token) = answer.get("token").and_then(Value::as_str) else {
        return Err(format!("{status}: {}", answer["message"]));
    };
    Token::parse(token).map_err(|_| "it gave no token".to_owned())
}
