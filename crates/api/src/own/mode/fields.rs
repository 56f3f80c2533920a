//! Fields of a Mode.

use crate::schema::{Field, Ty, yes};

const TARGET: &[Field] = &[
    yes(
        "kind",
        Ty::Str,
        "Kind of the object: any that is in force, but no Secret, Namespace, Mode or Rollout.",
    )
    .required(),
    yes("name", Ty::Str, "Its name.").required(),
    yes(
        "namespace",
        Ty::Str,
        "Its namespace; default the Mode's own. Only a Mode of `istio-system` patches objects of others.",
    ),
];

const SPEC: &[Field] = &[
    yes("owner", Ty::Str, "Who answers for it; shown while it is on.").required(),
    yes("description", Ty::Str, "What it is for."),
    yes(
        "maxTime",
        Ty::Duration,
        "Longest time it is on; then it ends by itself.",
    )
    .required(),
    yes(
        "incident",
        Ty::Str,
        "What the id of an incident must look like, `INC-*`; without, none is asked for.",
    ),
    yes(
        "approvals",
        Ty::Int(1, 10),
        "How many different subjects must want it, whoever asks for it included; default 1.",
    ),
    yes(
        "role",
        Ty::Enum(&["operator", "admin"]),
        "Role that each of them needs in the Mode's namespace; default operator.",
    ),
    yes(
        "patches",
        Ty::List(&Ty::Object(&[
            yes("target", Ty::Object(TARGET), "Which object.").required(),
            yes(
                "merge",
                Ty::Any,
                "JSON merge patch (RFC 7396) of the object: maps are merged, lists replaced, null removes.",
            )
            .required(),
        ])),
        "What it changes while it is on.",
    )
    .required(),
];

/// Below the object itself.
pub(crate) const OBJECT: &[Field] = &[yes(
    "spec",
    Ty::Object(SPEC),
    "What it does, and who may switch it on.",
)
.required()];
