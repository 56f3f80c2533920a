//! Spans on their way to collectors of OpenTelemetry: by gRPC or by HTTP, in protobuf.
//!
//! Each place has a queue and a task of its own. What a place does not take in time waits, so many spans at most, and is
//! counted beyond that: nobody else waits for it, neither another place nor a proxy. A span goes once, when it has ended;
//! what belongs to a trace the collector finds out by its id.
//!
//! Attributes are those of OpenTelemetry's conventions for HTTP, and beside them the ones that Envoy's spans have
//! (`http.method`, `http.url`, `http.status_code`, `component`, `response_flags`, `upstream_cluster`), so that views which
//! were made for Istio find what they look for.

use super::{Held, Who, view};
use crate::export::{Collector, Connection, Unsent};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, Request, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use naka_types::reason::Reason;
use naka_wire::otlp::{
    AnyValue, ExportTraceServiceRequest, ExportTraceServiceResponse, InstrumentationScope,
    KeyValue, Resource, ResourceSpans, ScopeSpans, Span, Status, Value,
};
use naka_wire::prost::Message;
use naka_wire::v1::span::Kind;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// Spans that wait for one place.
const QUEUE: usize = 4_096;
/// Spans of one request.
const BATCH: usize = 512;
/// Spans of this time go together.
const TOGETHER: Duration = Duration::from_millis(200);
/// Longest time that a request may take.
const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// No answer is larger.
const MOST_ANSWER: usize = 1 << 20;
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// How a place is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Grpc,
    Http,
}

/// A place.
#[derive(Debug)]
pub struct Place {
    collector: Collector,
    speaks: Speaks,
    counts: Arc<Counts>,
    waiting: mpsc::Receiver<Held>,
    door: mpsc::Sender<Held>,
}

/// What became of the spans for one place.
#[derive(Debug, Default)]
pub struct Counts {
    /// Spans that the collector took.
    pub sent: AtomicU64,
    /// Spans that had no room to wait, or that it refused.
    pub dropped: AtomicU64,
}

/// Where to put spans for a place.
#[derive(Debug, Clone)]
pub struct Door {
    door: mpsc::Sender<Held>,
    /// What became of them.
    pub counts: Arc<Counts>,
}

impl Door {
    /// Puts a span there, or counts it.
    pub(crate) fn put(&self, held: &Held) {
        if let Err(TrySendError::Full(_)) = self.door.try_send(held.clone()) {
            self.counts.dropped.fetch_add(1, Relaxed);
        }
    }
}

impl Place {
    /// Reads an address: `grpc://HOST:4317`, `grpcs://…`, `http://HOST:4318/v1/traces`, `https://…`.
    ///
    /// # Errors
    /// In words, when it is none, or the file of authorities cannot be read.
    pub fn new(url: &str, authorities: Option<&Path>) -> Result<Self, String> {
        let bad = |_| {
            format!(
                "{url:?} is no address of a collector: write grpc://HOST:4317 (grpcs:// with TLS) or http://HOST:4318/v1/traces (https:// with TLS)"
            )
        };
        let (plain, speaks) = match url.split_once("://") {
            Some(("grpc", rest)) => (format!("http://{rest}"), Speaks::Grpc),
            Some(("grpcs", rest)) => (format!("https://{rest}"), Speaks::Grpc),
            _ => (url.to_owned(), Speaks::Http),
        };
        let unread = authorities.filter(|file| std::fs::metadata(file).is_err());
        if let Some(file) = unread {
            return Err(format!("{}: it cannot be read", file.display()));
        }
        let collector = Collector::new(&plain, authorities).map_err(bad)?;
        let (door, waiting) = mpsc::channel(QUEUE);
        Ok(Self {
            collector,
            speaks,
            counts: Arc::default(),
            waiting,
            door,
        })
    }

    /// Where to put spans.
    #[must_use]
    pub fn door(&self) -> Door {
        Door {
            door: self.door.clone(),
            counts: Arc::clone(&self.counts),
        }
    }

    /// Sends for as long as it is not dropped.
    pub async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut failing = false;
        loop {
            let Some(first) = self.waiting.recv().await else {
                return;
            };
            tokio::time::sleep(TOGETHER).await;
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(next) = self.waiting.try_recv()
            {
                batch.push(next);
            }
            let body = Bytes::from(request(&batch).encode_to_vec());
            let count = batch.len() as u64;
            loop {
                let sent = tokio::time::timeout(PATIENCE, self.send(body.clone())).await;
                match sent.unwrap_or_else(|_| Err(Unsent::Later("no answer in time".to_owned()))) {
                    Ok(()) => {
                        self.counts.sent.fetch_add(count, Relaxed);
                        break;
                    }
                    Err(Unsent::Never {
                        count: refused,
                        why,
                    }) => {
                        tracing::warn!(to = %self.collector.uri(), why, refused, "spans are refused");
                        self.counts.dropped.fetch_add(refused.min(count), Relaxed);
                        self.counts
                            .sent
                            .fetch_add(count.saturating_sub(refused), Relaxed);
                        break;
                    }
                    Err(Unsent::Later(why)) => {
                        if !failing {
                            tracing::warn!(to = %self.collector.uri(), why, "spans wait for their collector");
                        }
                        failing = true;
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                }
            }
            (failing, pause) = (false, FIRST_PAUSE);
        }
    }

