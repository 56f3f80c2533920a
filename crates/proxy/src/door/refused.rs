//! Calls inside the namespace that nobody listens for, seen on its loopback: they make a hint ("nothing listens on
//! 127.0.0.1:5432 here; did you mean the host's?") possible that the program itself cannot give.
//!
//! The kernel answers a SYN to a closed port with RST and ACK and sequence number 0, and nothing else does; the source
//! port of that answer is the port that was called. A filter in the kernel keeps every other packet away.

#![expect(
    unsafe_code,
    reason = "attaching a packet filter has no safe form in rustix or socket2"
)]

use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType};
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, OwnedFd};

const TCP: u8 = 6;
const IPV4_HEAD: usize = 20;
const IPV6_HEAD: usize = 40;
const RST_ACK: u8 = 0x14;
/// Enough for the longest IPv4 head and the part of TCP's that counts.
const SEEN: usize = 96;

/// A socket that sees refused calls in this thread's network namespace. Needs `CAP_NET_RAW` there.
///
/// # Errors
/// The system refuses.
pub fn watch() -> io::Result<OwnedFd> {
    let every = NonZeroU32::new(u32::from(u16::to_be(libc::ETH_P_ALL as u16)));
    let socket = rustix::net::socket_with(
        AddressFamily::PACKET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        every.map(Protocol::from_raw),
    )?;
    let mut program = filter();
    let attached = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(0),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `attached` and the program that it points to outlive the call; the kernel copies both.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const attached).cast(),
            u32::try_from(size_of::<libc::sock_fprog>()).unwrap_or(0),
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// Incoming packets (each is seen going out, too) that are IPv4 or IPv6, TCP, RST and ACK, sequence number 0.
fn filter() -> [libc::sock_filter; 20] {
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_BYTE_AT_X: u16 = 0x50;
    const LOAD_WORD_AT_X: u16 = 0x40;
    const X_OF_IPV4_HEAD: u16 = 0xb1;
    const X: u16 = 0x01;
    const EQUAL: u16 = 0x15;
    const AND: u16 = 0x54;
    const RETURN: u16 = 0x06;
    const PACKET_TYPE: u32 = 0xffff_f000 + 4;
    const OUTGOING: u32 = 4;
    let op = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let take = u32::try_from(SEEN).unwrap_or(0);
    [
        /* 0 */ op(LOAD_BYTE, PACKET_TYPE, 0, 0),
        /* 1 */ op(EQUAL, OUTGOING, 17, 0),
        /* 2 */ op(LOAD_BYTE, 0, 0, 0),
        /* 3 */ op(AND, 0xf0, 0, 0),
        /* 4 */ op(EQUAL, 0x40, 0, 4),
        // IPv4: TCP, and X is where it begins.
        /* 5 */ op(LOAD_BYTE, 9, 0, 0),
        /* 6 */ op(EQUAL, u32::from(TCP), 0, 12),
        /* 7 */ op(X_OF_IPV4_HEAD, 0, 0, 0),
        /* 8 */ op(EQUAL, u32::from(TCP), 4, 10),
        // IPv6 without extension heads.
        /* 9 */ op(EQUAL, 0x60, 0, 9),
        /* 10 */ op(LOAD_BYTE, 6, 0, 0),
        /* 11 */ op(EQUAL, u32::from(TCP), 0, 7),
        /* 12 */ op(X, 40, 0, 0),
        // TCP: flags, then the sequence number.
        /* 13 */
        op(LOAD_BYTE_AT_X, 13, 0, 0),
        /* 14 */ op(AND, u32::from(RST_ACK), 0, 0),
        /* 15 */ op(EQUAL, u32::from(RST_ACK), 0, 3),
        /* 16 */ op(LOAD_WORD_AT_X, 4, 0, 0),
        /* 17 */ op(EQUAL, 0, 0, 1),
        /* 18 */ op(RETURN, take, 0, 0),
        /* 19 */ op(RETURN, 0, 0, 0),
    ]
}

/// The port of the next refused call, if one is waiting.
pub(super) fn next(socket: &OwnedFd) -> io::Result<Option<u16>> {
    let mut packet = [0; SEEN];
    loop {
        match rustix::net::recv(socket, &mut packet[..], RecvFlags::empty()) {
            Ok((length, _)) => {
                // Packets from before the filter was there come unfiltered.
                if let Some(port) = port(&packet[..length]) {
                    return Ok(Some(port));
                }
            }
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::NETDOWN) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The port that was called, if this packet refuses a call.
fn port(packet: &[u8]) -> Option<u16> {
    let (head, protocol) = match packet.first()? >> 4 {
        4 => (usize::from(packet[0] & 0xf) * 4, *packet.get(9)?),
        6 => (IPV6_HEAD, *packet.get(6)?),
        _ => return None,
    };
    let tcp = packet.get(head..head + 14)?;
    let refuses = head >= IPV4_HEAD
        && protocol == TCP
        && tcp[13] & RST_ACK == RST_ACK
        && tcp[4..8] == [0, 0, 0, 0];
    refuses.then(|| u16::from_be_bytes([tcp[0], tcp[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(version: u8, protocol: u8, flags: u8, sequence: u32) -> Vec<u8> {
        let mut packet = if version == 4 {
            let mut head = vec![0x45; 1];
            head.resize(IPV4_HEAD, 0);
            head[9] = protocol;
            head
        } else {
            let mut head = vec![0x60; 1];
            head.resize(IPV6_HEAD, 0);
            head[6] = protocol;
            head
        };
        packet.extend(5432_u16.to_be_bytes());
        packet.extend(40_000_u16.to_be_bytes());
        packet.extend(sequence.to_be_bytes());
        packet.extend([0, 0, 0, 0, 0x50, flags, 0, 0]);
        packet
    }

    #[test]
    fn only_the_answer_of_a_closed_port_is_a_refusal() {
        for (what, packet, expect) in [
            ("IPv4", packet(4, TCP, RST_ACK, 0), Some(5432)),
            ("IPv6", packet(6, TCP, RST_ACK, 0), Some(5432)),
            ("a reset connection", packet(4, TCP, RST_ACK, 7), None),
            ("RST alone", packet(4, TCP, 0x04, 0), None),
            ("SYN and ACK", packet(6, TCP, 0x12, 0), None),
            ("UDP", packet(4, 17, RST_ACK, 0), None),
            ("no IP", vec![0; 60], None),
            ("nothing", Vec::new(), None),
        ] {
            assert_eq!(port(&packet), expect, "{what}");
            for cut in 0..packet.len().saturating_sub(6) {
                assert_eq!(port(&packet[..cut]), None, "{what} cut at {cut}");
            }
        }
    }

    #[test]
    fn the_kernel_shows_a_refused_call_once_and_no_other_packet() {
        let socket = match watch() {
            Ok(socket) => socket,
            // Only root and the maker of a namespace may look at packets.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return,
            Err(error) => panic!("{error}"),
        };
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else {
                continue; // no IPv6 here
            };
            let address = listener.local_addr().unwrap();
            let taken = std::net::TcpStream::connect(address).unwrap();
            drop((taken, listener));
            std::net::TcpStream::connect(address).unwrap_err();
            // Other tests of this machine are refused, too.
            let mut seen = 0;
            while let Some(port) = next(&socket).unwrap() {
                seen += usize::from(port == address.port());
            }
            assert_eq!(seen, 1, "{address}");
        }
    }
}
