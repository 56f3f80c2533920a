//! ServiceEntry: hosts that no Service declares.

pub(crate) mod fields {
    //! Fields of a ServiceEntry, as in Istio's CRD.

    use crate::schema::common::{ENDPOINT, LABELS};
    use crate::schema::{Field, PORT, TEXTS, Ty, later, yes};

    const LOCATIONS: Ty = Ty::Enum(&["MESH_EXTERNAL", "MESH_INTERNAL"]);
    const RESOLUTIONS: Ty = Ty::Enum(&["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"]);

    const SERVICE_PORT: &[Field] = &[
        yes("number", PORT, "Port.").required(),
        yes("name", Ty::Str, "Name.").required(),
        yes("protocol", Ty::Str, "Protocol."),
        yes("targetPort", PORT, "Port of the endpoints."),
    ];

    const SPEC: &[Field] = &[
        later("hosts", TEXTS, "Hosts it stands for.").required(),
        later("addresses", TEXTS, "Addresses the hosts are called by."),
        later("ports", Ty::List(&Ty::Object(SERVICE_PORT)), "Ports."),
        later(
            "location",
            LOCATIONS,
            "Whether its endpoints are part of the mesh.",
        ),
        later("resolution", RESOLUTIONS, "How endpoints are found."),
        later("endpoints", Ty::List(&Ty::Object(ENDPOINT)), "Endpoints."),
        later(
            "workloadSelector",
            LABELS,
            "Workloads that are its endpoints.",
        ),
        later("exportTo", TEXTS, "Namespaces that see it."),
        later(
            "subjectAltNames",
            TEXTS,
            "Names that its endpoints' certificates may carry.",
        ),
    ];

    /// Below the object itself.
    pub(crate) const OBJECT: &[Field] = &[yes("spec", Ty::Object(SPEC), "Hosts.").required()];
}
