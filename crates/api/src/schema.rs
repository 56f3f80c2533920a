//! Field tables: every field of a kind with its type, whether it is enforced, and a line of documentation.
//!
//! One table per kind drives three things that must never disagree: which fields are unknown, ill-typed or not yet
//! enforced (module `walk`), which parts fall out, and the reference page of the kind ([`page`]). The
//! typed builders read only from trees that have passed the walk.

pub(crate) mod common;
pub mod flat;
pub mod inventory;
mod page;
pub(crate) mod rules;
pub(crate) mod walk;

pub use page::page;

/// A field.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Name as written.
    pub name: &'static str,
    /// Type.
    pub ty: Ty,
    /// Whether it does something.
    pub now: Now,
    /// Whether it must be there.
    pub required: bool,
    /// One line for the reference page.
    pub doc: &'static str,
}

/// Type of a field.
#[derive(Debug, Clone, Copy)]
pub enum Ty {
    /// Text.
    Str,
    /// true or false.
    Bool,
    /// Whole number within bounds.
    Int(i64, i64),
    /// Any number from 0 to 100.
    Percent,
    /// Any number that is not negative.
    Number,
    /// Duration text (`10s`).
    Duration,
    /// One of these words.
    Enum(&'static [&'static str]),
    /// Number or text.
    IntOrStr,
    /// List.
    List(&'static Ty),
    /// Map with fixed fields.
    Object(&'static [Field]),
    /// Map from any name to a type.
    Map(&'static Ty),
    /// Not looked into.
    Any,
}

/// Whether a field does something today.
#[derive(Debug, Clone, Copy)]
pub enum Now {
    /// Enforced, or needs no enforcing.
    Yes,
    /// Kept, does nothing: W900.
    NotYet,
    /// Only this value (as JSON) is what Naka does anyway; any other is W900.
    Default(&'static str),
    /// Leaving it out would change the meaning dangerously: E901 on the part that holds it, for the reason given.
    Refused(&'static str),
    /// Old or misplaced spelling, handled with this code before the walk.
    Alias(&'static str),
    /// In Istio's API, and without effect in Istio too, for the reason given: W902.
    Ignored(&'static str),
    /// A name for people that decides nothing, in Istio neither, for the reason given: nobody is told to remove it.
    Label(&'static str),
}

impl Now {
    /// Why the field decides nothing, if it decides nothing in Istio either.
    #[must_use]
    pub const fn idle(self) -> Option<&'static str> {
        match self {
            Self::Ignored(why) | Self::Label(why) => Some(why),
            _ => None,
        }
    }
}

impl Field {
    /// An optional field.
    #[must_use]
    pub const fn new(name: &'static str, ty: Ty, now: Now, doc: &'static str) -> Self {
        Self {
            name,
            ty,
            now,
            required: false,
            doc,
        }
    }

    /// Must be present.
    #[must_use]
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }
}

/// A field that does what it says, or that belongs to one that decides about all below it.
pub(crate) const fn yes(name: &'static str, ty: Ty, doc: &'static str) -> Field {
    Field::new(name, ty, Now::Yes, doc)
}

/// A field that is read, checked and kept, and does nothing.
pub(crate) const fn later(name: &'static str, ty: Ty, doc: &'static str) -> Field {
    Field::new(name, ty, Now::NotYet, doc)
}

/// A port number.
pub(crate) const PORT: Ty = Ty::Int(1, 65535);
/// A count that fits 32 bits.
pub(crate) const COUNT: Ty = Ty::Int(0, i32::MAX as i64);
/// Labels and the like.
pub(crate) const STRINGS: Ty = Ty::Map(&Ty::Str);
/// List of texts.
pub(crate) const TEXTS: Ty = Ty::List(&Ty::Str);

/// The nearest of some names, if it is near enough to be a slip of the finger.
#[must_use]
pub fn nearest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    if word.len() > 64 {
        return None;
    }
    let folded = word.to_ascii_lowercase().replace(['_', '-'], "");
    names
        .map(|name| {
            (
                strsim::damerau_levenshtein(&folded, &name.to_ascii_lowercase()),
                name,
            )
        })
        .filter(|(distance, name)| *distance <= (name.len().max(3) / 3).min(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
