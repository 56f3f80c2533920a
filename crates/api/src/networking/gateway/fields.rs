//! Fields of a Gateway, as in Istio's CRD.

use crate::schema::common::server_tls;
use crate::schema::{Field, Now, PORT, STRINGS, TEXTS, Ty};

use Now::{Default, NotYet, Refused, Yes};

const fn f(name: &'static str, ty: Ty, now: Now, doc: &'static str) -> Field {
    Field::new(name, ty, now, doc)
}

const TLS: &[Field] = &server_tls(f(
    "httpsRedirect",
    Ty::Bool,
    Default("false"),
    "Redirects to https.",
));

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
