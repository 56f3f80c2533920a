//! Namespace: a name with labels. Namespaces need not be declared before use.

pub(crate) mod fields {
    //! Fields of a Namespace.

    use crate::schema::{Field, Now, Ty};

    /// Below the object itself.
    pub(crate) const OBJECT: &[Field] = &[Field::new(
        "spec",
        Ty::Object(&[Field::new(
            "finalizers",
            Ty::List(&Ty::Str),
            Now::Default("[\"kubernetes\"]"),
            "Set by Kubernetes.",
        )]),
        Now::Yes,
        "Nothing to set.",
    )];
}
