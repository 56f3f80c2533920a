//! The certificate service over real TLS connections: tokens, renewal, binding, and what is on disk when.
#![expect(clippy::unwrap_used, reason = "a test says by panicking")]

use naka_control::ca_service::{
    CERTIFICATE, CaService, REFUSED, TOKEN, TlsIncoming, approval, certificate, grant,
};
use naka_control::certificates::TERMS;
use naka_identity::tls::{
    control_client_tls, control_name, control_server_tls, token_client_config,
};
use naka_identity::{
    Attested, Authority, Bundle, JoinParams, KeyAndCsr, ServerCert, Svid, TokenGrant, new_secret,
    now_s,
};
use naka_store::{Draft, Filter, Store};
use naka_telemetry::Metrics;
use naka_types::key::KeyType;
use naka_wire::istio_ca::IstioCertificateRequest;
use naka_wire::istio_ca::istio_certificate_service_client::IstioCertificateServiceClient;
use naka_wire::v1::CertificateTerms;
use naka_wire::values;
use prost::Message as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tonic::{Code, Status};

struct Plane {
    address: std::net::SocketAddr,
    authority: Arc<Authority>,
    store: Arc<Store>,
    metrics: Metrics,
    dir: tempfile::TempDir,
}

impl Plane {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority =
            Authority::open_or_create(&dir.path().join("ca"), "cluster.local", now_s()).unwrap();
        let authority = Arc::new(authority);
        let (store, _) = Store::open(dir.path(), naka_store::Settings::default()).unwrap();
        let certificate =
            ServerCert::issue(&authority, &[], &[], Duration::from_secs(600), now_s()).unwrap();
        let config = control_server_tls(certificate, &authority.bundle(), &[b"h2"]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Metrics::new();
        let service = CaService::new(
            Arc::clone(&authority),
            Arc::clone(&store),
            Duration::from_secs(3_600),
            metrics.clone(),
        );
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service.into_service())
                .serve_with_incoming(TlsIncoming::start(
                    listener,
                    tokio::sync::watch::channel(config).1,
                    tokio::sync::watch::channel(std::sync::Arc::default()).1,
                )),
        );
        Self {
            address,
            authority,
            store,
            metrics,
            dir,
        }
    }

    /// A join token for `payment`; its text.
    async fn token(&self, id: &str, uses: Option<u32>, expires: u64) -> String {
        let secret = new_secret();
        let grant = TokenGrant::join(
            id,
            &secret,
            JoinParams {
                namespace: "shop".into(),
                service_account: "payment".into(),
                services: vec!["payment".into()],
                labels: [("version".to_owned(), "v1".to_owned())].into(),
                uses,
                expires,
                created_by: "asha".into(),
                attested: None,
            },
        );
        let value = serde_json::to_value(grant).unwrap();
        let draft = Draft::record("user:asha", "", "token.create", TOKEN, id, Some(value));
        self.store.commit(vec![draft]).await.unwrap();
        format!(
            "naka1.join.127_0_0_1:1.{}.{id}.{secret}",
            self.authority.root_sha256()
        )
    }

    async fn newcomer(&self) -> Link {
        let sha256 = self.authority.root_sha256();
        self.dial(token_client_config(&sha256, &[b"h2"]).unwrap())
            .await
    }

    async fn member(&self, svid: &Svid, bundle: &Bundle) -> Link {
        self.dial(control_client_tls(Some(svid), bundle, &[b"h2"]).unwrap())
            .await
    }

    async fn dial(&self, config: Arc<rustls::ClientConfig>) -> Link {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let stream = tokio_rustls::TlsConnector::from(config)
            .connect(control_name(), stream)
            .await
            .unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (requests, connection) = hyper::client::conn::http2::handshake(executor, io)
            .await
            .unwrap();
        tokio::spawn(connection);
        Link { requests }
    }

    fn events(&self, kind: &str) -> usize {
        let filter = Filter {
            kind_prefix: Some(kind.to_owned()),
            ..Filter::default()
        };
        self.store
            .events(1..=u64::MAX, &filter, 1_000)
            .unwrap()
            .len()
    }
}

/// One connection, as tonic's client wants it.
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
        let uri = format!("https://naka-control{}", request.uri().path());
        *request.uri_mut() = uri.parse().unwrap();
        Box::pin(self.requests.send_request(request))
    }
}

struct Wish<'a> {
    token: Option<&'a str>,
    account: &'a str,
    services: &'a [&'a str],
    ttl: i64,
}

const PAYMENT: Wish<'static> = Wish {
    token: None,
    account: "payment",
    services: &["payment"],
    ttl: 0,
};

async fn ask(link: &Link, wish: &Wish<'_>) -> Result<(Svid, Bundle), Status> {
    ask_with(link, wish, &KeyAndCsr::generate().unwrap()).await
}

