//! Whether certificates that come from elsewhere may sign for a mesh: RFC 5280 section 6 as far as it concerns the
//! chain of an authority, with words for what is wrong.
//!
//! Peers check all of this again in each handshake. Here it is asked before a mesh begins to depend on the answer.

use crate::Error;
use crate::bundle::certificates;
use rcgen::{KeyPair, PublicKeyData as _};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

/// More certificates than any honest chain has.
const LONGEST: usize = 8;
/// Shorter RSA keys are not safe (NIST SP 800-57 part 1).
const LEAST_RSA_BITS: usize = 2048;

/// A chain that may sign.
pub(super) struct Checked {
    /// Signing certificate first, root left out.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// Last second of the one that ends first.
    pub(super) not_after: u64,
}

/// A root that signs itself, at this time and for this trust domain.
pub(super) fn root(root: &CertificateDer<'_>, trust_domain: &str, now: u64) -> Result<(), Error> {
    let parsed = parse(root).ok_or(Error::Malformed("root certificate"))?;
    authority(&parsed, "the root", trust_domain, now)?;
    if parsed.verify_signature(None).is_err() {
        return Err(no("the root does not sign itself: it is no root"));
    }
    Ok(())
}

/// Certificates of a PEM text, signing certificate first, that end at `root` and whose first one is `key`'s.
pub(super) fn below(
    root: &CertificateDer<'_>,
    chain_pem: &str,
    key: &KeyPair,
    trust_domain: &str,
    now: u64,
) -> Result<Checked, Error> {
    let mut chain: Vec<CertificateDer<'static>> = Vec::new();
    for certificate in certificates(chain_pem)? {
        // Istio's cert-chain.pem repeats the signing certificate, and often has the root.
        if certificate != *root && !chain.contains(&certificate) {
            chain.push(certificate);
        }
    }
    if chain.is_empty() || chain.len() > LONGEST {
        let count = chain.len();
        return Err(no(&format!(
            "{count} certificates below the root, where 1 to {LONGEST} are expected"
        )));
    }
    let parsed = chain
        .iter()
        .map(|der| parse(der).ok_or(Error::Malformed("certificate")))
        .collect::<Result<Vec<_>, _>>()?;
    if parsed[0].public_key().subject_public_key.data.as_ref() != key.der_bytes() {
        return Err(no(
            "the signing certificate belongs to another key: sign the request that was made last",
        ));
    }
    let top = parse(root).ok_or(Error::Malformed("root certificate"))?;
    for (depth, certificate) in parsed.iter().enumerate() {
        let name = certificate.subject().to_string();
        authority(certificate, &name, trust_domain, now)?;
        let above = parsed.get(depth + 1).unwrap_or(&top);
        let signed = certificate.issuer().as_raw() == above.subject().as_raw()
            && certificate
                .verify_signature(Some(above.public_key()))
                .is_ok();
        if !signed {
            return Err(no(&format!(
                "{name} is not signed by {}; give the chain in order, up to the root of this mesh",
                above.subject()
            )));
        }
        if !allows_below(above, depth + 1) {
            return Err(no(&format!(
                "{} does not allow {} authorities below it (path length)",
                above.subject(),
                depth + 1
            )));
        }
    }
    let ends = parsed.iter().map(last_second).min().unwrap_or(0);
    let not_after = ends.min(last_second(&top));
    Ok(Checked { chain, not_after })
}

/// Whether a certificate is an authority's own, now and for this mesh.
fn authority(
    certificate: &X509Certificate<'_>,
    name: &str,
    trust_domain: &str,
    now: u64,
) -> Result<(), Error> {
    let authority = certificate
        .basic_constraints()
        .ok()
        .flatten()
        .is_some_and(|constraints| constraints.value.ca);
    let usage = certificate.key_usage().ok().flatten();
    if !authority || usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(no(&format!(
            "{name} may not sign certificates (CA:TRUE, keyCertSign)"
        )));
    }
    let first = u64::try_from(certificate.validity().not_before.timestamp()).unwrap_or(0);
    if now < first || now >= last_second(certificate) {
        let validity = certificate.validity();
        return Err(no(&format!(
            "{name} is valid from {} to {}, not now",
            validity.not_before, validity.not_after
        )));
    }
    if !may_be_of(certificate, trust_domain) {
        return Err(no(&format!(
            "{name} belongs to another trust domain than {trust_domain}"
        )));
    }
    let small = |bits: usize| bits < LEAST_RSA_BITS;
    if matches!(certificate.public_key().parsed(), Ok(PublicKey::RSA(key)) if small(key.key_size()))
    {
        return Err(no(&format!(
            "{name} has an RSA key of less than {LEAST_RSA_BITS} bits"
        )));
    }
    Ok(())
}

/// Whether an authority may have this many others below it.
fn allows_below(certificate: &X509Certificate<'_>, count: usize) -> bool {
    let constraints = certificate.basic_constraints().ok().flatten();
    let most = constraints.and_then(|constraints| constraints.value.path_len_constraint);
    // The path length counts the authorities below, not the certificates they issue (RFC 5280 4.2.1.9).
    most.is_none_or(|most| usize::try_from(most).is_ok_and(|most| count <= most))
}

pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    let (rest, parsed) = X509Certificate::from_der(der).ok()?;
    rest.is_empty().then_some(parsed)
}

/// 0 when it does not decode.
pub(super) fn first_second(der: &CertificateDer<'_>) -> u64 {
    let first = parse(der).map(|parsed| parsed.validity().not_before.timestamp());
    first
        .and_then(|first| u64::try_from(first).ok())
        .unwrap_or(0)
}

pub(super) fn last_second(certificate: &X509Certificate<'_>) -> u64 {
    u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0)
}

/// Whether an authority's certificate can be one of this trust domain: the SPIFFE id in it, where it has one, says so
/// (SPIFFE X.509-SVID section 3). One without comes from an authority of more than meshes.
pub(super) fn may_be_of(certificate: &X509Certificate<'_>, trust_domain: &str) -> bool {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    names
        .filter_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix("spiffe://"),
            _ => None,
        })
        .all(|domain| domain == trust_domain)
}

fn no(what: &str) -> Error {
    Error::Authority(what.to_owned())
}
