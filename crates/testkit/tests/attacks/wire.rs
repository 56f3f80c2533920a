//! HTTP/1 as bytes and HTTP/2 as frames, written by hand: clients with manners cannot send what attackers send.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long to wait for what may never come.
pub(crate) const QUIET: Duration = Duration::from_millis(400);

/// A connection whose reads give up after a while.
pub(crate) fn connect(address: SocketAddr, patience: Duration) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the target listens");
    stream.set_nodelay(true).expect("a socket");
    stream.set_read_timeout(Some(patience)).expect("a socket");
    stream
        .set_write_timeout(Some(Duration::from_secs(10)))
        .expect("a socket");
    stream
}

/// What came until the other side closed or said nothing for a while; true when it closed.
pub(crate) fn read_all(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (all, true),
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(error) => {
                let waited = matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                );
                return (all, !waited);
            }
        }
    }
}

/// Sends bytes on a new connection; the answer, and whether the connection was closed after it.
pub(crate) fn send(address: SocketAddr, bytes: &[u8]) -> (String, bool) {
    send_and_wait(address, bytes, QUIET)
}

/// The same with another patience for what comes.
pub(crate) fn send_and_wait(
    address: SocketAddr,
    bytes: &[u8],
    patience: Duration,
) -> (String, bool) {
    let mut stream = connect(address, patience);
    // A refusal may close the connection before all was sent.
    let _ = stream.write_all(bytes);
    let (answer, closed) = read_all(&mut stream);
    (String::from_utf8_lossy(&answer).into_owned(), closed)
}

/// The status of an HTTP/1 answer, or what there is instead.
pub(crate) fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("no answer")
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header field, literal, neither indexed nor compressed (RFC 7541, 6.2.2).
pub(crate) fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        integer(&mut bytes, text.len());
        bytes.extend_from_slice(text);
    }
    bytes
}

/// An integer of seven bits and more (RFC 7541, 5.1).
fn integer(bytes: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        return bytes.push(u8::try_from(value).expect("small"));
    }
    bytes.push(127);
    value -= 127;
    while value >= 128 {
        bytes.push(u8::try_from(value % 128).expect("small") | 128);
        value /= 128;
    }
    bytes.push(u8::try_from(value).expect("small"));
}

/// The header block of a request.
pub(crate) fn request(method: &str, path: &str, more: &[(&[u8], &[u8])]) -> Vec<u8> {
    let usual: [(&[u8], &[u8]); 4] = [
        (b":method", method.as_bytes()),
        (b":scheme", b"http"),
        (b":path", path.as_bytes()),
        (b":authority", b"web.default"),
    ];
    usual
        .iter()
        .chain(more)
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

/// A GET in one frame.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        stream,
        &request("GET", path, &[]),
    )
}

/// A frame that came.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Got {
    /// The name of its code, if it is a GOAWAY.
    pub(crate) fn farewell(&self) -> Option<&'static str> {
        let code = self.payload.get(4..8)?.first_chunk::<4>()?;
        (self.kind == GOAWAY).then(|| code_name(u32::from_be_bytes(*code)))
    }
}

/// An HTTP/2 connection whose frames are written by hand.
pub(crate) struct H2 {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl H2 {
    /// The frames that come on a connection that somebody else writes to.
    pub(crate) fn on(stream: TcpStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// With the preface and these settings said.
    pub(crate) fn open(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut stream = connect(address, QUIET);
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend_from_slice(&id.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        stream.write_all(PREFACE).expect("a connection");
        stream
            .write_all(&frame(SETTINGS, 0, 0, &payload))
            .expect("a connection");
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Sends bytes; false when the connection has ended.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next frame: `Ok(None)` when nothing comes, an error when the connection has ended.
    pub(crate) fn next(&mut self) -> Result<Option<Got>, ()> {
        loop {
            if let Some(got) = self.whole() {
                return Ok(Some(got));
            }
            let mut more = [0; 16 * 1024];
            match self.stream.read(&mut more) {
                Ok(0) => return Err(()),
                Ok(count) => self.buffer.extend_from_slice(&more[..count]),
                Err(error) => match error.kind() {
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                        return Ok(None);
                    }
                    _ => return Err(()),
                },
            }
        }
    }

    fn whole(&mut self) -> Option<Got> {
        let head = self.buffer.first_chunk::<9>()?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let got = Got {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload: self.buffer.get(9..9 + length)?.to_vec(),
        };
        self.buffer.drain(..9 + length);
        Some(got)
    }

    /// Whether the connection still serves: a request on this stream is answered within a while. The code of a GOAWAY
    /// that came is told.
    pub(crate) fn serves(&mut self, stream: u32) -> Result<(), String> {
        let alive = self.send(&get(stream, "/still-there"));
        let end = Instant::now() + Duration::from_secs(5);
        let mut goaway = None;
        while Instant::now() < end {
            match self.next() {
                Ok(Some(got)) if got.kind == HEADERS && got.stream == stream => return Ok(()),
                Ok(Some(got)) if got.kind == GOAWAY => goaway = got.farewell(),
                Ok(Some(got)) if got.kind == SETTINGS && got.flags & ACK == 0 => {
                    self.send(&frame(SETTINGS, ACK, 0, &[]));
                }
                // What was said before the end can still be read.
                Ok(Some(_)) => {}
                Ok(None) if alive => {}
                Ok(None) | Err(()) => break,
            }
        }
        Err(match goaway {
            Some(code) => format!("closed with {code}"),
            None => "closed".to_owned(),
        })
    }
}

/// Names of HTTP/2 error codes (RFC 9113, 7).
fn code_name(code: u32) -> &'static str {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    NAMES
        .get(usize::try_from(code).unwrap_or(usize::MAX))
        .copied()
        .unwrap_or("an unknown code")
}
