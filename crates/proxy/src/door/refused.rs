//! Calls inside the namespace that nobody listens for: they make a hint ("nothing listens on 127.0.0.1:5432 here; did
//! you mean the host's?") possible that the program itself cannot give.
//!
//! The kernel answers a SYN to a closed port with RST and ACK and sequence number 0, and nothing else does; the source
//! port of that answer is the port that was called. A rule of the namespace logs such answers to a group of netlink
//! (`nfnetlink_log`), which this listens to: a socket that sees every packet, with a filter, would cost each packet of
//! each call half a microsecond.

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto,
};
use std::io;
use std::os::fd::OwnedFd;

/// The group that the rule logs refused calls to.
pub const GROUP: u16 = 1;

const TCP: u8 = 6;
const IPV4_HEAD: usize = 20;
const IPV6_HEAD: usize = 40;
const RST_ACK: u8 = 0x14;
/// Enough of a packet for the longest IPv4 head and the part of TCP's that counts.
const SEEN: u32 = 96;
/// Room for one message: a packet and what is said about it.
const MESSAGE: usize = 4096;

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_HEAD: usize = 16;
/// After the head of a message of netfilter: family, version, group.
const NFGEN_HEAD: usize = 4;
const NFULNL_MSG_PACKET: u16 = 4 << 8;
const NFULNL_MSG_CONFIG: u16 = 4 << 8 | 1;
const NFULA_CFG_CMD: u16 = 1;
const NFULA_CFG_MODE: u16 = 2;
const NFULNL_CFG_CMD_BIND: u8 = 1;
const NFULNL_COPY_PACKET: u8 = 2;
const NFULA_PAYLOAD: u16 = 9;

/// A socket that is told of refused calls in this thread's network namespace. Needs `CAP_NET_ADMIN` there, and the rule.
///
/// # Errors
/// The system refuses.
pub fn watch() -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    let to = netlink::SocketAddrNetlink::new(0, 0);
    sendto(&socket, &configuration(), SendFlags::empty(), &to)?;
    let mut answer = [0; MESSAGE];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    match error_of(&answer[..length]) {
        Some(0) => {}
        Some(code) => return Err(io::Error::from_raw_os_error(-code)),
        None => return Err(io::Error::other("netfilter gave no answer")),
    }
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

/// Joins the group and asks for the front of each packet.
fn configuration() -> Vec<u8> {
    let mut message = vec![0; NLMSG_HEAD + NFGEN_HEAD];
    message[NLMSG_HEAD + 2..].copy_from_slice(&GROUP.to_be_bytes());
    let mut attribute = |kind: u16, value: &[u8]| {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(value);
        message.resize(message.len().next_multiple_of(4), 0);
    };
    attribute(NFULA_CFG_CMD, &[NFULNL_CFG_CMD_BIND]);
    let [a, b, c, d] = SEEN.to_be_bytes();
    attribute(NFULA_CFG_MODE, &[a, b, c, d, NFULNL_COPY_PACKET, 0]);
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message[4..6].copy_from_slice(&NFULNL_MSG_CONFIG.to_ne_bytes());
    message[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message
}

fn kind_of(message: &[u8]) -> Option<u16> {
    let kind = message.get(4..6)?.try_into().ok()?;
    Some(u16::from_ne_bytes(kind))
}

/// The error number of an acknowledgement.
fn error_of(message: &[u8]) -> Option<i32> {
    let code = message.get(NLMSG_HEAD..NLMSG_HEAD + 4)?.try_into().ok()?;
    (kind_of(message)? == NLMSG_ERROR).then_some(i32::from_ne_bytes(code))
}

/// The port of the next refused call, if one is waiting.
pub(super) fn next(socket: &OwnedFd) -> io::Result<Option<u16>> {
    let mut message = [0; MESSAGE];
    loop {
        match recv(socket, &mut message[..], RecvFlags::empty()) {
            Ok((length, _)) => {
                if let Some(port) = packet(&message[..length]).and_then(port) {
                    return Ok(Some(port));
                }
            }
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            // Some were lost; those that come are not.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::NOBUFS) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The packet that a message tells of.
fn packet(message: &[u8]) -> Option<&[u8]> {
    if kind_of(message)? != NFULNL_MSG_PACKET {
        return None;
    }
    let mut rest = message.get(NLMSG_HEAD + NFGEN_HEAD..)?;
    loop {
        let word = |at: usize| Some(u16::from_ne_bytes(rest.get(at..at + 2)?.try_into().ok()?));
        let (length, kind) = (usize::from(word(0)?), word(2)?);
        let value = rest.get(4..length)?;
        if kind == NFULA_PAYLOAD {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
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
pub(super) mod tests {
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

    /// A message as the kernel sends it: an attribute of another kind, then the packet.
    pub(crate) fn message(packet: &[u8]) -> Vec<u8> {
        let mut message = vec![0; NLMSG_HEAD + NFGEN_HEAD];
        message[4..6].copy_from_slice(&NFULNL_MSG_PACKET.to_ne_bytes());
        for (kind, value) in [(1, &[0, 0, 0][..]), (NFULA_PAYLOAD, packet)] {
            let length = u16::try_from(value.len() + 4).unwrap();
            message.extend(length.to_ne_bytes());
            message.extend(u16::to_ne_bytes(kind));
            message.extend(value);
            message.resize(message.len().next_multiple_of(4), 0);
        }
        message
    }

    #[test]
    fn a_packet_is_found_in_its_message_and_nothing_else_is_taken_for_one() {
        let refused = packet(4, TCP, RST_ACK, 0);
        let told = message(&refused);
        assert_eq!(super::packet(&told), Some(&refused[..]));
        for cut in 0..told.len() - 3 {
            assert_eq!(super::packet(&told[..cut]), None, "cut at {cut}");
        }
        let mut other = told.clone();
        other[4] = 7;
        assert_eq!(super::packet(&other), None);
        let mut endless = told;
        endless[NLMSG_HEAD + NFGEN_HEAD..][..2].fill(0);
        assert_eq!(super::packet(&endless), None, "an attribute of no length");
    }
}
