//! What `/proc/self` says about this process. Linux only; elsewhere every answer is `None`.

/// Jiffies per second as the kernel shows them to programs; 100 on every Linux platform Rust supports.
const TICKS: u64 = 100;

/// Resident memory.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let kib: u64 = status_field("VmRSS:")?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    Some(kib * 1024)
}

/// Threads.
#[must_use]
pub fn threads() -> Option<u64> {
    status_field("Threads:")?.trim().parse().ok()
}

/// Open file descriptors, without the one that counts them.
#[must_use]
pub fn open_files() -> Option<u64> {
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some(count.saturating_sub(1) as u64)
}

/// Processor time used, user and system, in milliseconds.
#[must_use]
pub fn cpu_ms() -> Option<u64> {
    let ticks: u64 = stat_field(11)? + stat_field(12)?;
    Some(ticks * 1_000 / TICKS)
}

/// When it started, in seconds since 1970.
#[must_use]
pub fn start_time_s() -> Option<u64> {
    let boot = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = boot
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    Some(boot + stat_field(19)? / TICKS)
}

fn status_field(name: &str) -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.to_owned())
}

/// A field of `/proc/self/stat`, counted from the one after the program's name (which may hold anything).
fn stat_field(place: usize) -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{cpu_ms, open_files, resident_bytes, start_time_s, threads};

    #[test]
    fn numbers_of_this_process_are_plausible() {
        let before = resident_bytes().unwrap();
        let used = vec![7u8; 64 << 20];
        let after = resident_bytes().unwrap();
        assert!(
            after > before + (48 << 20),
            "{before} {after} {}",
            used.len()
        );
        let files = open_files().unwrap();
        let opened: Vec<_> = (0..50)
            .map(|_| std::fs::File::open("/proc/self/stat").unwrap())
            .collect();
        assert!(open_files().unwrap() >= files + 40, "{}", opened.len());
        assert!(threads().unwrap() >= 1 && cpu_ms().is_some());
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let start = start_time_s().unwrap();
        assert!(start <= now + 1 && start + 86_400 > now, "{start} {now}");
    }
}
