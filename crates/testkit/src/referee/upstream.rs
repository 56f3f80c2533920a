//! The called side: scripted servers in this process, any number of them: HTTP/1.1, HTTP/2 with prior knowledge or by
//! ALPN, or bytes; with TLS where they have a certificate, and after a PROXY header where they want one.
//!
//! A request of a case carries its number in a header, and what the case wants its tries to end with is looked up by
//! that number, so many cases can use the servers at once. What arrives is kept by the same number. Mirrored copies
//! (their host ends in `-shadow`) are kept apart and use up no answer.

use super::case::Server;
use super::certs::Certs;
use super::proxied;
use super::seen::Arrival;
use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Header with the number of a request.
pub const NUMBER: &str = "x-referee";
/// Header with the time that a proxy gives its endpoint.
const EXPECTED: &str = "x-envoy-expected-rq-timeout-ms";

/// All servers.
#[derive(Debug, Clone)]
pub struct Upstreams {
    runtime: tokio::runtime::Handle,
    book: Arc<Mutex<Book>>,
}

/// What is to be answered and what has come, by number of the request.
#[derive(Debug, Default)]
struct Book {
    answers: BTreeMap<String, Vec<String>>,
    arrivals: BTreeMap<String, Vec<Arrival>>,
    mirrored: BTreeMap<String, Vec<Arrival>>,
}

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub struct Endpoint {
    /// Name, where the case gave one.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its Unix socket, where it listens there instead.
    pub socket: Option<PathBuf>,
    task: Option<JoinHandle<()>>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        if let Some(path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What a server needs to answer.
struct Served {
    tls: Option<TlsAcceptor>,
    certs: Arc<Certs>,
    server: Server,
    clusters: BTreeSet<String>,
    book: Arc<Mutex<Book>>,
}

impl Upstreams {
    /// Servers on a runtime.
    #[must_use]
    pub fn new(runtime: tokio::runtime::Handle) -> Self {
        Self {
            runtime,
            book: Arc::default(),
        }
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a server that is a member of these clusters.
    ///
    /// # Errors
    /// When there is no port.
    pub fn open(
        &self,
        server: &Server,
        clusters: BTreeSet<String>,
        certs: &Arc<Certs>,
    ) -> Result<Endpoint> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        // The port is nobody else's meanwhile, so it makes a name.
        let own = format!("naka-referee-{}-{}", std::process::id(), address.port());
        let socket = server.socket.then(|| std::env::temp_dir().join(own));
        let task = if server.refused {
            None
        } else {
            listener.set_nonblocking(true)?;
            let tls = server.cert.as_ref().map(|name| certs.server(name));
            let served = Arc::new(Served {
                tls: tls.transpose()?.map(|c| TlsAcceptor::from(Arc::new(c))),
                certs: Arc::clone(certs),
                server: server.clone(),
                clusters,
                book: Arc::clone(&self.book),
            });
            let _inside = self.runtime.enter();
            match &socket {
                None => {
                    let listener = TcpListener::from_std(listener)?;
                    Some(self.runtime.spawn(accept(listener, served)))
                }
                Some(path) => {
                    let listener = UnixListener::bind(path)?;
                    Some(self.runtime.spawn(accept_unix(listener, served)))
                }
            }
        };
        Ok(Endpoint {
            name: server.name.clone(),
            address,
            socket,
            task,
        })
    }

    /// Says how the tries of a request will end.
    pub fn expect(&self, number: &str, answers: &[String]) {
        self.book()
            .answers
            .insert(number.to_owned(), answers.to_vec());
    }

    /// Takes what has arrived of a request: its tries.
    #[must_use]
    pub fn take(&self, number: &str) -> Vec<Arrival> {
        let mut book = self.book();
        book.answers.remove(number);
        book.arrivals.remove(number).unwrap_or_default()
    }

    /// Copies of a request that have arrived so far.
    #[must_use]
    pub fn mirrored(&self, number: &str) -> Vec<Arrival> {
        self.book()
            .mirrored
            .get(number)
            .cloned()
            .unwrap_or_default()
    }
}

async fn accept(listener: TcpListener, served: Arc<Served>) {
    // Connections end with the server.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(stream, Arc::clone(&served)));
    }
}

async fn accept_unix(listener: UnixListener, served: Arc<Served>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let served = Arc::clone(&served);
        connections.spawn(async move { speak(stream, Caller::default(), &served).await });
    }
}

/// What a connection says of its caller.
#[derive(Debug, Clone, Default)]
struct Caller {
    proxied: Option<String>,
    tls: bool,
    sni: Option<String>,
    cert: Option<String>,
}

