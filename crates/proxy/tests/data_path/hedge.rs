//! A slow call that is sent a second time: who answers, how often a program is called, and that the other try ends.

use crate::mesh::{HOST, Mesh, Proxy};
use crate::pool::{plain, with};
use crate::program::{Program, get, raw, read_head, within};
use naka_engine::model::Backend;
use naka_proxy::worker::Entrance;
use naka_types::protocol::Protocol;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Endpoints of which the one that is called first does not answer before it is told to.
#[derive(Clone, Default)]
struct Slow {
    calls: Arc<AtomicUsize>,
    given_up: Arc<AtomicUsize>,
    release: Arc<Notify>,
}

impl Slow {
    async fn start(&self) -> Program {
        let own = self.clone();
        raw(move |stream, _| own.clone().serve(stream)).await
    }

    async fn serve(self, mut stream: TcpStream) {
        loop {
            if read_head(&mut stream).await.is_empty() {
                return;
            }
            if self.calls.fetch_add(1, SeqCst) == 0 {
                tokio::select! {
                    () = self.release.notified() => {}
                    _ = stream.read_u8() => {
                        self.given_up.fetch_add(1, SeqCst);
                        return;
                    }
                }
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    }
}

fn caller(mesh: &Mesh, to: &[SocketAddr], hedge: Option<Duration>) -> (Proxy, SocketAddr) {
    let snapshot = with(mesh, &plain(mesh, Protocol::Http, to), |spec| {
        spec.backend = hedge.map(|after| {
            Box::new(Backend {
                hedge: Some(after),
                ..Backend::default()
            })
        });
    });
    let caller = mesh.proxy_of(2, "shopper", snapshot, &[HOST], |_| {});
    let outbound = caller.open(Entrance::Outbound);
    (caller, outbound)
}

#[tokio::test]
async fn a_slow_call_is_answered_by_another_endpoint_and_given_up_at_the_first() {
    for hedge in [Some(Duration::from_millis(20)), None] {
        let slow = Slow::default();
        let (one, two) = (slow.start().await, slow.start().await);
        let mesh = Mesh::new();
        let (caller, outbound) = caller(&mesh, &[one.address, two.address], hedge);
        let asked = tokio::spawn(async move { get(outbound, "http://web/").await });
        if hedge.is_none() {
            let called = |_: &_| slow.calls.load(SeqCst) == 1;
            caller.until("the call is there", called).await;
            slow.release.notify_one();
        }
        let got = within(asked).await.unwrap();
        assert_eq!((got.status.as_u16(), got.body.as_str()), (200, "ok"));
        let wanted = if hedge.is_some() { (2, 1) } else { (1, 0) };
        let seen = |_: &_| (slow.calls.load(SeqCst), slow.given_up.load(SeqCst)) == wanted;
        caller.until("the other try is given up", seen).await;
    }
}
