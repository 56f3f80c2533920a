//! The line to the control plane: identity, configuration and registration on one TLS connection.
//!
//! A connection is proved by the saved identity, else by a join token (whose root hash verifies the other side); with
//! a token the certificate comes first, and the same connection then carries ADS and registration. Losing the line
//! loses nothing but news: it is dialled again, each address in turn, with a growing and jittered pause, while the
//! data path goes on with what it has.
//!
//! Invariants: a token is shown only to a server whose root has the hash in the token; the private key never leaves
//! this process. Decides nothing about configuration: updates go to [`crate::state`].

use crate::certify::{self, Asker};
use crate::denials::Denials;
use crate::outward;
use crate::rotation::{Feed, Terms};
use crate::settings::{Beside, Role, Settings};
use crate::spans::kept::Reporter;
use naka_identity::tls;
use naka_types::node::{self, NodeId};
use naka_types::token::Token;
use naka_wire::envoy::envoy::config::core::v3::Node;
use naka_wire::google::protobuf::Value;
use naka_wire::v1::workloads_client::WorkloadsClient;
use naka_wire::v1::{RegisterRequest, RegisterResponse};
use naka_wire::values;
use naka_xds::delta::client::{Client, Update};
use naka_xds::driver::{self, Command, Ended, Verdict};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;

/// Time to reach and greet one address.
const DIAL: Duration = Duration::from_secs(3);
/// The longest pause between two rounds over all addresses.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest time over which renewals that the control plane asks for are spread.
const LONGEST_HURRY: Duration = Duration::from_hours(1);
/// Refused calls of this time are told together.
const DENIED_TOGETHER: Duration = Duration::from_millis(200);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const ALPN: &[&[u8]] = &[b"h2"];

/// What goes wrong on the line. All of it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a usable identity nor a token.
    #[error("no identity is saved and no join token was given")]
    NoProof,
    /// No address to dial.
    #[error("no address of a control plane is known")]
    NoAddress,
    /// The token is none.
    #[error("the join token is malformed")]
    Token,
    /// Not reachable in time, or TLS failed.
    #[error("cannot reach the control plane at {address}: {what}")]
    Dial {
        /// The address.
        address: String,
        /// What happened.
        what: String,
    },
    /// No certificate was issued.
    #[error("no certificate was issued: {0}")]
    Certify(String),
    /// No certificate was issued, and another proof would change nothing.
    #[error("no certificate was issued: {0}")]
    Ruled(String),
    /// A certificate waits until somebody approves it.
    #[error("{0}")]
    Held(String),
    /// The lease's stream ended.
    #[error("the registration ended: {0}")]
    Register(String),
    /// The configuration stream ended.
    #[error("{0}")]
    Stream(#[from] Ended),
    /// Our own part of TLS.
    #[error(transparent)]
    Identity(#[from] naka_identity::Error),
}

/// How the line is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Line {
    /// Whether the configuration stream is open.
    pub connected: bool,
    /// The address spoken to last.
    pub address: String,
    /// Why it is not connected.
    pub problem: String,
    /// Connections made so far.
    pub connections: u64,
    /// Problems the control plane named for our registration.
    pub problems: Vec<String>,
    /// Whether the registration counts.
    pub registered: bool,
    /// Whether somebody has to approve the first certificate.
    pub held: bool,
}

/// News from the line.
#[derive(Debug)]
pub enum News {
    /// Configuration; answer the verdict when it is in force.
    Update(Update, Verdict),
    /// The configuration stream is open.
    Opened,
    /// What the control plane made of our registration.
    Lease(RegisterResponse),
}

