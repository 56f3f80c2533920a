//! Calls that were refused, on their way to the mesh's audit trail.
//!
//! Alike calls (same caller, port, method, path, reason and rule) are one entry with a count, so many entries at most
//! are kept until the control plane has taken them, and what is over is counted. So a flood of refused calls costs a
//! bounded place, and an absent control plane nothing but the details. Nobody waits: a refused request costs one look
//! under a lock that is held for that long.
//!
//! Not here: the access log, which tells of every call and stays with the workload.

use crate::record::Open;
use crate::worker::{Conn, Entrance};
use naka_types::reason::Reason;
use naka_wire::v1::{Denial, DeniedRequest};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// Entries that are kept at most.
const ROOM: usize = 256;
/// Longest text of an entry, in bytes.
const LONGEST: usize = 512;

/// One refused call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused<'a> {
    pub(crate) peer: &'a str,
    pub(crate) remote: SocketAddr,
    /// The workload's port, or the gateway's.
    pub(crate) port: u16,
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) reason: Reason,
    pub(crate) rule: &'a str,
}

/// Adds a request, where it was refused for one of these reasons.
pub(crate) fn of_request(open: &Open, reason: Reason) {
    if !reason.is_denial() {
        return;
    }
    let named = open.uri.authority().map(http::uri::Authority::as_str);
    let header = || open.authority.as_ref()?.to_str().ok();
    add(&open.conn, reason, &open.detail, |call| Refused {
        method: open.method.as_str(),
        host: named.or_else(header).unwrap_or_default(),
        path: open.uri.path(),
        ..call
    });
}

/// Adds a connection of bytes, or one that ended before a request came.
pub(crate) fn of_connection(conn: &Conn, reason: Reason, detail: &str) {
    if reason.is_denial() {
        add(conn, reason, detail, |call| call);
    }
}

fn add<'c>(
    conn: &'c Conn,
    reason: Reason,
    rule: &'c str,
    more: impl FnOnce(Refused<'c>) -> Refused<'c>,
) {
    let call = more(Refused {
        peer: conn.peer.get().map_or("", |peer| &peer.text),
        remote: conn.remote,
        port: match &*conn.entrance {
            Entrance::Inbound { port }
            | Entrance::Publish { port }
            | Entrance::Gateway { port } => *port,
            _ => conn.local.port(),
        },
        method: "",
        host: "",
        path: "",
        reason,
        rule,
    });
    conn.worker.own.denials.add(&call);
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    peer: String,
    source: IpAddr,
    port: u16,
    method: String,
    path: String,
    reason: Reason,
    rule: String,
}

/// What was refused and not told yet.
#[derive(Debug, Default)]
pub struct Denials {
    held: Mutex<Held>,
    some: Notify,
}

#[derive(Debug, Default)]
struct Held {
    entries: HashMap<Key, Denial>,
    uncounted: u64,
}

impl Denials {
    /// Adds a call.
    pub(crate) fn add(&self, call: &Refused<'_>) {
        let key = Key {
            peer: cut(call.peer),
            source: call.remote.ip().to_canonical(),
            port: call.port,
            method: cut(call.method),
            path: cut(call.path),
            reason: call.reason,
            rule: cut(call.rule),
        };
        let mut held = self.held();
        let first = held.entries.is_empty() && held.uncounted == 0;
        let room = held.entries.len() < ROOM;
        match held.entries.get_mut(&key) {
            Some(known) => known.count += 1,
            None if room => {
                let entry = Denial {
                    time_ms: now_ms(),
                    count: 1,
                    peer: key.peer.clone(),
                    source_address: key.source.to_string(),
                    port: u32::from(key.port),
                    method: key.method.clone(),
                    host: cut(call.host),
                    path: key.path.clone(),
                    reason: key.reason.code().to_owned(),
                    rule: key.rule.clone(),
                };
                held.entries.insert(key, entry);
            }
            None => held.uncounted += 1,
        }
        drop(held);
        if first {
            self.some.notify_one();
        }
    }

    /// Resolves when there is something to tell.
    pub(crate) async fn some(&self) {
        loop {
            let told = self.some.notified();
            {
                let held = self.held();
                if !held.entries.is_empty() || held.uncounted > 0 {
                    return;
                }
            }
            told.await;
        }
    }

