//! Fields of a DestinationRule, as in Istio's CRD, and the old spellings that are understood.

use crate::schema::{COUNT, Field, Now, PORT, STRINGS, TEXTS, Ty};

use super::balancer::fields::LOAD_BALANCER;
use Now::{Alias, Yes};

const fn f(name: &'static str, ty: Ty, now: Now, doc: &'static str) -> Field {
    Field::new(name, ty, now, doc)
}

const KEEPALIVE: Ty = Ty::Object(&[
    f(
        "probes",
        COUNT,
        Yes,
        "Unanswered probes after which the connection is given up; the system's 9 if not set.",
    ),
    f(
        "time",
        Ty::Duration,
        Yes,
        "Silence before the first probe, in whole seconds; the system's 2h if not set.",
    ),
    f(
        "interval",
        Ty::Duration,
        Yes,
        "Between probes, in whole seconds; the system's 75s if not set.",
    ),
]);

const POOL_TCP: &[Field] = &[
    f(
        "maxConnections",
        COUNT,
        Yes,
        "Connections to all endpoints of the destination, exact over all workers; 0 (default) = no limit. With it each HTTP/1 request takes one connection; one HTTP/2 connection carries many.",
    ),
    f(
        "connectTimeout",
        Ty::Duration,
        Yes,
        "Limit for a TCP connect; default 10s.",
    ),
    f(
        "tcpKeepalive",
        KEEPALIVE,
        Yes,
        "Keep-alive probes on connections to the destination.",
    ),
    f(
        "maxConnectionDuration",
        Ty::Duration,
        Yes,
        "Age at which a connection takes no more requests, and at which one of bytes is closed; no limit if not set.",
    ),
    f(
        "idleTimeout",
        Ty::Duration,
        Yes,
        "Closes connections of bytes on which nothing moves; default 1h; 0s = never. Also for HTTP, where http.idleTimeout is not set.",
    ),
    f(
        "tcpNoDelay",
        Ty::Bool,
        Alias("W104"),
        "True is what happens anyway.",
    ),
];

const POOL_HTTP: &[Field] = &[
    f(
        "http1MaxPendingRequests",
        COUNT,
        Yes,
        "Requests that wait because maxConnections is reached, HTTP/2 too; one more is answered 503 `circuit-open`; 0 (default) = no limit.",
    ),
    f(
        "http2MaxRequests",
        COUNT,
        Yes,
        "Requests in flight, HTTP/1.1 too; 0 (default) = no limit.",
    ),
    f(
        "maxRequestsPerConnection",
        COUNT,
        Yes,
        "0 (default) = no limit; 1 = no keep-alive.",
    ),
    f(
        "maxRetries",
        COUNT,
        Yes,
        "Retries in flight to the whole destination, within the budget of 20 %; 0 (default) = no other limit; tries of a request belong to VirtualService.",
    ),
    f(
        "idleTimeout",
        Ty::Duration,
        Yes,
        "Closes connections that have had no request for so long, to the second; 0s = never. Without it connections inside the mesh rest 90s, others 4s.",
    ),
    f(
        "h2UpgradePolicy",
        Ty::Enum(&["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"]),
        Yes,
        "`UPGRADE`: the destination is spoken to in HTTP/2 whatever its callers speak. `DEFAULT` is `DO_NOT_UPGRADE`: what the port declares.",
    ),
    f(
        "useClientProtocol",
        Ty::Bool,
        Yes,
        "Each call keeps its caller's version of HTTP; h2UpgradePolicy is then without effect.",
    ),
    f(
        "maxConcurrentStreams",
        COUNT,
        Yes,
        "Streams of one HTTP/2 connection to the destination; one more opens another connection.",
    ),
    f(
        "http2KeepAlive",
        Ty::Object(&[
            f("interval", Ty::Duration, Yes, "Between pings."),
            f(
                "timeout",
                Ty::Duration,
                Yes,
                "Longest wait for the answer; default 20s.",
            ),
        ]),
        Yes,
        "HTTP/2 pings.",
    ),
    f(
        "consecutiveGatewayFailureThreshold",
        COUNT,
        Alias("W102"),
        "Belongs to outlierDetection.consecutiveGatewayErrors.",
    ),
    f(
        "interval",
        Ty::Duration,
        Alias("W103"),
        "Belongs to outlierDetection.",
    ),
    f(
        "baseEjectionTime",
        Ty::Duration,
        Alias("W103"),
        "Belongs to outlierDetection.",
    ),
    f(
        "maxEjectionPercent",
        Ty::Percent,
        Alias("W103"),
        "Belongs to outlierDetection.",
    ),
];

/// The same without the old spellings, which stand at the end: elsewhere they never were.
pub(crate) const POOL_TODAY: Ty = Ty::Object(&[
    f(
        "tcp",
        Ty::Object(POOL_TCP.split_at(5).0),
        Yes,
        "Limits of connections.",
    ),
    f(
        "http",
        Ty::Object(POOL_HTTP.split_at(9).0),
        Yes,
        "Limits of requests.",
    ),
]);

const POOL: Ty = Ty::Object(&[
    f("tcp", Ty::Object(POOL_TCP), Yes, "Limits of connections."),
    f("http", Ty::Object(POOL_HTTP), Yes, "Limits of requests."),
]);

