//! Change of the sealing key: every secret value of the log is sealed anew, past ones too.
//!
//! Why past ones: a key is changed because somebody may have it, and what lies in old records under that key would
//! stay readable for him. So the log is written anew: same events, same numbers, other ciphertexts and therefore
//! another chain of hashes. The last event of the new log says who did it and how the old chain ended.
//!
//! Crash-safe by order: the key file gets both keys, the new log is written beside the old one and synced, the
//! snapshot file goes, the new log takes the old one's name, the old key goes. Cut anywhere, the log there is says by
//! its last change of key which of the two keys it is sealed with.
//!
//! Not here: copies that were taken before. A backup holds the key of its time.

use crate::event::{Event, hex32};
use crate::keyfile::{self, Lock, SealKey, Sealing};
use crate::log::{self, Checks, Span};
use crate::query::read;
use crate::seal::is_secret;
use crate::store::{LOG, Replay, open_log};
use crate::verify::Head;
use crate::writer::{Writer, Written, lock};
use crate::{Error, checkpoint, cut, place, stamp};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, PoisonError};

/// The log on its way.
pub(crate) const NEW: &str = "log.reseal";
/// Kind of the event of a change.
pub(crate) const KIND: &str = "seal.rotate";
/// Key of the record that names the sealing key.
pub(crate) const RECORD: (&str, &str) = ("seal", "key");

/// What [`rewrite`] works on.
pub(crate) struct Change<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) file: &'a File,
    pub(crate) spans: &'a [Span],
    pub(crate) old: &'a SealKey,
    pub(crate) new: &'a SealKey,
    pub(crate) actor: &'a str,
    /// The last event that went by its age.
    pub(crate) start: Head,
}

/// Puts a log sealed with the new key in the place of the old one. Afterwards the key file holds both keys. On an error
/// the old log and the old key are what there is. `step` is told how far it is; tests cut there.
pub(crate) fn rewrite(change: &Change<'_>, step: &mut dyn FnMut(&str)) -> Result<(), Error> {
    let Change { dir, old, new, .. } = *change;
    keyfile::save(dir, &[new, old])?;
    step("the key file holds both keys");
    let work = |step: &mut dyn FnMut(&str)| -> Result<(), Error> {
        write_new(change)?;
        step("the new log lies beside the old one");
        place::remove(dir, checkpoint::FILE)?;
        step("the snapshot file is gone");
        fs::rename(dir.join(NEW), dir.join(LOG))
            .map_err(|error| Error::io("putting the new log in place", error))
    };
    if let Err(error) = work(step) {
        place::remove(dir, NEW)?;
        keyfile::save(dir, &[old])?;
        return Err(error);
    }
    // Which of the two logs a crash would leave is unknown if this fails: both keys stay, and nothing more is written.
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| Error::Stopped(format!("syncing the new log's directory: {error}")))?;
    step("the new log is in place");
    Ok(())
}

fn write_new(change: &Change<'_>) -> Result<(), Error> {
    let path = change.dir.join(NEW);
    let failed = |error| Error::io(format!("writing {}", path.display()), error);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    let mut out = BufWriter::new(file);
    let cut = change.start != Head::default();
    out.write_all(&log::head_of(cut)).map_err(failed)?;
    let mut chain = Chain::default();
    let (mut known, mut before, mut old_hash) = (BTreeMap::new(), None, [0; 32]);
    let mut begins = None;
    if cut {
        let (start, sha256) = resealed_base(change, &mut known, &mut before)?;
        (chain.last, chain.hash) = (start.seq, start.hash);
        begins = Some(cut::Base::new(start, sha256));
        old_hash = change.start.hash;
    }
    for span in change.spans {
        let mut events = Vec::new();
        for event in read(change.file, *span)? {
            old_hash = log::line_hash(&to_line(event.as_ref())?);
            let mut event = Arc::unwrap_or_clone(event);
            if let Some(object) = event.object.clone().filter(is_secret) {
                for side in [&mut event.before, &mut event.after].into_iter().flatten() {
                    change.new.reseal(change.old, &object, side, &mut known)?;
                }
            }
            if is_change(&event) {
                before.clone_from(&event.after);
            }
            events.push(event);
        }
        chain.record(events, &mut out).map_err(failed)?;
    }
    let mut after = json!({"id": change.new.id, "locked": change.new.passphrase.is_some(), "chain_before": Hash(old_hash)});
    if let Some(begins) = begins {
        after["begins"] = json!(begins);
    }
    let told = Event {
        seq: chain.last + 1,
        revision: chain.last + 1,
        time_ms: stamp::now_ms(),
        actor: change.actor.to_owned(),
        cause: String::new(),
        kind: KIND.to_owned(),
        object: None,
        record: Some((RECORD.0.to_owned(), RECORD.1.to_owned())),
        before,
        after: Some(after),
        prev_hash: [0; 32],
    };
    chain.record(vec![told], &mut out).map_err(failed)?;
    let file = out
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)
}

