//! Telling the service manager how a process stands: systemd's notification protocol over `$NOTIFY_SOCKET`.
//!
//! Twenty lines of protocol and no library: one datagram per message, to a path or (`@`) an abstract name. Without a
//! socket in the environment every message goes nowhere. A manager that does not read must not hold us, so the socket
//! is non-blocking and a message that does not fit is lost; the next sign of life follows soon.
//!
//! What counts as ready and alive is decided where it is known; nothing here claims either.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

/// Variables of the protocol: they are ours and not for the programs that we start.
pub(crate) const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The service manager's ear, if there is one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manager {
    socket: Option<Arc<UnixDatagram>>,
    every: Option<Duration>,
}

impl Manager {
    /// As the environment says.
    pub(crate) fn from_env() -> Self {
        let [socket, usec, pid] = VARIABLES.map(std::env::var_os);
        let Some(name) = socket.filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        match connect(&name) {
            Ok(socket) => Self {
                socket: Some(Arc::new(socket)),
                every: every(
                    usec.as_deref().and_then(OsStr::to_str),
                    pid.as_deref().and_then(OsStr::to_str),
                    std::process::id(),
                ),
            },
            Err(error) => {
                crate::out::note(format!(
                    "naka: the service manager's socket {} cannot be used: {error}",
                    name.display()
                ));
                Self::default()
            }
        }
    }

    /// Pause between signs of life, when the manager wants any: half of what it allows.
    pub(crate) fn every(&self) -> Option<Duration> {
        self.every
    }

    /// Whether anybody listens.
    pub(crate) fn listens(&self) -> bool {
        self.socket.is_some()
    }

    /// It serves.
    pub(crate) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}\n", line(status)));
    }

    /// How it stands, in one line.
    pub(crate) fn status(&self, status: &str) {
        self.send(&format!("STATUS={}\n", line(status)));
    }

    /// It is alive.
    pub(crate) fn alive(&self) {
        self.send("WATCHDOG=1\n");
    }

    /// It begins to stop.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping\n");
    }

    fn send(&self, message: &str) {
        if let Some(socket) = &self.socket {
            // Nobody to tell, or an ear that is full: there is nothing better to do than to go on.
            let _ = socket.send(message.as_bytes());
        }
    }
}

fn connect(name: &OsStr) -> std::io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// Half the time that the manager allows, unless it means another process.
fn every(usec: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    let usec: u64 = usec?.parse().ok().filter(|usec| *usec > 0)?;
    Some(Duration::from_micros(usec / 2).max(Duration::from_millis(1)))
}

fn line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::{Manager, connect, every};
    use std::ffi::OsStr;
    use std::os::unix::net::UnixDatagram;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn signs_of_life_are_given_twice_in_the_time_allowed_and_by_the_right_process() {
        for (usec, pid, expect) in [
            (Some("30000000"), None, Some(Duration::from_secs(15))),
            (Some("30000000"), Some("7"), Some(Duration::from_secs(15))),
            (Some("30000000"), Some("8"), None),
            (Some("0"), None, None),
            (Some("soon"), None, None),
            (None, None, None),
        ] {
            assert_eq!(every(usec, pid, 7), expect, "{usec:?} {pid:?}");
        }
    }

    #[test]
    fn messages_reach_paths_and_abstract_names_and_are_one_line_each() {
        use std::os::linux::net::SocketAddrExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("naka-notify-test-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        for (ear, at) in [
            (by_path, path.as_os_str().to_owned()),
            (by_name, format!("@{name}").into()),
        ] {
            let manager = Manager {
                socket: Some(Arc::new(connect(&at).unwrap())),
                every: None,
            };
            manager.ready("serves\nREADY=0");
            let mut bytes = [0; 128];
            let length = ear.recv(&mut bytes).unwrap();
            assert_eq!(
                std::str::from_utf8(&bytes[..length]).unwrap(),
                "READY=1\nSTATUS=serves READY=0\n"
            );
        }
        assert!(connect(OsStr::new("/nowhere/at/all")).is_err());
    }
}
