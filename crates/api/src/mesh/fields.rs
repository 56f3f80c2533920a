//! Fields of the providers in a MeshConfig.

use crate::schema::{Field, Now, STRINGS, TEXTS, Ty, yes};

const BODY: Ty = Ty::Object(&[
    yes(
        "maxRequestBytes",
        Ty::Int(1, u32::MAX as i64),
        "Most bytes that the provider is told.",
    )
    .required(),
    yes(
        "allowPartialMessage",
        Ty::Bool,
        "Whether the beginning of a longer body is enough; else such requests get 413.",
    ),
    yes(
        "packAsBytes",
        Ty::Bool,
        "Whether bodies are no text; gRPC only.",
    ),
]);

const SERVICE: Field = yes(
    "service",
    Ty::Str,
    "Its service, `host` or `namespace/host`.",
);
const PORT_OF: Field = yes("port", Ty::IntOrStr, "Port of that.");
const TIMEOUT: Field = yes(
    "timeout",
    Ty::Duration,
    "Time for an answer, 600s if unset.",
);
const FAIL_OPEN: Field = yes(
    "failOpen",
    Ty::Bool,
    "Whether requests pass that nobody answered for.",
);
const STATUS: Field = yes(
    "statusOnError",
    Ty::Str,
    "Status of their answer otherwise, \"403\" if unset.",
);
const BODY_IN_CHECK: Field = yes(
    "includeRequestBodyInCheck",
    BODY,
    "What it is told of bodies.",
);
const CLEAR: Field = Field::new(
    "clearRouteCache",
    Ty::Bool,
    Now::Default("true"),
    "Routes are chosen after the provider was asked, always.",
);

const HTTP: &[Field] = &[
    SERVICE.required(),
    PORT_OF.required(),
    TIMEOUT,
    FAIL_OPEN,
    STATUS,
    BODY_IN_CHECK,
    CLEAR,
    yes(
        "pathPrefix",
        Ty::Str,
        "Before the path that it is asked about.",
    ),
    yes(
        "includeRequestHeadersInCheck",
        TEXTS,
        "Headers of the request that it is told, beside host and authorization.",
    ),
    Field::new(
        "includeHeadersInCheck",
        TEXTS,
        Now::Alias("W114"),
        "Old spelling of `includeRequestHeadersInCheck`.",
    ),
    yes(
        "includeAdditionalHeadersInCheck",
        STRINGS,
        "Headers beside those, with their values.",
    ),
    yes(
        "headersToUpstreamOnAllow",
        TEXTS,
        "Headers of its answer that a request which passes carries on.",
    ),
    yes(
        "headersToDownstreamOnDeny",
        TEXTS,
        "Headers of its answer that a refused caller gets; unset: all.",
    ),
    yes(
        "headersToDownstreamOnAllow",
        TEXTS,
        "Headers of its answer that the caller of a request which passed gets.",
    ),
];

const GRPC: &[Field] = &[
    SERVICE.required(),
    PORT_OF.required(),
    TIMEOUT,
    FAIL_OPEN,
    STATUS,
    BODY_IN_CHECK,
    CLEAR,
];

/// A provider by HTTP.
pub(crate) const BY_HTTP: Ty = Ty::Object(HTTP);
/// A provider by gRPC.
pub(crate) const BY_GRPC: Ty = Ty::Object(GRPC);
