//! The uid that owns the other end of a loopback connection, asked of the kernel by `sock_diag`.
//!
//! One exact question per connection (no table is read, so ten thousand sockets make it no slower), over one netlink
//! socket per worker. Linux only; where the kernel does not answer the owner is unknown, and unknown is nobody.

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const HEAD: usize = 16;
const REQUEST: usize = 56;
/// In the answer: after the head, 4 bytes, the socket's id of 48, and three words.
const UID_AT: usize = HEAD + 4 + 48 + 12;

/// Asks the kernel for owners of sockets.
#[derive(Debug)]
pub(crate) struct Owners {
    netlink: Option<OwnedFd>,
}

impl Owners {
    /// Opens the netlink socket; without one every owner is unknown.
    pub(crate) fn new() -> Self {
        let netlink = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(rustix::net::netlink::SOCK_DIAG),
        );
        Self {
            netlink: netlink.ok(),
        }
    }

    /// The uid of the process that made the socket `peer`, connected to our `local`; both ends on this machine.
    pub(crate) fn of(&self, peer: SocketAddr, local: SocketAddr) -> Option<u32> {
        let netlink = self.netlink.as_ref()?;
        let question = question(peer, local)?;
        rustix::net::send(netlink, &question, SendFlags::empty()).ok()?;
        let mut answer = [0u8; 512];
        // The kernel answers within the send call: there is nothing to wait for.
        let (count, _) = rustix::net::recv(netlink, &mut answer[..], RecvFlags::empty()).ok()?;
        uid_in(&answer[..count])
    }
}

fn question(peer: SocketAddr, local: SocketAddr) -> Option<[u8; HEAD + REQUEST]> {
    let mut bytes = [0u8; HEAD + REQUEST];
    let length = u32::try_from(bytes.len()).ok()?;
    bytes[0..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    let body = &mut bytes[HEAD..];
    let family = if peer.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    body[0] = u8::try_from(family.as_raw()).ok()?;
    body[1] = 6; // TCP
    body[4..8].copy_from_slice(&u32::MAX.to_ne_bytes()); // any state
    body[8..10].copy_from_slice(&peer.port().to_be_bytes());
    body[10..12].copy_from_slice(&local.port().to_be_bytes());
    put_address(&mut body[12..28], peer.ip());
    put_address(&mut body[28..44], local.ip());
    body[48..56].fill(0xff); // no cookie
    Some(bytes)
}

fn put_address(room: &mut [u8], address: IpAddr) {
    match address {
        IpAddr::V4(v4) => room[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => room.copy_from_slice(&v6.octets()),
    }
}

fn uid_in(answer: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    Some(u32::from_ne_bytes(
        answer.get(UID_AT..UID_AT + 4)?.try_into().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::Owners;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn our_own_connections_are_ours_and_others_are_nobodys() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue; // no IPv6 here
            };
            let local = listener.local_addr().unwrap();
            let client = TcpStream::connect(local).unwrap();
            let (_server, peer) = listener.accept().unwrap();
            let owners = Owners::new();
            let me = rustix::process::getuid().as_raw();
            assert_eq!(owners.of(peer, local), Some(me));
            drop(client);
            let mut nobody = peer;
            nobody.set_port(1);
            assert_eq!(owners.of(nobody, local), None);
        }
    }
}
