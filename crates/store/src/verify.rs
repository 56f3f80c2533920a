//! Whether a log is the one that was written: a walk along its chain of hashes, and a look at heads that somebody
//! noted down.
//!
//! An event carries the hash of the one before it, so it bears its predecessor out, and whoever edits one has to edit
//! all that come after it. Such a log is whole in itself; only a [`Head`] of before the edit, kept where the editor
//! cannot write, tells it from the true one. Heads come from three places: the caller, the snapshot file, and a running
//! store, which knows how its log ends without reading it.
//!
//! Which of two events was edited when the link between them is broken is decided by the event behind them: what is
//! borne out by its successor is as it was.
//!
//! Not here: damage that keeps the store from starting (`log::scan` decides that, and `naka store repair` mends it).

use crate::cut::{self, Base, Begin};
use crate::event::{Event, hex32};
use crate::log::{self, Checks, Line};
use crate::store::{LOG, Store};
use crate::stream::{self, Anchor};
use crate::{Error, checkpoint, reseal, stamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::PoisonError;

/// Where a chain stood: an event and its hash. Written `SEQ:HASH`, short enough to be noted down elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// Sequence number of an event.
    pub seq: u64,
    /// SHA-256 of its stored line.
    pub hash: [u8; 32],
}

impl Head {
    /// Reads `SEQ:HASH`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (seq, hash) = text.split_once(':')?;
        Some(Self {
            seq: seq.parse().ok()?,
            hash: hex32::parse(hash)?,
        })
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, hex32::text(&self.hash))
    }
}

/// The first thing that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// File it is in, seen from the mesh's directory.
    pub file: String,
    /// The event, or the first of several of which one is meant.
    pub seq: u64,
    /// The last of them.
    pub until: u64,
    /// When the event says that it happened; of a missing one, the time of the event that stands in its place.
    pub time_ms: Option<u64>,
    /// Its first byte in the file; of a missing one, where it would begin.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.until {
            until if until == self.seq => write!(f, "event {}", self.seq)?,
            until => write!(f, "events {} to {until}", self.seq)?,
        }
        if let Some(time) = self.time_ms {
            write!(f, ", {}", stamp::rfc3339(time))?;
        }
        write!(f, ", byte {} of {}: {}", self.offset, self.file, self.what)
    }
}

/// What a walk along a log found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Events read.
    pub events: u64,
    /// Time of the first one.
    pub from_ms: Option<u64>,
    /// Time of the last one.
    pub until_ms: Option<u64>,
    /// How the log ends, `SEQ:HASH`; to be noted down.
    pub head: String,
    /// Heads that the log was compared with.
    pub compared: usize,
    /// Heads of events that went by their age, which say nothing any more.
    pub outlived: usize,
    /// The last event that went by its age, as the log tells; 0: none did.
    pub cut: u64,
    /// Bytes of an unfinished record at the end. A crash leaves such; nothing acknowledged was in them.
    pub torn: u64,
    /// Streams beside the log.
    pub streams: Vec<VerifiedStream>,
    /// What is not as it was written, in the log or in a stream.
    pub broken: Option<Broken>,
}

/// What a walk along the files of a stream found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifiedStream {
    /// Its name.
    pub name: String,
    /// Files.
    pub files: usize,
    /// Events read.
    pub events: u64,
    /// The last event that went because of its age; 0: none did.
    pub pruned: u64,
    /// The newest event that the log bears out.
    pub anchored: u64,
    /// Events that the log tells to be lost, each time the first and the last.
    pub lost: Vec<(u64, u64)>,
    /// How it ends, `SEQ:HASH`.
    pub head: String,
}

/// Walks along the log of a mesh directory, which may be in use, and compares it with the heads given and with the one
/// of the snapshot file.
///
/// # Errors
/// When a file cannot be read or is of a newer format.
pub fn verify(dir: &Path, heads: &[Head]) -> Result<Verified, Error> {
    let mut known: Vec<Known> = heads.iter().map(Known::noted).collect();
    if let Some(Ok(checkpoint)) = checkpoint::load(dir)? {
        known.push(Known::new(
            Head {
                seq: checkpoint.folded.revision,
                hash: checkpoint.hash,
            },
            "the snapshot file",
        ));
    }
    walk(dir, known)
}