    async fn send(&self, body: Bytes) -> Result<(), Unsent> {
        match self.speaks {
            Speaks::Http => {
                self.by_http(self.collector.open(b"http/1.1").await?, body)
                    .await
            }
            Speaks::Grpc => self.by_grpc(self.collector.open(b"h2").await?, body).await,
        }
    }

    async fn by_http(&self, stream: Box<dyn Connection>, body: Bytes) -> Result<(), Unsent> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(late)?;
        let driver = tokio::spawn(connection);
        let uri = self.collector.uri();
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::post(path)
            .header(HOST, uri.authority().map_or("", |all| all.as_str()))
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, "naka")
            .body(Full::new(body))
            .map_err(|error| Unsent::Later(error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(late)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MOST_ANSWER)
            .collect()
            .await;
        driver.abort();
        let body = body.map_err(|error| Unsent::Later(format!("no answer: {error}")))?;
        if !status.is_success() {
            return Err(Unsent::Later(format!("it answers {status}")));
        }
        taken(&body.to_bytes())
    }

    /// One message each way; that needs no more of gRPC than its frame and its status.
    async fn by_grpc(&self, stream: Box<dyn Connection>, body: Bytes) -> Result<(), Unsent> {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(late)?;
        let driver = tokio::spawn(connection);
        let uri = self.collector.uri();
        let authority = uri.authority().map_or("", |all| all.as_str());
        let scheme = uri.scheme_str().unwrap_or("http");
        let request = Request::post(format!("{scheme}://{authority}{EXPORT}"))
            .version(Version::HTTP_2)
            .header(CONTENT_TYPE, "application/grpc")
            .header("te", "trailers")
            .header(USER_AGENT, "naka")
            .body(Full::new(framed(&body)))
            .map_err(|error| Unsent::Later(error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(late)?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MOST_ANSWER).collect().await;
        driver.abort();
        let body = body.map_err(|error| Unsent::Later(format!("no answer: {error}")))?;
        let status = grpc(&head.headers).or_else(|| grpc(body.trailers()?));
        match status {
            Some((0, _)) => taken(body.to_bytes().get(5..).unwrap_or_default()),
            Some((code, why)) => Err(Unsent::Later(format!("it answers gRPC {code}: {why}"))),
            None => Err(Unsent::Later(format!(
                "it answers {}, which is no gRPC",
                head.status
            ))),
        }
    }
}

fn late(error: hyper::Error) -> Unsent {
    Unsent::Later(format!("no answer: {error}"))
}

fn framed(message: &Bytes) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

fn grpc(headers: &HeaderMap) -> Option<(u32, String)> {
    let status = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let why = headers
        .get("grpc-message")
        .and_then(|why| why.to_str().ok());
    Some((status, why.unwrap_or_default().to_owned()))
}

/// A collector may take a request and refuse some of its spans.
fn taken(answer: &[u8]) -> Result<(), Unsent> {
    let answer = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
    let partial = answer.partial_success.unwrap_or_default();
    match u64::try_from(partial.rejected_spans) {
        Ok(count) if count > 0 => Err(Unsent::Never {
            count,
            why: partial.error_message,
        }),
        _ => Ok(()),
    }
}

