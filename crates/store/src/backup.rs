//! Backup and restore of a mesh directory: the log as it was at one revision, the sealing key, the authority and the
//! addresses, in one sealed file.
//!
//! A backup is taken from the files, beside the running control plane: the log only grows, so its sound beginning is
//! the state of one revision, and the keys of the authority never have to leave through an API. Tokens, registrations
//! and certificates are records of the log, so they come with it.
//!
//! Invariants: what was acknowledged before the backup began is in it; a restore makes a whole directory or none, and
//! never writes into a mesh that is there.
//!
//! Not here: proxies' own directories. Their keys never leave their host; they are what a restore makes good again.

use crate::archive::{Opened, Sealed};
use crate::cut::Begin;
use crate::error::Error;
use crate::log::{self, Checks};
use crate::passphrase::{Cost, Passphrase};
use crate::{keyfile, place, stamp};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const LOG: &str = "log";
/// Directory of the authority.
const CA: &str = "ca";
/// What else of a mesh directory is kept, where it is there. The snapshot file is not: it is made from the log.
const FILES: &[&str] = &[keyfile::FILE, "ports.json"];
/// Longest list of contents that is read.
const LONGEST_HEAD: u32 = 1 << 20;
/// A sealing key or a log that is replaced each time it is looked at is not waited for.
const TRIES: usize = 5;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Name of the mesh.
    pub mesh: String,
    /// Revision of the log.
    pub revision: u64,
    /// When it was taken, in milliseconds since 1970.
    pub time_ms: u64,
    files: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    path: String,
    bytes: u64,
}

impl Contents {
    /// Bytes of all files together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|entry| entry.bytes).sum()
    }
}

/// Writes a backup of a mesh directory to `file` (0600; it must not exist). The control plane may run.
///
/// # Errors
/// When the log is damaged or missing, or files cannot be read or written. Nothing is left behind then.
pub fn backup(
    dir: &Path,
    mesh: &str,
    file: &Path,
    passphrase: &Passphrase,
) -> Result<Contents, Error> {
    let failed = |error| Error::io(format!("writing {}", file.display()), error);
    let (mut log, contents, small) = collect(dir, mesh)?;
    let out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .map_err(failed)?;
    let write = || -> Result<(), Error> {
        let mut sealed = Sealed::new(out, passphrase, Cost::USUAL)?;
        let head =
            serde_json::to_vec(&contents).map_err(|error| Error::Invalid(error.to_string()))?;
        let length = u32::try_from(head.len()).unwrap_or(u32::MAX);
        let mut put = |bytes: &[u8]| sealed.write_all(bytes).map_err(failed);
        put(&length.to_le_bytes())?;
        put(&head)?;
        for bytes in &small {
            put(bytes)?;
        }
        log.seek(SeekFrom::Start(0)).map_err(failed)?;
        let size = contents.files.last().map_or(0, |entry| entry.bytes);
        let copied = io::copy(&mut (&mut log).take(size), &mut sealed).map_err(failed)?;
        if copied != size {
            return Err(Error::Invalid(
                "the log became shorter meanwhile; take the backup again".to_owned(),
            ));
        }
        let out = sealed.finish().map_err(failed)?;
        out.sync_all().map_err(failed)
    };
    write().inspect_err(|_| {
        // Half a backup is none; if it cannot be removed either, it does not open.
        let _ = fs::remove_file(file);
    })?;
    Ok(contents)
}

/// Opens the log and reads the small files, all of one moment.
fn collect(dir: &Path, mesh: &str) -> Result<(File, Contents, Vec<Vec<u8>>), Error> {
    for _ in 0..TRIES {
        let key = place::read(&dir.join(keyfile::FILE))?;
        let path = dir.join(LOG);
        let log = File::open(&path)
            .map_err(|error| Error::io(format!("reading {}", path.display()), error))?;
        let scan = log::scan(&log, LOG, Checks::ALL, |_| Ok(()))?;
        if let Some(damage) = scan.damage {
            return Err(Error::ReadOnly(format!(
                "no backup of a damaged log: {damage}"
            )));
        }
        let (mut files, mut small) = (Vec::new(), Vec::new());
        let begins = Begin::read(dir, &log)?;
        let base = begins.name();
        let mut whole = begins.wrong.is_none();
        for name in base.iter().cloned().chain(names(dir)?) {
            let Some(bytes) = place::read(&dir.join(&name))? else {
                whole &= base.as_ref() != Some(&name);
                continue;
            };
            files.push(Entry {
                path: name,
                bytes: bytes.len() as u64,
            });
            small.push(bytes);
        }
        files.push(Entry {
            path: LOG.to_owned(),
            bytes: scan.end,
        });
        // The log, the state that it begins with and the key that opens its secrets are of one moment only if neither
        // was replaced meanwhile.
        if whole && place::read(&dir.join(keyfile::FILE))? == key {
            let contents = Contents {
                mesh: mesh.to_owned(),
                revision: scan.last,
                time_ms: stamp::now_ms(),
                files,
            };
            return Ok((log, contents, small));
        }
    }
    Err(Error::Invalid(
        "the log or its sealing key is replaced all the time; take the backup again".to_owned(),
    ))
}

