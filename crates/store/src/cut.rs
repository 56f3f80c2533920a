//! Events that go by their age: the log is written anew without its beginning, and with the state that the beginning
//! adds up to in a file beside it (the base), so that nothing that is in force is lost and what is left folds as before.
//!
//! First the log tells it (`log.cut`: the last event that goes, its hash, the hash of the base), then it is done; so
//! what went by its age is told apart from what somebody took out. The records that stay are the same bytes: the chain
//! is not written anew, and heads of what is left stay good.
//!
//! Crash-safe by order: the base is written under a name of its own, the event is committed, the new log is written
//! beside the old one and synced, then it takes the old one's name. The log's first event says after which event it
//! begins, and with that which base is its own; so one rename changes both. Cut off anywhere, the log there is has its
//! base. An event that tells of more than was done does no harm: the log begins earlier, where another one says.
//!
//! Not here: how long events stay. Who calls knows it.

use crate::checkpoint::{self, Checkpoint};
use crate::event::{Draft, Event, hex32};
use crate::fold::Folded;
use crate::log::{self, RECORD_HEAD, Span, Start};
use crate::query::read;
use crate::store::LOG;
use crate::verify::Head;
use crate::writer::{Request, Writer, lock};
use crate::{Error, place};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::PoisonError;
use tokio::sync::oneshot;

/// Kind of the event.
pub(crate) const KIND: &str = "log.cut";
/// Key of the record that holds the newest.
pub(crate) const RECORD: (&str, &str) = ("log", "base");
/// The log on its way.
pub(crate) const NEW: &str = "log.cut";
/// How names of bases begin.
const PREFIX: &str = "base-";
/// Less than this part of the log is left where it is.
const WORTH: u64 = 8;

/// What went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// How many events.
    pub events: u64,
    /// The last of them.
    pub seq: u64,
}

/// What the log says of its beginning: the last event that went, and the SHA-256 of what is in the base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base {
    pub(crate) seq: u64,
    #[serde(with = "hex32")]
    pub(crate) hash: [u8; 32],
    #[serde(with = "hex32")]
    pub(crate) sha256: [u8; 32],
}

impl Base {
    pub(crate) fn new(start: Head, sha256: [u8; 32]) -> Self {
        Self {
            seq: start.seq,
            hash: start.hash,
            sha256,
        }
    }

    /// The event that the log begins behind.
    pub(crate) fn start(&self) -> Head {
        Head {
            seq: self.seq,
            hash: self.hash,
        }
    }

    /// What an event says, if it says anything of it.
    pub(crate) fn told(event: &Event) -> Option<Self> {
        let value = match event.kind.as_str() {
            KIND => event.after.as_ref()?,
            crate::reseal::KIND => event.after.as_ref()?.get("begins")?,
            _ => return None,
        };
        Self::deserialize(value).ok()
    }
}

/// Name of the base of a log that begins behind an event.
pub(crate) fn name(start: Head) -> String {
    let hash = hex32::text(&start.hash);
    format!("{PREFIX}{}-{}", start.seq, &hash[..16])
}

/// The bases of a directory with the numbers of their last events.
pub(crate) fn bases(dir: &Path) -> Result<Vec<(u64, String)>, Error> {
    let failed = |error| Error::io(format!("reading {}", dir.display()), error);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let Ok(name) = entry.map_err(failed)?.file_name().into_string() else {
            continue;
        };
        let parts = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'));
        if let Some(seq) = parts.and_then(|(seq, _)| seq.parse().ok()) {
            found.push((seq, name));
        }
    }
    found.sort();
    Ok(found)
}

/// The state that a log begins with.
pub(crate) fn base(dir: &Path, start: Head) -> Result<Folded, Error> {
    if start == Head::default() {
        return Ok(Folded::default());
    }
    let checkpoint = load(dir, &name(start), Some(start))?.map_err(Error::Invalid)?;
    Ok(checkpoint.0.folded)
}

