//! What each place has got: a small file beside the log, replaced as a whole. One that is gone or cannot be read costs
//! nothing but sending again.

use naka_store::Head;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Name in the mesh's directory.
const FILE: &str = "export.json";

/// An event as a place has it: `SEQ:HASH`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position(String);

impl From<Head> for Position {
    fn from(head: Head) -> Self {
        Self(head.to_string())
    }
}

/// By place, by stream.
type Places = BTreeMap<String, BTreeMap<String, Position>>;

/// What stands in the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    format: u32,
    places: Places,
}

/// Format written by this version.
const FORMAT: u32 = 1;

/// The file and what it says.
#[derive(Debug)]
pub(super) struct Positions {
    path: PathBuf,
    held: Mutex<Places>,
}

impl Positions {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is of a newer format.
    pub(super) fn load(dir: &Path) -> Result<Self, String> {
        let path = dir.join(FILE);
        let bytes = fs::read(&path).unwrap_or_default();
        // The number first: the rest of a newer file may have any shape.
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if let Some(format) = value["format"]
            .as_u64()
            .filter(|format| *format > u64::from(FORMAT))
        {
            let file = path.display();
            return Err(format!(
                "{file} is of format {format}, this naka knows {FORMAT}: use a newer naka"
            ));
        }
        let stored: Stored = serde_json::from_value(value).unwrap_or_default();
        Ok(Self {
            path,
            held: Mutex::new(stored.places),
        })
    }

    /// The last event of a stream that a place has got; `None` where it was never asked.
    pub(super) fn get(&self, to: &str, stream: &str) -> Option<Head> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        Head::parse(&held.get(to)?.get(stream)?.0)
    }

    /// Remembers it. On an error it is remembered until the process ends.
    pub(super) fn set(&self, to: &str, stream: &str, position: Position) -> Result<(), String> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let streams = held.entry(to.to_owned()).or_default();
        streams.insert(stream.to_owned(), position);
        let stored = json!({"format": FORMAT, "places": &*held});
        let bytes = stored.to_string().into_bytes();
        // Held while it is written: of two places the later one must not be undone by the earlier one.
        replace(&self.path, &bytes).map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("json.new");
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::{FILE, Position, Positions};
    use naka_store::Head;

    #[test]
    fn what_a_place_has_is_remembered_and_a_newer_file_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let head = Head {
            seq: 7,
            hash: [1; 32],
        };
        let positions = Positions::load(dir.path()).unwrap();
        assert_eq!(positions.get("a", "log"), None);
        positions.set("a", "log", Position::from(head)).unwrap();
        positions
            .set("b", "log", Position::from(Head::default()))
            .unwrap();
        let again = Positions::load(dir.path()).unwrap();
        assert_eq!(again.get("a", "log"), Some(head));
        assert_eq!(
            (again.get("b", "log"), again.get("a", "denials")),
            (Some(Head::default()), None)
        );
        std::fs::write(dir.path().join(FILE), "half of a fi").unwrap();
        assert_eq!(Positions::load(dir.path()).unwrap().get("a", "log"), None);
        std::fs::write(dir.path().join(FILE), r#"{"format":2,"places":[]}"#).unwrap();
        let told = Positions::load(dir.path()).unwrap_err();
        assert!(told.contains("format 2"), "{told}");
    }
}
