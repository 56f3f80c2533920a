//! The side of a root that is kept away from the mesh, on another machine or a medium in a safe: plain PEM files under
//! the names that Istio's `cacerts` has, so that any tool can read and replace them.
//!
//! The root's key is made and used here and goes nowhere; what travels is a request and a certificate. Whoever signs
//! decides everything but the public key.
//!
//! The root's key may be in hardware: then `root-key.uri` says where, and whoever calls hands in how it is reached
//! ([`TokenKey`]).
//!
//! Not here: intermediates whose key is in hardware.

use super::files::{damaged, import as take, new_intermediate, new_root, request_of, signed_root};
use super::token::Remote;
pub use super::token::TokenKey;
use super::{chain, public_key};
use crate::bundle::{certificates, pem, to_pem};
use crate::{Error, disk};
use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use std::path::Path;
use std::time::Duration;
use x509_parser::extensions::GeneralName;

/// The root's certificate.
pub const ROOT_CERT: &str = "root-cert.pem";
/// The root's key: the one file that must not come near a mesh.
pub const ROOT_KEY: &str = "root-key.pem";
/// Where the root's key is, when it is in a token: an RFC 7512 URI in place of [`ROOT_KEY`].
pub const ROOT_URI: &str = "root-key.uri";
/// The key of an intermediate for a mesh that is not made yet.
pub const CA_KEY: &str = "ca-key.pem";

/// Makes a root in `dir` (0700, files 0600).
///
/// # Errors
/// [`Error::Damaged`] when one is there already, [`Error::File`].
pub fn create_root(dir: &Path, trust_domain: &str, ttl: Duration, now: u64) -> Result<(), Error> {
    nothing_in(dir)?;
    let (certificate, key) = new_root(trust_domain, ttl, now)?;
    let key = pem("PRIVATE KEY", &key.serialize_der());
    disk::write_private(&dir.join(ROOT_KEY), key.as_bytes())?;
    disk::write_private(
        &dir.join(ROOT_CERT),
        pem("CERTIFICATE", &certificate).as_bytes(),
    )
}

/// Makes a root in `dir` whose key is in a token and stays there; `uri` says where, for [`sign_in_token`].
///
/// # Errors
/// [`Error::Authority`] with what the token says, and as [`create_root`].
pub fn create_root_in_token(
    dir: &Path,
    trust_domain: &str,
    ttl: Duration,
    now: u64,
    (uri, key): (&str, &dyn TokenKey),
) -> Result<(), Error> {
    nothing_in(dir)?;
    let key = Remote::new(key)?;
    let certificate = signed_root(trust_domain, ttl, now, &key).map_err(|error| key.told(error))?;
    chain::root(&certificate, trust_domain, now)?;
    disk::write_private(&dir.join(ROOT_URI), format!("{uri}\n").as_bytes())?;
    disk::write_private(
        &dir.join(ROOT_CERT),
        pem("CERTIFICATE", &certificate).as_bytes(),
    )
}

/// Refuses a directory that has a root.
///
/// # Errors
/// [`Error::Damaged`] names the file, [`Error::File`].
pub fn nothing_in(dir: &Path) -> Result<(), Error> {
    disk::private_dir(dir)?;
    for name in [ROOT_CERT, ROOT_KEY, ROOT_URI] {
        let path = dir.join(name);
        if path.exists() {
            return Err(damaged(
                &path,
                "it is there already; a root is not written over",
            ));
        }
    }
    Ok(())
}

/// Where the key of the root in `dir` is, when it is in a token.
///
/// # Errors
/// [`Error::File`].
pub fn token_of(dir: &Path) -> Result<Option<String>, Error> {
    let text = disk::read(&dir.join(ROOT_URI))?;
    Ok(text.map(|text| text.trim().to_owned()))
}

