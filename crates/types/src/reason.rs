//! Reasons of local replies: one closed table with HTTP status, gRPC status, Envoy response flag and meaning.
//!
//! A reply made by a proxy itself carries the code in `x-naka-reason`, in the access log and as a metric label.
//! `docs/reference/reasons.md` is generated from this table. Response flags are Envoy's (access log docs), so
//! dashboards that know them work. gRPC statuses follow Envoy's mapping of local replies.

use std::fmt;

macro_rules! reasons {
    ($($variant:ident $code:literal $http:literal $grpc:literal $flag:literal $meaning:literal;)*) => {
        /// Why a proxy answered itself, or ended a connection.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $(#[doc = $meaning] $variant,)* }

        impl Reason {
            /// Every reason, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The code, kebab-case: header value, log value and metric label.
            #[must_use]
            pub const fn code(self) -> &'static str { match self { $(Self::$variant => $code,)* } }
            /// HTTP status of the reply (0: the connection is closed without one).
            #[must_use]
            pub const fn http_status(self) -> u16 { match self { $(Self::$variant => $http,)* } }
            /// gRPC status of the reply; the HTTP status is then 200.
            #[must_use]
            pub const fn grpc_status(self) -> u8 { match self { $(Self::$variant => $grpc,)* } }
            /// Envoy's response flag.
            #[must_use]
            pub const fn flag(self) -> &'static str { match self { $(Self::$variant => $flag,)* } }
            /// What it means and what to do, one sentence for the docs.
            #[must_use]
            pub const fn meaning(self) -> &'static str { match self { $(Self::$variant => $meaning,)* } }
        }
    };
}

