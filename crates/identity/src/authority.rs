//! The certificate authority: root → intermediate → workload, made at the first start and kept in `ca/`.
//!
//! The root only signs intermediates; the intermediate signs workloads and the control plane's own certificate. From
//! a signing request the authority takes the public key after checking its signature, and nothing else: identity,
//! names, lifetime and usage are the authority's own decision.
//!
//! The root's key may be elsewhere ([`offline`]): then intermediates come from there, by [`Authority::request`] and
//! [`Authority::install`]. Where it is here, an intermediate is replaced in time, while everything runs.
//!
//! The root is replaced in steps, with both roots trusted in between ([`rotate`]).
//!
//! Invariants: an issued certificate never outlives the intermediate; it is never an authority itself.
//! Not here: whether somebody may have a certificate (that is `naka-control`'s `ca_service`); when the next step of a
//! change of the root may be taken (its `rollout`).

mod chain;
mod files;
pub mod offline;
pub mod rotate;
mod server;
mod token;

pub use server::ServerCert;

use crate::bundle::Bundle;
use crate::{BACKDATE, Error, hex, random_bytes, sha256_hex};
use naka_types::spiffe::SpiffeId;
use naka_types::workload::Ulid;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

const DAY_S: u64 = 24 * 3600;
const ROOT_TTL: Duration = Duration::from_secs(3650 * DAY_S);
const INTERMEDIATE_TTL: Duration = Duration::from_secs(365 * DAY_S);

/// The authority of one mesh. It is the only owner of the signing keys.
pub struct Authority {
    dir: PathBuf,
    trust_domain: String,
    held: RwLock<Arc<Held>>,
    /// Held while files change.
    writing: Mutex<()>,
}

/// Everything that changes together.
struct Held {
    signs: Pair,
    /// Trusted, and signs as soon as everybody knows it.
    prepared: Option<Pair>,
    /// Trusted as long as certificates below it are in use; signs workloads no more.
    retired: Option<Pair>,
    crossed: Option<rotate::Crossed>,
    bundle: Bundle,
}

/// A root with what signs below it.
#[derive(Clone)]
struct Pair {
    root: Arc<TrustedRoot>,
    signer: Arc<Signer>,
}

/// A root as it is held in memory: its key, if it is here at all, stays in its file.
struct TrustedRoot {
    certificate: CertificateDer<'static>,
    not_after: u64,
    key_here: bool,
}

/// What signs at the moment.
struct Signer {
    /// The intermediate, then those above it, without the root.
    chain: Vec<CertificateDer<'static>>,
    /// Last second of the one of them that ends first.
    not_after: u64,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .field("root_not_after", &self.root_not_after())
            .field("intermediate_not_after", &self.intermediate_not_after())
            .finish_non_exhaustive()
    }
}

/// What to put into a workload's certificate.
#[derive(Debug, Clone)]
pub struct IssueRequest<'a> {
    /// PEM of the signing request.
    pub csr_pem: &'a str,
    /// Identity, decided by the proof.
    pub spiffe: &'a SpiffeId,
    /// Workload id, for the subject.
    pub workload_id: Ulid,
    /// DNS names, see [`dns_sans`].
    pub dns_sans: &'a [String],
    /// Lifetime from now on.
    pub ttl: Duration,
    /// Now, in seconds since 1970.
    pub now: u64,
}

/// An issued certificate.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Leaf, intermediates, roots; the one it leads to is the last.
    pub chain: Vec<CertificateDer<'static>>,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// First second.
    pub not_before: u64,
    /// Last second.
    pub not_after: u64,
}

impl Issued {
    /// The chain as PEM texts, in the same order.
    #[must_use]
    pub fn pems(&self) -> Vec<String> {
        self.chain
            .iter()
            .map(|der| crate::bundle::pem("CERTIFICATE", der))
            .collect()
    }
}

