//! A kind's fields as one list of paths, with what each does today.
//!
//! A field of a block that is not enforced is not enforced either, whatever its own row says; the same holds for
//! blocks that are refused.

use super::{Field, Now, Ty};
use crate::kind::Kind;

/// One path of a kind. Items of a list end in `[]`, values of a map in `.*`.
#[derive(Debug, Clone)]
pub struct Row {
    /// For example `spec.http[].match[].uri.exact`.
    pub path: String,
    /// Type.
    pub ty: Ty,
    /// What it does today, its surroundings considered.
    pub now: Now,
    /// Whether it must be there.
    pub required: bool,
    /// One line.
    pub doc: &'static str,
}

impl Row {
    /// Whether it has a name of its own: items and values of a map have none.
    #[must_use]
    pub fn named(&self) -> bool {
        !self.path.ends_with("[]") && !self.path.ends_with(".*")
    }

    /// Whether it only holds other fields.
    #[must_use]
    pub fn block(&self) -> bool {
        fn block(ty: Ty) -> bool {
            match ty {
                Ty::Object(_) => true,
                Ty::List(inner) | Ty::Map(inner) => block(*inner),
                _ => false,
            }
        }
        block(self.ty)
    }
}

/// All paths of a kind, parents before children.
#[must_use]
pub fn rows(kind: Kind) -> Vec<Row> {
    let mut out = Vec::new();
    fields(&mut out, crate::decode::fields_of(kind), "", None);
    out
}

fn fields(out: &mut Vec<Row>, all: &'static [Field], path: &str, around: Option<Now>) {
    for field in all {
        let at = crate::tree::join(path, field.name);
        let now = around.unwrap_or(field.now);
        out.push(Row {
            path: at.clone(),
            ty: field.ty,
            now,
            required: field.required,
            doc: field.doc,
        });
        let inside = (!matches!(now, Now::Yes)).then_some(now);
        inner(out, field.ty, &at, inside);
    }
}

fn inner(out: &mut Vec<Row>, ty: Ty, at: &str, around: Option<Now>) {
    let (below, item) = match ty {
        Ty::Object(all) => return fields(out, all, at, around),
        Ty::List(inner) => (*inner, format!("{at}[]")),
        Ty::Map(inner) => (*inner, format!("{at}.*")),
        _ => return,
    };
    out.push(Row {
        path: item.clone(),
        ty: below,
        now: around.unwrap_or(Now::Yes),
        required: false,
        doc: "",
    });
    inner(out, below, &item, around);
}
