//! Tests over real sockets: the control socket, TLS, and the real kubectl.

mod access;
mod change;
mod kube;
mod kubectl;
mod watching;

use super::live::{Answer, Condition, Counts, Edge, Effect, Live, ObjectStatus, Observed, Rollout};
use super::{Listeners, Mesh, State, serve};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use naka_identity::{Authority, ServerCert, now_s, tls};
use naka_store::{Settings, Snapshot, Store};
use naka_types::finding::Finding;
use naka_types::name::ObjectRef;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A mesh without proxies, whose traffic the test makes up.
#[derive(Debug, Default)]
struct Fake {
    edges: Mutex<BTreeMap<Edge, Counts>>,
}

fn now<'a, T: Send + 'a>(value: T) -> Answer<'a, T> {
    Box::pin(std::future::ready(value))
}

impl Live for Fake {
    fn traces(&self, _: usize) -> Answer<'_, Vec<Value>> {
        Box::pin(async { Vec::new() })
    }

    fn trace(&self, _: String) -> Answer<'_, Option<Value>> {
        Box::pin(async { None })
    }

    fn held(&self) -> Option<(String, Vec<ObjectRef>)> {
        None
    }

    fn release(&self, _id: String) -> Answer<'_, Option<usize>> {
        Box::pin(async { None })
    }

    fn rollout(&self, _revision: u64, _timeout: Duration) -> Answer<'_, Rollout> {
        now(Rollout {
            done: true,
            acked: vec!["order-1".to_owned()],
            ..Rollout::default()
        })
    }

    fn proxies(&self) -> Answer<'_, Vec<Value>> {
        now(vec![
            json!({"name": "order-1", "namespace": "default"}),
            json!({"name": "x", "namespace": "other"}),
        ])
    }

    fn workloads(&self) -> Answer<'_, Vec<Value>> {
        now(Vec::new())
    }

    fn status_of(&self, _object: ObjectRef) -> Answer<'_, ObjectStatus> {
        let condition = Condition {
            kind: "Accepted".to_owned(),
            status: "True".to_owned(),
            ..Condition::default()
        };
        now(ObjectStatus {
            state: "programmed".to_owned(),
            conditions: vec![condition],
            ..ObjectStatus::default()
        })
    }

    fn findings(&self) -> Answer<'_, Vec<Finding>> {
        now(Vec::new())
    }

    fn effect(
        &self,
        _before: Arc<Snapshot>,
        _after: Arc<Snapshot>,
        changed: Vec<ObjectRef>,
    ) -> Answer<'_, Vec<Effect>> {
        let effect = Effect {
            proxies: vec!["order-1".to_owned()],
            ..Effect::default()
        };
        now(vec![effect; changed.len()])
    }

    fn edges(&self) -> Answer<'_, Observed> {
        now(Observed {
            edges: self.edges.lock().unwrap().clone(),
            unwatched: vec!["far-0.default".to_owned()],
        })
    }

    fn hosts_of(&self, _after: Arc<Snapshot>, _objects: Vec<ObjectRef>) -> Answer<'_, Vec<String>> {
        now(vec!["payment".to_owned()])
    }

    fn gateways(&self) -> Answer<'_, Vec<Value>> {
        now(Vec::new())
    }

    fn world(&self) -> Answer<'_, Value> {
        now(json!({"objects": []}))
    }
}

