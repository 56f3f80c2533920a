//! A proxy without a control plane: its admin socket, its orders, its end, on real sockets.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside #[test] functions"
)]

use naka_proxy::run::{self, Running};
use naka_proxy::settings::{AccessLog, Settings};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

const LIMIT: Duration = Duration::from_secs(10);

fn settings(dir: &Path) -> Settings {
    let mut settings = Settings::new(dir.to_owned(), "pay", "pay-1");
    settings.service = Some("pay".to_owned());
    settings.ports_later = true;
    settings.access_log = AccessLog::Off;
    settings.control.addresses = vec!["127.0.0.1:1".to_owned()];
    settings
}

async fn talk<S: AsyncReadExt + AsyncWriteExt + Unpin>(mut stream: S, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn ask(running: &Running, method: &str, path: &str, body: &str) -> (u16, String) {
    let stream = UnixStream::connect(running.admin()).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = tokio::time::timeout(LIMIT, talk(stream, &request))
        .await
        .unwrap();
    let status = answer[9..12].parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}

async fn started(dir: &Path) -> Running {
    run::start(settings(dir)).await.unwrap()
}

#[tokio::test]
async fn pages_answer_and_say_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let running = started(dir.path()).await;
    let mode = std::fs::metadata(running.admin())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let (status, body) = ask(&running, "GET", "/ready", "").await;
    assert_eq!(status, 503);
    assert!(
        body.contains("identity") && body.contains("configuration"),
        "{body}"
    );
    assert!(
        body.contains(r#""status": "unhealthy""#) && body.contains(r#""service": "pay""#),
        "{body}"
    );
    for path in [
        "/server_info",
        "/config_dump",
        "/clusters",
        "/certs",
        "/memory",
        "/stats",
        "/stats/prometheus",
        "/addresses",
        "/",
    ] {
        assert_eq!(ask(&running, "GET", path, "").await.0, 200, "{path}");
    }
    for (method, path, expect) in [
        ("GET", "/none", 404),
        ("GET", "/quit", 405),
        ("POST", "/none", 404),
        ("DELETE", "/ready", 405),
        ("POST", "/ports", 400),
    ] {
        assert_eq!(
            ask(&running, method, path, "").await.0,
            expect,
            "{method} {path}"
        );
    }
    running.stop().await;
    tokio::time::timeout(LIMIT, running.stopped())
        .await
        .unwrap();
}

#[tokio::test]
async fn announced_ports_get_listeners_and_a_drain_closes_them() {
    let dir = tempfile::tempdir().unwrap();
    let running = started(dir.path()).await;
    let announced = r#"{"ports":[8080,{"port":9090,"protocol":"grpc"}]}"#;
    assert_eq!(ask(&running, "POST", "/ports", announced).await.0, 200);
    let inbound = running.addresses().inbound;
    assert_eq!(inbound.keys().copied().collect::<Vec<_>>(), [8080, 9090]);
    let outbound = running.addresses().outbound.unwrap();
    assert!(TcpStream::connect(inbound[&8080]).await.is_ok());
    let (status, body) = ask(&running, "POST", "/drain?wait=1", "").await;
    assert_eq!(status, 200);
    assert!(body.contains("drained"), "{body}");
    assert!(
        TcpStream::connect(inbound[&8080]).await.is_err(),
        "inbound is closed"
    );
    assert!(
        TcpStream::connect(outbound).await.is_ok(),
        "outbound still serves"
    );
    assert_eq!(ask(&running, "POST", "/quit", "").await.0, 202);
    tokio::time::timeout(LIMIT, running.stopped())
        .await
        .unwrap();
    assert!(TcpStream::connect(outbound).await.is_err());
}

#[tokio::test]
async fn a_restart_takes_the_same_addresses_and_two_never_run_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let first = started(dir.path()).await;
    assert!(
        run::start(settings(dir.path())).await.is_err(),
        "the lock is held"
    );
    let before = first.addresses();
    let saved = dir.path().join("ports.json");
    tokio::time::timeout(LIMIT, async {
        while !saved.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    first.stop().await;
    first.stopped().await;
    let second = started(dir.path()).await;
    assert_eq!(second.addresses().outbound, before.outbound);
    assert_eq!(second.addresses().metrics, before.metrics);
    second.stop().await;
}

#[tokio::test]
async fn the_metrics_port_shows_metrics_only_and_to_local_callers_only() {
    let dir = tempfile::tempdir().unwrap();
    let running = started(dir.path()).await;
    let address = running.addresses().metrics.unwrap();
    for (request, expect) in [
        (
            "GET /stats/prometheus HTTP/1.1\r\nhost: 127.0.0.1\r\n",
            "200",
        ),
        ("GET /certs HTTP/1.1\r\nhost: 127.0.0.1\r\n", "404"),
        ("POST /quit HTTP/1.1\r\nhost: 127.0.0.1\r\n", "405"),
        ("GET /metrics HTTP/1.1\r\nhost: evil.example\r\n", "403"),
        (
            "GET /metrics HTTP/1.1\r\nhost: localhost\r\norigin: http://a\r\n",
            "403",
        ),
    ] {
        let stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{request}connection: close\r\n\r\n");
        let answer = tokio::time::timeout(LIMIT, talk(stream, &request))
            .await
            .unwrap();
        assert_eq!(&answer[9..12], expect, "{request}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_proxy_takes_all_the_files_it_may() {
    let may = || rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let few = rustix::process::Rlimit {
        current: Some(may().maximum.map_or(4_096, |most| most / 2)),
        maximum: may().maximum,
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let running = started(dir.path()).await;
    assert_eq!(may().current, may().maximum);
    running.stop().await;
}
