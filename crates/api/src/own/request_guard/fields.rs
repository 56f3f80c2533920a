//! Fields of a RequestGuard.

use crate::schema::common::{SELECTOR, TARGET_REF, TARGET_REFS};
use crate::schema::{Field, TEXTS, Ty, yes};

const METHODS: &[Field] = &[yes(
    "allow",
    TEXTS,
    "Methods that pass, in capitals; GET, HEAD, OPTIONS, POST, PUT, PATCH and DELETE unless given.",
)];

const CUSTOM: &[Field] = &[
    yes("name", Ty::Str, "Name, unique in the guard.").required(),
    yes(
        "regex",
        Ty::Str,
        "Regular expression (RE2) that may match anywhere in a path, a part of a query or a value of a header.",
    )
    .required(),
];

const PATTERNS: &[Field] = &[
    yes(
        "sqlInjection",
        Ty::Bool,
        "Conditions and statements of SQL where a value belongs; default false.",
    ),
    yes(
        "xss",
        Ty::Bool,
        "Scripts and elements of HTML that run some; default false.",
    ),
    yes(
        "commandInjection",
        Ty::Bool,
        "Commands of a shell behind its separators, files of accounts; default false.",
    ),
    yes(
        "custom",
        Ty::List(&Ty::Object(CUSTOM)),
        "Patterns of your own.",
    ),
];

const TOKENS: &[Field] = &[yes(
    "faults",
    Ty::List(&Ty::Enum(&["expired", "signature", "issuer"])),
    "Which: its time is over or it was taken back; no key bears it out or it is no token; it is another issuer's or for others. Default all.",
)];

const GUARD: &[Field] = &[
    yes(
        "name",
        Ty::Str,
        "Name, unique in the object: it stands in logs, metrics and denials.",
    )
    .required(),
    yes("methods", Ty::Object(METHODS), "Looks at the method."),
    yes(
        "syntax",
        Ty::Enum(&["strict"]),
        "Looks at what RFC 3986 and RFC 9110 forbid, besides what is refused anyway for having two meanings.",
    ),
    yes(
        "patterns",
        Ty::Object(PATTERNS),
        "Looks for what has the shape of an attack, in path, query and values of headers.",
    ),
    yes(
        "handshakes",
        Ty::Enum(&["failed"]),
        "Looks at TLS handshakes that fail.",
    ),
    yes(
        "tokens",
        Ty::Object(TOKENS),
        "Looks at tokens that a RequestAuthentication does not take.",
    ),
    yes(
        "action",
        Ty::Enum(&["Log", "Deny", "Ban"]),
        "Log: counts and tells; Deny: refuses; Ban: refuses, and for a time everything of whoever does it too often. Default Deny.",
    ),
    yes(
        "failures",
        Ty::Int(1, 10_000),
        "Failures that are a ban: 5 of handshakes and tokens, 1 of the others unless given.",
    ),
    yes(
        "per",
        Ty::Duration,
        "Time since the first of them within which they count; default 60s, at most 24h.",
    ),
    yes(
        "banFor",
        Ty::Duration,
        "How long a ban lasts; default 10m, at most 24h.",
    ),
];

const SPEC: &[Field] = &[
    yes(
        "selector",
        SELECTOR,
        "Workloads it holds for; without: all of the namespace, in the root namespace of the mesh.",
    ),
    yes(
        "targetRef",
        TARGET_REF,
        "The gateway it is for, instead of a selector.",
    ),
    yes(
        "targetRefs",
        TARGET_REFS,
        "Gateways it is for, instead of a selector.",
    ),
    yes(
        "guards",
        Ty::List(&Ty::Object(GUARD)),
        "Asked in this order, before tokens and policies; the first that refuses decides.",
    )
    .required(),
];

/// Below the object itself.
pub(crate) const OBJECT: &[Field] = &[yes("spec", Ty::Object(SPEC), "The guards.").required()];