/// A running API server.
struct Server {
    dir: tempfile::TempDir,
    socket: PathBuf,
    address: String,
    root_pem: String,
    fake: Arc<Fake>,
    store: Arc<Store>,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

impl Server {
    async fn start() -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), |_| {}).await
    }

    /// Starts on what a directory holds; `tune` may change the state before it is shared.
    async fn in_dir(dir: tempfile::TempDir, tune: impl FnOnce(&mut State)) -> Self {
        let (store, recovery) = Store::open(&dir.path().join("mesh"), Settings::default()).unwrap();
        assert!(recovery.is_clean(), "{recovery}");
        let authority =
            Authority::open_or_create(&dir.path().join("ca"), "cluster.local", now_s()).unwrap();
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let day = Duration::from_hours(24);
        let certificate = ServerCert::issue(
            &authority,
            &["localhost".to_owned()],
            &loopback,
            day,
            now_s(),
        )
        .unwrap();
        let config = tls::api_server_tls(certificate, &[b"h2", b"http/1.1"]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let socket = dir.path().join("control.sock");
        let _ = std::fs::remove_file(&socket);
        let unix = UnixListener::bind(&socket).unwrap();
        let root_pem = authority.bundle().to_pem();
        let mesh = Mesh {
            name: "test".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            api: vec![address.clone()],
            xds: vec!["127.0.0.1:15012".to_owned()],
            root_pem: root_pem.clone(),
            root_sha256: authority.root_sha256(),
            ground: None,
        };
        let fake = Arc::new(Fake::default());
        let mut state =
            Arc::into_inner(State::new(store.clone(), fake.clone(), mesh, None)).unwrap();
        tune(&mut state);
        let (stop, stopped) = oneshot::channel::<()>();
        let listeners = Listeners {
            tls: Some((listener, config)),
            unix: Some(unix),
        };
        let task = tokio::spawn(serve(Arc::new(state), listeners, async move {
            let _ = stopped.await;
        }));
        Self {
            dir,
            socket,
            address,
            root_pem,
            fake,
            store,
            stop: Some(stop),
            task: Some(task),
        }
    }

    /// Stops and gives the directory back.
    async fn stop(mut self) -> tempfile::TempDir {
        drop(self.stop.take());
        self.task.take().unwrap().await.unwrap();
        self.dir
    }

    /// A request over the control socket, as the owner.
    async fn call(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        self.with(method, path, body, &[]).await
    }

    async fn get(&self, path: &str) -> Value {
        let (code, value) = self.call(Method::GET, path, Value::Null).await;
        assert_eq!(code, 200, "{path}: {value}");
        value
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let (code, value) = self.call(Method::POST, path, body).await;
        assert!(code < 300, "{path}: {code} {value}");
        value
    }

    /// A request over the control socket with headers of its own.
    async fn with(
        &self,
        method: Method,
        path: &str,
        body: Value,
        headers: &[(&str, &str)],
    ) -> (u16, Value) {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        read(send(stream, method, path, body, headers).await).await
    }

    /// A request over TLS; `token` may be empty.
    async fn over_tls(&self, method: Method, path: &str, body: Value, token: &str) -> (u16, Value) {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let config = tls::token_client_config(&self.root_sha256(), &[b"http/1.1"]).unwrap();
        let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let stream = tokio_rustls::TlsConnector::from(config)
            .connect(name, stream)
            .await
            .unwrap();
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let headers = if token.is_empty() { &[][..] } else { &headers };
        read(send(stream, method, path, body, headers).await).await
    }

    fn root_sha256(&self) -> String {
        Authority::open_or_create(&self.dir.path().join("ca"), "cluster.local", now_s())
            .unwrap()
            .root_sha256()
    }

    /// An open watch.
    async fn watch(&self, path: &str) -> Watch {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let response = send(stream, Method::GET, path, Value::Null, &[]).await;
        assert_eq!(response.status(), 200);
        Watch {
            body: response.into_body(),
            buffer: Vec::new(),
        }
    }

    async fn token(&self, request: Value) -> String {
        self.post("/naka/v1/tokens", request).await["token"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

async fn send(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    method: Method,
    path: &str,
    body: Value,
    headers: &[(&str, &str)],
) -> http::Response<Incoming> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let bytes = if body.is_null() {
        Bytes::new()
    } else {
        Bytes::from(body.to_string())
    };
    let request = request.body(Full::new(bytes)).unwrap();
    tokio::time::timeout(PATIENCE, sender.send_request(request))
        .await
        .unwrap()
        .unwrap()
}

async fn read(response: http::Response<Incoming>) -> (u16, Value) {
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

/// Lines of a watch.
struct Watch {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next event as `(type, object)`.
    async fn next(&mut self) -> (String, Value) {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let mut event: Value = serde_json::from_slice(&line).unwrap();
                return (
                    event["type"].as_str().unwrap().to_owned(),
                    event["object"].take(),
                );
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame())
                .await
                .expect("no event came");
            self.buffer.extend_from_slice(
                &frame
                    .expect("the watch ended")
                    .unwrap()
                    .into_data()
                    .unwrap(),
            );
        }
    }
}

/// Tries until it is so.
async fn until<F: Future<Output = bool>>(what: &str, mut so: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !so().await {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{what} did not come to be"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn route(name: &str, weight: u64) -> Value {
    let destination = |subset: &str, weight: u64| json!({"destination": {"host": "payment", "subset": subset}, "weight": weight});
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"hosts": ["payment"], "http": [{"route": [destination("v1", 100 - weight), destination("v2", weight)]}]}})
}

const ROUTES: &str = "/apis/networking.istio.io/v1/namespaces/default/virtualservices";

fn reason(answer: &Value) -> &str {
    answer["reason"].as_str().unwrap_or_default()
}
