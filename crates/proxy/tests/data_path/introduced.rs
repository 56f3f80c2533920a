//! Connections that begin with a PROXY header (`proxyProtocol`): whom it names, and whose calls they carry. The program
//! answers with the header that its connection began with.

use crate::mesh::{HOST, Mesh};
use crate::pool::{counts, plain, with};
use crate::program::{Program, raw, read_head, within};
use naka_engine::model::ProxyHeader;
use naka_proxy::worker::Entrance;
use naka_types::protocol::Protocol;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Answers on one connection as long as it lasts.
async fn program(header: bool) -> Program {
    raw(move |mut stream, _| async move {
        let mut first = Vec::new();
        while header && !first.ends_with(b"\r\n") {
            match stream.read_u8().await {
                Ok(byte) => first.push(byte),
                Err(_) => return,
            }
        }
        let said = String::from_utf8_lossy(&first).trim_end().to_owned();
        while !read_head(&mut stream).await.is_empty() {
            let length = said.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{said}");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// The body of the answer on a connection that stays.
async fn ask(stream: &mut TcpStream) -> String {
    let request = b"GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let head = within(read_head(stream)).await.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.expect("a length").trim().parse().unwrap()];
    within(stream.read_exact(&mut body)).await.unwrap();
    String::from_utf8(body).unwrap()
}

#[tokio::test]
async fn a_header_names_the_caller_and_nobody_else_calls_by_its_connection() {
    for header in [None, Some(ProxyHeader::V1)] {
        let program = program(header.is_some()).await;
        let mesh = Mesh::new();
        let snapshot = plain(&mesh, Protocol::Http, &[program.address]);
        let snapshot = with(&mesh, &snapshot, |spec| {
            spec.proxy_header = header;
            // Nothing is closed because it rests.
            spec.keeping.idle = Some(Duration::from_secs(60));
        });
        let caller = mesh.proxy("shopper", snapshot, &[HOST]);
        let outbound = caller.open(Entrance::Outbound);
        let mut one = TcpStream::connect(outbound).await.unwrap();
        let mut two = TcpStream::connect(outbound).await.unwrap();
        let own = |stream: &TcpStream| {
            let (from, to) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            format!(
                "PROXY TCP4 {} {} {} {}",
                from.ip(),
                to.ip(),
                from.port(),
                to.port()
            )
        };
        for stream in [&mut one, &mut two] {
            for _ in 0..3 {
                let said = ask(stream).await;
                let want = header.map_or(String::new(), |_| own(stream));
                assert_eq!(said, want);
            }
        }
        // A connection of its own for each caller, which ends with him; without a header one serves both and rests.
        let (made, open) = if header.is_some() { (2, 2) } else { (1, 1) };
        assert_eq!(program.connections.load(SeqCst), made);
        let left = counts(&mesh);
        assert_eq!(left.connections(), open);
        drop(one);
        if header.is_some() {
            caller
                .until("it is closed", |_| left.connections() == 1)
                .await;
        }
        ask(&mut two).await;
        assert_eq!(program.connections.load(SeqCst), made);
    }
}
