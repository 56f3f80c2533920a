//! The one thread that writes: takes every commit that waits, plans each on top of the one before, writes them with
//! one `write` and one `fdatasync`, publishes the state, then answers.
//!
//! Why a thread and not a task: `fdatasync` blocks for milliseconds, and while it does, the next group gathers. That
//! is the whole of group commit.
//!
//! Invariant: after a failed write or sync nothing is written again. What the kernel kept of the failed pages is
//! unknowable, so only a restart, which reads the file again, may go on.

use crate::cut::Cut;
use crate::event::{Commit, Draft, Event};
use crate::fold::Snapshot;
use crate::keyfile::{Lock, Sealing};
use crate::log::{self, MAX_PAYLOAD, RECORD_HEAD, Span};
use crate::owned::Owned;
use crate::plan::{Planned, plan};
use crate::seal::Sealer;
use crate::store::OnSync;
use crate::verify::Head;
use crate::{Error, checkpoint, stamp};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::{mpsc, oneshot, watch};

/// Most commits of one group; bounds the wait of the first.
const MAX_GROUP: usize = 1024;
/// Most bytes of one group.
const MAX_GROUP_BYTES: usize = 8 << 20;
/// Most recent events held in memory, for watches and short histories.
const RECENT_EVENTS: usize = 4096;
/// Most bytes of them.
const RECENT_BYTES: usize = 16 << 20;

/// One commit that waits.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) drafts: Vec<Draft>,
    pub(crate) answer: oneshot::Sender<Result<Commit, Error>>,
}

/// What the writer is asked for.
#[derive(Debug)]
pub(crate) enum Job {
    /// A commit.
    Commit(Request),
    /// Another sealing key.
    Reseal {
        how: Lock,
        actor: String,
        answer: oneshot::Sender<Result<Sealing, Error>>,
    },
    /// What is older than this goes.
    Cut {
        before_ms: u64,
        answer: oneshot::Sender<Result<Option<Cut>, Error>>,
    },
}

/// Where the records lie. A change of the sealing key replaces the file.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) file: Arc<File>,
    pub(crate) spans: Vec<Span>,
    /// How they end.
    pub(crate) head: Head,
    /// The last event that went by its age.
    pub(crate) start: Head,
}

/// What the writer publishes and readers read. Locks are held for a pointer copy only.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) snapshot: RwLock<Arc<Snapshot>>,
    pub(crate) recent: RwLock<Recent>,
    pub(crate) written: RwLock<Written>,
    pub(crate) stopped: Mutex<Option<String>>,
    pub(crate) owned: RwLock<Arc<Owned>>,
    pub(crate) revision: watch::Sender<u64>,
}

impl Shared {
    /// What a source owns now.
    pub(crate) fn owned(&self) -> Arc<Owned> {
        self.owned
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The newest events, without gaps.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    pub(crate) events: VecDeque<(Arc<Event>, usize)>,
    bytes: usize,
    /// Events up to here are not held.
    pub(crate) gone: u64,
}

impl Recent {
    /// Nothing held; events up to `gone` are only in the file.
    pub(crate) fn after(gone: u64) -> Self {
        Self {
            gone,
            ..Self::default()
        }
    }

    /// Adds the next event, dropping the oldest where needed.
    pub(crate) fn push(&mut self, event: Arc<Event>, bytes: usize) {
        self.events.push_back((event, bytes));
        self.bytes += bytes;
        while self.events.len() > RECENT_EVENTS
            || self.bytes > RECENT_BYTES && self.events.len() > 1
        {
            if let Some((event, bytes)) = self.events.pop_front() {
                self.bytes -= bytes;
                self.gone = event.seq;
            }
        }
    }
}

/// State of the thread.
pub(crate) struct Writer {
    pub(crate) dir: PathBuf,
    pub(crate) file: File,
    /// Held while this process may write.
    pub(crate) lock: File,
    pub(crate) state: Snapshot,
    pub(crate) hash: [u8; 32],
    pub(crate) end: u64,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) checkpoint_every: u64,
    pub(crate) checkpointed: u64,
    pub(crate) saving: Option<JoinHandle<()>>,
    pub(crate) on_sync: Option<OnSync>,
}

/// A planned commit, framed.
pub(crate) struct Ready {
    commit: Commit,
    sizes: Vec<usize>,
    span: Option<Span>,
    answer: oneshot::Sender<Result<Commit, Error>>,
}

