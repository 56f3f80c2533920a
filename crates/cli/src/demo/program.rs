//! One program of the demo: an ordinary HTTP service without a line of mesh code.
//!
//! It calls other services by plain name, reads `http_proxy` like any program that honours it, and writes one JSON line
//! per request it served and per call it made. The demo counts from these lines, because what the mesh says of itself
//! proves nothing.
//!
//! ```text
//! {"served":"<id>","t":<ms>,"peer":"spiffe://…","version":"v2"}
//! {"called":"<id>","t":<ms>,"to":"payment","status":200}
//! ```

use crate::args;
use crate::demo::scenario::stage::{Ask, Asked};
use crate::exit::Outcome;
use crate::out;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::request::Builder;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use naka_types::header as names;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

/// Header that carries the order through all its calls.
pub(crate) const ORDER: &str = "x-order-id";
/// Order that only asks whether orders go through; nobody counts it.
pub(crate) const PROBE: &str = "probe";
/// Lines of one log file; then the next one begins.
const SEGMENT: u64 = 100_000;
/// A call that takes longer has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Runs one program until SIGTERM.
pub(crate) fn run(args: &args::DemoProgram) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let program = Rc::new(Program {
        version: args.version.clone(),
        calls: args.call.clone(),
        status: StatusCode::from_u16(args.status).unwrap_or(StatusCode::OK),
        delay: Duration::from_millis(args.delay_ms),
        log: RefCell::new(Log::open(
            &args.log_dir,
            &format!("{}-{}", args.name, args.version),
        )?),
        caller: Caller::from_env(),
    });
    let local = tokio::task::LocalSet::new();
    match &args.ask {
        Some(file) => local.block_on(&runtime, ask_all(program, file)),
        None => local.block_on(&runtime, serve(program)),
    }
}

/// Asks what the file says and prints what came of each.
async fn ask_all(program: Rc<Program>, file: &Path) -> Outcome {
    let asks: Vec<Ask> =
        serde_json::from_slice(&std::fs::read(file)?).map_err(std::io::Error::from)?;
    for ask in asks {
        let mut request = Request::builder()
            .method(ask.method.as_str())
            .header(header::HOST, &ask.host)
            .header(ORDER, &ask.id);
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        let request = match &program.caller.proxy {
            Some(proxy) => proxy.absolute(request, &ask.host, &ask.path),
            None => request.uri(&ask.path),
        };
        let status = match request.body(Full::new(Bytes::new())) {
            Ok(request) => {
                let answer = program.caller.send(&ask.host, request);
                tokio::time::timeout(CALL_TIMEOUT, answer)
                    .await
                    .unwrap_or(0)
            }
            Err(_) => 0,
        };
        out::line(json!(Asked { id: ask.id, status }).to_string());
    }
    Ok(())
}

struct Program {
    version: String,
    calls: Vec<String>,
    /// Of its answers, unless a call of its own fails.
    status: StatusCode,
    delay: Duration,
    log: RefCell<Log>,
    caller: Caller,
}

async fn serve(program: Rc<Program>) -> Outcome {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = terminate.recv() => return Ok(()),
        };
        let _ = stream.set_nodelay(true);
        let program = Rc::clone(&program);
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| {
                let program = Rc::clone(&program);
                async move { Ok::<_, std::convert::Infallible>(program.answer(request).await) }
            });
            // A connection that breaks is the caller's affair.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

impl Program {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let word = |name: &str| {
            request
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        let (id, peer) = (word(ORDER), peer_uri(&word("x-forwarded-client-cert")));
        let trace = word(names::TRACEPARENT);
        let _ = request.into_body().collect().await;
        self.log
            .borrow_mut()
            .line(&json!({"served": id, "t": now_ms(), "peer": peer, "version": self.version}));
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        let mut status = self.status;
        let mut answers = serde_json::Map::new();
        for service in &self.calls {
            let answered = self.call(service, &id, &trace).await;
            self.log
                .borrow_mut()
                .line(&json!({"called": id, "t": now_ms(), "to": service, "status": answered}));
            if answered != 200 {
                status = StatusCode::BAD_GATEWAY;
            }
            answers.insert(service.clone(), json!(answered));
        }
        let body = json!({"order": id, "version": self.version, "calls": answers});
        let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
        *response.status_mut() = status;
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/json"),
        );
        response
    }

    /// Status of the called service; 0 when there was no answer at all.
    async fn call(&self, service: &str, id: &str, trace: &str) -> u16 {
        let request = Request::builder()
            .method(Method::POST)
            .header(header::HOST, service)
            .header(ORDER, id)
            .header(names::TRACEPARENT, trace)
            .header(header::CONTENT_TYPE, "application/json");
        let request = match &self.caller.proxy {
            Some(proxy) => proxy.absolute(request, service, &format!("/{service}")),
            None => request.uri(format!("/{service}")),
        };
        let body = json!({"order": id, "card": CARD}).to_string();
        let Ok(request) = request.body(Full::new(Bytes::from(body))) else {
            return 0;
        };
        tokio::time::timeout(CALL_TIMEOUT, self.caller.send(service, request))
            .await
            .unwrap_or(0)
    }
}

