//! What the control plane itself sees of the program that a join token is asked for.
//!
//! The kernel says who is at the other end of the control socket: its user and its process. Where that process is this
//! very binary, so `naka run`, the program it is going to start is believed to be the file that it names, and the file is
//! read here, as that process sees it. Any other process may name what it likes, and nothing is believed of it but its
//! user.
//!
//! What this is worth: a wrong program, an old build of the right one, or a join token in other hands get nothing.
//! It is no wall between programs of one user, who can read each other's files and memory.

use super::auth::Peer;
use crate::certificates;
use naka_api::own::certificate_policy::Workload;
use naka_identity::Attested;
use naka_store::Snapshot;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Most bytes of a program that are read.
const LARGEST: u64 = 4 << 30;

/// What is seen of the program at `path`, that a peer is going to run as `workload`. Its file is read only where a
/// policy asks what it is: some are large.
pub(super) async fn seen(
    snapshot: &Snapshot,
    peer: Option<Peer>,
    workload: Workload<'_>,
    path: &str,
) -> Option<Attested> {
    let Some(Peer::Unix { uid, pid }) = peer else {
        return None;
    };
    let asked = certificates::demands(snapshot, workload);
    let asked = asked
        .iter()
        .any(|(_, demand)| !demand.executables.is_empty());
    let executable = match pid.filter(|_| asked) {
        None => None,
        Some(pid) => {
            let path = PathBuf::from(path);
            let read = tokio::task::spawn_blocking(move || program(pid, &path)).await;
            match read.map_err(io::Error::other).and_then(|read| read) {
                Ok(sha256) => Some(sha256),
                Err(error) => {
                    tracing::warn!(pid, %error, "the program of a join token is not known");
                    None
                }
            }
        }
    };
    Some(Attested {
        uid: Some(uid),
        executable,
    })
}

/// SHA-256 of the file that a process of this binary is going to run.
fn program(pid: i32, path: &Path) -> io::Result<String> {
    let identity = |exe: &Path| std::fs::metadata(exe).map(|file| (file.dev(), file.ino()));
    if identity(Path::new(&format!("/proc/{pid}/exe")))? != identity(Path::new("/proc/self/exe"))? {
        return Err(io::Error::other(
            "whoever asks is not this very binary of naka; start programs by the naka that runs the control plane",
        ));
    }
    let Ok(inner) = path.strip_prefix("/") else {
        return Err(io::Error::other("no path of a program was named"));
    };
    let file = File::open(Path::new(&format!("/proc/{pid}/root")).join(inner))?;
    let about = file.metadata()?;
    if !about.is_file() || about.len() > LARGEST {
        return Err(io::Error::other("it is no file of a program"));
    }
    naka_identity::sha256_of(file.take(LARGEST))
}

#[cfg(test)]
mod tests {
    use super::program;
    use std::io::Write as _;
    use std::path::Path;

    #[test]
    fn the_file_is_read_for_a_process_of_this_binary_and_for_no_other() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"#!/bin/true\n").unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let sha256 = naka_identity::sha256_hex(b"#!/bin/true\n");
        assert_eq!(program(own, file.path()).unwrap(), sha256);
        assert!(program(own, Path::new("relative")).is_err());
        assert!(program(own, Path::new("/proc")).is_err(), "a directory");
        let mut other = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = i32::try_from(other.id()).unwrap();
        // Between fork and exec it is this binary still.
        let comm = || std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        while comm().trim() != "sleep" {
            std::thread::yield_now();
        }
        let refused = program(pid, file.path()).unwrap_err().to_string();
        assert!(refused.contains("not this very binary"), "{refused}");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
