//! The certificate service: who proves what gets a certificate for exactly that.
//!
//! Two proofs. A **join token** (`authorization: Bearer naka1.join.…` on a connection without a client certificate)
//! makes a new workload with a new workload id; its use is on disk before the certificate leaves, so a crash costs a
//! use, never gives one. An **identity** (client certificate, or a token earlier on this connection) renews itself:
//! the same SPIFFE id, workload id, services and labels, whatever the request says.
//!
//! After a token the connection itself is bound to the new identity ([`conn`]), so configuration and registration
//! follow on it without a second handshake.
//!
//! Every certificate is a record `("certificate", workload id)` of the store, without keys: it is what renewal, the
//! registry and `naka get certs` go by.
//!
//! Invariants: a signing request gives nothing but its public key; services and labels of a workload are those its
//! token vouched for; refusals say which rule, and never whether a token id exists.

pub mod conn;
mod records;

pub use conn::{ConnIdentity, MeshIo, PeerIdentity, TlsIncoming, peer};
pub use records::{
    CERTIFICATE, Certificate, REVOKED, Revocation, TOKEN, certificate, grant, revoked,
};

use naka_identity::{Authority, IssueRequest, Issued, Refused, TokenGrant, Wanted, dns_sans};
use naka_store::{Draft, Store};
use naka_telemetry::{Metrics, name};
use naka_types::host::check_label;
use naka_types::spiffe::SpiffeId;
use naka_types::token::{Token, TokenKind};
use naka_types::workload::Ulid;
use naka_wire::istio_ca::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use naka_wire::istio_ca::{IstioCertificateRequest, IstioCertificateResponse};
use naka_wire::values;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Code, Request, Response, Status};

/// Response metadata that carries the short word of a refusal.
pub const REFUSED: &str = "x-naka-refused";
/// More services or labels than any honest request has.
const MOST_WANTED: usize = 64;

/// The service. One per control plane.
#[derive(Debug)]
pub struct CaService {
    authority: Arc<Authority>,
    store: Arc<Store>,
    longest: Duration,
    metrics: Metrics,
    /// Held from looking at a token's uses to having stored one less.
    tokens: tokio::sync::Mutex<()>,
}

/// A refusal on its way to becoming a status.
struct Denied {
    code: Code,
    word: &'static str,
    text: String,
}

impl Denied {
    fn new(code: Code, word: &'static str, text: impl Into<String>) -> Self {
        Self {
            code,
            word,
            text: text.into(),
        }
    }
}

impl From<Refused> for Denied {
    fn from(refused: Refused) -> Self {
        let code = match refused {
            Refused::NotCovered { .. } => Code::PermissionDenied,
            _ => Code::Unauthenticated,
        };
        Self::new(code, refused.code(), refused.to_string())
    }
}

impl From<naka_store::Error> for Denied {
    fn from(error: naka_store::Error) -> Self {
        Self::new(
            Code::Unavailable,
            "store",
            format!("nothing can be stored: {error}"),
        )
    }
}

impl From<naka_identity::Error> for Denied {
    fn from(error: naka_identity::Error) -> Self {
        match error {
            naka_identity::Error::Request(_) => {
                Self::new(Code::InvalidArgument, "signing-request", error.to_string())
            }
            _ => Self::new(Code::Internal, "internal", error.to_string()),
        }
    }
}

impl CaService {
    /// The service with its longest (and default) certificate lifetime.
    #[must_use]
    pub fn new(
        authority: Arc<Authority>,
        store: Arc<Store>,
        longest: Duration,
        metrics: Metrics,
    ) -> Self {
        Self {
            authority,
            store,
            longest,
            metrics,
            tokens: tokio::sync::Mutex::new(()),
        }
    }

