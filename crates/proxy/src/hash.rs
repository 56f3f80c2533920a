//! A quick hash for keys that come from our own configuration (clusters, addresses, versions), never from a caller.
//!
//! Multiply and rotate over the words of a key: a few instructions instead of SipHash's hundred, on maps that every
//! request looks into. Nobody outside can choose the keys, so flooding is no concern.

use std::hash::{BuildHasherDefault, Hasher};

/// A map with quick hashing.
pub(crate) type QuickMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<Quick>>;

/// The hasher.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Quick(u64);

/// The hash of one value.
pub(crate) fn of(value: &impl std::hash::Hash) -> u64 {
    let mut hasher = Quick::default();
    value.hash(&mut hasher);
    hasher.finish()
}

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Quick {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    }
}

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.add(u64::from_le_bytes(last) ^ (rest.len() as u64) << 56);
    }
    fn write_u8(&mut self, n: u8) {
        self.add(n.into());
    }
    fn write_u16(&mut self, n: u16) {
        self.add(n.into());
    }
    fn write_u32(&mut self, n: u32) {
        self.add(n.into());
    }
    fn write_u64(&mut self, n: u64) {
        self.add(n);
    }
    fn write_usize(&mut self, n: usize) {
        self.add(n as u64);
    }
    fn write_isize(&mut self, n: isize) {
        self.add(n.cast_unsigned() as u64);
    }
    /// The high bits are the mixed ones, and the map takes its bucket from the low ones.
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::Quick;
    use std::collections::BTreeSet;
    use std::hash::{Hash, Hasher};
    use std::net::SocketAddr;

    #[test]
    fn neighbouring_addresses_spread_over_buckets() {
        let mut buckets = BTreeSet::new();
        for port in 0..1024u16 {
            let mut hasher = Quick::default();
            SocketAddr::from(([127, 0, 0, 1], 30_000 + port)).hash(&mut hasher);
            buckets.insert(hasher.finish() & 1023);
        }
        // A random function fills 647 of 1,024.
        assert!(buckets.len() > 500, "{}", buckets.len());
    }
}
