//! WasmPlugin: a WebAssembly filter for proxies.

pub(crate) mod fields {
    //! Fields of a WasmPlugin, as in Istio's CRD.

    use crate::extensions::fields::{FAIL, MATCH, PRIORITY, PULL, TYPE, VM};
    use crate::schema::common::{SELECTOR, TARGET_REF, TARGET_REFS};
    use crate::schema::{Field, Ty, later, yes};

    const PHASES: Ty = Ty::Enum(&["UNSPECIFIED_PHASE", "AUTHN", "AUTHZ", "STATS"]);

    const SPEC: &[Field] = &[
        later(
            "selector",
            SELECTOR,
            "Workloads it holds for; without: all of the namespace.",
        ),
        later(
            "targetRef",
            TARGET_REF,
            "What it is attached to, old spelling.",
        ),
        later("targetRefs", TARGET_REFS, "What it is attached to."),
        later("url", Ty::Str, "Where the module is.").required(),
        later("sha256", Ty::Str, "Checksum of the module."),
        later("imagePullPolicy", PULL, "When it is fetched anew."),
        later("imagePullSecret", Ty::Str, "Secret for the registry."),
        later("verificationKey", Ty::Str, "Key that signed it."),
        later("pluginConfig", Ty::Any, "Its configuration."),
        later("pluginName", Ty::Str, "Its name."),
        later("phase", PHASES, "Where in the order."),
        later("priority", PRIORITY, "Order within the phase."),
        later("failStrategy", FAIL, "What happens when it fails."),
        later("vmConfig", Ty::Object(VM), "The machine that runs it."),
        later("match", MATCH, "Traffic it sees."),
        later("type", TYPE, "HTTP or network."),
    ];

    /// Below the object itself.
    pub(crate) const OBJECT: &[Field] = &[yes("spec", Ty::Object(SPEC), "Plugin.").required()];
}
