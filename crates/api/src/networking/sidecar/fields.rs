//! Fields of a Sidecar, as in Istio's CRD.

use crate::networking::destination_rule::fields::POOL_TODAY;
use crate::schema::common::{LABELS, LISTENER_PORT, NO_TARGET, server_tls};
use crate::schema::{Field, Now, PORT, TEXTS, Ty, yes};

const CAPTURE: Ty = Ty::Enum(&["DEFAULT", "IPTABLES", "NONE"]);

const TLS: &[Field] = &server_tls(Field::new(
    "httpsRedirect",
    Ty::Bool,
    Now::Ignored("gateways alone redirect callers; in Istio, too, nothing reads it of a sidecar"),
    "A sidecar redirects nobody.",
));

const INGRESS: &[Field] = &[
    yes("port", LISTENER_PORT, "Port served.").required(),
    yes(
        "bind",
        Ty::Str,
        "Address for callers beside the workload's own, at this port number; of a port that the workload does not declare (then the Sidecar needs a workloadSelector) the only one.",
    ),
    yes(
        "captureMode",
        CAPTURE,
        "`IPTABLES`: nothing is bound for the entry; else the proxy opens what it asks for.",
    ),
    yes(
        "defaultEndpoint",
        Ty::Str,
        "Where the program listens: 127.0.0.1:PORT, 0.0.0.0:PORT (the workload's own address) or unix:///PATH; the same port if not set.",
    ),
    yes(
        "tls",
        Ty::Object(TLS),
        "TLS with callers from outside the mesh, of mode SIMPLE or MUTUAL; in force where PeerAuthentication says DISABLE for the port.",
    ),
    yes(
        "connectionPool",
        POOL_TODAY,
        "Limits of connections to the program at this port; they come before inboundConnectionPool.",
    ),
];

/// The entry holds for calls to this port; where it has a listener of its own, its protocol decides what is spoken there.
const EGRESS_PORT: Ty = Ty::Object(&[
    yes("number", Ty::Int(0, u32::MAX as i64), "Port."),
    Field::new(
        "name",
        Ty::Str,
        Now::Label("sidecar.proto: \"Label assigned to the port\""),
        "Name.",
    ),
    yes(
        "protocol",
        Ty::Str,
        "What is spoken at a listener of its own: TCP or TLS makes bytes of it; decides nothing without `bind` or captureMode NONE.",
    ),
    Field::new(
        "targetPort",
        PORT,
        Now::Ignored(NO_TARGET),
        "Has no effect in Istio either.",
    ),
]);

const EGRESS: &[Field] = &[
    yes(
        "port",
        EGRESS_PORT,
        "Port that the entry is for; without it for all that have no entry of their own.",
    ),
    yes(
        "bind",
        Ty::Str,
        "Address to listen on for the program's calls; 127.0.0.1 with captureMode NONE. `unix:///PATH` with port 0 is a Unix socket.",
    ),
    yes(
        "captureMode",
        CAPTURE,
        "`NONE`: the proxy listens at `bind`; `DEFAULT`: if there is a `bind`; `IPTABLES`: calls are captured or do not come, nothing is bound.",
    ),
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
    yes("ingress", Ty::List(&Ty::Object(INGRESS)), "Ports served."),
    yes(
        "egress",
        Ty::List(&Ty::Object(EGRESS)),
        "Hosts the workloads may call.",
    ),
    yes(
        "inboundConnectionPool",
        POOL_TODAY,
        "Limits of connections to the program, of all ports that have none of their own; without it those of the service's DestinationRule.",
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
