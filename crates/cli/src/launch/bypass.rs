//! Connections that a program makes around its proxy, in proxy mode: a program that does not read the variables looks
//! like one in the mesh, and is not.
//!
//! Looked for in `/proc`: connections of the program's process tree to anything but this machine's loopback (where the
//! sidecar is, and what is the machine's own business) that nobody made to a port of the program. A connection that
//! comes and goes between two looks is not seen: what is counted is a lower bound.
//!
//! The table read holds every socket of the machine, whoever has it, so a look costs more the busier the machine is.
//! The pause after it is so many times as long as it took ([`pause`]), so that looking takes a small share of a core.

use super::listening::{self, ESTABLISHED, LISTEN, Socket};
use std::collections::BTreeSet;
use std::time::Duration;

/// Between two looks that cost next to nothing.
const EVERY: Duration = Duration::from_secs(1);
/// A look may take one part in so many of the time ...
const SHARE: u32 = 200;
/// ... but the next one comes after so long, however long this one took: time goes by while others have the cores, too.
const LATEST: Duration = Duration::from_secs(30);

/// How long to wait after a look that took so long.
pub(crate) fn pause(taken: Duration) -> Duration {
    taken.saturating_mul(SHARE).clamp(EVERY, LATEST)
}

/// Counts each connection once.
#[derive(Debug, Default)]
pub(crate) struct Bypass {
    known: BTreeSet<u64>,
}

impl Bypass {
    /// How many new ones the program has made since the last look.
    pub(crate) fn look(&mut self, program: u32) -> usize {
        let inodes = listening::inodes(program);
        if inodes.is_empty() {
            self.known.clear();
            return 0;
        }
        let own: Vec<Socket> = listening::sockets(program)
            .filter(|socket| inodes.contains(&socket.inode))
            .collect();
        let open = around(&own);
        let new = open.difference(&self.known).count();
        self.known = open;
        new
    }
}

/// Inodes of the connections among a program's sockets that its proxy does not carry.
fn around(own: &[Socket]) -> BTreeSet<u64> {
    let served: BTreeSet<u16> = own
        .iter()
        .filter(|socket| socket.state == LISTEN)
        .map(|socket| socket.local.port())
        .collect();
    own.iter()
        .filter(|socket| {
            socket.state == ESTABLISHED
                && !socket.remote.ip().is_loopback()
                && !served.contains(&socket.local.port())
        })
        .map(|socket| socket.inode)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{ESTABLISHED, LISTEN, Socket, around, pause};
    use std::time::Duration;

    #[test]
    fn looking_takes_a_bounded_share_of_the_time() {
        for (taken_us, pause_ms) in [
            (0, 1_000),
            (4_999, 1_000),
            (5_000, 1_000),
            (20_000, 4_000),
            (1_000_000, 30_000),
            (u64::MAX, 30_000),
        ] {
            let expect = Duration::from_millis(pause_ms);
            assert_eq!(pause(Duration::from_micros(taken_us)), expect, "{taken_us}");
        }
    }

    #[test]
    fn only_calls_out_to_other_machines_are_around_the_proxy() {
        let socket = |inode, local: &str, remote: &str, state| Socket {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            state,
            inode,
        };
        let own = [
            socket(1, "0.0.0.0:8080", "0.0.0.0:0", LISTEN),
            socket(2, "10.0.0.1:8080", "10.0.0.2:40000", ESTABLISHED),
            socket(3, "127.0.0.1:40001", "127.0.0.1:15001", ESTABLISHED),
            socket(4, "10.0.0.1:40002", "10.0.0.3:80", ESTABLISHED),
            socket(5, "10.0.0.1:40003", "10.0.0.3:80", 6),
            socket(6, "[::1]:40004", "[::1]:5432", ESTABLISHED),
            socket(7, "[2001:db8::2]:40005", "[2001:db8::3]:443", ESTABLISHED),
        ];
        assert_eq!(around(&own), [4, 7].into());
    }
}
