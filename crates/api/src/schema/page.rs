//! The reference page of a kind, written from its field table.

use super::walk::word;
use super::{Field, Now, Ty};
use crate::kind::Kind;
use std::fmt::Write as _;

/// The generated part of `docs/reference/<kind>.md`: a table of all fields.
#[must_use]
pub fn page(kind: Kind) -> String {
    let mut out = String::from("| field | type | today | meaning |\n|---|---|---|---|\n");
    rows(&mut out, crate::decode::fields_of(kind), "", 0);
    out
}

fn rows(out: &mut String, fields: &'static [Field], path: &str, depth: usize) {
    for field in fields {
        let at = if path.is_empty() {
            field.name.to_owned()
        } else {
            format!("{path}.{}", field.name)
        };
        let today = match field.now {
            Now::Yes => "yes".to_owned(),
            Now::NotYet => "not yet (W900)".to_owned(),
            Now::Default(only) => format!("only `{only}`, else not yet (W900)"),
            Now::Refused(_) => "refused (E901)".to_owned(),
            Now::Alias(code) => format!("old spelling ({code})"),
            Now::Ignored(_) => "no effect, as in Istio (W902)".to_owned(),
            Now::Label(_) => "a label, as in Istio".to_owned(),
        };
        let required = if field.required { "**required.** " } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| `{at}` | {} | {today} | {required}{} |",
            type_word(field.ty),
            field.doc.replace('|', "\\|")
        );
        // What is not enforced is listed one level deep; its inner fields are known, checked, and of no use yet.
        if matches!(field.now, Now::Yes | Now::Default(_)) && depth < 8 {
            inner(out, field.ty, &at, depth);
        }
    }
}

fn inner(out: &mut String, ty: Ty, at: &str, depth: usize) {
    match ty {
        Ty::Object(fields) => rows(out, fields, at, depth + 1),
        Ty::List(inner_ty) => inner(out, *inner_ty, &format!("{at}[]"), depth),
        Ty::Map(inner_ty) => inner(out, *inner_ty, &format!("{at}.*"), depth),
        _ => {}
    }
}

fn type_word(ty: Ty) -> String {
    match ty {
        Ty::Str => "text".to_owned(),
        Ty::Bool => "bool".to_owned(),
        Ty::Int(low, high) if high == i64::from(i32::MAX) => format!("integer from {low}"),
        Ty::Int(low, high) => format!("integer {low}–{high}"),
        Ty::Percent => "percent".to_owned(),
        Ty::Number => "number".to_owned(),
        Ty::Duration => "duration".to_owned(),
        Ty::Enum(words) => words.join(" \\| "),
        Ty::List(inner) => format!("list of {}", type_word(*inner)),
        Ty::Object(_) => "map".to_owned(),
        Ty::Map(inner) => format!("map to {}", type_word(*inner)),
        Ty::IntOrStr | Ty::Any => word(ty),
    }
}
