//! Reads HTTP/2 of clients that name a Unix socket's path as the authority.
//!
//! gRPC's C core (Python, C++, Ruby, …) sends the path of the socket it dials, with `%2F` for its slashes, as
//! `:authority`. That is no authority, and our HTTP/2 library ends such a stream as a protocol error. On this socket
//! nobody looks at it, so the percent signs are replaced on the way in. The length stays, so frames and the dynamic
//! table of HPACK stay as the client made them.
//!
//! Invariants: nothing but percent signs in values of `:authority` changes; what cannot be read is passed on for the
//! library to refuse; at most one frame of headers is held.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

const PREFACE: usize = 24;
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The largest frame a client may send us, as we announce no other size.
const FRAME: usize = 16_384;
/// Index of `:authority` in the static table.
const AUTHORITY: usize = 1;

/// A connection whose authorities are put right.
#[derive(Debug)]
pub(crate) struct Mended<S> {
    inner: S,
    scan: Scan,
    ready: Vec<u8>,
    given: usize,
}

impl<S> Mended<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            scan: Scan::default(),
            ready: Vec::new(),
            given: 0,
        }
    }
}

/// Where in the stream of frames we are.
#[derive(Debug)]
enum Place {
    /// This many bytes are passed on as they are.
    Pass(usize),
    Head(Vec<u8>),
    Headers {
        flags: u8,
        length: usize,
        payload: Vec<u8>,
    },
}

#[derive(Debug)]
struct Scan(Place);

impl Default for Scan {
    fn default() -> Self {
        Self(Place::Pass(PREFACE))
    }
}

impl Scan {
    fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while !input.is_empty() {
            let wanted = match &self.0 {
                Place::Pass(left) => *left,
                Place::Head(head) => HEAD - head.len(),
                Place::Headers {
                    length, payload, ..
                } => length - payload.len(),
            };
            let (taken, rest) = input.split_at(wanted.min(input.len()));
            input = rest;
            self.take(taken, out);
        }
    }

    fn take(&mut self, taken: &[u8], out: &mut Vec<u8>) {
        match &mut self.0 {
            Place::Pass(left) => {
                *left -= taken.len();
                out.extend_from_slice(taken);
                if *left == 0 {
                    self.0 = Place::Head(Vec::new());
                }
            }
            Place::Head(head) => {
                head.extend_from_slice(taken);
                if let [a, b, c, kind, flags, ..] = head[..]
                    && head.len() == HEAD
                {
                    out.extend_from_slice(head);
                    let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                    self.0 = match kind {
                        _ if length == 0 => Place::Head(Vec::new()),
                        HEADERS if length <= FRAME => Place::Headers {
                            flags,
                            length,
                            payload: Vec::new(),
                        },
                        _ => Place::Pass(length),
                    };
                }
            }
            Place::Headers {
                flags,
                length,
                payload,
            } => {
                payload.extend_from_slice(taken);
                if payload.len() == *length {
                    for value in authorities(payload, *flags) {
                        for byte in payload[value].iter_mut().filter(|byte| **byte == b'%') {
                            *byte = b'-';
                        }
                    }
                    out.extend_from_slice(payload);
                    self.0 = Place::Head(Vec::new());
                }
            }
        }
    }
}

/// Where values of `:authority` stand in a frame of headers, as far as it can be read.
fn authorities(payload: &[u8], flags: u8) -> Vec<Range<usize>> {
    let padding = usize::from(flags & PADDED != 0);
    let priority = if flags & PRIORITY != 0 { 5 } else { 0 };
    let mut at = padding + priority;
    let mut found = Vec::new();
    while let Some(first) = payload.get(at).copied() {
        // Indexed fields and sizes of the table carry no text.
        let (bits, literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let Some(index) = integer(payload, &mut at, bits) else {
            return found;
        };
        if !literal {
            continue;
        }
        let mut is_authority = index == AUTHORITY;
        if index == 0 {
            let Some((name, _)) = text(payload, &mut at) else {
                return found;
            };
            is_authority = payload.get(name) == Some(&b":authority"[..]);
        }
        match text(payload, &mut at) {
            Some((value, plain)) if is_authority && plain => found.push(value),
            Some(_) => {}
            None => return found,
        }
    }
    found
}

/// An integer with a prefix of so many bits (RFC 7541 §5.1).
fn integer(payload: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let mask = (1usize << bits) - 1;
    let mut value = usize::from(*payload.get(*at)?) & mask;
    *at += 1;
    if value < mask {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let byte = usize::from(*payload.get(*at)?);
        *at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A text, and whether it is not compressed.
fn text(payload: &[u8], at: &mut usize) -> Option<(Range<usize>, bool)> {
    let plain = payload.get(*at)? & 0x80 == 0;
    let length = integer(payload, at, 7)?;
    let range = *at..*at + length;
    payload.get(range.clone())?;
    *at = range.end;
    Some((range, plain))
}

impl<S: AsyncRead + Unpin> AsyncRead for Mended<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.given == this.ready.len() {
            this.ready.clear();
            this.given = 0;
            let mut bytes = [0; 4096];
            let mut read = ReadBuf::new(&mut bytes);
            match Pin::new(&mut this.inner).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                    this.scan.feed(read.filled(), &mut this.ready);
                }
                other => return other,
            }
        }
        let rest = &this.ready[this.given..];
        let some = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..some]);
        this.given += some;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Mended<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S> Connected for Mended<S> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

#[cfg(test)]
mod tests {
    use super::{HEADERS, PREFACE, Scan};

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    fn literal(first: u8, value: &[u8]) -> Vec<u8> {
        let mut field = vec![first, u8::try_from(value.len()).unwrap()];
        field.extend_from_slice(value);
        field
    }

    /// The whole stream, given in pieces of every size.
    fn through(stream: &[u8]) -> Vec<u8> {
        let mut last = None;
        for size in 1..=stream.len() {
            let (mut scan, mut out) = (Scan::default(), Vec::new());
            for piece in stream.chunks(size) {
                scan.feed(piece, &mut out);
            }
            assert!(last.is_none_or(|last| last == out), "in pieces of {size}");
            last = Some(out);
        }
        last.unwrap()
    }

    #[test]
    fn percent_signs_of_the_authority_go_and_nothing_else() {
        // Indexed method, authority, path by index 4, a literal with its name.
        let mut named = vec![0x00, 0x0a];
        named.extend_from_slice(b":authority");
        named.extend_from_slice(&literal(0x03, b"a%b")[1..]);
        let fields = [
            vec![0x83],
            literal(0x41, b"tmp%2Fx%2Fxds.sock"),
            literal(0x44, b"/a%2Fb"),
            named,
        ];
        let data = frame(0, b"A\x12%2F");
        let stream = [
            vec![b'%'; PREFACE],
            frame(4, b""),
            frame(HEADERS, &fields.concat()),
            data.clone(),
        ];
        let out = through(&stream.concat());
        let text = String::from_utf8_lossy(&out).into_owned();
        assert!(text.contains("tmp-2Fx-2Fxds.sock"), "{text}");
        assert!(text.contains("/a%2Fb") && text.contains("a-b"), "{text}");
        assert!(out.starts_with(&[b'%'; PREFACE]) && out.ends_with(&data));
        assert_eq!(out.len(), stream.concat().len());
    }

    #[test]
    fn headers_that_cannot_be_read_pass_as_they_are() {
        for payload in [&b"\x41\x7f%"[..], b"\x41\xff\xff\xff\xff%", b"\x41", b""] {
            let stream = [vec![0; PREFACE], frame(HEADERS, payload)].concat();
            assert_eq!(through(&stream), stream);
        }
    }
}