    /// Everything, until it is told.
    pub(crate) fn untold(&self) -> Untold<'_> {
        Untold {
            denials: self,
            request: Some(self.take()),
        }
    }

    /// Everything, in the order of time.
    fn take(&self) -> DeniedRequest {
        let held = std::mem::take(&mut *self.held());
        let mut denials: Vec<Denial> = held.entries.into_values().collect();
        denials.sort_by_key(|denial| denial.time_ms);
        DeniedRequest {
            denials,
            uncounted: held.uncounted,
        }
    }

    /// Takes back what nobody took; what has no room any more is counted.
    fn give_back(&self, untold: DeniedRequest) {
        let mut held = self.held();
        held.uncounted += untold.uncounted;
        for denial in untold.denials {
            let count = denial.count;
            let key = key_of(&denial).filter(|_| held.entries.len() < ROOM);
            match key {
                Some(key) => {
                    let entry = held
                        .entries
                        .entry(key)
                        .or_insert_with(|| Denial { count: 0, ..denial });
                    entry.count += count;
                }
                None => held.uncounted += count,
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is on its way; given back unless somebody took it.
pub(crate) struct Untold<'d> {
    denials: &'d Denials,
    request: Option<DeniedRequest>,
}

impl Untold<'_> {
    /// As it is sent.
    pub(crate) fn request(&self) -> DeniedRequest {
        self.request.clone().unwrap_or_default()
    }

    /// The control plane has it.
    pub(crate) fn told(mut self) {
        self.request = None;
    }
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            self.denials.give_back(request);
        }
    }
}

fn key_of(denial: &Denial) -> Option<Key> {
    Some(Key {
        peer: denial.peer.clone(),
        source: denial.source_address.parse().ok()?,
        port: u16::try_from(denial.port).ok()?,
        method: denial.method.clone(),
        path: denial.path.clone(),
        reason: Reason::parse(&denial.reason)?,
        rule: denial.rule.clone(),
    })
}

/// A text that is no longer than texts of an entry are.
fn cut(text: &str) -> String {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::{Denials, ROOM, Refused};
    use naka_types::reason::Reason;

    fn call(path: &str) -> Refused<'_> {
        Refused {
            peer: "spiffe://cluster.local/ns/a/sa/b",
            remote: ([10, 0, 0, 1], 40_000).into(),
            port: 80,
            method: "GET",
            host: "payment",
            path,
            reason: Reason::PermissionDenied,
            rule: "",
        }
    }

    #[test]
    fn alike_calls_are_one_entry_and_what_is_over_is_counted() {
        let denials = Denials::default();
        for _ in 0..1000 {
            denials.add(&call("/x"));
        }
        let other = Refused {
            // Another connection of the same caller.
            remote: ([10, 0, 0, 1], 40_001).into(),
            ..call("/x")
        };
        denials.add(&other);
        let paths: Vec<String> = (0..ROOM + 9).map(|n| format!("/{n}")).collect();
        paths.iter().for_each(|path| denials.add(&call(path)));
        let told = denials.take();
        assert_eq!((told.denials.len(), told.uncounted), (ROOM, 10));
        let of = |path: &str| told.denials.iter().find(|one| one.path == path).cloned();
        assert_eq!(of("/x").unwrap().count, 1001);
        assert_eq!(denials.take().denials, [], "it is told once");
    }

    #[test]
    fn what_nobody_took_comes_again_and_loses_no_count() {
        let denials = Denials::default();
        denials.add(&call("/x"));
        let untold = denials.take();
        denials.add(&call("/x"));
        denials.add(&call("/y"));
        denials.give_back(untold);
        let told = denials.take();
        let counts: u64 = told.denials.iter().map(|one| one.count).sum();
        assert_eq!((told.denials.len(), counts, told.uncounted), (2, 3, 0));
    }

    #[test]
    fn long_texts_are_cut_where_a_character_ends() {
        let denials = Denials::default();
        let long = "é".repeat(600);
        denials.add(&call(&long));
        let path = denials.take().denials.remove(0).path;
        assert_eq!(path, "é".repeat(256));
    }

    #[tokio::test]
    async fn whoever_waits_is_called_at_the_first_one() {
        let denials = std::sync::Arc::new(Denials::default());
        let of_task = std::sync::Arc::clone(&denials);
        let waits = tokio::spawn(async move { of_task.some().await });
        tokio::task::yield_now().await;
        denials.add(&call("/x"));
        waits.await.unwrap();
        denials.some().await;
    }
}
