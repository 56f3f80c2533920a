//! Delegation: the routes of another VirtualService in place of one route of the root.
//!
//! Istio's rules. The root's match and the delegate's must both hold: each of the delegate's matches is joined with
//! every match of the root that it is a subset of, and a delegate's match that fits none puts the delegate's route out
//! of force. What the delegate's route leaves unsaid (rewrite, timeout, retries, faults, mirrors, cross-origin rules,
//! headers) it takes from the root's route. Only one level: a delegate does not delegate.

use super::{Action, DelegateRef, HttpMatch, HttpRoute, StringMatch, VirtualService};

/// What stands in for a route that delegates.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Expanded {
    /// Routes in the delegate's order; their `index` is the delegate's.
    pub routes: Vec<HttpRoute>,
    /// Why there are none, or not all.
    pub problems: Vec<String>,
}

/// The routes of a delegate (`found`: the object of that name, if there is one) in place of a route of an object in
/// `namespace`.
#[must_use]
pub fn expand(
    root: &HttpRoute,
    to: &DelegateRef,
    namespace: &str,
    found: Option<&VirtualService>,
) -> Expanded {
    let who = format!("VirtualService {}/{}", to.namespace, to.name);
    let none = |why: &str| Expanded {
        routes: Vec::new(),
        problems: vec![format!("{who} {why}")],
    };
    let Some(found) = found else {
        return none("does not exist");
    };
    if !found.hosts.is_empty() {
        return none("has hosts of its own, so nobody can delegate to it");
    }
    if !found.export.reaches(namespace) {
        return none(&format!("is not exported to the namespace {namespace}"));
    }
    let mut out = Expanded::default();
    for leaf in &found.http {
        if matches!(leaf.action, Action::Delegate(_)) {
            out.problems.push(format!(
                "{who} delegates in turn (spec.http[{}]): only one level is possible",
                leaf.index
            ));
            continue;
        }
        match merge(root, leaf) {
            Some(mut route) => {
                let last = leaf.label();
                route.name = Some(format!("{}-{last}", root.label()));
                out.routes.push(route);
            }
            None => out.problems.push(format!(
                "spec.http[{}] of {who} asks for what this route never gets: its conditions are not part of this route's",
                leaf.index
            )),
        }
    }
    out
}

/// A delegate's route as the root's route makes it; `None` when no request could satisfy both.
#[must_use]
pub fn merge(root: &HttpRoute, leaf: &HttpRoute) -> Option<HttpRoute> {
    let matches = matches(&root.matches, &leaf.matches)?;
    let headers = if leaf.headers == super::Headers::default() {
        root.headers.clone()
    } else {
        leaf.headers.clone()
    };
    Some(HttpRoute {
        index: leaf.index,
        name: joined(root.name.as_ref(), leaf.name.as_ref()),
        matches,
        action: leaf.action.clone(),
        rewrite: leaf.rewrite.clone().or_else(|| root.rewrite.clone()),
        timeout: leaf.timeout.or(root.timeout),
        retries: leaf.retries.clone().or_else(|| root.retries.clone()),
        headers,
        fault: leaf.fault.clone().or_else(|| root.fault.clone()),
        mirrors: if leaf.mirrors.is_empty() {
            root.mirrors.clone()
        } else {
            leaf.mirrors.clone()
        },
        cors: leaf.cors.clone().or_else(|| root.cors.clone()),
        when: match (&root.when, &leaf.when) {
            (Some(root), Some(leaf)) => Some(format!("({root}) && ({leaf})")),
            (one, other) => one.as_ref().or(other.as_ref()).cloned(),
        },
    })
}

fn joined(root: Option<&String>, leaf: Option<&String>) -> Option<String> {
    match (root, leaf) {
        (Some(root), Some(leaf)) => Some(format!("{root}-{leaf}")),
        (one, other) => one.or(other).cloned(),
    }
}

