//! Requests to the workload's own program.
//!
//! No routing: a declared port leads to the program. Who may call is decided here, by the port's mTLS mode and then by
//! policy; a call to a port that was never declared finds nothing.

use super::{Cx, Effect, Exchange, Judged, Need, access, retry, trust};
use crate::canonical::{Caller, Canonical};
use crate::model::{HttpVersion, Inbound, MtlsMode};
use crate::why::{Stage, Why};
use naka_types::protocol::Protocol;
use naka_types::reason::Reason;

/// Whether a caller may use a declared port.
pub(super) fn admit(inbound: &Inbound, cx: &mut Cx<'_>) -> Result<(), Reason> {
    let peer = matches!(cx.origin.caller, Caller::MeshPeer { .. });
    let (allowed, because) = match (inbound.mode, peer) {
        (MtlsMode::Strict, true) => (true, "mode STRICT, the caller is a verified mesh peer"),
        (MtlsMode::Strict, false) => (false, "mode STRICT, the caller has no mesh identity"),
        (MtlsMode::Permissive, _) => (true, "mode PERMISSIVE takes every caller"),
        (MtlsMode::Disable, _) => (true, "mode DISABLE takes every caller"),
    };
    cx.explain(|| {
        Why::new(
            Stage::Peer,
            if allowed { "allowed" } else { "refused" },
            because,
        )
    });
    if allowed {
        Ok(())
    } else {
        Err(Reason::MtlsRequired)
    }
}

/// Whether a call that was let in would be let in now, by the port's mTLS mode, trust models and policies; bytes have no
/// request. What its token proved still holds, and nobody else is asked once more.
///
/// # Errors
/// Why it would not, and what policies said.
pub fn still_admitted(
    request: Option<&Canonical>,
    port: u16,
    cx: &mut Cx<'_>,
) -> Result<(), (Reason, Option<Box<Judged>>)> {
    // A port that is served no more ends with its listener.
    let Some(inbound) = cx.snapshot.inbound(port) else {
        return Ok(());
    };
    let mut judged = None;
    let asked = admit(inbound, cx).and_then(|()| match (&inbound.access, request) {
        (None, _) => Ok(()),
        (Some(access), None) => access::admit_bytes(access, &mut judged, cx),
        (Some(access), Some(_)) => trust::admit(access, request, &mut judged, cx)
            .and_then(|()| access::filters(access, request, &mut judged, cx)),
    });
    asked.map_err(|reason| (reason, judged))
}

impl Exchange {
    pub(super) fn begin_inbound(
        &mut self,
        request: &mut Canonical,
        port: u16,
        ask: bool,
        cx: &mut Cx<'_>,
    ) -> Effect {
        let Some(inbound) = cx.snapshot.inbound(port) else {
            return self.refuse(request, Reason::NoRoute, cx);
        };
        if let Some(access) = &inbound.access
            && let Some(peer) = access::lacks(access, cx).filter(|_| ask)
        {
            return Effect::Need(Need::Peer(peer));
        }
        if let Err(reason) = admit(inbound, cx) {
            return self.refuse(request, reason, cx);
        }
        if let Some(access) = &inbound.access {
            match self.asked_first(access, request, cx) {
                Ok(false) => {}
                Ok(true) => return Effect::Need(Need::Check),
                Err(reason) => return self.refuse(request, reason, cx),
            }
        }
        self.pass_inbound(request, port, cx)
    }

    /// What is left once somebody else was asked, or nobody had to be.
    pub(super) fn pass_inbound(
        &mut self,
        request: &mut Canonical,
        port: u16,
        cx: &mut Cx<'_>,
    ) -> Effect {
        let Some(inbound) = cx.snapshot.inbound(port) else {
            return self.refuse(request, Reason::NoRoute, cx);
        };
        if let Some(access) = &inbound.access
            && let Err(reason) = access::admit_request(access, request, &mut self.judged, cx)
        {
            return self.refuse(request, reason, cx);
        }
        if let Some(limit) = &inbound.limit
            && let Some(refused) = self.limit(limit, (&inbound.service, port), request, cx)
        {
            return refused;
        }
        let Some(cluster) = cx.snapshot.cluster(inbound.cluster) else {
            return self.refuse(request, Reason::UnknownCluster, cx);
        };
        self.cluster = Some(cluster.clone());
        self.program = Some(match inbound.protocol {
            Protocol::Tcp | Protocol::Tls => HttpVersion::Http1,
            Protocol::Auto
            | Protocol::Http
            | Protocol::Http2
            | Protocol::Grpc
            | Protocol::GrpcWeb => cluster.spec.http,
        });
        self.retry = retry::Rules::transport_only(request.method());
        self.attempt(request, cx)
    }
}
