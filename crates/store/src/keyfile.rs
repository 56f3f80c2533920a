//! `seal.key` (0600): the sealing key, as it is or locked by a passphrase.
//!
//! The key that seals is always of chance; a passphrase locks the key, not the secrets, so a change of passphrase is a
//! change of key all the same, and an old passphrase with an old file opens nothing that is written now. A systemd
//! credential is a passphrase in a file.
//!
//! While the key is changed the file holds both, the new one first; which of them the log is sealed with, the log says
//! itself. Older than format 2 was the plain key behind the magic; it is read, and replaced at the next change without
//! a copy: a copy of a key is what a change is to get rid of.

use crate::passphrase::{self, Cost, Passphrase};
use crate::{Error, place};
use aws_lc_rs::aead::{
    AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, RandomizedNonceKey, UnboundKey,
};
use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fmt::Write as _;
use std::path::Path;
use zeroize::Zeroizing;

/// Name in the mesh directory.
pub(crate) const FILE: &str = "seal.key";
const MAGIC: &[u8; 7] = b"NAKASEA";
const FORMAT: u8 = 2;
const KEY: usize = 32;

/// What locks the sealing key from its next change on.
#[derive(Debug, Clone)]
pub enum Lock {
    /// What locks it now.
    Same,
    /// Nothing but the mode of its file.
    Plain,
    /// A passphrase.
    Passphrase(Passphrase),
}

/// How Secrets are sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sealing {
    /// Name of the key, from its hash.
    pub key: String,
    /// Whether a passphrase locks it.
    pub locked: bool,
    /// Secrets that are sealed with it.
    pub secrets: usize,
}

/// A sealing key that is open.
#[derive(Clone)]
pub(crate) struct SealKey {
    pub(crate) aead: std::sync::Arc<RandomizedNonceKey>,
    /// Name of the key.
    pub(crate) id: String,
    material: Zeroizing<Vec<u8>>,
    /// What locks it.
    pub(crate) passphrase: Option<Passphrase>,
}

impl fmt::Debug for SealKey {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl SealKey {
    fn of(material: Zeroizing<Vec<u8>>, passphrase: Option<Passphrase>) -> Result<Self, Error> {
        let aead = RandomizedNonceKey::new(&AES_256_GCM, &material)
            .map_err(|_| Error::Invalid("the sealing key is not usable as a key".to_owned()))?;
        let mut hashed = digest::Context::new(&digest::SHA256);
        hashed.update(b"naka sealing key");
        hashed.update(&material);
        let mut id = String::new();
        for byte in &hashed.finish().as_ref()[..8] {
            // Writing to a String cannot fail.
            let _ = write!(id, "{byte:02x}");
        }
        Ok(Self {
            aead: std::sync::Arc::new(aead),
            id,
            material,
            passphrase,
        })
    }

    /// A key of chance.
    pub(crate) fn fresh(passphrase: Option<Passphrase>) -> Result<Self, Error> {
        let mut material = Zeroizing::new(vec![0; KEY]);
        rand::fill(&mut material)
            .map_err(|_| Error::Invalid("no random numbers from the system".to_owned()))?;
        Self::of(material, passphrase)
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    keys: Vec<Entry>,
}

/// One key: plain, or sealed by what a passphrase gives with this salt and cost.
#[derive(Serialize, Deserialize)]
struct Entry {
    id: String,
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lock: Option<Locked>,
}

#[derive(Serialize, Deserialize)]
struct Locked {
    salt: String,
    memory_kib: u32,
    passes: u32,
    nonce: String,
}

fn kek(passphrase: &Passphrase, salt: &[u8], cost: Cost) -> Result<LessSafeKey, Error> {
    let key = passphrase::key(passphrase, salt, cost)?;
    UnboundKey::new(&AES_256_GCM, key.as_slice())
        .map(LessSafeKey::new)
        .map_err(|_| Error::Invalid("the derived key is not usable".to_owned()))
}

impl Entry {
    fn of(key: &SealKey) -> Result<Self, Error> {
        let mut bytes = Zeroizing::new(key.material.to_vec());
        let mut lock = None;
        if let Some(passphrase) = &key.passphrase {
            let (salt, cost) = (passphrase::salt()?, Cost::USUAL);
            let failed = |_| Error::Invalid("locking the sealing key failed".to_owned());
            let mut nonce = [0; NONCE_LEN];
            rand::fill(&mut nonce).map_err(failed)?;
            kek(passphrase, &salt, cost)?
                .seal_in_place_append_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(key.id.as_bytes()),
                    &mut *bytes,
                )
                .map_err(failed)?;
            lock = Some(Locked {
                salt: BASE64.encode(salt),
                memory_kib: cost.memory_kib,
                passes: cost.passes,
                nonce: BASE64.encode(nonce),
            });
        }
        Ok(Self {
            id: key.id.clone(),
            key: BASE64.encode(&*bytes),
            lock,
        })
    }

