//! Asking for certificates: the first one by token, the next ones in time.
//!
//! What the key must be the control plane says: with every answer, and by the registration when a policy changes. A key
//! that is refused for its type is made anew at once; one that is refused for another reason is kept and shown again, so
//! that whoever has to say yes to it says it of this very key. RSA keys are made beside this thread, which owes others
//! their acknowledgements.
//!
//! Invariant: the private key never leaves this process but into its own file.

use crate::control_client::{Error, Link};
use crate::rotation::{Feed, Terms};
use crate::settings::{Beside, Settings};
use naka_identity::{Bundle, KeyAndCsr, Svid, schedule};
use naka_types::key::KeyType;
use naka_types::token::Token;
use naka_wire::istio_ca::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};
use naka_wire::v1::CertificateTerms;
use naka_wire::values;
use prost::Message as _;
use std::sync::Arc;
use std::time::Duration;
use tonic::metadata::MetadataMap;

/// Time for the certificate service to answer.
const CERTIFY: Duration = Duration::from_secs(10);
/// How often the clock is looked at while a renewal is not due.
const CLOCK_LOOK: Duration = Duration::from_secs(10);
/// Time for the control plane to say when a certificate of an earlier life is to be renewed.
const TERMS_WITHIN: Duration = Duration::from_secs(3);
/// Metadata of answers with what the next request has to be like.
const TERMS: &str = "naka-certificate-terms-bin";

/// Metadata of a refusal with its short word.
const REFUSED: &str = "x-naka-refused";
/// The word of a request that waits until somebody approves it.
const APPROVAL: &str = "approval";
/// The words of a policy that says no, whoever vouches for the workload.
const RULES: [&str; 3] = ["attestation", "approvals", "key-type"];
/// How often it is asked whether somebody did.
const APPROVED_LOOK: Duration = Duration::from_secs(5);

/// A certificate with what came along.
#[derive(Debug)]
pub struct Certified {
    /// Certificate and key.
    pub svid: Svid,
    /// Roots.
    pub bundle: Bundle,
    /// What was said of the next one; `None`: nothing.
    pub terms: Option<Terms>,
}

/// Asks for the certificates of one workload.
#[derive(Debug)]
pub struct Asker {
    settings: Arc<Settings>,
    /// Of a request that was not granted.
    key: Option<KeyAndCsr>,
    /// What keys must be, as far as is known.
    kind: KeyType,
}

impl Asker {
    /// For the workload of these settings.
    #[must_use]
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            key: None,
            kind: KeyType::default(),
        }
    }

    /// Asks; with a token on a connection that has no identity yet.
    ///
    /// # Errors
    /// When none was issued, with the control plane's words.
    pub async fn ask(&mut self, link: &Link, token: Option<&Token>) -> Result<Certified, Error> {
        let mut again = true;
        loop {
            let key = match self.key.take().filter(|key| key.kind() == self.kind) {
                Some(key) => key,
                None => made(self.kind).await?,
            };
            let request = request(&self.settings, &key, token)?;
            let mut stub = IstioCertificateServiceClient::new(link.clone());
            let answer = tokio::time::timeout(CERTIFY, stub.create_certificate(request));
            let Ok(answer) = answer.await else {
                self.key = Some(key);
                return Err(Error::Certify("no answer in time".to_owned()));
            };
            match answer {
                Ok(answer) => {
                    let terms = said(answer.metadata());
                    self.heed(terms);
                    let chain = answer.into_inner().cert_chain;
                    // The server's chain was verified by the token's hash. The root of what it issues may have followed
                    // that one, which then comes along.
                    if token.is_some_and(|t| !naka_identity::names_root(&chain, &t.ca_sha256)) {
                        return Err(Error::Certify(
                            "its root is not the one the token names".to_owned(),
                        ));
                    }
                    let (svid, bundle) = Svid::from_answer(&chain, key.key())?;
                    return Ok(Certified {
                        svid,
                        bundle,
                        terms,
                    });
                }
                Err(status) => {
                    self.heed(said(status.metadata()));
                    if std::mem::take(&mut again) && self.kind != key.kind() {
                        tracing::info!(kind = %self.kind, "the control plane wants another key");
                        continue;
                    }
                    self.key = Some(key);
                    return Err(refused(&status));
                }
            }
        }
    }

    fn heed(&mut self, terms: Option<Terms>) {
        if let Some(terms) = terms {
            self.kind = terms.key.unwrap_or_default();
        }
    }
}

fn refused(status: &tonic::Status) -> Error {
    let text = status.message().to_owned();
    match status.metadata().get(REFUSED) {
        Some(word) if word == APPROVAL => Error::Held(text),
        Some(word) if RULES.iter().any(|rule| word == *rule) => Error::Ruled(text),
        _ => Error::Certify(text),
    }
}

