//! How the authority is kept: `root.pem` (a format line, the certificate, and its key unless that is kept elsewhere),
//! `intermediate.pem` (a format line, the certificate, those between it and the root, its key) and, between request and
//! installation, `pending.pem` (a format line and the key). While the root changes there are others of the same form
//! beside them, see [`super::rotate`].
//!
//! The root is written before the intermediate, so a start that was cut off is completed by the next one; an
//! intermediate without its root is a loss that is reported, never papered over with a new root.

use super::{Authority, INTERMEDIATE_TTL, ROOT_TTL, Signer, authority_params, chain, rotate};
use crate::bundle::{certificates, pem, to_pem};
use crate::{Error, disk, hex, random_bytes};
use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair};
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) const WORD: &str = "naka-authority";
pub(super) const FORMAT: u32 = 1;

/// The root.
pub(super) struct Root {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) not_after: u64,
    /// None when it is kept elsewhere.
    pub(super) key: Option<KeyPair>,
}

pub(super) fn root_path(dir: &Path) -> PathBuf {
    dir.join("root.pem")
}

pub(super) fn intermediate_path(dir: &Path) -> PathBuf {
    dir.join("intermediate.pem")
}

fn pending_path(dir: &Path) -> PathBuf {
    dir.join("pending.pem")
}

pub(super) fn open_or_create(dir: &Path, trust_domain: &str, now: u64) -> Result<Authority, Error> {
    disk::private_dir(dir)?;
    rotate::complete(dir)?;
    let kept = load_intermediate(&intermediate_path(dir), trust_domain)?;
    let root = match load_root(&root_path(dir), trust_domain)? {
        Some(root) => root,
        None if kept.is_some() => {
            return Err(damaged(
                &root_path(dir),
                "it is missing although intermediate.pem is there; restore it from a backup",
            ));
        }
        None => make_root(dir, trust_domain, now)?,
    };
    let signer = match kept {
        Some(kept) if root.key.is_none() || !due(kept.not_after, root.not_after, now) => kept,
        _ => make_intermediate(dir, trust_domain, &root, now)?,
    };
    Authority::new(dir, trust_domain, root, signer)
}

/// Whether an intermediate that ends at `not_after` is to be replaced: at two thirds of its time, unless its successor
/// would end no later.
pub(super) fn due(not_after: u64, root_not_after: u64, now: u64) -> bool {
    not_after < root_not_after && not_after <= now + INTERMEDIATE_TTL.as_secs() / 3
}

/// The next intermediate, written.
pub(super) fn successor(dir: &Path, trust_domain: &str, now: u64) -> Result<Signer, Error> {
    let root = load_root(&root_path(dir), trust_domain)?
        .ok_or_else(|| damaged(&root_path(dir), "it is gone; restore it from a backup"))?;
    make_intermediate(dir, trust_domain, &root, now)
}

/// A new key, kept as pending, and the request to sign it.
pub(super) fn request(dir: &Path, trust_domain: &str) -> Result<String, Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let text = format!(
        "{WORD} {FORMAT}\n{}",
        pem("PRIVATE KEY", &key.serialize_der())
    );
    disk::write_private(&pending_path(dir), text.as_bytes())?;
    request_of(&key, trust_domain)
}

/// The request to sign a key as an intermediate of a trust domain.
pub(super) fn request_of(key: &KeyPair, trust_domain: &str) -> Result<String, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, trust_domain);
    let request = params.serialize_request(key)?;
    Ok(pem("CERTIFICATE REQUEST", request.der()))
}

/// Checks and keeps what the pending key was signed into.
pub(super) fn install(
    dir: &Path,
    trust_domain: &str,
    root: &CertificateDer<'_>,
    chain_pem: &str,
    now: u64,
) -> Result<Signer, Error> {
    let pending = pending_path(dir);
    let text = disk::read(&pending)?.ok_or_else(|| {
        Error::Authority("no request is open; begin with `naka ca intermediate request`".to_owned())
    })?;
    let key = private_key(
        &pending,
        disk::after_format_line(&pending, &text, WORD, FORMAT)?,
    )?;
    let signer = keep(dir, trust_domain, root, chain_pem, key, now)?;
    // The key is in intermediate.pem now. Left behind it would only be a second copy.
    let _ = std::fs::remove_file(pending);
    Ok(signer)
}

