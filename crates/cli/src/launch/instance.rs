//! Instances: `$NAKA_HOME/run/<id>`, one per replica, held by a lock on its `lock` file.
//!
//! A replica takes `--instance N`, or the first number whose lock is free; so a restart finds its own copy (identity,
//! last good configuration) and two replicas never share one. The lock is the kernel's: it goes with the last process
//! that holds it, however that ended. Taking it is the proxy's own code; here is only what to call the directory.

use crate::exit::{Exit, Outcome};
use crate::home::make_dir;
use naka_proxy::saved;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A Unix socket's path may have 107 bytes; the longest name in the directory is `/admin.sock`.
const MAX_DIR: usize = 95;
/// Room for `-` and the number of the instance.
const NUMBER: usize = 5;

/// A taken instance.
#[derive(Debug)]
pub(crate) struct Instance {
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// Its number.
    pub(crate) number: u32,
    /// The lock, held while this file (or a copy of its descriptor) is open.
    pub(crate) lock: File,
}

impl Instance {
    /// Takes the instance of this number, or the first free one.
    pub(crate) fn take(runs: &Path, stem: &str, number: Option<u32>) -> Outcome<Self> {
        make_dir(runs)?;
        let short = short(runs, stem)?;
        let claim = saved::claim(runs, &short, number).map_err(|error| match error {
            saved::Error::InUse(_) => Exit::failed(match number {
                Some(number) => format!("instance {number} of {stem} is running already"),
                None => format!("no free instance number for {stem}"),
            }),
            other => Exit::from(anyhow::Error::from(other)),
        })?;
        Ok(Self {
            dir: claim.dir,
            number: claim.instance,
            lock: claim.lock,
        })
    }
}

/// The stem, or a hash of it when a socket below it would not fit.
fn short(runs: &Path, stem: &str) -> Outcome<String> {
    let fits = |stem: &str| runs.as_os_str().len() + 1 + stem.len() + NUMBER <= MAX_DIR;
    if fits(stem) {
        return Ok(stem.to_owned());
    }
    let hash = stem.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let short = format!("{hash:016x}");
    if fits(&short) {
        Ok(short)
    } else {
        Err(Exit::failed(format!(
            "{} is too long a path for Unix sockets; set NAKA_HOME to a shorter one",
            runs.display()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::{Instance, short};
    use std::time::{Duration, Instant};

    #[test]
    fn the_first_free_number_is_taken_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let first = Instance::take(dir.path(), "m.default.a", None).unwrap();
        let second = Instance::take(dir.path(), "m.default.a", None).unwrap();
        assert_eq!((first.number, second.number), (0, 1));
        assert_eq!(
            Instance::take(dir.path(), "m.default.b", None)
                .unwrap()
                .number,
            0
        );
        assert!(Instance::take(dir.path(), "m.default.a", Some(1)).is_err());
        // A copy of the descriptor, such as the proxy's standard input, holds it as well as the original does.
        let copy = first.lock.try_clone().unwrap();
        drop(first);
        assert!(Instance::take(dir.path(), "m.default.a", Some(0)).is_err());
        drop(copy);
        // A process that another test starts holds a copy, too, until it is the other program.
        let end = Instant::now() + Duration::from_secs(10);
        let next = || Instance::take(dir.path(), "m.default.a", None).map(|taken| taken.number);
        while next().unwrap() != 0 {
            assert!(Instant::now() < end, "nobody holds it any more");
            std::thread::yield_now();
        }
    }

    #[test]
    fn long_names_still_leave_room_for_a_socket() {
        let runs = std::path::Path::new("/home/someone/.naka/run");
        assert_eq!(
            short(runs, "local.default.payment-v1").unwrap(),
            "local.default.payment-v1"
        );
        assert_eq!(short(runs, &"x".repeat(200)).unwrap().len(), 16);
        assert!(short(std::path::Path::new(&"/x".repeat(100)), "a").is_err());
    }
}
