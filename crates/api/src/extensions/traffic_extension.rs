//! TrafficExtension: a Lua or WebAssembly filter for proxies.

pub(crate) mod fields {
    //! Fields of a TrafficExtension, as in Istio's CRD.

    use crate::extensions::fields::{FAIL, MATCH, PRIORITY, PULL, TYPE, VM};
    use crate::schema::common::{SELECTOR, TARGET_REFS};
    use crate::schema::{Field, Ty, later, yes};

    const PHASES: Ty = Ty::Enum(&["UNSPECIFIED", "AUTHN", "AUTHZ", "STATS"]);

    const WASM: &[Field] = &[
        yes("url", Ty::Str, "Where the module is.").required(),
        yes("sha256", Ty::Str, "Checksum of the module."),
        yes("imagePullPolicy", PULL, "When it is fetched anew."),
        yes("imagePullSecret", Ty::Str, "Secret for the registry."),
        yes("verificationKey", Ty::Str, "Key that signed it."),
        yes("pluginConfig", Ty::Any, "Its configuration."),
        yes("pluginName", Ty::Str, "Its name."),
        yes("failStrategy", FAIL, "What happens when it fails."),
        yes("vmConfig", Ty::Object(VM), "The machine that runs it."),
        yes("type", TYPE, "HTTP or network."),
    ];

    const SPEC: &[Field] = &[
        later(
            "selector",
            SELECTOR,
            "Workloads it holds for; without: all of the namespace.",
        ),
        later("targetRefs", TARGET_REFS, "What it is attached to."),
        later("phase", PHASES, "Where in the order."),
        later("priority", PRIORITY, "Order within the phase."),
        later("match", MATCH, "Traffic it sees."),
        later(
            "lua",
            Ty::Object(&[yes("inlineCode", Ty::Str, "Program.").required()]),
            "Lua filter.",
        ),
        later("wasm", Ty::Object(WASM), "WebAssembly filter."),
    ];

    /// Below the object itself.
    pub(crate) const OBJECT: &[Field] = &[yes("spec", Ty::Object(SPEC), "Extension.").required()];
}
