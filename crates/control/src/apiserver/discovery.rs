//! Discovery: what kubectl asks before anything else.
//!
//! Of OpenAPI there is as much as tells kubectl that the server validates by itself (`fieldValidation`); schemas come
//! with Kubernetes.

use super::answer::ok;
use axum::response::Response;
use naka_api::kind::{Names, TABLE};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// `/version`. The numbers say which Kubernetes API level clients may expect.
pub(crate) fn version() -> Response {
    ok(&json!({
        "major": "1", "minor": "33", "gitVersion": format!("v1.33.0+naka-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "",
        "compiler": "rustc", "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        "naka": env!("CARGO_PKG_VERSION"),
    }))
}

/// `/api`.
pub(crate) fn core_versions() -> Response {
    ok(&json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}))
}

/// `/apis`.
pub(crate) fn groups() -> Response {
    let names: BTreeSet<&str> = TABLE
        .iter()
        .map(|names| names.group)
        .filter(|group| !group.is_empty())
        .collect();
    let groups: Vec<Value> = names.into_iter().map(group_value).collect();
    ok(&json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

/// `/apis/<group>`.
pub(crate) fn group(name: &str) -> Response {
    let mut value = group_value(name);
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    ok(&value)
}

fn group_value(name: &str) -> Value {
    let in_group = || TABLE.iter().filter(|names| names.group == name);
    let preferred = in_group()
        .map(|names| names.storage_version)
        .next()
        .unwrap_or("v1");
    let versions: BTreeSet<&str> = in_group()
        .flat_map(|names| names.versions.iter().copied())
        .collect();
    // The stored version first: clients take the first they understand.
    let rest = versions.into_iter().filter(|version| *version != preferred);
    let all: Vec<Value> = std::iter::once(preferred)
        .chain(rest)
        .map(|version| version_value(name, version))
        .collect();
    json!({"name": name, "versions": all, "preferredVersion": version_value(name, preferred)})
}

fn version_value(group: &str, version: &str) -> Value {
    json!({"groupVersion": format!("{group}/{version}"), "version": version})
}

/// `/api/v1` and `/apis/<group>/<version>`.
pub(crate) fn resources(group: &str, version: &str) -> Response {
    let served = TABLE
        .iter()
        .filter(|names| names.group == group && names.versions.contains(&version));
    let mut resources: Vec<Value> = served
        .flat_map(|names| [resource(names), status(names)])
        .collect();
    let group_version = if group.is_empty() {
        resources.push(
            json!({"name": "events", "singularName": "event", "namespaced": true, "kind": "Event",
            "verbs": ["get", "list"], "shortNames": ["ev"]}),
        );
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    ok(
        &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}),
    )
}

fn resource(names: &Names) -> Value {
    let mut value = json!({"name": names.plural, "singularName": names.singular, "namespaced": names.namespaced,
        "kind": names.manifest, "verbs": VERBS, "shortNames": names.short});
    if names.group.ends_with("istio.io") {
        value["categories"] = json!(["istio-io"]);
    }
    value
}

fn status(names: &Names) -> Value {
    json!({"name": format!("{}/status", names.plural), "singularName": "", "namespaced": names.namespaced,
        "kind": names.manifest, "verbs": ["get"]})
}

/// `/openapi/v3`: where the documents are.
pub(crate) fn open_api_index() -> Response {
    let mut paths = serde_json::Map::new();
    for names in TABLE {
        for version in names.versions {
            let path = if names.group.is_empty() {
                format!("api/{version}")
            } else {
                format!("apis/{}/{version}", names.group)
            };
            let url = format!("/openapi/v3/{path}");
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    ok(&json!({ "paths": paths }))
}

/// `/openapi/v3/…`: the operations of one group and version.
pub(crate) fn open_api(group: &str, version: &str) -> Response {
    let base = if group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{group}/{version}")
    };
    let mut paths = serde_json::Map::new();
    for names in TABLE
        .iter()
        .filter(|names| names.group == group && names.versions.contains(&version))
    {
        let place = if names.namespaced {
            "namespaces/{namespace}/"
        } else {
            ""
        };
        let kind = json!({"group": group, "version": version, "kind": names.manifest});
        let validation =
            json!([{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]);
        let operation = json!({"x-kubernetes-group-version-kind": kind, "parameters": validation,
            "responses": {"200": {"description": "OK"}}});
        let operations = json!({"put": operation, "patch": operation});
        paths.insert(
            format!("{base}/{place}{}/{{name}}", names.plural),
            operations,
        );
    }
    let title = json!({"title": "Naka", "version": env!("CARGO_PKG_VERSION")});
    ok(&json!({"openapi": "3.0.0", "info": title, "paths": paths}))
}
