//! The snapshot file: the state at some revision, so that a start need not fold the whole log.
//!
//! It is a shortcut, never an authority: it is used only if the log holds the very event it was taken at (same number,
//! same hash). A log that ends before its snapshot has lost acknowledged events, and open says which.

use crate::event::{RecordKey, hex32};
use crate::fold::{Folded, Snapshot};
use crate::log::line_hash;
use crate::{Error, place};
use naka_types::name::ObjectRef;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// Name in the mesh directory.
pub(crate) const FILE: &str = "snapshot";

const MAGIC: &[u8; 8] = b"NAKASNP\n";
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    revision: u64,
    #[serde(with = "hex32")]
    hash: [u8; 32],
    objects: Vec<(ObjectRef, Value)>,
    records: Vec<(RecordKey, Value)>,
}

/// A state and the hash of its last event.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) folded: Folded,
    pub(crate) hash: [u8; 32],
}

/// What is in a file, with its SHA-256, or why that cannot be used.
type Loaded = Result<(Checkpoint, [u8; 32]), String>;

/// Writes the snapshot file.
pub(crate) fn save(dir: &Path, snapshot: &Snapshot, hash: [u8; 32]) -> Result<(), Error> {
    save_as(dir, FILE, Folded::from(snapshot), hash).map(|_| ())
}

/// Writes a state into a file; the SHA-256 of what is in it.
pub(crate) fn save_as(
    dir: &Path,
    name: &str,
    folded: Folded,
    hash: [u8; 32],
) -> Result<[u8; 32], Error> {
    let stored = Stored {
        revision: folded.revision,
        hash,
        objects: folded.objects.into_iter().collect(),
        records: folded.records.into_iter().collect(),
    };
    let body = serde_json::to_vec(&stored).map_err(|error| Error::Invalid(error.to_string()))?;
    let crc = crc32c::crc32c(&body);
    place::replace(
        dir,
        name,
        &[MAGIC, &FORMAT.to_le_bytes(), &crc.to_le_bytes(), &body],
    )?;
    Ok(line_hash(&body))
}

/// Reads the snapshot file. `Ok(Err(why))` when it is there but not usable.
pub(crate) fn load(dir: &Path) -> Result<Option<Result<Checkpoint, String>>, Error> {
    let file = "the snapshot file";
    let read = load_from(dir, FILE)?;
    let ignored = |why| format!("{file} {why} and was ignored");
    Ok(read.map(|read| read.map(|(checkpoint, _)| checkpoint).map_err(ignored)))
}

/// Reads a state from a file, and the SHA-256 of what is in it. `Ok(Err(why))` when it is there but not usable.
pub(crate) fn load_from(dir: &Path, name: &str) -> Result<Option<Loaded>, Error> {
    let path = dir.join(name);
    let Some(bytes) = place::read(&path)? else {
        return Ok(None);
    };
    let parts = bytes
        .strip_prefix(MAGIC)
        .and_then(|rest| rest.split_first_chunk::<4>())
        .and_then(|(format, rest)| {
            Some((u32::from_le_bytes(*format), rest.split_first_chunk::<4>()?))
        });
    let Some((format, (crc, body))) = parts else {
        return Ok(Some(Err("is not one".to_owned())));
    };
    if format > FORMAT {
        return Err(Error::NewerFormat {
            file: path.display().to_string(),
            found: format,
            known: FORMAT,
        });
    }
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Ok(Some(Err("is damaged".to_owned())));
    }
    Ok(Some(match serde_json::from_slice::<Stored>(body) {
        Err(error) => Err(format!("cannot be read ({error})")),
        Ok(stored) => Ok((
            Checkpoint {
                hash: stored.hash,
                folded: Folded {
                    revision: stored.revision,
                    objects: stored.objects.into_iter().collect(),
                    records: stored.records.into_iter().collect(),
                },
            },
            line_hash(body),
        )),
    }))
}
