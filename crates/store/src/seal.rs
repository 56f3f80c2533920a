//! Sealing of Secret values: AES-256-GCM with the mesh's sealing key.
//!
//! A sealed value is base64 of `NKS1`, a random nonce and the ciphertext, in the place of the plain value, so a Secret
//! keeps its shape everywhere. The value is bound to namespace, name and key of its Secret: copied elsewhere it does
//! not open. An equal plain value keeps its old ciphertext, so an equal update stays a no-op.
//!
//! Not here: where the key is kept ([`crate::keyfile`]), and its change ([`crate::reseal`]).

use crate::Error;
use crate::keyfile::SealKey;
use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use naka_types::name::ObjectRef;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// What stands in the place of a secret value outside: base64 of `REDACTED`.
pub const REDACTED: &str = "UkVEQUNURUQ=";

const MAGIC: &[u8; 4] = b"NKS1";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Holds the key.
pub(crate) struct Sealer {
    key: RwLock<Arc<SealKey>>,
}

impl Sealer {
    pub(crate) fn new(key: SealKey) -> Self {
        Self {
            key: RwLock::new(Arc::new(key)),
        }
    }

    /// The key in use.
    pub(crate) fn key(&self) -> Arc<SealKey> {
        Arc::clone(&self.key.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes another key into use.
    pub(crate) fn change(&self, key: SealKey) {
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
    }

    /// See [`SealKey::seal`].
    pub(crate) fn seal(
        &self,
        object: &ObjectRef,
        value: &mut Value,
        before: Option<&Value>,
    ) -> Result<(), Error> {
        self.key().seal(object, value, before)
    }

    /// See [`SealKey::reveal`].
    pub(crate) fn reveal(
        &self,
        object: &ObjectRef,
        stored: &Value,
    ) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        self.key().reveal(object, stored)
    }
}

impl SealKey {
    /// Replaces every plain value of a Secret by its sealed form, merging `stringData` into `data`.
    pub(crate) fn seal(
        &self,
        object: &ObjectRef,
        value: &mut Value,
        before: Option<&Value>,
    ) -> Result<(), Error> {
        let fail = |why: String| Error::Seal {
            object: object.clone(),
            why,
        };
        let Some(map) = value.as_object_mut() else {
            return Err(fail("not an object".to_owned()));
        };
        // kubectl keeps a copy of what was applied there, secret values included.
        if let Some(annotations) = map
            .get_mut("metadata")
            .and_then(|meta| meta.get_mut("annotations"))
            .and_then(Value::as_object_mut)
        {
            annotations.remove(LAST_APPLIED);
        }
        let mut data = match map.remove("data") {
            Some(Value::Object(data)) => data,
            None | Some(Value::Null) => Map::new(),
            Some(_) => return Err(fail("data is not a map".to_owned())),
        };
        match map.remove("stringData") {
            Some(Value::Object(texts)) => {
                for (key, text) in texts {
                    let Value::String(text) = text else {
                        return Err(fail(format!("stringData.{key} is not a text")));
                    };
                    data.insert(key, Value::String(BASE64.encode(text)));
                }
            }
            None | Some(Value::Null) => {}
            Some(_) => return Err(fail("stringData is not a map".to_owned())),
        }
        let old = before.and_then(|before| before.get("data"));
        for (key, slot) in &mut data {
            let old = old.and_then(|old| old.get(key)).and_then(Value::as_str);
            let sealed = self
                .seal_one(object, key, slot.as_str(), old)
                .map_err(&fail)?;
            *slot = Value::String(sealed);
        }
        map.insert("data".to_owned(), Value::Object(data));
        Ok(())
    }

    fn seal_one(
        &self,
        object: &ObjectRef,
        key: &str,
        text: Option<&str>,
        old: Option<&str>,
    ) -> Result<String, String> {
        let text = text.ok_or_else(|| format!("data.{key} is not a text"))?;
        if text == REDACTED {
            return old.map(str::to_owned).ok_or_else(|| {
                format!("data.{key} is the placeholder of a redacted value, and there is no value to keep")
            });
        }
        let plain = BASE64
            .decode(text)
            .map_err(|_| format!("data.{key} is not base64"))?;
        if plain.starts_with(MAGIC) && self.open_one(object, key, text).is_ok() {
            return Ok(text.to_owned());
        }
        if let Some(old) = old
            && self
                .open_one(object, key, old)
                .is_ok_and(|old| old == plain)
        {
            return Ok(old.to_owned());
        }
        let mut body = plain;
        let nonce = self
            .aead
            .seal_in_place_append_tag(Aad::from(bound_to(object, key)), &mut body)
            .map_err(|_| "sealing failed".to_owned())?;
        let mut sealed = MAGIC.to_vec();
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&body);
        Ok(BASE64.encode(sealed))
    }