/// What the line is built from.
#[derive(Debug)]
pub struct Params {
    /// Settings of the process.
    pub settings: Arc<Settings>,
    /// Where identities go.
    pub feed: Arc<Feed>,
    /// State of the xDS client, versions of the saved copy restored.
    pub client: Client,
    /// Names wanted and not wanted any more.
    pub commands: mpsc::Receiver<Command>,
    /// What we register.
    pub registration: watch::Receiver<RegisterRequest>,
    /// Where news go.
    pub news: mpsc::UnboundedSender<News>,
    /// Where the state of the line is shown.
    pub line: Arc<watch::Sender<Line>>,
    /// Refused calls that are to be told.
    pub denials: Arc<Denials>,
    /// Traces that are kept, where requests pass.
    pub traces: Option<Reporter>,
}

/// The node as the control plane is told.
#[must_use]
pub fn node(settings: &Settings, workload_id: &str) -> Node {
    let role = match settings.role {
        Role::Sidecar => node::Role::Sidecar,
        Role::Gateway => node::Role::Gateway,
    };
    let id = NodeId {
        role,
        ip: settings.inbound_ip.to_string(),
        workload: settings.workload_name.clone(),
        namespace: settings.namespace.clone(),
    };
    let mut naka = vec![
        ("workload_id", values::string(workload_id)),
        ("version", values::string(env!("CARGO_PKG_VERSION"))),
    ];
    let user_agent = match settings.beside {
        Beside::Naka => {
            let capabilities = [
                node::CAPABILITY_CLOSURE,
                node::CAPABILITY_DRAIN_ACK,
                node::CAPABILITY_NAME_FILTER,
                node::CAPABILITY_PEER_LABELS,
            ];
            naka.push(("capabilities", values::strings(capabilities)));
            "naka"
        }
        // An agent asks in the name of its Envoy or its programs, and gets what they understand.
        Beside::Envoy => {
            naka.extend(binds(settings));
            "envoy"
        }
        Beside::Grpc => "gRPC",
    };
    let naka = values::fields(naka);
    let metadata = values::fields([
        ("NAMESPACE", values::string(&settings.namespace)),
        ("SERVICE_ACCOUNT", values::string(&settings.service_account)),
        ("WORKLOAD_NAME", values::string(&settings.workload_name)),
        (
            "LABELS",
            values::nested(values::string_struct(settings.labels.clone())),
        ),
        ("CLUSTER_ID", values::string(&settings.cluster_id)),
        (node::NODE_METADATA, values::nested(naka)),
    ]);
    Node {
        id: id.to_string(),
        cluster: format!(
            "{}.{}",
            settings
                .service
                .as_deref()
                .unwrap_or(&settings.workload_name),
            settings.namespace
        ),
        metadata: Some(metadata),
        user_agent_name: user_agent.to_owned(),
        ..Node::default()
    }
}

/// Where an Envoy listens, for the compile of its listeners.
fn binds(settings: &Settings) -> Vec<(&'static str, Value)> {
    let place = |bind: std::net::SocketAddr, port: u16, host: Option<&str>| {
        let mut fields = vec![
            ("bind", values::string(bind.to_string())),
            ("port", values::string(port.to_string())),
        ];
        fields.extend(host.map(|host| ("host", values::string(host))));
        values::nested(values::fields(fields))
    };
    let upstreams = settings.upstreams.iter();
    let gateway = settings.gateway_ports.iter();
    let mut binds = vec![
        (
            "upstreams",
            values::list(upstreams.map(|one| place(one.bind, one.port, Some(&one.host)))),
        ),
        (
            "gateway_ports",
            values::list(gateway.map(|one| place(one.bind, one.port, None))),
        ),
    ];
    if let Some(outbound) = &settings.outbound {
        binds.push(("http_proxy", values::string(outbound.bind.to_string())));
    }
    binds
}

