//! Consistent hashing: the same key leads to the same endpoint, and few keys move when endpoints come or go.
//!
//! Ring and table are laid out point for point as Envoy lays them (xxHash64 of `<address>_<n>` around a ring; Maglev's
//! permutations of a prime table), so that a mesh of both kinds of proxy sends one key to one endpoint. The tests
//! compare them with a real Envoy.

use std::fmt::Write as _;
use std::net::SocketAddr;
use xxhash_rust::xxh64::xxh64;

/// Envoy's upper bound of a ring.
const MAXIMUM: f64 = 8_388_608.0;

/// An endpoint with its share; all shares add up to 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) index: u32,
    pub(super) address: SocketAddr,
    pub(super) share: f64,
}

/// Points of a ring in order, each with the endpoint it belongs to.
pub(super) fn ring(shares: &[Share], minimum: u32) -> Box<[(u64, u32)]> {
    let least = shares.iter().map(|s| s.share).fold(1.0, f64::min);
    if least <= 0.0 {
        return Box::default();
    }
    // The endpoint of the smallest share gets a whole number of points.
    let scale = ((least * f64::from(minimum)).ceil() / least).min(MAXIMUM);
    let mut points = Vec::new();
    let (mut laid, mut target) = (0.0, 0.0);
    let mut key = String::new();
    for one in shares {
        target += scale * one.share;
        let address = one.address.to_string();
        let mut number = 0u64;
        while laid < target {
            key.clear();
            key.push_str(&address);
            key.push('_');
            let _ = write!(key, "{number}");
            points.push((xxh64(key.as_bytes(), 0), one.index));
            number += 1;
            laid += 1.0;
        }
    }
    points.sort_by_key(|(hash, _)| *hash);
    points.into()
}

/// Where on the ring a hash lies: at the first point that is not below it, behind the last one at the first.
pub(super) fn on_ring(points: &[(u64, u32)], hash: u64) -> usize {
    let found = points.partition_point(|(point, _)| *point < hash);
    if found == points.len() { 0 } else { found }
}

struct Entry {
    index: u32,
    offset: u64,
    skip: u64,
    weight: f64,
    target: f64,
    next: u64,
}

/// Maglev's table: for every slot the endpoint it belongs to.
pub(super) fn table(shares: &[Share], size: u32) -> Box<[u32]> {
    let most = shares.iter().map(|s| s.share).fold(0.0, f64::max);
    if most <= 0.0 || size < 2 {
        return Box::default();
    }
    let slots = u64::from(size);
    let mut keys: Vec<(String, &Share)> =
        shares.iter().map(|s| (s.address.to_string(), s)).collect();
    keys.sort_by(|a, b| a.0.cmp(&b.0));
    let mut entries: Vec<Entry> = keys
        .iter()
        .map(|(key, share)| Entry {
            index: share.index,
            offset: xxh64(key.as_bytes(), 0) % slots,
            skip: xxh64(key.as_bytes(), 1) % (slots - 1) + 1,
            weight: share.share,
            target: 0.0,
            next: 0,
        })
        .collect();
    let mut table: Vec<Option<u32>> = vec![None; usize::try_from(size).unwrap_or(0)];
    let (mut filled, mut round) = (0, 0.0);
    while filled < table.len() {
        round += 1.0;
        for entry in &mut entries {
            if filled == table.len() {
                break;
            }
            // Who has the largest share takes a slot in every round, one of a third of it in every third.
            if round * entry.weight < entry.target {
                continue;
            }
            entry.target += most;
            loop {
                // A prime table is visited whole; any other would be walked round for ever.
                if entry.next >= slots {
                    return Box::default();
                }
                let at = (entry.offset + entry.skip * entry.next) % slots;
                entry.next += 1;
                let Some(slot) = usize::try_from(at).ok().and_then(|at| table.get_mut(at)) else {
                    return Box::default();
                };
                if slot.is_none() {
                    *slot = Some(entry.index);
                    filled += 1;
                    break;
                }
            }
        }
    }
    table.into_iter().flatten().collect()
}

/// The slot of a hash; a later attempt is thrown elsewhere, as in Envoy.
pub(super) fn in_table(table: &[u32], hash: u64, attempt: u64) -> usize {
    let hash = if attempt > 0 {
        hash ^ (u64::MAX - attempt + 1)
    } else {
        hash
    };
    let slots = u64::try_from(table.len()).unwrap_or(u64::MAX).max(1);
    usize::try_from(hash % slots).unwrap_or(0)
}
