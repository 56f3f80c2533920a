//! Events as log records of OpenTelemetry, sent by HTTP in JSON (OTLP 1.x, `/v1/logs`).
//!
//! JSON and not protobuf: every collector takes both, and a record is read by eye. The body is the event as the export
//! writes it; what is looked for most is an attribute too.
//!
//! Not here: going on where an export ended. Who calls knows it, by `--from`.

use crate::exit::{Exit, Outcome};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use naka_identity::{OutsidePems, outside_tls, system_roots};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Records of one request.
const BATCH: usize = 500;
/// Longest time that a request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// No answer is larger.
const MOST_ANSWER: usize = 1 << 20;
/// Severity `INFO` of OpenTelemetry.
const INFO: u8 = 9;

/// Where records go.
pub(super) struct Collector {
    uri: Uri,
    host: String,
    port: u16,
    pems: Option<OutsidePems>,
}

impl Collector {
    /// Reads the address and the authorities.
    pub(super) fn new(url: &str, authorities: Option<&Path>) -> Outcome<Self> {
        let bad = || {
            Exit::usage(format!(
                "{url:?} is no address of a collector: write http://HOST:4318/v1/logs, or https://"
            ))
        };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let host = uri.host().ok_or_else(bad)?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let (tls, usual) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => return Err(bad()),
        };
        let pems = tls.then(|| trusted(authorities)).transpose()?;
        Ok(Self {
            port: uri.port_u16().unwrap_or(usual),
            host,
            uri,
            pems,
        })
    }

    /// Sends events; an error says what the collector said.
    pub(super) async fn send(&self, events: &[Value]) -> Outcome {
        for batch in events.chunks(BATCH) {
            let body = Bytes::from(records(batch).to_string());
            let sent = tokio::time::timeout(PATIENCE, self.post(body)).await;
            sent.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
                .map_err(|why| Exit::failed(format!("{}: {why}", self.uri)))?;
        }
        Ok(())
    }

    async fn post(&self, body: Bytes) -> Result<(), String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| format!("no connection: {error}"))?;
        let Some(pems) = &self.pems else {
            return self.exchange(stream, body).await;
        };
        let config =
            outside_tls(pems, &[], true, &[b"http/1.1"]).map_err(|error| error.to_string())?;
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| "its host is no name that a certificate can have".to_owned())?;
        let stream = TlsConnector::from(config).connect(name, stream).await;
        let stream = stream.map_err(|error| format!("no TLS: {error}"))?;
        self.exchange(stream, body).await
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        body: Bytes,
    ) -> Result<(), String> {
        let failed = |error: hyper::Error| format!("no answer: {error}");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        let driver = tokio::spawn(connection);
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = self.uri.authority().map_or("", |all| all.as_str());
        let request = Request::post(path)
            .header(HOST, authority)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, "naka")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(failed)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MOST_ANSWER)
            .collect()
            .await;
        driver.abort();
        let body = body.map_err(|error| format!("no answer: {error}"))?;
        if !status.is_success() {
            return Err(format!("it answers {status}"));
        }
        refused(&body.to_bytes())
    }
}

/// A collector may take a request and refuse some of its records.
fn refused(answer: &[u8]) -> Result<(), String> {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let partial = &answer["partialSuccess"];
    // Numbers of 64 bits are texts in this JSON.
    let count = match &partial["rejectedLogRecords"] {
        Value::String(text) => text.parse().unwrap_or(0),
        other => other.as_u64().unwrap_or(0),
    };
    match count {
        0 => Ok(()),
        count => Err(format!(
            "it refuses {count} records: {}",
            partial["errorMessage"].as_str().unwrap_or("without a word")
        )),
    }
}

/// The system's authorities, and those of the file.
fn trusted(authorities: Option<&Path>) -> Outcome<OutsidePems> {
    let roots = match authorities {
        None => None,
        Some(file) => {
            let own = std::fs::read(file)
                .map_err(|error| Exit::failed(format!("{}: {error}", file.display())))?;
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

/// The body of a request.
fn records(events: &[Value]) -> Value {
    let records: Vec<Value> = events.iter().map(record).collect();
    json!({"resourceLogs": [{
        "resource": {"attributes": [attribute("service.name", "naka")]},
        "scopeLogs": [{"scope": {"name": "naka.audit", "version": env!("CARGO_PKG_VERSION")}, "logRecords": records}],
    }]})
}

fn record(event: &Value) -> Value {
    let nanos = event["time_ms"]
        .as_u64()
        .unwrap_or(0)
        .saturating_mul(1_000_000);
    let word = |name: &str| event[name].as_str().unwrap_or_default();
    let object = match &event["object"] {
        Value::Object(_) => format!(
            "{} {}/{}",
            event["object"]["kind"].as_str().unwrap_or_default(),
            event["object"]["namespace"].as_str().unwrap_or_default(),
            event["object"]["name"].as_str().unwrap_or_default(),
        ),
        _ => String::new(),
    };
    let seq = event["seq"].as_u64().unwrap_or_default().to_string();
    let named = [
        ("naka.event.kind", word("kind")),
        ("naka.event.actor", word("actor")),
        ("naka.event.cause", word("cause")),
        ("naka.event.object", object.as_str()),
        ("naka.event.head", word("head")),
    ];
    let mut attributes = vec![json!({"key": "naka.event.seq", "value": {"intValue": seq}})];
    let told = named.into_iter().filter(|(_, value)| !value.is_empty());
    attributes.extend(told.map(|(key, value)| attribute(key, value)));
    json!({
        "timeUnixNano": nanos.to_string(), "observedTimeUnixNano": nanos.to_string(),
        "severityNumber": INFO, "severityText": "INFO",
        "body": {"stringValue": event.to_string()}, "attributes": attributes,
    })
}

fn attribute(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

#[cfg(test)]
mod tests {
    use super::{Collector, record, refused};
    use serde_json::json;

    #[test]
    fn a_record_has_the_event_whole_and_what_is_looked_for() {
        let event = json!({"seq": 7, "time_ms": 1_735_689_600_000_u64, "actor": "user:asha", "cause": "", "kind":
            "object.put", "object": {"kind": "Service", "namespace": "shop", "name": "pay"}, "head": "7:ab"});
        let told = record(&event);
        assert_eq!(told["timeUnixNano"], "1735689600000000000");
        assert_eq!(told["body"]["stringValue"], event.to_string());
        let all = told["attributes"].as_array().unwrap();
        let of = |key: &str| all.iter().find(|one| one["key"] == key).cloned();
        assert_eq!(of("naka.event.seq").unwrap()["value"]["intValue"], "7");
        assert_eq!(
            of("naka.event.object").unwrap()["value"]["stringValue"],
            "Service shop/pay"
        );
        assert_eq!(
            of("naka.event.cause"),
            None,
            "nothing is said by an empty text"
        );
    }

    #[test]
    fn what_a_collector_refuses_is_an_error() {
        assert!(refused(b"").is_ok() && refused(b"{}").is_ok());
        assert!(refused(br#"{"partialSuccess":{"rejectedLogRecords":"0"}}"#).is_ok());
        let told =
            refused(br#"{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"old"}}"#);
        assert_eq!(told, Err("it refuses 2 records: old".to_owned()));
        for bad in ["collector:4318", "ftp://collector/", "http://", "/v1/logs"] {
            assert!(Collector::new(bad, None).is_err(), "{bad}");
        }
    }
}