/// The body of a request.
fn request(batch: &[Held]) -> ExportTraceServiceRequest {
    let mut by_who: BTreeMap<&str, (&Who, Vec<Span>)> = BTreeMap::new();
    for held in batch {
        let of = by_who
            .entry(&held.who.id)
            .or_insert_with(|| (&*held.who, Vec::new()));
        of.1.push(span(held));
    }
    let scope = InstrumentationScope {
        name: "naka".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let of_one = |(who, spans)| ResourceSpans {
        resource: Some(resource(who)),
        scope_spans: vec![ScopeSpans {
            scope: Some(scope.clone()),
            spans,
        }],
    };
    ExportTraceServiceRequest {
        resource_spans: by_who.into_values().map(of_one).collect(),
    }
}

fn resource(who: &Who) -> Resource {
    let all = [
        ("service.name", who.name()),
        ("service.namespace", &who.namespace),
        ("service.version", &who.version),
        ("service.instance.id", &who.id),
        ("naka.workload", &who.workload),
    ];
    let told = all.into_iter().filter(|(_, value)| !value.is_empty());
    Resource {
        attributes: told.map(|(key, value)| text(key, value)).collect(),
    }
}

fn span(held: &Held) -> Span {
    let (of, who) = (&held.span, &held.who);
    let served = of.kind() != Kind::Client;
    let called = match of.kind() {
        Kind::Server => who.name().to_owned(),
        _ => view::meant(of),
    };
    let start = of.start_us.saturating_mul(1000);
    let parent = match of.parent_id {
        0 => Vec::new(),
        parent => parent.to_be_bytes().to_vec(),
    };
    let reason = Reason::parse(&of.reason);
    let bad = view::is_error(of);
    let word = reason.map_or_else(|| of.status.to_string(), |reason| reason.code().to_owned());
    Span {
        trace_id: of.trace_id.clone(),
        span_id: of.span_id.to_be_bytes().to_vec(),
        parent_span_id: parent,
        name: format!("{} {called}", of.method),
        kind: if served { 2 } else { 3 },
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(of.duration_us.saturating_mul(1000)),
        attributes: attributes(held, &called, &word),
        status: bad.then(|| Status {
            message: word.clone(),
            code: 2,
        }),
        flags: u32::from(of.sampled),
    }
}

fn attributes(held: &Held, called: &str, word: &str) -> Vec<KeyValue> {
    let (of, who) = (&held.span, &held.who);
    let reason = Reason::parse(&of.reason);
    let status = i64::from(of.status);
    let mut all = vec![
        text("http.request.method", &of.method),
        text("url.path", &of.path),
        text("server.address", called),
        text("http.method", &of.method),
        text("http.url", &format!("http://{called}{}", of.path)),
        text("component", "proxy"),
        text("response_flags", reason.map_or("-", Reason::flag)),
        text("istio.canonical_service", who.name()),
        text("istio.namespace", &who.namespace),
    ];
    if status != 0 {
        all.push(number("http.response.status_code", status));
        all.push(number("http.status_code", status));
    }
    if let Some(grpc) = of.grpc.checked_sub(1) {
        all.push(number("rpc.grpc.status_code", grpc.into()));
    }
    if view::is_error(of) {
        all.push(text("error.type", word));
    }
    if of.attempts > 1 {
        all.push(number(
            "http.request.resend_count",
            i64::from(of.attempts) - 1,
        ));
    }
    let optional = [
        ("naka.reason", &of.reason),
        ("upstream_cluster", &of.cluster),
        ("network.peer.address", &of.address),
        ("naka.caller", &of.caller),
    ];
    let told = optional.into_iter().filter(|(_, value)| !value.is_empty());
    all.extend(told.map(|(key, value)| text(key, value)));
    if of.slow {
        let value = Some(AnyValue {
            value: Some(Value::Bool(true)),
        });
        all.push(KeyValue {
            key: "naka.slow".to_owned(),
            value,
        });
    }
    all
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(Value::Text(value.to_owned())),
        }),
    }
}

fn number(key: &str, value: i64) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(Value::Int(value)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, Unsent, framed, taken};
    use naka_wire::otlp::{ExportTracePartialSuccess, ExportTraceServiceResponse};
    use naka_wire::prost::Message;

    #[test]
    fn addresses_of_collectors_are_told_from_others() {
        for good in [
            "grpc://collector:4317",
            "grpcs://collector:4317",
            "http://collector:4318/v1/traces",
            "https://[::1]:4318/v1/traces",
        ] {
            assert!(Place::new(good, None).is_ok(), "{good}");
        }
        for bad in [
            "collector:4317",
            "ftp://collector",
            "grpc://",
            "",
            "grpc:collector",
        ] {
            let error = Place::new(bad, None).unwrap_err();
            assert!(error.contains("write grpc://HOST:4317"), "{error}");
        }
    }

    #[test]
    fn what_a_collector_refuses_is_counted() {
        assert!(taken(b"").is_ok());
        assert!(
            taken(b"\xff\xff nonsense").is_ok(),
            "an answer of another kind is an answer"
        );
        let answer = ExportTraceServiceResponse {
            partial_success: Some(ExportTracePartialSuccess {
                rejected_spans: 3,
                error_message: "old".to_owned(),
            }),
        };
        let why = "old".to_owned();
        assert_eq!(
            taken(&answer.encode_to_vec()),
            Err(Unsent::Never { count: 3, why })
        );
        assert_eq!(
            framed(&b"abc".as_slice().into()),
            b"\0\0\0\0\x03abc".as_slice()
        );
    }
}
