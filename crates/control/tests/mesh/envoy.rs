//! A real Envoy on the control plane: everything compiled for it is taken, and what cannot be is refused and told.
//!
//! One Envoy stands beside a program, one at the edge. Their agents are played by this test: keys over a Unix socket,
//! configuration straight from the control plane over mTLS. Without an Envoy (`NAKA_ENVOY`, `.venv/bin/envoy`) the
//! tests say so and end.

use crate::client::{Control, Proxy, soon};
use naka_api::Mode;
use naka_wire::envoy::config::core::v3::{DataSource, data_source::Specifier};
use naka_wire::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use naka_wire::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use naka_wire::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use naka_wire::v1::register_request::State;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

const DEADLINE: Duration = Duration::from_secs(30);
type Answers<T> = ReceiverStream<Result<T, Status>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The stock Envoy of `scripts/peers.txt`.
fn program() -> PathBuf {
    let named = std::env::var_os("NAKA_ENVOY").map(PathBuf::from);
    let found = named.unwrap_or_else(|| root().join(".venv/bin/envoy"));
    assert!(
        found.exists(),
        "no Envoy at {}; scripts/setup.sh peers gets one",
        found.display()
    );
    found
}

/// The agent's half that hands out keys.
#[derive(Clone)]
struct Keys {
    key: String,
    chain: String,
    roots: String,
}

