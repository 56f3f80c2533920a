//! Handshakes over TCP: who gets in, who does not, with which reason on both sides, and how sessions resume.
#![expect(clippy::unwrap_used, reason = "a test says by panicking")]

use naka_identity::{
    Authority, Bundle, IssueRequest, KeyAndCsr, Peer, ServerCert, Side, Svid, dns_sans, now_s,
    peer_of, reason_of_io, tls,
};
use naka_types::reason::Reason;
use naka_types::spiffe::SpiffeId;
use naka_types::workload::Ulid;
use rustls::{ClientConfig, HandshakeKind, NamedGroup, ServerConfig};
use rustls_pki_types::ServerName;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const ALPN: &[&[u8]] = &[b"istio-h2", b"istio"];

struct Mesh {
    authority: Authority,
    _dir: tempfile::TempDir,
}

fn mesh(trust_domain: &str) -> Mesh {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path(), trust_domain, now_s()).unwrap();
    Mesh {
        authority,
        _dir: dir,
    }
}

impl Mesh {
    fn svid(&self, account: &str) -> Svid {
        self.svid_at(account, now_s(), Duration::from_secs(600))
    }

    fn svid_at(&self, account: &str, now: u64, ttl: Duration) -> Svid {
        let spiffe = SpiffeId::new(self.authority.trust_domain(), "shop", account).unwrap();
        let key = KeyAndCsr::generate().unwrap();
        let issued = self
            .authority
            .issue(&IssueRequest {
                csr_pem: key.csr_pem(),
                spiffe: &spiffe,
                workload_id: Ulid::new(1, 2),
                dns_sans: &dns_sans(&[account.to_owned()], "shop"),
                ttl,
                now,
            })
            .unwrap();
        Svid::from_answer(&issued.pems(), key.key()).unwrap().0
    }

    fn bundle(&self) -> Bundle {
        self.authority.bundle()
    }

    fn inbound(&self, svid: &Svid) -> Arc<ServerConfig> {
        tls::inbound_tls(svid, &self.bundle(), ALPN).unwrap()
    }

    fn outbound(&self, svid: &Svid, allowed: &[&str]) -> Arc<ClientConfig> {
        let allowed: Vec<_> = allowed
            .iter()
            .map(|account| SpiffeId::new(self.authority.trust_domain(), "shop", account).unwrap())
            .collect();
        tls::outbound_tls(svid, &self.bundle(), allowed.into(), ALPN).unwrap()
    }
}

/// What one side saw of a connection that worked.
#[derive(Debug)]
struct Seen {
    peer: Option<Peer>,
    group: Option<NamedGroup>,
    kind: Option<HandshakeKind>,
    alpn: Option<Vec<u8>>,
    version: Option<rustls::ProtocolVersion>,
}

fn seen(connection: &rustls::CommonState) -> Seen {
    Seen {
        peer: connection
            .peer_certificates()
            .and_then(|chain| peer_of(chain).ok()),
        group: connection
            .negotiated_key_exchange_group()
            .map(rustls::crypto::SupportedKxGroup::name),
        kind: connection.handshake_kind(),
        alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
        version: connection.protocol_version(),
    }
}

/// Handshake, one byte each way. The server's and the client's view.
async fn meet(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
) -> (io::Result<Seen>, io::Result<Seen>) {
    let name = ServerName::try_from("outbound_.80_._.payment.shop.svc.cluster.local").unwrap();
    meet_as(server, client, name).await
}

