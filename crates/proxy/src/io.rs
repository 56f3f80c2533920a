//! The one byte stream of the data path: a socket, TLS over a socket, or a tunnel inside HTTP.
//!
//! One concrete type, so that hyper, the TCP relay and upgrades are compiled once and an upgraded connection can be
//! taken apart again without dynamic dispatch. It is `Send` only because hyper wants that of streams it hands back
//! after an upgrade; nothing here moves between threads. Bytes already read while the protocol was detected come back
//! first. The counters are plain loads and stores on atomics: one thread writes.

mod frames;

use bytes::{Buf, Bytes};
use hyper_util::rt::TokioIo;
use naka_engine::runtime::Slot;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Seconds since the process began, good to a second; advanced by every worker's sweep.
static COARSE_SECONDS: AtomicU32 = AtomicU32::new(0);

/// When this process began, as far as its clocks are concerned.
pub(crate) fn process_start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// The coarse time.
pub(crate) fn coarse_seconds() -> u32 {
    COARSE_SECONDS.load(Relaxed)
}

/// Sets the coarse time; every worker's sweep does.
pub(crate) fn set_coarse_seconds(seconds: u32) {
    COARSE_SECONDS.fetch_max(seconds, Relaxed);
}

/// Bytes and last movement of one connection.
#[derive(Debug)]
pub(crate) struct Moved {
    read: AtomicU64,
    written: AtomicU64,
    last: AtomicU32,
    flooded: AtomicBool,
    unwelcome: AtomicBool,
    /// Coarse time since when an HTTP/2 head is on its way; [`NO_HEAD`]: none is.
    head_since: AtomicU32,
}

/// Later than any coarse time.
const NO_HEAD: u32 = u32::MAX;

impl Default for Moved {
    fn default() -> Self {
        Self {
            read: AtomicU64::default(),
            written: AtomicU64::default(),
            last: AtomicU32::default(),
            flooded: AtomicBool::default(),
            unwelcome: AtomicBool::default(),
            head_since: AtomicU32::new(NO_HEAD),
        }
    }
}

impl Moved {
    fn touched(&self) {
        self.last.store(coarse_seconds(), Relaxed);
    }

    fn add_read(&self, bytes: usize) {
        self.read
            .store(self.read.load(Relaxed) + bytes as u64, Relaxed);
        self.touched();
    }

    fn add_written(&self, bytes: usize) {
        self.written
            .store(self.written.load(Relaxed) + bytes as u64, Relaxed);
        self.touched();
    }

    /// Bytes read so far, decrypted.
    pub(crate) fn read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// Bytes handed over for writing so far, before encryption. While it stands still, nothing can have reached the peer.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Whether it was closed because of a flood of frames.
    pub(crate) fn flooded(&self) -> bool {
        self.flooded.load(Relaxed)
    }

    /// The caller is told to calm down when its HTTP/2 connection is closed.
    pub(crate) fn unwelcome(&self) {
        self.unwelcome.store(true, Relaxed);
    }

    /// Whether an HTTP/2 head is on its way for too long.
    pub(crate) fn dawdles(&self, now: u32) -> bool {
        let since = self.head_since.load(Relaxed);
        since != NO_HEAD
            && u64::from(now.saturating_sub(since)) >= crate::limits::HEADER_READ.as_secs()
    }

    /// Coarse time of the last byte in either direction.
    pub(crate) fn last(&self) -> u32 {
        self.last.load(Relaxed)
    }
}

enum Kind {
    Plain(TcpStream),
    Unix(UnixStream),
    Accepted(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    Dialled(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    Tunnel(TokioIo<hyper::upgrade::Upgraded>),
}

/// A byte stream in both directions.
pub(crate) struct Io {
    kind: Kind,
    first: Bytes,
    moved: Arc<Moved>,
    /// Counts the connection while it is open, whatever it is used for.
    slot: Option<Slot>,
    /// Watches what a caller sends as HTTP/2.
    frames: Option<Box<frames::Guard>>,
}

impl std::fmt::Debug for Io {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Io")
            .field("moved", &self.moved)
            .finish_non_exhaustive()
    }
}

impl Io {
    fn of(kind: Kind) -> Self {
        let moved = Moved::default();
        moved.touched();
        Self {
            kind,
            first: Bytes::new(),
            moved: Arc::new(moved),
            slot: None,
            frames: None,
        }
    }

