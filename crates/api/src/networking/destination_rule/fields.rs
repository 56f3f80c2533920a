//! Fields of a DestinationRule, as in Istio's CRD, and the old spellings that are understood.

use crate::schema::{COUNT, Field, Now, PORT, STRINGS, TEXTS, Ty};

use Now::{Alias, Default, NotYet, Refused, Yes};

const fn f(name: &'static str, ty: Ty, now: Now, doc: &'static str) -> Field {
    Field::new(name, ty, now, doc)
}

const KEEPALIVE: Ty = Ty::Object(&[
    f("probes", COUNT, Yes, "Probes."),
    f("time", Ty::Duration, Yes, "Idle time."),
    f("interval", Ty::Duration, Yes, "Between probes."),
    f("timeout", Ty::Duration, Yes, "Wait for the answer."),
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
    f("tcpKeepalive", KEEPALIVE, NotYet, "Keep-alive probes."),
    f(
        "maxConnectionDuration",
        Ty::Duration,
        NotYet,
        "Longest life of a connection.",
    ),
    f(
        "idleTimeout",
        Ty::Duration,
        NotYet,
        "Closes idle TCP connections.",
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
        NotYet,
        "Closes idle HTTP connections.",
    ),
    f(
        "h2UpgradePolicy",
        Ty::Enum(&["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"]),
        Default("\"DEFAULT\""),
        "HTTP/1.1 requests over HTTP/2.",
    ),
    f(
        "useClientProtocol",
        Ty::Bool,
        NotYet,
        "Same protocol as the caller.",
    ),
    f(
        "maxConcurrentStreams",
        COUNT,
        NotYet,
        "Streams of one HTTP/2 connection.",
    ),
    f(
        "http2KeepAlive",
        Ty::Object(&[
            f("interval", Ty::Duration, Yes, "Between pings."),
            f("timeout", Ty::Duration, Yes, "Wait for the answer."),
        ]),
        NotYet,
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

const POOL: Ty = Ty::Object(&[
    f("tcp", Ty::Object(POOL_TCP), Yes, "Limits of connections."),
    f("http", Ty::Object(POOL_HTTP), Yes, "Limits of requests."),
]);

const OUTLIER: Ty = Ty::Object(&[
    f(
        "consecutive5xxErrors",
        COUNT,
        Yes,
        "5xx in a row; default 5; 0 = off.",
    ),
    f(
        "consecutiveGatewayErrors",
        COUNT,
        Yes,
        "502, 503, 504 in a row; default off.",
    ),
    f(
        "consecutiveLocalOriginFailures",
        COUNT,
        Yes,
        "Connect failures and resets in a row.",
    ),
    f(
        "splitExternalLocalOriginErrors",
        Ty::Bool,
        Yes,
        "Counts local errors apart.",
    ),
    f(
        "interval",
        Ty::Duration,
        Yes,
        "Between sweeps; default 10s.",
    ),
    f(
        "baseEjectionTime",
        Ty::Duration,
        Yes,
        "Shortest ejection; default 30s.",
    ),
    f(
        "maxEjectionPercent",
        Ty::Int(0, 100),
        Yes,
        "Largest ejected share; default 10.",
    ),
    f(
        "minHealthPercent",
        Ty::Int(0, 100),
        Yes,
        "Below this healthy share nothing is ejected; default 0.",
    ),
    f(
        "consecutiveErrors",
        COUNT,
        Alias("W111"),
        "Read as consecutive5xxErrors.",
    ),
]);

const COOKIE: Ty = Ty::Object(&[
    f("name", Ty::Str, Yes, "Name."),
    f("path", Ty::Str, Yes, "Path."),
    f("ttl", Ty::Duration, Yes, "Life."),
    f("attributes", Ty::Any, Yes, "Attributes."),
]);

const HASH: Ty = Ty::Object(&[
    f("httpHeaderName", Ty::Str, Yes, "Header."),
    f("httpCookie", COOKIE, Yes, "Cookie."),
    f("useSourceIp", Ty::Bool, Yes, "Address of the caller."),
    f("httpQueryParameterName", Ty::Str, Yes, "Query parameter."),
    f(
        "ringHash",
        Ty::Object(&[f("minimumRingSize", COUNT, Yes, "Size.")]),
        Yes,
        "Ring hash.",
    ),
    f(
        "maglev",
        Ty::Object(&[f("tableSize", COUNT, Yes, "Size.")]),
        Yes,
        "Maglev.",
    ),
    f("minimumRingSize", COUNT, Yes, "Size, old place."),
]);

const LB_KINDS: &[&str] = &[
    "UNSPECIFIED",
    "ROUND_ROBIN",
    "LEAST_REQUEST",
    "LEAST_CONN",
    "RANDOM",
    "PASSTHROUGH",
];

const LOAD_BALANCER: Ty = Ty::Object(&[
    f(
        "simple",
        Ty::Enum(LB_KINDS),
        Yes,
        "ROUND_ROBIN, LEAST_REQUEST (default) or RANDOM. LEAST_CONN = LEAST_REQUEST (W110). PASSTHROUGH is refused.",
    ),
    f(
        "consistentHash",
        HASH,
        NotYet,
        "Same endpoint for the same key; until then LEAST_REQUEST.",
    ),
    f(
        "localityLbSetting",
        Ty::Any,
        NotYet,
        "Prefers near endpoints.",
    ),
    f(
        "zoneAwareLbSetting",
        Ty::Any,
        NotYet,
        "Prefers the own zone.",
    ),
    f(
        "warmupDurationSecs",
        Ty::Duration,
        NotYet,
        "Slow start, old spelling.",
    ),
    f("warmup", Ty::Any, NotYet, "Slow start."),
    f(
        "backendUtilization",
        Ty::Any,
        NotYet,
        "Weights by reported load.",
    ),
]);

const TLS_KINDS: &[&str] = &["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"];

const TLS: Ty = Ty::Object(&[
    f(
        "mode",
        Ty::Enum(TLS_KINDS),
        Yes,
        "ISTIO_MUTUAL (default between mesh workloads) or DISABLE. SIMPLE and MUTUAL are refused (E901).",
    ),
    f("clientCertificate", Ty::Str, NotYet, "For MUTUAL."),
    f("privateKey", Ty::Str, NotYet, "For MUTUAL."),
    f("caCertificates", Ty::Str, NotYet, "For SIMPLE and MUTUAL."),
    f("caCrl", Ty::Str, NotYet, "For SIMPLE and MUTUAL."),
    f("credentialName", Ty::Str, NotYet, "For SIMPLE and MUTUAL."),
    f(
        "subjectAltNames",
        TEXTS,
        Refused("without it any identity of the service would be accepted"),
        "Names accepted.",
    ),
    f("sni", Ty::Str, NotYet, "Server name sent."),
    f(
        "insecureSkipVerify",
        Ty::Bool,
        Default("false"),
        "Not verified.",
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
        NotYet,
        "Ejection of failing endpoints.",
    ),
    f("tls", TLS, Yes, "TLS towards the destination."),
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
        "For single ports; replaces everything above.",
    ),
    f(
        "tunnel",
        Ty::Any,
        Refused("calls would go around the tunnel"),
        "CONNECT through another host.",
    ),
    f("proxyProtocol", Ty::Any, NotYet, "PROXY protocol header."),
    f(
        "retryBudget",
        Ty::Any,
        NotYet,
        "Budget of retries; today always 20 %.",
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
        Default("[\"*\"]"),
        "Namespaces that see it; today all do.",
    ),
    f(
        "workloadSelector",
        Ty::Object(&[f("matchLabels", STRINGS, Yes, "Labels.")]),
        Refused("without it the rule would hold for every caller"),
        "Callers it holds for.",
    ),
];

/// Below the object itself.
pub(crate) const OBJECT: &[Field] = &[f("spec", Ty::Object(SPEC), Yes, "Rules.").required()];
