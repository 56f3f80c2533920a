//! AuthorizationPolicy: wildcards inside paths, conditions on labels, decisions on headers a caller can set.

use super::{items, warn};
use crate::codes;
use crate::decode::Report;
use crate::tree::{Node, join};

pub(super) fn check(report: &mut Report, spec: &Node) {
    let action = spec.get("action").and_then(Node::text).unwrap_or("ALLOW");
    for (at, rule) in items(spec, "spec", "rules") {
        for (at, to) in items(rule, &at, "to") {
            let Some(operation) = to.get("operation") else {
                continue;
            };
            let at = join(&at, "operation");
            for field in ["paths", "notPaths"] {
                for (at, path) in items(operation, &at, field) {
                    inner_star(report, &at, path, action);
                }
            }
        }
        for (at, condition) in items(rule, &at, "when") {
            if let Some(key) = condition.get("key") {
                attribute(report, &join(&at, "key"), key);
            }
        }
    }
}

/// A `*` that is neither the whole path nor its first or last character: Istio takes it as itself.
fn inner_star(report: &mut Report, at: &str, node: &Node, action: &str) {
    let Some(path) = node.text() else {
        return;
    };
    if !inner(path) {
        return;
    }
    let written = rewritten(path);
    if action == "DENY" || action == "CUSTOM" {
        let message = format!(
            "'*' inside a path is not a wildcard; write {{*}}: the {action} rule would protect nothing"
        );
        report.error(
            codes::E120,
            at,
            node.place,
            message,
            format!("write {written}"),
        );
        return;
    }
    let message = match report.mode {
        crate::Mode::Strict => "'*' inside a path is not a wildcard; write {*}".to_owned(),
        crate::Mode::Compat => {
            format!("'*' inside a path is not a wildcard in Istio; read as {written}")
        }
    };
    let fix = format!("write {written}");
    warn(
        report,
        (codes::W120, codes::E120),
        at,
        node.place,
        message,
        fix,
    );
}

/// A path of an ALLOW rule as it is read: an inner `*` is one segment.
pub(crate) fn one_segment(path: &str) -> String {
    if inner(path) {
        rewritten(path)
    } else {
        path.to_owned()
    }
}

/// Whether a `*` stands inside that Istio takes as itself.
fn inner(path: &str) -> bool {
    let bare = path.replace("{**}", "").replace("{*}", "");
    let behind: String = bare.chars().skip(1).collect();
    behind.trim_end_matches('*').contains('*')
}

/// Every inner `*` as `{*}`; one at the end stays.
fn rewritten(path: &str) -> String {
    let marked = path.replace("{**}", "\u{1}").replace("{*}", "\u{2}");
    let (body, tail) = match marked.strip_suffix('*') {
        Some(body) => (body, "*"),
        None => (marked.as_str(), ""),
    };
    let body = body.replace('*', "{*}");
    format!("{body}{tail}")
        .replace('\u{1}', "{**}")
        .replace('\u{2}', "{*}")
}

fn attribute(report: &mut Report, at: &str, node: &Node) {
    let Some(key) = node.text() else {
        return;
    };
    if key.starts_with("source.labels[") {
        let message = match report.mode {
            crate::Mode::Strict => format!("unknown attribute: {key}"),
            crate::Mode::Compat => format!(
                "{key} is no attribute of Istio; labels come from the control plane's record of the verified peer"
            ),
        };
        let fix =
            "use source.principal or source.namespace where the policy must work elsewhere too";
        warn(
            report,
            (codes::W121, codes::E121),
            at,
            node.place,
            message,
            fix.to_owned(),
        );
    } else if let Some(header) = header_of(key) {
        report.error(
            codes::L320,
            at,
            node.place,
            format!("a decision rests on the header {header}, which the caller can set"),
            "have the gateway remove and set it, or use a claim: request.auth.claims[…]".to_owned(),
        );
    }
}

/// The header a condition reads.
fn header_of(key: &str) -> Option<&str> {
    key.strip_prefix("request.headers[")?.strip_suffix(']')
}

/// Path of the first condition on who the peer is.
pub(crate) fn trusts_principals(spec: &Node) -> Option<String> {
    let fields = [
        "principals",
        "notPrincipals",
        "namespaces",
        "notNamespaces",
        "serviceAccounts",
    ];
    for (at, rule) in items(spec, "spec", "rules") {
        for (at, from) in items(rule, &at, "from") {
            let Some(source) = from.get("source") else {
                continue;
            };
            if let Some(field) = fields.iter().find(|field| source.get(field).is_some()) {
                return Some(format!("{at}.source.{field}"));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::rewritten;
    use crate::{Mode, decode_json};
    use serde_json::json;

    fn codes(action: &str, path: &str, mode: Mode) -> (bool, String) {
        let object = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "a"},
            "spec": {"action": action, "rules": [{"to": [{"operation": {"paths": [path]}}]}]}});
        let (object, findings) = decode_json(&object, mode);
        let told: Vec<&str> = findings
            .iter()
            .map(|finding| finding.code.as_str())
            .filter(|code| *code != "W900")
            .collect();
        (object.is_some(), told.join(" "))
    }

    #[test]
    fn stars_inside_paths() {
        for path in ["/a", "/a/*", "*/a", "*", "/a/{*}/b", "/a/{**}"] {
            assert_eq!(
                codes("ALLOW", path, Mode::Strict),
                (true, String::new()),
                "{path}"
            );
        }
        assert_eq!(
            codes("ALLOW", "/a/*/b", Mode::Compat),
            (true, "W120".to_owned())
        );
        assert_eq!(
            codes("ALLOW", "/a/*/b", Mode::Strict),
            (false, "E120".to_owned())
        );
        assert_eq!(
            codes("DENY", "/a/*/b", Mode::Compat),
            (false, "E120".to_owned())
        );
        assert_eq!(rewritten("/a/*/b/{*}/*"), "/a/{*}/b/{*}/*");
    }
}
