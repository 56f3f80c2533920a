//! A workload's certificate with its key, and the file that lets a restarted proxy serve without a control plane.
//!
//! `identity.pem` is PEM with a first line of its own (`naka-identity 1`), then the trust domain, the key, the chain,
//! and after a line `trusts` the roots. PEM readers skip lines outside sections, so `openssl x509 -in` works on it.

use crate::bundle::{self, Bundle};
use crate::{Error, disk, peer};
use naka_types::spiffe::SpiffeId;
use naka_types::workload::Ulid;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::time::Duration;

const WORD: &str = "naka-identity";
const FORMAT: u32 = 1;

/// Certificate chain (leaf first, without the root) and key.
pub struct Svid {
    /// Leaf and intermediates, as sent in handshakes.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the leaf.
    pub key: PrivateKeyDer<'static>,
    /// The identity in the leaf.
    pub spiffe: SpiffeId,
    /// The workload id in the leaf.
    pub workload_id: Ulid,
    /// First second.
    pub not_before: u64,
    /// Last second.
    pub not_after: u64,
}

impl std::fmt::Debug for Svid {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Svid")
            .field("spiffe", &self.spiffe)
            .field("workload_id", &self.workload_id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Clone for Svid {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            spiffe: self.spiffe.clone(),
            workload_id: self.workload_id,
            not_before: self.not_before,
            not_after: self.not_after,
        }
    }
}

impl Svid {
    /// Joins a key with the chain issued for it. Self-signed certificates are left out: peers have the roots.
    ///
    /// # Errors
    /// [`Error::Peer`] when the leaf names no workload, [`Error::Tls`] when the key is not the leaf's.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, Error> {
        let leaf = chain
            .first()
            .ok_or(Error::Malformed("certificate chain: it is empty"))?;
        let named = peer::named_by(leaf)?;
        let workload_id = named.workload_id.ok_or(Error::Malformed(
            "certificate: its subject is no workload id",
        ))?;
        let chain: Vec<_> = chain
            .into_iter()
            .enumerate()
            .filter(|(index, certificate)| *index == 0 || !self_signed(certificate))
            .map(|(_, certificate)| certificate)
            .collect();
        let svid = Self {
            chain,
            key,
            spiffe: named.spiffe,
            workload_id,
            not_before: named.not_before,
            not_after: named.not_after,
        };
        svid.certified_key()?;
        Ok(svid)
    }

    /// From the answer of the certificate service: one or more PEM texts, leaf first, root last. Returns what to
    /// present and what to trust.
    ///
    /// # Errors
    /// As [`Svid::new`] and [`Bundle::new`].
    pub fn from_answer(
        pems: &[String],
        key: PrivateKeyDer<'static>,
    ) -> Result<(Self, Bundle), Error> {
        let all = bundle::certificates(&pems.join("\n"))?;
        let root = all
            .last()
            .filter(|last| self_signed(last))
            .cloned()
            .ok_or(Error::Malformed(
                "certificate chain: its last one is no root",
            ))?;
        let svid = Self::new(all, key)?;
        let bundle = Bundle::new(svid.spiffe.trust_domain(), vec![root])?;
        Ok((svid, bundle))
    }

    /// Serial number of the leaf, hexadecimal, as its issuer names it.
    #[must_use]
    pub fn serial(&self) -> String {
        use x509_parser::prelude::{FromDer, X509Certificate};
        let leaf = self.chain.first();
        let parsed = leaf.and_then(|leaf| X509Certificate::from_der(leaf).ok());
        parsed.map_or_else(String::new, |(_, leaf)| crate::hex(leaf.raw_serial()))
    }

    /// What is left of it.
    #[must_use]
    pub fn remaining(&self, now: u64) -> Duration {
        Duration::from_secs(self.not_after.saturating_sub(now))
    }

    /// Whether others believe it now: neither expired nor from the future (the clock was set back).
    #[must_use]
    pub fn holds(&self, now: u64) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// The chain as PEM text, leaf first.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        bundle::to_pem(&self.chain)
    }

    /// The key as PEM text: for a file of mode 0600, or for a proxy of the same workload.
    #[must_use]
    pub fn key_pem(&self) -> String {
        crate::key::to_pem(&self.key)
    }

    /// Saves it with what it trusts, for restarts.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn save(&self, path: &Path, trusts: &Bundle) -> Result<(), Error> {
        let text = format!(
            "{WORD} {FORMAT}\n{}\n{}{}trusts\n{}",
            trusts.trust_domain(),
            self.key_pem(),
            self.chain_pem(),
            trusts.to_pem()
        );
        disk::write_private(path, text.as_bytes())
    }

    /// Loads what [`Svid::save`] wrote; `None` when there is no file.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is not such a file; the certificate may be over, see [`Svid::remaining`].
    pub fn load(path: &Path) -> Result<Option<(Self, Bundle)>, Error> {
        let Some(text) = disk::read(path)? else {
            return Ok(None);
        };
        let rest = disk::after_format_line(path, &text, WORD, FORMAT)?;
        Self::parse(rest).map(Some).map_err(|cause| Error::Damaged {
            path: path.to_owned(),
            what: cause.to_string(),
        })
    }

    fn parse(text: &str) -> Result<(Self, Bundle), Error> {
        let (trust_domain, rest) = text
            .split_once('\n')
            .ok_or(Error::Malformed("identity file"))?;
        let (own, trusted) = rest
            .split_once("\ntrusts\n")
            .ok_or(Error::Malformed("identity file"))?;
        let key = PrivateKeyDer::from_pem_slice(own.as_bytes())
            .map_err(|_| Error::Malformed("private key"))?;
        let svid = Self::new(bundle::certificates(own)?, key)?;
        Ok((svid, Bundle::from_pem(trust_domain, trusted)?))
    }

    pub(crate) fn certified_key(&self) -> Result<rustls::sign::CertifiedKey, Error> {
        Ok(rustls::sign::CertifiedKey::from_der(
            self.chain.clone(),
            self.key.clone_key(),
            &crate::tls::provider(),
        )?)
    }
}

fn self_signed(certificate: &CertificateDer<'_>) -> bool {
    use x509_parser::prelude::{FromDer, X509Certificate};
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.subject().as_raw() == parsed.issuer().as_raw())
}