/// Keeps the line for as long as the process lives; returns when the command channel closes.
pub async fn run(mut params: Params) {
    let token = params.settings.control.token.as_deref().map(Token::parse);
    let mut token = match token {
        Some(Ok(token)) => Some(token),
        Some(Err(_)) => {
            tracing::error!(error = %Error::Token, "the token is left out");
            None
        }
        None => None,
    };
    let mut addresses = params.settings.control.addresses.clone();
    if addresses.is_empty() {
        addresses = token
            .as_ref()
            .map(|t| t.addresses.clone())
            .unwrap_or_default();
    }
    let mut turn = 0usize;
    let mut pause = FIRST_PAUSE;
    // An identity that the control plane does not know any more (its mesh was made anew) gives way to the token.
    let mut by_token = false;
    let mut asker = Asker::new(Arc::clone(&params.settings));
    // One new proof between two pauses: it may be refused as well.
    let mut anew = true;
    loop {
        let opened_before = params.line.borrow().connections;
        let address = addresses.get(turn % addresses.len().max(1)).cloned();
        let ended = match address {
            None => Error::NoAddress,
            Some(address) => {
                let proof = (token.as_ref(), by_token);
                session(&mut params, &mut asker, &address, proof).await
            }
        };
        if matches!(ended, Error::Stream(Ended::Stopped)) {
            return;
        }
        let was_open = params.line.borrow().connections > opened_before;
        if outcast(&ended)
            && std::mem::take(&mut anew)
            && let Some(socket) = &params.settings.control.socket
        {
            match crate::readmit::token(socket, &params.settings).await {
                Ok(fresh) => {
                    tracing::info!("the identity is of no use any more; joining anew");
                    token = Some(fresh);
                    by_token = true;
                    // The same address, now with proof.
                    continue;
                }
                Err(error) => tracing::debug!(%error, "no new token from the control socket"),
            }
        }
        params.line.send_modify(|line| {
            line.connected = false;
            line.held = matches!(ended, Error::Held(_));
            line.problem = ended.to_string();
        });
        if was_open {
            tracing::warn!(error = %ended, "the line to the control plane was lost; traffic goes on");
            pause = FIRST_PAUSE;
        } else {
            tracing::debug!(error = %ended, "no line to the control plane");
            if outcast(&ended) && token.is_some() {
                by_token = !by_token;
            }
        }
        turn += 1;
        if turn.is_multiple_of(addresses.len().max(1)) {
            let half = pause / 2;
            let wait = half + half.mul_f64(fastrand::f64());
            pause = (pause * 2).min(LONGEST_PAUSE);
            anew = true;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = closed(&params.commands) => return,
            }
        }
    }
}

/// Whether what ended the line says that neither our certificate nor our token counts.
fn outcast(ended: &Error) -> bool {
    match ended {
        Error::NoProof | Error::Certify(_) => true,
        Error::Dial { what, .. } => what.starts_with("TLS"),
        Error::Stream(Ended::Status(status)) => status.code() == tonic::Code::Unauthenticated,
        _ => false,
    }
}

