//! A relay that stands between two sidecars and keeps what it saw: the wire as a stranger on it would see it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Bytes of one connection, by direction.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// From the caller.
    pub up: Vec<u8>,
    /// From the called.
    pub down: Vec<u8>,
}

/// A running relay; it ends with the test.
#[derive(Debug)]
pub struct Relay {
    /// Where to call.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Arc<Mutex<Seen>>>>>,
}

impl Relay {
    /// Listens on a free loopback port and passes every connection on to `target`.
    ///
    /// # Panics
    /// When no port is free.
    #[must_use]
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let seen: Arc<Mutex<Vec<Arc<Mutex<Seen>>>>> = Arc::default();
        let all = seen.clone();
        std::thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                let Ok(called) = TcpStream::connect(target) else {
                    continue;
                };
                let one = Arc::new(Mutex::new(Seen::default()));
                all.lock().expect("no panic").push(one.clone());
                let (Ok(caller_back), Ok(called_back)) = (caller.try_clone(), called.try_clone())
                else {
                    continue;
                };
                let other = one.clone();
                std::thread::spawn(move || {
                    pass(caller, called, |bytes| {
                        one.lock().expect("no panic").up.extend(bytes)
                    })
                });
                std::thread::spawn(move || {
                    pass(called_back, caller_back, |bytes| {
                        other.lock().expect("no panic").down.extend(bytes)
                    })
                });
            }
        });
        Self { address, seen }
    }

    /// Everything seen so far, a connection each.
    ///
    /// # Panics
    /// When a relay thread panicked.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.seen
            .lock()
            .expect("no panic")
            .iter()
            .map(|one| one.lock().expect("no panic").clone())
            .collect()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, keep: impl Fn(&[u8])) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 {
            break;
        }
        keep(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Whether bytes are TLS records from the first on (RFC 8446 §5.1); a cut last record is fine.
#[must_use]
pub fn is_tls(mut bytes: &[u8]) -> bool {
    if bytes.is_empty() {
        return false;
    }
    while bytes.len() >= 5 {
        if !(20..=23).contains(&bytes[0]) || bytes[1] != 3 {
            return false;
        }
        let length = 5 + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
        bytes = bytes.get(length..).unwrap_or_default();
    }
    true
}

/// `(version, key share group)` that a `ServerHello` at the beginning of `bytes` chose (RFC 8446 §4.1.3).
#[must_use]
pub fn chosen(bytes: &[u8]) -> Option<(u16, u16)> {
    let hello = bytes.get(9..)?;
    let session = usize::from(*hello.get(34)?);
    let after = hello.get(35 + session + 2 + 1..)?;
    let length = usize::from(u16::from_be_bytes([*after.first()?, *after.get(1)?]));
    let mut rest = after.get(2..2 + length)?;
    let (mut version, mut group) = (0x0303, 0);
    while rest.len() >= 4 {
        let kind = u16::from_be_bytes([rest[0], rest[1]]);
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        let body = rest.get(4..4 + length)?;
        match kind {
            43 => version = u16::from_be_bytes([*body.first()?, *body.get(1)?]),
            51 => group = u16::from_be_bytes([*body.first()?, *body.get(1)?]),
            _ => {}
        }
        rest = rest.get(4 + length..)?;
    }
    Some((version, group))
}

/// Whether `needle` stands in `bytes`.
#[must_use]
pub fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}