impl Keys {
    fn secret(&self, name: &str) -> Secret {
        let text = |text: &str| {
            Some(DataSource {
                specifier: Some(Specifier::InlineString(text.to_owned())),
                ..DataSource::default()
            })
        };
        let content = match name {
            "ROOTCA" => secret::Type::ValidationContext(CertificateValidationContext {
                trusted_ca: text(&self.roots),
                ..CertificateValidationContext::default()
            }),
            _ => secret::Type::TlsCertificate(TlsCertificate {
                certificate_chain: text(&self.chain),
                private_key: text(&self.key),
                ..TlsCertificate::default()
            }),
        };
        Secret {
            name: name.to_owned(),
            r#type: Some(content),
        }
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Keys {
    type DeltaSecretsStream = Answers<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Answers<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let (out, answers) = mpsc::channel(4);
        let keys = self.clone();
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                if !request.response_nonce.is_empty() {
                    continue;
                }
                let names = request.resource_names.iter();
                let response = DiscoveryResponse {
                    version_info: "1".to_owned(),
                    nonce: "1".to_owned(),
                    type_url: request.type_url.clone(),
                    resources: names
                        .map(|name| naka_wire::pack(&keys.secret(name)))
                        .collect(),
                    ..DiscoveryResponse::default()
                };
                if out.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn fetch_secrets(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

/// A running Envoy with its agent.
struct Envoy {
    child: Child,
    admin: SocketAddr,
    directory: tempfile::TempDir,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

impl Envoy {
    async fn start(program: &Path, control: &Control, proxy: &Proxy, node: Value) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (key, chain, roots) = proxy.pem();
        let socket = directory.path().join("xds.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (connections, incoming) = mpsc::channel(4);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if connections
                    .send(Ok::<_, std::io::Error>(stream))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
        let keys = Keys {
            key: key.clone(),
            chain: chain.clone(),
            roots: roots.clone(),
        };
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(SecretDiscoveryServiceServer::new(keys))
                .serve_with_incoming(ReceiverStream::new(incoming)),
        );
        let inline = |text: String| json!({"inline_string": text});
        let http2 = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }});
        let place = |cluster: &str, address: Value| {
            json!({"cluster_name": cluster, "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": address}}]}]})
        };
        let xds = control.addresses.xds;
        let tls = json!({"name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": naka_identity::CONTROL_NAME,
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
                "tls_certificates": [{"certificate_chain": inline(chain), "private_key": inline(key)}],
                "validation_context": {"trusted_ca": inline(roots)},
            },
        }});
        let bootstrap = json!({
            "node": node,
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
            "dynamic_resources": {
                "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3",
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "control"}}]},
                "cds_config": {"ads": {}, "resource_api_version": "V3"},
                "lds_config": {"ads": {}, "resource_api_version": "V3"},
            },
            "static_resources": {"clusters": [
                {"name": "control", "type": "STATIC", "typed_extension_protocol_options": http2,
                 "transport_socket": tls,
                 "load_assignment": place("control", json!({"socket_address": {"address": xds.ip(), "port_value": xds.port()}}))},
                {"name": "naka-agent", "type": "STATIC", "typed_extension_protocol_options": http2,
                 "load_assignment": place("naka-agent", json!({"pipe": {"path": socket}}))},
            ]},
        });
        let file = directory.path().join("bootstrap.json");
        std::fs::write(&file, bootstrap.to_string()).unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let admin = directory.path().join("admin");
        let child = Command::new(program)
            .arg("-c")
            .arg(&file)
            .arg("--admin-address-path")
            .arg(&admin)
            .args([
                "--disable-hot-restart",
                "--concurrency",
                "1",
                "-l",
                "warning",
            ])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut envoy = Self {
            child,
            admin: free(),
            directory,
        };
        let end = Instant::now() + DEADLINE;
        envoy.admin = loop {
            let text = std::fs::read_to_string(&admin).unwrap_or_default();
            match text.trim().parse() {
                Ok(address) => break address,
                Err(_) => assert!(Instant::now() < end, "no Envoy: {}", envoy.log()),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        envoy
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(path, stream.read_to_string(&mut answer))
            .await
            .unwrap();
        answer
    }

    async fn rejected(&self) -> u64 {
        let stats = self.get("/stats?filter=update_rejected").await;
        stats
            .lines()
            .filter_map(|line| {
                line.split_once("update_rejected: ")?
                    .1
                    .trim()
                    .parse::<u64>()
                    .ok()
            })
            .sum()
    }

    /// Waits until the dump holds a text.
    async fn dumps(&self, resource: &str, wanted: &str) {
        let end = Instant::now() + DEADLINE;
        loop {
            let dump = self.get(&format!("/config_dump?resource={resource}")).await;
            if dump.contains(wanted) {
                return;
            }
            assert!(
                Instant::now() < end,
                "no {wanted} in {resource}: {dump}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn node(role: &str, proxy: &Proxy, labels: Value, naka: Value) -> Value {
    let mut naka = naka;
    naka["workload_id"] = json!(proxy.workload_id);
    naka["capabilities"] = json!([]);
    json!({
        "id": format!("{role}~127.0.0.1~{}.default~default.svc.cluster.local", proxy.service),
        "cluster": "test",
        "metadata": {"NAMESPACE": "default", "LABELS": labels, "NAKA": naka},
    })
}

/// Objects of every YAML file below a directory, by file.
fn manifests(directory: &Path) -> Vec<(String, Vec<Value>)> {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            match path.extension().and_then(|ending| ending.to_str()) {
                None if path.is_dir() => todo.push(path),
                Some("yaml") => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let text = std::fs::read(&path).unwrap();
            let name = path.display().to_string();
            let decoded = naka_api::decode_yaml(&name, &text, Mode::Compat);
            let raws = decoded.objects.iter().filter(|object| {
                matches!(
                    object.kind.as_str(),
                    "VirtualService"
                        | "DestinationRule"
                        | "Gateway"
                        | "PeerAuthentication"
                        | "Service"
                )
            });
            (name, raws.map(|object| object.raw.clone()).collect())
        })
        .collect()
}

/// Hosts that objects name as destinations, as `(service, namespace)`.
fn services(value: &Value, namespace: &str, found: &mut BTreeSet<(String, String)>) {
    match value {
        Value::Array(all) => all.iter().for_each(|one| services(one, namespace, found)),
        Value::Object(fields) => {
            if let Some(Value::String(host)) = fields.get("host")
                && let Ok(host) = naka_types::host::Host::resolve(host, namespace)
                && let Some((name, namespace)) = host.service()
            {
                found.insert((name.to_owned(), namespace.to_owned()));
            }
            fields
                .values()
                .for_each(|one| services(one, namespace, found));
        }
        _ => {}
    }
}

fn service((name, namespace): &(String, String)) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [
            {"port": 80, "targetPort": 8080, "name": "http"}, {"port": 9000, "name": "grpc"},
            {"port": 9090, "name": "x"}, {"port": 5432, "name": "tcp-db"}]},
    })
}

/// A gateway as the demo has one, with every action a route can have.
fn ingress() -> Vec<Value> {
    let route = json!([{"destination": {"host": "order.default.svc.cluster.local"}}]);
    vec![
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
            "metadata": {"name": "demo", "namespace": "istio-system"},
            "spec": {"selector": {"istio": "ingressgateway"}, "servers": [
                {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]},
        }),
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "ingress", "namespace": "default"},
            "spec": {"hosts": ["shop.example.com"], "gateways": ["istio-system/demo"], "http": [
                {"match": [{"uri": {"prefix": "/old"}}], "redirect": {"uri": "/new", "redirectCode": 308}},
                {"match": [{"uri": {"exact": "/hello"}}], "directResponse": {"status": 200, "body": {"string": "x".repeat(9000)}}},
                {"match": [{"uri": {"regex": "/v[0-9]+/.*"}}], "rewrite": {"uri": "/", "authority": "a"}, "route": route,
                 "headers": {"request": {"set": {"Host": "b", "x-a": "%b"}, "remove": ["x-b", "host"]}},
                 "retries": {"attempts": 3, "perTryTimeout": "1s", "retryOn": "5xx,503"}, "timeout": "5s"},
                {"route": route}]},
        }),
    ]
}