impl Store {
    /// How the log ends now, as this process knows it.
    #[must_use]
    pub fn head(&self) -> Head {
        let written = self.shared.written.read();
        written.unwrap_or_else(PoisonError::into_inner).head
    }

    /// As [`verify`], on the log of a running store: what this process wrote must be there, too.
    ///
    /// # Errors
    /// When a file cannot be read or is of a newer format.
    pub fn verify(&self, heads: &[Head]) -> Result<Verified, Error> {
        let attempt = || {
            let mut all: Vec<Known> = heads.iter().map(Known::noted).collect();
            all.push(Known::new(self.head(), "the running control plane"));
            walk(&self.dir, all)
        };
        let found = attempt()?;
        // The log may have been written anew meanwhile (another sealing key), and files of a stream may have gone
        // because of their age: what is broken is so the second time, too.
        match found.broken {
            None => Ok(found),
            Some(_) => attempt(),
        }
    }
}

/// Whose heads are that somebody gave.
const NOTED: &str = "a head noted before";

/// A head, and who knows it.
struct Known {
    head: Head,
    whose: &'static str,
    /// Whether the log has it; `None` until its event came by.
    met: Option<bool>,
    /// Where its event begins, and its time.
    place: (u64, Option<u64>),
}

impl Known {
    fn noted(head: &Head) -> Self {
        Self::new(*head, NOTED)
    }

    fn new(head: Head, whose: &'static str) -> Self {
        Self {
            head,
            whose,
            // Nothing comes before the first event.
            met: (head == Head::default()).then_some(true),
            place: (0, None),
        }
    }
}

/// The part of an event that the walk needs.
#[derive(Deserialize)]
struct Seen {
    time: u64,
    kind: String,
    #[serde(with = "hex32")]
    prev: [u8; 32],
}

/// One event on the way.
#[derive(Debug, Clone, Copy, Default)]
struct Stone {
    seq: u64,
    time: Option<u64>,
    at: u64,
    prev: [u8; 32],
    hash: [u8; 32],
}

#[derive(Default)]
struct Walk {
    file: String,
    events: u64,
    first: Option<u64>,
    last: Stone,
    /// A broken link, which the next event explains.
    open: Option<(Stone, Stone)>,
    broken: Option<Broken>,
    /// Changes of the sealing key: number of the event, and how the chain before ended.
    rewritten: Vec<(u64, [u8; 32])>,
    /// What the log says of its streams, in order.
    anchors: BTreeMap<String, Vec<Anchor>>,
    /// The last event that went by its age.
    since: u64,
    /// What it says of its own beginning, in order.
    begins: Vec<Base>,
    /// Gaps that are told elsewhere.
    excused: Vec<(u64, u64)>,
}

fn walk(dir: &Path, mut known: Vec<Known>) -> Result<Verified, Error> {
    let path = dir.join(LOG);
    let log = File::open(&path)
        .map_err(|error| Error::io(format!("reading {}", path.display()), error))?;
    let begin = Begin::read(dir, &log)?;
    let gone = |known: &Known| known.head.seq < begin.start.seq && known.head.seq > 0;
    let noted = |known: &&Known| gone(known) && known.whose == NOTED;
    let outlived = known.iter().filter(noted).count();
    known.retain(|known| !gone(known));
    for known in known
        .iter_mut()
        .filter(|known| known.head.seq == begin.start.seq)
    {
        known.met = Some(known.head.hash == begin.start.hash);
        known.place.0 = log::FILE_HEAD as u64;
    }
    let mut walk = Walk {
        file: "the log".to_owned(),
        anchors: known_streams(&begin),
        since: begin.start.seq,
        last: Stone {
            seq: begin.start.seq,
            hash: begin.start.hash,
            ..Stone::default()
        },
        ..Walk::default()
    };
    let (end, torn) = walk.read(&path, &mut known)?;
    walk.begins(&begin);
    walk.ends(&mut known, end);
    let mut streams = Vec::new();
    for (name, anchors) in std::mem::take(&mut walk.anchors) {
        let (stream, broken) = along(dir, &name, &anchors)?;
        streams.push(stream);
        walk.broken = walk.broken.or(broken);
    }
    Ok(Verified {
        events: walk.events,
        from_ms: walk.first,
        until_ms: walk.last.time,
        head: walk.head().to_string(),
        compared: known.len(),
        outlived,
        cut: begin.start.seq,
        torn,
        streams,
        broken: walk.broken,
    })
}

