//! Fields of a ServiceEntry, as in Istio's CRD.

use crate::schema::common::LABELS;
use crate::schema::{COUNT, Field, PORT, STRINGS, TEXTS, Ty, yes};

const LOCATIONS: Ty = Ty::Enum(&["MESH_EXTERNAL", "MESH_INTERNAL"]);
const RESOLUTIONS: Ty = Ty::Enum(&["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"]);

const SERVICE_PORT: &[Field] = &[
    yes("number", PORT, "Port callers use.").required(),
    yes(
        "name",
        Ty::Str,
        "Name; its prefix names the protocol where `protocol` does not.",
    )
    .required(),
    yes(
        "protocol",
        Ty::Str,
        "HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, TCP, TLS, MONGO, MYSQL or REDIS.",
    ),
    yes(
        "targetPort",
        PORT,
        "Port of the endpoints; default: `number`.",
    ),
];

const ENDPOINT: &[Field] = &[
    yes("address", Ty::Str, "IP address or DNS name, without port."),
    yes("ports", Ty::Map(&PORT), "Port by port name."),
    yes("labels", STRINGS, "Labels that subsets select by."),
    yes("weight", COUNT, "Share among the endpoints; default 1."),
    yes(
        "serviceAccount",
        Ty::Str,
        "Identity expected there; makes an endpoint of a MESH_INTERNAL host called by mesh mTLS.",
    ),
    yes(
        "network",
        Ty::Str,
        "Network it is in; callers of others go through its gateway. The label `topology.istio.io/network` says the same.",
    ),
    yes("locality", Ty::Str, "region/zone/subzone."),
];

const SPEC: &[Field] = &[
    yes(
        "hosts",
        TEXTS,
        "Hosts it stands for; `*.example.com` for all below a domain.",
    )
    .required(),
    yes(
        "addresses",
        TEXTS,
        "Addresses, or blocks of them, the hosts are called by.",
    ),
    yes("ports", Ty::List(&Ty::Object(SERVICE_PORT)), "Ports."),
    yes(
        "location",
        LOCATIONS,
        "MESH_EXTERNAL (default): called in plaintext unless a DestinationRule says otherwise. MESH_INTERNAL: endpoints with the mesh mark are called by mesh mTLS.",
    ),
    yes(
        "resolution",
        RESOLUTIONS,
        "How endpoints are found; default NONE: where the caller was going.",
    ),
    yes("endpoints", Ty::List(&Ty::Object(ENDPOINT)), "Endpoints."),
    yes(
        "workloadSelector",
        LABELS,
        "Workloads of the namespace that are its endpoints.",
    ),
    yes("exportTo", TEXTS, "Namespaces that see it; default all."),
    yes(
        "subjectAltNames",
        TEXTS,
        "Names of which its endpoints' certificates must carry one, for TLS that a DestinationRule originates.",
    ),
];

/// Below the object itself.
pub(crate) const OBJECT: &[Field] = &[yes("spec", Ty::Object(SPEC), "Hosts.").required()];
