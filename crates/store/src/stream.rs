//! A stream of many small events beside the log: refused calls, of which there may be thousands a second.
//!
//! Same records and the same chain of hashes as the log, in files of their own (`<mesh>/<name>/00000001`, …), so that
//! they can go when their time is over and never stand in the way of a change. Every now and then the log gets an
//! anchor: where the stream stands. So the stream is as hard to edit as the log up to its last anchor, and what was
//! removed because of its age is still told apart from what somebody removed: the anchor says where the stream begins.
//!
//! Nobody waits for a stream. What does not fit into its queue, or not onto the disk, is counted, and the count is an
//! event of the stream as soon as it takes events again. Writes are synced once a second; a crash may cost that second.
//!
//! Not here: what the events say.

use crate::event::{Draft, Event, hex32};
use crate::log;
use crate::store::Store;
use crate::verify::Head;
use crate::{Error, place, stamp};
use segment::{Segment, Summary};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

mod segment;
pub(crate) use segment::{list, path};

/// Kind of the log's records that hold anchors; the id is the stream's name.
pub(crate) const RECORD: &str = "stream";
/// Batches that wait to be written.
const QUEUE: usize = 256;
/// Longest time between a write and its sync.
const SYNC: Duration = Duration::from_secs(1);

/// How a stream works.
#[derive(Debug, Clone)]
pub struct StreamSettings {
    /// Events older than this go.
    pub keep: Duration,
    /// Most bytes of all files together; the oldest go first.
    pub most_bytes: u64,
    /// Bytes of one file.
    pub segment_bytes: u64,
    /// Longest time between an event and an anchor behind it.
    pub anchor_every: Duration,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            keep: Duration::from_hours(30 * 24),
            most_bytes: 1 << 30,
            segment_bytes: 16 << 20,
            anchor_every: Duration::from_mins(10),
        }
    }
}

/// One thing to remember.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// Who tells it.
    pub actor: String,
    /// What happened.
    pub kind: String,
    /// The rest.
    pub value: Value,
}

/// Where a stream begins and stands, as the log has it. Fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Anchor {
    /// The newest event that was synced.
    pub(crate) seq: u64,
    /// Its hash.
    #[serde(with = "hex32")]
    pub(crate) hash: [u8; 32],
    /// The last event that went because of its age; 0: none did.
    pub(crate) begins_after: u64,
    /// Its hash.
    #[serde(with = "hex32")]
    pub(crate) begins_hash: [u8; 32],
    /// Events that were gone although nobody had removed them by their age: first and last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lost: Option<(u64, u64)>,
}

impl Anchor {
    /// One that tells of a gap alone.
    pub(crate) fn gap(lost: (u64, u64)) -> Self {
        Self {
            lost: Some(lost),
            ..Self::default()
        }
    }

    pub(crate) fn head(&self) -> Head {
        Head {
            seq: self.seq,
            hash: self.hash,
        }
    }

    pub(crate) fn begin(&self) -> Head {
        Head {
            seq: self.begins_after,
            hash: self.begins_hash,
        }
    }
}

enum Job {
    Write(Vec<Entry>),
    /// Sync and anchor now; answered when it is done.
    Settle(SyncSender<()>),
}

/// What readers see of a stream.
#[derive(Debug, Default)]
struct Shown {
    segments: RwLock<Vec<Summary>>,
    dropped: AtomicU64,
    failing: Mutex<Option<String>>,
}

/// A stream that takes events. The last one that holds it waits until what was taken is on disk and anchored.
pub struct Stream {
    dir: PathBuf,
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    shown: Arc<Shown>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl Stream {
    /// Opens a stream of the mesh whose log this is, making it when it is not there.
    ///
    /// # Errors
    /// When no thread can be started. Whatever is wrong with its files is told by [`Stream::failing`].
    pub fn open(
        store: &Arc<Store>,
        name: &'static str,
        settings: StreamSettings,
    ) -> Result<Self, Error> {
        let dir = store.dir.join(name);
        let (jobs, queue) = sync_channel(QUEUE);
        let shown = Arc::new(Shown::default());
        let writer = Writer {
            store: Arc::clone(store),
            name,
            dir: dir.clone(),
            settings,
            shown: Arc::clone(&shown),
            segment: None,
            next_file: 1,
            head: Head::default(),
            anchor: Anchor::default(),
            dirty: false,
            told: 0,
        };
        let thread = std::thread::Builder::new()
            .name(format!("naka-{name}"))
            .spawn(move || writer.run(&queue))
            .map_err(|error| Error::io("starting the stream's thread", error))?;
        Ok(Self {
            dir,
            jobs: Some(jobs),
            thread: Some(thread),
            shown,
        })
    }

    /// Takes events, without waiting for anything. Says how many it has no room for; they are counted.
    pub fn offer(&self, entries: Vec<Entry>) -> u64 {
        let count = entries.len() as u64;
        let sent = self
            .jobs
            .as_ref()
            .map(|jobs| jobs.try_send(Job::Write(entries)));
        match sent {
            Some(Ok(())) => 0,
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => {
                self.shown.dropped.fetch_add(count, Relaxed);
                count
            }
        }
    }

    /// Events that were not kept since this process began.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shown.dropped.load(Relaxed)
    }

