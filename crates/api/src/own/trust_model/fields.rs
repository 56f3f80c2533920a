//! Fields of a TrustModel.

use super::hours::Day;
use crate::schema::common::SELECTOR;
use crate::schema::{Field, TEXTS, Ty, yes};

const LEVEL: Ty = Ty::Int(0, 1000);

const HOURS: &[Field] = &[
    yes(
        "days",
        Ty::List(&Ty::Enum(&Day::NAMES)),
        "Days it opens on; default Monday to Friday.",
    ),
    yes("from", Ty::Str, "First minute, `09:00`.").required(),
    yes(
        "to",
        Ty::Str,
        "Minute at which it closes, `18:00`; at most `24:00`.",
    )
    .required(),
    yes(
        "timeZone",
        Ty::Str,
        "Name of a time zone, or an offset like `+05:30`; default UTC.",
    ),
];

const DUAL: Field = yes(
    "dualAuthorization",
    Ty::Bool,
    "Whether two others than the caller must have approved: the [token](../tasks/jwt.md) of the request says who did.",
);
const AUDIT: Field = yes(
    "auditTrail",
    Ty::Enum(&["denials", "comprehensive"]),
    "`comprehensive`: calls that pass are told of too, in access log and metrics. Default denials.",
);
const SESSION: Field = yes(
    "sessionTimeout",
    Ty::Duration,
    "Longest time since the caller logged in: `auth_time` of its token, else `iat`. Without a token nobody passes.",
);
const WHEN: Field = yes(
    "hours",
    Ty::List(&Ty::Object(HOURS)),
    "Times at which it may be called; one of these.",
);
const NETWORKS: Field = yes(
    "networks",
    TEXTS,
    "Addresses its callers must have: ranges like 10.0.0.0/8.",
);

const OPERATION: &[Field] = &[
    yes("name", Ty::Str, "Name, unique in the object.").required(),
    yes(
        "hosts",
        TEXTS,
        "Services it is of; short names resolve in the object's namespace. Without: all. A `Host` header decides nothing: it is the called workload that counts.",
    ),
    yes("ports", TEXTS, "Ports of the program."),
    yes("methods", TEXTS, "Methods."),
    yes(
        "paths",
        TEXTS,
        "Paths: whole, `begin*`, `*end`, `{*}` for one segment, `{**}` for the rest.",
    ),
    yes(
        "clearance",
        Ty::IntOrStr,
        "Lowest level that may call it, by name or number; default the lowest there is.",
    ),
    WHEN,
    NETWORKS,
    DUAL,
    SESSION,
    AUDIT,
];

const DEMAND: &[Field] = &[
    yes(
        "from",
        Ty::IntOrStr,
        "For operations that need this level or a higher one.",
    )
    .required(),
    WHEN,
    NETWORKS,
    DUAL,
    SESSION,
    AUDIT,
];

const SPEC: &[Field] = &[
    yes(
        "selector",
        SELECTOR,
        "Workloads it holds for; without: all of the namespace, in the root namespace of the mesh.",
    ),
    yes(
        "labels",
        Ty::Object(&[
            yes("clearance", Ty::Str, "Default `security-clearance`."),
            yes("zone", Ty::Str, "Default `trust-zone`."),
        ]),
        "Keys of the labels that say a workload's clearance and zone. Only granted ones count.",
    ),
    yes(
        "levels",
        Ty::Map(&LEVEL),
        "Clearance levels by name; default public 0, internal 1, sensitive 2, critical 3, top_secret 4. Who has no label has the lowest.",
    ),
    yes(
        "zones",
        TEXTS,
        "Trust zones; default DMZ, INTERNAL_ZONE, DATA_ZONE, ADMIN_ZONE, EXTERNAL_ZONE. Without zones and crossings nobody is asked for a zone.",
    ),
    yes(
        "crossings",
        Ty::List(&Ty::Object(&[
            yes("from", Ty::Str, "Zone of the caller.").required(),
            yes("to", Ty::Str, "Zone of the called.").required(),
            yes(
                "operations",
                TEXTS,
                "Only for these operations; default every call.",
            ),
        ])),
        "Who may call into another zone; calls within a zone may be made.",
    ),
    yes(
        "operations",
        Ty::List(&Ty::Object(OPERATION)),
        "What is called, and what it takes. Of several that fit a call each must be satisfied.",
    ),
    yes(
        "demands",
        Ty::List(&Ty::Object(DEMAND)),
        "What else every operation of a level and above takes.",
    ),
    yes(
        "approvalClaim",
        Ty::Str,
        "Claim of the token that lists who approved, for dualAuthorization; default `approved_by`. The token's own subject does not count.",
    ),
];

/// Below the object itself.
pub(crate) const OBJECT: &[Field] =
    &[yes("spec", Ty::Object(SPEC), "What is demanded of callers.").required()];
