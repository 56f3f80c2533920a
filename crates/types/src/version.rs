//! Content versions: a 128-bit hash over our own model, never over encoded protobuf (its map order varies).

use std::fmt;
use std::hash::Hasher;
use xxhash_rust::xxh3::Xxh3;

/// Version of one compiled resource. Equal content, equal version, on every replica and after every restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(u128);

impl Version {
    /// Hashes `content`, a serialisation whose order is fixed, together with the compiler's format number.
    #[must_use]
    pub fn of(format: u32, content: &[u8]) -> Self {
        let mut hasher = Xxh3::new();
        hasher.write(&format.to_be_bytes());
        hasher.write(content);
        Self(hasher.digest128())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
