//! Fields of a VirtualService, as in Istio's CRD.

use crate::schema::{COUNT, Field, Now, PORT, STRINGS, TEXTS, Ty};

use Now::{Ignored, Yes};

const fn f(name: &'static str, ty: Ty, now: Now, doc: &'static str) -> Field {
    Field::new(name, ty, now, doc)
}

const STRING_MATCH: Ty = Ty::Object(&[
    f("exact", Ty::Str, Yes, "The whole value."),
    f("prefix", Ty::Str, Yes, "Its beginning."),
    f(
        "regex",
        Ty::Str,
        Yes,
        "RE2 expression; must match the whole value.",
    ),
]);

const HEADER_OPS: Ty = Ty::Object(&[
    f("set", STRINGS, Yes, "Set, replacing."),
    f("add", STRINGS, Yes, "Append."),
    f("remove", TEXTS, Yes, "Remove."),
]);

const HEADERS: Ty = Ty::Object(&[
    f("request", HEADER_OPS, Yes, "Before the request is sent."),
    f(
        "response",
        HEADER_OPS,
        Yes,
        "Before the response is returned.",
    ),
]);

const DESTINATION: &[Field] = &[
    f(
        "host",
        Ty::Str,
        Yes,
        "Service; short names resolve in the object's namespace.",
    )
    .required(),
    f(
        "subset",
        Ty::Str,
        Yes,
        "Subset of the host's DestinationRule; unknown: 503 `unknown-cluster`.",
    ),
    f(
        "port",
        Ty::Object(&[f("number", PORT, Yes, "Service port.").required()]),
        Yes,
        "Needed when the service has several ports and the request's own is not meant.",
    ),
];

const ROUTE: &[Field] = &[
    f("destination", Ty::Object(DESTINATION), Yes, "Where to.").required(),
    f(
        "weight",
        COUNT,
        Yes,
        "Share; may be left out when there is one destination. 0 is never picked.",
    ),
    f(
        "headers",
        HEADERS,
        Yes,
        "Header edits for this destination only.",
    ),
];

const HTTP_MATCH: &[Field] = &[
    f(
        "name",
        Ty::Str,
        Yes,
        "Said after the route's name, in logs and by explain: `route.match`.",
    ),
    f(
        "uri",
        STRING_MATCH,
        Yes,
        "Path without query, after normalisation.",
    ),
    f(
        "ignoreUriCase",
        Ty::Bool,
        Yes,
        "`exact` and `prefix` of uri ignore case. Default false.",
    ),
    f("scheme", STRING_MATCH, Yes, "Scheme."),
    f("method", STRING_MATCH, Yes, "Method."),
    f(
        "authority",
        STRING_MATCH,
        Yes,
        "Host header or `:authority`.",
    ),
    f(
        "headers",
        Ty::Map(&STRING_MATCH),
        Yes,
        "All must match; `{}` = present. At gateways `@request.auth.claims.NAME` is a claim of the verified token.",
    ),
    f(
        "withoutHeaders",
        Ty::Map(&STRING_MATCH),
        Yes,
        "None may match; `{}` = absent. Claims too.",
    ),
    f(
        "queryParams",
        Ty::Map(&STRING_MATCH),
        Yes,
        "All must match; `{}` = present.",
    ),
    f("port", PORT, Yes, "Port the request was sent to."),
    f(
        "gateways",
        TEXTS,
        Yes,
        "Replaces the object's `gateways` for this match.",
    ),
    f(
        "sourceLabels",
        STRINGS,
        Yes,
        "Labels the caller's workload must have.",
    ),
    f("sourceNamespace", Ty::Str, Yes, "Namespace of the caller."),
    f(
        "statPrefix",
        Ty::Str,
        Yes,
        "Name its requests are counted under besides.",
    ),
];

const REDIRECT: &[Field] = &[
    f("uri", Ty::Str, Yes, "New path, whole."),
    f(
        "prefixRewrite",
        Ty::Str,
        Yes,
        "New path prefix in place of the matched one.",
    ),
    f("authority", Ty::Str, Yes, "New host."),
    f("port", PORT, Yes, "New port."),
    f(
        "derivePort",
        Ty::Enum(&["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"]),
        Yes,
        "Port by scheme, or the request's.",
    ),
    f("scheme", Ty::Str, Yes, "New scheme."),
    f(
        "redirectCode",
        Ty::Int(300, 399),
        Yes,
        "301 (default), 302, 303, 307 or 308.",
    ),
];

const DIRECT: &[Field] = &[
    f("status", Ty::Int(200, 599), Yes, "Status.").required(),
    f(
        "body",
        Ty::Object(&[
            f("string", Ty::Str, Yes, "Text."),
            f("bytes", Ty::Str, Yes, "Base64."),
        ]),
        Yes,
        "Body, at most 64 KiB.",
    ),
];