    fn open(&self, passphrase: Option<&Passphrase>) -> Result<SealKey, String> {
        let damaged = || "not a seal key; restore it from a backup".to_owned();
        let decode = |text: &str| BASE64.decode(text).map_err(|_| damaged());
        let mut bytes = Zeroizing::new(decode(&self.key)?);
        let mut used = None;
        if let Some(lock) = &self.lock {
            let passphrase = passphrase.ok_or(
                "the sealing key is locked: start with --seal-passphrase-file FILE, or with the systemd credential \
                 naka-seal",
            )?;
            let cost = Cost {
                memory_kib: lock.memory_kib,
                passes: lock.passes,
            };
            let kek = kek(passphrase, &decode(&lock.salt)?, cost).map_err(|e| e.to_string())?;
            let nonce =
                Nonce::try_assume_unique_for_key(&decode(&lock.nonce)?).map_err(|_| damaged())?;
            let length = kek
                .open_in_place(nonce, Aad::from(self.id.as_bytes()), &mut bytes)
                .map_err(|_| "the passphrase is not the one that locks the sealing key")?
                .len();
            bytes.truncate(length);
            used = Some(passphrase.clone());
        }
        if bytes.len() != KEY {
            return Err(damaged());
        }
        SealKey::of(bytes, used).map_err(|error| error.to_string())
    }
}

/// Writes the file with these keys, the one in use or to be in use first.
pub(crate) fn save(dir: &Path, keys: &[&SealKey]) -> Result<(), Error> {
    let keys = keys
        .iter()
        .map(|key| Entry::of(key))
        .collect::<Result<Vec<_>, _>>()?;
    let text = serde_json::to_vec(&Stored { keys })
        .map(Zeroizing::new)
        .map_err(|error| Error::Invalid(error.to_string()))?;
    place::replace(dir, FILE, &[MAGIC, &[FORMAT], &text])
}

/// Opens the key, or makes one when there is none and `may_create`. Where the file holds two, a change was cut off:
/// `used` says which of them the log is sealed with, and the other is forgotten if `settle`.
pub(crate) fn open(
    dir: &Path,
    may_create: bool,
    passphrase: Option<&Passphrase>,
    settle: bool,
    used: impl Fn(&[&str]) -> Option<usize>,
) -> Result<SealKey, Error> {
    let path = dir.join(FILE);
    let bad = |why: &str| Error::Invalid(format!("{}: {why}", path.display()));
    let Some(bytes) = place::read(&path)?.map(Zeroizing::new) else {
        if !may_create {
            return Err(bad(
                "the log holds secrets but their key is missing; restore it from a backup",
            ));
        }
        let key = SealKey::fresh(passphrase.cloned())?;
        save(dir, &[&key])?;
        return Ok(key);
    };
    match bytes.strip_prefix(MAGIC) {
        Some([1, key @ ..]) if key.len() == KEY => SealKey::of(Zeroizing::new(key.to_vec()), None),
        Some([FORMAT, text @ ..]) => {
            let stored: Stored = serde_json::from_slice(text)
                .map_err(|_| bad("not a seal key; restore it from a backup"))?;
            let ids: Vec<&str> = stored.keys.iter().map(|key| key.id.as_str()).collect();
            let place = match ids.len() {
                1 => 0,
                _ => used(&ids).unwrap_or(ids.len().saturating_sub(1)),
            };
            let entry = stored
                .keys
                .get(place)
                .ok_or_else(|| bad("it holds no key; restore it from a backup"))?;
            let key = entry.open(passphrase).map_err(|why| bad(&why))?;
            if ids.len() > 1 && settle {
                save(dir, &[&key])?;
            }
            Ok(key)
        }
        Some([format, ..]) if *format > FORMAT => Err(Error::NewerFormat {
            file: path.display().to_string(),
            found: u32::from(*format),
            known: u32::from(FORMAT),
        }),
        _ => Err(bad("not a seal key; restore it from a backup")),
    }
}

#[cfg(test)]
mod tests {
    use super::{FILE, Passphrase, SealKey, open, save};

    fn word(text: &str) -> Passphrase {
        Passphrase::new(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_locked_key_opens_with_its_passphrase_only() {
        let dir = tempfile::tempdir().unwrap();
        let made = open(dir.path(), true, Some(&word("a")), true, |_| None).unwrap();
        let text = std::fs::read(dir.path().join(FILE)).unwrap();
        let key = made.material.as_slice();
        assert!(!text.windows(key.len()).any(|part| part == key));
        assert_eq!(
            open(dir.path(), false, Some(&word("a")), true, |_| None)
                .unwrap()
                .id,
            made.id
        );
        for (given, says) in [(None, "is locked"), (Some(word("b")), "not the one")] {
            let refused = open(dir.path(), true, given.as_ref(), true, |_| None).unwrap_err();
            assert!(refused.to_string().contains(says), "{refused}");
        }
        save(dir.path(), &[&SealKey::fresh(None).unwrap()]).unwrap();
        assert!(
            open(dir.path(), false, None, true, |_| None).is_ok(),
            "the twin is plain"
        );
    }

    #[test]
    fn old_files_are_read_newer_and_broken_ones_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut old = b"NAKASEA\x01".to_vec();
        old.extend([7; 32]);
        std::fs::write(&path, old).unwrap();
        assert_eq!(
            open(dir.path(), false, None, true, |_| None)
                .unwrap()
                .material[..],
            [7; 32]
        );
        for (text, says) in [
            (&b"short"[..], "not a seal key"),
            (b"NAKASEA\x02{}", "not a seal key"),
            (b"NAKASEA\x02{\"keys\":[]}", "holds no key"),
            (b"NAKASEA\x03 newer", "use a newer naka"),
        ] {
            std::fs::write(&path, text).unwrap();
            let refused = open(dir.path(), true, None, true, |_| None).unwrap_err();
            assert!(refused.to_string().contains(says), "{refused}");
            assert_eq!(std::fs::read(&path).unwrap(), text, "left alone");
        }
    }
}