fn matches(root: &[HttpMatch], leaf: &[HttpMatch]) -> Option<Vec<HttpMatch>> {
    if root.is_empty() || leaf.is_empty() {
        return Some([root, leaf].concat());
    }
    let mut out = Vec::new();
    for inner in leaf {
        let before = out.len();
        out.extend(
            root.iter()
                .filter(|outer| narrows(outer, inner))
                .map(|outer| both(outer, inner)),
        );
        if out.len() == before {
            return None;
        }
    }
    Some(out)
}

/// Whether everything `inner` takes can be taken by `outer` (Istio's test, not a complete one).
fn narrows(outer: &HttpMatch, inner: &HttpMatch) -> bool {
    let single = [
        (&outer.uri, &inner.uri),
        (&outer.scheme, &inner.scheme),
        (&outer.method, &inner.method),
        (&outer.authority, &inner.authority),
    ];
    let named = |outer: &[(String, StringMatch)], inner: &[(String, StringMatch)]| {
        inner.iter().all(|(name, test)| {
            let same = outer.iter().find(|(other, _)| other == name);
            within(same.map(|(_, test)| test), Some(test))
        })
    };
    single
        .into_iter()
        .all(|(outer, inner)| within(outer.as_ref(), inner.as_ref()))
        && named(&outer.headers, &inner.headers)
        && named(&outer.without_headers, &inner.without_headers)
        && named(&outer.query_params, &inner.query_params)
        && outer.ignore_uri_case == inner.ignore_uri_case
        && (outer.port.is_none() || inner.port.is_none() || outer.port == inner.port)
        && (outer.source_namespace.is_none()
            || inner.source_namespace.is_none()
            || outer.source_namespace == inner.source_namespace)
        && inner.source_labels.iter().all(|(key, value)| {
            let other = outer.source_labels.get(key);
            other.is_none_or(|other| other == value)
        })
        && (outer.gateways.is_empty()
            || inner
                .gateways
                .iter()
                .all(|one| outer.gateways.contains(one)))
}

fn within(outer: Option<&StringMatch>, inner: Option<&StringMatch>) -> bool {
    let (Some(outer), Some(inner)) = (outer, inner) else {
        return true;
    };
    match (outer, inner) {
        (StringMatch::Present, _) => true,
        (StringMatch::Exact(outer), StringMatch::Exact(inner)) => outer == inner,
        (StringMatch::Prefix(outer), StringMatch::Exact(inner) | StringMatch::Prefix(inner)) => {
            inner.starts_with(outer.as_str())
        }
        // Whether one expression takes less than another cannot be told.
        _ => false,
    }
}