const REWRITE: &[Field] = &[
    f(
        "uri",
        Ty::Str,
        Yes,
        "Replaces the matched prefix, or the whole path after exact or regex.",
    ),
    f(
        "uriRegexRewrite",
        Ty::Object(&[
            f("match", Ty::Str, Yes, "RE2 expression.").required(),
            f("rewrite", Ty::Str, Yes, "Replacement, groups as `\\1`."),
        ]),
        Yes,
        "Replaces what the expression finds in the path.",
    ),
    f("authority", Ty::Str, Yes, "Replaces the host."),
];

const RETRIES: &[Field] = &[
    f(
        "attempts",
        Ty::Int(0, 100),
        Yes,
        "Tries after the first; 0 turns retries off.",
    ),
    f(
        "perTryTimeout",
        Ty::Duration,
        Yes,
        "Limit of one try; default: the route's timeout.",
    ),
    f(
        "retryOn",
        Ty::Str,
        Yes,
        "Conditions and statuses, with commas; done as written, for every method (L307), within the budget. Left out: only what is safe to repeat.",
    ),
    f(
        "backoff",
        Ty::Duration,
        Yes,
        "Shortest wait; default 25 ms.",
    ),
    f(
        "retryRemoteLocalities",
        Ty::Bool,
        Yes,
        "After two tries, the other priorities of endpoints.",
    ),
    f(
        "retryIgnorePreviousHosts",
        Ty::Bool,
        Yes,
        "Another endpoint for each try; default true.",
    ),
];

const PERCENT: Ty = Ty::Object(&[f("value", Ty::Percent, Yes, "Percent.")]);

const FAULT: &[Field] = &[
    f(
        "delay",
        Ty::Object(&[
            f("fixedDelay", Ty::Duration, Yes, "How long, 1ms or more."),
            f(
                "percentage",
                PERCENT,
                Yes,
                "Share of the requests; left out: none.",
            ),
            f(
                "percent",
                Ty::Percent,
                Yes,
                "Old spelling of percentage (W114).",
            ),
            f(
                "exponentialDelay",
                Ty::Duration,
                Ignored("Istio and Envoy never implemented it"),
                "Wait.",
            ),
        ]),
        Yes,
        "Wait before the request goes on.",
    ),
    f(
        "abort",
        Ty::Object(&[
            f(
                "httpStatus",
                Ty::Int(200, 599),
                Yes,
                "Status of the answer.",
            ),
            f(
                "grpcStatus",
                Ty::Str,
                Yes,
                "gRPC status of the answer, such as `UNAVAILABLE`.",
            ),
            f(
                "http2Error",
                Ty::Str,
                Ignored("Istio and Envoy never implemented it"),
                "HTTP/2 error.",
            ),
            f(
                "percentage",
                PERCENT,
                Yes,
                "Share of the requests; left out: none.",
            ),
        ]),
        Yes,
        "Answer instead of the destination.",
    ),
];

const CORS: &[Field] = &[
    f(
        "allowOrigins",
        Ty::List(&STRING_MATCH),
        Yes,
        "Origins of pages that may call; `exact: '*'` = all.",
    ),
    f(
        "allowOrigin",
        TEXTS,
        Yes,
        "Old spelling of allowOrigins with exact (W114).",
    ),
    f(
        "allowMethods",
        TEXTS,
        Yes,
        "Methods told to a preflight; `*` = the one asked for.",
    ),
    f(
        "allowHeaders",
        TEXTS,
        Yes,
        "Request headers told to a preflight; `*` = those asked for.",
    ),
    f(
        "exposeHeaders",
        TEXTS,
        Yes,
        "Response headers a page may read.",
    ),
    f(
        "maxAge",
        Ty::Duration,
        Yes,
        "How long a browser may remember a preflight, in whole seconds.",
    ),
    f(
        "allowCredentials",
        Ty::Bool,
        Yes,
        "Whether cookies and the like may be sent.",
    ),
    f(
        "unmatchedPreflights",
        Ty::Enum(&["UNSPECIFIED", "FORWARD", "IGNORE"]),
        Yes,
        "A preflight of another origin goes on (FORWARD, default) or is answered here.",
    ),
];