reasons! {
    NoRoute "no-route" 404 12 "NR" "No route of the virtual host matches the request; add a catch-all route or fix the match.";
    UnknownHost "unknown-host" 503 14 "NR" "The name is neither in the mesh nor resolvable outside; check its spelling and namespace.";
    NameMismatch "name-mismatch" 421 7 "NR" "The Host header or the server name of TLS names another host than the connection was made to; call each name by itself.";
    EgressDenied "egress-denied" 502 14 "NR" "The name is not of the mesh, and the caller's Sidecar lets it call nothing else (outboundTrafficPolicy REGISTRY_ONLY); add a ServiceEntry.";
    ConfigUnavailable "config-unavailable" 503 14 "NC" "The name is in the mesh but its configuration did not arrive within one second; check the control plane.";
    NoSuchPort "no-such-port" 503 14 "NR" "The name is in the mesh, but not with this port; check the port number.";
    UnknownCluster "unknown-cluster" 503 14 "NC" "The route leads to a host or subset that does not exist; see the route's status.";
    NoHealthyEndpoints "no-healthy-endpoints" 503 14 "UH" "The destination has no endpoint that may be called; start one or look at its health.";
    ConnectFailed "connect-failed" 503 14 "UF" "No connection to the endpoint could be made; it is not listening or not reachable.";
    ConnectTimeout "connect-timeout" 503 14 "UF" "The connection to the endpoint was not established in time.";
    TlsFailed "tls-failed" 503 14 "UF" "The TLS handshake with the endpoint failed; look at the certificates of both sides.";
    WrongPeerIdentity "wrong-peer-identity" 503 14 "UF" "The endpoint's certificate names an identity that may not serve this service.";
    UpstreamReset "upstream-reset" 503 14 "UC" "The endpoint closed the connection before its response was complete.";
    UpstreamProtocolError "upstream-protocol-error" 502 14 "UPE" "The endpoint answered with something that is not the declared protocol.";
    RequestTimeout "request-timeout" 504 4 "UT" "The route's timeout passed before the response began.";
    PerTryTimeout "per-try-timeout" 504 4 "UT" "The last try took longer than its own timeout.";
    IdleTimeout "idle-timeout" 504 4 "SI" "No byte moved in either direction for the idle timeout.";
    Fallback "fallback" 0 2 "-" "The destination's own answer was replaced by what its BackendPolicy names as fallback.";
    BreakerOpen "breaker-open" 503 14 "UO" "The destination's breaker (BackendPolicy) is open: it failed too often, and is left alone for a while.";
    MaxConnectionDuration "max-connection-duration" 0 14 "DT" "The connection reached its maxConnectionDuration and was closed.";
    UnhealthyEndpoint "unhealthy-endpoint" 0 2 "-" "The response comes from an endpoint known to be unhealthy: fewer were healthy than minHealthPercent wants, so all were called.";
    AlreadyRetried "already-retried" 0 2 "-" "The response is a failure that a hop behind the called program has repeated already; callers before it do not repeat it once more.";
    CircuitOpen "circuit-open" 503 14 "UO" "The destination is at its limit of connections, requests or pending requests.";
    BadRequest "bad-request" 400 13 "DPE" "The request is malformed or ambiguous (path, host, framing); it is not forwarded.";
    HeadersTooLarge "headers-too-large" 431 8 "DPE" "The request's headers are over the limit of 64 KiB or 100 fields.";
    UriTooLong "uri-too-long" 414 8 "DPE" "The request's target is over the limit of 8 KiB.";
    UnsupportedVersion "unsupported-version" 403 7 "DPE" "The request asks to switch to a protocol that does not pass here; only WebSocket does.";
    DirectResponse "direct-response" 0 2 "-" "The route itself says what to answer.";
    FaultAbort "fault-abort" 0 2 "FI" "The route injects this answer (fault.abort of its VirtualService); it says nothing of the destination.";
    CorsPreflight "cors-preflight" 0 2 "-" "The route's cross-origin rules (corsPolicy) answer a browser that asks before it calls.";
    Redirect "redirect" 0 2 "-" "The route redirects the request.";
    MtlsRequired "mtls-required" 403 7 "UAEX" "This workload takes calls from mesh identities only (PeerAuthentication STRICT); call through a sidecar.";
    PeerUntrusted "peer-untrusted" 0 7 "UAEX" "The caller's certificate is not from this mesh's authority, has expired or was revoked, or carries no identity; the handshake ends.";
    PermissionDenied "permission-denied" 403 7 "UAEX" "Policy does not allow this caller.";
    TrustClearance "trust-clearance" 403 7 "UAEX" "A TrustModel asks for a higher clearance than the caller's workload was granted; the text says which.";
    TrustZone "trust-zone" 403 7 "UAEX" "A TrustModel does not let the caller's trust zone call into that of the called workload.";
    TrustHours "trust-hours" 403 7 "UAEX" "A TrustModel lets the operation be called at other hours only.";
    TrustApproval "trust-approval" 403 7 "UAEX" "A TrustModel wants two others to have approved, and the token of the request does not say so.";
    TrustLocation "trust-location" 403 7 "UAEX" "A TrustModel lets the operation be called from other networks only.";
    TrustSession "trust-session" 403 7 "UAEX" "A TrustModel wants the caller to have logged in more recently, or the request has no token that says when it did.";
    GuardMethod "guard-method" 403 7 "UAEX" "A RequestGuard does not let the method through; add it to the guard's list if the program needs it.";
    GuardSyntax "guard-syntax" 400 3 "DPE" "A RequestGuard reads requests strictly, and this one has something that RFC 3986 or RFC 9110 forbids; the access log says what.";
    GuardPattern "guard-pattern" 403 7 "UAEX" "A RequestGuard found what looks like an injection in path, query or a header; the access log says which pattern.";
    PeerBanned "peer-banned" 403 7 "UAEX" "A RequestGuard banned the caller for a time because of what it did before; the ban ends by itself.";
    ExternalDenied "external-denied" 403 7 "UAEX" "Whom a CUSTOM policy asks refused the request; status and text are theirs.";
    ExternalUnavailable "external-unavailable" 403 7 "UAEX" "Whom a CUSTOM policy asks gave no answer, or an error; look at the provider's service, or its timeout.";
    BodyTooLarge "body-too-large" 413 2 "-" "The body is longer than what a CUSTOM policy's provider is to be told of (maxRequestBytes); send less, or set allowPartialMessage.";
    TokenInvalid "token-invalid" 401 16 "UAEX" "A token of the request is not one that RequestAuthentication takes: its form, issuer, time or signature is wrong, or there are two that differ.";
    TokenMissing "token-missing" 401 16 "UAEX" "A RequestAuthentication demands a token of an issuer (presence: REQUIRED), and the request has none.";
    TokenAudience "token-audience" 403 7 "UAEX" "The token of the request is for other audiences than RequestAuthentication names.";
    ProxyAuthRequired "proxy-auth-required" 407 16 "UAEX" "Only the workload itself may use this sidecar; the credential of its proxy variables is missing or wrong.";
    RateLimited "rate-limited" 429 14 "RL" "A rate limit of the called side has no token left; come back after the time in retry-after.";
    LoopDetected "loop-detected" 508 13 "DPE" "The request came back to the proxy that sent it.";
    Flood "flood" 0 8 "DPE" "The caller sent far more frames that ask for nothing, or requests that it reset at once, than any client needs; its connection is closed.";
    Draining "draining" 503 14 "DC" "The proxy is stopping and takes no new request on this connection.";
    ClientGone "client-gone" 0 1 "DC" "The caller went away before the response was complete.";
    Overloaded "overloaded" 503 8 "UO" "The proxy is at a limit of its own (connections or memory).";
    Internal "internal" 500 13 "-" "The proxy failed; please report it with the access log line.";
}

impl Reason {
    /// Whether it says that somebody was not let in: such calls stand in the mesh's audit trail.
    #[must_use]
    pub fn is_denial(self) -> bool {
        matches!(
            self,
            Self::MtlsRequired
                | Self::PeerUntrusted
                | Self::PermissionDenied
                | Self::TrustClearance
                | Self::TrustZone
                | Self::TrustHours
                | Self::TrustApproval
                | Self::TrustLocation
                | Self::TrustSession
                | Self::GuardMethod
                | Self::GuardSyntax
                | Self::GuardPattern
                | Self::PeerBanned
                | Self::ExternalDenied
                | Self::ExternalUnavailable
                | Self::TokenInvalid
                | Self::TokenMissing
                | Self::TokenAudience
                | Self::EgressDenied
        )
    }

    /// The reason with this code.
    #[must_use]
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.code() == code)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_kebab_case_and_parse_back() {
        let codes: BTreeSet<_> = Reason::ALL.iter().map(|r| r.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(
                reason
                    .code()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'-')
            );
            assert_eq!(Reason::parse(reason.code()), Some(*reason));
            assert!(reason.grpc_status() <= 16 && reason.meaning().ends_with('.'));
        }
        assert_eq!(Reason::parse("nope"), None);
    }
}