/// A key for the intermediate of a mesh that is not made yet, kept in `dir`, and the request to sign it (PEM).
///
/// # Errors
/// [`Error::Damaged`] when a key is there already, [`Error::File`].
pub fn request(dir: &Path, trust_domain: &str) -> Result<String, Error> {
    disk::private_dir(dir)?;
    let path = dir.join(CA_KEY);
    if path.exists() {
        return Err(damaged(
            &path,
            "it is there already; a key is not written over",
        ));
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let text = pem("PRIVATE KEY", &key.serialize_der());
    disk::write_private(&path, text.as_bytes())?;
    request_of(&key, trust_domain)
}

/// Signs a request with the root in `dir` as an intermediate of the root's trust domain; it never outlives the root.
/// The PEM text is the intermediate alone.
///
/// # Errors
/// [`Error::Request`] when the request is not acceptable, [`Error::Damaged`] names a file of the root,
/// [`Error::Authority`] says why the root may not sign now.
pub fn sign(dir: &Path, csr_pem: &str, ttl: Duration, now: u64) -> Result<String, Error> {
    let key_path = dir.join(ROOT_KEY);
    let key = disk::read(&key_path)?.ok_or_else(|| damaged(&key_path, "it is not there"))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .ok()
        .and_then(|key| KeyPair::try_from(&key).ok())
        .ok_or_else(|| damaged(&key_path, "it holds no private key that is not encrypted"))?;
    signed(dir, csr_pem, ttl, now, &key)
}

/// As [`sign`], with a root whose key is in a token.
///
/// # Errors
/// As [`sign`]; [`Error::Authority`] also with what the token says.
pub fn sign_in_token(
    dir: &Path,
    csr_pem: &str,
    ttl: Duration,
    now: u64,
    key: &dyn TokenKey,
) -> Result<String, Error> {
    let key = Remote::new(key)?;
    signed(dir, csr_pem, ttl, now, &key).map_err(|error| key.told(error))
}

fn signed(
    dir: &Path,
    csr_pem: &str,
    ttl: Duration,
    now: u64,
    key: &impl SigningKey,
) -> Result<String, Error> {
    let path = dir.join(ROOT_CERT);
    let text = disk::read(&path)?.ok_or_else(|| damaged(&path, "it is not there"))?;
    let root = certificates(&text)?
        .into_iter()
        .next()
        .ok_or_else(|| damaged(&path, "it holds no certificate"))?;
    let trust_domain = domain_of(&root).ok_or_else(|| {
        damaged(
            &path,
            "it names no trust domain (a URI spiffe://DOMAIN among its names)",
        )
    })?;
    chain::root(&root, &trust_domain, now)?;
    let parsed = chain::parse(&root).ok_or(Error::Malformed("root certificate"))?;
    let rest = Duration::from_secs(chain::last_second(&parsed).saturating_sub(now));
    let subject = public_key(csr_pem)?;
    let issuer = Issuer::from_ca_cert_der(&root, key)?;
    let certificate = new_intermediate(&trust_domain, &issuer, &subject, ttl.min(rest), now)?;
    // Another key than the root's, or a device that answers nonsense.
    let made = chain::parse(&certificate).ok_or(Error::Malformed("intermediate"))?;
    if made.verify_signature(Some(parsed.public_key())).is_err() {
        return Err(damaged(&path, "it does not belong to the key that signed"));
    }
    Ok(to_pem(&[certificate]))
}

/// Takes root-cert.pem, ca-cert.pem, ca-key.pem and cert-chain.pem (where there are certificates between) of `from` as
/// the authority of a mesh that has none yet. Once they are taken, saying it again changes nothing.
///
/// # Errors
/// [`Error::Damaged`] names the file, [`Error::Authority`] says why it may not sign for this mesh; nothing is kept then.
pub fn import(dir: &Path, from: &Path, trust_domain: &str, now: u64) -> Result<(), Error> {
    take(dir, from, trust_domain, now)
}

fn domain_of(root: &rustls_pki_types::CertificateDer<'_>) -> Option<String> {
    let parsed = chain::parse(root)?;
    let names = parsed.subject_alternative_name().ok()??;
    names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix("spiffe://").map(str::to_owned),
            _ => None,
        })
}