/// The planted marker: a card number that must never be seen on the wire.
pub(crate) const CARD: &str = "4000-0012-3456-7899";

/// The URI of an `x-forwarded-client-cert` header: who the sidecar says the verified caller is.
fn peer_uri(header: &str) -> String {
    header
        .split([';', ','])
        .find_map(|part| part.trim().strip_prefix("URI="))
        .unwrap_or_default()
        .trim_matches('"')
        .to_owned()
}

/// Calls to others, with a few kept connections.
struct Caller {
    proxy: Option<Proxy>,
    idle: RefCell<BTreeMap<String, Vec<SendRequest<Full<Bytes>>>>>,
}

/// The HTTP proxy of the environment.
struct Proxy {
    address: String,
    credential: Option<String>,
}

impl Proxy {
    fn from_env() -> Option<Self> {
        let url = std::env::var("http_proxy").ok()?;
        let rest = url
            .strip_prefix("http://")
            .unwrap_or(&url)
            .trim_end_matches('/');
        let (credential, address) = match rest.rsplit_once('@') {
            Some((credential, address)) => {
                let coded = STANDARD.encode(credential);
                (Some(format!("Basic {coded}")), address)
            }
            None => (None, rest),
        };
        Some(Self {
            address: address.to_owned(),
            credential,
        })
    }

    /// The request as a proxy takes it.
    fn absolute(&self, request: Builder, service: &str, path: &str) -> Builder {
        let request = request.uri(format!("http://{service}{path}"));
        match &self.credential {
            Some(credential) => request.header(header::PROXY_AUTHORIZATION, credential),
            None => request,
        }
    }
}

impl Caller {
    fn from_env() -> Self {
        Self {
            proxy: Proxy::from_env(),
            idle: RefCell::default(),
        }
    }

    /// Sends over a kept connection when there is one; a request that never left is sent again over a new one.
    async fn send(&self, service: &str, mut request: Request<Full<Bytes>>) -> u16 {
        let address = match &self.proxy {
            Some(proxy) => proxy.address.clone(),
            None => format!("{service}:80"),
        };
        loop {
            let kept = self.idle.borrow_mut().get_mut(&address).and_then(Vec::pop);
            let fresh = kept.is_none();
            let sender = match kept {
                Some(sender) if sender.is_ready() => Some(sender),
                Some(_) => continue,
                None => connect(&address).await,
            };
            let Some(mut sender) = sender else {
                return 0;
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let status = response.status().as_u16();
                    if response.into_body().collect().await.is_err() {
                        return 0;
                    }
                    let mut idle = self.idle.borrow_mut();
                    idle.entry(address).or_default().push(sender);
                    return status;
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !fresh => request = unsent,
                    _ => return 0,
                },
            }
        }
    }
}

async fn connect(address: &str) -> Option<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await.ok()?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::task::spawn_local(connection);
    sender.ready().await.ok()?;
    Some(sender)
}

/// A log in numbered files, so that a reader can remove what it has read.
struct Log {
    dir: PathBuf,
    stem: String,
    file: File,
    segment: u64,
    lines: u64,
}

/// Path of one file of a log.
pub(crate) fn segment(dir: &Path, stem: &str, number: u64) -> PathBuf {
    dir.join(format!("{stem}.{number}.jsonl"))
}

impl Log {
    fn open(dir: &Path, stem: &str) -> Outcome<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            stem: stem.to_owned(),
            file: append(&segment(dir, stem, 0))?,
            segment: 0,
            lines: 0,
        })
    }

    /// Writes a line whole. A full disk loses lines, which the join shows; it must not stop the program.
    fn line(&mut self, value: &Value) {
        if self.lines == SEGMENT
            && let Ok(file) = append(&segment(&self.dir, &self.stem, self.segment + 1))
        {
            self.file = file;
            self.segment += 1;
            self.lines = 0;
        }
        self.lines += 1;
        let _ = self.file.write_all(format!("{value}\n").as_bytes());
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    File::options().create(true).append(true).open(path)
}

fn now_ms() -> u64 {
    crate::cmd::history::now_ms()
}

#[cfg(test)]
mod tests {
    use super::peer_uri;

    #[test]
    fn the_peer_is_the_uri_of_the_certificate_header() {
        let header =
            "By=spiffe://a/ns/b/sa/c;Hash=00;Subject=\"CN=1\";URI=spiffe://a/ns/b/sa/order";
        assert_eq!(peer_uri(header), "spiffe://a/ns/b/sa/order");
        assert_eq!(peer_uri(""), "");
        assert_eq!(peer_uri("Hash=1"), "");
    }
}
