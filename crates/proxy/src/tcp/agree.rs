//! TLS that a program speaks itself with a host outside the mesh: its server name must be the host that the connection
//! was made to, so that a permitted name is no way to another one behind the same address.
//!
//! A hello without a server name names nobody else and passes. One that cannot be read to its end does not, as its
//! server might be able to. One with an encrypted hello inside passes where unknown hosts may be called anyway: who is
//! meant can be somebody else at the same server, and browsers send bytes that look so in any case. Explicit binds are
//! not looked at: a program that calls `localhost:8443` says `localhost`.

use crate::edge::hello::{self, Hello, Said};
use crate::io::Io;
use crate::limits::HEADER_READ;
use crate::names::{self, Outside};
use crate::worker::{Conn, Entrance, Phase};
use bytes::Bytes;
use naka_types::host::Host;
use naka_types::reason::Reason;
use std::net::IpAddr;
use tokio::io::AsyncReadExt;

/// The first byte of a record with a handshake.
const HANDSHAKE: u8 = 22;

/// Whether what a connection to this host says of itself has to agree with it.
pub(super) fn applies(conn: &Conn, host: &str) -> bool {
    let bound = matches!(*conn.entrance, Entrance::Bind { .. });
    !bound && is_outside(host, &conn.worker.own.namespace)
}

fn is_outside(host: &str, namespace: &str) -> bool {
    let full = Host::resolve(host, namespace);
    host.parse::<IpAddr>().is_err()
        && full.is_ok_and(|full| {
            // `payment.shop` is a service or a domain; what has a dot more is no service.
            !names::is_of_mesh(full.as_str()) && full.as_str().matches('.').count() > 1
        })
}

/// Reads the hello and compares; the bytes are put back.
pub(super) async fn hello(conn: &Conn, io: &mut Io, host: &str) -> Result<(), Option<Reason>> {
    let said = said(conn, io).await?;
    disagrees(&said, host, is_strict(conn)).map_or(Ok(()), |reason| Err(Some(reason)))
}

/// Whether no host may be called but those that are declared.
pub(super) fn is_strict(conn: &Conn) -> bool {
    matches!(conn.worker.outside(), Outside::Denied)
}

/// Why a hello does not go with the host that the connection was made to.
fn disagrees(said: &Said, host: &str, strict: bool) -> Option<Reason> {
    let host = host.trim_end_matches('.');
    let other = said
        .name
        .as_ref()
        .is_some_and(|name| !name.eq_ignore_ascii_case(host));
    if other || said.unsound {
        Some(Reason::NameMismatch)
    } else if strict && said.encrypted {
        Some(Reason::EgressDenied)
    } else {
        None
    }
}

/// What the hello says; the bytes are put back.
pub(super) async fn said(conn: &Conn, io: &mut Io) -> Result<Said, Option<Reason>> {
    let mut bytes = Vec::with_capacity(1024);
    let reading = async {
        loop {
            let read = tokio::select! {
                read = io.read_buf(&mut bytes) => read,
                () = conn.reaches(Phase::Closing) => return Err(None),
            };
            if matches!(read, Ok(0) | Err(_)) {
                return if bytes.is_empty() {
                    Err(None)
                } else {
                    Ok(Said::default())
                };
            }
            match hello::read(&bytes) {
                Hello::Said(said) => return Ok(said),
                // Without a handshake it is no TLS after all: nothing is said that could disagree.
                Hello::Malformed => {
                    return Ok(Said {
                        unsound: bytes.first() == Some(&HANDSHAKE),
                        ..Said::default()
                    });
                }
                Hello::More => {}
            }
        }
    };
    let said = match tokio::time::timeout(HEADER_READ, reading).await {
        Ok(said) => said?,
        Err(_) => return Err(Some(Reason::BadRequest)),
    };
    io.put_back(Bytes::from(bytes));
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::{Said, disagrees, is_outside};
    use naka_types::reason::Reason;

    #[test]
    fn what_goes_with_a_host() {
        let said = |name: Option<&str>| Said {
            name: name.map(str::to_owned),
            ..Said::default()
        };
        let unsound = Said {
            unsound: true,
            ..Said::default()
        };
        let hidden = |name| Said {
            encrypted: true,
            ..said(name)
        };
        let (own, other) = (Some("api.bank.example"), Some("api.rogue.example"));
        let mismatch = Some(Reason::NameMismatch);
        for (said, strict, expect) in [
            (said(own), true, None),
            (said(None), true, None),
            (said(other), true, mismatch),
            (said(other), false, mismatch),
            (unsound, false, mismatch),
            (hidden(own), false, None),
            (hidden(own), true, Some(Reason::EgressDenied)),
            (hidden(None), true, Some(Reason::EgressDenied)),
            (hidden(other), true, mismatch),
        ] {
            let got = disagrees(&said, "API.bank.example.", strict);
            assert_eq!(got, expect, "{said:?}, strict: {strict}");
        }
    }

    #[test]
    fn hosts_outside_the_mesh() {
        for (host, expect) in [
            ("api.bank.example", true),
            ("payment", false),
            ("payment.shop", false),
            ("payment.shop.svc.cluster.local", false),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_outside(host, "shop"), expect, "{host}");
        }
    }
}
