//! Fields of `loadBalancer`, as in Istio's CRD.

use crate::schema::{COUNT, Field, Now, TEXTS, Ty};

use Now::Yes;

const fn f(name: &'static str, ty: Ty, now: Now, doc: &'static str) -> Field {
    Field::new(name, ty, now, doc)
}

const COOKIE: Ty = Ty::Object(&[
    f("name", Ty::Str, Yes, "Name.").required(),
    f("path", Ty::Str, Yes, "Path."),
    f("ttl", Ty::Duration, Yes, "Life."),
    f(
        "attributes",
        Ty::List(&Ty::Object(&[
            f("name", Ty::Str, Yes, "Name.").required(),
            f("value", Ty::Str, Yes, "Value."),
        ])),
        Yes,
        "Further attributes.",
    ),
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

const FAILOVER: Field = f(
    "failover",
    Ty::List(&Ty::Object(&[
        f("from", Ty::Str, Yes, "Region."),
        f("to", Ty::Str, Yes, "Region."),
    ])),
    Yes,
    "Region that takes over.",
);

const FAILOVER_PRIORITY: Field = f(
    "failoverPriority",
    TEXTS,
    Yes,
    "Labels whose equality decides the order.",
);

const ENABLED: Field = f("enabled", Ty::Bool, Yes, "Turns it on or off.");

const LOCALITY: &[Field] = &[
    f(
        "distribute",
        Ty::List(&Ty::Object(&[
            f("from", Ty::Str, Yes, "Locality of the caller."),
            f("to", Ty::Map(&COUNT), Yes, "Share by locality."),
        ])),
        Yes,
        "Shares by locality.",
    ),
    FAILOVER,
    FAILOVER_PRIORITY,
    ENABLED,
];

const ZONES: &[Field] = &[
    FAILOVER,
    FAILOVER_PRIORITY,
    ENABLED,
    f("minClusterSize", COUNT, Yes, "Fewest endpoints."),
];

const LB_KINDS: &[&str] = &[
    "UNSPECIFIED",
    "ROUND_ROBIN",
    "LEAST_REQUEST",
    "LEAST_CONN",
    "RANDOM",
    "PASSTHROUGH",
];

pub(crate) const LOAD_BALANCER: Ty = Ty::Object(&[
    f(
        "simple",
        Ty::Enum(LB_KINDS),
        Yes,
        "ROUND_ROBIN, LEAST_REQUEST (default), RANDOM or PASSTHROUGH (only the address that the caller named). LEAST_CONN = LEAST_REQUEST (W110).",
    ),
    f(
        "consistentHash",
        HASH,
        Yes,
        "Same endpoint for the same key, placed as Envoy places it.",
    ),
    f(
        "localityLbSetting",
        Ty::Object(LOCALITY),
        Yes,
        "Prefers near endpoints, with or without outlierDetection.",
    ),
    f(
        "zoneAwareLbSetting",
        Ty::Object(ZONES),
        Yes,
        "Prefers the own zone as far as its endpoints can carry it.",
    ),
    f(
        "warmupDurationSecs",
        Ty::Duration,
        Yes,
        "Slow start, old spelling; `warmup` beside it wins.",
    ),
    f(
        "warmup",
        Ty::Object(&[
            f("duration", Ty::Duration, Yes, "How long.").required(),
            f("minimumPercent", Ty::Percent, Yes, "Share to begin with."),
            f("aggression", Ty::Number, Yes, "Shape of the rise."),
        ]),
        Yes,
        "Slow start of new endpoints, for ROUND_ROBIN and LEAST_REQUEST.",
    ),
    f(
        "backendUtilization",
        Ty::Object(&[
            f(
                "weightStabilizationPeriod",
                Ty::Duration,
                Yes,
                "An endpoint must have reported this long before its weight counts; default 10s.",
            ),
            f(
                "weightExpirationPeriod",
                Ty::Duration,
                Yes,
                "A weight not renewed this long counts no more; default 180s.",
            ),
            f(
                "weightUpdatePeriod",
                Ty::Duration,
                Yes,
                "Time between two looks at the weights; default 1s.",
            ),
            f(
                "errorUtilizationPenaltyPercent",
                Ty::Int(0, u32::MAX as i64),
                Yes,
                "Utilisation that errors add, in percent of their share of the calls; default 100.",
            ),
            f(
                "metricNamesForComputingUtilization",
                TEXTS,
                Yes,
                "Metrics that say how utilised an endpoint is, such as `named_metrics.queue`.",
            ),
        ]),
        Yes,
        "In turn, in proportion to the spare capacity that endpoints report (ORCA).",
    ),
]);
