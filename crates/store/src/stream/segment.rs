//! One file of a stream: records as the log's, written at the end, read whole.

use crate::Error;
use crate::event::Event;
use crate::log::{self, Checks, FILE_HEAD};
use crate::verify::Head;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What is known of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) number: u64,
    /// Number of its first event.
    pub(crate) first: u64,
    /// Its last event.
    pub(crate) last: Head,
    pub(crate) last_ms: u64,
    pub(crate) bytes: u64,
}

/// A file that is written.
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) end: u64,
    pub(super) begun: Instant,
    file: File,
    path: PathBuf,
}

impl Segment {
    /// Makes a file that is not there yet.
    pub(super) fn make(dir: &Path, number: u64) -> Result<Self, Error> {
        let path = path(dir, number);
        let make = || {
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            let written = file
                .write_all_at(&log::file_head(), 0)
                .and_then(|()| File::open(dir)?.sync_all());
            // A file without its head would be damage that nobody made.
            if written.is_err() {
                let _ = fs::remove_file(&path);
            }
            written.map(|()| file)
        };
        let file = make().map_err(|error| failed("making", &path, error))?;
        Ok(Self {
            number,
            end: FILE_HEAD as u64,
            begun: Instant::now(),
            file,
            path,
        })
    }

    /// Writes one record behind the others.
    pub(super) fn append(&mut self, payload: &[u8]) -> Result<(), Error> {
        let mut bytes = Vec::with_capacity(payload.len() + log::RECORD_HEAD);
        log::frame(payload, &mut bytes);
        self.file
            .write_all_at(&bytes, self.end)
            .map_err(|error| failed("writing", &self.path, error))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Cuts off what a failed write left.
    pub(super) fn cut(&self) -> Result<(), Error> {
        self.file
            .set_len(self.end)
            .map_err(|error| failed("cutting", &self.path, error))
    }

    /// Waits until it is on disk.
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.file
            .sync_data()
            .map_err(|error| failed("syncing", &self.path, error))
    }
}

/// Numbers of a stream's files, in order; none where there is no directory.
pub(crate) fn list(dir: &Path) -> Result<Vec<u64>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("listing", dir, error)),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed("listing", dir, error))?;
        numbers.extend(
            entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u64>().ok()),
        );
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// What a file holds; `None` when that is no event.
pub(super) fn summary(dir: &Path, number: u64) -> Result<Option<Summary>, Error> {
    let (mut first, mut last) = (None, None);
    events(dir, number, |head, event| {
        first = first.or(Some(head.seq));
        last = Some((head, event.time_ms));
    })?;
    let path = path(dir, number);
    let bytes = fs::metadata(&path)
        .map_err(|error| failed("reading", &path, error))?
        .len();
    Ok(last.map(|(last, last_ms)| Summary {
        number,
        first: first.unwrap_or(last.seq),
        last,
        last_ms,
        bytes,
    }))
}

/// Shows the sound events of a file in order.
pub(super) fn events(
    dir: &Path,
    number: u64,
    mut visit: impl FnMut(Head, Event),
) -> Result<(), Error> {
    let path = path(dir, number);
    let file = File::open(&path).map_err(|error| failed("reading", &path, error))?;
    let checks = Checks {
        crc: true,
        chain: false,
    };
    log::scan(&file, &path.display().to_string(), checks, |line| {
        let event: Event =
            serde_json::from_slice(line.bytes).map_err(|error| format!("not an event: {error}"))?;
        let head = Head {
            seq: line.seq,
            hash: line.hash,
        };
        visit(head, event);
        Ok(())
    })?;
    Ok(())
}

/// Removes a file.
pub(super) fn remove(dir: &Path, number: u64) -> Result<(), Error> {
    let path = path(dir, number);
    fs::remove_file(&path).map_err(|error| failed("removing", &path, error))
}

/// Where a file lies.
pub(crate) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}"))
}

fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    Error::io(format!("{what} {}", path.display()), error)
}
