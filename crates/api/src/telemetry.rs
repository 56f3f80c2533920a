//! Telemetry of `telemetry.istio.io`: what proxies report.
//!
//! Read and checked; not enforced yet, and every use says so (W900).

pub(crate) mod fields {
    //! Fields of a Telemetry, as in Istio's CRD.

    use crate::schema::common::{SELECTOR, TARGET_REF, TARGET_REFS};
    use crate::schema::{Field, Ty, later, yes};

    const MODE: Field = yes(
        "mode",
        Ty::Enum(&["CLIENT_AND_SERVER", "CLIENT", "SERVER"]),
        "Side of the call.",
    );
    const MATCH: Ty = Ty::Object(&[MODE]);
    const PROVIDERS: Ty = Ty::List(&Ty::Object(&[yes("name", Ty::Str, "Name.").required()]));

    const METRICS: &[&str] = &[
        "ALL_METRICS",
        "REQUEST_COUNT",
        "REQUEST_DURATION",
        "REQUEST_SIZE",
        "RESPONSE_SIZE",
        "TCP_OPENED_CONNECTIONS",
        "TCP_CLOSED_CONNECTIONS",
        "TCP_SENT_BYTES",
        "TCP_RECEIVED_BYTES",
        "GRPC_REQUEST_MESSAGES",
        "GRPC_RESPONSE_MESSAGES",
    ];

    const NAMED: Ty = Ty::Object(&[
        yes("name", Ty::Str, "Name.").required(),
        yes("defaultValue", Ty::Str, "Value when there is none."),
    ]);
    const VALUE: Ty = Ty::Object(&[yes("value", Ty::Str, "Value.").required()]);

    const TAG: Ty = Ty::Object(&[
        yes("literal", VALUE, "This text."),
        yes("environment", NAMED, "A variable of the proxy."),
        yes("header", NAMED, "A header."),
        yes("formatter", VALUE, "A format of the access log."),
    ]);

    const TRACING: &[Field] = &[
        yes("match", MATCH, "Which calls."),
        yes("providers", PROVIDERS, "Where spans go."),
        yes(
            "randomSamplingPercentage",
            Ty::Percent,
            "Share of traces begun here.",
        ),
        yes("disableSpanReporting", Ty::Bool, "No spans."),
        yes("disableContextPropagation", Ty::Bool, "No trace headers."),
        yes("customTags", Ty::Map(&TAG), "Tags of spans."),
        yes("enableIstioTags", Ty::Bool, "Istio's tags."),
        yes(
            "useRequestIdForTraceSampling",
            Ty::Bool,
            "Samples by the request id.",
        ),
    ];

    const OVERRIDE: &[Field] = &[
        yes(
            "match",
            Ty::Object(&[
                yes("metric", Ty::Enum(METRICS), "Standard metric."),
                yes("customMetric", Ty::Str, "Another metric."),
                MODE,
            ]),
            "Which metrics.",
        ),
        yes("disabled", Ty::Bool, "Not reported."),
        yes(
            "tagOverrides",
            Ty::Map(&Ty::Object(&[
                yes("operation", Ty::Enum(&["UPSERT", "REMOVE"]), "How."),
                yes("value", Ty::Str, "Expression."),
            ])),
            "Labels of the metric.",
        ),
    ];

    const METRIC: &[Field] = &[
        yes("providers", PROVIDERS, "Where metrics go."),
        yes(
            "overrides",
            Ty::List(&Ty::Object(OVERRIDE)),
            "Changes, in order.",
        ),
        yes("reportingInterval", Ty::Duration, "Between reports."),
    ];

    const LOG: &[Field] = &[
        yes("match", MATCH, "Which calls."),
        yes("providers", PROVIDERS, "Where lines go."),
        yes("disabled", Ty::Bool, "No lines."),
        yes(
            "filter",
            Ty::Object(&[yes("expression", Ty::Str, "CEL expression.")]),
            "Which lines.",
        ),
    ];

    const SPEC: &[Field] = &[
        later(
            "selector",
            SELECTOR,
            "Workloads it holds for; without: all of the namespace.",
        ),
        later(
            "targetRef",
            TARGET_REF,
            "What it is attached to, old spelling.",
        ),
        later("targetRefs", TARGET_REFS, "What it is attached to."),
        later("tracing", Ty::List(&Ty::Object(TRACING)), "Traces."),
        later("metrics", Ty::List(&Ty::Object(METRIC)), "Metrics."),
        later("accessLogging", Ty::List(&Ty::Object(LOG)), "Access log."),
    ];

    /// Below the object itself.
    pub(crate) const OBJECT: &[Field] = &[yes("spec", Ty::Object(SPEC), "Rules.")];
}
