//! The log's file format and its reader.
//!
//! A file starts with 16 bytes: `NAKALOG\n`, format number, CRC32C of both. Then records, each 12 bytes of head
//! (payload length, CRC32C of the payload, CRC32C of these eight bytes) and a payload of JSON lines, one event a
//! line. One record is one commit, so a commit is there whole or not at all.
//!
//! Why the head has its own checksum: a cut then always shows as an incomplete head or payload, and a flipped bit
//! always as a wrong checksum, so "torn by a crash, nothing acknowledged is missing" and "damaged, stop and ask" are
//! never confused. The one overlap, a last record whose sectors never reached the disk, is recognised by its zeros.
//!
//! Each line carries the SHA-256 of the line before, so a record cannot be replaced or dropped by hand unnoticed.

use crate::event::hex32;
use aws_lc_rs::digest;
use serde::Deserialize;
use std::fmt;
use std::io::{self, Read};

mod scan;
pub(crate) use scan::{Checks, Line, Scan, Span, Start, scan, start};

/// Format of a log that begins with its first event.
const WHOLE: u32 = 1;
/// Newest format: a log whose older events went by their age ([`crate::cut`]). The records are the same; whoever does
/// not know it must not take the missing ones for damage.
pub(crate) const FORMAT: u32 = 2;
/// Bytes before the first record.
pub(crate) const FILE_HEAD: usize = 16;
/// Bytes before a payload.
pub(crate) const RECORD_HEAD: usize = 12;
/// Largest payload: bounds what a damaged or hostile file can make us allocate.
pub(crate) const MAX_PAYLOAD: usize = 64 << 20;

const MAGIC: [u8; 8] = *b"NAKALOG\n";

/// Bytes at the end that a crash left behind; they were cut off. Nothing acknowledged was in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// Where they began.
    pub offset: u64,
    /// How many there were.
    pub bytes: u64,
}

/// Something in the log that no crash explains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where the sound part ends.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
    /// Bytes from there to the end.
    pub bytes: u64,
    /// Records behind it that are sound in themselves but no longer connected.
    pub stranded: u64,
}

/// What [`crate::Store::open`] met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Last revision that is there.
    pub revision: u64,
    /// Sound records.
    pub records: u64,
    /// Revision of the snapshot the fold started from, if one was used.
    pub from_snapshot: Option<u64>,
    /// What a crash left at the end.
    pub torn: Option<Torn>,
    /// Damage; the store is read-only while it is there.
    pub damage: Option<Damage>,
    /// Things that were set right or left out, in words, for example a snapshot file that could not be read.
    pub remarks: Vec<String>,
}

impl Recovery {
    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.torn.is_none() && self.damage.is_none() && self.remarks.is_empty()
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "log read to revision {} ({} records)",
            self.revision, self.records
        )?;
        if let Some(torn) = &self.torn {
            write!(
                f,
                "; {} bytes of an unfinished record at byte {} were cut off",
                torn.bytes, torn.offset
            )?;
        }
        if let Some(damage) = &self.damage {
            write!(f, "; DAMAGED: {damage}")?;
        }
        self.remarks
            .iter()
            .try_for_each(|remark| write!(f, "; {remark}"))
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "at byte {}: {}; {} bytes with {} sound records after it are not in force",
            self.offset, self.what, self.bytes, self.stranded
        )
    }
}

/// The first bytes of a log that begins with its first event.
pub(crate) fn file_head() -> [u8; FILE_HEAD] {
    head_of(false)
}

/// The first bytes of a log.
pub(crate) fn head_of(cut: bool) -> [u8; FILE_HEAD] {
    let format = if cut { FORMAT } else { WHOLE };
    let mut head = [0; FILE_HEAD];
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&format.to_le_bytes());
    let crc = crc32c::crc32c(&head[..12]);
    head[12..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// What the first bytes of a file say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// A log, and whether its older events went.
    Sound(bool),
    /// A sound head of a newer format.
    Newer(u32),
    /// Not readable, with the reason.
    Damaged(&'static str),
}

/// Reads the first bytes.
pub(crate) fn read_file_head(head: &[u8]) -> Head {
    let Some(head) = head.first_chunk::<FILE_HEAD>() else {
        return Head::Damaged("the file is shorter than its head");
    };
    if crc32c::crc32c(&head[..12]) != word(&head[12..]) || head[..8] != MAGIC {
        return Head::Damaged("the file's head is not that of a Naka log");
    }
    match word(&head[8..12]) {
        format if format > FORMAT => Head::Newer(format),
        format => Head::Sound(format == FORMAT),
    }
}

/// Appends a record to `out`.
pub(crate) fn frame(payload: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).expect("invariant: payloads are at most MAX_PAYLOAD");
    let mut head = [0; RECORD_HEAD];
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..8].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    let crc = crc32c::crc32c(&head[..8]);
    head[8..].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(payload);
}

/// Hash of a stored line, the next line's `prev`.
pub(crate) fn line_hash(line: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, line).as_ref());
    hash
}

/// The part of a line that the chain needs; cheaper to read than a whole event.
#[derive(Deserialize)]
pub(crate) struct Link {
    pub(crate) seq: u64,
    #[serde(with = "hex32")]
    pub(crate) prev: [u8; 32],
}

/// The lines of a payload.
pub(crate) fn lines(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    payload
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
}

fn word(bytes: &[u8]) -> u32 {
    bytes
        .first_chunk::<4>()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Reads until `buffer` is full or the input ends; says how much came.
pub(crate) fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