    /// As a tonic service.
    #[must_use]
    pub fn into_service(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self)
    }

    async fn create(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<(Issued, PeerIdentity), Denied> {
        let connection = request.extensions().get::<ConnIdentity>().cloned();
        let bearer = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(Token::parse);
        let asked = request.into_inner();
        let wanted = wanted(&asked)?;
        let known = connection.as_ref().and_then(ConnIdentity::get).cloned();
        match (known, bearer) {
            (Some(identity), _) => self.renew(&asked, wanted, identity).await,
            (None, Some(Ok(token))) => {
                let (issued, identity) = self.join(&asked, wanted, &token).await?;
                if let Some(connection) = &connection {
                    connection.bind(identity.clone()).map_err(|_| {
                        Denied::new(
                            Code::Aborted,
                            "bound",
                            "another request has bound this connection",
                        )
                    })?;
                }
                Ok((issued, identity))
            }
            (None, Some(Err(invalid))) => Err(Denied::new(
                Code::Unauthenticated,
                "malformed-token",
                invalid.to_string(),
            )),
            (None, None) => Err(Denied::new(
                Code::Unauthenticated,
                "no-proof",
                "a certificate needs a proof: a join token as bearer, or a connection with a certificate of this mesh",
            )),
        }
    }

    /// A new workload, by token.
    async fn join(
        &self,
        asked: &IstioCertificateRequest,
        wanted: Wanted,
        token: &Token,
    ) -> Result<(Issued, PeerIdentity), Denied> {
        if token.kind != TokenKind::Join {
            return Err(Refused::WrongKind.into());
        }
        let now = naka_identity::now_s();
        let _turn = self.tokens.lock().await;
        let snapshot = self.store.snapshot();
        let grant = grant(&snapshot, &token.id).ok_or(Refused::WrongSecret)?;
        grant.check(&wanted, &token.secret, now)?;
        let identity = PeerIdentity {
            spiffe: self.spiffe(&wanted)?,
            workload_id: new_ulid(now),
        };
        let certificate = Certificate {
            spiffe: identity.spiffe.to_string(),
            workload_id: identity.workload_id.to_string(),
            services: wanted.services,
            labels: grant.labels.clone(),
            token: grant.id.clone(),
            ..Certificate::default()
        };
        let issued = self.issue(asked, &identity, &certificate, now)?;
        let mut drafts = records::prune(&snapshot, now);
        drafts.push(records::issued(certificate, &issued, &identity));
        if grant.uses_left.is_some() {
            drafts.push(records::used(&grant));
        }
        self.store_use(drafts, &grant).await?;
        Ok((issued, identity))
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

    /// The same workload again.
    async fn renew(
        &self,
        asked: &IstioCertificateRequest,
        wanted: Wanted,
        identity: PeerIdentity,
    ) -> Result<(Issued, PeerIdentity), Denied> {
        let own = &identity.spiffe;
        let differs = |want: &str, have: &str| !want.is_empty() && want != have;
        if differs(&wanted.namespace, own.namespace())
            || differs(&wanted.service_account, own.service_account())
        {
            return Err(Denied::new(
                Code::PermissionDenied,
                "other-identity",
                format!("this connection is {own}; it can renew that identity and no other"),
            ));
        }
        let snapshot = self.store.snapshot();
        if revoked(&snapshot).contains(identity.workload_id) {
            return Err(Denied::new(
                Code::PermissionDenied,
                "revoked",
                format!("the certificates of {own} are revoked; join again with a token"),
            ));
        }
        let before = certificate(&snapshot, identity.workload_id).unwrap_or_default();
        if let Some(service) = wanted
            .services
            .iter()
            .find(|s| !before.services.contains(s))
        {
            return Err(Denied::new(
                Code::PermissionDenied,
                "not-covered",
                format!("{own} joined without the right to serve {service:?}"),
            ));
        }
        let now = naka_identity::now_s();
        let certificate = Certificate {
            spiffe: own.to_string(),
            workload_id: identity.workload_id.to_string(),
            ..before
        };
        let issued = self.issue(asked, &identity, &certificate, now)?;
        let mut drafts = records::prune(&snapshot, now);
        drafts.push(records::issued(certificate, &issued, &identity));
        self.store.commit(drafts).await?;
        Ok((issued, identity))
    }

    fn issue(
        &self,
        asked: &IstioCertificateRequest,
        identity: &PeerIdentity,
        certificate: &Certificate,
        now: u64,
    ) -> Result<Issued, Denied> {
        let ttl = match u64::try_from(asked.validity_duration) {
            Ok(0) | Err(_) => self.longest,
            Ok(seconds) => Duration::from_secs(seconds).min(self.longest),
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

    fn spiffe(&self, wanted: &Wanted) -> Result<SpiffeId, Denied> {
        SpiffeId::new(
            self.authority.trust_domain(),
            &wanted.namespace,
            &wanted.service_account,
        )
        .map_err(|invalid| Denied::new(Code::InvalidArgument, "identity", invalid.to_string()))
    }
}

#[tonic::async_trait]
impl IstioCertificateService for CaService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        match self.create(request).await {
            Ok((issued, identity)) => {
                self.metrics.number(name::CERTIFICATES_ISSUED, &[]).add(1);
                tracing::info!(
                    spiffe = %identity.spiffe,
                    workload = %identity.workload_id,
                    not_after = issued.not_after,
                    "certificate issued"
                );
                Ok(Response::new(IstioCertificateResponse {
                    cert_chain: issued.pems(),
                }))
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
                Err(status)
            }
        }
    }
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

fn new_ulid(now_s: u64) -> Ulid {
    let random = u128::from_be_bytes(naka_identity::random_bytes::<16>());
    Ulid::new(now_s * 1_000, random)
}
