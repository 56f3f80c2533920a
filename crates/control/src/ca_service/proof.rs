//! Proofs: how a workload shows that a certificate is for it.
//!
//! Each kind of proof is one [`Proof`]. They are asked in turn, and the first that finds something of its kind in a
//! request answers for good: a bad proof is never made up for by another. What no proof decides is what the certificate
//! is like; so a further kind (the token of a Kubernetes service account, which the cluster's TokenReview vouches for)
//! is one more implementation here and nothing else.

use super::denied::Denied;
use super::{Certificate, PeerIdentity, certificate, grant, revoked};
use naka_identity::{Refused, TokenGrant, Wanted};
use naka_store::Snapshot;
use naka_types::spiffe::SpiffeId;
use naka_types::token::{Token, TokenKind};
use naka_types::workload::Ulid;
use std::fmt::Debug;
use tonic::Code;

/// A request for a certificate, as proofs look at it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The store.
    pub snapshot: &'a Snapshot,
    /// What the workload wants to be.
    pub wanted: &'a Wanted,
    /// Who the connection belongs to, if that is proved.
    pub peer: Option<&'a PeerIdentity>,
    /// Credential of the request (`authorization: Bearer …`).
    pub bearer: Option<&'a str>,
    /// Now, in seconds since 1970.
    pub now: u64,
}

/// What a proof shows.
#[derive(Debug)]
pub struct Proved {
    /// Whom the certificate is for.
    pub identity: PeerIdentity,
    /// What is kept of it: services and labels that somebody vouched for.
    pub record: Certificate,
    /// The token that is used up by it.
    pub token: Option<TokenGrant>,
}

/// A kind of proof.
#[tonic::async_trait]
pub trait Proof: Debug + Send + Sync {
    /// Whom the request is for; `None`: it carries no proof of this kind.
    async fn prove(&self, asked: &Asked<'_>) -> Option<Result<Proved, Denied>>;
}

/// The identity that the connection has already.
#[derive(Debug)]
pub(super) struct OfConnection;

/// A join token of this mesh.
#[derive(Debug)]
pub(super) struct OfToken {
    /// Trust domain of the identities.
    pub(super) domain: String,
}

#[tonic::async_trait]
impl Proof for OfConnection {
    async fn prove(&self, asked: &Asked<'_>) -> Option<Result<Proved, Denied>> {
        asked.peer.map(|peer| again(asked, peer.clone()))
    }
}

#[tonic::async_trait]
impl Proof for OfToken {
    async fn prove(&self, asked: &Asked<'_>) -> Option<Result<Proved, Denied>> {
        let token = Token::parse(asked.bearer?);
        Some(match token {
            Ok(token) => self.join(asked, &token),
            Err(invalid) => Err(Denied::new(
                Code::Unauthenticated,
                "malformed-token",
                invalid.to_string(),
            )),
        })
    }
}

impl OfToken {
    /// A new workload.
    fn join(&self, asked: &Asked<'_>, token: &Token) -> Result<Proved, Denied> {
        if token.kind != TokenKind::Join {
            return Err(Refused::WrongKind.into());
        }
        let wanted = asked.wanted;
        let grant = grant(asked.snapshot, &token.id).ok_or(Refused::WrongSecret)?;
        grant.check(wanted, &token.secret, asked.now)?;
        let spiffe = SpiffeId::new(&self.domain, &wanted.namespace, &wanted.service_account);
        let spiffe = spiffe.map_err(|invalid| {
            Denied::new(Code::InvalidArgument, "identity", invalid.to_string())
        })?;
        let identity = PeerIdentity {
            spiffe,
            workload_id: new_ulid(asked.now),
        };
        let record = Certificate {
            spiffe: identity.spiffe.to_string(),
            workload_id: identity.workload_id.to_string(),
            services: wanted.services.clone(),
            labels: grant.labels.clone(),
            token: grant.id.clone(),
            attested: grant.attested.clone(),
            ..Certificate::default()
        };
        Ok(Proved {
            identity,
            record,
            token: Some(grant),
        })
    }
}

/// The same workload again.
fn again(asked: &Asked<'_>, identity: PeerIdentity) -> Result<Proved, Denied> {
    let (own, wanted) = (&identity.spiffe, asked.wanted);
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
    if revoked(asked.snapshot).contains(identity.workload_id) {
        return Err(Denied::new(
            Code::PermissionDenied,
            "revoked",
            format!("the certificates of {own} are revoked; join again with a token"),
        ));
    }
    let before = certificate(asked.snapshot, identity.workload_id).unwrap_or_default();
    let known = |service: &&String| !before.services.contains(service);
    if let Some(service) = wanted.services.iter().find(known) {
        return Err(Denied::new(
            Code::PermissionDenied,
            "not-covered",
            format!("{own} joined without the right to serve {service:?}"),
        ));
    }
    let record = Certificate {
        spiffe: own.to_string(),
        workload_id: identity.workload_id.to_string(),
        ..before
    };
    Ok(Proved {
        identity,
        record,
        token: None,
    })
}

fn new_ulid(now_s: u64) -> Ulid {
    let random = u128::from_be_bytes(naka_identity::random_bytes::<16>());
    Ulid::new(now_s * 1_000, random)
}
