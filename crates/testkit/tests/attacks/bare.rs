//! Bare HTTP servers of the same libraries that Naka is built on, with every limit raised and no timer: the twins of
//! attacks that exhaust something.

use crate::wire::{
    ACK, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use std::collections::HashSet;
use std::convert::Infallible;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use tokio::net::TcpListener;

/// The servers.
pub(crate) struct Bare {
    /// HTTP/1 of any size and slowness.
    pub(crate) http1: SocketAddr,
    /// HTTP/2 that takes any number of anything.
    pub(crate) http2: SocketAddr,
    /// HTTP/2 that resets streams and counts nothing.
    pub(crate) resetting: SocketAddr,
    /// Listens and waits.
    pub(crate) patient: SocketAddr,
}

impl Bare {
    /// All of them, on threads of their own.
    pub(crate) fn start() -> Self {
        let (told, addresses) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async {
                let http1 = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                let http2 = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                let both = (http1.local_addr(), http2.local_addr());
                told.send((both.0.expect("bound"), both.1.expect("bound")))
                    .expect("somebody waits");
                tokio::join!(serve1(http1), serve2(http2));
            });
        });
        let (http1, http2) = addresses.recv().expect("servers");
        let patient = crate::naive::listen(|mut stream| {
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        });
        Self {
            http1,
            http2,
            resetting: crate::naive::listen(|stream| {
                let _ = reset(stream);
            }),
            patient,
        }
    }
}

async fn serve1(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let service = hyper::service::service_fn(|request: Request<Incoming>| async {
            // Trailers of any size are taken, too.
            let _ = request.into_body().collect().await;
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
        });
        let io = hyper_util::rt::TokioIo::new(stream);
        tokio::spawn(
            hyper::server::conn::http1::Builder::new()
                .max_headers(10_000)
                .max_buf_size(64 << 20)
                .serve_connection(io, service),
        );
    }
}

async fn serve2(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut builder = h2::server::Builder::new();
            builder
                .max_concurrent_streams(u32::MAX >> 1)
                .max_pending_accept_reset_streams(usize::MAX >> 1)
                .max_concurrent_reset_streams(usize::MAX >> 1)
                .max_local_error_reset_streams(None)
                .max_header_list_size(256 << 20)
                .data_frame_budget(usize::MAX >> 1);
            let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
                return;
            };
            while let Some(Ok((mut request, mut respond))) = connection.accept().await {
                tokio::spawn(async move {
                    let big = request.uri().path().starts_with("/big");
                    let Ok(mut body) = respond.send_response(Response::new(()), !big) else {
                        return;
                    };
                    if big {
                        // Stays for as long as the caller likes.
                        body.reserve_capacity(1 << 20);
                        let _ = body.send_data(Bytes::from(vec![0; 1 << 20]), true);
                    }
                    let body = request.body_mut();
                    while let Some(Ok(data)) = body.data().await {
                        let _ = body.flow_control().release_capacity(data.len());
                    }
                });
            }
        });
    }
}

/// Resets a stream for each error of it, as RFC 9113 says, and has no other thought. Requests of `/hang` are not answered.
fn reset(mut stream: TcpStream) -> io::Result<()> {
    let mut ended = HashSet::new();
    stream.read_exact(&mut [0; 24])?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut head = [0; 9];
        reader.read_exact(&mut head)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload)?;
        let (kind, flags) = (head[3], head[4]);
        let number = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let ends = flags & END_STREAM != 0;
        let wrong = match kind {
            HEADERS | DATA if ended.contains(&number) => true,
            HEADERS | DATA => {
                if ends {
                    ended.insert(number);
                }
                false
            }
            WINDOW_UPDATE => {
                number > 0 && matches!(payload[..], [0, 0, 0, 0] | [0x7f, 0xff, 0xff, 0xff])
            }
            PRIORITY => length != 5 || payload[..4] == number.to_be_bytes(),
            _ => false,
        };
        let hangs = payload.windows(5).any(|w| w == b"/hang");
        match kind {
            _ if wrong => stream.write_all(&frame(RST_STREAM, 0, number, &1u32.to_be_bytes()))?,
            HEADERS if ends && !hangs => {
                stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, number, &[0x88]))?;
            }
            PING if flags & ACK == 0 => stream.write_all(&frame(PING, ACK, 0, &payload))?,
            _ => {}
        }
    }
}