    /// Why events cannot be kept now, if so.
    #[must_use]
    pub fn failing(&self) -> Option<String> {
        lock(&self.shown.failing).clone()
    }

    /// Waits until everything taken so far is on disk and anchored, or cannot be.
    pub fn settle(&self) {
        let (answer, answered) = sync_channel(1);
        if let Some(jobs) = &self.jobs
            && jobs.send(Job::Settle(answer)).is_ok()
        {
            // Without an answer the thread is gone, and nothing is to be waited for.
            let _ = answered.recv();
        }
    }

    /// Events from a sequence number on with the hashes of their lines, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn page(&self, from: u64, limit: usize) -> Result<Vec<(Head, Event)>, Error> {
        let segments = read(&self.shown.segments).clone();
        let mut found = Vec::new();
        for summary in segments.iter().filter(|one| one.last.seq >= from) {
            if found.len() >= limit {
                break;
            }
            segment::events(&self.dir, summary.number, |head, event| {
                if head.seq >= from && found.len() < limit {
                    found.push((head, event));
                }
            })?;
        }
        Ok(found)
    }

    /// Numbers of the first event and of the last one that are there; `None` where there are none.
    #[must_use]
    pub fn span(&self) -> Option<(u64, u64)> {
        let segments = read(&self.shown.segments);
        Some((segments.first()?.first, segments.last()?.last.seq))
    }

    /// The newest events, newest first, at most `limit`.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn newest(&self, limit: usize) -> Result<Vec<(Head, Event)>, Error> {
        let last = read(&self.shown.segments)
            .last()
            .map_or(0, |one| one.last.seq);
        let from = last.saturating_sub(limit as u64) + 1;
        let mut found = self.page(from, limit)?;
        found.reverse();
        Ok(found)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Writer {
    store: Arc<Store>,
    name: &'static str,
    dir: PathBuf,
    settings: StreamSettings,
    shown: Arc<Shown>,
    segment: Option<Segment>,
    next_file: u64,
    /// The newest event.
    head: Head,
    /// What the log has.
    anchor: Anchor,
    dirty: bool,
    /// Of the events that were dropped those that the stream tells of.
    told: u64,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Job>) {
        if let Err(error) = self.recover() {
            self.fails(&error.to_string());
        }
        let (mut synced, mut anchored) = (Instant::now(), Instant::now());
        loop {
            let job = queue.recv_timeout(SYNC);
            let settled = match job {
                Ok(Job::Write(entries)) => {
                    self.write(entries);
                    None
                }
                Ok(Job::Settle(answer)) => Some(answer),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if synced.elapsed() >= SYNC || settled.is_some() {
                synced = Instant::now();
                if self.untold() > 0 {
                    // There may be room again, and who refuses changes until then waits for it.
                    self.write(Vec::new());
                }
                self.sync();
            }
            if anchored.elapsed() >= self.settings.anchor_every || settled.is_some() {
                anchored = Instant::now();
                self.settle();
            }
            if let Some(answer) = settled {
                // Whoever asked may have gone away.
                let _ = answer.send(());
            }
        }
        self.sync();
        self.settle();
    }

    /// Finds out where the stream stands, and goes on behind it.
    fn recover(&mut self) -> Result<(), Error> {
        let snapshot = self.store.snapshot();
        let known = snapshot.record(RECORD, self.name);
        if let Some(anchor) = known.and_then(|value| Anchor::deserialize(value.as_ref()).ok()) {
            self.anchor = anchor;
        }
        self.head = self.anchor.begin();
        place::make_dir(&self.dir)?;
        let mut segments = Vec::new();
        for number in list(&self.dir)? {
            self.next_file = number + 1;
            if let Some(summary) = segment::summary(&self.dir, number)? {
                self.head = summary.last;
                segments.push(summary);
            }
        }
        *write(&self.shown.segments) = segments;
        if self.head.seq < self.anchor.seq {
            // A restored backup has the log alone; whatever it was, the log tells of it.
            self.anchor.lost = Some((self.head.seq + 1, self.anchor.seq));
            self.head = self.anchor.head();
            self.commit("audit.lost", "files of the stream are gone");
        }
        Ok(())
    }

    /// Events that were dropped and are not told of in the stream.
    fn untold(&self) -> u64 {
        self.shown.dropped.load(Relaxed).saturating_sub(self.told)
    }

    fn write(&mut self, mut entries: Vec<Entry>) {
        let (untold, count) = (self.untold(), entries.len() as u64);
        if untold > 0 {
            entries.insert(
                0,
                Entry {
                    time_ms: stamp::now_ms(),
                    actor: "system".to_owned(),
                    kind: "audit.dropped".to_owned(),
                    value: json!({"events": untold}),
                },
            );
        }
        let (mut payload, mut head, mut last_ms) = (Vec::new(), self.head, 0);
        for entry in &entries {
            let event = Event {
                seq: head.seq + 1,
                revision: self.head.seq + entries.len() as u64,
                time_ms: entry.time_ms,
                actor: entry.actor.clone(),
                cause: String::new(),
                kind: entry.kind.clone(),
                object: None,
                record: None,
                before: None,
                after: Some(entry.value.clone()),
                prev_hash: head.hash,
            };
            let Ok(line) = serde_json::to_vec(&event) else {
                continue;
            };
            head = Head {
                seq: event.seq,
                hash: log::line_hash(&line),
            };
            last_ms = event.time_ms;
            payload.extend_from_slice(&line);
            payload.push(b'\n');
        }
        match self.append(&payload, head, last_ms) {
            Ok(()) => {
                (self.dirty, self.head) = (true, head);
                self.told += untold;
                *lock(&self.shown.failing) = None;
            }
            Err(error) => {
                self.shown.dropped.fetch_add(count, Relaxed);
                self.fails(&error.to_string());
            }
        }
    }

    fn append(&mut self, payload: &[u8], head: Head, last_ms: u64) -> Result<(), Error> {
        let most = self.settings.segment_bytes;
        // A file lives a part of the time that its events are kept, so that they go in parts.
        let oldest = self.settings.keep / 8;
        if self
            .segment
            .as_ref()
            .is_some_and(|segment| segment.end >= most || segment.begun.elapsed() > oldest)
        {
            self.sync();
            self.segment = None;
        }
        let segment = match &mut self.segment {
            Some(segment) => segment,
            slot => {
                let made = Segment::make(&self.dir, self.next_file)?;
                self.next_file += 1;
                slot.insert(made)
            }
        };
        if let Err(error) = segment.append(payload) {
            // What a failed write left of itself is cut off; where that fails too, the next write takes a new file.
            if segment.cut().is_err() {
                self.segment = None;
            }
            return Err(error);
        }
        let mut segments = write(&self.shown.segments);
        match segments
            .last_mut()
            .filter(|one| one.number == segment.number)
        {
            Some(summary) => {
                summary.last = head;
                summary.last_ms = last_ms;
                summary.bytes = segment.end;
            }
            None => segments.push(Summary {
                number: segment.number,
                first: self.head.seq + 1,
                last: head,
                last_ms,
                bytes: segment.end,
            }),
        }
        Ok(())
    }

    fn sync(&mut self) {
        if !self.dirty {
            return;
        }
        self.dirty = false;
        let synced = self.segment.as_ref().map(Segment::sync);
        if let Some(Err(error)) = synced {
            // What is on disk of the file is not known any more.
            self.segment = None;
            self.fails(&error.to_string());
        }
    }

    /// Removes what is too old, then anchors what is there.
    fn settle(&mut self) {
        let gone = self.outdated();
        if let Some(last) = gone.last() {
            self.anchor.begins_after = last.last.seq;
            self.anchor.begins_hash = last.last.hash;
            self.set_head();
            // First it is told, then it is done.
            if !self.commit("audit.prune", "older than it is kept, or more than is kept") {
                return;
            }
            for summary in &gone {
                if let Err(error) = segment::remove(&self.dir, summary.number) {
                    tracing::warn!(%error, "a part of the audit trail outlives its time");
                }
            }
            write(&self.shown.segments).drain(..gone.len());
        }
        if self.head.seq > self.anchor.seq {
            self.set_head();
            self.commit("audit.anchor", "");
        }
    }

    fn set_head(&mut self) {
        self.anchor.seq = self.head.seq;
        self.anchor.hash = self.head.hash;
    }

    /// Files that are to go, oldest first.
    fn outdated(&mut self) -> Vec<Summary> {
        let keep = u64::try_from(self.settings.keep.as_millis()).unwrap_or(u64::MAX);
        let limit = stamp::now_ms().saturating_sub(keep);
        let segments = read(&self.shown.segments).clone();
        let mut bytes: u64 = segments.iter().map(|one| one.bytes).sum();
        let gone: Vec<Summary> = segments
            .into_iter()
            .take_while(|one| {
                let goes = one.last_ms < limit || bytes > self.settings.most_bytes;
                bytes -= one.bytes;
                goes
            })
            .collect();
        let own = self.segment.as_ref().map(|segment| segment.number);
        if gone.last().is_some_and(|last| Some(last.number) == own) {
            self.segment = None;
        }
        gone
    }

    /// Puts the anchor into the log.
    fn commit(&mut self, kind: &str, cause: &str) -> bool {
        let value = serde_json::to_value(&self.anchor).ok();
        let draft = Draft::record("system", cause, kind, RECORD, self.name, value);
        match self.store.commit_blocking(vec![draft]) {
            Ok(_) => {
                // It is told once.
                self.anchor.lost = None;
                true
            }
            Err(error) => {
                tracing::warn!(%error, stream = self.name, "no anchor of the stream is in the log");
                false
            }
        }
    }

    fn fails(&self, why: &str) {
        let mut failing = lock(&self.shown.failing);
        if failing.is_none() {
            tracing::error!(
                error = why,
                stream = self.name,
                "events are not kept; they are counted"
            );
        }
        *failing = Some(why.to_owned());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