/// What was known of the streams when the log began.
fn known_streams(begin: &Begin) -> BTreeMap<String, Vec<Anchor>> {
    let records = begin.base.iter().flat_map(|base| &base.folded.records);
    let of_streams = records.filter(|((kind, _), _)| kind == stream::RECORD);
    let anchors = of_streams.filter_map(|((_, name), value)| {
        let anchor = Anchor::deserialize(value).ok()?;
        Some((name.clone(), vec![anchor]))
    });
    anchors.collect()
}

/// Walks along the files of a stream, from where the log says that it begins over every anchor.
fn along(
    dir: &Path,
    name: &str,
    anchors: &[Anchor],
) -> Result<(VerifiedStream, Option<Broken>), Error> {
    let begin = anchors.last().map_or_else(Head::default, Anchor::begin);
    let anchored = anchors.last().map_or(0, |anchor| anchor.seq);
    let lost: Vec<(u64, u64)> = anchors.iter().filter_map(|anchor| anchor.lost).collect();
    let is_there = |seq: u64| {
        seq > begin.seq
            && !lost
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&seq))
    };
    let heads = anchors
        .iter()
        .map(Anchor::head)
        .filter(|head| is_there(head.seq));
    let mut known: Vec<Known> = heads
        .map(|head| Known::new(head, "an anchor in the log"))
        .collect();
    let mut walk = Walk {
        file: name.to_owned(),
        last: Stone {
            seq: begin.seq,
            hash: begin.hash,
            ..Stone::default()
        },
        excused: lost.clone(),
        ..Walk::default()
    };
    let (mut files, mut end) = (0, 0);
    for number in stream::list(&dir.join(name))? {
        let path = stream::path(&dir.join(name), number);
        walk.file = format!("{name}/{number:08}");
        files += 1;
        (end, _) = walk.read(&path, &mut known)?;
    }
    // A gap at the end that the log tells of.
    let gone = lost
        .iter()
        .find(|(first, last)| *first == walk.last.seq + 1 && *last == anchored);
    if gone.is_none() {
        walk.ends(&mut known, end);
    }
    let stream = VerifiedStream {
        name: name.to_owned(),
        files,
        events: walk.events,
        pruned: begin.seq,
        anchored,
        lost,
        head: walk.head().to_string(),
    };
    Ok((stream, walk.broken))
}

impl Walk {
    fn head(&self) -> Head {
        Head {
            seq: self.last.seq,
            hash: self.last.hash,
        }
    }