/// Names of the small files of a mesh directory.
fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let mut names: Vec<String> = FILES.iter().map(|name| (*name).to_owned()).collect();
    let ca = dir.join(CA);
    let failed = |error| Error::io(format!("reading {}", ca.display()), error);
    let mut found = Vec::new();
    for entry in fs::read_dir(&ca).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let pem = Path::new(&name).extension().is_some_and(|e| e == "pem");
        found.extend(
            name.to_str()
                .filter(|_| pem)
                .map(|name| format!("{CA}/{name}")),
        );
    }
    if found.is_empty() {
        return Err(Error::Invalid(format!(
            "{} holds no authority",
            ca.display()
        )));
    }
    found.sort();
    names.extend(found);
    Ok(names)
}

/// Makes the mesh directory `dir`, which must be absent or empty, from a backup.
///
/// # Errors
/// When a mesh is there already, or the file is foreign, damaged, of a newer format or locked by another passphrase.
/// `dir` is as before then.
pub fn restore(
    file: &Path,
    passphrase: &Passphrase,
    dir: impl Fn(&Contents) -> PathBuf,
) -> Result<(Contents, PathBuf), Error> {
    let name = file.display().to_string();
    let failed = |error: io::Error| Error::io(format!("reading {name}"), error);
    let input = io::BufReader::new(File::open(file).map_err(failed)?);
    let mut opened = Opened::new(input, &name, passphrase)?;
    let mut length = [0; 4];
    opened.read_exact(&mut length).map_err(failed)?;
    let length = u32::from_le_bytes(length).min(LONGEST_HEAD);
    let mut head = Vec::new();
    (&mut opened)
        .take(u64::from(length))
        .read_to_end(&mut head)
        .map_err(failed)?;
    let contents: Contents = serde_json::from_slice(&head)
        .map_err(|error| Error::Invalid(format!("{name}: its list of contents: {error}")))?;
    // The caller makes a path of it.
    if Path::new(&contents.mesh).file_name() != Some(contents.mesh.as_ref()) {
        return Err(Error::Invalid(format!(
            "{name}: {:?} is no name of a mesh",
            contents.mesh
        )));
    }
    let dir = dir(&contents);
    let parent = dir.parent().unwrap_or(&dir);
    make_dir(parent)?;
    vacant(&dir)?;
    let half = dir.with_extension(format!("restoring-{}", std::process::id()));
    let mut work = || -> Result<(), Error> {
        make_dir(&half)?;
        for entry in &contents.files {
            extract(&mut opened, &half, entry, &name)?;
        }
        // The end of the file proves that it is whole.
        if opened.read(&mut [0]).map_err(failed)? > 0 {
            return Err(Error::Invalid(format!("{name}: more than its list says")));
        }
        check(&half, &contents)?;
        let moved = |error| Error::io(format!("making {}", dir.display()), error);
        fs::rename(&half, &dir).map_err(moved)?;
        File::open(parent).and_then(|d| d.sync_all()).map_err(moved)
    };
    work().inspect_err(|_| {
        // Keys must not lie about; if they cannot be removed, they are in a directory of the owner's alone.
        let _ = fs::remove_dir_all(&half);
    })?;
    Ok((contents, dir))
}

/// A mesh that is there is never written over.
fn vacant(dir: &Path) -> Result<(), Error> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(format!("reading {}", dir.display()), error)),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Error::Invalid(format!(
                "{} is not empty: a restore never writes over a mesh; remove it first (naka down --purge) or restore under \
             another name (--mesh)",
                dir.display()
            ))),
        },
    }
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| Error::io(format!("making {}", dir.display()), error))
}

fn extract(input: &mut impl Read, dir: &Path, entry: &Entry, name: &str) -> Result<(), Error> {
    let sound = |part: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain)
    };
    if entry.path.split('/').count() > 2 || !entry.path.split('/').all(sound) {
        return Err(Error::Invalid(format!(
            "{name}: {:?} is no file of a mesh",
            entry.path
        )));
    }
    let path = dir.join(&entry.path);
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    let failed = |error| Error::io(format!("writing {} from {name}", path.display()), error);
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    let copied = io::copy(&mut input.take(entry.bytes), &mut out).map_err(failed)?;
    if copied != entry.bytes {
        return Err(Error::Invalid(format!("{name}: {} is cut off", entry.path)));
    }
    out.sync_all().map_err(failed)
}

/// The log that was written is the one that was backed up.
fn check(dir: &Path, contents: &Contents) -> Result<(), Error> {
    let path = dir.join(LOG);
    let log = File::open(&path)
        .map_err(|error| Error::io(format!("reading {}", path.display()), error))?;
    let scan = log::scan(&log, LOG, Checks::ALL, |_| Ok(()))?;
    if scan.damage.is_some() || scan.torn.is_some() || scan.last != contents.revision {
        return Err(Error::Invalid(format!(
            "the log came out at revision {}, not at {}",
            scan.last, contents.revision
        )));
    }
    Ok(())
}
