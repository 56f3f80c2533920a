//! Opening, repairing and writing: the handle the rest of the program holds.

use crate::checkpoint::{self, Checkpoint};
use crate::cut::{self, Begin, Cut};
use crate::event::{Action, Commit, Draft, Event, LOSS};
use crate::fold::{Folded, Snapshot};
use crate::keyfile::{self, Lock, SealKey, Sealing};
use crate::log::{self, Checks, Damage, Recovery, Scan};
use crate::owned::Owned;
use crate::passphrase::Passphrase;
use crate::plan::plan;
use crate::seal::{Sealer, is_secret};
use crate::verify::Head;
use crate::writer::{Job, Recent, Request, Shared, Writer, Written, lock};
use crate::{Error, place, reseal, stamp};
use naka_types::name::ObjectRef;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Name of the log in the mesh directory.
pub(crate) const LOG: &str = "log";
/// Commits that may wait for the writer; more make callers wait.
const QUEUE: usize = 1024;

/// Told how long each sync of the log took, by the thread that writes; it must not wait.
pub type OnSync = Arc<dyn Fn(Duration) + Send + Sync>;

/// How a store works.
#[derive(Clone)]
pub struct Settings {
    /// Events between two snapshot files.
    pub checkpoint_every: u64,
    /// What locks the sealing key, if anything does.
    pub passphrase: Option<Passphrase>,
    /// Who counts the syncs.
    pub on_sync: Option<OnSync>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("checkpoint_every", &self.checkpoint_every)
            .finish_non_exhaustive()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            checkpoint_every: 1000,
            passphrase: None,
            on_sync: None,
        }
    }
}

/// The log of one mesh and its state. Share it as `Arc`.
#[derive(Debug)]
pub struct Store {
    pub(crate) dir: PathBuf,
    pub(crate) shared: Arc<Shared>,
    sealer: Arc<Sealer>,
    requests: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// Why nothing can be written, when opened damaged.
    read_only: Option<String>,
    /// Held here only when nothing is written; else the writer holds it.
    _lock: Option<File>,
}

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// Last revision that is kept.
    pub revision: u64,
    /// The damage that was cut off.
    pub damage: Option<Damage>,
    /// Where the damaged file was put.
    pub kept_as: Option<PathBuf>,
}

/// What a commit would do.
#[derive(Debug, Clone)]
pub struct Preview {
    /// One entry per draft, in order.
    pub actions: Vec<Action>,
    /// The events it would make.
    pub events: Vec<Event>,
    /// The state after it.
    pub after: Snapshot,
}

