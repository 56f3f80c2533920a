//! Stateless session tickets (design decision 4): shared by all workers, sealed with AES-256-GCM, bound to the
//! bundle they were made under, and no older than one hour or the rest of the server's certificate.
//!
//! rustls resumes a TLS 1.3 session without asking the verifier again, and leaves it to the ticket to be too old;
//! therefore the time of issue is sealed into each ticket and checked here. The keys belong to one [`crate::Bundle`]
//! value: another bundle has other keys, so nothing resumes across a change of trust.

use crate::now_s;
use aws_lc_rs::aead::{AES_256_GCM, Aad, RandomizedNonceKey};
use rustls::server::ProducesTickets;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// Longest time between a full handshake and a resumption.
const LONGEST_S: u64 = 3600;
/// Nonce of AES-GCM.
const NONCE_BYTES: usize = 12;
/// Nothing we seal comes near this: a chain of a few certificates.
const LONGEST_TICKET: usize = 64 * 1024;

/// Two generations of keys, a new one each hour, so a stolen key opens at most two hours of tickets.
pub(crate) struct TicketKeys(RwLock<Generations>);

struct Generations {
    since_s: u64,
    current: Arc<RandomizedNonceKey>,
    previous: Option<Arc<RandomizedNonceKey>>,
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKeys")
    }
}

fn fresh() -> Arc<RandomizedNonceKey> {
    let bytes = crate::random_bytes::<32>();
    Arc::new(
        RandomizedNonceKey::new(&AES_256_GCM, &bytes)
            .expect("invariant: 32 bytes are a key of AES-256"),
    )
}

impl TicketKeys {
    pub(crate) fn new() -> Self {
        Self(RwLock::new(Generations {
            since_s: now_s(),
            current: fresh(),
            previous: None,
        }))
    }

    fn sealing(&self, now: u64) -> Arc<RandomizedNonceKey> {
        {
            let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
            if now < keys.since_s + LONGEST_S {
                return Arc::clone(&keys.current);
            }
        }
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if now >= keys.since_s + LONGEST_S {
            let recent = now < keys.since_s + 2 * LONGEST_S;
            let old = std::mem::replace(&mut keys.current, fresh());
            keys.previous = recent.then_some(old);
            keys.since_s = now;
        }
        Arc::clone(&keys.current)
    }

    fn opening(&self) -> (Arc<RandomizedNonceKey>, Option<Arc<RandomizedNonceKey>>) {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&keys.current), keys.previous.clone())
    }

    fn seal(&self, plain: &[u8], now: u64) -> Option<Vec<u8>> {
        let mut body = Vec::with_capacity(NONCE_BYTES + 8 + plain.len() + 16);
        body.extend_from_slice(&now.to_be_bytes());
        body.extend_from_slice(plain);
        let nonce = self
            .sealing(now)
            .seal_in_place_append_tag(Aad::empty(), &mut body)
            .ok()?;
        let mut ticket = nonce.as_ref().to_vec();
        ticket.append(&mut body);
        Some(ticket)
    }

    fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        if ticket.len() > LONGEST_TICKET || ticket.len() < NONCE_BYTES {
            return None;
        }
        let (nonce, sealed) = ticket.split_at(NONCE_BYTES);
        let (current, previous) = self.opening();
        [Some(current), previous]
            .into_iter()
            .flatten()
            .find_map(|key| {
                let nonce = aws_lc_rs::aead::Nonce::try_assume_unique_for_key(nonce).ok()?;
                let mut body = sealed.to_vec();
                let plain = key.open_in_place(nonce, Aad::empty(), &mut body).ok()?;
                let (stamp, plain) = plain.split_first_chunk::<8>()?;
                let age = now.checked_sub(u64::from_be_bytes(*stamp))?;
                (age <= LONGEST_S).then(|| plain.to_vec())
            })
    }
}

/// What a server configuration holds: the shared keys and the end of its own certificate.
#[derive(Debug)]
pub(crate) struct Tickets {
    pub(crate) keys: Arc<TicketKeys>,
    pub(crate) leaf_not_after: u64,
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        let rest = self.leaf_not_after.saturating_sub(now_s()).min(LONGEST_S);
        u32::try_from(rest).unwrap_or(0)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys.seal(plain, now_s())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let now = now_s();
        // A server whose own certificate is over proves nothing by resuming.
        (now < self.leaf_not_after)
            .then(|| self.keys.open(ticket, now))
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_S, TicketKeys, now_s};

    #[test]
    fn tickets_open_for_an_hour_and_only_with_their_own_keys() {
        let (keys, others) = (TicketKeys::new(), TicketKeys::new());
        let now = now_s();
        let ticket = keys.seal(b"session", now).unwrap();
        assert_eq!(keys.open(&ticket, now).as_deref(), Some(&b"session"[..]));
        assert!(keys.open(&ticket, now + LONGEST_S).is_some());
        assert!(keys.open(&ticket, now + LONGEST_S + 1).is_none());
        assert!(keys.open(&ticket, now - 1).is_none(), "from the future");
        assert!(others.open(&ticket, now).is_none());
        for index in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[index] ^= 1;
            assert!(keys.open(&changed, now).is_none(), "byte {index}");
            assert!(keys.open(&ticket[..index], now).is_none());
        }
    }

    #[test]
    fn keys_roll_and_the_one_before_still_opens() {
        let keys = TicketKeys::new();
        let start = now_s();
        let ticket = keys.seal(b"a", start + LONGEST_S - 1).unwrap();
        let next = keys.seal(b"b", start + LONGEST_S + 1).unwrap();
        assert!(keys.open(&ticket, start + LONGEST_S + 2).is_some());
        let _ = keys.seal(b"c", start + 2 * LONGEST_S + 2).unwrap();
        assert!(
            keys.open(&ticket, start + 2 * LONGEST_S - 1).is_none(),
            "two keys ago"
        );
        assert!(keys.open(&next, start + 2 * LONGEST_S + 1).is_some());
    }
}