/// Seals the state that the log begins with anew, in a file of its own, and gives the chain another beginning: its name
/// and what it bears out are those of the new log alone.
fn resealed_base(
    change: &Change<'_>,
    known: &mut BTreeMap<String, String>,
    before: &mut Option<Value>,
) -> Result<(Head, [u8; 32]), Error> {
    let mut folded = cut::base(change.dir, change.start)?;
    for (object, value) in &mut folded.objects {
        if is_secret(object) {
            change.new.reseal(change.old, object, value, known)?;
        }
    }
    let (kind, id) = RECORD;
    *before = folded
        .records
        .get(&(kind.to_owned(), id.to_owned()))
        .cloned();
    let mut seed = change.start.hash.to_vec();
    seed.extend_from_slice(change.new.id.as_bytes());
    let start = Head {
        seq: change.start.seq,
        hash: log::line_hash(&seed),
    };
    let sha256 = checkpoint::save_as(change.dir, &cut::name(start), folded, start.hash)?;
    Ok((start, sha256))
}

fn is_change(event: &Event) -> bool {
    let key = event.record.as_ref();
    key.is_some_and(|(kind, id)| (kind.as_str(), id.as_str()) == RECORD)
}

#[derive(Serialize)]
struct Hash(#[serde(with = "hex32")] [u8; 32]);

fn to_line(event: &Event) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(event).map_err(|error| Error::Invalid(error.to_string()))
}

/// The chain of hashes of the new log.
#[derive(Default)]
struct Chain {
    hash: [u8; 32],
    last: u64,
}

impl Chain {
    fn record(&mut self, events: Vec<Event>, out: &mut impl Write) -> std::io::Result<()> {
        let (mut payload, mut framed) = (Vec::new(), Vec::new());
        for mut event in events {
            event.prev_hash = self.hash;
            let line = serde_json::to_vec(&event)?;
            self.hash = log::line_hash(&line);
            self.last = event.seq;
            payload.extend_from_slice(&line);
            payload.push(b'\n');
        }
        log::frame(&payload, &mut framed);
        out.write_all(&framed)
    }
}

impl Writer {
    /// Changes the key while commits wait. When the new log cannot be read back, nothing is written any more.
    pub(crate) fn reseal(&mut self, how: Lock, actor: &str) -> Result<Sealing, Error> {
        if let Some(saving) = self.saving.take() {
            // It would write a snapshot of the old chain.
            let _ = saving.join();
        }
        let old = self.sealer.key();
        let new = SealKey::fresh(match how {
            Lock::Same => old.passphrase.clone(),
            Lock::Plain => None,
            Lock::Passphrase(passphrase) => Some(passphrase),
        })?;
        let (file, spans, start) = {
            let written = self.shared.written.read();
            let written = written.unwrap_or_else(PoisonError::into_inner);
            (
                Arc::clone(&written.file),
                written.spans.clone(),
                written.start,
            )
        };
        let change = Change {
            dir: &self.dir,
            file: &file,
            spans: &spans,
            old: &old,
            new: &new,
            actor,
            start,
        };
        let done = rewrite(&change, &mut |_| {});
        let unreadable =
            |error| Error::Stopped(format!("the new log cannot be read back: {error}"));
        let done = done.and_then(|()| self.take_over(Some(&new)).map_err(unreadable));
        if let Err(Error::Stopped(why)) = &done {
            *lock(&self.shared.stopped) = Some(why.clone());
        }
        done?;
        keyfile::save(&self.dir, &[&new])?;
        Ok(sealing(&new, &self.state))
    }

    /// Goes on with the log that was put in place, and with a new key.
    pub(crate) fn take_over(&mut self, new: Option<&SealKey>) -> Result<(), Error> {
        let mut log = open_log(&self.dir.join(LOG))?;
        let replay = Replay::read(&self.dir, &log, Checks::ALL)?;
        if let Some(damage) = replay.recovery.damage {
            return Err(Error::ReadOnly(damage.to_string()));
        }
        let failed = |error| Error::io("reading the new log", error);
        let reader = log.try_clone().map_err(failed)?;
        log.seek(SeekFrom::Start(replay.scan.end)).map_err(failed)?;
        self.file = log;
        self.state = replay.folded.decode();
        (self.hash, self.end) = (replay.scan.hash, replay.scan.end);
        self.checkpointed = 0;
        if let Some(new) = new {
            self.sealer.change(new.clone());
        }
        let start = replay.start;
        let shared = &self.shared;
        *shared
            .written
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Written {
            file: Arc::new(reader),
            spans: replay.scan.spans,
            head: Head {
                seq: replay.scan.last,
                hash: replay.scan.hash,
            },
            start,
        };
        *shared
            .recent
            .write()
            .unwrap_or_else(PoisonError::into_inner) = replay.recent;
        *shared
            .snapshot
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(self.state.clone());
        shared.revision.send_replace(self.state.revision);
        cut::tidy(&self.dir, start)
    }
}

/// How the secrets of a state are sealed.
pub(crate) fn sealing(key: &SealKey, state: &crate::Snapshot) -> Sealing {
    Sealing {
        key: key.id.clone(),
        locked: key.passphrase.is_some(),
        secrets: state
            .objects
            .keys()
            .filter(|object| is_secret(object))
            .count(),
    }
}
