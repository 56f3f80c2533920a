//! Fields of a Gateway, as in Istio's CRD.

use crate::schema::{Field, Now, PORT, STRINGS, TEXTS, Ty};

use Now::{Default, NotYet, Refused, Yes};

const fn f(name: &'static str, ty: Ty, now: Now, doc: &'static str) -> Field {
    Field::new(name, ty, now, doc)
}

const TLS_MODES: &[&str] = &[
    "PASSTHROUGH",
    "SIMPLE",
    "MUTUAL",
    "AUTO_PASSTHROUGH",
    "ISTIO_MUTUAL",
    "OPTIONAL_MUTUAL",
];
const TLS_VERSIONS: &[&str] = &["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"];

const TLS: &[Field] = &[
    f(
        "httpsRedirect",
        Ty::Bool,
        Default("false"),
        "Redirects to https.",
    ),
    f("mode", Ty::Enum(TLS_MODES), Yes, "How TLS is handled."),
    f("serverCertificate", Ty::Str, Yes, "File."),
    f("privateKey", Ty::Str, Yes, "File."),
    f("caCertificates", Ty::Str, Yes, "File."),
    f("caCrl", Ty::Str, Yes, "File."),
    f("credentialName", Ty::Str, Yes, "Secret."),
    f("credentialNames", TEXTS, Yes, "Secrets."),
    f("caCertCredentialName", Ty::Str, Yes, "Secret with the CA."),
    f("tlsCertificates", Ty::Any, Yes, "Files, several."),
    f("subjectAltNames", TEXTS, Yes, "Names accepted."),
    f("verifyCertificateSpki", TEXTS, Yes, "Keys accepted."),
    f(
        "verifyCertificateHash",
        TEXTS,
        Yes,
        "Certificates accepted.",
    ),
    f(
        "minProtocolVersion",
        Ty::Enum(TLS_VERSIONS),
        Yes,
        "Lowest version.",
    ),
    f(
        "maxProtocolVersion",
        Ty::Enum(TLS_VERSIONS),
        Yes,
        "Highest version.",
    ),
    f("cipherSuites", TEXTS, Yes, "Cipher suites."),
];

const SERVER_PORT: &[Field] = &[
    f(
        "number",
        PORT,
        Yes,
        "Port the proxy listens on; 15000 to 15090 are reserved.",
    )
    .required(),
    f("name", Ty::Str, Yes, "Name.").required(),
    f(
        "protocol",
        Ty::Str,
        Yes,
        "`HTTP`, `HTTP2` or `GRPC` without TLS. HTTPS, TLS, TCP, MONGO are refused (E901).",
    )
    .required(),
    f("targetPort", PORT, NotYet, "Ignored by Istio, too."),
];

const SERVER: &[Field] = &[
    f("name", Ty::Str, Yes, "For people."),
    f("port", Ty::Object(SERVER_PORT), Yes, "Port.").required(),
    f(
        "hosts",
        TEXTS,
        Yes,
        "`[namespace/]host`, wildcards allowed; namespace `.` = the Gateway's own, `*` = any.",
    )
    .required(),
    f(
        "tls",
        Ty::Object(TLS),
        Refused("serving these hosts without TLS would let through what must be encrypted"),
        "TLS settings.",
    ),
    f("bind", Ty::Str, NotYet, "Address to listen on."),
    f("defaultEndpoint", Ty::Str, NotYet, "Endpoint."),
];

const SPEC: &[Field] = &[
    f(
        "servers",
        Ty::List(&Ty::Object(SERVER)),
        Yes,
        "Ports with their hosts.",
    )
    .required(),
    f(
        "selector",
        STRINGS,
        Yes,
        "Labels of the gateway proxies that serve it; without: all.",
    ),
];

/// Below the object itself.
pub(crate) const OBJECT: &[Field] = &[f("spec", Ty::Object(SPEC), Yes, "Rules.").required()];