    /// The same, whose reads fail once the peer floods it with HTTP/2 frames that ask for nothing.
    pub(crate) fn guarded(mut self) -> Self {
        self.frames = Some(Box::default());
        self
    }

    /// The same, counted by this slot until it is closed.
    pub(crate) fn counted(mut self, slot: Option<Slot>) -> Self {
        self.slot = slot;
        self
    }

    /// A socket.
    pub(crate) fn plain(stream: TcpStream) -> Self {
        Self::of(Kind::Plain(stream))
    }

    /// A Unix socket.
    pub(crate) fn unix(stream: UnixStream) -> Self {
        Self::of(Kind::Unix(stream))
    }

    /// TLS that a caller opened.
    pub(crate) fn accepted(stream: tokio_rustls::server::TlsStream<TcpStream>) -> Self {
        Self::of(Kind::Accepted(Box::new(stream)))
    }

    /// TLS that we opened.
    pub(crate) fn dialled(stream: tokio_rustls::client::TlsStream<TcpStream>) -> Self {
        Self::of(Kind::Dialled(Box::new(stream)))
    }

    /// What became of an HTTP connection after an upgrade, as cheap as it was before.
    pub(crate) fn upgraded(upgraded: hyper::upgrade::Upgraded) -> Self {
        match upgraded.downcast::<Self>() {
            Ok(parts) => {
                let mut io = parts.io;
                io.put_back(parts.read_buf);
                io
            }
            Err(upgraded) => Self::of(Kind::Tunnel(TokioIo::new(upgraded))),
        }
    }

    /// Makes bytes readable again, before all others.
    pub(crate) fn put_back(&mut self, bytes: Bytes) {
        if self.first.is_empty() {
            self.first = bytes;
        } else if !bytes.is_empty() {
            self.first = [bytes, std::mem::take(&mut self.first)].concat().into();
        }
    }

    /// Its counters.
    pub(crate) fn moved(&self) -> Arc<Moved> {
        Arc::clone(&self.moved)
    }

    /// TLS that fails may have sent a part before: that counts as written, so that nobody takes it for unsent.
    fn count_written(&self, written: &io::Result<usize>) {
        let unsure = usize::from(self.is_tls());
        self.moved.add_written(*written.as_ref().unwrap_or(&unsure));
    }

    /// Whether bytes are encrypted on the way.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self.kind, Kind::Accepted(_) | Kind::Dialled(_))
    }

    /// The application protocol agreed in the TLS handshake.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        match &self.kind {
            Kind::Accepted(tls) => tls.get_ref().1.alpn_protocol(),
            Kind::Dialled(tls) => tls.get_ref().1.alpn_protocol(),
            Kind::Plain(_) | Kind::Unix(_) | Kind::Tunnel(_) => None,
        }
    }
}

