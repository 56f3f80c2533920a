//! Who failed how often lately, and who is banned until when, over all workers.
//!
//! A table of fixed size, eight places to a set. That nobody is banned, or who is, is found without a lock; failures,
//! which are few, are written under one. A place is free once its time is over, so bans end by themselves. Where a set
//! is full a newcomer takes the place of a count (that of the window which ends first), never that of a ban: a flood of
//! addresses forgets nobody who is banned and takes no memory. Who finds no place is refused for what it did and is not
//! banned; an innocent is never taken for another (64 bits of a keyed hash).
//!
//! Of an IPv6 address its first 64 bits count: the rest is the caller's to choose.

use super::bucket::nanos;
use crate::model::Ban;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Places of a set.
const WAYS: usize = 8;
/// Sets; a power of two.
const SETS: usize = 512;
/// Places of a table.
pub const PLACES: usize = WAYS * SETS;

/// Whom a failure counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer<'a> {
    /// A verified caller.
    Identity(&'a str),
    /// Anybody else, by address.
    Address(IpAddr),
    /// A client that a verified caller (a gateway) passes on.
    Through(&'a str, IpAddr),
}

impl Peer<'_> {
    /// By the part of an address that its owner cannot choose freely.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        Self::Address(network(address))
    }

    /// A client behind a verified caller.
    #[must_use]
    pub fn through(caller: &str, client: IpAddr) -> Peer<'_> {
        Peer::Through(caller, network(client))
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => {
            let mut parts = six.segments();
            parts[4..].fill(0);
            IpAddr::V6(Ipv6Addr::from(parts))
        }
        four => four,
    }
}

/// What a place is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum About {
    /// Failures at the guard of this number.
    Count(usize),
    Ban,
    /// A verified peer calls from there.
    Vouched,
}

#[derive(Debug, Default)]
struct Place {
    /// Whose it is; 0: nobody's.
    key: AtomicU64,
    /// When it is free.
    until: AtomicU64,
    /// Failures; 0: it is no count.
    count: AtomicU32,
}

/// What became of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Struck {
    /// It was counted.
    Counted,
    /// It was one too many: the peer is banned from now on.
    Banned,
    /// It was one too many, and there is no place for another ban.
    NoRoom,
}

/// The table of one object.
#[derive(Debug)]
pub struct Peers {
    places: Box<[Place]>,
    claims: Mutex<()>,
    hasher: RandomState,
    /// When the last ban ends.
    latest: AtomicU64,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            places: (0..PLACES).map(|_| Place::default()).collect(),
            claims: Mutex::new(()),
            hasher: RandomState::new(),
            latest: AtomicU64::new(0),
        }
    }
}

impl Peers {
    /// How long a peer is banned still.
    #[must_use]
    pub fn banned(&self, peer: Peer<'_>, now: Duration) -> Option<Duration> {
        let now = nanos(now);
        // Nearly always nobody is.
        if now >= self.latest.load(Ordering::Acquire) {
            return None;
        }
        let until = self.held((About::Ban, peer))?;
        (until > now).then(|| Duration::from_nanos(until - now))
    }

    /// Counts a failure at a guard; so many within so long are a ban.
    pub fn strike(&self, guard: usize, peer: Peer<'_>, ban: &Ban, now: Duration) -> Struck {
        let now = nanos(now);
        let _held = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let window = now.saturating_add(nanos(ban.per));
        let count = match self.place((About::Count(guard), peer), now, false) {
            None => return Struck::NoRoom,
            Some((place, true)) => place.count.fetch_add(1, Ordering::Relaxed) + 1,
            Some((place, false)) => {
                place.count.store(1, Ordering::Relaxed);
                place.until.store(window, Ordering::Release);
                1
            }
        };
        if count < ban.failures {
            return Struck::Counted;
        }
        let until = now.saturating_add(nanos(ban.lasts));
        let Some((place, _)) = self.place((About::Ban, peer), now, true) else {
            return Struck::NoRoom;
        };
        place.count.store(0, Ordering::Relaxed);
        place.until.store(until, Ordering::Release);
        self.latest.fetch_max(until, Ordering::AcqRel);
        Struck::Banned
    }

    /// Takes note that a verified peer calls from an address, which is then not banned as a whole for a while.
    pub fn vouch(&self, address: IpAddr, until: Duration, now: Duration) {
        let (now, peer) = (nanos(now), Peer::address(address));
        let _held = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((place, _)) = self.place((About::Vouched, peer), now, true) {
            place.count.store(0, Ordering::Relaxed);
            place.until.store(nanos(until), Ordering::Release);
        }
    }

    /// Whether one does.
    #[must_use]
    pub fn is_vouched(&self, address: IpAddr, now: Duration) -> bool {
        let until = self.held((About::Vouched, Peer::address(address)));
        until.is_some_and(|until| until > nanos(now))
    }

    /// Until when a place is held for a key.
    fn held(&self, key: impl Hash) -> Option<u64> {
        let (set, hash) = self.set(key);
        let place = set
            .iter()
            .find(|place| place.key.load(Ordering::Acquire) == hash)?;
        let until = place.until.load(Ordering::Acquire);
        // Given to another in between: then its time was over.
        (place.key.load(Ordering::Acquire) == hash).then_some(until)
    }

