//! Lints that need several objects, or several parts of one.

use crate::object::Object;
use naka_types::finding::Finding;

/// What is probably not meant in these objects, seen together. Only the given objects are looked at.
#[must_use]
pub fn cross_check(objects: &[&Object]) -> Vec<Finding> {
    let _ = objects;
    Vec::new()
}
