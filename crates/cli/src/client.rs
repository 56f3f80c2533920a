//! Client of the control plane's HTTP API.
//!
//! On the control plane's own machine it speaks HTTP/1.1 over the control socket, where the kernel vouches for the
//! uid; elsewhere HTTPS, with the root of the context as the only trusted one and the context's bearer token. One
//! connection per command, requests one after the other.

use crate::contexts::{Context, Contexts, NO_MESH};
use crate::exit::{Exit, Outcome};
use crate::home::Home;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};

/// No answer of the API is larger.
const MAX_ANSWER: usize = 256 * 1024 * 1024;
/// A control plane that answers at all answers the connection within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One connection to one control plane.
#[derive(Debug)]
pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    token: String,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: StatusCode,
    /// Body; a string when it is no JSON.
    pub(crate) body: Value,
}

impl Client {
    /// Connects to the mesh of the named or current context.
    pub(crate) async fn open(context: Option<&str>) -> Outcome<Self> {
        let home = Home::from_env()?;
        let context = Contexts::open(&home)?.choose(context)?;
        Self::connect(context).await
    }

    /// Connects to the mesh of a context.
    pub(crate) async fn connect(context: Context) -> Outcome<Self> {
        if let Some(socket) = context.socket.clone() {
            match Self::over_socket(&socket).await {
                Ok(client) => return Ok(client),
                Err(error) if context.server.is_empty() => return Err(error),
                Err(_) => {}
            }
        }
        Self::over_tls(context).await
    }

    /// Connects to a control socket.
    pub(crate) async fn over_socket(socket: &Path) -> Outcome<Self> {
        let stream = UnixStream::connect(socket).await.map_err(|error| {
            Exit::failed(format!(
                "the control plane does not answer at {}: {error}; start it with \"naka up\"",
                socket.display()
            ))
        })?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Exit::failed(format!("control socket: {error}")))?;
        tokio::spawn(connection);
        Ok(Self {
            sender,
            authority: "localhost".to_owned(),
            token: String::new(),
        })
    }

    async fn over_tls(context: Context) -> Outcome<Self> {
        let authority = context
            .server
            .strip_prefix("https://")
            .ok_or_else(|| Exit::failed(NO_MESH))?
            .trim_end_matches('/')
            .to_owned();
        let away = |error: String| {
            let hint = if context.socket.is_some() {
                "; start it with \"naka up\""
            } else {
                ""
            };
            Exit::failed(format!(
                "the control plane of context {:?} does not answer at {authority}: {error}{hint}",
                context.name
            ))
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&authority))
            .await
            .map_err(|_| away("no answer within 5 s".to_owned()))?
            .map_err(|error| away(error.to_string()))?;
        let host = authority
            .rsplit_once(':')
            .map_or(authority.as_str(), |(host, _)| host);
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|_| Exit::failed(format!("{host} is no host name")))?;
        let stream = tokio_rustls::TlsConnector::from(Arc::new(tls(&context.root_pem)?))
            .connect(name, stream)
            .await
            .map_err(|error| away(error.to_string()))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| away(error.to_string()))?;
        tokio::spawn(connection);
        Ok(Self {
            sender,
            authority,
            token: context.token,
        })
    }

    /// Sends a request and returns the answer, whatever its status.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Outcome<Answer> {
        let response = self.begin(method, path, body).await?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| Exit::failed(format!("{path}: {error}")))?
            .to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok(Answer { status, body })
    }

    /// Sends a request whose answer must be a success, and returns its body.
    pub(crate) async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Outcome<Value> {
        let answer = self.send(method, path, body).await?;
        if answer.status.is_success() {
            Ok(answer.body)
        } else {
            Err(answer.refusal())
        }
    }

    /// `GET` that must succeed.
    pub(crate) async fn get(&mut self, path: &str) -> Outcome<Value> {
        self.call(Method::GET, path, None).await
    }

    /// `POST` that must succeed.
    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Outcome<Value> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Opens a watch: one JSON value per line, as they come.
    pub(crate) async fn watch(&mut self, path: &str) -> Outcome<Lines> {
        let response = self.begin(Method::GET, path, None).await?;
        if !response.status().is_success() {
            return Err(Exit::failed(format!("{path}: {}", response.status())));
        }
        Ok(Lines {
            body: response.into_body(),
            buffer: Vec::new(),
        })
    }

    async fn begin(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Outcome<http::Response<Incoming>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, &self.authority)
            .header(http::header::ACCEPT, "application/json")
            .header(
                http::header::USER_AGENT,
                concat!("naka/", env!("CARGO_PKG_VERSION")),
            );
        if !self.token.is_empty() {
            request = request.header(
                http::header::AUTHORIZATION,
                format!("Bearer {}", self.token),
            );
        }
        let body = match body {
            Some(value) => {
                request = request.header(http::header::CONTENT_TYPE, "application/json");
                Bytes::from(value.to_string())
            }
            None => Bytes::new(),
        };
        let request = request
            .body(Full::new(body))
            .map_err(|error| Exit::failed(format!("{path}: {error}")))?;
        self.sender.ready().await.map_err(|error| {
            Exit::failed(format!("the control plane closed the connection: {error}"))
        })?;
        self.sender
            .send_request(request)
            .await
            .map_err(|error| Exit::failed(format!("{path}: {error}")))
    }
}

impl Answer {
    /// The error of an answer that is none of success: the API's own words.
    pub(crate) fn refusal(&self) -> Exit {
        let message = self
            .body
            .get("message")
            .or_else(|| self.body.get("error"))
            .and_then(Value::as_str)
            .or_else(|| self.body.as_str())
            .filter(|text| !text.is_empty());
        match message {
            Some(message) => Exit::failed(message),
            None => Exit::failed(format!("the control plane answered {}", self.status)),
        }
    }
}

/// Lines of a watch.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next line; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Outcome<Option<Value>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|error| Exit::failed(format!("watch: {error}")));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Exit::failed(format!("watch: {error}"))),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                    if self.buffer.len() > MAX_ANSWER {
                        return Err(Exit::failed("watch: a line without end"));
                    }
                }
            }
        }
    }
}

fn tls(root_pem: &str) -> Outcome<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(root_pem.as_bytes()) {
        let certificate =
            certificate.map_err(|error| Exit::failed(format!("root of the context: {error}")))?;
        roots
            .add(certificate)
            .map_err(|error| Exit::failed(format!("root of the context: {error}")))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Exit::failed(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// A request to the HTTP server behind a Unix socket, for the admin sockets of proxies.
pub(crate) async fn ask_socket(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Outcome<Answer> {
    Client::over_socket(socket)
        .await?
        .send(method, path, body)
        .await
}

/// Escapes a value for a query.
pub(crate) fn query(value: &str) -> String {
    use std::fmt::Write;
    value.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}