    /// Walks along a file; where its sound part ends, and how many bytes of an unfinished record are behind it.
    fn read(&mut self, path: &Path, known: &mut [Known]) -> Result<(u64, u64), Error> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| Error::io(format!("reading {name}"), error))?;
        let checks = Checks {
            crc: true,
            chain: false,
        };
        let scan = log::scan(&file, &name, checks, |line| self.step(line, known))?;
        if let Some(damage) = scan.damage {
            self.resolve(None);
            let next = self.last.seq + 1;
            self.found(Broken {
                file: self.file.clone(),
                seq: next,
                until: next,
                time_ms: None,
                offset: damage.offset,
                what: damage.what,
            });
        }
        Ok((scan.end, scan.torn.map_or(0, |torn| torn.bytes)))
    }

    /// Nothing comes any more: the heads are compared.
    fn ends(&mut self, known: &mut [Known], end: u64) {
        let borne_out = self.open.and_then(|(_, after)| {
            let mut heads = known.iter().filter(|known| known.head.seq == after.seq);
            heads.find_map(|known| known.met)
        });
        self.resolve(borne_out);
        if self.broken.is_none() {
            self.broken = compare(self, known, end);
        }
    }

    fn step(&mut self, line: &Line<'_>, known: &mut [Known]) -> Result<(), String> {
        let seen: Seen =
            serde_json::from_slice(line.bytes).map_err(|error| format!("not an event: {error}"))?;
        let stone = Stone {
            seq: line.seq,
            time: Some(seen.time),
            at: line.at,
            prev: seen.prev,
            hash: line.hash,
        };
        if seen.kind == reseal::KIND {
            self.rewritten
                .extend(chain_before(line.bytes).map(|hash| (line.seq, hash)));
        }
        if matches!(seen.kind.as_str(), cut::KIND | reseal::KIND) {
            self.told(line.bytes);
        }
        if let Some((name, anchor)) = seen
            .kind
            .starts_with("audit.")
            .then(|| anchor(line.bytes))
            .flatten()
        {
            self.anchors.entry(name).or_default().push(anchor);
        }
        for known in known.iter_mut().filter(|known| known.head.seq == line.seq) {
            known.met = Some(known.head.hash == line.hash);
            known.place = (line.at, Some(seen.time));
        }
        let borne_out = self.open.map(|(_, after)| stone.prev == after.hash);
        self.resolve(borne_out);
        let last = self.last;
        let gap = (last.seq + 1, stone.seq.saturating_sub(1));
        let follows = stone.seq == last.seq + 1 && stone.prev == last.hash;
        if self.open.is_none() && !follows && !self.excused.contains(&gap) {
            self.open = Some((last, stone));
        }
        self.first = self.first.or(stone.time);
        self.events += 1;
        self.last = stone;
        Ok(())
    }

    /// What an event says of where the log begins, and of gaps in streams that events told of which are gone.
    fn told(&mut self, line: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Event>(line) else {
            return;
        };
        self.begins.extend(Base::told(&event));
        let lost = event.after.as_ref().and_then(|value| value.get("lost"));
        for (name, gaps) in lost.and_then(Value::as_object).into_iter().flatten() {
            let gaps: Vec<(u64, u64)> = Deserialize::deserialize(gaps).unwrap_or_default();
            let anchors = self.anchors.entry(name.clone()).or_default();
            // In front of what is known: it is older.
            anchors.splice(0..0, gaps.into_iter().map(Anchor::gap));
        }
    }

    /// Looks whether the log begins where it says so, with the state that it says.
    fn begins(&mut self, begin: &Begin) {
        let start = begin.start;
        let told = self.begins.iter().rev().find(|base| base.start() == start);
        let (file, what) = match (told, &begin.wrong) {
            _ if start == Head::default() && begin.wrong.is_none() => return,
            (_, Some(wrong)) => ("the log", wrong.clone()),
            (None, None) => (
                "the log",
                format!(
                    "missing at the beginning: it begins behind event {}, and no event tells that those up to there \
                     went by their age",
                    start.seq
                ),
            ),
            (Some(told), None) if told.sha256 != begin.sha256 => (
                "the state that the log begins with",
                "it is not the one that was written when the events before went".to_owned(),
            ),
            (Some(_), None) => return,
        };
        self.broken = Some(Broken {
            file: file.to_owned(),
            seq: start.seq.min(1),
            until: start.seq,
            time_ms: None,
            offset: 0,
            what,
        });
    }

    /// Keeps the first finding only.
    fn found(&mut self, broken: Broken) {
        self.broken.get_or_insert(broken);
    }

    /// Says what an open link means, now that it is known whether the event behind it is borne out; `None`: it is the
    /// last one, and nobody knows.
    fn resolve(&mut self, borne_out: Option<bool>) {
        let Some((before, after)) = self.open.take() else {
            return;
        };
        let one = |stone: Stone, what: String| Broken {
            file: self.file.clone(),
            seq: stone.seq,
            until: stone.seq,
            time_ms: stone.time,
            offset: stone.at,
            what,
        };
        let found = match (after.seq.cmp(&(before.seq + 1)), borne_out) {
            (std::cmp::Ordering::Greater, _) => Broken {
                until: after.seq - 1,
                ..one(
                    Stone {
                        seq: before.seq + 1,
                        ..after
                    },
                    format!("missing: event {} follows event {}", after.seq, before.seq),
                )
            },
            (std::cmp::Ordering::Less, _) => one(
                after,
                format!(
                    "it stands behind event {}, where it does not belong",
                    before.seq
                ),
            ),
            (_, _) if before.time.is_none() => {
                one(after, "it does not follow where the log begins".to_owned())
            }
            (_, Some(true)) => one(
                before,
                format!(
                    "it is not the event that event {} was written after",
                    after.seq
                ),
            ),
            (_, Some(false)) => one(
                after,
                "it does not follow the event before it, nor does the next one follow it"
                    .to_owned(),
            ),
            (_, None) => Broken {
                until: after.seq,
                ..one(
                    before,
                    "one of the last two was edited: the last does not follow the one before"
                        .to_owned(),
                )
            },
        };
        self.found(found);
    }
}

