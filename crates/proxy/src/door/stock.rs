//! A worker's stock of fresh sockets of the program's namespace.
//!
//! A call to the program takes one out of the stock; the next batch is asked for before the stock is empty, off the
//! request path. A call waits for the door only in a burst. A door that is gone is a failure of that call; the next
//! one asks again.

use super::{FOUR, PATIENCE, SIX, receive, send, strange, watched};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::sync::Notify;

/// The next batch is asked for when fewer are left.
const LOW: usize = 4;

/// Sockets of both families.
#[derive(Debug)]
pub(crate) struct Stock {
    four: Rc<Shelf>,
    six: Rc<Shelf>,
}

#[derive(Debug)]
struct Shelf {
    question: u8,
    door: PathBuf,
    sockets: RefCell<Vec<OwnedFd>>,
    filling: Cell<bool>,
    line: RefCell<Option<UnixStream>>,
    /// Batches that did not come, and why the last one did not.
    failures: Cell<u64>,
    problem: RefCell<String>,
    changed: Notify,
}

impl Stock {
    /// An empty stock of the door at this path.
    pub(crate) fn new(door: PathBuf) -> Self {
        Self {
            four: Rc::new(Shelf::new(FOUR, door.clone())),
            six: Rc::new(Shelf::new(SIX, door)),
        }
    }

    /// Connects inside the namespace.
    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let shelf = if address.is_ipv4() {
            &self.four
        } else {
            &self.six
        };
        let socket = shelf.take().await?;
        TcpSocket::from_std_stream(StdStream::from(socket))
            .connect(address)
            .await
    }
}

impl Shelf {
    fn new(question: u8, door: PathBuf) -> Self {
        Self {
            question,
            door,
            sockets: RefCell::default(),
            filling: Cell::new(false),
            line: RefCell::default(),
            failures: Cell::new(0),
            problem: RefCell::default(),
            changed: Notify::new(),
        }
    }

    async fn take(self: &Rc<Self>) -> io::Result<OwnedFd> {
        loop {
            let changed = self.changed.notified();
            let failures = self.failures.get();
            let socket = self.sockets.borrow_mut().pop();
            let left = self.sockets.borrow().len();
            if left < LOW {
                self.fill();
            }
            if let Some(socket) = socket {
                return Ok(socket);
            }
            changed.await;
            if self.failures.get() != failures {
                return Err(io::Error::other(self.problem.borrow().clone()));
            }
        }
    }

    /// Asks for the next batch unless it is on its way. Its own task: a caller that gives up takes nothing away from
    /// the others.
    fn fill(self: &Rc<Self>) {
        if self.filling.replace(true) {
            return;
        }
        let shelf = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let asked = tokio::time::timeout(PATIENCE, shelf.ask()).await;
            match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(sockets) => shelf.sockets.borrow_mut().extend(sockets),
                Err(error) => {
                    tracing::warn!(%error, door = %shelf.door.display(), "no sockets from the door");
                    *shelf.problem.borrow_mut() = format!("no socket from the door: {error}");
                    shelf.failures.set(shelf.failures.get() + 1);
                }
            }
            shelf.filling.set(false);
            shelf.changed.notify_waiters();
        });
    }

    async fn ask(&self) -> io::Result<Vec<OwnedFd>> {
        // Kept only when all went well: half an answer must not be taken for the next one.
        let kept = self.line.borrow_mut().take();
        let line = match kept {
            Some(line) => line,
            None => watched(super::Client::connect(&self.door)?.socket)?,
        };
        send(line.as_fd(), &[self.question], &[])?;
        let read = || {
            let mut room = [0; 256];
            let (length, sockets) = receive(line.as_fd(), &mut room)?;
            if sockets.is_empty() {
                return Err(strange(&room[..length], "sockets"));
            }
            Ok(sockets)
        };
        let sockets = line.async_io(Interest::READABLE, read).await?;
        *self.line.borrow_mut() = Some(line);
        Ok(sockets)
    }
}
