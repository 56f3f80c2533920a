//! TLS that a program speaks itself with a host outside the mesh: its server name must be the host that the connection
//! was made to, so that a permitted name is no way to another one behind the same address.
//!
//! A hello without a server name names nobody else and passes. Explicit binds are not looked at: a program that calls
//! `localhost:8443` says `localhost`.

use crate::edge::hello::{self, Hello};
use crate::io::Io;
use crate::limits::HEADER_READ;
use crate::names;
use crate::worker::{Conn, Entrance, Phase};
use bytes::Bytes;
use naka_types::host::Host;
use naka_types::reason::Reason;
use std::net::IpAddr;
use tokio::io::AsyncReadExt;

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
    match said(conn, io).await? {
        Some(name) if !name.eq_ignore_ascii_case(host.trim_end_matches('.')) => {
            Err(Some(Reason::NameMismatch))
        }
        _ => Ok(()),
    }
}

/// The server name of the hello, if it has one; the bytes are put back.
pub(super) async fn said(conn: &Conn, io: &mut Io) -> Result<Option<String>, Option<Reason>> {
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
                    Ok(None)
                };
            }
            match hello::read(&bytes) {
                Hello::Said(name) => return Ok(name),
                // Not TLS after all: nothing is said that could disagree.
                Hello::Malformed => return Ok(None),
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
    use super::is_outside;

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