/// Looks whether the heads are those of this log, the earliest first.
fn compare(walk: &Walk, known: &mut [Known], end: u64) -> Option<Broken> {
    known.sort_by_key(|known| known.head.seq);
    let mut sound = walk.since;
    for known in known.iter() {
        let Known {
            head,
            whose,
            met,
            place: (at, time),
        } = *known;
        let of_before = walk.rewritten.iter().find(|(seq, _)| head.seq < *seq);
        match (met, of_before) {
            (Some(true), _) => sound = head.seq,
            (Some(false), Some((seq, hash))) if head.seq + 1 == *seq && head.hash == *hash => {
                sound = head.seq;
            }
            (Some(false), Some((seq, hash))) => {
                let then = Head {
                    seq: seq - 1,
                    hash: *hash,
                };
                return Some(Broken {
                    file: walk.file.clone(),
                    seq: head.seq,
                    until: head.seq,
                    time_ms: time,
                    offset: at,
                    what: format!(
                        "{whose} ({head}) is of before the sealing key was changed by event {seq}, which wrote the chain \
                         anew, and cannot be compared; of the chain before only its end is known, {then}"
                    ),
                });
            }
            (Some(false), None) => {
                return Some(Broken {
                    file: walk.file.clone(),
                    seq: sound + 1,
                    until: head.seq,
                    time_ms: time,
                    offset: at,
                    what: format!(
                        "the log was written anew: {whose} has another event {} ({head}); which of these was edited \
                         cannot be told",
                        head.seq
                    ),
                });
            }
            (None, _) => {
                return Some(Broken {
                    file: walk.file.clone(),
                    seq: walk.last.seq + 1,
                    until: head.seq,
                    time_ms: walk.last.time,
                    offset: end,
                    what: format!(
                        "missing at the end: {whose} knows event {} ({head})",
                        head.seq
                    ),
                });
            }
        }
    }
    None
}

/// What an event says of a stream.
fn anchor(line: &[u8]) -> Option<(String, Anchor)> {
    let event: Event = serde_json::from_slice(line).ok()?;
    let (kind, name) = event.record?;
    let anchor = Anchor::deserialize(event.after?).ok()?;
    (kind == stream::RECORD).then_some((name, anchor))
}

/// How the chain ended that a change of the sealing key wrote anew.
fn chain_before(line: &[u8]) -> Option<[u8; 32]> {
    let event: Event = serde_json::from_slice(line).ok()?;
    hex32::parse(event.after?.get("chain_before")?.as_str()?)
}