/// The library closes without a word what it is told to drop. Who is let go for what it did hears it: GOAWAY with
/// ENHANCE_YOUR_CALM, unless the caller has taken only a part of the last frame. Nobody waits for it to arrive.
impl Drop for Io {
    fn drop(&mut self) {
        if !self.moved.unwelcome.load(Relaxed) {
            return;
        }
        let Some(farewell) = self.frames.as_ref().and_then(|guard| guard.farewell()) else {
            return;
        };
        let _best_effort = match &mut self.kind {
            Kind::Plain(stream) => stream.try_write(&farewell),
            Kind::Accepted(tls) => {
                let (stream, session) = tls.get_mut();
                let mut sealed = Vec::new();
                let said = session.writer().write(&farewell);
                said.and_then(|_| {
                    while session.wants_write() {
                        session.write_tls(&mut sealed)?;
                    }
                    stream.try_write(&sealed)
                })
            }
            Kind::Unix(_) | Kind::Dialled(_) | Kind::Tunnel(_) => Ok(0),
        };
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if this.first.is_empty() {
            std::task::ready!(match &mut this.kind {
                Kind::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
                Kind::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
                Kind::Accepted(tls) => Pin::new(tls).poll_read(cx, buf),
                Kind::Dialled(tls) => Pin::new(tls).poll_read(cx, buf),
                Kind::Tunnel(tunnel) => Pin::new(tunnel).poll_read(cx, buf),
            })?;
        } else {
            let take = this.first.len().min(buf.remaining());
            buf.put_slice(&this.first[..take]);
            this.first.advance(take);
        }
        this.moved.add_read(buf.filled().len() - before);
        if let Some(guard) = &mut this.frames {
            let passes = guard.passes(
                &buf.filled()[before..],
                this.moved.written(),
                coarse_seconds(),
            );
            let since = guard.head_since().unwrap_or(NO_HEAD);
            this.moved.head_since.store(since, Relaxed);
            if passes {
                return Poll::Ready(Ok(()));
            }
            this.moved.flooded.store(true, Relaxed);
            this.moved.unwelcome();
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = std::task::ready!(match &mut this.kind {
            Kind::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Kind::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Kind::Accepted(tls) => Pin::new(tls).poll_write(cx, buf),
            Kind::Dialled(tls) => Pin::new(tls).poll_write(cx, buf),
            Kind::Tunnel(tunnel) => Pin::new(tunnel).poll_write(cx, buf),
        });
        this.count_written(&written);
        if let Some(guard) = &mut this.frames {
            guard.writing();
        }
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = std::task::ready!(match &mut this.kind {
            Kind::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Kind::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Kind::Accepted(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Kind::Dialled(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Kind::Tunnel(tunnel) => Pin::new(tunnel).poll_write_vectored(cx, bufs),
        });
        this.count_written(&written);
        if let Some(guard) = &mut this.frames {
            guard.writing();
        }
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.kind {
            Kind::Plain(stream) => stream.is_write_vectored(),
            Kind::Unix(stream) => stream.is_write_vectored(),
            Kind::Accepted(tls) => tls.is_write_vectored(),
            Kind::Dialled(tls) => tls.is_write_vectored(),
            Kind::Tunnel(tunnel) => tunnel.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(match &mut self.kind {
            Kind::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Accepted(tls) => Pin::new(tls).poll_flush(cx),
            Kind::Dialled(tls) => Pin::new(tls).poll_flush(cx),
            Kind::Tunnel(tunnel) => Pin::new(tunnel).poll_flush(cx),
        })?;
        // The library flushes when it has nothing left to write.
        if let Some(guard) = &mut self.frames {
            guard.written();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Accepted(tls) => Pin::new(tls).poll_shutdown(cx),
            Kind::Dialled(tls) => Pin::new(tls).poll_shutdown(cx),
            Kind::Tunnel(tunnel) => Pin::new(tunnel).poll_shutdown(cx),
        }
    }
}

// hyper has its own traits for the same thing; going through `TokioIo` would hide the type from `downcast`.
impl hyper::rt::Read for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = {
            let mut inner = ReadBuf::uninit(uninit_of(&mut buf));
            std::task::ready!(AsyncRead::poll_read(self, cx, &mut inner))?;
            inner.filled().len()
        };
        advance(&mut buf, filled);
        Poll::Ready(Ok(()))
    }
}

#[expect(
    unsafe_code,
    reason = "hyper's cursor hands out its free space only this way; TokioIo does the same"
)]
fn uninit_of<'a>(buf: &'a mut hyper::rt::ReadBufCursor<'_>) -> &'a mut [std::mem::MaybeUninit<u8>] {
    // SAFETY: the slice goes into a tokio `ReadBuf`, which only ever writes initialised bytes into it.
    unsafe { buf.as_mut() }
}

#[expect(unsafe_code, reason = "the other half of `uninit_of`")]
fn advance(buf: &mut hyper::rt::ReadBufCursor<'_>, filled: usize) {
    // SAFETY: `filled` bytes at the front of the free space were initialised by the `ReadBuf` made over it.
    unsafe { buf.advance(filled) }
}

impl hyper::rt::Write for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(self, cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(self, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(self, cx)
    }

    fn is_write_vectored(&self) -> bool {
        AsyncWrite::is_write_vectored(self)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write_vectored(self, cx, bufs)
    }
}
