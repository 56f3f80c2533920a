//! The run directory: one instance's lock, and what survives a restart.
//!
//! `last-good` holds the resources in force as they came over the wire, so that a proxy started without a control
//! plane takes the same walk (intake, engine) as one with it. `names` holds what the program called. `ports.json`
//! holds where we listened, because a program that still runs keeps calling the old address. Every file is replaced
//! by rename and carries a format number and, where it is binary, a checksum: a damaged or newer file counts as
//! absent and is named in the log, it never stops a start.
//!
//! The identity is saved by [`crate::rotation`], in the same directory.

use naka_wire::envoy::service::discovery::v3 as discovery;
use naka_xds::Resource;
use prost::Message;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_128;

/// Name of the admin socket in the run directory.
pub const ADMIN: &str = "admin.sock";
/// Name of the saved identity.
pub const IDENTITY: &str = "identity.pem";
/// Name of the addresses file.
pub const PORTS: &str = "ports.json";
/// Name of the file of virtual addresses.
pub const ADDRESSES: &str = "virtual-addresses.json";
const LAST_GOOD: &str = "last-good";
const NAMES: &str = "names";
const LOCK: &str = "lock";
const LAST_GOOD_MAGIC: &[u8] = b"naka last-good 1\n";
const NAMES_MAGIC: &str = "naka names 1";
/// A saved copy larger than this is not read.
const SIZE_LIMIT: u64 = 256 << 20;

/// Why a saved file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("cannot read or write {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// Made by a newer version, or no such file at all.
    #[error("{0} is of a format this version does not know")]
    Format(PathBuf),
    /// Its checksum or its content is wrong.
    #[error("{0} is damaged")]
    Damaged(PathBuf),
    /// Another process runs this instance.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
}

impl Error {
    /// A file of a newer version is put aside (`<name>.newer`) before this version writes its own: a proxy starts all
    /// the same, and whoever goes back to the newer version finds it.
    pub fn set_aside(&self) {
        if let Self::Format(path) = self
            && let Err(error) = fs::rename(path, path.with_extension("newer"))
        {
            tracing::warn!(%error, file = %path.display(), "could not be put aside");
        }
    }
}

/// An instance's directory whose lock is held for as long as this lives.
#[derive(Debug)]
pub struct Claim {
    /// The directory.
    pub dir: PathBuf,
    /// The instance number.
    pub instance: u32,
    /// The held lock; hand it to a child as its standard input to let the child hold it too.
    pub lock: File,
}

/// Claims `<root>/<stem>-<instance>`: the given instance, or the first whose lock is free.
///
/// # Errors
/// The directory cannot be made, or the given instance is in use.
pub fn claim(root: &Path, stem: &str, instance: Option<u32>) -> Result<Claim, Error> {
    let numbers = instance.map_or(0..=9_999, |n| n..=n);
    let mut last = Error::InUse(root.join(stem));
    for number in numbers {
        let dir = root.join(format!("{stem}-{number}"));
        make_dir(&dir)?;
        match lock(&dir) {
            Ok(lock) => {
                return Ok(Claim {
                    dir,
                    instance: number,
                    lock,
                });
            }
            Err(in_use @ Error::InUse(_)) => last = in_use,
            Err(other) => return Err(other),
        }
    }
    Err(last)
}

/// Makes a directory (and its parents), 0700.
///
/// # Errors
/// The system refuses.
pub fn make_dir(dir: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| Error::Io {
            path: dir.to_owned(),
            source,
        })
}

/// Takes the lock of a run directory.
///
/// # Errors
/// [`Error::InUse`] when another process holds it.
pub fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(LOCK);
    let io_error = |source| Error::Io {
        path: path.clone(),
        source,
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(io_error)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse(path)),
        Err(other) => Err(io_error(other.into())),
    }
}

/// Replaces a file by rename, 0600. A reader sees the old content or the new, never a part.
///
/// # Errors
/// The system refuses (disk full, …); the old content stays.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension("new");
    let written = (|| {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_data()?;
        fs::rename(&temporary, path)
    })();
    written.map_err(|source| {
        // A half-written copy is of no use to anybody; if it cannot be removed either, the next write replaces it.
        let _ = fs::remove_file(&temporary);
        Error::Io {
            path: path.to_owned(),
            source,
        }
    })
}

/// Reads a file if it is there.
///
/// # Errors
/// The system refuses, or the file is too large.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let io_error = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(error)),
    };
    let mut content = Vec::new();
    file.take(SIZE_LIMIT)
        .read_to_end(&mut content)
        .map_err(io_error)?;
    Ok(Some(content))
}

/// Saves the resources in force.
///
/// # Errors
/// The system refuses.
pub fn save_last_good<'a>(
    dir: &Path,
    resources: impl IntoIterator<Item = &'a Resource>,
) -> Result<(), Error> {
    replace(&dir.join(LAST_GOOD), &encode_last_good(resources))
}

/// The file content for these resources.
#[must_use]
pub fn encode_last_good<'a>(resources: impl IntoIterator<Item = &'a Resource>) -> Vec<u8> {
    let message = discovery::DeltaDiscoveryResponse {
        resources: resources
            .into_iter()
            .map(|resource| discovery::Resource {
                name: resource.name.clone(),
                version: resource.version.clone(),
                resource: Some(resource.any.clone()),
                ..discovery::Resource::default()
            })
            .collect(),
        ..discovery::DeltaDiscoveryResponse::default()
    };
    let body = message.encode_to_vec();
    let mut content = Vec::with_capacity(LAST_GOOD_MAGIC.len() + 16 + body.len());
    content.extend_from_slice(LAST_GOOD_MAGIC);
    content.extend_from_slice(&xxh3_128(&body).to_le_bytes());
    content.extend_from_slice(&body);
    content
}

