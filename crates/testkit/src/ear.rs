//! A service manager's ear: the socket that `$NOTIFY_SOCKET` names, read by the test itself.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Hears what a process says of itself.
#[derive(Debug)]
pub struct Ear {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Ear {
    /// Listens at `<dir>/<name>.notify`.
    ///
    /// # Panics
    /// When the socket cannot be made.
    #[must_use]
    pub fn open(dir: &Path, name: &str) -> Self {
        let path = dir.join(format!("{name}.notify"));
        let socket = UnixDatagram::bind(&path).expect("bind a datagram socket");
        Self { socket, path }
    }

    /// Tells a command of this ear, and how long a sign of life may take.
    pub fn tell<'a>(&self, command: &'a mut Command, watchdog: Duration) -> &'a mut Command {
        command
            .env("NOTIFY_SOCKET", &self.path)
            .env("WATCHDOG_USEC", watchdog.as_micros().to_string())
    }

    /// The next message that has `word`; what else is said meanwhile is passed over.
    #[must_use]
    pub fn hears(&self, word: &str, limit: Duration) -> Option<String> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            if let Some(message) = self.next(left)
                && message.contains(word)
            {
                return Some(message);
            }
        }
    }

    /// Everything said so far.
    #[must_use]
    pub fn said(&self) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(message) = self.next(Duration::from_millis(1)) {
            all.push(message);
        }
        all
    }

    fn next(&self, limit: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(limit)).ok()?;
        let mut bytes = vec![0; 4096];
        let length = self.socket.recv(&mut bytes).ok()?;
        bytes.truncate(length);
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}
