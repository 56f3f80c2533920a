//! Policies that rest on the peer's identity, where nothing makes every peer show one.

use super::say;
use crate::codes;
use crate::kept::trusts_principals;
use crate::kind::Kind;
use crate::object::Object;
use crate::tree::Node;
use naka_types::finding::Finding;
use naka_types::host::ROOT_NAMESPACE;

pub(super) fn check(out: &mut Vec<Finding>, object: &Object, objects: &[&Object]) {
    if object.kind != Kind::AuthorizationPolicy {
        return;
    }
    let raw = Node::from_json(&object.raw);
    let Some(field) = raw.get("spec").and_then(trusts_principals) else {
        return;
    };
    let strict = objects.iter().any(|other| {
        let here = [object.meta.namespace.as_str(), ROOT_NAMESPACE];
        other.kind == Kind::PeerAuthentication
            && here.contains(&other.meta.namespace.as_str())
            && other
                .raw
                .pointer("/spec/mtls/mode")
                .and_then(|mode| mode.as_str())
                == Some("STRICT")
    });
    if !strict {
        say(
            out,
            codes::L323,
            object,
            &field,
            "nothing here demands mTLS of callers; one without it has no identity to compare"
                .to_owned(),
            "add a PeerAuthentication with mtls.mode: STRICT".to_owned(),
        );
    }
}
