//! Which ports a program listens on, from `/proc`: no port option needed, and no call before the program can answer.
//!
//! The process tree below the program is walked (servers fork), its socket inodes are collected, and the listening
//! sockets of `/proc/<pid>/net/tcp` and `tcp6` with those inodes are its ports: the tables of the network namespace that
//! the program is in, which may be its own.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};

/// Ports that the process or one of its descendants listens on, lowest first.
pub(crate) fn ports(root: u32) -> BTreeSet<u16> {
    let inodes = inodes(root);
    if inodes.is_empty() {
        return BTreeSet::new();
    }
    sockets(root)
        .filter(|socket| socket.state == LISTEN && inodes.contains(&socket.inode))
        .map(|socket| socket.local.port())
        .collect()
}

/// Whether anything listens on the port where the process is: on this machine, or in its own network namespace.
pub(crate) fn anyone(beside: u32, port: u16) -> bool {
    sockets(beside).any(|socket| socket.state == LISTEN && socket.local.port() == port)
}

/// Whether a call to the port on this machine's loopback would be answered.
pub(crate) fn on_loopback(port: u16) -> bool {
    let reached = |address: SocketAddr| {
        address.port() == port && (address.ip().is_loopback() || address.ip().is_unspecified())
    };
    sockets(std::process::id()).any(|socket| socket.state == LISTEN && reached(socket.local))
}

/// Sockets of the process and all its descendants.
pub(crate) fn inodes(root: u32) -> BTreeSet<u64> {
    tree(root).into_iter().flat_map(held).collect()
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

fn held(pid: u32) -> Vec<u64> {
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

/// One TCP socket as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Socket {
    /// Our end.
    pub(crate) local: SocketAddr,
    /// The other end; port 0 when there is none.
    pub(crate) remote: SocketAddr,
    /// State, as `/proc/net/tcp` numbers it.
    pub(crate) state: u8,
    /// Its inode.
    pub(crate) inode: u64,
}

/// A connection that is open.
pub(crate) const ESTABLISHED: u8 = 1;
/// A listening socket.
pub(crate) const LISTEN: u8 = 10;

/// Every TCP socket of the network namespace that the process is in.
pub(crate) fn sockets(beside: u32) -> impl Iterator<Item = Socket> {
    ["tcp", "tcp6"].into_iter().flat_map(move |file| {
        let text = fs::read_to_string(format!("/proc/{beside}/net/{file}")).unwrap_or_default();
        text.lines().skip(1).filter_map(socket).collect::<Vec<_>>()
    })
}

/// One line of `/proc/net/tcp` or `tcp6`.
fn socket(line: &str) -> Option<Socket> {
    let mut words = line.split_whitespace().skip(1);
    let local = address(words.next()?)?;
    let remote = address(words.next()?)?;
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    let inode = words.nth(5)?.parse().ok()?;
    Some(Socket {
        local,
        remote,
        state,
        inode,
    })
}

/// `0100007F:1F90`: words of four bytes in this machine's order, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..ip.len()).step_by(8) {
        let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => IpAddr::from(four),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?).to_canonical(),
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::{LISTEN, anyone, on_loopback, ports, socket, tree};

    #[test]
    fn our_own_listener_is_found_and_goes_away() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let me = std::process::id();
        assert!(ports(me).contains(&port));
        assert!(anyone(me, port) && on_loopback(port));
        drop(socket);
        assert!(!ports(me).contains(&port));
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
    #[cfg(target_endian = "little")]
    fn lines_of_the_kernel_are_read() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1";
        let read = socket(line).unwrap();
        assert_eq!(read.local, "127.0.0.1:8080".parse().unwrap());
        assert_eq!((read.state, read.inode), (LISTEN, 4242));
        let six = line
            .replace("0100007F:", "00000000000000000000000001000000:")
            .replace(" 00000000:0000 ", " 0000000000000000FFFF00000100000A:0050 ")
            .replace(" 0A ", " 01 ");
        let read = socket(&six).unwrap();
        assert_eq!(read.local, "[::1]:8080".parse().unwrap());
        // An IPv4 address in IPv6's clothes is one.
        assert_eq!(read.remote, "10.0.0.1:80".parse().unwrap());
        assert_eq!(read.state, 1);
        assert_eq!(socket("rubbish"), None);
    }
}
