//! Request bodies: bounded, JSON only.

use super::answer::{Outcome, Problem};
use axum::body::Body;
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Largest body read.
const MAX_BODY: usize = 8 << 20;

/// Reads a whole body.
pub(crate) async fn bytes(body: Body) -> Outcome<Vec<u8>> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(whole) => Ok(whole.to_bytes().to_vec()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Problem::too_large()),
        Err(error) => Err(Problem::bad_request(format!(
            "the request body ended early: {error}"
        ))),
    }
}

/// Reads a JSON body.
pub(crate) async fn json(content_type: &str, body: Body) -> Outcome<Value> {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    if kind == "application/vnd.kubernetes.protobuf" {
        return Err(Problem::media_type(
            "protobuf bodies are not understood: send JSON (with kubectl, write the object to a file and use -f)",
        ));
    }
    if !kind.is_empty() && kind != "application/json" {
        return Err(Problem::media_type(format!(
            "a body of type {kind} is not understood; send application/json"
        )));
    }
    parse(&bytes(body).await?)
}

/// Parses JSON.
pub(crate) fn parse(bytes: &[u8]) -> Outcome<Value> {
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::bad_request(format!("the body is no JSON: {error}")))
}

/// Reads a JSON body of a known shape; an empty one counts as `{}`.
pub(crate) async fn shaped<T: DeserializeOwned>(body: Body) -> Outcome<T> {
    let bytes = bytes(body).await?;
    let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::bad_request(format!("cannot read the body: {error}")))
}
