//! Fields of an AuthorizationPolicy, as in Istio's CRD.

use crate::schema::common::{SELECTOR, TARGET_REF, TARGET_REFS};
use crate::schema::{Field, TEXTS, Ty, yes};

const SOURCE: Ty = Ty::Object(&[
    yes("principals", TEXTS, "Identities of the peer."),
    yes("notPrincipals", TEXTS, "Identities it must not have."),
    yes(
        "requestPrincipals",
        TEXTS,
        "Identities of the token, `issuer/subject`.",
    ),
    yes(
        "notRequestPrincipals",
        TEXTS,
        "Identities the token must not have.",
    ),
    yes("namespaces", TEXTS, "Namespaces of the peer."),
    yes("notNamespaces", TEXTS, "Namespaces it must not be in."),
    yes("serviceAccounts", TEXTS, "Service accounts of the peer."),
    yes(
        "notServiceAccounts",
        TEXTS,
        "Service accounts it must not have.",
    ),
    yes("trustDomains", TEXTS, "Trust domains of the peer."),
    yes("notTrustDomains", TEXTS, "Trust domains it must not be of."),
    yes("ipBlocks", TEXTS, "Addresses of the peer."),
    yes("notIpBlocks", TEXTS, "Addresses it must not have."),
    yes(
        "remoteIpBlocks",
        TEXTS,
        "Addresses of the client, trusted proxies considered.",
    ),
    yes(
        "notRemoteIpBlocks",
        TEXTS,
        "Addresses the client must not have.",
    ),
]);

const OPERATION: Ty = Ty::Object(&[
    yes("hosts", TEXTS, "Hosts."),
    yes("notHosts", TEXTS, "Hosts it must not be for."),
    yes("ports", TEXTS, "Ports."),
    yes("notPorts", TEXTS, "Ports it must not be for."),
    yes("methods", TEXTS, "Methods."),
    yes("notMethods", TEXTS, "Methods it must not use."),
    yes(
        "paths",
        TEXTS,
        "Paths: whole, `begin*`, `*end`, `{*}` for one segment, `{**}` for the rest.",
    ),
    yes("notPaths", TEXTS, "Paths it must not be for."),
]);

const RULE: &[Field] = &[
    yes(
        "from",
        Ty::List(&Ty::Object(&[yes("source", SOURCE, "Caller.")])),
        "Callers.",
    ),
    yes(
        "to",
        Ty::List(&Ty::Object(&[yes("operation", OPERATION, "Request.")])),
        "Requests.",
    ),
    yes(
        "when",
        Ty::List(&Ty::Object(&[
            yes(
                "key",
                Ty::Str,
                "Attribute. `source.labels[KEY]` is a label of the caller's workload that its token or a WorkloadEntry granted.",
            )
            .required(),
            yes("values", TEXTS, "Values it may have."),
            yes("notValues", TEXTS, "Values it must not have."),
        ])),
        "Further conditions.",
    ),
];

const SPEC: &[Field] = &[
    yes(
        "selector",
        SELECTOR,
        "Workloads it holds for; without: all of the namespace.",
    ),
    yes(
        "targetRef",
        TARGET_REF,
        "What it is attached to, old spelling.",
    ),
    yes(
        "targetRefs",
        TARGET_REFS,
        "Gateways of the Gateway API that it is attached to, instead of a selector.",
    ),
    yes(
        "action",
        Ty::Enum(&["ALLOW", "DENY", "AUDIT", "CUSTOM"]),
        "What happens to requests that match.",
    ),
    yes(
        "rules",
        Ty::List(&Ty::Object(RULE)),
        "Rules; one that matches is enough.",
    ),
    yes(
        "provider",
        Ty::Object(&[yes(
            "name",
            Ty::Str,
            "Name among the `extensionProviders` of the [mesh](configmap.md).",
        )]),
        "Who is asked, for CUSTOM.",
    ),
];

/// Below the object itself.
pub(crate) const OBJECT: &[Field] = &[yes("spec", Ty::Object(SPEC), "Rules.")];
