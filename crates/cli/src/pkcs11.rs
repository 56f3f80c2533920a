//! Keys in PKCS#11 tokens: where a key is (an RFC 7512 URI) and signing with it. Used by `naka ca` where a root signs,
//! never by a running mesh.
//!
//! The PIN comes from a file that only its owner can read, never from a command line, where every process of the
//! machine sees it. A key that the token would hand out is refused: it would be no better than a file.
//!
//! Not here: RSA keys, keys of intermediates, several tokens of one name.

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use naka_identity::offline::TokenKey;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Object identifier of P-256, DER: the curve of keys that are made here.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const FORM: &str =
    "pkcs11:token=NAME;object=NAME?module-path=/PATH/MODULE.so&pin-source=file:/PATH";

/// Where a key is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    token: String,
    object: String,
    module: PathBuf,
    pin: PathBuf,
}

impl Place {
    /// Reads an RFC 7512 URI. An attribute that has no meaning here is an error: it would narrow what is meant.
    pub(crate) fn read(uri: &str) -> Result<Self, String> {
        let rest = uri
            .strip_prefix("pkcs11:")
            .ok_or_else(|| format!("--key is no PKCS#11 URI; write {FORM}"))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (mut token, mut object, mut module, mut pin) = (None, None, None, None);
        let parts = path.split(';').chain(query.split('&'));
        for part in parts.filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let slot = match name {
                "token" => &mut token,
                "object" => &mut object,
                "module-path" => &mut module,
                "pin-source" => &mut pin,
                "type" if value == "private" => continue,
                "pin-value" => {
                    return Err(
                        "pin-value would show the PIN to every process of this machine; \
                        put it into a file (mode 0600) and write pin-source=file:/PATH"
                            .to_owned(),
                    );
                }
                _ => return Err(format!("{name:?} is not understood in {FORM}")),
            };
            if slot.replace(decoded(name, value)?).is_some() {
                return Err(format!("{name:?} is there twice"));
            }
        }
        let needed = |value: Option<String>, name: &str| {
            value
                .filter(|value| !value.is_empty())
                .ok_or_else(|| format!("{name} is missing; write {FORM}"))
        };
        let pin = needed(pin, "pin-source")?;
        let pin = PathBuf::from(pin.strip_prefix("file:").unwrap_or(&pin));
        let module = PathBuf::from(needed(module, "module-path")?);
        for (name, path) in [("module-path", &module), ("pin-source", &pin)] {
            if !path.is_absolute() {
                return Err(format!(
                    "{name}: {} is not an absolute path",
                    path.display()
                ));
            }
        }
        Ok(Self {
            token: needed(token, "token")?,
            object: needed(object, "object")?,
            module,
            pin,
        })
    }

    /// The PIN, from a file that nobody else can read.
    fn pin(&self) -> Result<AuthPin, String> {
        let path = self.pin.display();
        let told = |error: std::io::Error| format!("{path}: {error} (pin-source)");
        let mode = std::fs::metadata(&self.pin)
            .map_err(told)?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(format!(
                "{path}: others can read the PIN (mode {:04o}); chmod 600 {path}",
                mode & 0o7777
            ));
        }
        let text = std::fs::read_to_string(&self.pin).map_err(told)?;
        Ok(AuthPin::new(text.trim_end_matches(['\r', '\n']).into()))
    }
}

