//! A gateway towards strangers: server names, certificates, plaintext where TLS belongs, bytes that pass through.

use crate::mesh::{HOST, Mesh, Proxy, pair};
use crate::program::{exchange, http as program, mirror, within};
use naka_engine::model::{
    Action, Chain, Edge, Forward, HeaderEdits, Hosts, Match, Route, Security, Serves, Snapshot,
    VirtualHost, Wants, WeightedCluster,
};
use naka_engine::runtime::PortLimits;
use naka_identity::served::Version;
use naka_proxy::edge::spec::{Held, Source, Spec, Table};
use naka_proxy::worker::{Entrance, WorkerMsg};
use naka_types::protocol::Protocol;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const PORT: u16 = 443;

/// An authority that strangers trust.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str) -> Held {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        Held::Certificate {
            chain: params.signed_by(&key, &self.0).unwrap().pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
        }
    }

    async fn connect(&self, to: SocketAddr, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(naka_identity::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream = TcpStream::connect(to).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        within(connector.connect(name, stream)).await
    }

    /// The answer to a request for a host inside TLS for a name.
    async fn get(&self, to: SocketAddr, name: &str, host: &str) -> String {
        match self.connect(to, name).await {
            Err(error) => format!("no TLS: {error}"),
            Ok(mut stream) => {
                let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                let mut answer = Vec::new();
                let _ = within(stream.read_to_end(&mut answer)).await;
                String::from_utf8_lossy(&answer).into_owned()
            }
        }
    }
}

fn spec(secret: &str) -> Spec {
    Spec {
        certificates: vec![Source::Secret(secret.into())],
        clients: None,
        lowest: Version::Tls12,
        curves: Vec::new(),
        highest: Version::Tls13,
        suites: Vec::new(),
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    }
}

fn chain(name: &str, server: &str, security: Security, serves: Serves) -> Arc<Chain> {
    Arc::new(Chain {
        name: name.into(),
        wants: Wants {
            tls: Some(true),
            server_names: [Arc::from(server)].into(),
            ..Wants::default()
        },
        security,
        access: None,
        serves,
        grpc_web: false,
        server: (name == "a").then(|| "shop".into()),
    })
}

/// One host whose requests go to the service behind `base`.
fn hosts(base: &Snapshot, host: &str) -> Serves {
    let inside = base.virtual_hosts().next().unwrap();
    let mut vhost = VirtualHost::clone(inside);
    vhost.name = format!("{host}:{PORT}").into();
    vhost.port = PORT;
    vhost.domains = [Arc::from(host)].into();
    Serves::Http(Hosts::new(vec![Arc::new(vhost)]))
}

fn with(base: &Snapshot, chains: Vec<Arc<Chain>>) -> Snapshot {
    let mut builder = base.edit();
    builder.put_edge(Arc::new(Edge::new(PORT, chains)));
    builder.build()
}

/// Tells the proxy the certificates of its chains.
async fn certify(gateway: &Proxy, specs: &[(&str, Spec)], held: &BTreeMap<String, Held>) {
    let specs: Vec<(Arc<str>, Spec)> = specs
        .iter()
        .map(|(chain, spec)| (Arc::from(*chain), spec.clone()))
        .collect();
    let mut failed = Vec::new();
    let all = specs.iter().map(|(chain, spec)| (PORT, chain, spec));
    let table = Table::default().next(all, held, &mut failed).unwrap();
    assert_eq!(failed, Vec::<String>::new());
    let table = Arc::new(table);
    for worker in gateway.workers.all() {
        worker.send(WorkerMsg::Edge(Arc::clone(&table))).await;
    }
}

