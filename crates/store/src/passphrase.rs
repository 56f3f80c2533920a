//! From a passphrase to a key: Argon2id (RFC 9106), with its cost and salt beside what it locks.
//!
//! Why Argon2id and not PBKDF2: guessing costs memory too, so a graphics card gains little. A key of chance in a file
//! (a systemd credential, 32 bytes of /dev/urandom) goes the same way: one way in, and the cost does not hurt it.
//!
//! Invariants: a passphrase is never printed and is wiped from memory; costs read from a file are bounded, so a
//! hostile file cannot make us allocate without end.

use crate::Error;
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::rand;
use std::fmt;
use zeroize::Zeroizing;

/// Bytes of a derived key.
pub(crate) const KEY: usize = 32;
/// Bytes of a salt.
pub(crate) const SALT: usize = 16;
/// Longest passphrase; a key file by mistake of some other kind is not read whole.
const LONGEST: usize = 4096;
/// Most memory that a file may ask for, in KiB.
const MOST_MEMORY: u32 = 1 << 20;
/// Most passes that a file may ask for.
const MOST_PASSES: u32 = 64;

/// What somebody knows, or a key in a file.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Takes the bytes of a file or of what was typed; a line break at the end is not part of it.
    ///
    /// # Errors
    /// When it is empty or longer than 4096 bytes.
    pub fn new(bytes: Vec<u8>) -> Result<Self, Error> {
        let mut bytes = Zeroizing::new(bytes);
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.is_empty() || bytes.len() > LONGEST {
            return Err(Error::Invalid(format!(
                "a passphrase has 1 to {LONGEST} bytes, this one has {}",
                bytes.len()
            )));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Passphrase {
    /// Without the passphrase.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

/// How much a guess costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) memory_kib: u32,
    pub(crate) passes: u32,
}

impl Cost {
    /// 64 MiB and three passes: the second choice of RFC 9106, about 0.2 s.
    pub(crate) const USUAL: Self = Self {
        memory_kib: 64 << 10,
        passes: 3,
    };
}

/// A salt of chance.
pub(crate) fn salt() -> Result<[u8; SALT], Error> {
    let mut salt = [0; SALT];
    rand::fill(&mut salt)
        .map_err(|_| Error::Invalid("no random numbers from the system".to_owned()))?;
    Ok(salt)
}

/// The key of a passphrase.
pub(crate) fn key(
    passphrase: &Passphrase,
    salt: &[u8],
    cost: Cost,
) -> Result<Zeroizing<[u8; KEY]>, Error> {
    let bad = |why: String| Error::Invalid(format!("deriving a key: {why}"));
    if cost.memory_kib > MOST_MEMORY || cost.passes > MOST_PASSES {
        return Err(bad(format!(
            "the file asks for {} KiB and {} passes, at most {MOST_MEMORY} and {MOST_PASSES} are believed",
            cost.memory_kib, cost.passes
        )));
    }
    let params = Params::new(cost.memory_kib, cost.passes, 1, Some(KEY))
        .map_err(|error| bad(error.to_string()))?;
    let mut key = Zeroizing::new([0; KEY]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(&passphrase.0, salt, key.as_mut_slice())
        .map_err(|error| bad(error.to_string()))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::{Cost, Passphrase, key};

    const CHEAP: Cost = Cost {
        memory_kib: 64,
        passes: 1,
    };

    #[test]
    fn a_key_depends_on_passphrase_salt_and_cost() {
        let word = |text: &str| Passphrase::new(text.as_bytes().to_vec()).unwrap();
        let one = key(&word("a"), &[1; 16], CHEAP).unwrap();
        assert_eq!(key(&word("a\n"), &[1; 16], CHEAP).unwrap(), one);
        assert_ne!(key(&word("b"), &[1; 16], CHEAP).unwrap(), one);
        assert_ne!(key(&word("a"), &[2; 16], CHEAP).unwrap(), one);
        let dearer = Cost { passes: 2, ..CHEAP };
        assert_ne!(key(&word("a"), &[1; 16], dearer).unwrap(), one);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Passphrase::new(b"\n".to_vec()).is_err());
        assert!(Passphrase::new(vec![b'x'; 5000]).is_err());
        let word = Passphrase::new(b"a".to_vec()).unwrap();
        let endless = Cost {
            memory_kib: u32::MAX,
            passes: 1,
        };
        assert!(key(&word, &[1; 16], endless).is_err());
        assert_eq!(format!("{word:?}"), "Passphrase");
    }
}
