//! A root whose key is in hardware: what this crate asks of it is a public point and signatures over digests. How the
//! hardware is reached is somebody else's (the `naka` command opens PKCS#11 modules; the proxy carries none of it).
//!
//! Invariants: every certificate made here was verified with the public key before it is handed on, so that a device
//! that answers nonsense is an error and no broken root.
//! Not here: keys that are not on P-256 or P-384.

use crate::Error;
use aws_lc_rs::digest::{SHA256, SHA384, digest};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData, SigningKey};
use std::sync::{Mutex, PoisonError};

/// A key that signs where it is and is never seen.
pub trait TokenKey {
    /// The public key: an uncompressed point on P-256 (65 bytes) or P-384 (97 bytes).
    fn point(&self) -> &[u8];

    /// The signature over a digest (SHA-256 on P-256, SHA-384 on P-384): both numbers, of equal length, big endian.
    ///
    /// # Errors
    /// What the device says, in words.
    fn sign(&self, digest: &[u8]) -> Result<Vec<u8>, String>;
}

/// As the certificate library wants it.
pub(super) struct Remote<'a> {
    key: &'a dyn TokenKey,
    algorithm: &'static rcgen::SignatureAlgorithm,
    /// The library's error has no room for words.
    said: Mutex<Option<String>>,
}

impl<'a> Remote<'a> {
    pub(super) fn new(key: &'a dyn TokenKey) -> Result<Self, Error> {
        let algorithm = match (key.point().len(), key.point().first()) {
            (65, Some(4)) => &PKCS_ECDSA_P256_SHA256,
            (97, Some(4)) => &PKCS_ECDSA_P384_SHA384,
            _ => {
                return Err(Error::Authority(
                    "the key in the token is not on P-256 or P-384".to_owned(),
                ));
            }
        };
        Ok(Self {
            key,
            algorithm,
            said: Mutex::new(None),
        })
    }

    /// An error of the library, with what the device said where it was the reason.
    pub(super) fn told(&self, error: Error) -> Error {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.clone().map_or(error, Error::Authority)
    }
}

impl PublicKeyData for Remote<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.key.point()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.algorithm
    }
}

impl SigningKey for Remote<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let wide = self.key.point().len() == 97;
        let hashed = digest(if wide { &SHA384 } else { &SHA256 }, message);
        self.key
            .sign(hashed.as_ref())
            .and_then(|numbers| der(&numbers, if wide { 48 } else { 32 }))
            .map_err(|why| {
                *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                rcgen::Error::RemoteKeyError
            })
    }
}

/// Both numbers as X.509 has them: SEQUENCE of two INTEGERs (RFC 3279 2.2.3).
fn der(numbers: &[u8], size: usize) -> Result<Vec<u8>, String> {
    if numbers.len() != 2 * size {
        let count = numbers.len();
        return Err(format!(
            "the token gave a signature of {count} bytes instead of {}",
            2 * size
        ));
    }
    let (r, s) = numbers.split_at(size);
    let mut body = integer(r);
    body.extend(integer(s));
    // At most 2 * (48 + 3): one byte of length is enough.
    let mut all = vec![0x30, u8::try_from(body.len()).unwrap_or(u8::MAX)];
    all.extend(body);
    Ok(all)
}

/// A positive INTEGER, as short as it can be.
fn integer(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let digits = &number[zeros.min(number.len().saturating_sub(1))..];
    let sign = digits.first().is_some_and(|first| first & 0x80 != 0);
    let length = digits.len() + usize::from(sign);
    let mut all = vec![0x02, u8::try_from(length).unwrap_or(u8::MAX)];
    all.extend(sign.then_some(0));
    all.extend_from_slice(digits);
    all
}

#[cfg(test)]
mod tests {
    use super::{der, integer};

    #[test]
    fn numbers_are_positive_and_short() {
        assert_eq!(integer(&[0, 0, 1]), [2, 1, 1]);
        assert_eq!(integer(&[0, 0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[0, 0]), [2, 1, 0]);
        assert_eq!(der(&[0, 1, 0x80, 0], 2).unwrap()[..2], [0x30, 8]);
        assert!(der(&[1; 63], 32).is_err());
    }
}