const OUTLIER: Ty = Ty::Object(&[
    f(
        "consecutive5xxErrors",
        COUNT,
        Yes,
        "5xx in a row, connections that failed or broke and timeouts among them; default 5; 0 = off.",
    ),
    f(
        "consecutiveGatewayErrors",
        COUNT,
        Yes,
        "502, 503, 504 in a row, also where a connection failed; default off. They count as 5xx too, so it only matters below consecutive5xxErrors.",
    ),
    f(
        "consecutiveLocalOriginFailures",
        COUNT,
        Yes,
        "Connect failures, resets and timeouts in a row; default 5; 0 = off. Only with splitExternalLocalOriginErrors.",
    ),
    f(
        "splitExternalLocalOriginErrors",
        Ty::Bool,
        Yes,
        "Connect failures, resets and timeouts no longer count as 5xx.",
    ),
    f(
        "interval",
        Ty::Duration,
        Yes,
        "Between sweeps, at which endpoints return; default 10s.",
    ),
    f(
        "baseEjectionTime",
        Ty::Duration,
        Yes,
        "Shortest ejection; default 30s. Each further ejection lasts one base time longer, at most 300s; each interval without one takes a base time off.",
    ),
    f(
        "maxEjectionPercent",
        Ty::Int(0, 100),
        Yes,
        "Largest share of the endpoints that may be ejected. Without it 10, and one endpoint whatever the share.",
    ),
    f(
        "minHealthPercent",
        Ty::Int(0, 100),
        Yes,
        "Below this healthy share all endpoints are called, healthy or not; such a response says `unhealthy-endpoint`. Default 0 = never.",
    ),
    f(
        "failurePercentageThreshold",
        Ty::Int(0, 100),
        Yes,
        "Share of failed requests in an interval, in percent, from which an endpoint is ejected at its end, if it got 50 requests in it and so did at least five endpoints. Default and 0: off. With splitExternalLocalOriginErrors of answers alone.",
    ),
    f(
        "outlierDetectionHttpErrorCodes",
        Ty::List(&COUNT),
        Yes,
        "Statuses that count as errors, instead of all 5xx.",
    ),
    f(
        "consecutiveErrors",
        COUNT,
        Alias("W111"),
        "Read as consecutive5xxErrors.",
    ),
]);

const BLOCKS: [Field; 4] = [
    f(
        "loadBalancer",
        LOAD_BALANCER,
        Yes,
        "How an endpoint is picked.",
    ),
    f("connectionPool", POOL, Yes, "Limits."),
    f(
        "outlierDetection",
        OUTLIER,
        Yes,
        "Ejection of failing endpoints.",
    ),
    f(
        "tls",
        super::tls::FIELDS,
        Yes,
        "TLS towards the destination.",
    ),
];

const PORT_POLICY: &[Field] = &[
    f(
        "port",
        Ty::Object(&[f("number", PORT, Yes, "Service port.").required()]),
        Yes,
        "Which port.",
    )
    .required(),
    BLOCKS[0],
    BLOCKS[1],
    BLOCKS[2],
    BLOCKS[3],
];

const POLICY: Ty = Ty::Object(&[
    BLOCKS[0],
    BLOCKS[1],
    BLOCKS[2],
    BLOCKS[3],
    f(
        "portLevelSettings",
        Ty::List(&Ty::Object(PORT_POLICY)),
        Yes,
        "For single ports; replaces these blocks as a whole.",
    ),
    f(
        "tunnel",
        super::tunnel::FIELDS,
        Yes,
        "CONNECT through another host.",
    ),
    f(
        "proxyProtocol",
        Ty::Object(&[f(
            "version",
            Ty::Enum(&["V1", "V2"]),
            Yes,
            "Of the header; default V1.",
        )]),
        Yes,
        "Each connection to the destination begins with a PROXY header that names the caller, before TLS.",
    ),
    f(
        "retryBudget",
        Ty::Object(&[
            f(
                "percent",
                Ty::Percent,
                Yes,
                "Share of the requests in flight that may be retries; default 20.",
            ),
            f(
                "budgetInterval",
                Ty::Duration,
                Yes,
                "How long a request counts after it began, also when it has ended; default: while it is in flight.",
            ),
            f(
                "minRetryConcurrency",
                COUNT,
                Yes,
                "Retries that may be in flight whatever the load; default 3.",
            ),
        ]),
        Yes,
        "Budget of retries, instead of maxRetries; without it 20 % and 3.",
    ),
    f(
        "circuitBreaker",
        OUTLIER,
        Alias("W101"),
        "Read as outlierDetection.",
    ),
]);

const SUBSET: &[Field] = &[
    f("name", Ty::Str, Yes, "Name.").required(),
    f(
        "labels",
        STRINGS,
        Yes,
        "Labels its endpoints carry; without: all.",
    ),
    f(
        "trafficPolicy",
        POLICY,
        Yes,
        "Blocks that replace the host's.",
    ),
];

const SPEC: &[Field] = &[
    f(
        "host",
        Ty::Str,
        Yes,
        "Service; short names resolve in the object's namespace.",
    )
    .required(),
    f("trafficPolicy", POLICY, Yes, "For the whole host."),
    f(
        "subsets",
        Ty::List(&Ty::Object(SUBSET)),
        Yes,
        "Named parts of the host.",
    ),
    f(
        "exportTo",
        TEXTS,
        Yes,
        "Namespaces whose callers it holds for; default all.",
    ),
    f(
        "workloadSelector",
        Ty::Object(&[f("matchLabels", STRINGS, Yes, "Labels.")]),
        Yes,
        "Labels of the callers it holds for.",
    ),
];

/// Below the object itself.
pub(crate) const OBJECT: &[Field] = &[f("spec", Ty::Object(SPEC), Yes, "Rules.").required()];
