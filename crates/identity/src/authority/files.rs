//! How the authority is kept: `root.pem` and `intermediate.pem`, each a format line, a certificate and its key.
//!
//! The root is written before the intermediate, so a start that was cut off is completed by the next one; an
//! intermediate without its root is a loss that is reported, never papered over with a new root.

use super::{Authority, INTERMEDIATE_TTL, ROOT_TTL, authority_params};
use crate::bundle::{certificates, pem};
use crate::{Error, disk, hex, random_bytes};
use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::Path;
use x509_parser::prelude::{FromDer, X509Certificate};

const WORD: &str = "naka-authority";
const FORMAT: u32 = 1;

/// A signing certificate with its key.
pub(super) struct Kept {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: KeyPair,
    pub(super) not_after: u64,
}

pub(super) fn open_or_create(dir: &Path, trust_domain: &str, now: u64) -> Result<Authority, Error> {
    disk::private_dir(dir)?;
    let root_path = dir.join("root.pem");
    let intermediate_path = dir.join("intermediate.pem");
    let kept = load(&intermediate_path, trust_domain)?;
    let root = match load(&root_path, trust_domain)? {
        Some(root) => root,
        None if kept.is_some() => {
            return Err(Error::Damaged {
                path: root_path,
                what: "it is missing although intermediate.pem is there; restore it from a backup"
                    .into(),
            });
        }
        None => make_root(&root_path, trust_domain, now)?,
    };
    let third = INTERMEDIATE_TTL.as_secs() / 3;
    let intermediate = match kept {
        Some(kept) if kept.not_after > now + third => kept,
        _ => make_intermediate(&intermediate_path, trust_domain, &root, now)?,
    };
    Authority::new(trust_domain, root, intermediate)
}

fn make_root(path: &Path, trust_domain: &str, now: u64) -> Result<Kept, Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let params = authority_params("Naka root", trust_domain, 1, now, ROOT_TTL)?;
    let certificate = params.self_signed(&key)?.der().clone();
    save(path, certificate, key, now + ROOT_TTL.as_secs())
}

fn make_intermediate(
    path: &Path,
    trust_domain: &str,
    root: &Kept,
    now: u64,
) -> Result<Kept, Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    // Successive intermediates have different names, so a chain never has two candidates with one name.
    let name = format!("Naka intermediate {}", hex(&random_bytes::<4>()));
    let rest = std::time::Duration::from_secs(root.not_after.saturating_sub(now));
    let ttl = INTERMEDIATE_TTL.min(rest);
    let params = authority_params(&name, trust_domain, 0, now, ttl)?;
    let issuer = Issuer::from_ca_cert_der(&root.certificate, &root.key)?;
    let certificate = params.signed_by(&key, &issuer)?.der().clone();
    save(path, certificate, key, now + ttl.as_secs())
}

fn save(
    path: &Path,
    certificate: CertificateDer<'static>,
    key: KeyPair,
    not_after: u64,
) -> Result<Kept, Error> {
    let text = format!(
        "{WORD} {FORMAT}\n{}{}",
        pem("CERTIFICATE", &certificate),
        pem("PRIVATE KEY", &key.serialize_der())
    );
    disk::write_private(path, text.as_bytes())?;
    Ok(Kept {
        certificate,
        key,
        not_after,
    })
}

fn load(path: &Path, trust_domain: &str) -> Result<Option<Kept>, Error> {
    let Some(text) = disk::read(path)? else {
        return Ok(None);
    };
    let damaged = |what: &str| Error::Damaged {
        path: path.to_owned(),
        what: what.to_owned(),
    };
    let rest = disk::after_format_line(path, &text, WORD, FORMAT)?;
    let certificate = certificates(rest)
        .ok()
        .and_then(|found| found.into_iter().next())
        .ok_or_else(|| damaged("it holds no certificate"))?;
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from_pem_slice(rest.as_bytes())
        .map_err(|_| damaged("it holds no private key"))?;
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)
        .map_err(|_| damaged("its private key does not decode"))?;
    let (_, parsed) = X509Certificate::from_der(&certificate)
        .map_err(|_| damaged("its certificate does not decode"))?;
    let own_key = parsed.public_key().subject_public_key.data.as_ref() == key.public_key_raw();
    if !own_key {
        return Err(damaged("certificate and key do not belong together"));
    }
    let of_domain = parsed
        .subject()
        .iter_organization()
        .any(|name| name.as_str() == Ok(trust_domain));
    if !of_domain {
        return Err(damaged("it belongs to another trust domain"));
    }
    let not_after = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    Ok(Some(Kept {
        certificate,
        key,
        not_after,
    }))
}