/// DNS names of the services a workload serves, in every form programs write them.
#[must_use]
pub fn dns_sans(services: &[String], namespace: &str) -> Vec<String> {
    let mut names: Vec<String> = services
        .iter()
        .flat_map(|service| {
            [
                service.clone(),
                format!("{service}.local"),
                format!("{service}.{namespace}"),
                format!("{service}.{namespace}.svc"),
                format!("{service}.{namespace}.{}", naka_types::host::DOMAIN),
            ]
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

impl Authority {
    /// Opens the authority kept in `dir`, or makes a new one there (directory 0700, files 0600). An intermediate with
    /// less than a third of its time left is replaced where the root's key is at hand; the root stays.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Damaged`] names the file; a root of another trust domain counts as damaged.
    pub fn open_or_create(dir: &Path, trust_domain: &str, now: u64) -> Result<Self, Error> {
        files::open_or_create(dir, trust_domain, now)
    }

    fn new(
        dir: &Path,
        trust_domain: &str,
        root: files::Root,
        signer: Signer,
    ) -> Result<Self, Error> {
        let signs = Pair::new(root, signer);
        let held = rotate::load(dir, trust_domain, signs)?;
        Ok(Self {
            dir: dir.to_owned(),
            trust_domain: trust_domain.to_owned(),
            held: RwLock::new(Arc::new(held)),
            writing: Mutex::new(()),
        })
    }

    /// Replaces the intermediate when less than a third of its time is left and the root's key is here; says whether it
    /// did. What it signed stays good. Reads and writes files when it does.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Damaged`] names the file; the old intermediate goes on signing.
    pub fn renew(&self, now: u64) -> Result<bool, Error> {
        let _files = self.writing();
        let ends = self.intermediate_not_after();
        if !self.root_here() || !files::due(ends, self.root_not_after(), now) {
            return Ok(false);
        }
        self.put(files::successor(&self.dir, &self.trust_domain, now)?)?;
        Ok(true)
    }

    /// A signing request (PEM) for another intermediate, signed elsewhere by the root's key. Its key stays here, in
    /// `ca/pending.pem`, until [`Authority::install`]; asking again forgets the key of the last request.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn request(&self) -> Result<String, Error> {
        files::request(&self.dir, &self.trust_domain)
    }

    /// Takes up the certificate that the last [`Authority::request`] was signed into, with those between it and the
    /// root: from now on it signs.
    ///
    /// # Errors
    /// [`Error::Authority`] says why it may not sign for this mesh; the old one goes on.
    pub fn install(&self, chain_pem: &str, now: u64) -> Result<(), Error> {
        let _files = self.writing();
        let root = Arc::clone(&self.held().signs.root);
        let root = &root.certificate;
        self.put(files::install(
            &self.dir,
            &self.trust_domain,
            root,
            chain_pem,
            now,
        )?)
    }

    /// Another intermediate below the same root.
    fn put(&self, next: Signer) -> Result<(), Error> {
        let held = self.held();
        let signs = Pair {
            root: Arc::clone(&held.signs.root),
            signer: Arc::new(next),
        };
        self.hold(rotate::load(&self.dir, &self.trust_domain, signs)?);
        Ok(())
    }

    fn hold(&self, held: Held) {
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(held);
    }

    fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn writing(&self) -> std::sync::MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs a workload certificate.
    ///
    /// # Errors
    /// [`Error::Request`] when the signing request is malformed, its signature wrong or its key of a kind not
    /// accepted.
    pub fn issue(&self, request: &IssueRequest<'_>) -> Result<Issued, Error> {
        let key = public_key(request.csr_pem)?;
        let held = self.held();
        let signer = &held.signs.signer;
        let mut params = signer.leaf(request.now, request.ttl);
        params
            .distinguished_name
            .push(DnType::CommonName, request.workload_id.to_string());
        params
            .subject_alt_names
            .push(SanType::URI(request.spiffe.to_string().try_into()?));
        for name in request.dns_sans {
            params
                .subject_alt_names
                .push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        sign(signer, held.roots_along(), &params, &key)
    }

    /// Signs a certificate for the control plane itself, with a new key.
    fn issue_server(
        &self,
        names: &[String],
        addresses: &[IpAddr],
        ttl: Duration,
        now: u64,
    ) -> Result<(Issued, KeyPair), Error> {
        let key = KeyPair::generate()?;
        let held = self.held();
        let (signer, above) = held.server();
        let mut params = signer.leaf(now, ttl);
        params
            .distinguished_name
            .push(DnType::CommonName, crate::CONTROL_NAME);
        for name in names {
            params
                .subject_alt_names
                .push(SanType::DnsName(name.as_str().try_into()?));
        }
        params
            .subject_alt_names
            .extend(addresses.iter().map(|ip| SanType::IpAddress(*ip)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let issued = sign(signer, above, &params, &key)?;
        Ok((issued, key))
    }

    /// What the mesh trusts.
    #[must_use]
    pub fn bundle(&self) -> Bundle {
        self.held().bundle.clone()
    }

    /// Trust domain of every identity issued here.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// SHA-256 of the root that the control plane's own certificate leads to, as tokens carry it.
    #[must_use]
    pub fn root_sha256(&self) -> String {
        sha256_hex(&self.held().shown().certificate)
    }

    /// Last second of the root that signs.
    #[must_use]
    pub fn root_not_after(&self) -> u64 {
        self.held().signs.root.not_after
    }

    /// Last second of the intermediate.
    #[must_use]
    pub fn intermediate_not_after(&self) -> u64 {
        self.held().signs.signer.not_after
    }

    /// First second of the root that signs.
    #[must_use]
    pub fn root_not_before(&self) -> u64 {
        chain::first_second(&self.held().signs.root.certificate)
    }

    /// First second of the intermediate.
    #[must_use]
    pub fn intermediate_not_before(&self) -> u64 {
        let held = self.held();
        held.signs
            .signer
            .chain
            .first()
            .map_or(0, chain::first_second)
    }

    /// Whether the key of the root that signs is here, so that intermediates are replaced without anybody's help.
    #[must_use]
    pub fn root_here(&self) -> bool {
        self.held().signs.root.key_here
    }
}

fn sign(
    signer: &Signer,
    above: Vec<CertificateDer<'static>>,
    params: &CertificateParams,
    key: &impl rcgen::PublicKeyData,
) -> Result<Issued, Error> {
    let leaf = params.signed_by(key, &signer.issuer)?;
    let second = |at: i64| u64::try_from(at).unwrap_or(0);
    let mut chain = vec![leaf.der().clone()];
    chain.extend(signer.chain.iter().cloned());
    chain.extend(above);
    Ok(Issued {
        chain,
        serial: params
            .serial_number
            .as_ref()
            .map(|serial| hex(&serial.to_bytes()))
            .unwrap_or_default(),
        not_before: second(params.not_before.unix_timestamp()),
        not_after: second(params.not_after.unix_timestamp()),
    })
}

impl Signer {
    /// What every certificate issued here has in common.
    fn leaf(&self, now: u64, ttl: Duration) -> CertificateParams {
        let mut params = dated(
            now - BACKDATE.as_secs().min(now),
            (now + ttl.as_secs().max(1)).min(self.not_after),
        );
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.use_authority_key_identifier_extension = true;
        params
    }
}

/// The public key of a signing request whose signature is its own. Everything else in it is ignored.
fn public_key(csr_pem: &str) -> Result<SubjectPublicKeyInfo, Error> {
    crate::key::with_request(csr_pem, |request| {
        SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
            .map_err(|_| Error::Request("its key is of a kind that is not accepted".to_owned()))
    })
}

/// Empty parameters with a random serial number and these dates.
fn dated(not_before: u64, not_after: u64) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = epoch + Duration::from_secs(not_before);
    params.not_after = epoch + Duration::from_secs(not_after);
    let mut serial = random_bytes::<16>();
    // Positive and of full length, whatever chance says.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

/// Parameters of an authority's own certificate.
fn authority_params(
    name: &str,
    trust_domain: &str,
    below: u8,
    now: u64,
    ttl: Duration,
) -> Result<CertificateParams, Error> {
    let mut params = dated(now - BACKDATE.as_secs().min(now), now + ttl.as_secs());
    params
        .distinguished_name
        .push(DnType::OrganizationName, trust_domain);
    params.distinguished_name.push(DnType::CommonName, name);
    params
        .subject_alt_names
        .push(SanType::URI(format!("spiffe://{trust_domain}").try_into()?));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
