//! Real servers of one answer each.

use super::{allowed, keys};
use crate::settings::Jwks as Settings;
use naka_types::jwk::{KeySet, KeyUri, MAX_BYTES};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const SET: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const SOON: Duration = Duration::from_secs(10);

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> String {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await;
        match byte {
            Ok(byte) => asked.push(byte),
            Err(_) => break,
        }
    }
    // A client that has seen enough hangs up.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
    String::from_utf8(asked).unwrap()
}

fn http(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nlocation: http://127.0.0.1:1/\r\n\r\n{body}",
        body.len()
    )
}

/// What comes of one answer, and what the server was asked.
async fn ask(
    text: String,
    timeout: Duration,
    settings: &Settings,
) -> (Result<KeySet, String>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        answer(stream, &text).await
    });
    let uri = KeyUri::parse(&format!("http://127.0.0.1:{port}/keys?v=1")).unwrap();
    let got = keys(&uri, timeout, settings).await;
    (got, server.await.unwrap())
}

#[tokio::test]
async fn a_set_of_keys_is_taken_and_everything_else_is_named() {
    let settings = Settings::default();
    let (got, asked) = ask(http("200 OK", SET), SOON, &settings).await;
    assert_eq!(got.unwrap().keys().len(), 1);
    assert!(
        asked.starts_with("GET /keys?v=1 HTTP/1.1\r\nhost: 127.0.0.1:"),
        "{asked}"
    );
    let long = format!("{{\"keys\":[]}}{}", " ".repeat(MAX_BYTES));
    for (text, why) in [
        (
            http("404 Not Found", "secret of a neighbour"),
            "it answers 404",
        ),
        (
            http("302 Found", SET),
            "it answers 302 and leads elsewhere; redirects are not followed",
        ),
        (http("204 No Content", ""), "it answers 204"),
        (
            http("200 OK", "secret of a neighbour"),
            "the answer is no set of keys: it is not JSON",
        ),
        (
            http("200 OK", r#"{"keys":[]}"#),
            "the answer is no set of keys: none of its keys can verify a token",
        ),
        (
            http("200 OK", &long),
            "the answer broke off, or is longer than",
        ),
        (
            http("200 OK", SET).replace("content-length: ", "content-length: 9"),
            "the answer broke off",
        ),
        ("SSH-2.0-OpenSSH\r\n".to_owned(), "no answer"),
        (String::new(), "no answer"),
    ] {
        let (got, _) = ask(text, SOON, &settings).await;
        let got = got.unwrap_err();
        assert!(got.starts_with(why) && !got.contains("neighbour"), "{got}");
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_waited_for_no_longer_than_allowed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let uri = KeyUri::parse(&format!("http://127.0.0.1:{port}")).unwrap();
    let got = keys(&uri, Duration::from_millis(50), &Settings::default()).await;
    assert_eq!(got.unwrap_err(), "no answer within 50ms");
    drop(listener);
    let got = keys(&uri, SOON, &Settings::default()).await;
    assert!(got.unwrap_err().starts_with("no connection: "));
}

#[tokio::test]
async fn only_hosts_of_the_list_are_asked() {
    for (hosts, host, may) in [
        (&[][..], "a.example", true),
        (&["a.example"], "a.example", true),
        (&["a.example"], "b.a.example", false),
        (&["*.example"], "a.example", true),
        (&["*.example"], "example", false),
        (&["*.example"], "aexample", false),
        (&["b.example", "*.a.example"], "x.a.example", true),
    ] {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        assert_eq!(allowed(&hosts, host), may, "{hosts:?} {host}");
    }
    let settings = Settings {
        hosts: vec!["issuer.example".to_owned()],
        ..Settings::default()
    };
    // Nobody listens there: a refusal by the list comes first.
    let uri = KeyUri::parse("http://127.0.0.1:1/").unwrap();
    let got = keys(&uri, SOON, &settings).await.unwrap_err();
    assert!(got.contains("--jwks-hosts issuer.example"), "{got}");
}

/// A server of `localhost` whose authority is the file's or not.
async fn over_tls(
    authorities: Option<&Path>,
    certificate: &rcgen::CertifiedKey<rcgen::KeyPair>,
) -> Result<KeySet, String> {
    let chain = vec![certificate.cert.der().clone()];
    let key =
        rustls_pki_types::PrivateKeyDer::Pkcs8(certificate.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        if let Ok(stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await {
            answer(stream, &http("200 OK", SET)).await;
        }
    });
    let settings = Settings {
        authorities: authorities.map(Path::to_owned),
        ..Settings::default()
    };
    let uri = KeyUri::parse(&format!("https://localhost:{port}/keys")).unwrap();
    let got = keys(&uri, SOON, &settings).await;
    server.await.unwrap();
    got
}

#[tokio::test]
async fn a_server_of_tls_needs_an_authority_that_is_believed() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["issuer.example".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, own.cert.pem()).unwrap();
    assert!(over_tls(Some(&file), &own).await.is_ok());
    let unknown = over_tls(None, &own).await.unwrap_err();
    assert!(unknown.starts_with("no "), "{unknown}");
    std::fs::write(&file, other.cert.pem()).unwrap();
    let misnamed = over_tls(Some(&file), &other).await.unwrap_err();
    assert!(misnamed.starts_with("no TLS: "), "{misnamed}");
    std::fs::remove_file(&file).unwrap();
    let gone = over_tls(Some(&file), &own);
    let gone = tokio::time::timeout(SOON, gone).await.unwrap().unwrap_err();
    assert!(gone.contains("ca.pem"), "{gone}");
}
