//! Fields of a LocalRateLimit.

use crate::schema::{Field, TEXTS, Ty, yes};

/// Most keys of one rule, as the engine holds them.
const KEYS: Ty = Ty::Int(1, 100_000);
const SOME: Ty = Ty::Int(1, i32::MAX as i64);

const TARGET: &[Field] = &[
    yes("group", Ty::Str, "API group of the target; that of its kind unless given."),
    yes("kind", Ty::Enum(&["Service", "Gateway", "VirtualService"]), "Service: requests to each of its workloads; Gateway: requests through it; VirtualService: requests of its routes through gateways.").required(),
    yes("name", Ty::Str, "Name of the target, in the object's own namespace.").required(),
    yes("sectionName", Ty::Str, "Name of a route of the VirtualService; all of them unless given."),
];

const RULE: &[Field] = &[
    yes(
        "name",
        Ty::Str,
        "Name, unique in the object: buckets stay when the numbers change.",
    )
    .required(),
    yes(
        "when",
        Ty::Str,
        "Expression: requests the rule is for; all unless given. Unknown counts as met.",
    ),
    yes(
        "keys",
        TEXTS,
        "Expressions: each value, or combination of values, has a bucket of its own.",
    ),
    yes("requests", SOME, "Tokens that come in each interval.").required(),
    yes("per", Ty::Duration, "The interval; `1s` unless given."),
    yes(
        "burst",
        SOME,
        "Most tokens that wait; as many as `requests` unless given.",
    ),
    yes(
        "maxKeys",
        KEYS,
        "Most keys in use at once, 1024 unless given; beyond it keys share buckets.",
    ),
    yes("dryRun", Ty::Bool, "Counts and tells, refuses nobody."),
    yes(
        "responseHeaders",
        Ty::Bool,
        "Answers carry `x-ratelimit-limit`, `-remaining` and `-reset`.",
    ),
];

const SPEC: &[Field] = &[
    yes(
        "targetRefs",
        Ty::List(&Ty::Object(TARGET)),
        "What the limit is for.",
    )
    .required(),
    yes(
        "rules",
        Ty::List(&Ty::Object(RULE)),
        "Token buckets; a request needs a token of each rule that is for it.",
    )
    .required(),
];

/// Below the object itself.
pub(crate) const OBJECT: &[Field] = &[yes("spec", Ty::Object(SPEC), "The limit.").required()];