/// Takes the authority that `from` holds as a new mesh's own, under the names that Istio's `cacerts` has. The root's key
/// is not asked for.
pub(super) fn import(dir: &Path, from: &Path, trust_domain: &str, now: u64) -> Result<(), Error> {
    let read = |name: &str| {
        let path = from.join(name);
        let text = disk::read(&path)?.ok_or_else(|| damaged(&path, "it is not there"))?;
        Ok::<_, Error>((path, text))
    };
    let (root_file, root_text) = read("root-cert.pem")?;
    let root = match certificates(&root_text)?.as_slice() {
        [root] => root.clone(),
        several => {
            let count = several.len();
            let what = format!("it holds {count} certificates; a mesh begins with one root");
            return Err(damaged(&root_file, &what));
        }
    };
    let (key_file, key_text) = read("ca-key.pem")?;
    let mut chain_pem = read("ca-cert.pem")?.1;
    if let Some(above) = disk::read(&from.join("cert-chain.pem"))? {
        chain_pem.push_str(&above);
    }
    disk::private_dir(dir)?;
    if rotate::replaced(dir)?.contains(&root) {
        // Imported at an earlier start, and another root has taken its place since.
        return Ok(());
    }
    let kept = load_root(&root_path(dir), trust_domain)?;
    if kept.is_some_and(|kept| kept.certificate != root) {
        return Err(Error::Authority(format!(
            "{} holds another root; a mesh that has an authority keeps it. Make a new mesh",
            dir.display()
        )));
    }
    if load_intermediate(&intermediate_path(dir), trust_domain)?.is_some() {
        // Imported at an earlier start.
        return Ok(());
    }
    let key = private_key(&key_file, &key_text)?;
    chain::root(&root, trust_domain, now)?;
    let checked = chain::below(
        &root,
        &chain_pem,
        &pair(&key_file, &key)?,
        trust_domain,
        now,
    )?;
    // Nothing is written before all of it is good; the root first, as always.
    write_root(&root_path(dir), &root, None)?;
    write_intermediate(&intermediate_path(dir), &checked.chain, &key)
}

/// Checks that a chain may sign below `root` with `key`, and writes it.
fn keep(
    dir: &Path,
    trust_domain: &str,
    root: &CertificateDer<'_>,
    chain_pem: &str,
    key: PrivateKeyDer<'static>,
    now: u64,
) -> Result<Signer, Error> {
    let path = intermediate_path(dir);
    let pair = pair(&path, &key)?;
    let checked = chain::below(root, chain_pem, &pair, trust_domain, now)?;
    write_intermediate(&path, &checked.chain, &key)?;
    signer(checked, pair)
}

fn make_root(dir: &Path, trust_domain: &str, now: u64) -> Result<Root, Error> {
    let (certificate, key) = new_root(trust_domain, ROOT_TTL, now)?;
    write_root(&root_path(dir), &certificate, Some(&key))?;
    Ok(Root {
        certificate,
        not_after: now + ROOT_TTL.as_secs(),
        key: Some(key),
    })
}

/// Writes a root, with its key where that is here.
pub(super) fn write_root(
    path: &Path,
    certificate: &CertificateDer<'_>,
    key: Option<&KeyPair>,
) -> Result<(), Error> {
    let key = key.map(|key| pem("PRIVATE KEY", &key.serialize_der()));
    let text = format!(
        "{WORD} {FORMAT}\n{}{}",
        pem("CERTIFICATE", certificate),
        key.unwrap_or_default()
    );
    disk::write_private(path, text.as_bytes())
}

/// A self-signed root and its key.
pub(super) fn new_root(
    trust_domain: &str,
    ttl: Duration,
    now: u64,
) -> Result<(CertificateDer<'static>, KeyPair), Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok((signed_root(trust_domain, ttl, now, &key)?, key))
}

/// A self-signed root of this key, wherever it is.
pub(super) fn signed_root(
    trust_domain: &str,
    ttl: Duration,
    now: u64,
    key: &impl rcgen::SigningKey,
) -> Result<CertificateDer<'static>, Error> {
    // Of two roots that are trusted at once each has a name of its own, so a chain has one candidate.
    let name = format!("Naka root {}", hex(&random_bytes::<4>()));
    let params = authority_params(&name, trust_domain, 1, now, ttl)?;
    Ok(params.self_signed(key)?.der().clone())
}

fn make_intermediate(
    dir: &Path,
    trust_domain: &str,
    root: &Root,
    now: u64,
) -> Result<Signer, Error> {
    let Some(root_key) = &root.key else {
        return Err(damaged(
            &intermediate_path(dir),
            "it is missing and the root's key is kept elsewhere; restore it from a backup",
        ));
    };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let rest = Duration::from_secs(root.not_after.saturating_sub(now));
    let ttl = INTERMEDIATE_TTL.min(rest);
    let issuer = Issuer::from_ca_cert_der(&root.certificate, root_key)?;
    let certificate = new_intermediate(trust_domain, &issuer, &key, ttl, now)?;
    let chain = vec![certificate];
    let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    write_intermediate(&intermediate_path(dir), &chain, &der)?;
    let not_after = now + ttl.as_secs();
    signer(chain::Checked { chain, not_after }, key)
}