/// The resources in force when the proxy last ran; empty when there is no copy.
///
/// # Errors
/// The copy is damaged, of a newer format, or unreadable.
pub fn load_last_good(dir: &Path) -> Result<Vec<Resource>, Error> {
    let path = dir.join(LAST_GOOD);
    let Some(content) = read(&path)? else {
        return Ok(Vec::new());
    };
    let Some(rest) = content.strip_prefix(LAST_GOOD_MAGIC) else {
        return Err(Error::Format(path));
    };
    let Some((sum, body)) = rest.split_at_checked(16) else {
        return Err(Error::Damaged(path));
    };
    if xxh3_128(body).to_le_bytes() != sum {
        return Err(Error::Damaged(path));
    }
    let message = discovery::DeltaDiscoveryResponse::decode(body)
        .map_err(|_| Error::Damaged(path.clone()))?;
    Ok(message
        .resources
        .into_iter()
        .filter_map(|resource| {
            let any = resource.resource?;
            Some(Resource {
                type_url: any.type_url.clone(),
                name: resource.name,
                version: resource.version,
                any,
            })
        })
        .collect())
}

/// Saves the called names, least recent first.
///
/// # Errors
/// The system refuses.
pub fn save_names(dir: &Path, names: &[String]) -> Result<(), Error> {
    let mut content = String::from(NAMES_MAGIC);
    content.push('\n');
    for name in names {
        content.push_str(name);
        content.push('\n');
    }
    replace(&dir.join(NAMES), content.as_bytes())
}

/// The called names of earlier runs, least recent first; lines that are no names are left out.
///
/// # Errors
/// The file is of a newer format or unreadable.
pub fn load_names(dir: &Path) -> Result<Vec<String>, Error> {
    let path = dir.join(NAMES);
    let Some(content) = read(&path)? else {
        return Ok(Vec::new());
    };
    let text = String::from_utf8_lossy(&content);
    let mut lines = text.lines();
    if lines.next() != Some(NAMES_MAGIC) {
        return Err(Error::Format(path));
    }
    Ok(lines
        .filter(|line| naka_types::name::VirtualHostName::parse(line).is_some())
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use naka_wire::google::protobuf::Any;
    use std::os::unix::fs::PermissionsExt;

    fn resource(name: &str) -> Resource {
        Resource {
            type_url: "t".into(),
            name: name.into(),
            version: "7".into(),
            any: Any {
                type_url: "t".into(),
                value: vec![1, 2, 3],
            },
        }
    }

    #[test]
    fn last_good_comes_back_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load_last_good(dir.path()).unwrap().is_empty());
        let all = vec![resource("a"), resource("b")];
        save_last_good(dir.path(), &all).unwrap();
        assert_eq!(load_last_good(dir.path()).unwrap(), all);
        let mode = fs::metadata(dir.path().join(LAST_GOOD)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_copy_cut_or_flipped_anywhere_is_never_taken_for_sound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LAST_GOOD);
        let whole = encode_last_good(&[resource("a")]);
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(load_last_good(dir.path()).is_err(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            fs::write(&path, &flipped).unwrap();
            assert!(load_last_good(dir.path()).is_err(), "flipped at {at}");
        }
        fs::write(&path, b"naka last-good 2\n").unwrap();
        let newer = load_last_good(dir.path()).unwrap_err();
        assert!(matches!(newer, Error::Format(_)));
        assert!(
            newer.to_string().contains("last-good is of a format"),
            "{newer}"
        );
        newer.set_aside();
        save_last_good(dir.path(), &[resource("a")]).unwrap();
        let kept = fs::read(dir.path().join("last-good.newer")).unwrap();
        assert_eq!(
            kept, b"naka last-good 2\n",
            "left for the version that wrote it"
        );
    }

    #[test]
    fn names_come_back_without_lines_that_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let names = vec!["80/a.b:80".to_owned(), "81/c.d:81".to_owned()];
        save_names(dir.path(), &names).unwrap();
        assert_eq!(load_names(dir.path()).unwrap(), names);
        fs::write(
            dir.path().join(NAMES),
            "naka names 1\n80/a.b:80\nrubbish\n\u{0}\n",
        )
        .unwrap();
        assert_eq!(load_names(dir.path()).unwrap(), ["80/a.b:80"]);
        fs::write(dir.path().join(NAMES), "naka names 2\n").unwrap();
        assert!(load_names(dir.path()).is_err());
    }

    #[test]
    fn two_replicas_never_share_an_instance_and_a_restart_finds_its_own() {
        let root = tempfile::tempdir().unwrap();
        let first = claim(root.path(), "default.pay", None).unwrap();
        let second = claim(root.path(), "default.pay", None).unwrap();
        assert_eq!((first.instance, second.instance), (0, 1));
        assert!(matches!(
            claim(root.path(), "default.pay", Some(1)),
            Err(Error::InUse(_))
        ));
        drop(first);
        assert_eq!(claim(root.path(), "default.pay", None).unwrap().instance, 0);
    }

    #[test]
    fn a_failed_write_keeps_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        save_last_good(dir.path(), &[resource("a")]).unwrap();
        // A directory in the way of the temporary file makes every write fail, even for root.
        fs::create_dir(dir.path().join("last-good.new")).unwrap();
        assert!(save_last_good(dir.path(), &[resource("b")]).is_err());
        assert_eq!(load_last_good(dir.path()).unwrap(), [resource("a")]);
    }
}
