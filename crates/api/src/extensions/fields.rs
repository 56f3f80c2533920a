//! Fields that both kinds of extensions have.

use crate::schema::{Field, PORT, Ty, yes};

pub(super) const FAIL: Ty = Ty::Enum(&["FAIL_CLOSE", "FAIL_OPEN", "FAIL_RELOAD"]);
pub(super) const PULL: Ty = Ty::Enum(&["UNSPECIFIED_POLICY", "IfNotPresent", "Always"]);
pub(super) const TYPE: Ty = Ty::Enum(&["UNSPECIFIED_PLUGIN_TYPE", "HTTP", "NETWORK"]);
pub(super) const PRIORITY: Ty = Ty::Int(i32::MIN as i64, i32::MAX as i64);

/// Which traffic it sees.
pub(super) const MATCH: Ty = Ty::List(&Ty::Object(&[
    yes(
        "mode",
        Ty::Enum(&["UNDEFINED", "CLIENT", "SERVER", "CLIENT_AND_SERVER"]),
        "Side of the call.",
    ),
    yes(
        "ports",
        Ty::List(&Ty::Object(&[yes("number", PORT, "Port.").required()])),
        "Ports.",
    ),
]));

/// The machine that runs WebAssembly.
pub(super) const VM: &[Field] = &[yes(
    "env",
    Ty::List(&Ty::Object(&[
        yes("name", Ty::Str, "Name.").required(),
        yes("value", Ty::Str, "Value, for INLINE."),
        yes(
            "valueFrom",
            Ty::Enum(&["INLINE", "HOST"]),
            "Where the value is from.",
        ),
    ])),
    "Environment.",
)];
