//! The demo's steady load: open loop, so that a slow answer never slows the questions.
//!
//! Latency counts from the moment a request was due, not from when it could be sent: a stalled mesh shows as what its
//! callers would feel. It runs on a thread of its own, apart from the demo's reading and printing.

use crate::demo::program::ORDER;
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// More unanswered requests at once are an error of their own.
const MAX_OPEN: usize = 2_000;
/// A request that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What the load has seen so far.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Requests answered or failed.
    pub(crate) requests: u64,
    /// Of these, failed.
    pub(crate) errors: u64,
    /// Failures by what was answered, such as `503 no-healthy-endpoints`.
    pub(crate) failures: BTreeMap<String, u64>,
    /// Latency in microseconds.
    pub(crate) latency: Histogram<u64>,
    /// Ids answered with 200 since they were last taken.
    pub(crate) answered: Vec<String>,
}

impl Seen {
    fn new() -> Self {
        Self {
            requests: 0,
            errors: 0,
            failures: BTreeMap::new(),
            latency: histogram(),
            answered: Vec::new(),
        }
    }

    /// A percentile of the latency in milliseconds.
    pub(crate) fn latency_ms(&self, quantile: f64) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "microseconds of a latency are far below 2^52"
        )]
        let micros = self.latency.value_at_quantile(quantile) as f64;
        micros / 1000.0
    }
}

/// A histogram of latencies up to the timeout, with three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("invariant: the bounds are in order")
}

/// A running load.
#[derive(Debug)]
pub(crate) struct Load {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts a load of `rate` requests per second against the ingress.
    pub(crate) fn start(ingress: SocketAddr, host: &str, rate: u32) -> Self {
        let seen = Arc::new(Mutex::new(Seen::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let every = Duration::from_secs(1) / rate.max(1);
        let host = host.to_owned();
        let thread = {
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            std::thread::Builder::new()
                .name("load".to_owned())
                .spawn(move || {
                    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                    else {
                        return;
                    };
                    let local = tokio::task::LocalSet::new();
                    local.block_on(&runtime, drive(ingress, host, every, seen, &stop));
                })
                .ok()
        };
        Self { seen, stop, thread }
    }

    /// Looks at what was seen.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends no more and waits for what is open.
    pub(crate) fn finish(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn drive(
    ingress: SocketAddr,
    host: String,
    every: Duration,
    seen: Arc<Mutex<Seen>>,
    stop: &AtomicBool,
) {
    let client = Rc::new(Client {
        ingress,
        host,
        idle: RefCell::new(Vec::new()),
        open: RefCell::new(0),
        seen,
    });
    let mut due = Instant::now();
    let mut number: u64 = 0;
    let run = fastrand::u32(..);
    while !stop.load(Ordering::Relaxed) {
        due += every;
        tokio::time::sleep_until(due).await;
        number += 1;
        let id = format!("{run:08x}-{number}");
        if *client.open.borrow() >= MAX_OPEN {
            client.record("", due, Err("too many unanswered requests".to_owned()));
            continue;
        }
        let client = Rc::clone(&client);
        tokio::task::spawn_local(async move {
            *client.open.borrow_mut() += 1;
            let outcome = tokio::time::timeout(TIMEOUT, client.order(&id)).await;
            let outcome = outcome.unwrap_or_else(|_| Err("no answer within 15 s".to_owned()));
            *client.open.borrow_mut() -= 1;
            client.record(&id, due, outcome);
        });
    }
    let end = Instant::now() + TIMEOUT;
    while *client.open.borrow() > 0 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A failure in few words: who of the called services failed, or the mesh's own reason. Never an id: failures are
/// counted by these words.
fn failure(status: http::StatusCode, reason: &str, body: &[u8]) -> String {
    let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let failed: Vec<String> = answer
        .get("calls")
        .and_then(serde_json::Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, status)| **status != 200)
        .map(|(service, status)| format!("{service} answered {status}"))
        .collect();
    let words = [
        status.as_u16().to_string(),
        reason.to_owned(),
        failed.join(", "),
    ];
    let words: Vec<&str> = words
        .iter()
        .map(String::as_str)
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ")
}

struct Client {
    ingress: SocketAddr,
    host: String,
    idle: RefCell<Vec<SendRequest<Full<Bytes>>>>,
    open: RefCell<usize>,
    seen: Arc<Mutex<Seen>>,
}

impl Client {
    fn record(&self, id: &str, due: Instant, outcome: Result<(), String>) {
        let micros = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.requests += 1;
        seen.latency.saturating_record(micros.max(1));
        match outcome {
            Ok(()) => seen.answered.push(id.to_owned()),
            Err(why) => {
                seen.errors += 1;
                *seen.failures.entry(why).or_default() += 1;
            }
        }
    }

    /// One order; `Err` says what came instead of 200.
    async fn order(&self, id: &str) -> Result<(), String> {
        loop {
            let kept = self.idle.borrow_mut().pop();
            let fresh = kept.is_none();
            let mut sender = match kept {
                Some(sender) if sender.is_ready() => sender,
                Some(_) => continue,
                None => self
                    .connect()
                    .await
                    .map_err(|error| format!("connect: {error}"))?,
            };
            match sender.try_send_request(self.request(id)?).await {
                Ok(response) => {
                    let status = response.status();
                    let reason = response
                        .headers()
                        .get("x-naka-reason")
                        .and_then(|value| value.to_str().ok())
                        .unwrap_or_default()
                        .to_owned();
                    let body = response
                        .into_body()
                        .collect()
                        .await
                        .map_err(|error| format!("body: {error}"))?;
                    self.idle.borrow_mut().push(sender);
                    if status == http::StatusCode::OK {
                        return Ok(());
                    }
                    return Err(failure(status, &reason, &body.to_bytes()));
                }
                Err(mut error) => {
                    // Never sent, and over a kept connection: an ordinary client sends it again.
                    if error.take_message().is_none() || fresh {
                        return Err(format!("connection: {}", error.into_error()));
                    }
                }
            }
        }
    }

    fn request(&self, id: &str) -> Result<Request<Full<Bytes>>, String> {
        Request::builder()
            .uri("/order")
            .header(header::HOST, &self.host)
            .header(ORDER, id)
            .header("x-request-id", id)
            .body(Full::default())
            .map_err(|error| error.to_string())
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let stream = TcpStream::connect(self.ingress)
            .await
            .map_err(|error| error.to_string())?;
        let _ = stream.set_nodelay(true);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::task::spawn_local(connection);
        sender.ready().await.map_err(|error| error.to_string())?;
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::failure;
    use http::StatusCode;

    #[test]
    fn failures_are_told_by_who_failed_and_never_by_order() {
        let body = br#"{"order":"1","calls":{"bank":200,"payment":503}}"#;
        assert_eq!(
            failure(StatusCode::BAD_GATEWAY, "", body),
            "502 payment answered 503"
        );
        assert_eq!(
            failure(
                StatusCode::SERVICE_UNAVAILABLE,
                "no-healthy-endpoints",
                b"x"
            ),
            "503 no-healthy-endpoints"
        );
    }
}
