//! One question for keys: a GET over HTTP/1.1, with TLS or without.
//!
//! The address stands in an object, and whoever may write one must not learn much by it: nothing of an answer that is
//! no set of keys is told, but its status; redirects are not followed, or an allowed host could lead anywhere; answers
//! are read up to the largest set and no longer than the time given.

use crate::settings::Jwks as Settings;
use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use naka_identity::{OutsidePems, outside_tls, system_roots};
use naka_types::jwk::{KeySet, KeyUri, MAX_BYTES};
use rustls_pki_types::ServerName;
use std::error::Error;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Asks an address for keys; the error says why there are none, in words for a finding.
pub(super) async fn keys(
    uri: &KeyUri,
    timeout: Duration,
    settings: &Settings,
) -> Result<KeySet, String> {
    if !allowed(&settings.hosts, uri.host()) {
        return Err(format!(
            "its host is none of those that keys may come from (--jwks-hosts {})",
            settings.hosts.join(",")
        ));
    }
    let asked = tokio::time::timeout(timeout, ask(uri, settings)).await;
    let text = asked.unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")))?;
    match KeySet::parse(&text) {
        Ok((keys, _)) => Ok(keys),
        Err(why) => Err(format!("the answer is no set of keys: {why}")),
    }
}

/// Whether keys may come from a host: `*.example.com` is every name below it. No list: from everywhere.
fn allowed(hosts: &[String], host: &str) -> bool {
    let fits = |pattern: &String| match pattern.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => pattern == host,
    };
    hosts.is_empty() || hosts.iter().any(fits)
}

async fn ask(uri: &KeyUri, settings: &Settings) -> Result<String, String> {
    let stream = TcpStream::connect((uri.host(), uri.port())).await;
    let stream = stream.map_err(|error| format!("no connection: {error}"))?;
    if !uri.tls() {
        return get(uri, stream).await;
    }
    let config = outside_tls(&trusted(settings)?, &[], true, &[b"http/1.1"])
        .map_err(|error| format!("no authorities to verify it with: {error}"))?;
    let name = ServerName::try_from(uri.host().to_owned())
        .map_err(|_| "its host is no name that a certificate can have".to_owned())?;
    let stream = TlsConnector::from(config).connect(name, stream).await;
    get(uri, stream.map_err(|error| format!("no TLS: {error}"))?).await
}

/// The system's authorities, and those of the file.
fn trusted(settings: &Settings) -> Result<OutsidePems, String> {
    let roots = match &settings.authorities {
        None => None,
        Some(file) => {
            let own =
                std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
            // Without a list of the system the file's are all there are.
            let mut all = system_roots().unwrap_or_default();
            all.push(b'\n');
            all.extend(own);
            Some(all)
        }
    };
    Ok(OutsidePems {
        roots,
        ..OutsidePems::default()
    })
}

async fn get(
    uri: &KeyUri,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<String, String> {
    let broken = |error: hyper::Error| {
        let cause = error.source().map(|cause| format!(": {cause}"));
        format!("no answer: {error}{}", cause.unwrap_or_default())
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let request = Request::get(uri.path())
        .header(HOST, uri.authority())
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, "naka")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        if status.is_redirection() {
            return Err(format!(
                "it answers {} and leads elsewhere; redirects are not followed",
                status.as_u16()
            ));
        }
        if status != StatusCode::OK {
            return Err(format!("it answers {}", status.as_u16()));
        }
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
        let body = body.map_err(|error| {
            format!("the answer broke off, or is longer than {MAX_BYTES} bytes: {error}")
        })?;
        String::from_utf8(body.to_bytes().into()).map_err(|_| "the answer is no text".to_owned())
    };
    // The connection is driven here and not in a task of its own: it ends with the question.
    tokio::pin!(answer);
    tokio::pin!(connection);
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => {
            // What it brought before it ended may still be a whole answer.
            ended.map_err(broken)?;
            answer.await
        }
    }
}

#[cfg(test)]
mod tests;
