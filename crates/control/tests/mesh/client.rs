//! A control plane in this process and the clients that talk to it over TLS.

use naka_control::{Addresses, Settings};
use naka_identity::tls::{control_client_tls, control_name, token_client_config};
use naka_identity::{Bundle, KeyAndCsr, Svid};
use naka_types::token::Token;
use naka_wire::envoy::config::core::v3::Node;
use naka_wire::istio_ca::IstioCertificateRequest;
use naka_wire::istio_ca::istio_certificate_service_client::IstioCertificateServiceClient;
use naka_wire::type_url::{
    CLUSTER, ENDPOINT, LISTENER, NAME_FILTER, SECRET, VIRTUAL_HOST, WORKLOAD,
};
use naka_wire::v1::register_request::State;
use naka_wire::v1::workloads_client::WorkloadsClient;
use naka_wire::v1::{DrainProgress, Port, RegisterRequest, RegisterResponse};
use naka_wire::values;
use naka_xds::delta::client::{Client, Subscription, Update};
use naka_xds::driver::{self, Command, Handler, Verdict};
use naka_xds::{Reject, Resource};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: nothing within {DEADLINE:?}"))
}

/// A running control plane.
pub(crate) struct Control {
    pub(crate) addresses: Addresses,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Control {
    pub(crate) async fn start(directory: &Path) -> Self {
        let settings = Settings::new(directory.join("mesh/test"), "test");
        let bound = naka_control::run(settings).await.unwrap();
        let addresses = bound.addresses().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(async move {
            bound
                .serve(async move { drop(stopped.await) })
                .await
                .unwrap();
        });
        Self {
            addresses,
            stop,
            served,
        }
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        soon("stop", self.served).await.unwrap();
    }

    pub(crate) async fn http(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut stream = UnixStream::connect(&self.addresses.control_sock)
            .await
            .unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(path, stream.read_to_string(&mut answer))
            .await
            .unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    /// Applies objects; the revision.
    pub(crate) async fn apply(&self, objects: &Value) -> u64 {
        let answer = self
            .http("POST", "/naka/v1/apply", &json!({"objects": objects}))
            .await;
        answer["revision"]
            .as_u64()
            .unwrap_or_else(|| panic!("{answer}"))
    }

    pub(crate) async fn rollout(&self, revision: u64) -> Value {
        let path = format!("/naka/v1/rollout?revision={revision}&timeout_ms=5000");
        self.http("GET", &path, &Value::Null).await
    }

    async fn token(&self, service: &str) -> Token {
        let request = json!({
            "kind": "join", "namespace": "default", "service_account": service,
            "services": [service], "uses": 1, "ttl_seconds": 60,
        });
        let answer = self.http("POST", "/naka/v1/tokens", &request).await;
        Token::parse(answer["token"].as_str().unwrap()).unwrap()
    }

    async fn dial(&self, config: Arc<rustls::ClientConfig>) -> Link {
        let stream = TcpStream::connect(self.addresses.xds).await.unwrap();
        let stream = tokio_rustls::TlsConnector::from(config)
            .connect(control_name(), stream)
            .await
            .unwrap();
        let executor = hyper_util::rt::TokioExecutor::new();
        let (requests, connection) =
            hyper::client::conn::http2::handshake(executor, hyper_util::rt::TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        Link { requests }
    }
}

/// One HTTP/2 connection as tonic's clients want it.
#[derive(Clone)]
struct Link {
    requests: hyper::client::conn::http2::SendRequest<tonic::body::Body>,
}

impl tower_service::Service<http::Request<tonic::body::Body>> for Link {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.requests.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<tonic::body::Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let uri = format!("https://{}{path}", naka_identity::CONTROL_NAME);
        *request.uri_mut() = uri.parse().unwrap();
        Box::pin(self.requests.send_request(request))
    }
}

fn pem(kind: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
}

/// What the application answers to updates.
#[derive(Default)]
struct Answers {
    hold: Option<&'static str>,
    refuse: Option<(&'static str, String)>,
    held: Vec<Verdict>,
}

struct Inbox {
    updates: mpsc::UnboundedSender<Update>,
    opened: Option<oneshot::Sender<()>>,
    answers: Arc<Mutex<Answers>>,
}

impl Handler for Inbox {
    fn opened(&mut self) {
        if let Some(opened) = self.opened.take() {
            let _ = opened.send(());
        }
    }

    fn update(&mut self, update: Update, verdict: Verdict) {
        let mut answers = self.answers.lock().unwrap();
        if answers.hold == Some(update.type_url.as_str()) {
            answers.held.push(verdict);
        } else {
            let refused = answers
                .refuse
                .as_ref()
                .filter(|(url, _)| *url == update.type_url);
            let rejects = refused.map(|(_, reason)| {
                let name = update.resources[0].name.clone();
                Reject {
                    name,
                    reason: reason.clone(),
                }
            });
            verdict.answer(rejects.into_iter().collect());
        }
        let _ = self.updates.send(update);
    }
}

type Running = JoinHandle<(Client, driver::Ended)>;

/// A sidecar, as far as the control plane sees one.
pub(crate) struct Proxy {
    pub(crate) service: String,
    pub(crate) account: String,
    pub(crate) workload_id: String,
    labels: BTreeMap<String, String>,
    svid: Svid,
    bundle: Bundle,
    registration: Option<(
        mpsc::UnboundedSender<RegisterRequest>,
        tonic::Streaming<RegisterResponse>,
    )>,
    updates: mpsc::UnboundedReceiver<Update>,
    inbox: mpsc::UnboundedSender<Update>,
    answers: Arc<Mutex<Answers>>,
    running: Option<(Running, mpsc::Sender<Command>)>,
}

impl Proxy {
    /// Joins by a one-use token.
    pub(crate) async fn join(control: &Control, service: &str, version: &str) -> Self {
        let token = control.token(service).await;
        let config = token_client_config(&token.ca_sha256, &[b"h2"]).unwrap();
        let link = control.dial(config).await;
        let key = KeyAndCsr::generate().unwrap();
        let metadata = values::fields([
            ("namespace", values::string("default")),
            ("service_account", values::string(service)),
            ("services", values::strings([service])),
        ]);
        let mut request = tonic::Request::new(IstioCertificateRequest {
            csr: key.csr_pem().to_owned(),
            validity_duration: 0,
            metadata: Some(metadata),
        });
        let bearer = format!("Bearer {}", token.reveal());
        request
            .metadata_mut()
            .insert("authorization", bearer.parse().unwrap());
        let mut stub = IstioCertificateServiceClient::new(link);
        let answer = soon("certificate", stub.create_certificate(request))
            .await
            .unwrap();
        let (svid, bundle) = Svid::from_answer(&answer.into_inner().cert_chain, key.key()).unwrap();
        let (inbox, updates) = mpsc::unbounded_channel();
        Self {
            service: service.to_owned(),
            account: service.to_owned(),
            workload_id: svid.workload_id.to_string(),
            labels: [("app", service), ("version", version)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            svid,
            bundle,
            registration: None,
            updates,
            inbox,
            answers: Arc::default(),
            running: None,
        }
    }

    /// Key with chain, chain, and roots as PEM: what an agent hands to its Envoy.
    pub(crate) fn pem(&self) -> (String, String, String) {
        let chain = self.svid.chain.iter();
        let chain = chain.map(|der| pem("CERTIFICATE", der)).collect();
        let key = pem("PRIVATE KEY", self.svid.key.secret_der());
        (key, chain, self.bundle.to_pem())
    }

    async fn link(&self, control: &Control) -> Link {
        let config = control_client_tls(Some(&self.svid), &self.bundle, &[b"h2"]).unwrap();
        control.dial(config).await
    }

    fn registration(&self, state: State) -> RegisterRequest {
        RegisterRequest {
            workload_id: self.workload_id.clone(),
            namespace: "default".to_owned(),
            service: self.service.clone(),
            service_account: self.account.clone(),
            labels: self.labels.clone(),
            workload_name: self.service.clone(),
            ports: vec![Port {
                port: 8080,
                inbound_address: format!("127.0.0.1:{}", 20_000 + self.service.len()),
                protocol: "http".to_owned(),
                name: String::new(),
                first: true,
            }],
            state: state as i32,
            ip: "127.0.0.1".to_owned(),
            gateway: false,
            ..RegisterRequest::default()
        }
    }

    /// Registers on a new stream and waits until it is.
    pub(crate) async fn register(&mut self, control: &Control, state: State) {
        let answer = self.try_register(control, state).await.unwrap();
        assert!(answer.registered, "{answer:?}");
    }

    pub(crate) async fn try_register(
        &mut self,
        control: &Control,
        state: State,
    ) -> Result<RegisterResponse, tonic::Status> {
        let (out, requests) = mpsc::unbounded_channel();
        out.send(self.registration(state)).unwrap();
        let mut stub = WorkloadsClient::new(self.link(control).await);
        let requests = tokio_stream::wrappers::UnboundedReceiverStream::new(requests);
        let mut answers = soon("registration", stub.register(requests))
            .await?
            .into_inner();
        let answer = soon("registration", answers.message()).await?.unwrap();
        self.registration = Some((out, answers));
        Ok(answer)
    }

    /// Says it drains; the first progress.
    pub(crate) async fn drain(&mut self) -> DrainProgress {
        let request = self.registration(State::Draining);
        self.registration.as_ref().unwrap().0.send(request).unwrap();
        self.progress().await
    }

    /// The next progress.
    pub(crate) async fn progress(&mut self) -> DrainProgress {
        let (_, answers) = self.registration.as_mut().unwrap();
        loop {
            let answer = soon("progress", answers.message()).await.unwrap().unwrap();
            if let Some(progress) = answer.drain {
                return progress;
            }
        }
    }

    fn node(&self, account: &str) -> Node {
        let naka = values::fields([
            ("workload_id", values::string(&self.workload_id)),
            (
                "capabilities",
                values::strings(["closure", "drain-ack", "name-filter"]),
            ),
        ]);
        let metadata = values::fields([
            ("NAMESPACE", values::string("default")),
            ("SERVICE_ACCOUNT", values::string(account)),
            ("NAKA", values::nested(naka)),
        ]);
        Node {
            id: format!(
                "sidecar~127.0.0.1~{}.default~default.svc.cluster.local",
                self.service
            ),
            metadata: Some(metadata),
            ..Node::default()
        }
    }

    fn client(&self, account: &str, hosts: &[&str]) -> Client {
        let none: [&str; 0] = [];
        Client::new(
            self.node(account),
            [
                (SECRET, Subscription::names(["ROOTCA"])),
                (CLUSTER, Subscription::everything()),
                (ENDPOINT, Subscription::names(none)),
                (LISTENER, Subscription::everything()),
                (
                    VIRTUAL_HOST,
                    Subscription::everything().and(hosts.iter().copied()),
                ),
                (NAME_FILTER, Subscription::names(["names"])),
                (WORKLOAD, Subscription::names(none)),
            ],
        )
    }

    async fn run(
        &mut self,
        control: &Control,
        mut client: Client,
    ) -> Option<oneshot::Receiver<()>> {
        let link = self.link(control).await;
        let (commands, mut taken) = mpsc::channel(16);
        let (opened, open) = oneshot::channel();
        let mut inbox = Inbox {
            updates: self.inbox.clone(),
            opened: Some(opened),
            answers: Arc::clone(&self.answers),
        };
        let running = tokio::spawn(async move {
            let ended = driver::run(link, &mut client, &mut taken, &mut inbox).await;
            (client, ended)
        });
        self.running = Some((running, commands));
        Some(open)
    }

    /// Opens the configuration stream.
    pub(crate) async fn subscribe(&mut self, control: &Control, hosts: &[&str]) {
        let client = self.client(&self.account, hosts);
        let open = self.run(control, client).await.unwrap();
        soon("stream", open).await.unwrap();
    }

    /// Opens the stream under another service account; how it ended.
    pub(crate) async fn subscribe_as(&mut self, control: &Control, account: &str) -> String {
        let client = self.client(account, &[]);
        self.run(control, client).await;
        let (running, _commands) = self.running.take().unwrap();
        let (_, ended) = soon("refusal", running).await.unwrap();
        format!("{ended} {ended:?}")
    }

    /// Ends the stream, if it still runs, and opens a new one with what is held.
    pub(crate) async fn reconnect(&mut self, control: &Control) {
        let (running, commands) = self.running.take().unwrap();
        drop(commands);
        let (client, _) = soon("end of the stream", running).await.unwrap();
        let open = self.run(control, client).await.unwrap();
        soon("stream", open).await.unwrap();
    }

    /// Everything that comes up to and with this resource.
    pub(crate) async fn until(&mut self, type_url: &str, name: &str) -> Vec<Resource> {
        let mut seen = Vec::new();
        loop {
            let update = soon(name, self.updates.recv()).await.unwrap();
            let found = update.type_url == type_url
                && update
                    .resources
                    .iter()
                    .any(|resource| resource.name == name);
            seen.extend(update.resources);
            if found {
                return seen;
            }
        }
    }

    /// Everything that came before the answer to a question asked now (the record of a workload).
    pub(crate) async fn fence(&mut self, workload: &str) -> Vec<Resource> {
        let (_, commands) = self.running.as_ref().unwrap();
        for command in [
            Command::Unsubscribe {
                type_url: WORKLOAD.to_owned(),
                names: vec![workload.to_owned()],
            },
            Command::Subscribe {
                type_url: WORKLOAD.to_owned(),
                names: vec![workload.to_owned()],
            },
        ] {
            commands.send(command).await.unwrap();
        }
        let mut seen = Vec::new();
        loop {
            let update = soon("fence", self.updates.recv()).await.unwrap();
            let named = update
                .resources
                .iter()
                .any(|resource| resource.name == workload)
                || update.removed.iter().any(|name| name == workload);
            if update.type_url == WORKLOAD && named {
                return seen;
            }
            seen.extend(update.resources);
        }
    }

    /// Keeps verdicts on this type back.
    pub(crate) fn hold(&mut self, type_url: &'static str) {
        self.answers.lock().unwrap().hold = Some(type_url);
    }

    /// Refuses the first resource of every update of this type.
    pub(crate) fn refuse(&mut self, type_url: &'static str, reason: &str) {
        self.answers.lock().unwrap().refuse = Some((type_url, reason.to_owned()));
    }

    /// Gives the verdicts that were kept back.
    pub(crate) fn release(&mut self) {
        let mut answers = self.answers.lock().unwrap();
        answers.hold = None;
        for verdict in answers.held.drain(..) {
            verdict.answer(Vec::new());
        }
    }
}
