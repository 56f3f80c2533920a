//! Blocks that several kinds share.

use super::{COUNT, Field, Now, PORT, STRINGS, TEXTS, Ty, yes};

/// `matchLabels` over workloads.
pub(crate) const SELECTOR: Ty = Ty::Object(&[yes(
    "matchLabels",
    STRINGS,
    "Labels that the workload carries, all of them.",
)]);

/// The older form of a selector.
pub(crate) const LABELS: Ty = Ty::Object(&[yes(
    "labels",
    STRINGS,
    "Labels that the workload carries, all of them.",
)]);

/// What a policy is attached to.
pub(crate) const TARGET_REF: Ty = Ty::Object(&[
    yes("group", Ty::Str, "API group; empty = core."),
    yes("kind", Ty::Str, "Kind.").required(),
    yes("name", Ty::Str, "Name.").required(),
    yes("namespace", Ty::Str, "Only the object's own."),
]);

/// Several of them.
pub(crate) const TARGET_REFS: Ty = Ty::List(&TARGET_REF);

/// An endpoint: of a ServiceEntry, or the template of a WorkloadGroup.
pub(crate) const ENDPOINT: &[Field] = &[
    yes("address", Ty::Str, "IP address or DNS name, without port."),
    yes("ports", Ty::Map(&PORT), "Port by the service's port name."),
    yes("labels", STRINGS, "Labels that subsets select by."),
    yes("weight", COUNT, "Share among the endpoints."),
    yes("serviceAccount", Ty::Str, "Identity expected there."),
    yes("network", Ty::Str, "Network it is in."),
    yes("locality", Ty::Str, "region/zone/subzone."),
];

/// A port of a server or listener.
pub(crate) const LISTENER_PORT: Ty = Ty::Object(&[
    yes("number", Ty::Int(0, u32::MAX as i64), "Port."),
    yes("name", Ty::Str, "Name."),
    yes("protocol", Ty::Str, "Protocol."),
    Field::new(
        "targetPort",
        PORT,
        Now::Ignored(NO_TARGET),
        "Has no effect in Istio either.",
    ),
]);

/// Of `targetPort` of a Sidecar's port.
pub(crate) const NO_TARGET: &str =
    "Istio keeps it for compatibility only (\"Has no effect\", sidecar.proto)";

const TLS_MODES: &[&str] = &[
    "PASSTHROUGH",
    "SIMPLE",
    "MUTUAL",
    "AUTO_PASSTHROUGH",
    "ISTIO_MUTUAL",
    "OPTIONAL_MUTUAL",
];
const TLS_VERSIONS: &[&str] = &["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"];

const FILES: Ty = Ty::Object(&[
    yes("serverCertificate", Ty::Str, "File."),
    yes("privateKey", Ty::Str, "File."),
    yes("caCertificates", Ty::Str, "File."),
]);

/// TLS of a server, but `httpsRedirect`, whose meaning differs.
pub(crate) const fn server_tls(https_redirect: Field) -> [Field; 19] {
    [
        https_redirect,
        yes("mode", Ty::Enum(TLS_MODES), "How TLS is handled."),
        yes("serverCertificate", Ty::Str, "File."),
        yes("privateKey", Ty::Str, "File."),
        yes("caCertificates", Ty::Str, "File."),
        yes("caCrl", Ty::Str, "File of revoked certificates."),
        yes("credentialName", Ty::Str, "Secret."),
        yes("credentialNames", TEXTS, "Secrets, at most two."),
        yes("caCertCredentialName", Ty::Str, "Secret with the CA."),
        yes(
            "tlsCertificates",
            Ty::List(&FILES),
            "Files, at most two sets.",
        ),
        yes("subjectAltNames", TEXTS, "Names accepted."),
        yes("verifyCertificateSpki", TEXTS, "Keys accepted."),
        yes("verifyCertificateHash", TEXTS, "Certificates accepted."),
        yes(
            "minProtocolVersion",
            Ty::Enum(TLS_VERSIONS),
            "Lowest version.",
        ),
        yes(
            "maxProtocolVersion",
            Ty::Enum(TLS_VERSIONS),
            "Highest version.",
        ),
        yes("cipherSuites", TEXTS, "Cipher suites."),
        yes(
            "ecdhCurves",
            TEXTS,
            "Key exchanges served, the best first: X25519MLKEM768, X25519, P-256, P-384. Default: the first three.",
        ),
        yes(
            "alpnProtocols",
            TEXTS,
            "Protocols offered, the best first. Default: h2 and http/1.1 for HTTP, none for bytes.",
        ),
        yes(
            "insecureSkipVerify",
            Ty::Bool,
            "A client certificate that cannot be verified is let in all the same (L350); it gives nobody a name.",
        ),
    ]
}
