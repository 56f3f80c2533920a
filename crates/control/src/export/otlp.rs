//! Events as log records of OpenTelemetry, sent by HTTP in JSON (OTLP 1.x, `/v1/logs`).
//!
//! JSON and not protobuf: every collector takes both, and a record is read by eye. The body is the event as the export
//! writes it; what is looked for most is an attribute too.
//!
//! Not here: going on where an export ended. Who calls knows it.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use naka_identity::{OutsidePems, outside_tls, system_roots};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use std::fmt;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Records and bytes of one request, about.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 4 << 20;
/// Longest time that a request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// No answer is larger.
const MOST_ANSWER: usize = 1 << 20;
/// Severity `INFO` of OpenTelemetry.
const INFO: u8 = 9;

/// Why records are not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsent {
    /// They may be sent again.
    Later(String),
    /// The collector took the request and refuses so many of its records for good.
    Never {
        /// How many.
        count: u64,
        /// What it said.
        why: String,
    },
}

impl fmt::Display for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Later(why) => f.write_str(why),
            Self::Never { count, why } => write!(f, "it refuses {count} records: {why}"),
        }
    }
}

/// A connection of either kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Where records go.
#[derive(Debug)]
pub struct Collector {
    uri: Uri,
    host: String,
    port: u16,
    pems: Option<OutsidePems>,
}

impl Collector {
    /// Reads the address and the authorities.
    ///
    /// # Errors
    /// In words, when one of them cannot be read.
    pub fn new(url: &str, authorities: Option<&Path>) -> Result<Self, String> {
        let bad = || {
            format!(
                "{url:?} is no address of a collector: write http://HOST:4318/v1/logs, or https://"
            )
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
    ///
    /// # Errors
    /// [`Unsent`]: of several requests the first that failed for now, else what was refused of all of them.
    pub async fn send(&self, events: &[Value]) -> Result<(), Unsent> {
        let mut refused: Option<(u64, String)> = None;
        for batch in batches(events) {
            let body = Bytes::from(records(batch).to_string());
            let sent = tokio::time::timeout(PATIENCE, self.post(body)).await;
            let sent = sent
                .unwrap_or_else(|_| Err(Unsent::Later(format!("no answer within {PATIENCE:?}"))));
            match sent {
                Ok(()) => {}
                Err(Unsent::Later(why)) => {
                    return Err(Unsent::Later(format!("{}: {why}", self.uri)));
                }
                Err(Unsent::Never { count, why }) => {
                    let (before, _) = refused.unwrap_or_default();
                    refused = Some((before + count, format!("{}: {why}", self.uri)));
                }
            }
        }
        match refused {
            None => Ok(()),
            Some((count, why)) => Err(Unsent::Never { count, why }),
        }
    }

    async fn post(&self, body: Bytes) -> Result<(), Unsent> {
        let stream = self.open(b"http/1.1").await?;
        self.exchange(stream, body).await
    }

    /// Its address.
    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// A connection to it, by TLS where its address says so.
    pub(crate) async fn open(&self, alpn: &'static [u8]) -> Result<Box<dyn Stream>, Unsent> {
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| Unsent::Later(format!("no connection: {error}")))?;
        let Some(pems) = &self.pems else {
            return Ok(Box::new(stream));
        };
        let config = outside_tls(pems, &[], true, &[alpn])
            .map_err(|error| Unsent::Later(error.to_string()))?;
        let name = ServerName::try_from(self.host.clone()).map_err(|_| {
            Unsent::Later("its host is no name that a certificate can have".to_owned())
        })?;
        let stream = TlsConnector::from(config).connect(name, stream).await;
        let stream = stream.map_err(|error| Unsent::Later(format!("no TLS: {error}")))?;
        Ok(Box::new(stream))
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        body: Bytes,
    ) -> Result<(), Unsent> {
        let failed = |error: hyper::Error| Unsent::Later(format!("no answer: {error}"));
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
            .map_err(|error| Unsent::Later(error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(failed)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MOST_ANSWER)
            .collect()
            .await;
        driver.abort();
        let body = body.map_err(|error| Unsent::Later(format!("no answer: {error}")))?;
        if !status.is_success() {
            return Err(Unsent::Later(format!("it answers {status}")));
        }
        refused(&body.to_bytes())
    }
}

/// A collector may take a request and refuse some of its records.
fn refused(answer: &[u8]) -> Result<(), Unsent> {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let partial = &answer["partialSuccess"];
    // Numbers of 64 bits are texts in this JSON.
    let count = match &partial["rejectedLogRecords"] {
        Value::String(text) => text.parse().unwrap_or(0),
        other => other.as_u64().unwrap_or(0),
    };
    match count {
        0 => Ok(()),
        count => {
            let why = partial["errorMessage"].as_str().unwrap_or("without a word");
            Err(Unsent::Never {
                count,
                why: why.to_owned(),
            })
        }
    }
}

/// The system's authorities, and those of the file.
fn trusted(authorities: Option<&Path>) -> Result<OutsidePems, String> {
    let roots = match authorities {
        None => None,
        Some(file) => {
            let own =
                std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
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

/// Parts that are small enough for a request; an event that is larger goes alone.
fn batches(events: &[Value]) -> Vec<&[Value]> {
    let (mut all, mut begin, mut bytes) = (Vec::new(), 0, 0);
    for (at, event) in events.iter().enumerate() {
        let size = event.to_string().len();
        if at > begin && (at - begin >= BATCH || bytes + size > BATCH_BYTES) {
            all.push(&events[begin..at]);
            (begin, bytes) = (at, 0);
        }
        bytes += size;
    }
    all.push(&events[begin..]);
    all.retain(|batch| !batch.is_empty());
    all
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
        ("naka.event.stream", word("stream")),
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
    use super::{BATCH, BATCH_BYTES, Collector, Unsent, batches, record, refused};
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
        let why = "old".to_owned();
        assert_eq!(told, Err(Unsent::Never { count: 2, why }));
        assert_eq!(told.unwrap_err().to_string(), "it refuses 2 records: old");
        for bad in ["collector:4318", "ftp://collector/", "http://", "/v1/logs"] {
            assert!(Collector::new(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_request_has_a_size() {
        let sizes = |events: &[serde_json::Value]| -> Vec<usize> {
            batches(events).iter().map(|batch| batch.len()).collect()
        };
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&vec![json!(1); BATCH + 1]), [BATCH, 1]);
        let large = json!("x".repeat(BATCH_BYTES / 2));
        assert_eq!(
            sizes(&[large.clone(), json!(1), large.clone(), large]),
            [2, 1, 1]
        );
    }
}