async fn ask_with(link: &Link, wish: &Wish<'_>, key: &KeyAndCsr) -> Result<(Svid, Bundle), Status> {
    let mut request = tonic::Request::new(IstioCertificateRequest {
        csr: key.csr_pem().to_owned(),
        validity_duration: wish.ttl,
        metadata: Some(values::fields([
            ("namespace", values::string("shop")),
            ("service_account", values::string(wish.account)),
            ("services", values::strings(wish.services.iter().copied())),
        ])),
    });
    if let Some(token) = wish.token {
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
    }
    let answer = IstioCertificateServiceClient::new(link.clone())
        .create_certificate(request)
        .await?;
    Ok(Svid::from_answer(&answer.into_inner().cert_chain, key.key()).unwrap())
}

/// Code and short word of a refusal.
async fn refused(link: &Link, wish: &Wish<'_>) -> (Code, String) {
    let status = ask(link, wish).await.expect_err("refused");
    let word = status
        .metadata()
        .get(REFUSED)
        .map(|w| w.to_str().unwrap().to_owned());
    (status.code(), word.unwrap_or_default())
}

#[tokio::test]
async fn a_token_joins_once_and_the_use_and_the_certificate_are_stored() {
    let plane = Plane::start().await;
    let token = plane.token("01A", Some(1), now_s() + 60).await;
    let link = plane.newcomer().await;
    let wish = Wish {
        token: Some(&token),
        ..PAYMENT
    };
    let (svid, bundle) = ask(&link, &wish).await.unwrap();
    assert_eq!(
        svid.spiffe.to_string(),
        "spiffe://cluster.local/ns/shop/sa/payment"
    );
    assert!(bundle.same_trust(&plane.authority.bundle()));
    let left = svid.remaining(now_s()).as_secs();
    assert!((3_590..=3_600).contains(&left), "{left}");

    let snapshot = plane.store.snapshot();
    assert_eq!(grant(&snapshot, "01A").unwrap().uses_left, Some(0));
    let kept = certificate(&snapshot, svid.workload_id).unwrap();
    assert_eq!(
        (kept.not_after, kept.services.as_slice()),
        (svid.not_after, &["payment".to_owned()][..])
    );
    assert_eq!(kept.labels["version"], "v1");
    assert_eq!(plane.events("certificate.issued"), 1);

    // The same token elsewhere.
    let other = plane.newcomer().await;
    assert_eq!(
        refused(&other, &wish).await,
        (Code::Unauthenticated, "used-up".into())
    );
    // The first connection is somebody now and renews without a token; it stays the same workload.
    let (again, _) = ask(&link, &PAYMENT).await.unwrap();
    assert_eq!(again.workload_id, svid.workload_id);
    assert_eq!(plane.events("certificate.issued"), 2);
    let exposition = plane.metrics.render();
    assert!(
        exposition.contains("naka_certificates_issued_total 2"),
        "{exposition}"
    );
    assert!(exposition.contains("naka_certificate_refusals_total{reason=\"used-up\"} 1"));

    // No secret and no key is on disk.
    let log = std::fs::read(plane.dir.path().join("log")).unwrap();
    let secret = token.rsplit('.').next().unwrap();
    let holds = |text: &str| log.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(holds("certificate.issued") && !holds(secret) && !holds("PRIVATE KEY"));
}

#[tokio::test]
async fn tokens_that_do_not_do_are_refused_with_the_rule() {
    let plane = Plane::start().await;
    let good = plane.token("01A", None, now_s() + 60).await;
    let old = plane.token("01B", None, now_s() - 1).await;
    let api = good.replace(".join.", ".api.");
    let guess = format!("{}x", good.trim_end_matches(char::is_alphanumeric)) + &new_secret();
    let unknown = good.replace(".01A.", ".01Z.");
    let link = plane.newcomer().await;
    for (token, code, word) in [
        (None, Code::Unauthenticated, "no-proof"),
        (Some("nonsense"), Code::Unauthenticated, "malformed-token"),
        (Some(old.as_str()), Code::Unauthenticated, "expired"),
        (Some(api.as_str()), Code::Unauthenticated, "wrong-kind"),
        (Some(guess.as_str()), Code::Unauthenticated, "wrong-secret"),
        (
            Some(unknown.as_str()),
            Code::Unauthenticated,
            "wrong-secret",
        ),
    ] {
        assert_eq!(
            refused(&link, &Wish { token, ..PAYMENT }).await,
            (code, word.into())
        );
    }
    let token = Some(good.as_str());
    for wish in [
        Wish {
            token,
            account: "delivery",
            ..PAYMENT
        },
        Wish {
            token,
            services: &["payment", "order"],
            ..PAYMENT
        },
    ] {
        assert_eq!(
            refused(&link, &wish).await,
            (Code::PermissionDenied, "not-covered".into())
        );
    }
    let wish = Wish {
        token,
        services: &["../x"],
        ..PAYMENT
    };
    assert_eq!(
        refused(&link, &wish).await,
        (Code::InvalidArgument, "identity".into())
    );
    assert_eq!(plane.store.snapshot().records_of(CERTIFICATE).count(), 0);
    // None of this used the connection up, and the good token still does.
    assert!(ask(&link, &Wish { token, ..PAYMENT }).await.is_ok());
}