/// Resolves when nobody can send commands any more.
async fn closed(commands: &mpsc::Receiver<Command>) {
    while !commands.is_closed() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One connection, from dialling to its end.
async fn session(
    params: &mut Params,
    asker: &mut Asker,
    address: &str,
    proof: (Option<&Token>, bool),
) -> Error {
    match connected(params, asker, address, proof).await {
        Ok(ended) | Err(ended) => ended,
    }
}

async fn connected(
    params: &mut Params,
    asker: &mut Asker,
    address: &str,
    (token, by_token): (Option<&Token>, bool),
) -> Result<Error, Error> {
    let identity = params
        .feed
        .now()
        .filter(|identity| identity.svid.holds(naka_identity::now_s()))
        .filter(|_| !(by_token && token.is_some()));
    let config = match (&identity, token) {
        (Some(identity), _) => {
            tls::control_client_tls(Some(&identity.svid), &identity.bundle, ALPN)?
        }
        (None, Some(token)) => tls::token_client_config(&token.ca_sha256, ALPN)?,
        (None, None) => return Err(Error::NoProof),
    };
    let link = dial(address, config).await?;
    if identity.is_none() {
        certify::first(asker, &link, &params.feed, token).await?;
    }
    let current = params.feed.now().ok_or(Error::NoProof)?;
    let workload_id = current.svid.workload_id.to_string();
    params.client.set_node(node(&params.settings, &workload_id));
    params.line.send_modify(|line| {
        address.clone_into(&mut line.address);
    });
    let mut handler = Handler {
        news: params.news.clone(),
        line: Arc::clone(&params.line),
    };
    let lease = lease(
        link.clone(),
        params.registration.clone(),
        workload_id,
        &params.news,
        &params.line,
        &params.feed,
    );
    let renewal = certify::renewal(asker, &link, &params.feed);
    let denied = denied(link.clone(), &params.denials);
    let traces = traces(link.clone(), params.traces.as_ref());
    let stream = driver::run(
        link.clone(),
        &mut params.client,
        &mut params.commands,
        &mut handler,
    );
    tokio::select! {
        ended = stream => Ok(Error::Stream(ended)),
        ended = lease => Ok(ended),
        () = renewal => Ok(Error::Register("renewed".to_owned())),
        never = denied => match never {},
        never = traces => match never {},
    }
}

/// Tells the mesh's audit trail what was refused, for as long as the line is there.
async fn denied(link: Link, denials: &Denials) -> Infallible {
    let mut stub = WorkloadsClient::new(link);
    loop {
        denials.some().await;
        // More of a burst comes along.
        tokio::time::sleep(DENIED_TOGETHER).await;
        let untold = denials.untold();
        match stub.denied(untold.request()).await {
            Ok(_) => untold.told(),
            // A control plane of before there was an audit trail.
            Err(status) if status.code() == tonic::Code::Unimplemented => {
                return std::future::pending().await;
            }
            Err(status) => {
                tracing::debug!(error = status.message(), "refused calls are told later");
                drop(untold);
                tokio::time::sleep(LONGEST_PAUSE).await;
            }
        }
    }
}

/// Tells of traces that are kept, for as long as the line is there.
async fn traces(link: Link, teller: Option<&Reporter>) -> Infallible {
    if let Some(teller) = teller {
        teller.run(link).await;
    }
    std::future::pending().await
}

struct Handler {
    news: mpsc::UnboundedSender<News>,
    line: Arc<watch::Sender<Line>>,
}

impl driver::Handler for Handler {
    fn opened(&mut self) {
        self.line.send_modify(|line| {
            line.connected = true;
            line.connections += 1;
            line.held = false;
            line.problem.clear();
        });
        // A closed receiver means that the process is ending.
        let _ = self.news.send(News::Opened);
    }

    fn update(&mut self, update: Update, verdict: Verdict) {
        let _ = self.news.send(News::Update(update, verdict));
    }
}

/// Registers, tells every change, and hands on what comes back, until the stream ends.
async fn lease(
    link: Link,
    registration: watch::Receiver<RegisterRequest>,
    workload_id: String,
    news: &mpsc::UnboundedSender<News>,
    line: &watch::Sender<Line>,
    feed: &Arc<Feed>,
) -> Error {
    let changes = WatchStream::new(registration.clone()).map(|_| ());
    let shown = WatchStream::from_changes(feed.watch()).map(|_| ());
    let identity = feed.watch();
    let requests = changes.merge(shown).map(move |()| {
        let mut request = registration.borrow().clone();
        request.workload_id.clone_from(&workload_id);
        // What the control plane issued last may not have come here.
        let shown = identity.borrow();
        request.certificate_serial = shown
            .as_ref()
            .map_or_else(String::new, |identity| identity.svid.serial());
        request
    });
    let mut stub = WorkloadsClient::new(link);
    let mut answers = match stub.register(requests).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return Error::Register(status.message().to_owned()),
    };
    loop {
        match answers.message().await {
            Ok(Some(answer)) => {
                if let Some(terms) = &answer.certificate {
                    feed.told(Terms::from(terms));
                }
                line.send_modify(|line| {
                    if line.problems != answer.problems {
                        for problem in &answer.problems {
                            tracing::warn!(%problem, "the control plane objects to our registration");
                        }
                        line.problems.clone_from(&answer.problems);
                    }
                    line.registered = answer.registered;
                });
                if answer.renew_within_ms > 0 {
                    let within = Duration::from_millis(answer.renew_within_ms);
                    feed.hurry(within.min(LONGEST_HURRY));
                }
                if news.send(News::Lease(answer)).is_err() {
                    return Error::Stream(Ended::Stopped);
                }
            }
            Ok(None) => return Error::Register("closed by the control plane".to_owned()),
            Err(status) => return Error::Register(status.message().to_owned()),
        }
    }
}