    fn set(&self, key: impl Hash) -> (&[Place], u64) {
        let hash = self.hasher.hash_one(key).max(1);
        let set = usize::try_from(hash >> 32).unwrap_or(0) & (SETS - 1);
        (&self.places[set * WAYS..(set + 1) * WAYS], hash)
    }

    /// The place of a key, and whether it was in use already; the lock is held. What `lasts` never makes place.
    fn place(&self, key: impl Hash, now: u64, lasts: bool) -> Option<(&Place, bool)> {
        let (set, hash) = self.set(key);
        let until = |place: &&Place| place.until.load(Ordering::Acquire);
        let known = set
            .iter()
            .find(|place| place.key.load(Ordering::Acquire) == hash);
        if let Some(known) = known {
            return Some((known, lasts || until(&known) > now));
        }
        let free = set.iter().find(|place| until(place) <= now);
        let place = free.or_else(|| {
            let counts = set
                .iter()
                .filter(|place| place.count.load(Ordering::Relaxed) > 0);
            counts.min_by_key(until)
        })?;
        place.until.store(0, Ordering::Release);
        place.key.store(hash, Ordering::Release);
        Some((place, false))
    }
}

#[cfg(test)]
mod tests {
    use super::{Ban, PLACES, Peer, Peers, Struck};
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn ban(failures: u32) -> Ban {
        Ban {
            failures,
            per: S(60),
            lasts: S(600),
        }
    }

    fn four(number: u32) -> Peer<'static> {
        Peer::address(IpAddr::V4(Ipv4Addr::from(number)))
    }

    #[test]
    fn the_fifth_failure_within_a_minute_bans_and_the_ban_ends() {
        let peers = Peers::default();
        let peer = Peer::Identity("spiffe://a/ns/b/sa/c");
        for at in [0, 10, 20, 59] {
            assert_eq!(peers.strike(0, peer, &ban(5), S(at)), Struck::Counted);
            assert_eq!(peers.banned(peer, S(at)), None);
        }
        // Another guard counts for itself, and so does another peer.
        assert_eq!(peers.strike(1, peer, &ban(5), S(59)), Struck::Counted);
        assert_eq!(peers.strike(0, four(1), &ban(5), S(59)), Struck::Counted);
        assert_eq!(peers.strike(0, peer, &ban(5), S(59)), Struck::Banned);
        assert_eq!(peers.banned(peer, S(60)), Some(S(599)));
        assert_eq!(peers.banned(four(1), S(60)), None);
        assert_eq!(peers.banned(peer, S(658)), Some(S(1)));
        assert_eq!(peers.banned(peer, S(659)), None, "it ends by itself");
    }

    #[test]
    fn failures_that_are_far_apart_do_not_add_up() {
        let peers = Peers::default();
        for at in 0..20 {
            let struck = peers.strike(0, four(1), &ban(2), S(at * 61));
            assert_eq!(struck, Struck::Counted, "{at}");
        }
    }

    #[test]
    fn a_network_of_ipv6_is_one_peer_and_a_mapped_address_is_the_plain_one() {
        let of = |text: &str| Peer::address(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        let gateway = "spiffe://a/ns/b/sa/edge";
        let through = Peer::through(gateway, "10.0.0.1".parse().unwrap());
        assert!(through != of("10.0.0.1") && through != Peer::Identity(gateway));
    }

    /// A flood of addresses, each banned at once or counted: the table stays as it is, and who was banned stays so.
    #[test]
    fn a_flood_of_addresses_takes_no_memory_and_frees_nobody() {
        let peers = Peers::default();
        let first: Vec<u32> = (0..64).collect();
        for number in &first {
            assert_eq!(
                peers.strike(0, four(*number), &ban(1), S(1)),
                Struck::Banned
            );
        }
        let (mut banned, mut without) = (0, 0);
        for number in 1000..101_000 {
            match peers.strike(0, four(number), &ban(1), S(2)) {
                Struck::Banned => banned += 1,
                Struck::NoRoom => without += 1,
                Struck::Counted => panic!("one failure is enough"),
            }
        }
        assert!(
            banned + first.len() <= PLACES && without > 90_000,
            "{banned} {without}"
        );
        for number in 200_000..300_000 {
            let _ = peers.strike(0, four(number), &ban(3), S(3));
        }
        assert!(
            first
                .iter()
                .all(|one| peers.banned(four(*one), S(4)).is_some())
        );
        assert_eq!(peers.places.len(), PLACES);
        assert!((300_000..310_000).all(|one| peers.banned(four(one), S(4)).is_none()));
        // When they are over there is room again.
        let later = S(700);
        assert_eq!(peers.strike(0, four(5), &ban(1), later), Struck::Banned);
    }

    #[test]
    fn who_is_vouched_for_is_so_for_a_time() {
        let (peers, here) = (Peers::default(), IpAddr::from([10, 0, 0, 1]));
        assert!(!peers.is_vouched(here, S(1)));
        peers.vouch(here, S(100), S(1));
        peers.vouch(here, S(200), S(50));
        assert!(peers.is_vouched(here, S(150)) && !peers.is_vouched(here, S(200)));
    }
}
