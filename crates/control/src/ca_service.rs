//! The certificate service: who proves what gets a certificate for exactly that.
//!
//! A **proof** ([`Proof`]) says whom a request is for. Two are built in: a join token (`authorization: Bearer
//! naka1.join.…` on a connection without a client certificate) makes a new workload with a new workload id; an identity
//! (client certificate, or a token earlier on this connection) renews itself: the same SPIFFE id, workload id, services
//! and labels, whatever the request says. A token's use is on disk before the certificate leaves, so a crash costs a
//! use, never gives one.
//!
//! After a token the connection itself is bound to the new identity ([`conn`]), so configuration and registration
//! follow on it without a second handshake.
//!
//! What the certificate is like is ruled by CertificatePolicies ([`crate::certificates`]). Every answer, a refusal too,
//! carries what the workload has to know of that for its next request.
//!
//! Every certificate is a record `("certificate", workload id)` of the store, without keys: it is what renewal, the
//! registry and `naka get certs` go by.
//!
//! Invariants: a signing request gives nothing but its public key; services and labels of a workload are those its
//! token vouched for; refusals say which rule, and never whether a token id exists.

pub mod approval;
pub mod conn;
mod denied;
mod proof;
mod records;

pub use conn::{ConnIdentity, MeshIo, PeerIdentity, TlsIncoming, peer};
pub use proof::{Asked, Proof, Proved};
pub use records::{
    CERTIFICATE, Certificate, REVOKED, Revocation, TOKEN, certificate, grant, revoked,
};

use crate::certificates::{self, Ruling, TERMS};
use approval::{CertificateRequest, Standing};
use denied::Denied;
use naka_api::own::certificate_policy::Workload;
use naka_identity::{
    Authority, IssueRequest, Issued, Refused, RequestedKey, TokenGrant, Wanted, dns_sans,
};
use naka_store::{Draft, Store};
use naka_telemetry::{Metrics, name};
use naka_types::host::check_label;
use naka_wire::istio_ca::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use naka_wire::istio_ca::{IstioCertificateRequest, IstioCertificateResponse};
use naka_wire::v1::CertificateTerms;
use naka_wire::values;
use proof::{OfConnection, OfToken};
use prost::Message as _;
use std::sync::Arc;
use std::time::Duration;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Response, Status};

/// Response metadata that carries the short word of a refusal.
pub const REFUSED: &str = "x-naka-refused";
/// The word of a request that waits for somebody.
const APPROVAL: &str = "approval";
/// More services or labels than any honest request has.
const MOST_WANTED: usize = 64;

/// The service. One per control plane.
#[derive(Debug)]
pub struct CaService {
    authority: Arc<Authority>,
    store: Arc<Store>,
    longest: Duration,
    metrics: Metrics,
    /// Asked in this order; the first that finds something of its kind answers.
    proofs: Vec<Box<dyn Proof>>,
    /// Held from looking at a token's uses to having stored one less.
    tokens: tokio::sync::Mutex<()>,
}

/// What is answered to a request that is granted.
struct Granted {
    issued: Issued,
    identity: PeerIdentity,
    terms: CertificateTerms,
}

impl CaService {
    /// The service with its usual certificate lifetime.
    #[must_use]
    pub fn new(
        authority: Arc<Authority>,
        store: Arc<Store>,
        longest: Duration,
        metrics: Metrics,
    ) -> Self {
        let domain = authority.trust_domain().to_owned();
        Self {
            authority,
            store,
            longest,
            metrics,
            proofs: vec![Box::new(OfConnection), Box::new(OfToken { domain })],
            tokens: tokio::sync::Mutex::new(()),
        }
    }

