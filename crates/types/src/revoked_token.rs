//! Tokens of users (JWT) that are refused although their time is not over.
//!
//! A token is named by its issuer and its `jti`. The list has a fingerprint of both, 16 bytes of a SHA-256, so that it
//! costs a proxy the same whatever an issuer calls its tokens, and says nothing to whoever reads it.
//!
//! The text has a line for each, in hexadecimal. Not here: the hash (whoever has one makes the fingerprint of
//! [`material`]), who decides, and when an entry is not needed any more.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// More than any issuer takes back within the life of its tokens.
pub const MOST: usize = 100_000;

/// The beginning of a SHA-256 of [`material`].
pub type Fingerprint = [u8; 16];

/// What a fingerprint is of. An issuer is one line: no other pair gives the same text.
#[must_use]
pub fn material(issuer: &str, jti: &str) -> String {
    format!("{}\n{issuer}\n{jti}", issuer.len())
}

/// Why a text is no list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the list of revoked tokens is malformed or too long")]
pub struct Invalid;

/// Fingerprints of tokens that are refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevokedTokens(BTreeSet<Fingerprint>);

impl RevokedTokens {
    /// Reads the text.
    ///
    /// # Errors
    /// [`Invalid`] when a line is none of its kind; half a list is not believed.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let all = text.lines().map(fingerprint);
        let all = all.collect::<Option<BTreeSet<_>>>().ok_or(Invalid)?;
        if all.len() > MOST {
            return Err(Invalid);
        }
        Ok(Self(all))
    }

    /// As text, in order.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::with_capacity(self.0.len() * 33);
        for fingerprint in &self.0 {
            for byte in fingerprint {
                let _ = write!(text, "{byte:02x}");
            }
            text.push('\n');
        }
        text
    }

    /// Adds a token.
    pub fn insert(&mut self, fingerprint: Fingerprint) {
        self.0.insert(fingerprint);
    }

    /// Whether a token is on it.
    #[must_use]
    pub fn contains(&self, fingerprint: &Fingerprint) -> bool {
        self.0.contains(fingerprint)
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A fingerprint from its 32 digits.
#[must_use]
pub fn fingerprint(hex: &str) -> Option<Fingerprint> {
    let digits = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    if hex.len() != 32 || !digits(hex) {
        return None;
    }
    let mut bytes = [0; 16];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{RevokedTokens, fingerprint, material};

    #[test]
    fn a_list_reads_as_it_was_written_and_not_by_halves() {
        let (one, two) = ([1; 16], [0xab; 16]);
        let mut list = RevokedTokens::default();
        list.insert(two);
        list.insert(one);
        let text = list.to_text();
        assert_eq!(text, format!("{}\n{}\n", "01".repeat(16), "ab".repeat(16)));
        let read = RevokedTokens::parse(&text).unwrap();
        assert_eq!(read, list);
        assert!(read.contains(&one) && read.contains(&two) && !read.contains(&[2; 16]));
        assert!(RevokedTokens::parse("").unwrap().is_empty());
        for bad in [
            "x",
            "\n",
            &"AB".repeat(16),
            &"ab".repeat(15),
            &"ab".repeat(17),
        ] {
            assert!(RevokedTokens::parse(bad).is_err(), "{bad:?}");
            assert!(
                RevokedTokens::parse(&format!("{text}{bad}\n")).is_err(),
                "{bad:?}"
            );
        }
        assert_eq!(fingerprint(&"ab".repeat(16)), Some(two));
    }

    #[test]
    fn no_two_tokens_are_named_alike() {
        for (a, b) in [(("a", "b\nc"), ("a\nb", "c")), (("", "\na"), ("\na", ""))] {
            assert_ne!(material(a.0, a.1), material(b.0, b.1));
        }
    }
}