impl Store {
    /// Opens the log of a mesh directory, making both when missing.
    ///
    /// # Errors
    /// When another process has it, when it is of a newer format, or when files cannot be read or made. Damage is no
    /// error: the sound part is served read-only and [`Recovery`] says what is wrong.
    pub fn open(dir: &Path, settings: Settings) -> Result<(Arc<Self>, Recovery), Error> {
        let claimed = place::claim(dir)?;
        let path = dir.join(LOG);
        if !path.exists() {
            begin(dir, &path)?;
        }
        let file = open_log(&path)?;
        let reader = file
            .try_clone()
            .map_err(|error| Error::io("opening the log", error))?;
        let replay = Replay::read(dir, &file, Checks::ALL)?;
        let Replay {
            scan,
            folded,
            recent,
            mut recovery,
            start,
        } = replay;
        if recovery.damage.is_none() {
            cut::tidy(dir, start)?;
        }
        let sealed = folded.objects.keys().any(is_secret);
        let key = sealing_key(
            dir,
            &folded,
            !sealed,
            &recovery,
            settings.passphrase.as_ref(),
        )?;
        let sealer = Arc::new(Sealer::new(key));
        let state = folded.decode();
        for object in state.unreadable.keys() {
            recovery.remarks.push(format!(
                "{object} cannot be read by this version and is not in force"
            ));
        }
        let shared = Arc::new(Shared {
            snapshot: RwLock::new(Arc::new(state.clone())),
            recent: RwLock::new(recent),
            written: RwLock::new(Written {
                file: Arc::new(reader),
                spans: scan.spans,
                head: Head {
                    seq: scan.last,
                    hash: scan.hash,
                },
                start,
            }),
            stopped: Mutex::new(None),
            owned: RwLock::default(),
            revision: watch::Sender::new(state.revision),
        });
        let mut store = Self {
            dir: dir.to_owned(),
            shared: shared.clone(),
            sealer: sealer.clone(),
            requests: None,
            thread: None,
            read_only: recovery.damage.as_ref().map(ToString::to_string),
            _lock: None,
        };
        if store.read_only.is_some() {
            store._lock = Some(claimed);
            return Ok((Arc::new(store), recovery));
        }
        let writer = Writer {
            dir: dir.to_owned(),
            file: cut(file, scan.end, recovery.torn.is_some())?,
            lock: claimed,
            checkpointed: recovery.from_snapshot.unwrap_or(0),
            checkpoint_every: settings.checkpoint_every.max(1),
            state,
            hash: scan.hash,
            end: scan.end,
            sealer,
            shared,
            saving: None,
            on_sync: settings.on_sync,
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        let loss = name_loss(&sender, &recovery);
        store.requests = Some(sender);
        store.thread = Some(
            std::thread::Builder::new()
                .name("naka-log".to_owned())
                .spawn(move || writer.run(receiver))
                .map_err(|error| Error::io("starting the log's thread", error))?,
        );
        if let Some(loss) = loss {
            // On a disk that is still full this cannot be written either; what is known is served all the same.
            match wait(loss) {
                Ok(commit) => recovery.revision = commit.revision,
                Err(error) => recovery.remarks.push(format!(
                    "that bytes were cut off is not in the log: {error}"
                )),
            }
        }
        Ok((Arc::new(store), recovery))
    }

    /// Cuts damage off so that the store can be written again. The damaged file is kept beside it.
    ///
    /// # Errors
    /// When the store is in use, of a newer format, or files cannot be written.
    pub fn repair(dir: &Path) -> Result<Repaired, Error> {
        let _claimed = place::claim(dir)?;
        let path = dir.join(LOG);
        let file = open_log(&path)?;
        let replay = Replay::read(dir, &file, Checks::ALL)?;
        let Some(damage) = replay.recovery.damage.clone() else {
            return Ok(Repaired {
                revision: replay.scan.last,
                damage: None,
                kept_as: None,
            });
        };
        let kept = dir.join(format!("log.damaged-{}", stamp::now_ms()));
        std::fs::copy(&path, &kept)
            .map_err(|error| Error::io(format!("keeping {}", kept.display()), error))?;
        File::open(&kept)
            .and_then(|kept| kept.sync_all())
            .map_err(|error| Error::io(format!("keeping {}", kept.display()), error))?;
        let snapshot = dir.join(checkpoint::FILE);
        if snapshot.exists() {
            // It may be ahead of what is kept; the next one is made from the log.
            let aside = kept.with_extension("snapshot");
            std::fs::rename(&snapshot, &aside)
                .map_err(|error| Error::io("moving the snapshot aside", error))?;
        }
        let body = sound_part(&file, replay.scan.end)?;
        let head = log::head_of(replay.start != Head::default());
        place::replace(dir, LOG, &[&head, &body])?;
        Ok(Repaired {
            revision: replay.scan.last,
            damage: Some(damage),
            kept_as: Some(kept),
        })
    }

    /// Makes all drafts into events, or none. When it returns they are on disk. Dropping the future does not take a
    /// commit back that has been handed in.
    ///
    /// # Errors
    /// Preconditions, sealing, or a store that does not write any more.
    pub async fn commit(&self, drafts: Vec<Draft>) -> Result<Commit, Error> {
        let (answer, answered) = oneshot::channel();
        let request = Job::Commit(Request { drafts, answer });
        let Some(requests) = &self.requests else {
            return Err(Error::ReadOnly(self.read_only.clone().unwrap_or_default()));
        };
        if requests.send(request).await.is_err() {
            return Err(self.stopped());
        }
        answered.await.unwrap_or_else(|_| Err(self.stopped()))
    }

    /// As [`Store::commit`], for threads outside of any runtime.
    pub(crate) fn commit_blocking(&self, drafts: Vec<Draft>) -> Result<Commit, Error> {
        let (answer, answered) = oneshot::channel();
        let Some(requests) = &self.requests else {
            return Err(Error::ReadOnly(self.read_only.clone().unwrap_or_default()));
        };
        if requests
            .blocking_send(Job::Commit(Request { drafts, answer }))
            .is_err()
        {
            return Err(self.stopped());
        }
        answered
            .blocking_recv()
            .unwrap_or_else(|_| Err(self.stopped()))
    }

    /// Changes the sealing key and seals every secret value of the log anew, past ones too; the old key opens nothing
    /// of it any more. Commits wait meanwhile; reading goes on.
    ///
    /// # Errors
    /// When a value does not open, or files cannot be written: then key and log are as before.
    pub async fn reseal(&self, how: Lock, actor: &str) -> Result<Sealing, Error> {
        let (answer, answered) = oneshot::channel();
        let job = Job::Reseal {
            how,
            actor: actor.to_owned(),
            answer,
        };
        let Some(requests) = &self.requests else {
            return Err(Error::ReadOnly(self.read_only.clone().unwrap_or_default()));
        };
        if requests.send(job).await.is_err() {
            return Err(self.stopped());
        }
        answered.await.unwrap_or_else(|_| Err(self.stopped()))
    }

    /// Lets events go that are older than this, when they are enough for it to be worth it; what they add up to is
    /// kept. Commits wait meanwhile; reading goes on.
    ///
    /// # Errors
    /// When files cannot be read or written: then the log is as before.
    pub async fn cut(&self, before_ms: u64) -> Result<Option<Cut>, Error> {
        let (answer, answered) = oneshot::channel();
        let Some(requests) = &self.requests else {
            return Err(Error::ReadOnly(self.read_only.clone().unwrap_or_default()));
        };
        if requests.send(Job::Cut { before_ms, answer }).await.is_err() {
            return Err(self.stopped());
        }
        answered.await.unwrap_or_else(|_| Err(self.stopped()))
    }

    /// How Secrets are sealed.
    #[must_use]
    pub fn sealing(&self) -> Sealing {
        reseal::sealing(&self.sealer.key(), &self.snapshot())
    }

    /// What [`Store::commit`] would do with these drafts now, without doing it. Numbers and ids in it are provisional.
    ///
    /// # Errors
    /// As for a commit, except that a store which does not write any more still previews.
    pub fn preview(&self, drafts: Vec<Draft>) -> Result<Preview, Error> {
        let mut after = self.snapshot().as_ref().clone();
        let planned = plan(
            &after,
            &self.sealer,
            &self.shared.owned(),
            drafts,
            stamp::now_ms(),
        )?;
        for event in &planned.events {
            after.apply(event);
        }
        Ok(Preview {
            actions: planned.actions,
            events: planned.events,
            after,
        })
    }

    /// The state now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared
            .snapshot
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Tells the newest revision; changes are published before it moves.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.revision.subscribe()
    }