    fn open_one(&self, object: &ObjectRef, key: &str, text: &str) -> Result<Vec<u8>, String> {
        let broken = || format!("data.{key} does not open with this mesh's seal key");
        let bytes = BASE64.decode(text).map_err(|_| broken())?;
        let sealed = bytes.strip_prefix(MAGIC).ok_or_else(broken)?;
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or_else(broken)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| broken())?;
        let mut body = body.to_vec();
        let plain = self
            .aead
            .open_in_place(nonce, Aad::from(bound_to(object, key)), &mut body)
            .map_err(|_| broken())?;
        Ok(plain.to_vec())
    }

    /// The values of a stored Secret, sealed with this key instead of `old`. An equal ciphertext gets an equal one: what
    /// was unchanged stays so.
    pub(crate) fn reseal(
        &self,
        old: &Self,
        object: &ObjectRef,
        stored: &mut Value,
        known: &mut BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let Some(data) = stored.get_mut("data").and_then(Value::as_object_mut) else {
            return Ok(());
        };
        for (key, slot) in data {
            let text = slot.as_str().unwrap_or_default().to_owned();
            let sealed = match known.get(&text) {
                Some(sealed) => sealed.clone(),
                None => {
                    let fail = |why| Error::Seal {
                        object: object.clone(),
                        why,
                    };
                    let plain = old.open_one(object, key, &text).map_err(fail)?;
                    let plain = BASE64.encode(plain);
                    self.seal_one(object, key, Some(&plain), None)
                        .map_err(fail)?
                }
            };
            known.insert(text, sealed.clone());
            *slot = Value::String(sealed);
        }
        Ok(())
    }

    /// The plain values of a stored Secret.
    pub(crate) fn reveal(
        &self,
        object: &ObjectRef,
        stored: &Value,
    ) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let Some(data) = stored.get("data").and_then(Value::as_object) else {
            return Ok(BTreeMap::new());
        };
        data.iter()
            .map(|(key, text)| {
                let plain = self.open_one(object, key, text.as_str().unwrap_or_default());
                plain.map(|plain| (key.clone(), plain))
            })
            .collect::<Result<_, _>>()
            .map_err(|why| Error::Seal {
                object: object.clone(),
                why,
            })
    }
}

impl std::fmt::Debug for Sealer {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

fn bound_to(object: &ObjectRef, key: &str) -> Vec<u8> {
    // Kubernetes names hold no NUL, so the parts cannot run into one another.
    [object.namespace.as_str(), &object.name, key]
        .join("\0")
        .into_bytes()
}

/// Whether a value is a Secret's.
pub(crate) fn is_secret(object: &ObjectRef) -> bool {
    object.kind == "Secret"
}

/// Replaces the values of a Secret by [`REDACTED`]; leaves every other object as it is.
pub fn redact(value: &mut Value) {
    if value.get("kind").and_then(Value::as_str) != Some("Secret") {
        return;
    }
    for field in ["data", "stringData"] {
        if let Some(data) = value.get_mut(field).and_then(Value::as_object_mut) {
            for slot in data.values_mut() {
                *slot = Value::String(REDACTED.to_owned());
            }
        }
    }
    if let Some(annotations) = value
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.remove(LAST_APPLIED);
    }
}

#[cfg(test)]
mod tests {
    use super::{BASE64, REDACTED, Sealer, redact};
    use crate::keyfile;
    use base64::Engine;
    use naka_types::name::ObjectRef;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    fn named(name: &str) -> ObjectRef {
        ObjectRef {
            kind: "Secret".to_owned(),
            namespace: "default".to_owned(),
            name: name.to_owned(),
        }
    }

    fn open(dir: &std::path::Path) -> Sealer {
        Sealer::new(keyfile::open(dir, true, None, true, |_| None).unwrap())
    }

    #[test]
    fn values_are_sealed_bound_to_their_place_and_stable() {
        let dir = tempfile::tempdir().unwrap();
        let sealer = open(dir.path());
        let mode = std::fs::metadata(dir.path().join("seal.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut one = json!({"kind": "Secret", "stringData": {"password": "4111-1111"}, "data": {"b": BASE64.encode("x")},
            "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "4111-1111"}}});
        let plain = one.clone();
        sealer.seal(&named("a"), &mut one, None).unwrap();
        assert!(
            !one.to_string().contains("4111")
                && !one.to_string().contains(&BASE64.encode("4111-1111"))
        );
        let open = sealer.reveal(&named("a"), &one).unwrap();
        assert_eq!(open["password"], b"4111-1111");
        assert!(
            sealer.reveal(&named("other"), &one).is_err(),
            "a copied value must not open"
        );
        let mut again = plain;
        sealer.seal(&named("a"), &mut again, Some(&one)).unwrap();
        assert_eq!(again, one, "an equal value keeps its ciphertext");
        // What a reader got back redacted keeps the stored values.
        let mut back = one.clone();
        redact(&mut back);
        assert_eq!(back["data"]["password"], REDACTED);
        sealer.seal(&named("a"), &mut back, Some(&one)).unwrap();
        assert_eq!(back, one);
        let mut lost = json!({"kind": "Secret", "data": {"new": REDACTED}});
        assert!(sealer.seal(&named("a"), &mut lost, Some(&one)).is_err());
    }

    #[test]
    fn another_key_opens_nothing() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sealer = open(one.path());
        let mut value = json!({"kind": "Secret", "stringData": {"k": "v"}});
        sealer.seal(&named("a"), &mut value, None).unwrap();
        let other = open(two.path());
        assert!(other.reveal(&named("a"), &value).is_err());
        assert!(open(one.path()).reveal(&named("a"), &value).is_ok());
    }
}
