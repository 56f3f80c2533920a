//! Policies that rest on the peer's identity, where nothing makes every peer show one, and CUSTOM policies whose provider
//! is not there.

use super::say;
use crate::codes;
use crate::kept::trusts_principals;
use crate::kind::Kind;
use crate::mesh::{KEY, NAME};
use crate::object::Object;
use crate::security::authorization_policy::Action;
use crate::tree::Node;
use naka_types::finding::Finding;
use naka_types::host::ROOT_NAMESPACE;

pub(super) fn check(out: &mut Vec<Finding>, object: &Object, objects: &[&Object]) {
    if object.kind != Kind::AuthorizationPolicy {
        return;
    }
    provider(out, object, objects);
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

/// Whom a CUSTOM policy asks, as far as that can be seen from the objects.
fn provider(out: &mut Vec<Finding>, object: &Object, objects: &[&Object]) {
    let custom = object.authorization_policy();
    let Some(policy) = custom.filter(|policy| policy.action == Action::Custom) else {
        return;
    };
    let mut configs = objects.iter().filter_map(|other| other.mesh_config());
    let name = &policy.provider;
    if configs.any(|config| config.providers.contains_key(name)) {
        return;
    }
    say(
        out,
        codes::E334,
        object,
        "spec.provider.name",
        format!(
            "the mesh has no provider {name:?} in force: what it would be asked about gets 403"
        ),
        format!("add it to extensionProviders in the ConfigMap {ROOT_NAMESPACE}/{NAME}, key {KEY}"),
    );
}