/// One HTTP/2 connection to the control plane, as tonic's clients want it.
#[derive(Debug, Clone)]
pub struct Link {
    requests: hyper::client::conn::http2::SendRequest<tonic::body::Body>,
}

/// Connects to one address and greets; HTTP/2 over TLS.
///
/// # Errors
/// When it cannot be reached in time or TLS refuses.
pub async fn dial(address: &str, config: Arc<rustls::ClientConfig>) -> Result<Link, Error> {
    let failed = |what: String| Error::Dial {
        address: address.to_owned(),
        what,
    };
    let greet = async {
        let stream = outward::tcp_to(address)
            .await
            .map_err(|error| failed(error.to_string()))?;
        // A delay only costs latency; without the option the line still works.
        let _ = stream.set_nodelay(true);
        let stream = tokio_rustls::TlsConnector::from(config)
            .connect(tls::control_name(), stream)
            .await
            .map_err(|error| failed(format!("TLS: {error}")))?;
        let executor = hyper_util::rt::TokioExecutor::new();
        let (requests, connection) = hyper::client::conn::http2::Builder::new(executor)
            .timer(hyper_util::rt::TokioTimer::new())
            .keep_alive_interval(driver::KEEPALIVE_INTERVAL)
            .keep_alive_timeout(driver::KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_connection_window_size(4 << 20)
            .initial_stream_window_size(1 << 20)
            .handshake(hyper_util::rt::TokioIo::new(stream))
            .await
            .map_err(|error| failed(format!("HTTP/2: {error}")))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the control plane ended");
            }
        });
        Ok(Link { requests })
    };
    tokio::time::timeout(DIAL, greet)
        .await
        .map_err(|_| failed("no answer in time".to_owned()))?
}

impl tower_service::Service<http::Request<tonic::body::Body>> for Link {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.requests.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<tonic::body::Body>) -> Self::Future {
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str);
        // HTTP/2 wants scheme and authority; the name is the one in the control plane's certificate.
        if let Ok(uri) = http::Uri::builder()
            .scheme("https")
            .authority(naka_identity::CONTROL_NAME)
            .path_and_query(path)
            .build()
        {
            *request.uri_mut() = uri;
        }
        Box::pin(self.requests.send_request(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_says_who_we_are_in_istios_words() {
        let mut settings = Settings::new("/r".into(), "pay", "pay-1");
        settings.labels.insert("app".into(), "pay".into());
        let node = node(&settings, "01ARZ3NDEKTSV4RRFFQ69G5FAV");
        assert_eq!(
            node.id,
            "sidecar~127.0.0.1~pay-1.default~default.svc.cluster.local"
        );
        let metadata = node.metadata.unwrap();
        assert_eq!(values::get_str(&metadata, "NAMESPACE"), Some("default"));
        let naka = values::get_struct(&metadata, "NAKA").unwrap();
        assert_eq!(
            values::get_str(naka, "workload_id"),
            Some("01ARZ3NDEKTSV4RRFFQ69G5FAV")
        );
        assert!(values::get_strings(naka, "capabilities").contains(&"drain-ack".to_owned()));
        settings.role = Role::Gateway;
        assert!(super::node(&settings, "").id.starts_with("router~"));
    }
}
