//! Public keys as a JSON Web Key Set (RFC 7517): what tokens are verified with.
//!
//! Only what can verify and nothing else is kept: private parts, shared secrets (`oct`), keys for encryption, RSA below
//! 2048 bits and curves that nobody here knows are left out, with a word on why. So a set that was read and written
//! again can be handed to any proxy, and no token can be made with what stands in it.
//!
//! Not here: the cryptography (`naka-engine`), where sets come from (`naka-control`).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use std::fmt;
use std::sync::Arc;

mod uri;

pub use uri::{Invalid as InvalidUri, KeyUri};

/// A set longer than this is not read.
pub const MAX_BYTES: usize = 256 * 1024;
/// Keys of a set beyond this are not read.
pub const MAX_KEYS: usize = 100;
/// Smallest modulus of RSA, in bytes.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// A set of public keys with at least one in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeySet {
    keys: Box<[Key]>,
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Its name (`kid`).
    pub id: Option<Arc<str>>,
    /// The only algorithm it is for (`alg`, or the only one of its curve); `None`: any that fits.
    pub algorithm: Option<Algorithm>,
    /// The key itself.
    pub public: Public,
}

/// Numbers of a public key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Public {
    /// Modulus and exponent, big-endian without leading zeros.
    Rsa {
        /// Modulus.
        modulus: Box<[u8]>,
        /// Exponent.
        exponent: Box<[u8]>,
    },
    /// A point of a curve, uncompressed.
    Ec(Curve, Box<[u8]>),
    /// Ed25519.
    Ed25519(Box<[u8]>),
}

/// A curve of ECDSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Curve {
    /// secp256r1.
    P256,
    /// secp384r1.
    P384,
    /// secp521r1.
    P521,
}

impl Curve {
    const ALL: [(&'static str, Self, usize); 3] = [
        ("P-256", Self::P256, 32),
        ("P-384", Self::P384, 48),
        ("P-521", Self::P521, 66),
    ];
}

/// How a token is signed. Without `none` and without shared secrets, so that neither can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSA, PKCS #1 v1.5.
    Rs(Hash),
    /// RSA, PSS.
    Ps(Hash),
    /// ECDSA over the curve that goes with the hash.
    Es(Hash),
    /// Ed25519.
    EdDsa,
}

/// SHA-2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    const ALL: [(&'static str, Self); 10] = [
        ("RS256", Self::Rs(Hash::Sha256)),
        ("RS384", Self::Rs(Hash::Sha384)),
        ("RS512", Self::Rs(Hash::Sha512)),
        ("PS256", Self::Ps(Hash::Sha256)),
        ("PS384", Self::Ps(Hash::Sha384)),
        ("PS512", Self::Ps(Hash::Sha512)),
        ("ES256", Self::Es(Hash::Sha256)),
        ("ES384", Self::Es(Hash::Sha384)),
        ("ES512", Self::Es(Hash::Sha512)),
        ("EdDSA", Self::EdDsa),
    ];

    /// From its name in a token or a key.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find(|(known, _)| *known == name).map(|(_, own)| *own)
    }

    /// Whether a key can have made such a signature. This, not the token, decides what is computed.
    #[must_use]
    pub fn fits(self, key: &Key) -> bool {
        let kind = match (self, &key.public) {
            (Self::Rs(_) | Self::Ps(_), Public::Rsa { .. }) => true,
            (Self::Es(hash), Public::Ec(curve, _)) => matches!(
                (hash, curve),
                (Hash::Sha256, Curve::P256)
                    | (Hash::Sha384, Curve::P384)
                    | (Hash::Sha512, Curve::P521)
            ),
            (Self::EdDsa, Public::Ed25519(_)) => true,
            _ => false,
        };
        kind && key.algorithm.is_none_or(|only| only == self)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = Self::ALL.iter();
        f.write_str(
            all.find(|(_, own)| own == self)
                .map_or("", |(name, _)| name),
        )
    }
}

