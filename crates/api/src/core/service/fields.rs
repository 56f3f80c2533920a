//! Fields of a Service.

use crate::schema::{COUNT, Field, Now, PORT, STRINGS, TEXTS, Ty};

use Now::{Default, NotYet, Refused, Yes};

const fn f(name: &'static str, ty: Ty, now: Now, doc: &'static str) -> Field {
    Field::new(name, ty, now, doc)
}

const PORTS: &[Field] = &[
    f(
        "name",
        Ty::Str,
        Yes,
        "Needed with several ports; its prefix up to `-` names the protocol (http, http2, grpc, grpc-web, tcp, tls, …).",
    ),
    f("port", PORT, Yes, "Port callers use.").required(),
    f(
        "targetPort",
        Ty::IntOrStr,
        Yes,
        "Port of the workload, number or name; default: `port`.",
    ),
    f(
        "protocol",
        Ty::Enum(&["TCP", "UDP", "SCTP"]),
        Yes,
        "TCP (default). UDP and SCTP are refused (E901).",
    ),
    f("appProtocol", Ty::Str, Yes, "Protocol; wins over the name."),
    f("nodePort", COUNT, NotYet, "Port on every node."),
];

const SPEC: &[Field] = &[
    f(
        "selector",
        STRINGS,
        Yes,
        "Labels of the workloads that serve it.",
    ),
    f("ports", Ty::List(&Ty::Object(PORTS)), Yes, "Ports."),
    f(
        "type",
        Ty::Enum(&["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
        Default("\"ClusterIP\""),
        "ExternalName is refused (E901).",
    ),
    f(
        "externalName",
        Ty::Str,
        Refused("calls would go to other endpoints"),
        "Another host.",
    ),
    f(
        "clusterIP",
        Ty::Str,
        Yes,
        "Kept; programs reach services by name, so it needs no enforcing.",
    ),
    f("clusterIPs", TEXTS, Yes, "As clusterIP."),
    f("ipFamilies", TEXTS, Yes, "As clusterIP."),
    f("ipFamilyPolicy", Ty::Str, Yes, "As clusterIP."),
    f(
        "sessionAffinity",
        Ty::Enum(&["None", "ClientIP"]),
        Default("\"None\""),
        "Same endpoint for the same address.",
    ),
    f("sessionAffinityConfig", Ty::Any, NotYet, "Its time."),
    f(
        "internalTrafficPolicy",
        Ty::Enum(&["Cluster", "Local"]),
        Default("\"Cluster\""),
        "Endpoints of the same node only.",
    ),
    f(
        "externalTrafficPolicy",
        Ty::Enum(&["Cluster", "Local"]),
        Default("\"Cluster\""),
        "As above, from outside.",
    ),
    f(
        "publishNotReadyAddresses",
        Ty::Bool,
        Default("false"),
        "Endpoints that are not ready.",
    ),
    f(
        "externalIPs",
        TEXTS,
        Yes,
        "Addresses of a network's gateway, which the label `topology.istio.io/network` makes of a Service; of others they are kept and do nothing.",
    ),
    f("loadBalancerIP", Ty::Str, NotYet, "Address outside."),
    f("loadBalancerClass", Ty::Str, NotYet, "Implementation."),
    f(
        "loadBalancerSourceRanges",
        TEXTS,
        NotYet,
        "Callers from outside.",
    ),
    f(
        "allocateLoadBalancerNodePorts",
        Ty::Bool,
        NotYet,
        "Node ports.",
    ),
    f("healthCheckNodePort", COUNT, NotYet, "Node port."),
    f(
        "trafficDistribution",
        Ty::Str,
        NotYet,
        "Prefers near endpoints.",
    ),
];

/// Below the object itself.
pub(crate) const OBJECT: &[Field] =
    &[f("spec", Ty::Object(SPEC), Yes, "Ports and workloads.").required()];