/// Percent-decoding (RFC 3986).
fn decoded(name: &str, value: &str) -> Result<String, String> {
    let wrong = || format!("{name}: {value:?} is not percent-encoded UTF-8");
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let digits = digits.filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        bytes.push(byte.ok_or_else(wrong)?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// A key in a token, with the session that uses it.
pub(crate) struct Key {
    session: Session,
    private: ObjectHandle,
    point: Vec<u8>,
    token: String,
    /// Whether it was made just now.
    pub(crate) made: bool,
}

impl Key {
    /// Finds the key, or makes one on P-256 where that is wanted.
    pub(crate) fn open(place: &Place, make: bool) -> Result<Self, String> {
        let session = session(place)?;
        let token = place.token.clone();
        let told = |error: cryptoki::error::Error| format!("token {token:?}: {error}");
        let named = |class| {
            let label = Attribute::Label(place.object.clone().into_bytes());
            session
                .find_objects(&[Attribute::Class(class), label])
                .map_err(told)
        };
        let (private, public) = (
            named(ObjectClass::PRIVATE_KEY)?,
            named(ObjectClass::PUBLIC_KEY)?,
        );
        let (public, private, made) = match (public.as_slice(), private.as_slice()) {
            ([public], [private]) => (*public, *private, false),
            ([], []) if make => {
                let (public, private) = generate(&session, &place.object).map_err(told)?;
                (public, private, true)
            }
            ([], []) => {
                return Err(format!("token {token:?} holds no key {:?}", place.object));
            }
            (publics, privates) => {
                return Err(format!(
                    "token {token:?} holds {} private and {} public keys {:?}; one pair is needed",
                    privates.len(),
                    publics.len(),
                    place.object
                ));
            }
        };
        let wanted = [AttributeType::Sensitive, AttributeType::Extractable];
        let kept = session.get_attributes(private, &wanted).map_err(told)?;
        if !kept.contains(&Attribute::Sensitive(true))
            || !kept.contains(&Attribute::Extractable(false))
        {
            return Err(format!(
                "token {token:?} would hand out the key {:?} (CKA_SENSITIVE, CKA_EXTRACTABLE); use one that stays",
                place.object
            ));
        }
        let found = session.get_attributes(public, &[AttributeType::EcPoint]);
        let point = found.map_err(told)?.into_iter().find_map(|one| match one {
            Attribute::EcPoint(point) => Some(bare(point)),
            _ => None,
        });
        let point = point.ok_or_else(|| {
            format!(
                "the key {:?} of token {token:?} is not on P-256 or P-384",
                place.object
            )
        })?;
        Ok(Self {
            session,
            private,
            point,
            token,
            made,
        })
    }
}

impl TokenKey for Key {
    fn point(&self) -> &[u8] {
        &self.point
    }

    fn sign(&self, digest: &[u8]) -> Result<Vec<u8>, String> {
        self.session
            .sign(&Mechanism::Ecdsa, self.private, digest)
            .map_err(|error| format!("token {:?} does not sign: {error}", self.token))
    }
}

/// A session that is logged in.
fn session(place: &Place) -> Result<Session, String> {
    let module = place.module.display();
    if !Path::is_file(&place.module) {
        return Err(format!("{module}: there is no such file (module-path)"));
    }
    let pin = place.pin()?;
    let told = |error: cryptoki::error::Error| format!("{module}: {error}");
    let context = Pkcs11::new(&place.module).map_err(told)?;
    let locks = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
    context.initialize(locks).map_err(told)?;
    let mut names = Vec::new();
    let mut slots = Vec::new();
    for slot in context.get_slots_with_token().map_err(told)? {
        // A token that is taken out just now is one that is not there.
        let Ok(info) = context.get_token_info(slot) else {
            continue;
        };
        if info.label() == place.token {
            slots.push(slot);
        } else if !info.label().is_empty() {
            names.push(info.label().to_owned());
        }
    }
    let [slot] = slots.as_slice() else {
        return Err(format!(
            "{module}: {} tokens are named {:?}, one is needed; others there: {names:?}",
            slots.len(),
            place.token
        ));
    };
    let session = context.open_rw_session(*slot).map_err(told)?;
    session.login(UserType::User, Some(&pin)).map_err(|error| {
        let pin = place.pin.display();
        format!("token {:?} refuses the PIN of {pin}: {error}", place.token)
    })?;
    Ok(session)
}

fn generate(
    session: &Session,
    label: &str,
) -> cryptoki::error::Result<(ObjectHandle, ObjectHandle)> {
    let label = || Attribute::Label(label.as_bytes().to_vec());
    let public = [
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::KeyType(KeyType::EC),
        Attribute::EcParams(P256.to_vec()),
        Attribute::Verify(true),
        label(),
    ];
    let private = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        label(),
    ];
    session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)
}

/// The point itself: PKCS#11 wraps it into an OCTET STRING, some devices do not.
fn bare(point: Vec<u8>) -> Vec<u8> {
    match point.as_slice() {
        [0x04, length, inner @ ..] if usize::from(*length) == inner.len() => inner.to_vec(),
        _ => point,
    }
}

#[cfg(test)]
mod tests {
    use super::Place;
    use std::path::Path;

    #[test]
    fn places_are_read_and_what_is_wrong_is_said() {
        let good = "pkcs11:token=a%20b;object=root?module-path=/m.so&pin-source=file:/pin";
        let place = Place::read(good).unwrap();
        assert_eq!(
            (place.token.as_str(), place.object.as_str()),
            ("a b", "root")
        );
        assert_eq!(place.pin, Path::new("/pin"));
        for (from, to, why) in [
            ("pkcs11:", "file:", "no PKCS#11 URI"),
            ("token=a%20b;", "", "token is missing"),
            ("%20b", "%2", "not percent-encoded"),
            ("%20", "%+1", "not percent-encoded"),
            (
                "pin-source=file:/pin",
                "pin-value=1234",
                "would show the PIN",
            ),
            ("/m.so", "m.so", "not an absolute path"),
            ("object=root", "serial=1", "\"serial\" is not understood"),
            ("object=root", "object=root;object=x", "twice"),
        ] {
            let said = Place::read(&good.replace(from, to)).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