fn load(
    dir: &Path,
    name: &str,
    start: Option<Head>,
) -> Result<Result<(Checkpoint, [u8; 32]), String>, Error> {
    let what = |why: &str| {
        format!("{name}, the state that the log begins with, {why}: restore it from a backup")
    };
    Ok(match checkpoint::load_from(dir, name)? {
        None => Err(what("is missing")),
        Some(Err(why)) => Err(what(&why)),
        Some(Ok((read, _)))
            if start.is_some_and(|start| {
                (start.seq, start.hash) != (read.folded.revision, read.hash)
            }) =>
        {
            Err(what("is of another log"))
        }
        Some(Ok(read)) => Ok(read),
    })
}

/// Where a log begins, and with what.
#[derive(Debug, Default)]
pub(crate) struct Begin {
    /// The last event that went; the default where none did.
    pub(crate) start: Head,
    /// The state of then.
    pub(crate) base: Option<Checkpoint>,
    /// SHA-256 of what is in its file.
    pub(crate) sha256: [u8; 32],
    /// Why there is none.
    pub(crate) wrong: Option<String>,
}

impl Begin {
    pub(crate) fn read(dir: &Path, file: &File) -> Result<Self, Error> {
        let start = log::start(file).map_err(|error| Error::io("reading the log", error))?;
        let (name, start) = match start {
            Start::First => return Ok(Self::default()),
            Start::After(start) => (name(start), Some(start)),
            Start::Unknown => match bases(dir)?.pop() {
                Some((_, name)) => (name, None),
                None => {
                    let wrong =
                        "the state that the log begins with is missing: restore it from a backup";
                    return Ok(Self {
                        wrong: Some(wrong.to_owned()),
                        ..Self::default()
                    });
                }
            },
        };
        Ok(match load(dir, &name, start)? {
            Ok((base, sha256)) => Self {
                start: Head {
                    seq: base.folded.revision,
                    hash: base.hash,
                },
                base: Some(base),
                sha256,
                wrong: None,
            },
            Err(why) => Self {
                start: start.unwrap_or_default(),
                wrong: Some(why),
                ..Self::default()
            },
        })
    }

    /// Name of the base.
    pub(crate) fn name(&self) -> Option<String> {
        (self.start != Head::default()).then(|| name(self.start))
    }
}

/// Removes what a cut that was not finished left behind, and bases of before.
pub(crate) fn tidy(dir: &Path, start: Head) -> Result<(), Error> {
    place::remove(dir, NEW)?;
    let own = name(start);
    for (_, name) in bases(dir)? {
        if name != own {
            place::remove(dir, &name)?;
        }
    }
    Ok(())
}

impl Writer {
    /// Lets go what is older, while commits wait. When the new log cannot be read back, nothing is written any more.
    pub(crate) fn cut(&mut self, before_ms: u64) -> Result<Option<Cut>, Error> {
        let Some(plan) = self.planned(before_ms)? else {
            return Ok(None);
        };
        let dir = self.dir.clone();
        self.let_go(plan).inspect_err(|_| {
            // What is left over is removed at the next start, too.
            let start = self
                .shared
                .written
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .start;
            let _ = tidy(&dir, start);
        })
    }

    /// What would go; `None` when that is not worth it.
    fn planned(&self, before_ms: u64) -> Result<Option<Plan>, Error> {
        let (file, spans, start) = {
            let written = self.shared.written.read();
            let written = written.unwrap_or_else(PoisonError::into_inner);
            (written.file.clone(), written.spans.clone(), written.start)
        };
        let mut found: Option<Plan> = None;
        let mut folded = base(&self.dir, start)?;
        let mut lost = lost_before(&folded);
        // The last record stays: a log is never empty.
        for pair in spans.windows(2) {
            let [span, next] = pair else { break };
            let events = read(&file, *span)?;
            let Some(last) = events.last().filter(|last| last.time_ms < before_ms) else {
                break;
            };
            for event in &events {
                folded.apply(event);
                gaps(event, &mut lost);
            }
            found = Some(Plan {
                start: Head {
                    seq: last.seq,
                    hash: [0; 32],
                },
                next: *next,
                from: next.offset - RECORD_HEAD as u64,
                events: last.seq - start.seq,
                time_ms: last.time_ms,
                folded: Folded::default(),
                lost: Value::Null,
            });
        }
        let Some(mut plan) = found.filter(|plan| plan.from * WORTH >= self.end) else {
            return Ok(None);
        };
        // What stays says what it was written after.
        let Some(first) = read(&file, plan.next)?.into_iter().next() else {
            return Ok(None);
        };
        plan.start.hash = first.prev_hash;
        Ok(Some(Plan {
            folded,
            lost,
            ..plan
        }))
    }