#[tokio::test]
async fn an_envoy_takes_everything_there_is_and_says_what_it_cannot() {
    let program = program();
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(directory.path()).await;
    let mut payment = Proxy::join(&control, "payment", "v1").await;
    payment.register(&control, State::Ready).await;
    let mut order = Proxy::join(&control, "order", "v1").await;
    order.register(&control, State::Ready).await;
    let beside = node(
        "sidecar",
        &order,
        json!({}),
        json!({
            "http_proxy": free().to_string(),
            "upstreams": [{"bind": free().to_string(), "host": "payment", "port": 80},
                          {"bind": free().to_string(), "host": "postgres", "port": 5432}],
        }),
    );
    let ports: Vec<Value> = [80, 443, 8080, 8443, 15443]
        .into_iter()
        .map(|port| json!({"port": port, "bind": free().to_string()}))
        .collect();
    let edge = Proxy::join(&control, "edge", "v1").await;
    let labels = json!({"istio": "ingressgateway", "app": "istio-ingressgateway"});
    let node_of_edge = node("router", &edge, labels, json!({"gateway_ports": ports}));
    let sidecar = Envoy::start(&program, &control, &order, beside).await;
    let gateway = Envoy::start(&program, &control, &edge, node_of_edge).await;
    sidecar.dumps("dynamic_listeners", "http_proxy").await;
    sidecar.dumps("dynamic_listeners", "inbound_8080").await;
    sidecar
        .dumps(
            "dynamic_route_configs",
            "payment.default.svc.cluster.local:80",
        )
        .await;

    let mut applied = 0;
    let mut objects = 0;
    let mut all = manifests(&root().join("cases"));
    all.push(("ingress".to_owned(), ingress()));
    // Certificates of a case are made when the referee runs it.
    all.retain(|(_, raws)| !json!(raws).to_string().contains("${"));
    for (file, raws) in all {
        let mut hosts = BTreeSet::new();
        for raw in &raws {
            let namespace = raw["metadata"]["namespace"].as_str().unwrap_or("default");
            services(raw, namespace, &mut hosts);
        }
        let mut all: Vec<Value> = hosts.iter().map(service).collect();
        objects += raws.len();
        all.extend(raws);
        if all.is_empty() {
            continue;
        }
        applied = control.apply(&json!(all)).await;
        let rollout = control.rollout(applied).await;
        assert_eq!(rollout["nacks"], json!([]), "{file}: {rollout}");
        assert_eq!(rollout["done"], true, "{file}: {rollout}");
    }
    assert!(objects > 50, "only {objects} objects were found");
    assert_eq!(sidecar.rejected().await, 0, "{}", sidecar.log());
    assert_eq!(gateway.rejected().await, 0, "{}", gateway.log());
    let proxies = control.http("GET", "/naka/v1/proxies", &Value::Null).await;
    let text = proxies.to_string();
    assert!(text.contains("programmed"), "{text}");
    sidecar
        .dumps("dynamic_active_clusters", "outbound|80||payment")
        .await;
    sidecar
        .dumps("dynamic_active_clusters", "inbound|8080||")
        .await;
    gateway.dumps("dynamic_listeners", "0.0.0.0_80").await;
    gateway
        .dumps("dynamic_route_configs", "shop.example.com")
        .await;

    // The other way round: a pattern that only our own proxies understand is refused, and that is told.
    // Of a host that no case claims.
    let bad = json!([{
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "untouched", "namespace": "default"},
        "spec": {"selector": {"app": "untouched"}, "ports": [{"name": "http", "port": 80}]},
    }, {
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "a-bad-one", "namespace": "default"},
        "spec": {"hosts": ["untouched"], "http": [
            {"match": [{"uri": {"regex": "(?x) /a [0-9] # a comment"}}],
             "route": [{"destination": {"host": "payment"}}]},
        ]},
    }]);
    let broken = control.apply(&bad).await;
    assert!(broken > applied);
    let rollout = control.rollout(broken).await;
    assert_eq!(rollout["nacks"][0]["proxy"], "order.default", "{rollout}");
    assert!(sidecar.rejected().await > 0);
    control.stop().await;
}
