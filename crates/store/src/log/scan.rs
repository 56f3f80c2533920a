//! Reading a log from its first byte: which records are sound, and what the end looks like.

use super::{
    Damage, FILE_HEAD, Head, Link, MAX_PAYLOAD, RECORD_HEAD, Torn, fill, line_hash, lines,
    read_file_head, word,
};
use crate::Error;
use crate::verify::Head as Chain;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

/// Which checks the reader makes. Production code uses [`Checks::ALL`]; tests leave one out to show that it matters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checks {
    /// Compare checksums.
    pub(crate) crc: bool,
    /// Compare sequence numbers and the hash chain.
    pub(crate) chain: bool,
}

impl Checks {
    /// Every check.
    pub(crate) const ALL: Self = Self {
        crc: true,
        chain: true,
    };
}

/// Where a record is and which events it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Offset of its payload.
    pub(crate) offset: u64,
    /// Length of its payload.
    pub(crate) length: u32,
    /// Sequence number of its last event.
    pub(crate) last: u64,
}

/// Result of a scan.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Sound records in order.
    pub(crate) spans: Vec<Span>,
    /// Where the sound part ends.
    pub(crate) end: u64,
    /// Last sequence number.
    pub(crate) last: u64,
    /// Hash of the last line.
    pub(crate) hash: [u8; 32],
    /// Whether older events may be missing at the beginning.
    cut: bool,
    /// What a crash left.
    pub(crate) torn: Option<Torn>,
    /// What no crash explains.
    pub(crate) damage: Option<Damage>,
}

/// A sound line, as the reader shows it.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    /// Offset of its first byte.
    pub(crate) at: u64,
    /// Its sequence number.
    pub(crate) seq: u64,
    /// The event as stored.
    pub(crate) bytes: &'a [u8],
    /// Its hash.
    pub(crate) hash: [u8; 32],
}

enum Next {
    Payload(Vec<u8>),
    End,
    Torn,
    Damaged(String),
}

/// Scans a log and gives each sound line to `visit`, which may refuse one that it cannot read.
///
/// # Errors
/// When the file cannot be read, or is of a newer format.
pub(crate) fn scan(
    file: &File,
    name: &str,
    checks: Checks,
    mut visit: impl FnMut(&Line<'_>) -> Result<(), String>,
) -> Result<Scan, Error> {
    let failed = |error| Error::io(format!("reading {name}"), error);
    let length = file.metadata().map_err(failed)?.len();
    let mut input = BufReader::with_capacity(1 << 18, file);
    let mut head = [0; FILE_HEAD];
    let got = fill(&mut input, &mut head).map_err(failed)?;
    let mut scan = Scan {
        end: FILE_HEAD as u64,
        ..Scan::default()
    };
    let mut trouble = None;
    match read_file_head(&head[..got]) {
        Head::Sound(cut) => scan.cut = cut,
        Head::Newer(found) => {
            return Err(Error::NewerFormat {
                file: name.to_owned(),
                found,
                known: super::FORMAT,
            });
        }
        Head::Damaged(_) if got == FILE_HEAD && !checks.crc => {}
        // The records do not depend on the head: what is sound behind it is still served.
        Head::Damaged(why) => {
            scan.cut = true;
            trouble = Some((0, why.to_owned()));
        }
    }
    loop {
        let left = length.saturating_sub(scan.end);
        let wrong = match next(&mut input, scan.end, left, checks).map_err(failed)? {
            Next::Payload(payload) => match scan.take(&payload, checks, &mut visit) {
                Ok(()) => continue,
                Err(why) => why,
            },
            Next::End => break,
            Next::Torn => {
                scan.torn = Some(Torn {
                    offset: scan.end,
                    bytes: left,
                });
                break;
            }
            Next::Damaged(why) => why,
        };
        trouble.get_or_insert((scan.end, wrong));
        break;
    }
    if let Some((offset, what)) = trouble {
        let bytes = length.saturating_sub(scan.end);
        scan.damage = Some(Damage {
            offset,
            what,
            bytes,
            stranded: stranded(file, scan.end, length).map_err(failed)?,
        });
        scan.torn = None;
    }
    Ok(scan)
}

/// Where a log begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// With its first event.
    First,
    /// Behind this event; it and those before it went by their age.
    After(Chain),
    /// They went, and what is left of the log does not say which.
    Unknown,
}

/// Finds out where a log begins.
pub(crate) fn start(mut file: &File) -> std::io::Result<Start> {
    file.seek(SeekFrom::Start(0))?;
    let length = file.metadata()?.len();
    let mut input = BufReader::with_capacity(1 << 16, file);
    let mut head = [0; FILE_HEAD];
    let got = fill(&mut input, &mut head)?;
    let known = match read_file_head(&head[..got]) {
        Head::Sound(false) | Head::Newer(_) => return Ok(Start::First),
        Head::Sound(true) => true,
        Head::Damaged(_) => false,
    };
    let unknown = if known { Start::Unknown } else { Start::First };
    let left = length.saturating_sub(FILE_HEAD as u64);
    let Next::Payload(payload) = next(&mut input, FILE_HEAD as u64, left, Checks::ALL)? else {
        return Ok(unknown);
    };
    let first = lines(&payload).next();
    let link = first.and_then(|line| serde_json::from_slice::<Link>(line).ok());
    Ok(match link {
        None => unknown,
        Some(link) if link.seq <= 1 => Start::First,
        Some(link) => Start::After(Chain {
            seq: link.seq - 1,
            hash: link.prev,
        }),
    })
}