#[tokio::test]
async fn the_server_name_decides_and_hosts_of_another_server_are_out_of_reach() {
    let program = program(mirror).await;
    let pair = pair(program.address, Protocol::Http);
    let base = pair.mesh.outbound(Protocol::Http, &[pair.inbound]);
    let snapshot = with(
        &base,
        vec![
            chain(
                "a",
                "a.example.com",
                Security::Served,
                hosts(&base, "a.example.com"),
            ),
            chain(
                "b",
                "*.example.com",
                Security::Served,
                hosts(&base, "b.example.com"),
            ),
        ],
    );
    let gateway = pair.mesh.proxy("ingress", snapshot, &[]);
    let ca = Ca::new();
    let held = BTreeMap::from([
        ("a".to_owned(), ca.issue("a.example.com")),
        ("b".to_owned(), ca.issue("*.example.com")),
    ]);
    certify(&gateway, &[("a", spec("a")), ("b", spec("b"))], &held).await;
    let to = gateway.open(Entrance::Gateway { port: PORT });
    for (name, host, expect) in [
        ("a.example.com", "a.example.com", "HTTP/1.1 200"),
        ("b.example.com", "b.example.com", "HTTP/1.1 200"),
        // What one server asks of its clients is not walked around by the name of another.
        ("b.example.com", "a.example.com", "HTTP/1.1 404"),
        ("a.example.com", "b.example.com", "HTTP/1.1 404"),
        ("example.org", "a.example.com", "no TLS"),
    ] {
        let answer = ca.get(to, name, host).await;
        assert!(answer.starts_with(expect), "{name} {host}: {answer}");
    }
    // Of the two servers one has a name: the call that it served and the one that it knew no host for.
    for class in ["2xx", "4xx"] {
        let line = format!(
            "naka_server_requests_total{{server=\"shop\",response_code_class=\"{class}\"}} 1\n"
        );
        let counted = |proxy: &Proxy| proxy.metrics.render().contains(&line);
        gateway
            .until("calls of a server are counted", counted)
            .await;
    }
    let all = gateway.metrics.render();
    assert_eq!(all.matches("naka_server_requests_total{").count(), 2);
    let plain = exchange(to, b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n").await;
    assert_eq!(plain, "", "plaintext is closed");
    gateway
        .until("the refused name is logged", |p| {
            p.log
                .text()
                .contains("no server takes the name example.org")
        })
        .await;
}

#[tokio::test]
async fn a_certificate_is_changed_under_an_open_connection() {
    let program = program(mirror).await;
    let pair = pair(program.address, Protocol::Http);
    let base = pair.mesh.outbound(Protocol::Http, &[pair.inbound]);
    let serves = hosts(&base, "a.example.com");
    let snapshot = with(
        &base,
        vec![chain("a", "a.example.com", Security::Served, serves)],
    );
    let gateway = pair.mesh.proxy("ingress", snapshot, &[]);
    let to = gateway.open(Entrance::Gateway { port: PORT });
    let (old, new) = (Ca::new(), Ca::new());
    // Before it has one, its connections are refused.
    assert!(old.connect(to, "a.example.com").await.is_err());
    let held = |ca: &Ca| BTreeMap::from([("a".to_owned(), ca.issue("a.example.com"))]);
    certify(&gateway, &[("a", spec("a"))], &held(&old)).await;
    let mut open = old.connect(to, "a.example.com").await.unwrap();
    certify(&gateway, &[("a", spec("a"))], &held(&new)).await;
    assert!(
        old.connect(to, "a.example.com").await.is_err(),
        "the old one is gone"
    );
    assert!(
        new.get(to, "a.example.com", "a.example.com")
            .await
            .starts_with("HTTP/1.1 200")
    );
    open.write_all(b"GET / HTTP/1.1\r\nHost: a.example.com\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = within(open.read_to_end(&mut answer)).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "the open connection goes on"
    );
}

/// The bytes of a TLS client hello for a name.
fn hello(name: &str) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(naka_identity::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn tls_passes_through_byte_by_byte_and_other_names_do_not() {
    // A program that echoes: what comes back is what arrived.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let program = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    let pair = pair(program, Protocol::Tcp);
    let base = pair.mesh.outbound(Protocol::Tcp, &[pair.inbound]);
    let name = format!("outbound|80||{HOST}");
    let share = WeightedCluster::new(pair.mesh.registry.id(&name), &name, 1);
    let route = Route {
        name: "tls".into(),
        config: None,
        matches: Match::default(),
        action: Action::Forward(Forward::new(vec![share]).unwrap()),
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        limit: None,
        extras: Default::default(),
    };
    let bytes = Serves::Bytes(Arc::new(VirtualHost {
        name: "tls".into(),
        port: PORT,
        domains: Box::default(),
        routes: [Arc::new(route)].into(),
    }));
    let snapshot = with(
        &base,
        vec![chain("p", "*.example.com", Security::None, bytes)],
    );
    let gateway = pair.mesh.proxy("ingress", snapshot, &[]);
    let to = gateway.open(Entrance::Gateway { port: PORT });
    let sent = hello("shop.example.com");
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for part in sent.chunks(1 + sent.len() / 50) {
        stream.write_all(part).await.unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut back = vec![0; sent.len()];
    within(stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(back, sent);
    assert_eq!(
        exchange(to, &hello("shop.example.org")).await,
        "",
        "another name is closed"
    );
    assert_eq!(
        exchange(to, b"\x16\x03\x01\x00\x04\x02\x00\x00\x00").await,
        "",
        "no hello"
    );
    let _: &Mesh = &pair.mesh;
}

#[tokio::test]
async fn connections_of_a_port_are_limited_and_the_next_is_named_so() {
    let program = program(mirror).await;
    let pair = pair(program.address, Protocol::Http);
    for limit in [None, Some(1)] {
        let base = pair.mesh.gateway(8080, "*", &[pair.inbound]);
        let mut edge = Edge::clone(base.edge(8080).unwrap());
        edge.limits = limit.map(|_| {
            let limits = PortLimits {
                connections: limit,
                ..PortLimits::default()
            };
            (limits, Arc::default())
        });
        let mut builder = base.edit();
        builder.put_edge(Arc::new(edge));
        let gateway = pair.mesh.proxy("ingress", builder.build(), &[]);
        let to = gateway.open(Entrance::Gateway { port: 8080 });
        let head = b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n";
        let mut first = TcpStream::connect(to).await.unwrap();
        first.write_all(head).await.unwrap();
        let mut some = [0; 16];
        within(first.read_exact(&mut some)).await.unwrap();
        let close = b"GET / HTTP/1.1\r\nHost: a.example.com\r\nConnection: close\r\n\r\n";
        let second = exchange(to, close).await;
        assert_eq!(second.is_empty(), limit.is_some(), "{second}");
        if limit.is_some() {
            gateway
                .until("it says why", |p| {
                    p.log.text().contains("\"reason\":\"rate-limited\"")
                })
                .await;
        }
    }
}
