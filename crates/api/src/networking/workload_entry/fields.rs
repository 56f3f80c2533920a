//! Fields of a WorkloadEntry, as in Istio's CRD.

use crate::schema::{COUNT, Field, Now, PORT, STRINGS, Ty};

use Now::Yes;

const SPEC: &[Field] = &[
    Field::new(
        "address",
        Ty::Str,
        Yes,
        "IP address or DNS name, without port.",
    )
    .required(),
    Field::new(
        "ports",
        Ty::Map(&PORT),
        Yes,
        "Port by the service's port name; else the service's target port.",
    ),
    Field::new("labels", STRINGS, Yes, "Labels that services select by."),
    Field::new(
        "weight",
        COUNT,
        Yes,
        "Share among the endpoints; default 1.",
    ),
    Field::new(
        "serviceAccount",
        Ty::Str,
        Yes,
        "Identity expected there; without: called in plaintext.",
    ),
    Field::new(
        "network",
        Ty::Str,
        Yes,
        "Network it is in; callers of others go through its gateway. The label `topology.istio.io/network` says the same.",
    ),
    Field::new(
        "locality",
        Ty::Str,
        Yes,
        "region/zone/subzone; the label `istio-locality` says the same.",
    ),
];

/// Below the object itself.
pub(crate) const OBJECT: &[Field] =
    &[Field::new("spec", Ty::Object(SPEC), Yes, "Endpoint.").required()];