/// Why a text is no set of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Longer than is read.
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// No JSON.
    #[error("it is not JSON")]
    NotJson,
    /// JSON of another form.
    #[error("it has no list \"keys\"")]
    NoKeys,
    /// No key that can verify.
    #[error("none of its keys can verify a token{}", .0.first().map(|why| format!(": {why}")).unwrap_or_default())]
    NoneUsable(Vec<String>),
}

impl KeySet {
    /// Reads a set, and says what of it is left out.
    ///
    /// # Errors
    /// [`Invalid`] when there is no key that can verify.
    pub fn parse(text: &str) -> Result<(Self, Vec<String>), Invalid> {
        if text.len() > MAX_BYTES {
            return Err(Invalid::TooLong);
        }
        let value: Value = serde_json::from_str(text).map_err(|_| Invalid::NotJson)?;
        let all = value.get("keys").and_then(Value::as_array);
        let all = all.ok_or(Invalid::NoKeys)?;
        let mut keys = Vec::new();
        let mut left = Vec::new();
        for (index, one) in all.iter().enumerate() {
            match one.as_object().ok_or("it is no object").and_then(key) {
                Ok(_) if keys.len() == MAX_KEYS => {
                    left.push(format!("keys[{index}]: more than {MAX_KEYS} keys"));
                    break;
                }
                Ok(key) => keys.push(key),
                Err(why) => left.push(format!("keys[{index}]: {why}")),
            }
        }
        if keys.is_empty() {
            return Err(Invalid::NoneUsable(left));
        }
        let keys = keys.into();
        Ok((Self { keys }, left))
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The set as JSON: what was kept of it.
    #[must_use]
    pub fn to_json(&self) -> String {
        let keys: Vec<Value> = self.keys.iter().map(Key::to_json).collect();
        json!({ "keys": keys }).to_string()
    }
}

impl Key {
    fn to_json(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut out = match &self.public {
            Public::Rsa { modulus, exponent } => {
                json!({"kty": "RSA", "n": text(modulus), "e": text(exponent)})
            }
            Public::Ec(curve, point) => {
                let half = (point.len() - 1) / 2;
                let mut known = Curve::ALL.iter();
                let name = known
                    .find(|(_, own, _)| own == curve)
                    .map(|(name, ..)| name);
                json!({"kty": "EC", "crv": name, "x": text(&point[1..=half]), "y": text(&point[half + 1..])})
            }
            Public::Ed25519(point) => json!({"kty": "OKP", "crv": "Ed25519", "x": text(point)}),
        };
        if let Some(id) = &self.id {
            out["kid"] = json!(&**id);
        }
        if let Some(algorithm) = self.algorithm {
            out["alg"] = json!(algorithm.to_string());
        }
        out
    }
}

fn key(json: &Map<String, Value>) -> Result<Key, &'static str> {
    let text = |name: &str| json.get(name).and_then(Value::as_str);
    if text("use").is_some_and(|of| of != "sig") {
        return Err("it is not for signatures (use)");
    }
    let algorithm = match text("alg") {
        None => None,
        Some(name) => Some(Algorithm::parse(name).ok_or("its algorithm is not supported (alg)")?),
    };
    let bytes = |name: &str| {
        let text = text(name).ok_or("a part of the key is missing")?;
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
        bytes.map_err(|_| "a part of the key is not base64url")
    };
    let public = match text("kty") {
        Some("RSA") => {
            let number = |name| {
                let mut bytes = bytes(name)?;
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                bytes.drain(..zeros);
                Ok::<_, &'static str>(bytes.into_boxed_slice())
            };
            let (modulus, exponent) = (number("n")?, number("e")?);
            if !RSA_BYTES.contains(&modulus.len()) {
                return Err("RSA must have from 2048 to 8192 bits");
            }
            Public::Rsa { modulus, exponent }
        }
        Some("EC") => {
            let mut known = Curve::ALL.into_iter();
            let found = known.find(|(name, ..)| Some(*name) == text("crv"));
            let (_, curve, length) = found.ok_or("its curve is not P-256, P-384 or P-521")?;
            let (x, y) = (bytes("x")?, bytes("y")?);
            if x.len() != length || y.len() != length {
                return Err("its point has the wrong length for its curve");
            }
            Public::Ec(curve, [&[4][..], &x, &y].concat().into())
        }
        Some("OKP") => {
            let point = bytes("x")?;
            if text("crv") != Some("Ed25519") || point.len() != 32 {
                return Err("of OKP only Ed25519 is supported");
            }
            Public::Ed25519(point.into())
        }
        Some("oct") => {
            return Err(
                "it is a shared secret: whoever can verify with it can make tokens, so only public keys are taken",
            );
        }
        _ => return Err("its type is not RSA, EC or OKP (kty)"),
    };
    // A curve has one algorithm. Saying so keeps an Envoy, which goes by the key alone, from taking a wrong name.
    let only = match &public {
        Public::Rsa { .. } => None,
        Public::Ec(Curve::P256, _) => Some(Algorithm::Es(Hash::Sha256)),
        Public::Ec(Curve::P384, _) => Some(Algorithm::Es(Hash::Sha384)),
        Public::Ec(Curve::P521, _) => Some(Algorithm::Es(Hash::Sha512)),
        Public::Ed25519(_) => Some(Algorithm::EdDsa),
    };
    let key = Key {
        id: text("kid").map(Arc::from),
        algorithm: algorithm.or(only),
        public,
    };
    if key.algorithm.is_some_and(|only| !only.fits(&key)) {
        return Err("its algorithm does not go with its type");
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EC: &str = r#"{"kty":"EC","crv":"P-256","kid":"a","alg":"ES256","use":"sig","d":"AAAA","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    const ED: &str =
        r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    fn set(keys: &str) -> Result<(KeySet, Vec<String>), Invalid> {
        KeySet::parse(&format!("{{\"keys\":[{keys}]}}"))
    }

    #[test]
    fn what_is_read_is_written_without_secrets_and_reads_the_same() {
        let (keys, left) = set(&format!("{EC},{ED}")).unwrap();
        assert!(left.is_empty(), "{left:?}");
        let text = keys.to_json();
        assert!(!text.contains("\"d\""), "{text}");
        assert_eq!(KeySet::parse(&text).unwrap().0, keys);
        assert_eq!(keys.keys()[0].id.as_deref(), Some("a"));
    }

    #[test]
    fn what_cannot_verify_or_could_sign_is_left_out_with_a_word() {
        let short = URL_SAFE_NO_PAD.encode([255; 128]);
        for (key, word) in [
            (
                r#"{"kty":"oct","k":"c2VjcmV0"}"#.to_owned(),
                "shared secret",
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{short}","e":"AQAB"}}"#),
                "2048",
            ),
            (EC.replace("\"sig\"", "\"enc\""), "use"),
            (EC.replace("ES256", "HS256"), "alg"),
            (EC.replace("ES256", "RS256"), "does not go"),
            (EC.replace("P-256", "P-384"), "length"),
            (EC.replace("P-256", "secp256k1"), "curve"),
            (
                r#"{"kty":"EC","crv":"P-256","x":"AA"}"#.to_owned(),
                "missing",
            ),
            ("1".to_owned(), "object"),
        ] {
            let (keys, left) = set(&format!("{ED},{key}")).unwrap();
            assert_eq!(keys.keys().len(), 1, "{key}");
            assert!(left[0].contains(word), "{key}: {left:?}");
            assert!(matches!(set(&key), Err(Invalid::NoneUsable(_))), "{key}");
        }
        assert_eq!(KeySet::parse("{}").unwrap_err(), Invalid::NoKeys);
        assert_eq!(KeySet::parse("no").unwrap_err(), Invalid::NotJson);
    }

    #[test]
    fn the_key_decides_what_a_signature_can_be() {
        let (keys, _) = set(&format!("{EC},{ED}")).unwrap();
        let fits = |name: &str| {
            let algorithm = Algorithm::parse(name)?;
            keys.keys().iter().position(|key| algorithm.fits(key))
        };
        assert_eq!(fits("ES256"), Some(0));
        assert_eq!(fits("EdDSA"), Some(1));
        for other in ["RS256", "ES384", "HS256", "none", "None", "nOnE", ""] {
            assert_eq!(fits(other), None, "{other}");
        }
    }
}
