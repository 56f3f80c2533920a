//! ConfigMap: data for people and tools; the mesh reads that of one of them, see [`crate::mesh`].

pub(crate) mod fields {
    //! Fields of a ConfigMap.

    use crate::schema::{Field, STRINGS, Ty, yes};

    /// Below the object itself.
    pub(crate) const OBJECT: &[Field] = &[
        yes("data", STRINGS, "Texts by name."),
        yes("binaryData", STRINGS, "Base64 by name."),
        yes(
            "immutable",
            Ty::Bool,
            "Promise of the author not to change it.",
        ),
    ];
}
