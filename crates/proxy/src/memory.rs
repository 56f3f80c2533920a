//! What a sidecar gives back: heap that a burst left free, and the code that only its start needed. The second goes for
//! a control plane too.
//!
//! Most of a sidecar's resident memory is code, and most of that code runs once: reading settings, making a key and a
//! certificate request, taking the first configuration. The kernel keeps such pages mapped until memory is short; on a
//! machine with a hundred sidecars it is better to let them go at once. A page that is needed again comes back from
//! the page cache within a microsecond. In the same way the allocator keeps what a burst of connections had used.
//!
//! Done a moment after the start; whenever connections have fallen to half of their peak since; and when much code that
//! is not of every day (a new configuration, a renewed certificate) came in since the last look. What serves requests
//! comes back with the next one: some hundred minor faults, well below a millisecond in all, at most once in two looks. A
//! control plane, which serves no requests of programs, does it whenever it has grown. Failing is harmless, so nothing is
//! reported.

use crate::state::Shared;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// After the proxy is ready: the program announces its ports and the first handshakes pass.
const SETTLED: Duration = Duration::from_secs(1);
/// How often connections and mapped code are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Peaks below this leave nothing worth the trouble.
const SMALL: usize = 8;
/// Growth of a control plane, in bytes, that is worth it.
const MUCH: u64 = 4 << 20;
/// Growth of a sidecar's mapped files, in bytes, over what serves requests that is worth it.
const MUCH_CODE: u64 = 1 << 20;

/// Gives back what only the start needed.
async fn after_start() {
    tokio::time::sleep(SETTLED).await;
    give_back();
}

/// For a control plane, as long as the process: its proxies come and stay, so what is given back is what their coming
/// needed (handshakes, certificates, first configurations), whenever that was much.
pub async fn keep_control_small() {
    after_start().await;
    let mut least = resident(ALL);
    loop {
        tokio::time::sleep(SETTLED).await;
        let now = resident(ALL);
        if grew(&mut least, now, MUCH) {
            let given = tokio::task::spawn_blocking(give_back).await;
            least = resident(ALL).min(now);
            if given.is_err() {
                return;
            }
        }
    }
}

/// Whether memory is `much` more than it was at its `least` since the last time, in bytes.
fn grew(least: &mut u64, now: u64, much: u64) -> bool {
    *least = (*least).min(now);
    now >= *least + much
}

/// Lines of /proc/PID/status (proc_pid_status(5)).
const ALL: &str = "VmRSS:";
const FILES: &str = "RssFile:";

/// Resident memory of this process, in bytes; 0 where the system does not say.
fn resident(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    let kibibytes = line.and_then(|text| text.trim().split(' ').next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) << 10
}

/// Runs as long as the process.
pub(crate) async fn keep_small(shared: Arc<Shared>) {
    shared.until_ready(false).await;
    after_start().await;
    let mut peak = 0;
    // Mapped code of the first look after the last time, when what serves requests had come back.
    let mut code = u64::MAX;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = shared
            .workers
            .all()
            .iter()
            .map(crate::worker::WorkerHandle::connections)
            .sum();
        if fell(&mut peak, now) | grew(&mut code, resident(FILES), MUCH_CODE) {
            give_back();
            code = u64::MAX;
        }
    }
}

/// Whether connections have halved since `peak`, which then begins anew.
fn fell(peak: &mut usize, now: usize) -> bool {
    *peak = (*peak).max(now);
    let fell = *peak >= SMALL && now <= *peak / 2;
    if fell {
        *peak = now;
    }
    fell
}

/// Returns free heap and clean pages of files to the kernel.
fn give_back() {
    trim();
    let Ok(smaps) = std::fs::read_to_string("/proc/self/smaps") else {
        return;
    };
    for range in clean_files(&smaps) {
        forget(range);
    }
}

