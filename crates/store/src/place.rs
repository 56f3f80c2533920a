//! The mesh directory: modes, the lock against a second process, files that appear whole or not at all.

use crate::Error;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a lock may outlive its holder.
const LINGERING: Duration = Duration::from_millis(200);

/// Makes a directory (0700) and those above it, or takes the one that is there.
pub(crate) fn make_dir(dir: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o700)))
        .map_err(|error| Error::io(format!("making {}", dir.display()), error))
}

/// Makes the directory (0700) and takes it for this process. The lock lives as long as the returned file.
pub(crate) fn claim(dir: &Path) -> Result<File, Error> {
    make_dir(dir)?;
    let path = dir.join("lock");
    let failed = |error| Error::io(format!("locking {}", path.display()), error);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    if let Err(error) = try_lock(&file) {
        return Err(match error {
            fs::TryLockError::WouldBlock => {
                let mut text = String::new();
                let known =
                    file.read_to_string(&mut text).is_ok() && text.trim().parse::<u32>().is_ok();
                Error::Locked {
                    dir: dir.display().to_string(),
                    holder: if known {
                        format!(" (pid {})", text.trim())
                    } else {
                        String::new()
                    },
                }
            }
            fs::TryLockError::Error(error) => failed(error),
        });
    }
    // The number is only for the message above; the lock itself is the kernel's and dies with the process.
    let _ = file
        .set_len(0)
        .and_then(|()| write!(file, "{}", std::process::id()));
    Ok(file)
}

/// Takes the lock. A process that another thread is starting just now holds copies of our files until it runs its own
/// program, so a lock given back a moment ago may be held that little longer.
fn try_lock(file: &File) -> Result<(), fs::TryLockError> {
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) if began.elapsed() < LINGERING => {
                std::thread::sleep(LINGERING / 20);
            }
            other => return other,
        }
    }
}

/// Puts `parts` into `dir/name` so that after a crash there is the old file or the new one, never half of one.
pub(crate) fn replace(dir: &Path, name: &str, parts: &[&[u8]]) -> Result<(), Error> {
    let path = dir.join(name);
    let temporary = dir.join(format!("{name}.new"));
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|error| Error::io(format!("writing {}", path.display()), error))
}

/// Removes a file that may be missing.
pub(crate) fn remove(dir: &Path, name: &str) -> Result<(), Error> {
    let path = dir.join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// Reads a whole file; `None` when it is not there.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("reading {}", path.display()), error)),
    }
}