    /// Does it. On an error before the new log is in place the old one is what there is.
    fn let_go(&mut self, plan: Plan) -> Result<Option<Cut>, Error> {
        let Plan {
            start,
            from,
            events,
            time_ms,
            folded,
            lost,
            ..
        } = plan;
        let sha256 = checkpoint::save_as(&self.dir, &name(start), folded, start.hash)?;

        let mut value = json!(Base::new(start, sha256));
        value["events"] = json!(events);
        value["until_ms"] = json!(time_ms);
        value["lost"] = lost;
        let (kind, id) = RECORD;
        let draft = Draft::record(
            "system",
            "older than it is kept",
            KIND,
            kind,
            id,
            Some(value),
        );
        let (answer, answered) = oneshot::channel();
        let (mut bytes, mut group) = (Vec::new(), Vec::new());
        self.prepare(
            Request {
                drafts: vec![draft],
                answer,
            },
            &mut bytes,
            &mut group,
        );
        if group.is_empty() {
            let refused = answered.blocking_recv();
            return Err(refused
                .ok()
                .and_then(Result::err)
                .unwrap_or(Error::Invalid(KIND.to_owned())));
        }
        if let Err(why) = self.write(&bytes) {
            *lock(&self.shared.stopped) = Some(why.clone());
            return Err(Error::Stopped(why));
        }
        self.publish(group);

        self.shorter(from)
            .map_err(|error| Error::io("writing the log without its beginning", error))?;

        fs::rename(self.dir.join(NEW), self.dir.join(LOG))
            .map_err(|error| Error::io("putting the log without its beginning in place", error))?;
        let synced = File::open(&self.dir).and_then(|dir| dir.sync_all());
        let synced =
            synced.map_err(|error| Error::Stopped(format!("syncing the log's directory: {error}")));

        let unreadable = |error| {
            Error::Stopped(format!(
                "the log without its beginning cannot be read back: {error}"
            ))
        };
        let done = synced.and_then(|()| self.take_over(None).map_err(unreadable));
        if let Err(Error::Stopped(why)) = &done {
            *lock(&self.shared.stopped) = Some(why.clone());
        }
        done?;
        Ok(Some(Cut {
            events,
            seq: start.seq,
        }))
    }

    /// Writes the part of the log that stays, as it is.
    fn shorter(&self, from: u64) -> std::io::Result<()> {
        let mut old = File::open(self.dir.join(LOG))?;
        old.seek(SeekFrom::Start(from))?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut new = options.open(self.dir.join(NEW))?;
        new.write_all(&log::head_of(true))?;
        let wanted = self.end - from;
        let copied = std::io::copy(&mut old.take(wanted), &mut new)?;
        if copied != wanted {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        new.sync_all()
    }
}

/// What is going to go.
struct Plan {
    start: Head,
    /// The first record that stays, and where it begins.
    next: Span,
    from: u64,
    events: u64,
    time_ms: u64,
    folded: Folded,
    /// Gaps in streams that the events tell of, which stay gaps when the events are gone.
    lost: Value,
}

/// Gaps that the newest cut tells of.
fn lost_before(folded: &Folded) -> Value {
    let (kind, id) = RECORD;
    let known = folded.records.get(&(kind.to_owned(), id.to_owned()));
    known.map_or_else(|| json!({}), |value| value["lost"].clone())
}

/// Adds the gap that an event tells of.
fn gaps(event: &Event, lost: &mut Value) {
    let Some((kind, stream)) = &event.record else {
        return;
    };
    let gap = event.after.as_ref().and_then(|value| value.get("lost"));
    if let Some(gap) = gap.filter(|gap| kind == crate::stream::RECORD && gap.is_array()) {
        match lost[stream].as_array_mut() {
            Some(all) => all.push(gap.clone()),
            None => lost[stream] = json!([gap]),
        }
    }
    if event.kind == KIND
        && let Some(told) = event.after.as_ref().map(|value| value["lost"].clone())
    {
        // A later cut tells what earlier ones told.
        if told.is_object() {
            *lost = told;
        }
    }
}
