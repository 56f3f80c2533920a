//! Lines of JSON in a file: `events.jsonl`, and before it `events.jsonl.1`, `.2`, …, the oldest of which goes.
//!
//! The file is opened for each batch, so that whoever takes it away (logrotate, a shipper) needs to tell nobody. A
//! batch is whole and on disk when it counts as taken; what a crash or a full disk left of one is cut off before the
//! next, which begins with the same events.

use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;

/// Step by which the end of the last whole line is looked for.
const STEP: u64 = 64 << 10;

/// A file and its predecessors.
#[derive(Debug, Clone)]
pub(super) struct Rotated {
    path: PathBuf,
    most_bytes: u64,
    files: usize,
}

impl Rotated {
    /// A file of about so many bytes, and so many before it.
    pub(super) fn new(path: PathBuf, most_bytes: u64, files: usize) -> Self {
        Self {
            path,
            most_bytes,
            files,
        }
    }

    /// Adds events; an error says why they are not there.
    pub(super) fn append(&self, events: &[Value]) -> Result<(), String> {
        self.work(events)
            .map_err(|error| format!("{}: {error}", self.path.display()))
    }

    fn work(&self, events: &[Value]) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        for event in events {
            serde_json::to_writer(&mut bytes, event)?;
            bytes.push(b'\n');
        }
        let mut file = self.open()?;
        let mut end = whole(&mut file)?;
        if end > 0 && end + bytes.len() as u64 > self.most_bytes {
            self.rotate()?;
            file = self.open()?;
            end = whole(&mut file)?;
        }
        file.seek(SeekFrom::Start(end))?;
        let written = file.write_all(&bytes).and_then(|()| file.sync_data());
        if written.is_err() {
            // The next batch cuts it off where this does not work.
            let _ = file.set_len(end);
        }
        written
    }

    fn open(&self) -> std::io::Result<File> {
        let kind = fs::metadata(&self.path).map(|found| found.file_type());
        // Opening a pipe that nobody reads would wait.
        if kind.is_ok_and(|kind| {
            kind.is_fifo() || kind.is_dir() || kind.is_socket() || kind.is_char_device()
        }) {
            return Err(std::io::Error::new(
                ErrorKind::InvalidInput,
                "it is no regular file",
            ));
        }
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)
    }

    fn rotate(&self) -> std::io::Result<()> {
        let nth = |number: usize| {
            let mut name = self.path.as_os_str().to_owned();
            if number > 0 {
                name.push(format!(".{number}"));
            }
            PathBuf::from(name)
        };
        for number in (0..self.files).rev() {
            match fs::rename(nth(number), nth(number + 1)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Cuts off what is behind the last whole line; where that ends.
fn whole(file: &mut File) -> std::io::Result<u64> {
    let length = file.metadata()?.len();
    let mut end = length;
    while end > 0 {
        let begin = end.saturating_sub(STEP);
        let mut part = Vec::new();
        file.seek(SeekFrom::Start(begin))?;
        Read::by_ref(file)
            .take(end - begin)
            .read_to_end(&mut part)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            end = begin + at as u64 + 1;
            break;
        }
        end = begin;
    }
    if end < length {
        file.set_len(end)?;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::Rotated;
    use serde_json::{Value, json};
    use std::io::Write;

    #[test]
    fn lines_are_whole_whatever_was_left_and_old_files_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let file = Rotated::new(path.clone(), 40, 2);
        file.append(&[json!({"seq": 1}), json!({"seq": 2})])
            .unwrap();
        // As a crash leaves it.
        let mut torn = std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap();
        torn.write_all(b"{\"seq\":3,\"kind").unwrap();
        for seq in 3..12 {
            file.append(&[json!({"seq": seq})]).unwrap();
        }
        let read = |name: &str| -> Vec<Value> {
            let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
            assert!(text.ends_with('\n') && text.len() <= 40, "{text:?}");
            let lines = text
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap());
            lines.map(|line| line["seq"].clone()).collect()
        };
        assert_eq!(read("events.jsonl.2"), [1, 2, 3, 4]);
        assert_eq!(read("events.jsonl.1"), [5, 6, 7, 8]);
        assert_eq!(read("events.jsonl"), [9, 10, 11]);
        for seq in 12..14 {
            file.append(&[json!({"seq": seq})]).unwrap();
        }
        assert_eq!(read("events.jsonl.2"), [5, 6, 7, 8], "the oldest is gone");
        assert!(!dir.path().join("events.jsonl.3").exists());
    }

    #[test]
    fn what_is_no_file_is_told_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let file = Rotated::new(dir.path().to_owned(), 40, 2);
        assert!(
            file.append(&[json!({})])
                .unwrap_err()
                .contains("no regular file")
        );
        let missing = Rotated::new(dir.path().join("a/b"), 40, 2);
        assert!(missing.append(&[json!({})]).unwrap_err().contains("a/b"));
    }
}