/// Read-only mappings of files of which no page is our own copy (as relocated tables are): whatever is dropped of them
/// can be read again.
fn clean_files(smaps: &str) -> Vec<Range<usize>> {
    let mut clean = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("Anonymous:"), Some("0")) => clean.extend(current.take()),
            (Some(first), Some(permissions)) if !first.ends_with(':') => {
                let file = words.nth(3).is_some_and(|path| path.starts_with('/'));
                let read_only = matches!(permissions, "r-xp" | "r--p");
                current = range(first).filter(|_| file && read_only);
            }
            _ => {}
        }
    }
    clean
}

/// `from-to` in hexadecimal.
fn range(text: &str) -> Option<Range<usize>> {
    let (from, to) = text.split_once('-')?;
    let from = usize::from_str_radix(from, 16).ok()?;
    let to = usize::from_str_radix(to, 16).ok()?;
    (from < to).then_some(from..to)
}

#[expect(
    unsafe_code,
    reason = "no safe interface; only mappings of `clean_files` come here"
)]
fn forget(range: Range<usize>) {
    let address = std::ptr::with_exposed_provenance_mut(range.start);
    // SAFETY: the mapping is private, read-only, of a file, and has no page that differs from the file, so what any
    // thread reads or runs there is the same before and after; nobody can write to it meanwhile.
    let _ = unsafe { libc::madvise(address, range.len(), libc::MADV_DONTNEED) };
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator has no safe interface for it")]
fn trim() {
    // SAFETY: thread-safe by its documentation; touches only free memory of the allocator.
    let _ = unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unchanged_read_only_files_are_let_go() {
        let smaps = "\
55d0-55d8 r--p 00000000 fe:00 7 /usr/bin/naka-proxy\nRss: 8 kB\nAnonymous:             0 kB\nVmFlags: rd mr\n\
55d8-55e0 r-xp 00000000 fe:00 7 /usr/bin/naka-proxy\nAnonymous:             0 kB\n\
55e0-55e8 r--p 00000000 fe:00 7 /usr/bin/naka-proxy\nAnonymous:             4 kB\n\
55e8-55f0 rw-p 00000000 fe:00 7 /usr/bin/naka-proxy\nAnonymous:             0 kB\n\
6000-6008 r--p 00000000 00:00 0 \nAnonymous:             0 kB\n\
7000-7008 r-xp 00000000 00:00 0 [vdso]\nAnonymous:             0 kB\n\
8000-8008 r--s 00000000 fe:00 8 /shared\nAnonymous:             0 kB\n";
        assert_eq!(
            clean_files(smaps),
            [0x55d0..0x55d8, 0x55d8..0x55e0],
            "not: relocated, writable, no file, vdso, shared"
        );
        assert!(clean_files("no-sense r-xp 0 0 0 /x\nAnonymous: 0 kB\n").is_empty());
    }

    #[test]
    fn pages_given_back_are_gone_and_come_again() {
        let before = resident(FILES);
        give_back();
        let after = resident(FILES);
        assert!(after < before, "{before} bytes of files, then {after}");
        // Code dropped a moment ago still runs.
        assert_eq!(
            "12-34".split_once('-').and_then(|_| range("12-34")),
            Some(0x12..0x34)
        );
    }

    #[test]
    fn growth_counts_from_the_least_there_was() {
        let mut least = 100 << 20;
        assert!(!grew(&mut least, 90 << 20, MUCH), "it shrank");
        assert!(!grew(&mut least, (94 << 20) - 1, MUCH));
        assert!(grew(&mut least, 94 << 20, MUCH), "4 MiB over the least");
        let mut least = u64::MAX;
        assert!(!grew(&mut least, 7 << 20, MUCH_CODE), "the first look");
        assert!(resident(FILES) > 1 << 20 && resident(ALL) > resident(FILES));
    }

    #[test]
    fn a_peak_must_be_worth_it_and_counts_once() {
        let mut peak = 0;
        assert!(!fell(&mut peak, 7));
        assert!(!fell(&mut peak, 0), "too small a peak");
        assert!(!fell(&mut peak, 40));
        assert!(!fell(&mut peak, 21));
        assert!(fell(&mut peak, 20));
        assert!(!fell(&mut peak, 20), "the peak began anew");
        assert!(fell(&mut peak, 3));
    }
}
