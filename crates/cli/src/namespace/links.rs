//! The loopback device of a fresh namespace: up, with an address that is not loopback, and a route that makes every
//! other address of the world local, too.
//!
//! Everything that the program calls then arrives in its own namespace, where the rules lead it to the sidecar's
//! listeners. The route names the source address: a call from the very address it goes to would be taken for
//! the program's own. A few messages of rtnetlink written by hand, because `ip` need not be installed.

use super::{ADDRESS4, ADDRESS6};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use std::io;
use std::os::fd::OwnedFd;

/// In a new namespace the loopback device is the first.
const LO: u32 = 1;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// No search for the same address elsewhere: it is usable at once.
const IFA_F_NODAD: u8 = 2;
const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;

/// Sets the device up.
pub(crate) fn up(ipv6: bool) -> io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None, // NETLINK_ROUTE
    )?;
    ask(&socket, &link())?;
    ask(&socket, &address(family4(), &ADDRESS4.octets()))?;
    ask(&socket, &route(family4(), &ADDRESS4.octets()))?;
    if ipv6 {
        ask(&socket, &address(family6(), &ADDRESS6.octets()))?;
        ask(&socket, &route(family6(), &ADDRESS6.octets()))?;
    }
    Ok(())
}

fn family4() -> u8 {
    u8::try_from(AddressFamily::INET.as_raw()).unwrap_or(2)
}

fn family6() -> u8 {
    u8::try_from(AddressFamily::INET6.as_raw()).unwrap_or(10)
}

/// Sends one request and reads its acknowledgement.
fn ask(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    rustix::net::sendto(
        socket,
        message,
        SendFlags::empty(),
        &netlink::SocketAddrNetlink::new(0, 0),
    )?;
    let mut answer = [0u8; 1024];
    let (count, _) = rustix::net::recv(socket, &mut answer[..], RecvFlags::empty())?;
    verdict(answer.get(..count).unwrap_or_default())
}

/// The error number of an acknowledgement; "exists" is as good as done.
fn verdict(answer: &[u8]) -> io::Result<()> {
    const EEXIST: i32 = 17;
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok());
    let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok());
    match (kind.map(u16::from_ne_bytes), code.map(i32::from_ne_bytes)) {
        (Some(NLMSG_ERROR), Some(code)) if code == 0 || code == -EEXIST => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::Error::other("rtnetlink gave no answer")),
    }
}

fn link() -> Vec<u8> {
    // struct ifinfomsg: family, padding, type, index, flags, change mask.
    let mut body = vec![0u8; 4];
    body.extend(LO.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    message(RTM_NEWLINK, 0, &body)
}

fn address(family: u8, address: &[u8]) -> Vec<u8> {
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let bits = u8::try_from(address.len() * 8).unwrap_or(u8::MAX);
    let mut body = vec![family, bits, IFA_F_NODAD, RT_SCOPE_UNIVERSE];
    body.extend(LO.to_ne_bytes());
    attribute(&mut body, IFA_LOCAL, address);
    attribute(&mut body, IFA_ADDRESS, address);
    message(RTM_NEWADDR, NLM_F_CREATE, &body)
}

fn route(family: u8, source: &[u8]) -> Vec<u8> {
    // struct rtmsg: family, lengths of destination and source, type of service, table, protocol, scope, type, flags.
    let mut body = vec![family, 0, 0, 0];
    body.extend([RT_TABLE_LOCAL, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL]);
    body.extend(0u32.to_ne_bytes());
    attribute(&mut body, RTA_OIF, &LO.to_ne_bytes());
    attribute(&mut body, RTA_PREFSRC, source);
    message(RTM_NEWROUTE, NLM_F_CREATE, &body)
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 16).unwrap_or(u32::MAX);
    let mut bytes = Vec::from(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
    bytes.extend([0u8; 8]); // sequence and port: one question at a time
    bytes.extend(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::{address, route, verdict};

    #[test]
    fn messages_say_their_length_and_are_padded() {
        for message in [
            address(2, &[192, 0, 2, 1]),
            address(10, &[0; 16]),
            route(2, &[192, 0, 2, 1]),
            route(10, &[0; 16]),
        ] {
            let length = u32::from_ne_bytes(message[..4].try_into().unwrap());
            assert_eq!(length as usize, message.len());
            assert_eq!(message.len() % 4, 0);
        }
    }

    #[test]
    fn an_acknowledgement_is_an_error_number() {
        let answer = |kind: u16, code: i32| {
            let mut bytes = vec![0u8; 36];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[16..20].copy_from_slice(&code.to_ne_bytes());
            bytes
        };
        assert!(verdict(&answer(2, 0)).is_ok());
        assert!(verdict(&answer(2, -17)).is_ok());
        assert_eq!(
            verdict(&answer(2, -1)).unwrap_err().kind(),
            std::io::ErrorKind::PermissionDenied
        );
        assert!(verdict(&answer(16, 0)).is_err());
        assert!(verdict(b"").is_err());
    }
}
