//! Files that hold secrets: mode 0600 from the first byte, replaced as a whole, on disk before the call returns.

use crate::Error;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Writes a private file by way of a temporary one, so that a reader sees the old or the new and a crash loses neither.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let fail = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    file.sync_all().map_err(fail)?;
    std::fs::rename(&temporary, path).map_err(fail)?;
    if let Some(parent) = path.parent() {
        std::fs::File::open(parent)
            .and_then(|dir| dir.sync_all())
            .map_err(fail)?;
    }
    Ok(())
}

/// Makes a directory that only its owner may enter.
pub(crate) fn private_dir(path: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })
}

/// Reads a text file; `None` when it is not there.
pub(crate) fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Checks the first line, `<word> <format number>`, and returns the rest. A newer format is refused plainly.
pub(crate) fn after_format_line<'a>(
    path: &Path,
    text: &'a str,
    word: &str,
    known: u32,
) -> Result<&'a str, Error> {
    let damaged = |what: String| Error::Damaged {
        path: path.to_owned(),
        what,
    };
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    let format: u32 = line
        .strip_prefix(word)
        .and_then(|n| n.trim().parse().ok())
        .ok_or_else(|| damaged(format!("the first line is not \"{word} {known}\"")))?;
    if format == known {
        Ok(rest)
    } else {
        Err(damaged(format!(
            "format {format} is not known to this version (it knows {known}); use the version that wrote it"
        )))
    }
}