/// A key; a slow one is made where nobody waits.
async fn made(kind: KeyType) -> Result<KeyAndCsr, Error> {
    if !kind.is_slow() {
        return Ok(KeyAndCsr::generate_for(kind)?);
    }
    let made = tokio::task::spawn_blocking(move || KeyAndCsr::generate_for(kind)).await;
    let made = made.map_err(|_| Error::Certify("its key could not be made".to_owned()))?;
    Ok(made?)
}

fn said(metadata: &MetadataMap) -> Option<Terms> {
    let bytes = metadata.get_bin(TERMS)?.to_bytes().ok()?;
    let terms = CertificateTerms::decode(bytes).ok()?;
    Some(Terms::from(&terms))
}

fn request(
    settings: &Settings,
    key: &KeyAndCsr,
    token: Option<&Token>,
) -> Result<tonic::Request<IstioCertificateRequest>, Error> {
    let beside = match settings.beside {
        Beside::Naka => "naka",
        Beside::Envoy => "envoy",
        Beside::Grpc => "grpc",
    };
    let metadata = values::fields([
        ("namespace", values::string(&settings.namespace)),
        ("service_account", values::string(&settings.service_account)),
        ("services", values::strings(settings.service.clone())),
        ("workload_name", values::string(&settings.workload_name)),
        ("beside", values::string(beside)),
        (
            "labels",
            values::nested(values::string_struct(settings.labels.clone())),
        ),
    ]);
    let mut request = tonic::Request::new(IstioCertificateRequest {
        csr: key.csr_pem().to_owned(),
        validity_duration: 0,
        metadata: Some(metadata),
    });
    if let Some(token) = token {
        let value = format!("Bearer {}", token.reveal());
        let mut value =
            tonic::metadata::MetadataValue::try_from(value).map_err(|_| Error::Token)?;
        value.set_sensitive(true);
        request.metadata_mut().insert("authorization", value);
    }
    Ok(request)
}

/// The first certificate, by token.
pub(crate) async fn first(
    asker: &mut Asker,
    link: &Link,
    feed: &Feed,
    token: Option<&Token>,
) -> Result<(), Error> {
    let token = token.ok_or(Error::NoProof)?;
    let Certified {
        svid,
        bundle,
        terms,
    } = asker.ask(link, Some(token)).await?;
    tracing::info!(identity = %svid.spiffe, workload = %svid.workload_id, "joined the mesh");
    feed.renewed(svid, bundle, terms);
    Ok(())
}

/// Renews the certificate whenever its time comes, on this connection. Never ends: a renewal that fails is tried
/// again, sooner the less is left.
pub(crate) async fn renewal(asker: &mut Asker, link: &Link, feed: &Feed) {
    // A saved certificate may be due by the usual rule and be told to wait for a night.
    let told = async {
        while feed.terms().is_none() {
            feed.rescheduled().await;
        }
    };
    let _ = tokio::time::timeout(TERMS_WITHIN, told).await;
    let (mut attempt, mut held) = (0, false);
    let mut ordered = feed.ordered();
    loop {
        let wait = match attempt {
            0 => {
                let due = feed.until_renewal(naka_identity::now_s());
                let at = *ordered.borrow_and_update();
                let asked = at.is_some_and(|at| at <= tokio::time::Instant::now());
                if !due.is_zero() && !asked {
                    // A timer does not see a clock that jumps or a machine that slept.
                    let look = tokio::time::Instant::now() + due.min(CLOCK_LOOK);
                    tokio::select! {
                        () = tokio::time::sleep_until(at.map_or(look, |at| at.min(look))) => {}
                        () = feed.rescheduled() => {}
                        // The feed outlives the line.
                        Ok(()) = ordered.changed() => {}
                    }
                    continue;
                }
                Duration::ZERO
            }
            _ => {
                let left = feed.now().map_or(Duration::ZERO, |identity| {
                    identity.svid.remaining(naka_identity::now_s())
                });
                schedule::retry_in(attempt - 1, left, fastrand::u32(..))
            }
        };
        tokio::time::sleep(wait).await;
        asker.heed(feed.terms());
        match asker.ask(link, None).await {
            Ok(Certified {
                svid,
                bundle,
                terms,
            }) => {
                tracing::info!(identity = %svid.spiffe, not_after = svid.not_after, "the certificate was renewed");
                feed.renewed(svid, bundle, terms);
                (attempt, held) = (0, false);
            }
            Err(Error::Held(text)) => {
                if !std::mem::replace(&mut held, true) {
                    tracing::warn!("the next certificate waits: {text}");
                }
                attempt = 0;
                tokio::time::sleep(APPROVED_LOOK.mul_f64(0.5 + fastrand::f64())).await;
            }
            Err(error) => {
                tracing::warn!(%error, attempt, "the certificate could not be renewed yet");
                attempt += 1;
            }
        }
    }
}
