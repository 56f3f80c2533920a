//! New paths. The result is put into normal form again, so that a rewrite cannot make a path the canonical form
//! would have refused.
//!
//! A prefix is replaced as it stands, as in Envoy: `/api` → `/` makes `//x` of `/api/x`; a rule for `/api/` makes `/x`.

use crate::canonical::Canonical;
use crate::model::{Match, PathCondition, PathRewrite};
use naka_types::reason::Reason;

/// Rewrites the path of a request that satisfied these conditions.
pub(super) fn apply(
    rewrite: &PathRewrite,
    matched: &Match,
    request: &mut Canonical,
) -> Result<(), Reason> {
    let path = new_path(rewrite, matched, request.path());
    request.set_path(&path)
}

/// The new path, without query.
pub(super) fn new_path(rewrite: &PathRewrite, matched: &Match, path: &str) -> Vec<u8> {
    match rewrite {
        PathRewrite::Full(new) => new.as_bytes().to_vec(),
        PathRewrite::Regex {
            pattern,
            substitution,
        } => pattern.replace_all(path.as_bytes(), substitution),
        PathRewrite::Prefix(new) => {
            let rest = match &matched.path {
                PathCondition::Prefix(prefix) | PathCondition::Separated(prefix) => {
                    path.get(prefix.len()..).unwrap_or_default()
                }
                PathCondition::Any => path.get(1..).unwrap_or_default(),
                PathCondition::Exact(_) | PathCondition::Regex(_) => "",
            };
            [new.as_bytes(), rest.as_bytes()].concat()
        }
    }
}