    /// Says what a source owns from now on: changes of these objects by others are refused.
    pub fn own(&self, owned: Owned) {
        *self
            .shared
            .owned
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(owned);
    }

    /// Why nothing can be written, if so.
    #[must_use]
    pub fn not_writing(&self) -> Option<String> {
        match &self.read_only {
            Some(why) => Some(Error::ReadOnly(why.clone()).to_string()),
            None => lock(&self.shared.stopped)
                .clone()
                .map(|why| Error::Stopped(why).to_string()),
        }
    }

    /// The plain values of a Secret. The one way out for them; callers answer for who gets to see them.
    ///
    /// # Errors
    /// When there is no such Secret or it does not open.
    pub fn reveal(&self, object: &ObjectRef) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let open = || {
            let snapshot = self.snapshot();
            let stored = snapshot
                .value(object)
                .filter(|_| is_secret(object))
                .ok_or_else(|| Error::NotFound(object.clone()))?;
            self.sealer.reveal(object, stored)
        };
        // Between the two looks the key may have been changed; the second look is at the state of after.
        open().or_else(|_| open())
    }

    fn stopped(&self) -> Error {
        let why = lock(&self.shared.stopped).clone();
        Error::Stopped(why.unwrap_or_else(|| "the log's thread ended".to_owned()))
    }
}