#[tokio::test]
async fn a_certificate_renews_itself_and_nothing_else() {
    let plane = Plane::start().await;
    let token = plane.token("01A", Some(1), now_s() + 60).await;
    let joining = Wish {
        token: Some(&token),
        ttl: 5,
        ..PAYMENT
    };
    let (svid, bundle) = ask(&plane.newcomer().await, &joining).await.unwrap();
    assert!(
        svid.remaining(now_s()).as_secs() <= 5,
        "the wish for a short one is heard"
    );
    let link = plane.member(&svid, &bundle).await;
    let (renewed, _) = ask(&link, &PAYMENT).await.unwrap();
    assert_eq!(
        (renewed.workload_id, &renewed.spiffe),
        (svid.workload_id, &svid.spiffe)
    );
    assert!(renewed.not_after > svid.not_after);
    let other = Wish {
        account: "delivery",
        ..PAYMENT
    };
    assert_eq!(
        refused(&link, &other).await,
        (Code::PermissionDenied, "other-identity".into())
    );
    // Not even with a good token: this connection is somebody already.
    let second = plane.token("01B", Some(1), now_s() + 60).await;
    let other = Wish {
        token: Some(&second),
        ..other
    };
    assert_eq!(
        refused(&link, &other).await,
        (Code::PermissionDenied, "other-identity".into())
    );
    let more = Wish {
        services: &["payment", "order"],
        ..PAYMENT
    };
    assert_eq!(
        refused(&link, &more).await,
        (Code::PermissionDenied, "not-covered".into())
    );
}

#[tokio::test]
async fn a_token_of_five_uses_joins_five_of_twenty_at_once() {
    let plane = Plane::start().await;
    let token = plane.token("01A", Some(5), now_s() + 60).await;
    let asks = (0..20).map(|_| async {
        let link = plane.newcomer().await;
        ask(
            &link,
            &Wish {
                token: Some(&token),
                ..PAYMENT
            },
        )
        .await
    });
    let answers = futures_util::future::join_all(asks).await;
    let mut ids: Vec<_> = answers
        .iter()
        .flatten()
        .map(|(svid, _)| svid.workload_id)
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5, "five workloads, each its own");
    assert_eq!(
        grant(&plane.store.snapshot(), "01A").unwrap().uses_left,
        Some(0)
    );
}

/// Stores a CertificatePolicy of `shop`.
async fn rule(plane: &Plane, spec: &str) {
    let text = format!(
        "apiVersion: naka.dev/v1alpha1\nkind: CertificatePolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
    );
    let decoded = naka_api::decode_yaml("p.yaml", text.as_bytes(), naka_api::Mode::Strict);
    assert!(decoded.findings.is_empty(), "{:?}", decoded.findings);
    let object = decoded.objects.into_iter().next().unwrap();
    let draft = Draft::put("user:asha", "", object.reference(), object.raw);
    plane.store.commit(vec![draft]).await.unwrap();
}

fn terms(status: &Status) -> CertificateTerms {
    let held = status.metadata().get_bin(TERMS).expect("terms");
    CertificateTerms::decode(held.to_bytes().unwrap()).unwrap()
}

#[tokio::test]
async fn a_key_that_the_policy_does_not_want_is_refused_with_what_to_do() {
    let plane = Plane::start().await;
    rule(&plane, "{duration: 48h, privateKey: {size: 384}}").await;
    let token = plane.token("01A", Some(1), now_s() + 60).await;
    let wish = Wish {
        token: Some(&token),
        ..PAYMENT
    };
    let link = plane.newcomer().await;
    let status = ask(&link, &wish).await.expect_err("another key");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.metadata().get(REFUSED).unwrap(), "key-type");
    let words = status.message();
    assert!(
        words.contains("wants a key of type ECDSA-P384, the signing request has ECDSA-P256"),
        "{words}"
    );
    assert_eq!(terms(&status).key_type, "ECDSA-P384");
    // The token is not used up, and the right key gets what the policy gives.
    let key = KeyAndCsr::generate_for(KeyType::EcdsaP384).unwrap();
    let (svid, _) = ask_with(&link, &wish, &key).await.unwrap();
    let left = svid.remaining(now_s()).as_secs();
    assert!((172_790..=172_800).contains(&left), "{left}");
    let kept = certificate(&plane.store.snapshot(), svid.workload_id).unwrap();
    assert_eq!(
        (kept.key_type.as_str(), kept.policy.as_str()),
        ("ECDSA-P384", "shop/p")
    );
}