fn both(outer: &HttpMatch, inner: &HttpMatch) -> HttpMatch {
    let named = |outer: &[(String, StringMatch)], inner: &[(String, StringMatch)]| {
        let missing = outer
            .iter()
            .filter(|(name, _)| !inner.iter().any(|(other, _)| other == name));
        inner.iter().chain(missing).cloned().collect()
    };
    let text = |outer: &Option<StringMatch>, inner: &Option<StringMatch>| {
        inner.clone().or_else(|| outer.clone())
    };
    let mut source_labels = outer.source_labels.clone();
    source_labels.extend(inner.source_labels.clone());
    HttpMatch {
        name: joined(outer.name.as_ref(), inner.name.as_ref()),
        uri: text(&outer.uri, &inner.uri),
        ignore_uri_case: inner.ignore_uri_case,
        scheme: text(&outer.scheme, &inner.scheme),
        method: text(&outer.method, &inner.method),
        authority: text(&outer.authority, &inner.authority),
        headers: named(&outer.headers, &inner.headers),
        without_headers: named(&outer.without_headers, &inner.without_headers),
        query_params: named(&outer.query_params, &inner.query_params),
        port: inner.port.or(outer.port),
        gateways: if inner.gateways.is_empty() {
            outer.gateways.clone()
        } else {
            inner.gateways.clone()
        },
        source_labels,
        source_namespace: inner
            .source_namespace
            .clone()
            .or_else(|| outer.source_namespace.clone()),
        stat_prefix: inner
            .stat_prefix
            .clone()
            .or_else(|| outer.stat_prefix.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::{both, matches, merge, narrows};
    use crate::networking::virtual_service::{Action, HttpMatch, HttpRoute, StringMatch};
    use std::time::Duration;

    fn uri(test: StringMatch) -> HttpMatch {
        HttpMatch {
            uri: Some(test),
            ..HttpMatch::default()
        }
    }

    fn exact(text: &str) -> StringMatch {
        StringMatch::Exact(text.to_owned())
    }

    fn prefix(text: &str) -> StringMatch {
        StringMatch::Prefix(text.to_owned())
    }

    fn regex(text: &str) -> StringMatch {
        StringMatch::Regex(text.to_owned())
    }

    #[test]
    fn a_match_of_the_delegate_must_be_part_of_one_of_the_root() {
        for (outer, inner, fits) in [
            (prefix("/a"), prefix("/a/b"), true),
            (prefix("/a/b"), prefix("/a"), false),
            (prefix("/a"), exact("/a/b"), true),
            (exact("/a"), exact("/a"), true),
            (exact("/a"), exact("/b"), false),
            (exact("/a"), prefix("/a"), false),
            (regex("/a"), exact("/a"), false),
            (prefix("/"), regex("/a"), false),
            (StringMatch::Present, exact("a"), true),
            (exact("a"), StringMatch::Present, false),
        ] {
            assert_eq!(
                narrows(&uri(outer.clone()), &uri(inner.clone())),
                fits,
                "{outer:?} {inner:?}"
            );
        }
    }

    #[test]
    fn each_match_is_joined_with_every_one_that_holds_it_and_one_without_puts_the_route_out() {
        let roots = [uri(prefix("/a")), uri(prefix("/a/b")), uri(prefix("/c"))];
        let got = matches(&roots, &[uri(prefix("/a/b/c"))]).unwrap();
        assert_eq!(got.len(), 2);
        assert!(matches(&roots, &[uri(prefix("/a/x")), uri(prefix("/d"))]).is_none());
        assert_eq!(matches(&roots, &[]).unwrap(), roots);
        assert_eq!(matches(&[], &roots).unwrap(), roots);
    }

    #[test]
    fn conditions_add_up_and_the_nearer_word_wins() {
        let mut outer = uri(prefix("/a"));
        outer.headers = vec![("x".to_owned(), StringMatch::Present)];
        outer.source_namespace = Some("shop".to_owned());
        let mut inner = uri(prefix("/a/b"));
        inner.headers = vec![("y".to_owned(), exact("1"))];
        inner.port = Some(80);
        let joined = both(&outer, &inner);
        assert_eq!(joined.uri, Some(prefix("/a/b")));
        assert_eq!(joined.headers.len(), 2);
        assert_eq!(joined.source_namespace.as_deref(), Some("shop"));
        assert_eq!(joined.port, Some(80));
        inner.source_namespace = Some("other".to_owned());
        assert!(!narrows(&outer, &inner));
    }

    #[test]
    fn what_the_delegate_leaves_unsaid_the_root_says() {
        let route = |name: &str, timeout| HttpRoute {
            index: 0,
            name: Some(name.to_owned()),
            matches: Vec::new(),
            action: Action::Route(Vec::new()),
            rewrite: None,
            timeout,
            retries: None,
            headers: Default::default(),
            fault: None,
            mirrors: Vec::new(),
            cors: None,
            when: None,
        };
        let second = Some(Duration::from_secs(1));
        let merged = merge(&route("root", second), &route("leaf", None)).unwrap();
        assert_eq!(merged.timeout, second);
        assert_eq!(merged.name.as_deref(), Some("root-leaf"));
        let own = Some(Duration::from_secs(2));
        let merged = merge(&route("root", second), &route("leaf", own)).unwrap();
        assert_eq!(merged.timeout, own);
    }
}
