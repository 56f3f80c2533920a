//! Fields of a Rollout.

use crate::schema::{Field, TEXTS, Ty, yes};

const ROTATION: &[Field] = &[yes(
    "compromisedWithin",
    Ty::Duration,
    "Others may have the key of the present root: it is dropped after this time at the latest, whoever still needs it. Unless given, it is dropped once no certificate below it is good.",
)];

const STRICT: &[Field] = &[
    yes(
        "namespace",
        Ty::Str,
        "Namespace of the PeerAuthentication; `istio-system` unless given.",
    ),
    yes(
        "name",
        Ty::Str,
        "Name of the PeerAuthentication, which is PERMISSIVE.",
    )
    .required(),
    yes(
        "quietFor",
        Ty::Duration,
        "No plain call may come for so long before it becomes STRICT, and one within as long afterwards takes it back; `1h` unless given.",
    ),
    yes(
        "withoutCounts",
        TEXTS,
        "Workloads beside an Envoy or of gRPC, as `<workload name>.<namespace>`, for which you know that no plain call comes: nobody counts them there, so it waits for ever unless all of them are named.",
    ),
];

const SPEC: &[Field] = &[
    yes(
        "rootRotation",
        Ty::Object(ROTATION),
        "Another root of the mesh's certificates, made in the control plane. This or `peerAuthentication`.",
    ),
    yes(
        "peerAuthentication",
        Ty::Object(STRICT),
        "A PeerAuthentication from PERMISSIVE to STRICT. This or `rootRotation`.",
    ),
    yes(
        "manual",
        Ty::Bool,
        "Each step waits for `naka rollout promote`, besides its gate.",
    ),
];

/// Below the object itself.
pub(crate) const OBJECT: &[Field] = &[yes("spec", Ty::Object(SPEC), "The change.").required()];