impl Writer {
    /// Works until every sender is gone.
    pub(crate) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut held = None;
        while let Some(job) = held.take().or_else(|| jobs.blocking_recv()) {
            let first = match job {
                Job::Commit(first) => first,
                Job::Reseal { how, actor, answer } => {
                    // Whoever asked may have gone away; the key is changed all the same.
                    let _ = answer.send(self.reseal(how, &actor));
                    if lock(&self.shared.stopped).is_some() {
                        break;
                    }
                    continue;
                }
                Job::Cut { before_ms, answer } => {
                    let _ = answer.send(self.cut(before_ms));
                    if lock(&self.shared.stopped).is_some() {
                        break;
                    }
                    continue;
                }
            };
            let mut bytes = Vec::new();
            let mut group = Vec::new();
            let mut next = Some(first);
            while let Some(request) = next {
                self.prepare(request, &mut bytes, &mut group);
                let room = group.len() < MAX_GROUP && bytes.len() < MAX_GROUP_BYTES;
                next = None;
                if room {
                    match jobs.try_recv() {
                        Ok(Job::Commit(request)) => next = Some(request),
                        other => held = other.ok(),
                    }
                }
            }
            if let Err(why) = self.write(&bytes) {
                tracing::error!(error = %why, "the log cannot be written; no change is accepted until restart");
                *lock(&self.shared.stopped) = Some(why.clone());
                for ready in group {
                    let _ = ready.answer.send(Err(Error::Stopped(why.clone())));
                }
                // Waiting commits get the same answer from the closed channel.
                break;
            }
            self.publish(group);
            self.checkpoint();
        }
        if let Some(saving) = self.saving.take() {
            let _ = saving.join();
        }
        drop(self.lock);
    }

    /// Plans a request and frames it behind `bytes`; a refused one is answered at once.
    pub(crate) fn prepare(
        &mut self,
        request: Request,
        bytes: &mut Vec<u8>,
        group: &mut Vec<Ready>,
    ) {
        let Request { drafts, answer } = request;
        let planned = match plan(
            &self.state,
            &self.sealer,
            &self.shared.owned(),
            drafts,
            stamp::now_ms(),
        ) {
            Ok(planned) => planned,
            Err(error) => {
                let _ = answer.send(Err(error));
                return;
            }
        };
        match self.frame(planned, bytes) {
            Ok((commit, sizes, span)) => group.push(Ready {
                commit,
                sizes,
                span,
                answer,
            }),
            Err(error) => {
                let _ = answer.send(Err(error));
            }
        }
    }

    fn frame(
        &mut self,
        planned: Planned,
        bytes: &mut Vec<u8>,
    ) -> Result<(Commit, Vec<usize>, Option<Span>), Error> {
        let Planned {
            mut events,
            actions,
        } = planned;
        let (mut payload, mut sizes, mut hash) = (Vec::new(), Vec::new(), self.hash);
        for event in &mut events {
            event.prev_hash = hash;
            let line =
                serde_json::to_vec(event).map_err(|error| Error::Invalid(error.to_string()))?;
            hash = log::line_hash(&line);
            sizes.push(line.len());
            payload.extend_from_slice(&line);
            payload.push(b'\n');
        }
        if payload.len() > MAX_PAYLOAD {
            return Err(Error::Invalid(format!(
                "the change is {} bytes, at most {MAX_PAYLOAD} fit into one commit",
                payload.len()
            )));
        }
        let span = (!events.is_empty()).then(|| Span {
            offset: self.end + bytes.len() as u64 + RECORD_HEAD as u64,
            length: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            last: self.state.revision + events.len() as u64,
        });
        if span.is_some() {
            log::frame(&payload, bytes);
        }
        for event in &events {
            self.state.apply(event);
        }
        self.hash = hash;
        let commit = Commit {
            revision: self.state.revision,
            events: events.into_iter().map(Arc::new).collect(),
            actions,
        };
        Ok((commit, sizes, span))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.file
            .write_all(bytes)
            .map_err(|error| format!("writing the log failed: {error}"))?;
        let began = Instant::now();
        self.file
            .sync_data()
            .map_err(|error| format!("syncing the log to disk failed: {error}"))?;
        if let Some(on_sync) = &self.on_sync {
            on_sync(began.elapsed());
        }
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Makes the group visible, then answers.
    pub(crate) fn publish(&self, group: Vec<Ready>) {
        let before = self
            .shared
            .snapshot
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .revision;
        if self.state.revision != before {
            let written = self.shared.written.write();
            let mut written = written.unwrap_or_else(PoisonError::into_inner);
            let spans = group.iter().filter_map(|ready| ready.span);
            written.spans.extend(spans);
            written.head = Head {
                seq: self.state.revision,
                hash: self.hash,
            };
            drop(written);
            let mut recent = self
                .shared
                .recent
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            for ready in &group {
                for (event, size) in ready.commit.events.iter().zip(&ready.sizes) {
                    recent.push(event.clone(), *size);
                }
            }
            drop(recent);
            let snapshot = Arc::new(self.state.clone());
            *self
                .shared
                .snapshot
                .write()
                .unwrap_or_else(PoisonError::into_inner) = snapshot;
            self.shared.revision.send_replace(self.state.revision);
        }
        for ready in group {
            // Whoever asked may have gone away; the change stands all the same.
            let _ = ready.answer.send(Ok(ready.commit));
        }
    }

    /// Writes a snapshot file now and then, beside the work.
    fn checkpoint(&mut self) {
        if self.state.revision < self.checkpointed + self.checkpoint_every {
            return;
        }
        if self
            .saving
            .as_ref()
            .is_some_and(|saving| !saving.is_finished())
        {
            return;
        }
        self.checkpointed = self.state.revision;
        let (dir, state, hash) = (self.dir.clone(), self.state.clone(), self.hash);
        let work = move || {
            if let Err(error) = checkpoint::save(&dir, &state, hash) {
                tracing::warn!(%error, "no snapshot file was written; the next start reads the whole log");
            }
        };
        self.saving = std::thread::Builder::new()
            .name("naka-snapshot".to_owned())
            .spawn(work)
            .ok();
    }
}

/// Locks, whatever became of an earlier holder: the values are whole at every step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
