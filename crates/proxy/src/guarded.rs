//! Guards before a request is there: who is banned gets no handshake, and who fails one is counted.
//!
//! Only TLS is refused before a byte is answered. Plain callers get as far as their first request or bytes, where the
//! engine refuses them and says why.

use crate::http::serve::refuse;
use crate::worker::Conn;
use naka_engine::exchange::{bans_address, handshake_done, handshake_failed};
use naka_engine::model::Access;
use naka_types::reason::Reason;
use std::net::IpAddr;
use std::sync::Arc;

/// Who would make a handshake, and what guards the port; nothing is asked where nothing does.
pub(crate) struct Guarded<'c> {
    conn: &'c Conn,
    access: Option<&'c Arc<Access>>,
    address: IpAddr,
}

impl<'c> Guarded<'c> {
    /// A connection to a port; `address` is the caller's.
    pub(crate) fn new(conn: &'c Conn, access: Option<&'c Arc<Access>>, address: IpAddr) -> Self {
        Self {
            conn,
            access: access.filter(|access| !access.guards.is_empty()),
            address,
        }
    }

    /// Ends the connection of an address that is banned.
    pub(crate) fn banned(&self) -> bool {
        let Some(access) = self.access else {
            return false;
        };
        let found = bans_address(access, self.address, self.conn.worker.now());
        if let Some(rule) = found {
            refuse(
                self.conn,
                Reason::PeerBanned,
                &format!("guard_denied[{rule}]"),
            );
        }
        found.is_some()
    }

    /// Counts a handshake that failed, and ends the connection.
    pub(crate) fn failed(&self, reason: Reason, why: &str) {
        let Some(access) = self.access else {
            return refuse(self.conn, reason, why);
        };
        let mut detail = why.to_owned();
        for one in handshake_failed(access, self.address, self.conn.worker.now()) {
            self.conn.worker.shard.policy(&one.rule, one.outcome);
            detail = format!("{detail}; {} {}", one.outcome, one.rule);
        }
        refuse(self.conn, reason, &detail);
    }

    /// Takes note of a verified caller.
    pub(crate) fn done(&self) {
        if let Some(access) = self.access {
            handshake_done(access, self.address, self.conn.worker.now());
        }
    }
}