async fn meet_as(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> (io::Result<Seen>, io::Result<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async {
        let (tcp, _) = listener.accept().await?;
        let mut stream = TlsAcceptor::from(server).accept(tcp).await?;
        let byte = stream.read_u8().await?;
        stream.write_u8(byte).await?;
        stream.shutdown().await?;
        Ok(seen(stream.get_ref().1))
    };
    let calling = async {
        let tcp = TcpStream::connect(address).await?;
        let mut stream = TlsConnector::from(client).connect(name, tcp).await?;
        stream.write_u8(7).await?;
        // Tickets come before the answer; in TLS 1.3 so does the refusal of our certificate.
        assert_eq!(stream.read_u8().await?, 7);
        Ok(seen(stream.get_ref().1))
    };
    tokio::time::timeout(Duration::from_secs(20), async {
        tokio::join!(serving, calling)
    })
    .await
    .expect("both sides end")
}

fn reason(result: &io::Result<Seen>, side: Side) -> Option<Reason> {
    reason_of_io(result.as_ref().expect_err("refused"), side)
}

#[tokio::test]
async fn two_workloads_prove_themselves_over_post_quantum_tls() {
    let mesh = mesh("cluster.local");
    let (payment, order) = (mesh.svid("payment"), mesh.svid("order"));
    let (server, client) = meet(mesh.inbound(&payment), mesh.outbound(&order, &["payment"])).await;
    let (server, client) = (server.unwrap(), client.unwrap());
    assert_eq!(server.peer.unwrap().spiffe, order.spiffe);
    let called = client.peer.unwrap();
    assert_eq!(called.spiffe, payment.spiffe);
    assert_eq!(called.workload_id, Some(Ulid::new(1, 2)));
    assert_eq!(client.group, Some(NamedGroup::X25519MLKEM768));
    assert_eq!(client.version, Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(client.alpn.as_deref(), Some(&b"istio-h2"[..]));
    assert_eq!(server.kind, Some(HandshakeKind::Full));
}

#[tokio::test]
async fn an_identity_that_may_not_serve_is_refused_by_the_caller() {
    let mesh = mesh("cluster.local");
    let (delivery, order) = (mesh.svid("delivery"), mesh.svid("order"));
    let (server, client) = meet(mesh.inbound(&delivery), mesh.outbound(&order, &["payment"])).await;
    assert_eq!(
        reason(&client, Side::Client),
        Some(Reason::WrongPeerIdentity)
    );
    assert!(server.is_err());
    let (server, client) = meet(mesh.inbound(&delivery), mesh.outbound(&order, &[])).await;
    assert_eq!(
        reason(&client, Side::Client),
        Some(Reason::WrongPeerIdentity),
        "nobody may"
    );
    assert!(server.is_err());
}

#[tokio::test]
async fn strangers_are_refused_by_the_called_side() {
    let (ours, theirs) = (mesh("cluster.local"), mesh("evil.example"));
    let payment = ours.svid("payment");
    // Another authority, which even claims our trust domain.
    let twin = mesh("cluster.local");
    for stranger in [&theirs, &twin] {
        let svid = stranger.svid("order");
        // The stranger trusts us, so that only our side can refuse.
        let allowed: Arc<[SpiffeId]> = [payment.spiffe.clone()].into();
        let client = tls::outbound_tls(&svid, &ours.bundle(), allowed, ALPN).unwrap();
        let (server, client) = meet(ours.inbound(&payment), client).await;
        assert_eq!(reason(&server, Side::Server), Some(Reason::PeerUntrusted));
        assert!(client.is_err());
    }
    // And the other way round: their server, our caller.
    let order = ours.svid("order");
    let server = tls::inbound_tls(&twin.svid("payment"), &ours.bundle(), ALPN).unwrap();
    let (_, client) = meet(server, ours.outbound(&order, &["payment"])).await;
    assert_eq!(reason(&client, Side::Client), Some(Reason::TlsFailed));
}

#[tokio::test]
async fn another_trust_domain_under_the_same_root_is_refused() {
    let mesh = mesh("cluster.local");
    let payment = mesh.svid("payment");
    let renamed = Bundle::new("other.domain", mesh.bundle().roots().to_vec()).unwrap();
    let server = tls::inbound_tls(&payment, &renamed, ALPN).unwrap();
    let (server, _) = meet(server, mesh.outbound(&mesh.svid("order"), &["payment"])).await;
    assert_eq!(reason(&server, Side::Server), Some(Reason::PeerUntrusted));
    let allowed: Arc<[SpiffeId]> = [payment.spiffe.clone()].into();
    let client = tls::outbound_tls(&mesh.svid("order"), &renamed, allowed, ALPN).unwrap();
    let (_, client) = meet(mesh.inbound(&payment), client).await;
    assert_eq!(
        reason(&client, Side::Client),
        Some(Reason::WrongPeerIdentity)
    );
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_either_side() {
    let mesh = mesh("cluster.local");
    let old = |account| mesh.svid_at(account, now_s() - 100, Duration::from_secs(50));
    let (server, _) = meet(
        mesh.inbound(&mesh.svid("payment")),
        mesh.outbound(&old("order"), &["payment"]),
    )
    .await;
    assert_eq!(reason(&server, Side::Server), Some(Reason::PeerUntrusted));
    let (_, client) = meet(
        mesh.inbound(&old("payment")),
        mesh.outbound(&mesh.svid("order"), &["payment"]),
    )
    .await;
    assert_eq!(reason(&client, Side::Client), Some(Reason::TlsFailed));
}

#[tokio::test]
async fn no_certificate_plaintext_and_old_tls_are_refused() {
    let mesh = mesh("cluster.local");
    let server = mesh.inbound(&mesh.svid("payment"));
    let no_certificate = tls::control_client_tls(None, &mesh.bundle(), ALPN).unwrap();
    let name = ServerName::try_from("payment.shop").unwrap();
    let (seen, _) = meet_as(Arc::clone(&server), no_certificate, name.clone()).await;
    assert_eq!(reason(&seen, Side::Server), Some(Reason::PeerUntrusted));

    let roots = rustls::RootCertStore {
        roots: mesh
            .bundle()
            .roots()
            .iter()
            .map(|root| webpki::anchor_from_trusted_cert(root).unwrap().to_owned())
            .collect(),
    };
    let order = mesh.svid("order");
    let with = |versions: &[&'static rustls::SupportedProtocolVersion]| {
        Arc::new(
            ClientConfig::builder_with_provider(tls::provider())
                .with_protocol_versions(versions)
                .unwrap()
                .with_root_certificates(roots.clone())
                .with_client_auth_cert(order.chain.clone(), order.key.clone_key())
                .unwrap(),
        )
    };
    let (seen, client) = meet_as(
        Arc::clone(&server),
        with(&[&rustls::version::TLS12]),
        name.clone(),
    )
    .await;
    assert!(seen.is_err() && client.is_err());
    // The twin: the same client with TLS 1.3 gets in, so it was the version.
    let (seen, client) = meet_as(Arc::clone(&server), with(&[&rustls::version::TLS13]), name).await;
    assert!(seen.is_ok() && client.is_ok());

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async {
        let (tcp, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(server).accept(tcp).await.map(drop)
    };
    let calling = async {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(b"GET / HTTP/1.1\r\nhost: payment\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer).await;
    };
    let (served, ()) = tokio::join!(serving, calling);
    assert_eq!(
        reason_of_io(&served.unwrap_err(), Side::Server),
        Some(Reason::MtlsRequired)
    );
}

#[tokio::test]
async fn sessions_resume_across_rotation_but_not_across_bundles() {
    let mesh = mesh("cluster.local");
    let client = mesh.outbound(&mesh.svid("order"), &["payment"]);
    let kind = async |server: Arc<ServerConfig>| {
        let (server, client) = meet(server, Arc::clone(&client)).await;
        assert!(
            server.unwrap().peer.is_some(),
            "a resumed peer is known too"
        );
        client.unwrap().kind.unwrap()
    };
    let first = mesh.inbound(&mesh.svid("payment"));
    assert_eq!(kind(Arc::clone(&first)).await, HandshakeKind::Full);
    assert_eq!(kind(first).await, HandshakeKind::Resumed);
    let rotated = mesh.inbound(&mesh.svid("payment"));
    assert_eq!(kind(rotated).await, HandshakeKind::Resumed);
    // The same roots in a new bundle: a new epoch of trust, none of the old tickets counts.
    let anew = Bundle::from_pem("cluster.local", &mesh.bundle().to_pem()).unwrap();
    assert!(anew.same_trust(&mesh.bundle()));
    let server = tls::inbound_tls(&mesh.svid("payment"), &anew, ALPN).unwrap();
    assert_eq!(kind(server).await, HandshakeKind::Full);
}

#[tokio::test]
async fn a_token_holder_accepts_the_root_of_the_token_and_no_other() {
    let mesh = mesh("cluster.local");
    let certificate = ServerCert::issue(
        &mesh.authority,
        &[],
        &["127.0.0.1".parse().unwrap()],
        Duration::from_secs(600),
        now_s(),
    )
    .unwrap();
    let server =
        tls::control_server_tls(Arc::clone(&certificate), &mesh.bundle(), &[b"h2"]).unwrap();
    let sha256 = mesh.authority.root_sha256();
    let by_token = |sha256: &str| tls::token_client_config(sha256, &[b"h2"]).unwrap();
    let (seen, client) = meet_as(Arc::clone(&server), by_token(&sha256), tls::control_name()).await;
    assert!(seen.unwrap().peer.is_none() && client.is_ok());
    let by_address = ServerName::try_from("127.0.0.1").unwrap();
    let (_, client) = meet_as(Arc::clone(&server), by_token(&sha256), by_address).await;
    assert!(client.is_ok());

    let (_, client) = meet_as(
        Arc::clone(&server),
        by_token(&"0".repeat(64)),
        tls::control_name(),
    )
    .await;
    assert_eq!(reason(&client, Side::Client), Some(Reason::TlsFailed));
    let other_name = ServerName::try_from("bank.example").unwrap();
    let (_, client) = meet_as(Arc::clone(&server), by_token(&sha256), other_name).await;
    assert!(client.is_err(), "the root is right, the name is not");

    // A workload of the mesh that plays the control plane and sends the root along.
    let payment = mesh.svid("payment");
    let mut chain = payment.chain.clone();
    chain.extend(mesh.bundle().roots().iter().cloned());
    let impostor = Arc::new(
        ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, payment.key.clone_key())
            .unwrap(),
    );
    let (_, client) = meet_as(impostor, by_token(&sha256), tls::control_name()).await;
    assert!(client.is_err());

    // With an identity, and after the control plane's own certificate was renewed.
    certificate.reissue(&mesh.authority, now_s()).unwrap();
    let known = tls::control_client_tls(Some(&payment), &mesh.bundle(), &[b"h2"]).unwrap();
    let (seen, client) = meet_as(server, known, tls::control_name()).await;
    assert_eq!(seen.unwrap().peer.unwrap().spiffe, payment.spiffe);
    assert!(client.is_ok());
}