    /// As a tonic service.
    #[must_use]
    pub fn into_service(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self)
    }

    async fn create(&self, request: Request<IstioCertificateRequest>) -> Result<Granted, Denied> {
        let connection = request.extensions().get::<ConnIdentity>().cloned();
        let bearer = request.metadata().get("authorization");
        let bearer = bearer.and_then(|value| value.to_str().ok());
        let bearer = bearer.and_then(|value| value.strip_prefix("Bearer "));
        let bearer = bearer.map(str::to_owned);
        let request = request.into_inner();
        let wanted = wanted(&request)?;
        let known = connection.as_ref().and_then(ConnIdentity::get).cloned();
        let _turn = match known {
            None => Some(self.tokens.lock().await),
            Some(_) => None,
        };
        let snapshot = self.store.snapshot();
        let asked = Asked {
            snapshot: &snapshot,
            wanted: &wanted,
            peer: known.as_ref(),
            bearer: bearer.as_deref(),
            now: naka_identity::now_s(),
        };
        let proved = self.prove(&asked).await?;
        let granted = self.grant(&request, &asked, proved).await?;
        if let (Some(connection), None) = (&connection, &known) {
            connection.bind(granted.identity.clone()).map_err(|_| {
                Denied::new(
                    Code::Aborted,
                    "bound",
                    "another request has bound this connection",
                )
            })?;
        }
        Ok(granted)
    }

    async fn prove(&self, asked: &Asked<'_>) -> Result<Proved, Denied> {
        for proof in &self.proofs {
            if let Some(answer) = proof.prove(asked).await {
                return answer;
            }
        }
        Err(Denied::new(
            Code::Unauthenticated,
            "no-proof",
            "a certificate needs a proof: a join token as bearer, or a connection with a certificate of this mesh",
        ))
    }

    /// Issues what was proved, as the policies have it.
    async fn grant(
        &self,
        request: &IstioCertificateRequest,
        asked: &Asked<'_>,
        proved: Proved,
    ) -> Result<Granted, Denied> {
        let (snapshot, now) = (asked.snapshot, asked.now);
        let key = naka_identity::requested(&request.csr)?;
        // What somebody vouched for wins over what the workload says of itself.
        let mut labels = asked.wanted.labels.clone();
        labels.extend(proved.record.labels.clone());
        let workload = Workload {
            namespace: proved.identity.spiffe.namespace(),
            account: proved.identity.spiffe.service_account(),
            labels: &labels,
        };
        let foreign = certificates::is_foreign(&said(request, "beside"));
        let ruling = certificates::ruling(snapshot, workload, self.longest, foreign);
        let held = certificate(snapshot, proved.identity.workload_id);
        let told = |denied: Denied| denied.with(ruling.terms(held.as_ref(), now));
        if let Some(lacks) =
            certificates::lacking(snapshot, workload, proved.record.attested.as_ref())
        {
            return Err(told(Denied::new(
                Code::PermissionDenied,
                "attestation",
                lacks,
            )));
        }
        fits(&ruling, &key).map_err(told)?;
        let approved = match ruling.is_manual() {
            true => Some(
                self.approved(request, asked, &proved, (&ruling, &key))
                    .await
                    .map_err(told)?,
            ),
            false => None,
        };
        let record = Certificate {
            key_type: key.kind.map(|kind| kind.to_string()).unwrap_or_default(),
            policy: ruling.name(),
            ..proved.record
        };
        let issued = self.issue(request, &proved.identity, &record, &ruling, now)?;
        let record = records::dated(record, &issued);
        let terms = ruling.terms(Some(&record), now);
        let mut drafts = records::prune(snapshot, now);
        drafts.push(records::issued(&record, &proved.identity));
        drafts.extend(approved);
        match &proved.token {
            None => drop(self.store.commit(drafts).await?),
            Some(grant) => {
                if grant.uses_left.is_some() {
                    drafts.push(records::used(grant));
                }
                self.store_use(drafts, grant).await?;
            }
        }
        Ok(Granted {
            issued,
            identity: proved.identity,
            terms,
        })
    }

    /// Whether somebody approved the request; what takes the approval away. Else it is noted, so that somebody can.
    async fn approved(
        &self,
        request: &IstioCertificateRequest,
        asked: &Asked<'_>,
        proved: &Proved,
        (ruling, key): (&Ruling, &RequestedKey),
    ) -> Result<Draft, Denied> {
        let workload = said(request, "workload_name");
        let wanted = CertificateRequest {
            key_type: key.words.clone(),
            key_sha256: key.sha256.clone(),
            policy: ruling.name(),
            asked_at: asked.now,
            ..approval::asked(&proved.identity, proved.token.is_some(), &workload)
        };
        match approval::standing(asked.snapshot, &wanted) {
            Standing::Approved(taken) => return Ok(taken),
            Standing::New(noted) => drop(self.store.commit(vec![noted]).await?),
            Standing::Known => {}
            Standing::TooMany => {
                return Err(Denied::new(
                    Code::ResourceExhausted,
                    "approvals",
                    format!(
                        "too many requests of {} wait for approval; `naka get certs` lists them",
                        wanted.spiffe
                    ),
                ));
            }
        }
        Err(Denied::new(
            Code::FailedPrecondition,
            APPROVAL,
            format!(
                "the CertificatePolicy {} wants somebody to approve the certificate: naka cert approve {}",
                wanted.policy,
                approval::id_of(&wanted.key_sha256)
            ),
        ))
    }

    /// Stores a use. A token that somebody revoked in this very moment stays revoked.
    async fn store_use(&self, drafts: Vec<Draft>, grant: &TokenGrant) -> Result<(), Denied> {
        let commit = self.store.commit(drafts).await?;
        let key = (TOKEN.to_owned(), grant.id.clone());
        let revived = commit
            .events
            .iter()
            .any(|event| event.record.as_ref() == Some(&key) && event.before.is_none());
        if revived {
            self.store.commit(vec![records::forget(&grant.id)]).await?;
            return Err(Refused::WrongSecret.into());
        }
        Ok(())
    }

    fn issue(
        &self,
        asked: &IstioCertificateRequest,
        identity: &PeerIdentity,
        certificate: &Certificate,
        ruling: &Ruling,
        now: u64,
    ) -> Result<Issued, Denied> {
        let ttl = match u64::try_from(asked.validity_duration) {
            Ok(0) | Err(_) => ruling.lifetime,
            Ok(seconds) => Duration::from_secs(seconds).min(ruling.lifetime),
        };
        Ok(self.authority.issue(&IssueRequest {
            csr_pem: &asked.csr,
            spiffe: &identity.spiffe,
            workload_id: identity.workload_id,
            dns_sans: &dns_sans(&certificate.services, identity.spiffe.namespace()),
            ttl,
            now,
        })?)
    }
}

