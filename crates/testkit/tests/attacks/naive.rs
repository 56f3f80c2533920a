//! Relays without a guard, the twins of attacks on syntax: they pass on what they read, byte by byte, and believe the
//! first reading that comes to mind. Behind them is the same program as behind Naka.

use crate::framing::{Reading, read_body, read_head};
use crate::wire::{DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS, frame};
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The relays.
pub(crate) struct Naive {
    /// HTTP/1 to HTTP/1.
    pub(crate) http1: SocketAddr,
    /// HTTP/2 to HTTP/1.
    pub(crate) http2: SocketAddr,
    reading: Arc<Mutex<Reading>>,
}

impl Naive {
    /// In front of this program.
    pub(crate) fn start(program: SocketAddr) -> Self {
        let reading = Arc::new(Mutex::new(Reading::Strict));
        let shared = Arc::clone(&reading);
        Self {
            http1: listen(move |stream| {
                let reading = Arc::clone(&shared);
                let _ = relay(stream, program, &reading);
            }),
            http2: listen(move |stream| {
                let _ = downgrade(stream, program);
            }),
            reading,
        }
    }

    /// Finds the end of requests like this from now on.
    pub(crate) fn reads(&self, reading: Reading) {
        *self.reading.lock().expect("no panic") = reading;
    }
}

/// Serves every connection on a thread of its own.
pub(crate) fn listen(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    listen_at(0, serve)
}

/// The same on a port of the caller's choice.
pub(crate) fn listen_at(
    port: u16,
    serve: impl Fn(TcpStream) + Clone + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn relay(stream: TcpStream, program: SocketAddr, reading: &Mutex<Reading>) -> io::Result<()> {
    let mut caller = BufReader::new(stream);
    let mut called = BufReader::new(TcpStream::connect(program)?);
    while let Some(head) = read_head(&mut caller)? {
        called.get_mut().write_all(&head)?;
        if String::from_utf8_lossy(&head)
            .to_ascii_lowercase()
            .contains("\nupgrade:")
        {
            // Taken for granted, as some did: from here on everything is bytes.
            let early = caller.buffer().to_vec();
            called.get_mut().write_all(&early)?;
            return both(caller.get_ref(), called.get_ref());
        }
        let now = *reading.lock().expect("no panic");
        let hasty = String::from_utf8_lossy(&head).contains(" /early");
        if !hasty {
            let body = read_body(&mut caller, &head, now)?;
            called.get_mut().write_all(&body)?;
        }
        let answer = read_head(&mut called)?.unwrap_or_default();
        let body = read_body(&mut called, &answer, Reading::Strict)?;
        caller.get_mut().write_all(&[answer, body].concat())?;
        if hasty {
            // The answer is there already, the body comes after it, on the connection that will serve others.
            let body = read_body(&mut caller, &head, now)?;
            called.get_mut().write_all(&body)?;
        }
    }
    Ok(())
}

fn both(caller: &TcpStream, called: &TcpStream) -> io::Result<()> {
    let (mut from, mut to) = (called.try_clone()?, caller.try_clone()?);
    std::thread::spawn(move || io::copy(&mut from, &mut to));
    let (mut from, mut to) = (caller.try_clone()?, called.try_clone()?);
    io::copy(&mut from, &mut to).map(drop)
}

/// Writes each HTTP/2 request as HTTP/1, whatever is in its fields.
fn downgrade(mut caller: TcpStream, program: SocketAddr) -> io::Result<()> {
    let mut called = BufReader::new(TcpStream::connect(program)?);
    called
        .get_ref()
        .set_read_timeout(Some(Duration::from_secs(1)))?;
    caller.read_exact(&mut [0; 24])?;
    caller.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    loop {
        let mut head = [0; 9];
        caller.read_exact(&mut head)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        caller.read_exact(&mut payload)?;
        let (kind, flags, stream) = (head[3], head[4], u32::from(head[8]));
        match kind {
            HEADERS => called.get_mut().write_all(&as_http1(&payload))?,
            DATA => called.get_mut().write_all(&payload)?,
            _ => continue,
        }
        if flags & END_STREAM != 0 {
            let answer = read_head(&mut called)?.unwrap_or_default();
            read_body(&mut called, &answer, Reading::Strict)?;
            // `:status: 200` of the static table.
            caller.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88]))?;
        }
    }
}

/// A header block of plain literals as an HTTP/1 head.
fn as_http1(mut block: &[u8]) -> Vec<u8> {
    let (mut method, mut path, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    while let Some((_, after)) = block.split_first() {
        let (name, after) = literal(after);
        let (value, after) = literal(after);
        block = after;
        match name.as_slice() {
            b":method" => method = value,
            b":path" => path = value,
            b":scheme" => {}
            b":authority" => rest.extend([b"host: ", value.as_slice(), b"\r\n"].concat()),
            _ => rest.extend([name.as_slice(), b": ", value.as_slice(), b"\r\n"].concat()),
        }
    }
    [
        method.as_slice(),
        b" ",
        &path,
        b" HTTP/1.1\r\n",
        &rest,
        b"\r\n",
    ]
    .concat()
}

/// A length of seven bits and more, and as many bytes.
fn literal(bytes: &[u8]) -> (Vec<u8>, &[u8]) {
    let Some((first, mut rest)) = bytes.split_first() else {
        return (Vec::new(), &[]);
    };
    let mut length = usize::from(*first);
    if length == 127 {
        let mut shift = 0;
        while let Some((next, after)) = rest.split_first() {
            length += usize::from(next & 127) << shift;
            (rest, shift) = (after, shift + 7);
            if next & 128 == 0 {
                break;
            }
        }
    }
    let (text, rest) = rest.split_at(length.min(rest.len()));
    (text.to_vec(), rest)
}
