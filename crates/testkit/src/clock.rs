//! A wall clock that a test can set, for real processes.
//!
//! A few lines of C, built by the compiler that the build needs anyway, stand in front of the C library's clock calls
//! of every process that is started with [`Clock::environment`]; they add the number of seconds that a shared file
//! holds, so that the clock jumps for all of them at once, while they run. Only the wall clock: timers go on as they
//! do when somebody sets a machine's time.

use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *ahead;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("NAKA_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *shared = mmap(0, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    if (shared != MAP_FAILED) ahead = shared;
    close(file);
}

static long long extra(void) { return ahead ? *ahead : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += extra();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec is;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &is);
    now->tv_sec = is.tv_sec;
    now->tv_usec = is.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec is;
    clock_gettime(CLOCK_REALTIME, &is);
    if (out) *out = is.tv_sec;
    return is.tv_sec;
}
"#;

/// The clock; it shows the real time until it is set.
#[derive(Debug)]
pub struct Clock {
    file: File,
    path: PathBuf,
    library: PathBuf,
}

impl Clock {
    /// A clock of its own, with its files in `dir`.
    ///
    /// # Errors
    /// When there is no C compiler.
    pub fn new(dir: &Path) -> Result<Self> {
        let source = dir.join("clock.c");
        let library = dir.join("clock.so");
        let path = dir.join("clock");
        std::fs::write(&source, SOURCE)?;
        std::fs::write(&path, 0i64.to_ne_bytes())?;
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .arg(&source)
            .arg("-ldl")
            .output()
            .context("start cc")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cc: {said}");
        Ok(Self {
            file: File::options().write(true).open(&path)?,
            path,
            library,
        })
    }

    /// What a process needs to read this clock.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, OsString); 2] {
        [
            ("LD_PRELOAD", self.library.clone().into()),
            ("NAKA_TEST_CLOCK", self.path.clone().into()),
        ]
    }

    /// Sets it so many seconds before (negative) or after the real time.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn set(&self, seconds: i64) -> Result<()> {
        Ok(self.file.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }
}
