//! Names of the headers Naka reads or writes. One table, so that no other file spells one out.

/// Reason code of a local reply; removed at gateways.
pub const REASON: &str = "x-naka-reason";
/// Set on a response whose trace is to be kept (design decision 10).
pub const KEEP: &str = "x-naka-keep";
/// Marks a question whether a request may pass, so that none is asked about it.
pub const CHECK: &str = "x-naka-check";
/// Workload id, on the pages of counters that a proxy shows.
pub const WORKLOAD: &str = "x-naka-workload";
/// Request id, made by the first hop.
pub const REQUEST_ID: &str = "x-request-id";
/// Verified caller, towards the application.
pub const XFCC: &str = "x-forwarded-client-cert";
/// Original scheme.
pub const FORWARDED_PROTO: &str = "x-forwarded-proto";
/// Original client address, set by gateways.
pub const FORWARDED_FOR: &str = "x-forwarded-for";
/// Number of this attempt, from 1.
pub const ATTEMPT_COUNT: &str = "x-envoy-attempt-count";
/// Time left for the request, in milliseconds.
pub const EXPECTED_TIMEOUT: &str = "x-envoy-expected-rq-timeout-ms";
/// Set by the workload's own program: overall timeout in milliseconds.
pub const UPSTREAM_TIMEOUT: &str = "x-envoy-upstream-rq-timeout-ms";
/// Set by the workload's own program: timeout of one try in milliseconds.
pub const UPSTREAM_PER_TRY_TIMEOUT: &str = "x-envoy-upstream-rq-per-try-timeout-ms";
/// Set by the workload's own program: retry conditions.
pub const RETRY_ON: &str = "x-envoy-retry-on";
/// Set by the workload's own program: gRPC retry conditions.
pub const RETRY_GRPC_ON: &str = "x-envoy-retry-grpc-on";
/// Set by the workload's own program: number of retries.
pub const MAX_RETRIES: &str = "x-envoy-max-retries";
/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// What tracing systems say besides, in W3C trace context.
pub const TRACESTATE: &str = "tracestate";
/// B3 trace context in one header.
pub const B3: &str = "b3";
/// B3 trace context in several: the trace.
pub const B3_TRACE: &str = "x-b3-traceid";
/// The caller's span.
pub const B3_SPAN: &str = "x-b3-spanid";
/// The span before the caller's.
pub const B3_PARENT: &str = "x-b3-parentspanid";
/// Whether the trace is reported.
pub const B3_SAMPLED: &str = "x-b3-sampled";
/// `1`: reported whatever else is said.
pub const B3_FLAGS: &str = "x-b3-flags";

/// Headers that the workload's own program may set on its calls although other `x-envoy-*` are stripped.
pub const FROM_OWN_PROGRAM: [&str; 6] = [
    UPSTREAM_TIMEOUT,
    UPSTREAM_PER_TRY_TIMEOUT,
    EXPECTED_TIMEOUT,
    RETRY_ON,
    RETRY_GRPC_ON,
    MAX_RETRIES,
];

/// Whether a header is the mesh's own, and so stripped from every peer that is not a verified mesh proxy. Underscores
/// count as dashes: programs that get headers as variables (CGI, WSGI, PHP) cannot tell the two apart.
#[must_use]
pub fn is_internal(name: &str) -> bool {
    let begins = |with: &str| {
        name.len() >= with.len()
            && std::iter::zip(name.bytes(), with.bytes())
                .all(|(is, wanted)| is == wanted || is == b'_' && wanted == b'-')
    };
    begins("x-naka-") || begins("x-envoy-") || name.len() == XFCC.len() && begins(XFCC)
}

#[cfg(test)]
mod tests {
    use super::is_internal;

    #[test]
    fn names_of_the_mesh_are_known_however_their_words_are_joined() {
        for name in [
            "x-naka-keep",
            "x-envoy-retry-on",
            "x-forwarded-client-cert",
            "x_naka_keep",
            "x-naka_keep",
            "x_envoy-retry_on",
            "x_forwarded_client_cert",
            "x-forwarded_client-cert",
        ] {
            assert!(is_internal(name), "{name}");
        }
        for name in [
            "",
            "x",
            "x-nak",
            "x-naka",
            "x-nakas-keep",
            "xx-naka-keep",
            "x.naka.keep",
            "x-forwarded-client-certs",
            "x-forwarded-for",
            "traceparent",
            "x-request-id",
        ] {
            assert!(!is_internal(name), "{name}");
        }
    }
}
