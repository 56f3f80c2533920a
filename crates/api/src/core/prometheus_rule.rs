//! Prometheus rule.

pub(crate) mod fields {
    //! Its fields.

    use crate::schema::{Field, Now, Ty};

    /// Below the object itself.
    pub(crate) const OBJECT: &[Field] = &[Field::new("spec", Ty::Any, Now::NotYet, "Kept.")];
}