impl Drop for Store {
    /// Waits for the thread, so that the directory is free when this returns.
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A log read from its start.
pub(crate) struct Replay {
    pub(crate) scan: Scan,
    pub(crate) folded: Folded,
    pub(crate) recent: Recent,
    pub(crate) recovery: Recovery,
    /// The last event that went by its age.
    pub(crate) start: Head,
}

impl Replay {
    pub(crate) fn read(dir: &Path, file: &File, checks: Checks) -> Result<Self, Error> {
        let mut remarks = Vec::new();
        let mut ahead = None;
        let begin = Begin::read(dir, file)?;
        if let Some(loaded) = checkpoint::load(dir)? {
            match loaded {
                Err(why) => remarks.push(why),
                // It is of before the events that went; the state that the log begins with is newer.
                Ok(checkpoint) if checkpoint.folded.revision < begin.start.seq => {}
                Ok(checkpoint) => {
                    let (revision, hash) = (checkpoint.folded.revision, checkpoint.hash);
                    let (mut replay, met) =
                        Self::from_checkpoint(file, checks, Some(checkpoint), begin.start)?;
                    if met == Some(hash) {
                        replay.recovery.remarks.extend(begin.wrong);
                        replay.recovery.from_snapshot = Some(revision);
                        return Ok(replay);
                    }
                    ahead = met.is_none().then_some(revision);
                    if met.is_some() {
                        remarks.push(
                            "the snapshot file is not of this log and was ignored".to_owned(),
                        );
                    }
                }
            }
        }
        let (mut replay, _) = Self::from_checkpoint(file, checks, begin.base, begin.start)?;
        let scan = &replay.scan;
        replay.recovery.remarks = remarks;
        if let Some(what) = begin.wrong {
            match &replay.recovery.damage {
                Some(_) => replay.recovery.remarks.push(what),
                None => replay.recovery.damage = Some(without_base(what)),
            }
        }
        if let Some(revision) = ahead.filter(|_| scan.damage.is_none()) {
            let bytes = scan.torn.as_ref().map_or(0, |torn| torn.bytes);
            replay.recovery.torn = None;
            replay.recovery.damage = Some(Damage {
                offset: scan.end,
                what: format!(
                    "the log ends at revision {}, but its snapshot was taken at {revision}: acknowledged events {} to \
                     {revision} are lost",
                    scan.last,
                    scan.last + 1
                ),
                bytes,
                stranded: 0,
            });
        }
        Ok(replay)
    }

