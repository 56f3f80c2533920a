//! The order in which types go onto a stream: what is referred to goes before what refers to it.
//!
//! Removals go the other way round, after every addition of the same change: make before break.

use naka_wire::type_url;

/// All types in the order of additions.
pub const ADDITIONS: [&str; 9] = [
    type_url::SECRET,
    type_url::CLUSTER,
    type_url::ENDPOINT,
    type_url::EXTENSION,
    type_url::LISTENER,
    type_url::ROUTE,
    type_url::VIRTUAL_HOST,
    type_url::NAME_FILTER,
    type_url::WORKLOAD,
];

/// Place of a type in the order of additions; unknown types come last.
#[must_use]
pub fn rank(type_url: &str) -> usize {
    ADDITIONS
        .iter()
        .position(|known| *known == type_url)
        .unwrap_or(ADDITIONS.len())
}
