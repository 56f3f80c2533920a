//! Evidence from the wire: a relay between two sidecars that copies bytes and looks at them.
//!
//! It stands where an attacker would: callers dial it, it dials the sidecar. It keeps the first bytes of each
//! direction, searches everything that passes for a planted text, and reads the two handshake messages that TLS 1.3
//! leaves in the clear. No packet capture, so no root is needed.

use crate::exit::Outcome;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Bytes kept of each direction of the first connection.
const KEPT: usize = 16 * 1024;
/// TLS 1.3 on the wire.
const TLS13: u16 = 0x0304;
/// The hybrid of X25519 and ML-KEM-768.
const X25519MLKEM768: u16 = 0x11ec;

/// A relay in front of one sidecar.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Where callers are sent.
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

/// What passed.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    /// Connections.
    pub(crate) connections: u64,
    /// Bytes of both directions.
    pub(crate) bytes: u64,
    /// Whether the planted text passed.
    pub(crate) planted: bool,
    /// First bytes from the caller.
    pub(crate) from_caller: Vec<u8>,
    /// First bytes from the called side.
    pub(crate) from_called: Vec<u8>,
}

impl Relay {
    /// Listens on a free port and leads to `target`.
    pub(crate) async fn start(target: SocketAddr, planted: &'static str) -> Outcome<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                tokio::spawn(relay(
                    caller,
                    target,
                    planted.as_bytes(),
                    Arc::clone(&shared),
                ));
            }
        });
        Ok(Self { address, seen })
    }

    /// What has passed so far.
    pub(crate) fn seen(&self) -> Seen {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

async fn relay(
    caller: TcpStream,
    target: SocketAddr,
    planted: &'static [u8],
    seen: Arc<Mutex<Seen>>,
) {
    let Ok(called) = TcpStream::connect(target).await else {
        return;
    };
    for stream in [&caller, &called] {
        let _ = stream.set_nodelay(true);
    }
    seen.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .connections += 1;
    let (caller_read, caller_write) = caller.into_split();
    let (called_read, called_write) = called.into_split();
    let there = copy(caller_read, called_write, planted, &seen, |seen| {
        &mut seen.from_caller
    });
    let back = copy(called_read, caller_write, planted, &seen, |seen| {
        &mut seen.from_called
    });
    tokio::join!(there, back);
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    planted: &[u8],
    seen: &Mutex<Seen>,
    first: fn(&mut Seen) -> &mut Vec<u8>,
) {
    let mut buffer = vec![0; 16 * 1024];
    // The end of the last piece: the text may lie across two pieces.
    let mut carry: Vec<u8> = Vec::new();
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let piece = &buffer[..length];
        carry.extend_from_slice(piece);
        let found = carry.windows(planted.len()).any(|window| window == planted);
        let keep = carry.len().saturating_sub(planted.len() - 1);
        carry.drain(..keep);
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.bytes += length as u64;
            seen.planted |= found;
            let kept = first(&mut seen);
            let room = KEPT.saturating_sub(kept.len()).min(length);
            kept.extend_from_slice(&piece[..room]);
        }
        if to.write_all(piece).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// What the two hello messages agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Version the server chose.
    pub(crate) version: u16,
    /// Key exchange group the server chose.
    pub(crate) group: u16,
    /// The group the client offered first.
    pub(crate) offered_first: u16,
}

impl Hello {
    /// Reads both hellos from the first bytes of each direction; `None` when they are not TLS.
    pub(crate) fn read(from_caller: &[u8], from_called: &[u8]) -> Option<Self> {
        let client = extensions(from_caller, 1)?;
        let server = extensions(from_called, 2)?;
        let word = |bytes: &[u8]| Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?));
        // supported_groups: a length, then groups in order of preference.
        let offered_first = word(find(&client, 10)?.get(2..)?)?;
        Some(Self {
            version: word(find(&server, 43)?)?,
            group: word(find(&server, 51)?)?,
            offered_first,
        })
    }

    /// TLS 1.3 with the hybrid post-quantum key exchange.
    pub(crate) fn is_post_quantum(self) -> bool {
        self.version == TLS13 && self.group == X25519MLKEM768
    }

    /// In words.
    pub(crate) fn describe(self) -> String {
        let version = if self.version == TLS13 {
            "TLS 1.3".to_owned()
        } else {
            format!("version {:#06x}", self.version)
        };
        let group = match self.group {
            X25519MLKEM768 => "X25519MLKEM768".to_owned(),
            0x001d => "X25519".to_owned(),
            other => format!("group {other:#06x}"),
        };
        format!("{version} with {group}")
    }
}

