//! Which ports a program listens on, from `/proc`: no port option needed, and no call before the program can answer.
//!
//! The process tree below the program is walked (servers fork), its socket inodes are collected, and the listening
//! sockets of `/proc/net/tcp` and `tcp6` with those inodes are its ports.

use std::collections::BTreeSet;
use std::fs;

/// Ports that the process or one of its descendants listens on, lowest first.
pub(crate) fn ports(root: u32) -> BTreeSet<u16> {
    let inodes: BTreeSet<u64> = tree(root).into_iter().flat_map(sockets).collect();
    if inodes.is_empty() {
        return BTreeSet::new();
    }
    listeners()
        .into_iter()
        .filter(|(_, inode)| inodes.contains(inode))
        .map(|(port, _)| port)
        .collect()
}

/// Whether anything on this machine listens on the port.
pub(crate) fn anyone(port: u16) -> bool {
    listeners().iter().any(|(listening, _)| *listening == port)
}

/// The process and all its descendants.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        next += 1;
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
            continue;
        };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(
                children
                    .split_whitespace()
                    .filter_map(|word| word.parse::<u32>().ok()),
            );
        }
    }
    all
}

fn sockets(pid: u32) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            let text = target.to_str()?;
            text.strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        })
        .collect()
}

/// `(port, inode)` of every listening TCP socket of this network namespace.
fn listeners() -> Vec<(u16, u64)> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .flat_map(|file| {
            let text = fs::read_to_string(file).unwrap_or_default();
            text.lines()
                .skip(1)
                .filter_map(listener)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// One line of `/proc/net/tcp`, when it is a listening socket (state 0A).
fn listener(line: &str) -> Option<(u16, u64)> {
    let mut words = line.split_whitespace();
    let local = words.nth(1)?;
    if words.nth(1)? != "0A" {
        return None;
    }
    let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    Some((port, words.nth(5)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{anyone, listener, ports, tree};

    #[test]
    fn our_own_listener_is_found_and_goes_away() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(ports(std::process::id()).contains(&port));
        assert!(anyone(port));
        drop(socket);
        assert!(!ports(std::process::id()).contains(&port));
    }

    #[test]
    fn a_child_belongs_to_the_tree() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        assert!(tree(std::process::id()).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn only_listening_sockets_count() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1";
        assert_eq!(listener(line), Some((8080, 4242)));
        assert_eq!(listener(&line.replace(" 0A ", " 01 ")), None);
        assert_eq!(listener("rubbish"), None);
    }
}
