//! The program under attack: HTTP/1 as forgiving as the worst that was ever found behind a proxy. It notes every head
//! it sees. What it answers is in the path, how it reads bodies is set by the attack.

use crate::framing::{Reading, read_body, read_head};
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Answers of `/flood`: interim ones before the last.
const INTERIM: usize = 50_000;
/// Bytes of `/big`.
pub(crate) const BIG: usize = 8 << 20;

/// The program.
pub(crate) struct Raw {
    pub(crate) address: SocketAddr,
    reading: Mutex<Reading>,
    seen: Mutex<Vec<String>>,
    /// Bodies with their framing, up to a length.
    framed: Mutex<Vec<u8>>,
    /// Requests being worked on.
    pub(crate) working: AtomicUsize,
    /// The most at once.
    pub(crate) most: AtomicUsize,
    /// Body bytes read.
    pub(crate) bytes: AtomicUsize,
}

impl Raw {
    /// Listens and serves.
    pub(crate) fn start(port: u16) -> Arc<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let raw = Arc::new(Self {
            address: listener.local_addr().expect("bound"),
            reading: Mutex::new(Reading::Strict),
            seen: Mutex::default(),
            framed: Mutex::default(),
            working: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        });
        let served = Arc::clone(&raw);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let raw = Arc::clone(&served);
                std::thread::spawn(move || {
                    // A connection that breaks ends; attacks break many.
                    let _ = raw.serve(stream);
                });
            }
        });
        raw
    }

    /// Reads bodies like this from now on.
    pub(crate) fn reads(&self, reading: Reading) {
        *self.reading.lock().expect("no panic") = reading;
    }

    /// Forgets what was seen and reads strictly.
    pub(crate) fn forget(&self) {
        self.reads(Reading::Strict);
        self.seen.lock().expect("no panic").clear();
        self.framed.lock().expect("no panic").clear();
        self.most.store(0, SeqCst);
        self.bytes.store(0, SeqCst);
    }

    /// Whether anything of that kind is seen, now or in a moment: relays answer before the program has read on.
    pub(crate) fn saw(&self, word: &str) -> bool {
        let end = Instant::now() + Duration::from_millis(100);
        while !self.has(word) && Instant::now() < end {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        self.has(word)
    }

    fn has(&self, word: &str) -> bool {
        self.seen
            .lock()
            .expect("no panic")
            .iter()
            .any(|head| head.contains(word))
    }

    /// How many requests of that kind were seen.
    pub(crate) fn count(&self, word: &str) -> usize {
        let seen = self.seen.lock().expect("no panic");
        seen.iter().filter(|head| head.contains(word)).count()
    }

    /// Whether these bytes were in a body or its framing.
    pub(crate) fn was_framed(&self, word: &str) -> bool {
        let framed = self.framed.lock().expect("no panic");
        framed.windows(word.len()).any(|w| w == word.as_bytes())
    }

    /// Notes something that came.
    fn note(&self, head: &[u8]) {
        self.seen
            .lock()
            .expect("no panic")
            .push(String::from_utf8_lossy(head).into_owned());
    }

    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        while let Some(head) = read_head(&mut reader)? {
            self.note(&head);
            let text = String::from_utf8_lossy(&head).into_owned();
            let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
            let early = path.contains("/early");
            if path.contains("/swallow") {
                // Without keeping it.
                let length = text.to_ascii_lowercase();
                let length = length.split_once("content-length: ").map_or("", |(_, l)| l);
                let length = length.split('\r').next().and_then(|l| l.parse().ok());
                io::copy(
                    &mut (&mut reader).take(length.unwrap_or(0)),
                    &mut io::sink(),
                )?;
            } else if !early && !path.contains("/hold") && !path.contains("/accept") {
                let reading = *self.reading.lock().expect("no panic");
                let body = read_body(&mut reader, &head, reading)?;
                self.bytes.fetch_add(body.len(), SeqCst);
                if path.contains("/framed") {
                    let mut framed = self.framed.lock().expect("no panic");
                    framed.extend_from_slice(&body[..body.len().min(4_096)]);
                }
            }
            let now = self.working.fetch_add(1, SeqCst) + 1;
            self.most.fetch_max(now, SeqCst);
            let answered = self.answer(&path, &mut reader);
            self.working.fetch_sub(1, SeqCst);
            answered?;
        }
        Ok(())
    }

    fn answer(&self, path: &str, reader: &mut BufReader<TcpStream>) -> io::Result<()> {
        let mut stream = reader.get_ref();
        match path {
            p if p.contains("/hold") => {
                // Whatever comes before the answer came too early.
                let mut early = [0; 1024];
                stream.set_read_timeout(Some(Duration::from_millis(300)))?;
                let count = reader.read(&mut early).unwrap_or_default();
                reader.get_ref().set_read_timeout(None)?;
                if count > 0 {
                    self.note(&[b"early bytes: ", &early[..count]].concat());
                }
                stream = reader.get_ref();
            }
            p if p.contains("/accept") => {
                let mut bytes = [0; 1024];
                stream.set_read_timeout(Some(Duration::from_millis(300)))?;
                let count = reader.read(&mut bytes).unwrap_or_default();
                if count > 0 {
                    self.note(&[b"early bytes: ", &bytes[..count]].concat());
                }
                reader.get_mut().write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")?;
                reader
                    .get_ref()
                    .set_read_timeout(Some(Duration::from_secs(1)))?;
                let count = reader.read(&mut bytes).unwrap_or_default();
                self.note(&[b"after: ", &bytes[..count]].concat());
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            p if p.contains("/switch") => {
                stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")?;
                let mut tunnelled = [0; 1024];
                stream.set_read_timeout(Some(Duration::from_secs(2)))?;
                let count = reader.read(&mut tunnelled)?;
                self.note(&[b"tunnelled: ", &tunnelled[..count]].concat());
                return Ok(());
            }
            p if p.contains("/flood") => {
                let hint =
                    b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n".repeat(100);
                for _ in 0..INTERIM / 100 {
                    stream.write_all(&hint)?;
                }
            }
            p if p.contains("/hang") => {
                // Until the proxy gives up.
                let mut nothing = [0; 64];
                while reader.read(&mut nothing)? > 0 {}
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            p if p.contains("/drip") => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
                // Until the proxy gives up.
                loop {
                    stream.write_all(b"1\r\n.\r\n")?;
                    std::thread::park_timeout(Duration::from_millis(20));
                }
            }
            p if p.contains("/again") => {
                return stream
                    .write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
            }
            p if p.contains("/big") => {
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {BIG}\r\n\r\n")?;
                let part = vec![b'x'; 64 * 1024];
                for _ in 0..BIG / part.len() {
                    stream.write_all(&part)?;
                }
                return Ok(());
            }
            _ => {}
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    }
}