fn find<'a>(extensions: &[(u16, &'a [u8])], kind: u16) -> Option<&'a [u8]> {
    extensions
        .iter()
        .find(|(k, _)| *k == kind)
        .map(|(_, body)| *body)
}

/// Extensions of the hello message (`kind` 1 client, 2 server) that opens a TLS stream.
fn extensions(stream: &[u8], kind: u8) -> Option<Vec<(u16, &[u8])>> {
    // Record: type 22, version, length. Handshake: type, length of three bytes.
    let mut at = Cursor(stream);
    if at.byte()? != 22 {
        return None;
    }
    at.take(2)?;
    let record = at.short()?;
    let mut body = Cursor(at.take(usize::from(record))?);
    if body.byte()? != kind {
        return None;
    }
    body.take(3)?;
    body.take(2 + 32)?;
    let session = body.byte()?;
    body.take(usize::from(session))?;
    if kind == 1 {
        let suites = body.short()?;
        body.take(usize::from(suites))?;
        let compression = body.byte()?;
        body.take(usize::from(compression))?;
    } else {
        body.take(3)?;
    }
    let length = body.short()?;
    let mut rest = Cursor(body.take(usize::from(length))?);
    let mut found = Vec::new();
    while !rest.0.is_empty() {
        let kind = rest.short()?;
        let length = rest.short()?;
        found.push((kind, rest.take(usize::from(length))?));
    }
    Some(found)
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::{Hello, Relay};
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 64];
            while let Ok(n @ 1..) = stream.read(&mut bytes).await {
                stream.write_all(&bytes[..n]).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn a_planted_text_is_found_even_across_pieces() {
        for (pieces, planted) in [
            (&["xx4000-0012", "-3456-7899yy"][..], true),
            (&["4000-0012", "5-3456-7899"], false),
        ] {
            let relay = Relay::start(echo().await, "4000-0012-3456-7899")
                .await
                .unwrap();
            let mut stream = TcpStream::connect(relay.address).await.unwrap();
            for piece in pieces {
                stream.write_all(piece.as_bytes()).await.unwrap();
                let mut back = vec![0; piece.len()];
                stream.read_exact(&mut back).await.unwrap();
                assert_eq!(back, piece.as_bytes());
            }
            let seen = relay.seen();
            assert_eq!((seen.connections, seen.planted), (1, planted));
            assert!(Hello::read(&seen.from_caller, &seen.from_called).is_none());
        }
    }

    #[test]
    fn hellos_are_read_and_rubbish_is_not() {
        let record = |kind: u8, extensions: &[u8]| {
            let mut body = vec![3, 3];
            body.extend([7; 32]);
            body.push(0);
            body.extend(if kind == 1 {
                &[0, 2, 0x13, 1, 1, 0][..]
            } else {
                &[0x13, 1, 0]
            });
            body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
            body.extend(extensions);
            let mut message = vec![kind, 0, 0, u8::try_from(body.len()).unwrap()];
            message.extend(body);
            let mut record = vec![22, 3, 1];
            record.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
            record.extend(message);
            record
        };
        let client = record(1, &[0, 10, 0, 6, 0, 4, 0x11, 0xec, 0, 0x1d]);
        let server = record(2, &[0, 43, 0, 2, 3, 4, 0, 51, 0, 2, 0x11, 0xec]);
        let hello = Hello::read(&client, &server).unwrap();
        assert!(hello.is_post_quantum() && hello.offered_first == 0x11ec);
        let classic = record(2, &[0, 43, 0, 2, 3, 4, 0, 51, 0, 2, 0, 0x1d]);
        assert!(!Hello::read(&client, &classic).unwrap().is_post_quantum());
        for cut in 0..server.len() {
            assert!(Hello::read(&client, &server[..cut]).is_none());
        }
        assert!(Hello::read(b"GET / HTTP/1.1\r\n", b"HTTP/1.1 403").is_none());
    }
}
