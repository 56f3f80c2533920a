//! Fields of a BackendPolicy.

use crate::schema::{Field, Now, PORT, TEXTS, Ty};

use Now::Yes;

const fn f(name: &'static str, ty: Ty, doc: &'static str) -> Field {
    Field::new(name, ty, Yes, doc)
}

const STATUS: Ty = Ty::Int(100, 599);
const SOME: Ty = Ty::Int(1, i32::MAX as i64);

const TARGET: &[Field] = &[
    f(
        "group",
        Ty::Str,
        "API group of the target; that of its kind unless given.",
    ),
    f(
        "kind",
        Ty::Enum(&["Service", "ServiceEntry"]),
        "As in the Gateway API; default Service.",
    ),
    f(
        "name",
        Ty::Str,
        "Service; short names resolve in the object's namespace, full hosts may be of another.",
    )
    .required(),
    f("port", PORT, "Service port; without: all."),
    f(
        "subset",
        Ty::Str,
        "Subset of a DestinationRule; without: the whole host and each of its subsets.",
    ),
];

const BREAKER: &[Field] = &[
    f(
        "consecutiveFailures",
        SOME,
        "Opens after so many failures in a row. Without any of the three: 5.",
    ),
    f(
        "failureCount",
        Ty::Object(&[
            f("failures", SOME, "So many failures.").required(),
            f("window", Ty::Duration, "Within this time.").required(),
        ]),
        "Opens after so many failures within a time. Not together with failureRate.",
    ),
    f(
        "failureRate",
        Ty::Object(&[
            f("percent", Ty::Percent, "This share of the calls.").required(),
            f("window", Ty::Duration, "Within this time; default 10s."),
            f(
                "minimumCalls",
                SOME,
                "Of at least so many calls; default 10.",
            ),
        ]),
        "Opens at a share of failures within a time.",
    ),
    f(
        "openFor",
        Ty::Duration,
        "How long nobody is called; default 60s.",
    ),
    f(
        "trials",
        SOME,
        "Then so many calls go through at a time; as many successes close the breaker, one failure opens it again; default 1.",
    ),
    f(
        "statuses",
        Ty::List(&STATUS),
        "Statuses that are failures, instead of all 5xx. Calls without an answer always are.",
    ),
];

const FALLBACK: &[Field] = &[
    f(
        "reasons",
        TEXTS,
        "Reasons of local replies it is for (`breaker-open`, `no-healthy-endpoints` …); without: whenever the destination gives no answer.",
    ),
    f(
        "statuses",
        Ty::List(&STATUS),
        "Answers of the destination that it replaces; default none.",
    ),
    f(
        "response",
        Ty::Object(&[
            f("status", STATUS, "Status; default 503."),
            f(
                "contentType",
                Ty::Str,
                "Type of the body; default application/json.",
            ),
            f("body", Ty::Str, "Body."),
        ]),
        "A fixed answer. Exactly one of response and destination.",
    ),
    f(
        "destination",
        Ty::Object(&[
            f("host", Ty::Str, "Service.").required(),
            f("subset", Ty::Str, "Subset of a DestinationRule."),
            f("port", PORT, "Service port; default that of the call."),
        ]),
        "Another destination answers, if the request is still there whole.",
    ),
];

const CHECK: &[Field] = &[
    f(
        "http",
        Ty::Object(&[
            f("path", Ty::Str, "Path, asked by GET.").required(),
            f(
                "host",
                Ty::Str,
                "Host header; default the destination's host.",
            ),
            f(
                "statuses",
                Ty::List(&STATUS),
                "Healthy statuses; default 200.",
            ),
        ]),
        "Asks by HTTP. Exactly one of http, grpc and tcp.",
    ),
    f(
        "grpc",
        Ty::Object(&[f(
            "service",
            Ty::Str,
            "Service asked about; without: the server.",
        )]),
        "Asks by grpc.health.v1.",
    ),
    f("tcp", Ty::Object(&[]), "Connects."),
    f(
        "interval",
        Ty::Duration,
        "Between two questions; default 10s.",
    ),
    f("timeout", Ty::Duration, "Longest wait; default 1s."),
    f(
        "unhealthyThreshold",
        SOME,
        "Failures in a row that take an endpoint out; default 3.",
    ),
    f(
        "healthyThreshold",
        SOME,
        "Successes in a row that bring it back; default 2.",
    ),
];

const SPEC: &[Field] = &[
    f(
        "targetRefs",
        Ty::List(&Ty::Object(TARGET)),
        "Destinations it holds for.",
    )
    .required(),
    f(
        "breaker",
        Ty::Object(BREAKER),
        "Stops calls to a destination that fails.",
    ),
    f(
        "fallback",
        Ty::Object(FALLBACK),
        "What is answered when the destination has no answer.",
    ),
    f(
        "healthCheck",
        Ty::Object(CHECK),
        "Asks endpoints that had calls in the last minute whether they are well.",
    ),
    f(
        "hedge",
        Ty::Object(&[f(
            "after",
            Ty::Duration,
            "How long a call may be without an answer before another endpoint gets it too.",
        )
        .required()]),
        "Sends a slow call a second time; the first answer wins. Only requests without a body, of methods that are safe to repeat, within the retry budget.",
    ),
];

/// Below the object itself.
pub(crate) const OBJECT: &[Field] = &[f("spec", Ty::Object(SPEC), "What holds.").required()];