/// Signs a key as an intermediate, whoever has it.
pub(super) fn new_intermediate(
    trust_domain: &str,
    issuer: &Issuer<'_, impl rcgen::SigningKey>,
    key: &impl rcgen::PublicKeyData,
    ttl: Duration,
    now: u64,
) -> Result<CertificateDer<'static>, Error> {
    named_intermediate(&intermediate_name(), trust_domain, issuer, key, ttl, now)
}

/// Successive intermediates have different names, so a chain never has two candidates with one name.
pub(super) fn intermediate_name() -> String {
    format!("Naka intermediate {}", hex(&random_bytes::<4>()))
}

/// As [`new_intermediate`], under this name.
pub(super) fn named_intermediate(
    name: &str,
    trust_domain: &str,
    issuer: &Issuer<'_, impl rcgen::SigningKey>,
    key: &impl rcgen::PublicKeyData,
    ttl: Duration,
    now: u64,
) -> Result<CertificateDer<'static>, Error> {
    let params = authority_params(name, trust_domain, 0, now, ttl)?;
    Ok(params.signed_by(key, issuer)?.der().clone())
}

pub(super) fn write_intermediate(
    path: &Path,
    chain: &[CertificateDer<'_>],
    key: &PrivateKeyDer<'_>,
) -> Result<(), Error> {
    let text = format!(
        "{WORD} {FORMAT}\n{}{}",
        to_pem(chain),
        crate::key::to_pem(key)
    );
    disk::write_private(path, text.as_bytes())
}

pub(super) fn signer(checked: chain::Checked, key: KeyPair) -> Result<Signer, Error> {
    let own = checked
        .chain
        .first()
        .ok_or(Error::Malformed("certificate chain: it is empty"))?;
    Ok(Signer {
        issuer: Issuer::from_ca_cert_der(own, key)?,
        not_after: checked.not_after,
        chain: checked.chain,
    })
}

pub(super) fn load_root(path: &Path, trust_domain: &str) -> Result<Option<Root>, Error> {
    let Some(text) = disk::read(path)? else {
        return Ok(None);
    };
    let rest = disk::after_format_line(path, &text, WORD, FORMAT)?;
    let certificate = first_certificate(path, rest)?;
    let key = if rest.contains("PRIVATE KEY") {
        Some(pair(path, &private_key(path, rest)?)?)
    } else {
        None
    };
    let not_after = own(path, &certificate, key.as_ref(), trust_domain)?;
    Ok(Some(Root {
        certificate,
        not_after,
        key,
    }))
}

pub(super) fn load_intermediate(path: &Path, trust_domain: &str) -> Result<Option<Signer>, Error> {
    let Some(text) = disk::read(path)? else {
        return Ok(None);
    };
    let rest = disk::after_format_line(path, &text, WORD, FORMAT)?;
    let certificate = first_certificate(path, rest)?;
    let key = pair(path, &private_key(path, rest)?)?;
    let mut not_after = own(path, &certificate, Some(&key), trust_domain)?;
    let chain = certificates(rest).map_err(|error| damaged(path, &error.to_string()))?;
    for above in chain.iter().skip(1) {
        not_after = not_after.min(own(path, above, None, trust_domain)?);
    }
    signer(chain::Checked { chain, not_after }, key).map(Some)
}

/// Checks that a kept certificate belongs to its key and its mesh; returns its last second.
fn own(
    path: &Path,
    certificate: &CertificateDer<'_>,
    key: Option<&KeyPair>,
    trust_domain: &str,
) -> Result<u64, Error> {
    let parsed = chain::parse(certificate)
        .ok_or_else(|| damaged(path, "its certificate does not decode"))?;
    let theirs = parsed.public_key().subject_public_key.data.as_ref();
    if key.is_some_and(|key| theirs != key.der_bytes()) {
        return Err(damaged(path, "certificate and key do not belong together"));
    }
    if !chain::may_be_of(&parsed, trust_domain) {
        return Err(damaged(path, "it belongs to another trust domain"));
    }
    Ok(chain::last_second(&parsed))
}

fn first_certificate(path: &Path, text: &str) -> Result<CertificateDer<'static>, Error> {
    certificates(text)
        .ok()
        .and_then(|found| found.into_iter().next())
        .ok_or_else(|| damaged(path, "it holds no certificate"))
}

pub(super) fn private_key(path: &Path, text: &str) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| damaged(path, "it holds no private key that is not encrypted"))
}

pub(super) fn pair(path: &Path, key: &PrivateKeyDer<'_>) -> Result<KeyPair, Error> {
    KeyPair::try_from(key).map_err(|_| damaged(path, "its private key does not decode"))
}

pub(super) fn damaged(path: &Path, what: &str) -> Error {
    Error::Damaged {
        path: path.to_owned(),
        what: what.to_owned(),
    }
}