#[tokio::test]
async fn an_approval_is_for_one_key_of_one_workload() {
    let plane = Plane::start().await;
    rule(
        &plane,
        "{serviceAccounts: [payment], duration: 168h, renewBefore: 72h, approval: Manual}",
    )
    .await;
    let token = plane.token("01A", None, now_s() + 60).await;
    let wish = Wish {
        token: Some(&token),
        ..PAYMENT
    };
    let link = plane.newcomer().await;
    let (own, thief) = (
        KeyAndCsr::generate().unwrap(),
        KeyAndCsr::generate().unwrap(),
    );
    for key in [&own, &own, &thief] {
        let status = ask_with(&link, &wish, key)
            .await
            .expect_err("nobody approved it");
        assert_eq!(status.metadata().get(REFUSED).unwrap(), "approval");
    }
    let waiting = |plane: &Plane| -> Vec<String> {
        let snapshot = plane.store.snapshot();
        approval::all(&snapshot)
            .map(|(id, _)| id.to_owned())
            .collect()
    };
    assert_eq!(waiting(&plane).len(), 2, "each key once");
    let approve = async |key: &KeyAndCsr| {
        let read = naka_identity::requested(key.csr_pem()).unwrap();
        let id = approval::id_of(&read.sha256).to_owned();
        let mut request = approval::read(&plane.store.snapshot(), &id).unwrap();
        request.approved_by = "user:asha".to_owned();
        let value = serde_json::to_value(request).ok();
        let draft = Draft::record(
            "user:asha",
            "",
            "certificate.approve",
            approval::REQUEST,
            &id,
            value,
        );
        plane.store.commit(vec![draft]).await.unwrap();
    };
    approve(&own).await;
    let status = ask_with(&link, &wish, &thief)
        .await
        .expect_err("another key");
    assert_eq!(status.metadata().get(REFUSED).unwrap(), "approval");
    let (svid, bundle) = ask_with(&link, &wish, &own).await.unwrap();
    // Used up: the next one waits again, and that of a workload that runs is not for a new one.
    let member = plane.member(&svid, &bundle).await;
    let status = ask_with(&member, &PAYMENT, &own)
        .await
        .expect_err("the next one");
    assert_eq!(status.metadata().get(REFUSED).unwrap(), "approval");
    approve(&own).await;
    let newcomer = plane.newcomer().await;
    assert!(
        ask_with(&newcomer, &wish, &own).await.is_err(),
        "as another workload"
    );
    approve(&own).await;
    let (again, _) = ask_with(&newcomer, &wish, &own).await.unwrap();
    assert_ne!(again.workload_id, svid.workload_id);
}

#[tokio::test]
async fn a_token_without_a_program_that_was_seen_makes_nobody_who_is_attested() {
    let plane = Plane::start().await;
    let sha = "a".repeat(64);
    rule(
        &plane,
        &format!("{{serviceAccounts: [payment], attestation: {{executables: ['sha256:{sha}']}}}}"),
    )
    .await;
    let token = plane.token("01A", None, now_s() + 60).await;
    let wish = Wish {
        token: Some(&token),
        ..PAYMENT
    };
    let link = plane.newcomer().await;
    assert_eq!(
        refused(&link, &wish).await,
        (Code::PermissionDenied, "attestation".into())
    );
    let saw = async |executable: &str| {
        let mut seen = grant(&plane.store.snapshot(), "01A").unwrap();
        seen.attested = Some(Attested {
            uid: Some(0),
            executable: Some(executable.to_owned()),
        });
        let value = serde_json::to_value(seen).ok();
        let draft = Draft::record("user:asha", "", "token.create", TOKEN, "01A", value);
        plane.store.commit(vec![draft]).await.unwrap();
    };
    saw(&"b".repeat(64)).await;
    assert_eq!(
        refused(&link, &wish).await,
        (Code::PermissionDenied, "attestation".into())
    );
    saw(&sha).await;
    let (svid, bundle) = ask(&link, &wish).await.unwrap();
    let member = plane.member(&svid, &bundle).await;
    assert!(
        ask(&member, &PAYMENT).await.is_ok(),
        "renewed: the record knows it"
    );
    // A policy that comes later holds at the next renewal.
    rule(
        &plane,
        "{serviceAccounts: [payment], attestation: {uid: 7}}",
    )
    .await;
    assert_eq!(
        refused(&member, &PAYMENT).await,
        (Code::PermissionDenied, "attestation".into())
    );
}