const HTTP: &[Field] = &[
    f(
        "name",
        Ty::Str,
        Yes,
        "For people, metrics and `naka explain`.",
    ),
    f(
        "match",
        Ty::List(&Ty::Object(HTTP_MATCH)),
        Yes,
        "Alternatives; without it every request matches.",
    ),
    f(
        "route",
        Ty::List(&Ty::Object(ROUTE)),
        Yes,
        "Destinations by weight. One of route, redirect, directResponse, delegate.",
    ),
    f(
        "redirect",
        Ty::Object(REDIRECT),
        Yes,
        "Answer with a redirect.",
    ),
    f(
        "directResponse",
        Ty::Object(DIRECT),
        Yes,
        "Answer with a fixed response.",
    ),
    f(
        "rewrite",
        Ty::Object(REWRITE),
        Yes,
        "Path and host as sent on.",
    ),
    f(
        "timeout",
        Ty::Duration,
        Yes,
        "Limit for the whole exchange, until the response has ended; not for upgraded connections; default none.",
    ),
    f(
        "retries",
        Ty::Object(RETRIES),
        Yes,
        "Retries; default 2, safe conditions only.",
    ),
    f("headers", HEADERS, Yes, "Header edits."),
    f(
        "delegate",
        Ty::Object(&[
            f("name", Ty::Str, Yes, "Its name."),
            f(
                "namespace",
                Ty::Str,
                Yes,
                "Its namespace; default: the object's own.",
            ),
        ]),
        Yes,
        "A VirtualService without hosts, whose routes stand in for this one.",
    ),
    f(
        "fault",
        Ty::Object(FAULT),
        Yes,
        "Injected delays and aborts.",
    ),
    f(
        "mirror",
        Ty::Object(DESTINATION),
        Yes,
        "Copy of the requests, whose answers are dropped.",
    ),
    f(
        "mirrors",
        Ty::List(&Ty::Object(&[
            f("destination", Ty::Object(DESTINATION), Yes, "Where to.").required(),
            f("percentage", PERCENT, Yes, "Share copied; default all."),
        ])),
        Yes,
        "Copies of the requests, whose answers are dropped.",
    ),
    f(
        "mirrorPercentage",
        PERCENT,
        Yes,
        "Share copied to mirror; default all.",
    ),
    f(
        "mirrorPercent",
        Ty::Percent,
        Yes,
        "Old spelling of mirrorPercentage (W114).",
    ),
    f(
        "mirror_percent",
        Ty::Percent,
        Yes,
        "Older spelling of mirrorPercentage (W114).",
    ),
    f(
        "corsPolicy",
        Ty::Object(CORS),
        Yes,
        "Which pages of other origins may call.",
    ),
];

const L4_ROUTE: Ty = Ty::List(&Ty::Object(&[
    f("destination", Ty::Object(DESTINATION), Yes, "Where to.").required(),
    f("weight", COUNT, Yes, "Share."),
]));

const TCP: &[Field] = &[
    f(
        "match",
        Ty::List(&Ty::Object(&[
            f("destinationSubnets", TEXTS, Yes, "Addresses."),
            f("port", PORT, Yes, "Port."),
            f("sourceLabels", STRINGS, Yes, "Labels of the caller."),
            f("sourceSubnet", Ty::Str, Yes, "Address of the caller."),
            f("sourceNamespace", Ty::Str, Yes, "Namespace of the caller."),
            f("gateways", TEXTS, Yes, "Gateways."),
        ])),
        Yes,
        "Alternatives.",
    ),
    f("route", L4_ROUTE, Yes, "Destinations."),
];

const TLS: &[Field] = &[
    f(
        "match",
        Ty::List(&Ty::Object(&[
            f("sniHosts", TEXTS, Yes, "Server names.").required(),
            f("destinationSubnets", TEXTS, Yes, "Addresses."),
            f("port", PORT, Yes, "Port."),
            f("sourceLabels", STRINGS, Yes, "Labels of the caller."),
            f("sourceNamespace", Ty::Str, Yes, "Namespace of the caller."),
            f("gateways", TEXTS, Yes, "Gateways."),
        ])),
        Yes,
        "Alternatives.",
    )
    .required(),
    f("route", L4_ROUTE, Yes, "Destinations."),
];

const SPEC: &[Field] = &[
    f(
        "hosts",
        TEXTS,
        Yes,
        "Hosts it applies to; short names resolve in the object's namespace. None: it is for others to delegate to.",
    ),
    f(
        "gateways",
        TEXTS,
        Yes,
        "`mesh` (default) = sidecars; else `[namespace/]name` of a Gateway.",
    ),
    f(
        "http",
        Ty::List(&Ty::Object(HTTP)),
        Yes,
        "Routes, tried in order.",
    ),
    f(
        "tcp",
        Ty::List(&Ty::Object(TCP)),
        Yes,
        "Routes of connections, tried in order.",
    ),
    f(
        "tls",
        Ty::List(&Ty::Object(TLS)),
        Yes,
        "Routes of TLS connections by server name, before those of `tcp`.",
    ),
    f(
        "exportTo",
        TEXTS,
        Yes,
        "Namespaces that see it: `*` (default), `.`, `~` or names.",
    ),
];

/// Below the object itself.
pub(crate) const OBJECT: &[Field] = &[f("spec", Ty::Object(SPEC), Yes, "Rules.").required()];