async fn connection(mut stream: TcpStream, served: Arc<Served>) {
    let _ = stream.set_nodelay(true);
    let mut caller = Caller::default();
    if served.server.proxied {
        // Who says something else first is not spoken to.
        let Ok(said) = proxied::read(&mut stream).await else {
            return;
        };
        caller.proxied = Some(said);
    }
    let Some(tls) = &served.tls else {
        return speak(stream, caller, &served).await;
    };
    let Ok(stream) = tls.accept(stream).await else {
        return;
    };
    let (_, connection) = stream.get_ref();
    let shown = connection.peer_certificates().and_then(<[_]>::first);
    let caller = Caller {
        tls: true,
        sni: connection.server_name().map(str::to_owned),
        cert: shown.map(|shown| served.certs.name(shown)),
        ..caller
    };
    speak(stream, caller, &served).await;
}

async fn speak<S>(stream: S, caller: Caller, served: &Arc<Served>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if served.server.tcp {
        let _ = served.lines(stream, &caller).await;
        return;
    }
    let service = service_fn(|request| {
        let (served, caller) = (Arc::clone(served), caller.clone());
        async move { served.answer(request, &caller).await }
    });
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let _ = builder
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
}

/// The connection is to break.
#[derive(Debug)]
struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken on purpose")
    }
}

impl std::error::Error for Broken {}

impl Served {
    /// Says its greeting, then sends back each line without the number that it begins with.
    async fn lines<S>(&self, stream: S, caller: &Caller) -> std::io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut stream = BufReader::new(stream);
        stream.write_all(self.server.greeting.as_bytes()).await?;
        stream.flush().await?;
        if self.server.reset {
            return Ok(());
        }
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 0 {
            let (number, rest) = line.split_once(' ').unwrap_or(("", &line));
            let arrival = Arrival {
                clusters: self.clusters.clone(),
                endpoint: self.server.name.clone(),
                proxied: caller.proxied.clone(),
                tls: caller.tls,
                sni: caller.sni.clone(),
                cert: caller.cert.clone(),
                ..Arrival::default()
            };
            {
                let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
                let tries = book.arrivals.entry(number.to_owned()).or_default();
                tries.push(arrival);
            }
            let answer = format!("{}{rest}", self.server.body);
            stream.write_all(answer.as_bytes()).await?;
            stream.flush().await?;
            line.clear();
        }
        Ok(())
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        caller: &Caller,
    ) -> Result<Response<Full<Bytes>>, Broken> {
        let (parts, body) = request.into_parts();
        let arrival = self.arrival(&parts, caller);
        let number = arrival.headers.get(NUMBER).cloned().unwrap_or_default();
        let shadow = arrival.authority.split(':').next().unwrap_or_default();
        let answer = {
            let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
            if shadow.ends_with("-shadow") {
                book.mirrored.entry(number).or_default().push(arrival);
                None
            } else {
                let tries = book.arrivals.entry(number.clone()).or_default();
                tries.push(arrival);
                let at = tries.len() - 1;
                book.answers
                    .get(&number)
                    .and_then(|all| all.get(at))
                    .cloned()
            }
        };
        let _ = body.collect().await;
        self.reply(answer.as_deref()).await
    }

    async fn reply(&self, answer: Option<&str>) -> Result<Response<Full<Bytes>>, Broken> {
        if let Some(delay) = self.server.delay {
            tokio::time::sleep(delay).await;
        }
        let status = match answer {
            Some("reset" | "connect-failed" | "refused-stream") => return Err(Broken),
            None if self.server.reset => return Err(Broken),
            Some(text) => {
                let status = text.split(' ').next().unwrap_or_default();
                status.parse().map_err(|_| Broken)?
            }
            None => self.server.status,
        };
        let mut response = Response::builder().status(status);
        let header = answer.and_then(|text| text.split_once(' ')?.1.split_once(':'));
        if let Some((name, value)) = header {
            response = response.header(name.trim(), value.trim());
        }
        for (name, value) in &self.server.headers {
            response = response.header(name, value);
        }
        let body = Full::new(Bytes::from(self.server.body.clone()));
        response.body(body).map_err(|_| Broken)
    }

    fn arrival(&self, parts: &http::request::Parts, caller: &Caller) -> Arrival {
        let headers = joined(&parts.headers);
        let host = headers.get("host").cloned();
        let named = parts.uri.authority().map(ToString::to_string);
        let expected = headers.get(EXPECTED).and_then(|ms| ms.parse().ok());
        Arrival {
            clusters: self.clusters.clone(),
            endpoint: self.server.name.clone(),
            method: parts.method.to_string(),
            version: match parts.version {
                http::Version::HTTP_2 => "2".to_owned(),
                http::Version::HTTP_10 => "1.0".to_owned(),
                _ => "1.1".to_owned(),
            },
            target: parts
                .uri
                .path_and_query()
                .map_or_else(String::new, ToString::to_string),
            authority: named.or(host).unwrap_or_default(),
            headers,
            proxied: caller.proxied.clone(),
            tls: caller.tls,
            sni: caller.sni.clone(),
            cert: caller.cert.clone(),
            time: expected.map(Duration::from_millis),
        }
    }
}

/// Headers with the values of one name joined by commas.
#[must_use]
pub fn joined(headers: &http::HeaderMap) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        all.entry(name.to_string())
            .and_modify(|known| {
                known.push_str(", ");
                known.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    all
}
