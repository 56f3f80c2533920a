//! Requests with two ways of framing: nothing behind us may read them differently than we do.

use crate::mesh::{HOST, Mesh};
use crate::program::{exchange, raw, read_head};
use naka_proxy::worker::Entrance;
use naka_types::protocol::Protocol;
use std::sync::{Arc, Mutex};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_program_never_sees_two_ways_of_framing() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let program = raw(move |mut stream, _| {
        let seen = Arc::clone(&seen);
        async move {
            loop {
                let head = read_head(&mut stream).await;
                if head.is_empty() {
                    return;
                }
                // What follows a head that is not chunked would be read as the next one.
                let chunked = head.contains("transfer-encoding");
                seen.lock().unwrap().push(head);
                if chunked {
                    read_head(&mut stream).await;
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                let _ = stream.write_all(answer).await;
            }
        }
    })
    .await;
    let mesh = Mesh::new();
    let outside = format!("http://{}", program.address);
    let caller = mesh.proxy("shopper", mesh.outbound(Protocol::Http, &[]), &[]);
    let outbound = caller.open(Entrance::Outbound);
    let smuggled = "5\r\nGET /\r\n0\r\n\r\n";
    let both = |order: &str, length: usize| {
        let framing = match order {
            "length first" => format!("Content-Length: {length}\r\nTransfer-Encoding: chunked"),
            _ => format!("Transfer-Encoding: chunked\r\nContent-Length: {length}"),
        };
        format!(
            "POST {outside}/a HTTP/1.1\r\nHost: {}\r\n{framing}\r\n\r\n{smuggled}GET {outside}/second HTTP/1.1\r\nHost: {}\r\n\r\n",
            program.address, program.address
        )
    };
    for order in ["length first", "coding first"] {
        for length in [0, 3, smuggled.len()] {
            let answer = exchange(outbound, both(order, length).as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
            assert_eq!(
                answer.matches("HTTP/1.1 ").count(),
                1,
                "the connection ends: {answer}"
            );
        }
    }
    let heads = heads.lock().unwrap().clone();
    assert!(!heads.is_empty(), "or nothing was tested");
    for head in &heads {
        assert!(
            !head.contains("content-length") && !head.contains("/second"),
            "{head}"
        );
        assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    }
    for refused in [
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: 1, 2",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, identity",
    ] {
        let head = format!("POST http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n{refused}\r\n\r\nab");
        let answer = exchange(outbound, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{refused}: {answer}");
    }
    let plain = format!(
        "GET {outside}/b HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        program.address
    );
    assert!(
        exchange(outbound, plain.as_bytes())
            .await
            .starts_with("HTTP/1.1 200")
    );
}
