//! Fields of a Sidecar, as in Istio's CRD.

use crate::networking::destination_rule::fields::POOL_TODAY;
use crate::schema::common::{LABELS, LISTENER_PORT, server_tls};
use crate::schema::{Field, PORT, TEXTS, Ty, later, yes};

const CAPTURE: Ty = Ty::Enum(&["DEFAULT", "IPTABLES", "NONE"]);

const TLS: &[Field] = &server_tls(yes("httpsRedirect", Ty::Bool, "Redirects to https."));

const INGRESS: &[Field] = &[
    yes("port", LISTENER_PORT, "Port served.").required(),
    yes("bind", Ty::Str, "Address to listen on."),
    yes("captureMode", CAPTURE, "How its traffic comes in."),
    yes("defaultEndpoint", Ty::Str, "Where the program listens."),
    yes("tls", Ty::Object(TLS), "TLS settings."),
    yes("connectionPool", POOL_TODAY, "Limits."),
];

const EGRESS: &[Field] = &[
    later("port", LISTENER_PORT, "Port to listen on."),
    later("bind", Ty::Str, "Address to listen on."),
    later("captureMode", CAPTURE, "How its traffic comes in."),
    yes("hosts", TEXTS, "`namespace/host` that may be called.").required(),
];

const PROXY: &[Field] = &[
    yes("host", Ty::Str, "Service.").required(),
    yes("subset", Ty::Str, "Subset."),
    yes(
        "port",
        Ty::Object(&[yes("number", PORT, "Port.")]),
        "Service port.",
    ),
];

const SPEC: &[Field] = &[
    yes(
        "workloadSelector",
        LABELS,
        "Workloads it holds for; without: all of the namespace.",
    ),
    later("ingress", Ty::List(&Ty::Object(INGRESS)), "Ports served."),
    yes(
        "egress",
        Ty::List(&Ty::Object(EGRESS)),
        "Hosts the workloads may call.",
    ),
    later(
        "inboundConnectionPool",
        POOL_TODAY,
        "Limits of inbound connections.",
    ),
    yes(
        "outboundTrafficPolicy",
        Ty::Object(&[
            yes(
                "mode",
                Ty::Enum(&["REGISTRY_ONLY", "ALLOW_ANY"]),
                "Whether unknown hosts may be called.",
            ),
            yes(
                "egressProxy",
                Ty::Object(PROXY),
                "Service that unknown hosts are called by.",
            ),
        ]),
        "Calls to hosts that the mesh does not know.",
    ),
];

/// Below the object itself.
pub(crate) const OBJECT: &[Field] = &[yes("spec", Ty::Object(SPEC), "Rules.")];
