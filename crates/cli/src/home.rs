//! `$NAKA_HOME`: where everything of this user's meshes lives, and who may read it.
//!
//! Layout (contracts): `config`, `mesh/<name>/…`, `run/<id>/…`. Directories are 0700 and files that hold secrets 0600;
//! both are made that way from the start, never narrowed afterwards.

use crate::exit::{Exit, Outcome};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The directory of this user's meshes.
#[derive(Debug, Clone)]
pub(crate) struct Home(PathBuf);

impl Home {
    /// `$NAKA_HOME`, else `~/.naka`.
    pub(crate) fn from_env() -> Outcome<Self> {
        if let Some(dir) = std::env::var_os("NAKA_HOME").filter(|dir| !dir.is_empty()) {
            let dir = PathBuf::from(dir);
            return Ok(Self(std::path::absolute(&dir).unwrap_or(dir)));
        }
        std::env::var_os("HOME")
            .filter(|dir| !dir.is_empty())
            .map(|dir| Self(PathBuf::from(dir).join(".naka")))
            .ok_or_else(|| Exit::failed("neither NAKA_HOME nor HOME is set"))
    }

    /// The directory itself.
    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }

    /// Contexts, in kubeconfig format.
    pub(crate) fn config(&self) -> PathBuf {
        self.0.join("config")
    }

    /// Files of one mesh whose control plane runs here.
    pub(crate) fn mesh(&self, name: &str) -> PathBuf {
        self.0.join("mesh").join(name)
    }

    /// Socket of the mesh's control plane.
    pub(crate) fn control_sock(&self, mesh: &str) -> PathBuf {
        self.mesh(mesh).join("control.sock")
    }

    /// Directory of the running proxies.
    pub(crate) fn runs(&self) -> PathBuf {
        self.0.join("run")
    }
}

/// Makes a directory and its parents, 0700.
pub(crate) fn make_dir(dir: &Path) -> Outcome {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| Exit::failed(format!("cannot make {}: {error}", dir.display())))
}

/// Writes a file whole or not at all, 0600 from its first byte.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> Outcome {
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        Exit::failed(format!("cannot write {}: {error}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::{make_dir, write_secret};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn secrets_are_private_and_written_whole() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        make_dir(&inner).unwrap();
        let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&inner), 0o700);
        let file = inner.join("config");
        write_secret(&file, b"one").unwrap();
        write_secret(&file, b"two").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        assert_eq!(mode(&file), 0o600);
        assert_eq!(std::fs::read_dir(&inner).unwrap().count(), 1);
    }
}