/// What the workload says of itself in a field.
fn said(request: &IstioCertificateRequest, field: &str) -> String {
    let metadata = request.metadata.as_ref();
    let said = metadata.and_then(|metadata| values::get_str(metadata, field));
    said.unwrap_or_default().to_owned()
}

/// Refuses a key that the policy does not want.
fn fits(ruling: &Ruling, key: &RequestedKey) -> Result<(), Denied> {
    match ruling.key {
        Some(wanted) if key.kind != Some(wanted) => Err(Denied::new(
            Code::FailedPrecondition,
            "key-type",
            format!(
                "the CertificatePolicy {} wants a key of type {wanted}, the signing request has {}: make a key of that type and ask again",
                ruling.name(),
                key.words
            ),
        )),
        _ => Ok(()),
    }
}

#[tonic::async_trait]
impl IstioCertificateService for CaService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        match self.create(request).await {
            Ok(Granted {
                issued,
                identity,
                terms,
            }) => {
                self.metrics.number(name::CERTIFICATES_ISSUED, &[]).add(1);
                tracing::info!(
                    spiffe = %identity.spiffe,
                    workload = %identity.workload_id,
                    not_after = issued.not_after,
                    "certificate issued"
                );
                let mut response = Response::new(IstioCertificateResponse {
                    cert_chain: issued.pems(),
                });
                tell(response.metadata_mut(), &terms);
                Ok(response)
            }
            Err(denied) => {
                self.metrics
                    .number(name::CERTIFICATES_REFUSED, &[("reason", denied.word)])
                    .add(1);
                tracing::warn!(reason = denied.word, "certificate refused: {}", denied.text);
                let mut status = Status::new(denied.code, denied.text);
                if let Ok(word) = denied.word.parse() {
                    status.metadata_mut().insert(REFUSED, word);
                }
                if let Some(terms) = &denied.terms {
                    tell(status.metadata_mut(), terms);
                }
                Err(status)
            }
        }
    }
}

fn tell(metadata: &mut MetadataMap, terms: &CertificateTerms) {
    let bytes = terms.encode_to_vec();
    metadata.insert_bin(TERMS, MetadataValue::from_bytes(&bytes));
}

/// What the request says it wants, checked for shape.
fn wanted(asked: &IstioCertificateRequest) -> Result<Wanted, Denied> {
    let malformed = |text: String| Denied::new(Code::InvalidArgument, "identity", text);
    let Some(metadata) = &asked.metadata else {
        return Ok(Wanted::default());
    };
    let text = |key: &str| {
        values::get_str(metadata, key)
            .unwrap_or_default()
            .to_owned()
    };
    let wanted = Wanted {
        namespace: text("namespace"),
        service_account: text("service_account"),
        services: values::get_strings(metadata, "services"),
        labels: values::get_struct(metadata, "labels")
            .map(values::to_map)
            .unwrap_or_default(),
    };
    if wanted.services.len() > MOST_WANTED || wanted.labels.len() > MOST_WANTED {
        return Err(malformed(format!(
            "more than {MOST_WANTED} services or labels"
        )));
    }
    for service in &wanted.services {
        check_label(service).map_err(|invalid| malformed(invalid.to_string()))?;
    }
    Ok(wanted)
}
