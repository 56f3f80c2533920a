//! Paths of the API, parsed once.

use naka_api::Kind;
use naka_api::kind::TABLE;
use std::collections::BTreeMap;

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/healthz`, `/livez`, `/readyz`.
    Health,
    /// `/version`.
    Version,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/<group>`.
    Group(String),
    /// `/api/v1` or `/apis/<group>/<version>`.
    Resources { group: String, version: String },
    /// All objects of a kind, in one namespace or everywhere.
    Collection {
        kind: Kind,
        version: String,
        namespace: Option<String>,
    },
    /// One object or its status.
    Object {
        kind: Kind,
        version: String,
        namespace: String,
        name: String,
        status: bool,
    },
    /// Kubernetes events: kubectl asks for them when it describes; there are none of that kind.
    KubeEvents,
    /// `/openapi/v3`, or the document of one group and version.
    OpenApi(Option<(String, String)>),
    /// `/naka/v1/…`.
    Naka(Vec<String>),
}

/// Parses a path; `None` when it names nothing.
pub(crate) fn parse(path: &str) -> Option<Route> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["healthz" | "livez" | "readyz"] => Some(Route::Health),
        ["version"] => Some(Route::Version),
        ["api"] => Some(Route::CoreVersions),
        ["apis"] => Some(Route::Groups),
        ["apis", group] => has_group(group).then(|| Route::Group((*group).to_owned())),
        ["api", "v1", rest @ ..] => resource("", "v1", rest),
        ["apis", group, version, rest @ ..] => resource(group, version, rest),
        ["openapi", "v3"] => Some(Route::OpenApi(None)),
        ["openapi", "v3", "api", "v1"] => {
            Some(Route::OpenApi(Some((String::new(), "v1".to_owned()))))
        }
        ["openapi", "v3", "apis", group, version] => match resource(group, version, &[])? {
            Route::Resources { group, version } => Some(Route::OpenApi(Some((group, version)))),
            _ => None,
        },
        ["naka", "v1", rest @ ..] => {
            let rest = rest
                .iter()
                .map(|part| decoded(part))
                .collect::<Option<_>>()?;
            Some(Route::Naka(rest))
        }
        _ => None,
    }
}

fn has_group(group: &str) -> bool {
    !group.is_empty() && TABLE.iter().any(|names| names.group == group)
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Option<Route> {
    let served = TABLE
        .iter()
        .any(|names| names.group == group && names.versions.contains(&version));
    if !served {
        return None;
    }
    let of = |plural: &str| {
        Kind::of_plural(group, plural).filter(|kind| kind.names().versions.contains(&version))
    };
    let object = |kind, namespace: &str, name: &str, status| {
        Some(Route::Object {
            kind,
            version: version.to_owned(),
            namespace: decoded(namespace)?,
            name: decoded(name)?,
            status,
        })
    };
    let collection = |kind, namespace: Option<&str>| {
        let namespace = match namespace {
            Some(namespace) => Some(decoded(namespace)?),
            None => None,
        };
        Some(Route::Collection {
            kind,
            version: version.to_owned(),
            namespace,
        })
    };
    match rest {
        [] => Some(Route::Resources {
            group: group.to_owned(),
            version: version.to_owned(),
        }),
        ["events"] | ["namespaces", _, "events"] if group.is_empty() => Some(Route::KubeEvents),
        ["namespaces", name] if group.is_empty() => object(Kind::Namespace, "", name, false),
        ["namespaces", name, "status"] if group.is_empty() => {
            object(Kind::Namespace, "", name, true)
        }
        ["namespaces", namespace, plural, tail @ ..] => {
            let kind = of(plural).filter(|kind| kind.namespaced())?;
            match tail {
                [] => collection(kind, Some(namespace)),
                [name] => object(kind, namespace, name, false),
                [name, "status"] => object(kind, namespace, name, true),
                _ => None,
            }
        }
        [plural] => collection(of(plural)?, None),
        _ => None,
    }
}

/// Query parameters; of a repeated one the last counts.
pub(crate) fn query(text: Option<&str>) -> BTreeMap<String, String> {
    text.unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(key)?, decoded(&value.replace('+', " "))?))
        })
        .collect()
}

/// Percent-decoded text; `None` when it is broken.
fn decoded(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let hex = text.get(at + 1..at + 3)?;
            out.push(u8::from_str_radix(hex, 16).ok()?);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::{Route, parse, query};
    use naka_api::Kind;

    #[test]
    fn paths_name_what_kubernetes_names() {
        let object = |kind, version: &str, namespace: &str, name: &str, status| {
            Some(Route::Object {
                kind,
                version: version.to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                status,
            })
        };
        assert_eq!(
            parse("/api/v1/namespaces/shop"),
            object(Kind::Namespace, "v1", "", "shop", false)
        );
        assert_eq!(
            parse("/api/v1/namespaces/a/services/b/status"),
            object(Kind::Service, "v1", "a", "b", true)
        );
        assert_eq!(
            parse("/apis/networking.istio.io/v1beta1/namespaces/a/virtualservices/b%2Dc"),
            object(Kind::VirtualService, "v1beta1", "a", "b-c", false)
        );
        let all = |kind, namespace: Option<&str>| {
            Some(Route::Collection {
                kind,
                version: "v1".to_owned(),
                namespace: namespace.map(str::to_owned),
            })
        };
        assert_eq!(parse("/api/v1/services"), all(Kind::Service, None));
        assert_eq!(
            parse("/api/v1/namespaces/a/secrets/"),
            all(Kind::Secret, Some("a"))
        );
        assert_eq!(
            parse("/api/v1/namespaces/a/events"),
            Some(Route::KubeEvents)
        );
        for bad in [
            "/apis/example.com/v1",
            "/api/v2/services",
            "/api/v1/virtualservices",
            "/apis/security.istio.io/v1alpha3/peerauthentications",
            "/api/v1/namespaces/a/services/b/exec",
            "/api/v1/namespaces/a/services/%zz",
            "/",
            "",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = query(Some("labelSelector=app%3Dpayment%2Cv+in&watch=1&broken=%f"));
        assert_eq!(
            (query["labelSelector"].as_str(), query["watch"].as_str()),
            ("app=payment,v in", "1")
        );
        assert!(!query.contains_key("broken"));
    }
}
