//! Looking at the directory and reading its files.
//!
//! Files are `*.yaml`, `*.yml` and `*.json`, in subdirectories too. Names that start with a dot are passed over
//! (editors' temporary files, the `..data` of a mounted ConfigMap), links to files are followed, links to directories
//! inside it are not. A file is read again when anything of its inode changed, and taken as changed when its content
//! did.

use naka_api::{Mode, Object, codes};
use naka_types::finding::Finding;
use naka_types::name::ObjectRef;
use rustix::fs::{Mode as FsMode, OFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Most files.
const MAX_FILES: usize = 20_000;
/// Largest file.
const MAX_FILE: u64 = 16 << 20;
/// Deepest directory below the root.
const MAX_DEPTH: usize = 8;

/// What changes when a file does; `None` = it cannot be looked at (a link that leads nowhere).
pub(super) type Stat = Option<(u64, u64, u64, i64, i64, i64, i64)>;
/// The files of a directory.
pub(super) type Files = BTreeMap<PathBuf, Stat>;

/// Lists the files.
///
/// # Errors
/// The directory, or one below it, cannot be read, or holds too much.
pub(super) fn look(root: &Path) -> Result<Files, String> {
    let mut files = Files::new();
    below(root, 0, &mut files)?;
    Ok(files)
}

fn below(dir: &Path, depth: usize, files: &mut Files) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", dir.display());
    if depth > MAX_DEPTH {
        return Err(format!(
            "{}: deeper than {MAX_DEPTH} directories",
            dir.display()
        ));
    }
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            below(&path, depth + 1, files)?;
            continue;
        }
        let manifest = path
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if !manifest {
            continue;
        }
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_file() => files.insert(path, Some(stat(&meta))),
            Ok(_) => continue,
            Err(_) => files.insert(path, None),
        };
        if files.len() > MAX_FILES {
            return Err(format!("{}: more than {MAX_FILES} files", dir.display()));
        }
    }
    Ok(())
}

fn stat(meta: &Metadata) -> (u64, u64, u64, i64, i64, i64, i64) {
    (
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    )
}

/// One object of a file, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) object: ObjectRef,
    pub(super) line: u32,
    pub(super) digest: u64,
}

/// What a file holds.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    /// Of its bytes.
    pub(super) digest: u64,
    pub(super) objects: Vec<Seen>,
    /// Objects that it names and of which nothing is in force.
    pub(super) refused: BTreeSet<String>,
    /// Whether a part of it could not be read, so that nobody knows which objects it holds.
    pub(super) broken: bool,
    /// Errors.
    pub(super) findings: Vec<Finding>,
}

/// Reads a file; `None` when its bytes are those of `digest`.
pub(super) fn read(path: &Path, digest: Option<u64>) -> Option<(View, Vec<Object>)> {
    let name = path.display().to_string();
    let bytes = match bytes(path) {
        Ok(bytes) => bytes,
        Err(why) => {
            let finding = Finding::new(codes::E960.id, format!("{name}: {why}"));
            let view = View {
                broken: true,
                findings: vec![finding],
                ..View::default()
            };
            return Some((view, Vec::new()));
        }
    };
    let own = hash(&bytes);
    if digest == Some(own) {
        return None;
    }
    let decoded = naka_api::decode_yaml(&name, &bytes, Mode::Compat);
    let lines = decoded.lines();
    let objects = decoded
        .objects
        .iter()
        .zip(lines)
        .map(|(object, line)| Seen {
            object: object.reference(),
            line,
            digest: hash(object.raw.to_string().as_bytes()),
        });
    let objects: Vec<Seen> = objects.collect();
    let sound: BTreeSet<String> = objects.iter().map(|o| o.object.to_string()).collect();
    let mut findings = decoded.findings;
    findings.retain(Finding::is_error);
    let named = |finding: &&Finding| !sound.contains(&finding.object);
    let refused: BTreeSet<String> = findings
        .iter()
        .filter(named)
        .map(|f| f.object.clone())
        .collect();
    let view = View {
        digest: own,
        objects,
        broken: refused.iter().any(|object| !names_one(object)),
        refused,
        findings,
    };
    Some((view, decoded.objects))
}

/// Whether a finding's object is `Kind [namespace/]name`, not only as much as could be read of it.
fn names_one(object: &str) -> bool {
    object
        .rsplit([' ', '/'])
        .next()
        .is_some_and(|name| !name.is_empty() && object.contains(' '))
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    // Whatever stands there now: a pipe would keep everybody waiting until somebody writes into it.
    let open = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, open, FsMode::empty()).map_err(|error| error.to_string())?;
    let file = std::fs::File::from(file);
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return Err("not a file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("larger than {} MiB", MAX_FILE >> 20));
    }
    Ok(bytes)
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::{bytes, look};

    #[test]
    fn a_pipe_or_a_socket_is_passed_over_and_never_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, file) = (dir.path().join("pipe.yaml"), dir.path().join("file.yaml"));
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s.yaml")).unwrap();
        std::fs::write(&file, "kind: x").unwrap();
        assert_eq!(
            look(dir.path()).unwrap().into_keys().collect::<Vec<_>>(),
            std::slice::from_ref(&file)
        );
        // It took a file's place after the look.
        assert_eq!(bytes(&pipe).unwrap_err(), "not a file");
        assert_eq!(bytes(&file).unwrap(), b"kind: x", "the twin is a file");
    }
}
