//! Fields of a Gateway, as in Istio's CRD.

use crate::schema::common::server_tls;
use crate::schema::{Field, Now, PORT, STRINGS, TEXTS, Ty};

use Now::Yes;

const fn f(name: &'static str, ty: Ty, now: Now, doc: &'static str) -> Field {
    Field::new(name, ty, now, doc)
}

const TLS: &[Field] = &server_tls(f(
    "httpsRedirect",
    Ty::Bool,
    Yes,
    "Requests in plaintext are answered with 301 to https.",
));

const SERVER_PORT: &[Field] = &[
    f(
        "number",
        PORT,
        Yes,
        "Port the proxy listens on; 15000 to 15090 are reserved.",
    )
    .required(),
    f(
        "name",
        Ty::Str,
        Yes,
        "Name; no two servers of a Gateway have the same.",
    )
    .required(),
    f(
        "protocol",
        Ty::Str,
        Yes,
        "`HTTP`, `HTTP2`, `GRPC`, `GRPC-WEB` (made gRPC) in plaintext; `HTTPS`; `TLS`; `TCP`, `MONGO`.",
    )
    .required(),
    f(
        "targetPort",
        PORT,
        Now::Ignored(
            "a listener has `number`; gateway.proto: \"Applicable only when used with ServiceEntries\", deprecated",
        ),
        "The listener has `number`.",
    ),
];

const SERVER: &[Field] = &[
    f(
        "name",
        Ty::Str,
        Yes,
        "Name of the server's requests in metrics where the server ends TLS of HTTP (`naka_server_requests_total`; an Envoy's `http.NAME.*`).",
    ),
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
        Yes,
        "TLS settings; a server whose settings cannot be carried out is left out.",
    ),
    f(
        "bind",
        Ty::Str,
        Yes,
        "Address of the listener: connections to other addresses of the port are not this server's.",
    ),
    f(
        "defaultEndpoint",
        Ty::Str,
        Now::Ignored("gateway.proto says \"NOT IMPLEMENTED\""),
        "Where to lead connections to by default.",
    ),
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
