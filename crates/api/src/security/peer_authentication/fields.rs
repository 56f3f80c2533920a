//! Fields of a PeerAuthentication, as in Istio's CRD.

use crate::schema::{Field, Now, STRINGS, Ty};

use Now::Yes;

const MODES: &[&str] = &["UNSET", "DISABLE", "PERMISSIVE", "STRICT"];

const MTLS: Ty = Ty::Object(&[Field::new(
    "mode",
    Ty::Enum(MODES),
    Yes,
    "STRICT (mTLS only), PERMISSIVE (both), DISABLE (plaintext only), UNSET (inherited).",
)]);

const SPEC: &[Field] = &[
    Field::new(
        "selector",
        Ty::Object(&[Field::new("matchLabels", STRINGS, Yes, "Labels.")]),
        Yes,
        "Workloads of the namespace it holds for; without: all (in `istio-system`: the mesh).",
    ),
    Field::new(
        "mtls",
        MTLS,
        Yes,
        "What is asked of callers; without: inherited, in the end STRICT.",
    ),
    Field::new(
        "portLevelMtls",
        Ty::Map(&MTLS),
        Yes,
        "By the workload's own port; needs a selector.",
    ),
];

/// Below the object itself.
pub(crate) const OBJECT: &[Field] = &[Field::new(
    "spec",
    Ty::Object(SPEC),
    Yes,
    "Rules; without: inherited.",
)];
