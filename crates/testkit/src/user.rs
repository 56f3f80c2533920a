//! An unprivileged user for the programs of a test, also when the tests run as root (as CI does).
//!
//! The user has a number and no entry in `/etc/passwd`, no group of anybody else's, no capability. When the tree of
//! the build lies below a directory that others may not enter (`/root`), the commands get a mount namespace in which
//! that one directory is an empty one leading to the tree only: paths stay the same, nothing on disk is changed.
//!
//! When the tests do not run as root already, nothing is done.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The user's number.
pub const UID: u32 = 23_456;

/// Whether the tests themselves have root's rights.
#[must_use]
pub fn root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Gives a directory to the user.
///
/// # Panics
/// When the system refuses.
pub fn give(dir: &Path) {
    if root() {
        std::os::unix::fs::chown(dir, Some(UID), Some(UID)).expect("give a directory away");
    }
}

/// A command that runs `program` as the user.
#[must_use]
pub fn command(program: &OsStr) -> Command {
    if !root() {
        return Command::new(program);
    }
    let tree = tree();
    let mut command = match closed(&tree) {
        None => Command::new("setpriv"),
        Some(top) => {
            let mut command = Command::new("unshare");
            command
                .args([
                    "--mount",
                    "--propagation",
                    "private",
                    "sh",
                    "-ec",
                    OPEN,
                    "open",
                ])
                .args([top.as_os_str(), tree.as_os_str(), OsStr::new("setpriv")]);
            command
        }
    };
    let id = UID.to_string();
    command.args([
        format!("--reuid={id}"),
        format!("--regid={id}"),
        "--clear-groups".to_owned(),
        "--".to_owned(),
    ]);
    command.arg(program);
    command
}

/// `$1` is the directory nobody may enter, `$2` the tree below it; the rest is what to run.
const OPEN: &str = r#"
top=$1 tree=$2; shift 2
held=$(mktemp -d)
mount --bind "$tree" "$held"
mount -t tmpfs -o mode=755 tmpfs "$top"
mkdir -p "$tree"
mount --bind "$held" "$tree"
umount "$held"; rmdir "$held"
cd /
exec "$@"
"#;

/// Root of the source tree.
fn tree() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// The first directory on the way to `path` that others may not enter.
fn closed(path: &Path) -> Option<PathBuf> {
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    way.into_iter()
        .find(|dir| {
            std::fs::metadata(dir).is_ok_and(|found| found.permissions().mode() & 0o001 == 0)
        })
        .map(Path::to_path_buf)
}