impl Scan {
    /// Adds one payload, all lines or none.
    fn take(
        &mut self,
        payload: &[u8],
        checks: Checks,
        visit: &mut impl FnMut(&Line<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let offset = self.end + RECORD_HEAD as u64;
        let (mut last, mut hash) = (self.last, self.hash);
        let mut checked = Vec::new();
        for line in lines(payload) {
            let link: Link =
                serde_json::from_slice(line).map_err(|error| format!("not an event: {error}"))?;
            if self.cut && self.spans.is_empty() && checked.is_empty() {
                (last, hash) = (link.seq.saturating_sub(1), link.prev);
            }
            if checks.chain && (link.seq != last + 1 || link.prev != hash) {
                return Err(format!(
                    "event {} does not follow event {last}: the chain of hashes is broken",
                    link.seq
                ));
            }
            last = link.seq;
            hash = line_hash(line);
            let within = line.as_ptr().addr() - payload.as_ptr().addr();
            checked.push(Line {
                at: offset + within as u64,
                seq: last,
                bytes: line,
                hash,
            });
        }
        checked.iter().try_for_each(&mut *visit)?;
        self.spans.push(Span {
            offset,
            length: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            last,
        });
        self.end = offset + payload.len() as u64;
        (self.last, self.hash) = (last, hash);
        Ok(())
    }
}

fn next(input: &mut impl Read, offset: u64, left: u64, checks: Checks) -> std::io::Result<Next> {
    if left == 0 {
        return Ok(Next::End);
    }
    let mut head = [0; RECORD_HEAD];
    if fill(input, &mut head)? < RECORD_HEAD {
        return Ok(Next::Torn);
    }
    let room = left - RECORD_HEAD as u64;
    if checks.crc && crc32c::crc32c(&head[..8]) != word(&head[8..]) {
        let unwritten = head == [0; RECORD_HEAD] && only_zeros(input)?;
        return Ok(if unwritten {
            Next::Torn
        } else {
            Next::Damaged("the head of a record fails its checksum".to_owned())
        });
    }
    let length = word(&head) as usize;
    if length > MAX_PAYLOAD {
        return Ok(Next::Damaged(format!("a record claims {length} bytes")));
    }
    if room < length as u64 {
        return Ok(Next::Torn);
    }
    let mut payload = vec![0; length];
    fill(input, &mut payload)?;
    if checks.crc && crc32c::crc32c(&payload) != word(&head[4..]) {
        let last = room == length as u64 || only_zeros(input)?;
        return Ok(
            if last && unwritten_sector(offset + RECORD_HEAD as u64, &payload) {
                Next::Torn
            } else {
                Next::Damaged("a record fails its checksum".to_owned())
            },
        );
    }
    Ok(Next::Payload(payload))
}

/// Whether some whole 512-byte sector of the payload holds only zeros: JSON never does, a sector that never reached
/// the disk does.
fn unwritten_sector(offset: u64, payload: &[u8]) -> bool {
    let skip = usize::try_from((512 - offset % 512) % 512).unwrap_or(0);
    let edge = skip.min(payload.len());
    let (first, rest) = payload.split_at(edge);
    let zeros = |part: &[u8]| !part.is_empty() && part.iter().all(|byte| *byte == 0);
    (first.len() >= 8 && zeros(first))
        || rest.chunks(512).any(|part| part.len() >= 8 && zeros(part))
}

fn only_zeros(input: &mut impl Read) -> std::io::Result<bool> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match fill(input, &mut buffer)? {
            0 => return Ok(true),
            got if buffer[..got].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

/// Counts records behind the damage that are sound in themselves, so that the loss can be named. Looks at the first
/// 64 MiB of it at most.
fn stranded(file: &File, from: u64, length: u64) -> std::io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let size = usize::try_from(length.saturating_sub(from).min(64 << 20)).unwrap_or(0);
    let mut bytes = vec![0; size];
    let mut got = 0;
    while got < size {
        match file.read_at(&mut bytes[got..], from + got as u64)? {
            0 => break,
            count => got += count,
        }
    }
    let (mut at, mut count) = (0, 0);
    while at + RECORD_HEAD < got {
        let head = &bytes[at..at + RECORD_HEAD];
        let body = at + RECORD_HEAD;
        let end = body.saturating_add(word(head) as usize);
        let sound = word(head) > 0
            && crc32c::crc32c(&head[..8]) == word(&head[8..])
            && end <= got
            && crc32c::crc32c(&bytes[body..end]) == word(&head[4..]);
        if sound {
            count += 1;
            at = end;
        } else {
            at += 1;
        }
    }
    Ok(count)
}
