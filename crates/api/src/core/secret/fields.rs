//! Fields of a Secret.

use crate::schema::{Field, Now, STRINGS, Ty};

/// Below the object itself.
pub(crate) const OBJECT: &[Field] = &[
    Field::new("type", Ty::Str, Now::Yes, "`Opaque` unless given."),
    Field::new("data", STRINGS, Now::Yes, "Values in base64."),
    Field::new(
        "stringData",
        STRINGS,
        Now::Yes,
        "Values as text; stored in `data`, and wins over it.",
    ),
    Field::new(
        "immutable",
        Ty::Bool,
        Now::Default("false"),
        "Refuses changes.",
    ),
];
