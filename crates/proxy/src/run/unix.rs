//! Unix sockets that a Sidecar binds for calls of the program.
//!
//! A file is made anew where nobody answers at it any more, and taken away with the listener. Only the workload's own
//! uid is served, whatever the modes of the file say: the kernel tells who connected.

use crate::worker::socket::NOWHERE;
use crate::worker::{Accepted, Entrance, Socket, WorkerMsg, Workers};
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const PAUSE_WHEN_EXHAUSTED: Duration = Duration::from_millis(50);

/// A listener; its file goes with it.
#[derive(Debug)]
pub(super) struct Place {
    listener: tokio::net::UnixListener,
    _file: Option<File>,
}

/// The file of a socket.
#[derive(Debug)]
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        // Somebody else may have taken it away.
        let _ = fs::remove_file(&self.0);
    }
}

impl Place {
    /// Binds a path, or an abstract name behind `@`; `inside`: the program has a network namespace of its own.
    pub(super) fn bind(path: &str, inside: bool) -> io::Result<Self> {
        let (listener, file) = match path.strip_prefix('@') {
            // Abstract names belong to a network namespace, and this is not the program's.
            Some(_) if inside => {
                let why = "the program could not see an abstract socket: bind a path";
                return Err(io::Error::new(io::ErrorKind::Unsupported, why));
            }
            Some(name) => {
                let name = SocketAddr::from_abstract_name(name)?;
                (UnixListener::bind_addr(&name)?, None)
            }
            None => {
                let path = Path::new(path);
                free(path)?;
                (UnixListener::bind(path)?, Some(File(path.to_owned())))
            }
        };
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: tokio::net::UnixListener::from_std(listener)?,
            _file: file,
        })
    }

    /// Accepts for ever and hands connections of our own uid to workers.
    pub(super) async fn accept(self, entrance: Arc<Entrance>, workers: Arc<Workers>) {
        let own = rustix::process::getuid().as_raw();
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection, pausing");
                    tokio::time::sleep(PAUSE_WHEN_EXHAUSTED).await;
                    continue;
                }
            };
            let theirs = stream.peer_cred().map(|who| who.uid());
            if !theirs.as_ref().is_ok_and(|uid| *uid == own) {
                tracing::info!(uid = ?theirs, "connection refused: a bind is for the workload's own uid");
                continue;
            }
            // Taken from this runtime for the worker's. Where that fails the connection is gone.
            let Ok(stream) = stream.into_std() else {
                continue;
            };
            let accepted = Accepted {
                stream: Socket::Unix(stream),
                peer: NOWHERE,
                entrance: Arc::clone(&entrance),
            };
            workers.hand(WorkerMsg::Accept(accepted)).await;
        }
    }
}

/// Takes a socket away at which nobody answers; what is no socket, or answers, stays.
fn free(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let left = kind.is_socket()
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if left {
        fs::remove_file(path)
    } else {
        Err(io::ErrorKind::AddrInUse.into())
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, free};
    use std::os::unix::net::{UnixListener, UnixStream};

    #[tokio::test]
    async fn a_socket_that_nobody_serves_is_replaced_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let text = path.to_str().unwrap();
        // Left behind by a process that was killed.
        drop(UnixListener::bind(&path).unwrap());
        let place = Place::bind(text, true).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        assert!(Place::bind(text, true).is_err(), "somebody serves it");
        drop(place);
        assert!(!path.exists(), "its file goes with it");
        std::fs::write(&path, "a file").unwrap();
        assert!(free(&path).is_err() && path.exists());
        assert!(Place::bind("@naka-test-of-a-name", false).is_ok());
        assert!(Place::bind("@naka-test-of-a-name", true).is_err());
    }
}
