//! The door of a captured program, as `naka run` sees it: begun before the sidecar, ended after it.
//!
//! What it does inside is in [`crate::cmd::door`]; how sockets are handed over in `naka_proxy::door`.

use crate::cmd::door::{Spec, Word};
use crate::exit::{Exit, Outcome};
use crate::launch;
use crate::launch::instance::Instance;
use crate::namespace::{Entry, Refusal};
use naka_proxy::door;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A namespace that is not there by then will not be.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// A door that serves.
#[derive(Debug)]
pub(crate) struct Door {
    child: Child,
    socket: PathBuf,
    /// From the start of its process until the namespace was ready, seen from outside.
    pub(crate) took: Duration,
}

/// Why there is none.
#[derive(Debug)]
pub(crate) enum Closed {
    /// This system has no namespace for us.
    Refused(Refusal),
    /// Something else.
    Failed(Exit),
}

impl From<Exit> for Closed {
    fn from(exit: Exit) -> Self {
        Self::Failed(exit)
    }
}

impl Door {
    /// Starts the door of an instance and waits until it serves.
    pub(crate) async fn open(instance: &Instance, mut spec: Spec) -> Result<Self, Closed> {
        spec.socket = instance.dir.join(door::SOCKET);
        let began = Instant::now();
        let mut command = launch::process("door", instance)?;
        let mut child = command
            .args(spec.words())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Exit::failed(format!("cannot start the door: {error}")))?;
        let stdout = child.stdout.take();
        let read = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            if let Some(stdout) = stdout {
                let _ = BufReader::new(stdout).read_line(&mut line);
            }
            line
        });
        let line = tokio::time::timeout(READY_WITHIN, read).await;
        let mut opened = Self {
            child,
            socket: spec.socket,
            took: began.elapsed(),
        };
        let word = line.ok().and_then(Result::ok).unwrap_or_default();
        let closed = match serde_json::from_str(&word) {
            Ok(Word::Ready) => return Ok(opened),
            Ok(Word::Refused(refusal)) => Closed::Refused(refusal),
            Ok(Word::Failed(problem)) => Closed::Failed(Exit::failed(problem)),
            Err(_) => {
                let log = instance.dir.join("proxy.log");
                let said = launch::last_line(&log).unwrap_or_else(|| "it said nothing".to_owned());
                Closed::Failed(Exit::failed(format!(
                    "the door did not come up within {} s: {said}",
                    READY_WITHIN.as_secs()
                )))
            }
        };
        opened.close();
        Err(closed)
    }

    /// Where the sidecar finds it.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The way in for the program.
    pub(crate) fn entry(&self) -> Outcome<Entry> {
        Entry::of(self.child.id())
            .map_err(|error| Exit::failed(format!("the program's namespace: {error}")))
    }

    /// Calls to loopback inside that nobody listened for. Without them there are no hints, and nothing else is lost.
    pub(crate) fn refusals(&self) -> Option<door::Refusals> {
        door::Client::connect(&self.socket).ok()?.refusals().ok()
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Ends it. It holds nothing that must be said goodbye to.
    fn close(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close();
        let _ = std::fs::remove_file(&self.socket);
    }
}
