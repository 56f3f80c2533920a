//! ProxyConfig: start-up settings of proxies.
//!
//! Read and checked, not enforced: a proxy here takes its settings from the command that starts it.

pub(crate) mod fields {
    //! Fields of a ProxyConfig, as in Istio's CRD.

    use crate::schema::common::SELECTOR;
    use crate::schema::{COUNT, Field, STRINGS, Ty, later, yes};

    const SPEC: &[Field] = &[
        later(
            "selector",
            SELECTOR,
            "Workloads it holds for; without: all of the namespace.",
        ),
        later(
            "concurrency",
            COUNT,
            "Worker threads; see `naka run --workers`.",
        ),
        later("environmentVariables", STRINGS, "Environment of the proxy."),
        later(
            "image",
            Ty::Object(&[yes("imageType", Ty::Str, "Variant.")]),
            "Image of the proxy's container.",
        ),
    ];

    /// Below the object itself.
    pub(crate) const OBJECT: &[Field] = &[yes("spec", Ty::Object(SPEC), "Settings.")];
}