    /// Scans the log, folding onto a checkpoint if given; also the hash of the event the checkpoint was taken at.
    fn from_checkpoint(
        mut file: &File,
        checks: Checks,
        checkpoint: Option<Checkpoint>,
        start: Head,
    ) -> Result<(Self, Option<[u8; 32]>), Error> {
        file.seek(SeekFrom::Start(0))
            .map_err(|error| Error::io("reading the log", error))?;
        let mut folded = checkpoint
            .map(|checkpoint| checkpoint.folded)
            .unwrap_or_default();
        let base = folded.revision;
        let mut recent = Recent::after(base);
        let mut met = (base == start.seq).then_some(start.hash);
        let mut scan = log::scan(file, LOG, checks, |line| {
            if line.seq == base {
                met = Some(line.hash);
            }
            if line.seq <= base {
                return Ok(());
            }
            let event: Event = serde_json::from_slice(line.bytes)
                .map_err(|error| format!("not an event: {error}"))?;
            folded.apply(&event);
            recent.push(Arc::new(event), line.bytes.len());
            Ok(())
        })?;
        if scan.spans.is_empty() {
            (scan.last, scan.hash) = (start.seq, start.hash);
        }
        let recovery = Recovery {
            revision: scan.last,
            records: scan.spans.len() as u64,
            torn: scan.torn.clone(),
            damage: scan.damage.clone(),
            ..Recovery::default()
        };
        let replay = Self {
            scan,
            folded,
            recent,
            recovery,
            start,
        };
        Ok((replay, met))
    }
}

/// A log without the state that it begins with says what changed, but not what there is.
fn without_base(what: String) -> Damage {
    Damage {
        offset: log::FILE_HEAD as u64,
        what,
        bytes: 0,
        stranded: 0,
    }
}

/// The key that the log is sealed with. While there is damage nothing is decided for good: the part that is missing may
/// say otherwise.
fn sealing_key(
    dir: &Path,
    folded: &Folded,
    may_create: bool,
    recovery: &Recovery,
    passphrase: Option<&Passphrase>,
) -> Result<SealKey, Error> {
    place::remove(dir, reseal::NEW)?;
    let (kind, id) = reseal::RECORD;
    let record = folded.records.get(&(kind.to_owned(), id.to_owned()));
    let named = record.and_then(|value| value.get("id")?.as_str());
    let settle = recovery.damage.is_none();
    let key = keyfile::open(dir, may_create, passphrase, settle, |ids| {
        ids.iter().position(|id| Some(*id) == named)
    })?;
    if settle && named.is_some_and(|named| named != key.id) {
        return Err(Error::Invalid(format!(
            "{} is not the key that this log is sealed with; restore it from a backup",
            dir.join(keyfile::FILE).display()
        )));
    }
    Ok(key)
}

/// Writes the head of a new log, unless what lies beside it shows that there was one.
fn begin(dir: &Path, path: &Path) -> Result<(), Error> {
    if dir.join(checkpoint::FILE).exists() || !cut::bases(dir)?.is_empty() {
        return Err(Error::Invalid(format!(
            "{} is missing although a snapshot of it exists; restore it from a backup",
            path.display()
        )));
    }
    place::replace(dir, LOG, &[&log::file_head()])
}

pub(crate) fn open_log(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| Error::io(format!("opening {}", path.display()), error))
}

/// Cuts a torn end off and stands behind the last record.
fn cut(mut file: File, end: u64, torn: bool) -> Result<File, Error> {
    let work = |file: &mut File| {
        if torn {
            file.set_len(end)?;
            file.sync_all()?;
        }
        file.seek(SeekFrom::Start(end)).map(|_| ())
    };
    work(&mut file).map_err(|error| Error::io("cutting off an unfinished record", error))?;
    Ok(file)
}

type Answer = oneshot::Receiver<Result<Commit, Error>>;

/// Puts an event about cut-off bytes first into the queue, so that the log itself tells of the loss.
fn name_loss(sender: &mpsc::Sender<Job>, recovery: &Recovery) -> Option<Answer> {
    let torn = recovery.torn.as_ref()?;
    let value = json!({"offset": torn.offset, "bytes": torn.bytes, "after": recovery.revision});
    let drafts = vec![Draft::note("system", "recovery", LOSS, None, value)];
    let (answer, answered) = oneshot::channel();
    let request = Request { drafts, answer };
    sender.try_send(Job::Commit(request)).ok()?;
    Some(answered)
}

/// Waits for an answer outside of any runtime or inside one alike: open is allowed to block.
fn wait(mut answer: Answer) -> Result<Commit, Error> {
    loop {
        match answer.try_recv() {
            Ok(result) => return result,
            Err(oneshot::error::TryRecvError::Empty) => std::thread::yield_now(),
            Err(oneshot::error::TryRecvError::Closed) => {
                return Err(Error::Stopped("the log's thread ended".to_owned()));
            }
        }
    }
}

fn sound_part(mut file: &File, end: u64) -> Result<Vec<u8>, Error> {
    let failed = |error| Error::io("reading the log", error);
    let skip = log::FILE_HEAD as u64;
    file.seek(SeekFrom::Start(skip)).map_err(failed)?;
    let mut body = Vec::new();
    file.take(end.saturating_sub(skip))
        .read_to_end(&mut body)
        .map_err(failed)?;
    Ok(body)
}
