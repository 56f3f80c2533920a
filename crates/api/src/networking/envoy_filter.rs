//! EnvoyFilter: patches of Envoy's configuration.
//!
//! Read and checked, not enforced: its patches name Envoy's own structures, which Naka's proxy does not have.

pub(crate) mod fields {
    //! Fields of an EnvoyFilter, as in Istio's CRD.

    use crate::schema::common::{LABELS, TARGET_REFS};
    use crate::schema::{Field, STRINGS, Ty, later, yes};

    const APPLY_TO: &[&str] = &[
        "INVALID",
        "LISTENER",
        "FILTER_CHAIN",
        "NETWORK_FILTER",
        "HTTP_FILTER",
        "ROUTE_CONFIGURATION",
        "VIRTUAL_HOST",
        "HTTP_ROUTE",
        "CLUSTER",
        "EXTENSION_CONFIG",
        "BOOTSTRAP",
        "LISTENER_FILTER",
    ];
    const CONTEXTS: &[&str] = &[
        "ANY",
        "SIDECAR_INBOUND",
        "SIDECAR_OUTBOUND",
        "GATEWAY",
        "WAYPOINT",
    ];
    const ACTIONS: &[&str] = &["ANY", "ROUTE", "REDIRECT", "DIRECT_RESPONSE"];
    const CLASSES: &[&str] = &["UNSPECIFIED", "AUTHN", "AUTHZ", "STATS"];
    const OPERATIONS: &[&str] = &[
        "INVALID",
        "MERGE",
        "ADD",
        "REMOVE",
        "INSERT_BEFORE",
        "INSERT_AFTER",
        "INSERT_FIRST",
        "REPLACE",
        "MERGE_AND_REPLACE_LIST",
    ];
    const NUMBER: Ty = Ty::Int(0, u32::MAX as i64);

    const FILTER: Ty = Ty::Object(&[
        yes("name", Ty::Str, "Name."),
        yes(
            "subFilter",
            Ty::Object(&[yes("name", Ty::Str, "Name.")]),
            "Filter inside of it.",
        ),
    ]);

    const FILTER_CHAIN: &[Field] = &[
        yes("name", Ty::Str, "Name."),
        yes("sni", Ty::Str, "Server name."),
        yes("transportProtocol", Ty::Str, "raw_buffer or tls."),
        yes("applicationProtocols", Ty::Str, "ALPN, with commas."),
        yes("transportSocket", Ty::Str, "Transport socket."),
        yes("destinationPort", NUMBER, "Port."),
        yes("filter", FILTER, "Filter."),
    ];

    const LISTENER: &[Field] = &[
        yes("name", Ty::Str, "Name."),
        yes("portNumber", NUMBER, "Port."),
        yes("portName", Ty::Str, "Name of the port."),
        yes("listenerFilter", Ty::Str, "Filter of the listener."),
        yes("filterChain", Ty::Object(FILTER_CHAIN), "Filter chain."),
    ];

    const VHOST: &[Field] = &[
        yes("name", Ty::Str, "Name."),
        yes("domainName", Ty::Str, "Host."),
        yes(
            "route",
            Ty::Object(&[
                yes("name", Ty::Str, "Name."),
                yes("action", Ty::Enum(ACTIONS), "What it does."),
            ]),
            "Route.",
        ),
    ];

    const ROUTES: &[Field] = &[
        yes("name", Ty::Str, "Name."),
        yes("portNumber", NUMBER, "Port."),
        yes("portName", Ty::Str, "Name of the port."),
        yes("gateway", Ty::Str, "Gateway."),
        yes("vhost", Ty::Object(VHOST), "Virtual host."),
    ];

    const CLUSTER: &[Field] = &[
        yes("name", Ty::Str, "Name."),
        yes("service", Ty::Str, "Host."),
        yes("subset", Ty::Str, "Subset."),
        yes("portNumber", NUMBER, "Port."),
    ];

    const WAYPOINT: &[Field] = &[
        yes("portNumber", NUMBER, "Port."),
        yes("filter", FILTER, "Filter."),
        yes(
            "route",
            Ty::Object(&[yes("name", Ty::Str, "Name.")]),
            "Route.",
        ),
    ];

    const MATCH: &[Field] = &[
        yes(
            "context",
            Ty::Enum(CONTEXTS),
            "Kind of proxy and direction.",
        ),
        yes(
            "proxy",
            Ty::Object(&[
                yes("proxyVersion", Ty::Str, "Expression over the version."),
                yes("metadata", STRINGS, "Metadata of the node."),
            ]),
            "Proxy.",
        ),
        yes("listener", Ty::Object(LISTENER), "Listener."),
        yes("routeConfiguration", Ty::Object(ROUTES), "Routes."),
        yes("cluster", Ty::Object(CLUSTER), "Cluster."),
        yes("waypoint", Ty::Object(WAYPOINT), "Waypoint."),
    ];

    const PATCH: &[Field] = &[
        yes("applyTo", Ty::Enum(APPLY_TO), "What is patched."),
        yes("match", Ty::Object(MATCH), "Which of them."),
        yes(
            "patch",
            Ty::Object(&[
                yes("operation", Ty::Enum(OPERATIONS), "How."),
                yes("value", Ty::Any, "Envoy's configuration."),
                yes("filterClass", Ty::Enum(CLASSES), "Where in the order."),
            ]),
            "The patch.",
        ),
    ];

    const SPEC: &[Field] = &[
        later(
            "workloadSelector",
            LABELS,
            "Workloads it holds for; without: all of the namespace.",
        ),
        later("targetRefs", TARGET_REFS, "What it is attached to."),
        later(
            "configPatches",
            Ty::List(&Ty::Object(PATCH)),
            "Patches, in order.",
        ),
        later(
            "priority",
            Ty::Int(i32::MIN as i64, i32::MAX as i64),
            "Order among EnvoyFilters.",
        ),
    ];

    /// Below the object itself.
    pub(crate) const OBJECT: &[Field] = &[yes("spec", Ty::Object(SPEC), "Patches.")];
}
