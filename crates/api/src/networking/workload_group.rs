//! WorkloadGroup: a template for the workload entries of machines that register themselves.
//!
//! Read and checked, not enforced: workloads here register by the identity they run under, without a template.

pub(crate) mod fields {
    //! Fields of a WorkloadGroup, as in Istio's CRD.

    use crate::schema::common::ENDPOINT;
    use crate::schema::{COUNT, Field, PORT, STRINGS, TEXTS, Ty, later, yes};

    const HTTP_GET: &[Field] = &[
        yes("path", Ty::Str, "Path."),
        yes("port", PORT, "Port.").required(),
        yes("host", Ty::Str, "Host header."),
        yes("scheme", Ty::Str, "HTTP or HTTPS."),
        yes(
            "httpHeaders",
            Ty::List(&Ty::Object(&[
                yes("name", Ty::Str, "Name."),
                yes("value", Ty::Str, "Value."),
            ])),
            "Headers sent.",
        ),
    ];

    const PROBE: &[Field] = &[
        yes("initialDelaySeconds", COUNT, "Wait before the first probe."),
        yes("timeoutSeconds", COUNT, "Limit of one probe."),
        yes("periodSeconds", COUNT, "Between probes."),
        yes(
            "successThreshold",
            COUNT,
            "Successes in a row that make it ready.",
        ),
        yes(
            "failureThreshold",
            COUNT,
            "Failures in a row that make it not ready.",
        ),
        yes("httpGet", Ty::Object(HTTP_GET), "By an HTTP request."),
        yes(
            "tcpSocket",
            Ty::Object(&[
                yes("host", Ty::Str, "Address."),
                yes("port", PORT, "Port.").required(),
            ]),
            "By a connect.",
        ),
        yes(
            "exec",
            Ty::Object(&[yes("command", TEXTS, "Program and arguments.").required()]),
            "By a command.",
        ),
        yes(
            "grpc",
            Ty::Object(&[
                yes("port", PORT, "Port."),
                yes("service", Ty::Str, "Service asked about."),
            ]),
            "By the gRPC health service.",
        ),
    ];

    const SPEC: &[Field] = &[
        later(
            "metadata",
            Ty::Object(&[
                yes("labels", STRINGS, "Labels of the entries."),
                yes("annotations", STRINGS, "Annotations of the entries."),
            ]),
            "Metadata of the entries made from it.",
        ),
        later("template", Ty::Object(ENDPOINT), "What the entries say.").required(),
        later("probe", Ty::Object(PROBE), "Whether a machine is ready."),
    ];

    /// Below the object itself.
    pub(crate) const OBJECT: &[Field] = &[yes("spec", Ty::Object(SPEC), "Template.").required()];
}
