//! Workload ids: ULIDs, never reused, carried in the certificate's subject CN.

use std::fmt;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A ULID: 48 bits of milliseconds, 80 bits of chance, written as 26 characters that sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ulid(u128);

impl Ulid {
    /// From the time in milliseconds since 1970 and 80 random bits (higher bits are ignored).
    #[must_use]
    pub const fn new(millis: u64, random: u128) -> Self {
        Self((millis as u128 & 0xffff_ffff_ffff) << 80 | random & ((1 << 80) - 1))
    }

    /// All 128 bits.
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// From all 128 bits.
    #[must_use]
    pub const fn of_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// Reads the 26-character form; `None` for every other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 26 || text.as_bytes()[0] > b'7' {
            return None;
        }
        text.bytes()
            .try_fold(0u128, |value, byte| {
                let digit = ALPHABET.iter().position(|a| *a == byte)?;
                Some(value << 5 | digit as u128)
            })
            .map(Self)
    }
}

impl fmt::Display for Ulid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (0..26).rev().try_for_each(|place| {
            let digit = usize::try_from(self.0 >> (5 * place) & 31).unwrap_or(0);
            write!(f, "{}", char::from(ALPHABET[digit]))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Ulid;

    #[test]
    fn ulids_round_trip_and_sort_by_time() {
        let (old, new) = (
            Ulid::new(1_700_000_000_000, u128::MAX),
            Ulid::new(1_700_000_000_001, 0),
        );
        assert!(old.to_string() < new.to_string());
        assert_eq!(Ulid::parse(&old.to_string()), Some(old));
        for bad in [
            "",
            "01",
            "8ZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "0123456789012345678901234I",
        ] {
            assert_eq!(Ulid::parse(bad), None, "{bad}");
        }
    }
}
