//! Text form of tokens: `naka1.<kind>.<addresses>.<CA sha256>.<id>.<secret>`.
//!
//! Self-contained, so that the very first connection is verified: whoever holds the token knows where the control
//! plane is and which root it must show. Addresses are comma-separated `host:port`, with `.` written as `_` and
//! `:` kept, because `.` separates the fields. What a token may do is kept by the control plane under its id.

use std::fmt;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Lets a proxy ask for its first certificate.
    Join,
    /// Lets a person or program use the API.
    Api,
}

/// Why a text is no token. The text is not repeated: it is a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a Naka token: expected naka1.<join|api>.<addresses>.<CA sha256>.<id>.<secret>")]
pub struct Invalid;

/// A token as given to a user.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is for.
    pub kind: TokenKind,
    /// `host:port` of the control plane, at least one.
    pub addresses: Vec<String>,
    /// SHA-256 of the root certificate's DER, lower-case hex.
    pub ca_sha256: String,
    /// Public id, under which the control plane keeps what the token may do.
    pub id: String,
    /// The secret.
    pub secret: String,
}

impl Token {
    /// Reads a token.
    ///
    /// # Errors
    /// [`Invalid`] for every other shape.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let ["naka1", kind, addresses, ca_sha256, id, secret] = parts.as_slice() else {
            return Err(Invalid);
        };
        let kind = match *kind {
            "join" => TokenKind::Join,
            "api" => TokenKind::Api,
            _ => return Err(Invalid),
        };
        let addresses: Vec<String> = addresses.split(',').map(|a| a.replace('_', ".")).collect();
        let hex = ca_sha256.len() == 64 && ca_sha256.bytes().all(|b| b.is_ascii_hexdigit());
        let words = [id, secret].iter().all(|w| {
            !w.is_empty()
                && w.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
        if hex && words && addresses.iter().all(|a| a.contains(':')) {
            Ok(Self {
                kind,
                addresses,
                ca_sha256: (*ca_sha256).to_owned(),
                id: (*id).to_owned(),
                secret: (*secret).to_owned(),
            })
        } else {
            Err(Invalid)
        }
    }

    /// The text form, secret included.
    #[must_use]
    pub fn reveal(&self) -> String {
        let kind = match self.kind {
            TokenKind::Join => "join",
            TokenKind::Api => "api",
        };
        let addresses: Vec<String> = self.addresses.iter().map(|a| a.replace('.', "_")).collect();
        format!(
            "naka1.{kind}.{}.{}.{}.{}",
            addresses.join(","),
            self.ca_sha256,
            self.id,
            self.secret
        )
    }
}

impl fmt::Debug for Token {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("kind", &self.kind)
            .field("addresses", &self.addresses)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::Token;

    #[test]
    fn tokens_round_trip_and_hide_their_secret() {
        let text = format!(
            "naka1.join.127_0_0_1:15012,[::1]:15012.{}.01ABC.s3cret",
            "ab".repeat(32)
        );
        let token = Token::parse(&text).unwrap();
        assert_eq!(token.addresses, ["127.0.0.1:15012", "[::1]:15012"]);
        assert_eq!(token.reveal(), text);
        assert!(!format!("{token:?}").contains("s3cret"));
        for bad in [
            "",
            "naka1.join.a.b.c.d",
            "naka2.join.a:1.b.c.d",
            &text.replace("join", "root"),
            &format!("{text}.x"),
        ] {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
    }
}
