//! RequestGuard: what is in force of it, and what a bad part takes with it.

use naka_api::own::request_guard::{Action, RequestGuard, Watch};
use naka_api::{Mode, decode_yaml};
use std::time::Duration;

fn read(spec: &str) -> (Option<RequestGuard>, Vec<(String, String)>) {
    let head = "apiVersion: naka.dev/v1alpha1\nkind: RequestGuard\nmetadata: {name: g}\nspec:\n";
    let decoded = decode_yaml("g.yaml", format!("{head}{spec}").as_bytes(), Mode::Compat);
    let object = decoded.objects.first();
    let guard = object.and_then(|object| object.request_guard().cloned());
    let found = decoded.findings.into_iter();
    (
        guard,
        found.map(|f| (f.code.to_string(), f.field)).collect(),
    )
}

#[test]
fn what_is_left_out_has_a_sensible_value() {
    let (guard, found) = read(
        "  guards:\n  - {name: m, methods: {}}\n  - {name: h, handshakes: failed, action: Ban}\n  - {name: t, tokens: {}, action: Ban, failures: 3, per: 10s, banFor: 1h}\n  - {name: p, patterns: {xss: true}, action: Ban}\n",
    );
    assert_eq!(found, []);
    let all = guard.unwrap().guards;
    let methods = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];
    assert_eq!(
        all[0].watch,
        Watch::Methods(methods.map(str::to_owned).to_vec())
    );
    assert_eq!(all[0].action, Action::Deny);
    let ban = |failures, per, lasts| Action::Ban {
        failures,
        per: Duration::from_secs(per),
        lasts: Duration::from_secs(lasts),
    };
    assert_eq!(all[1].action, ban(5, 60, 600));
    assert_eq!(all[2].action, ban(3, 10, 3600));
    assert_eq!(all[3].action, ban(1, 60, 600));
    let faults = ["expired", "signature", "issuer"];
    assert_eq!(
        all[2].watch,
        Watch::Tokens(faults.map(str::to_owned).to_vec())
    );
}

#[test]
fn a_bad_guard_falls_out_alone_and_says_where() {
    for (bad, field) in [
        ("{name: x}", ""),
        ("{name: x, syntax: strict, handshakes: failed}", ""),
        ("{name: m, syntax: strict}", ".name"),
        ("{name: 'a b', syntax: strict}", ".name"),
        ("{name: x, methods: {allow: [get]}}", ".methods.allow[0]"),
        ("{name: x, methods: {allow: []}}", ".methods.allow"),
        ("{name: x, patterns: {}}", ".patterns"),
        (
            "{name: x, patterns: {custom: [{name: a, regex: '('}]}}",
            ".patterns.custom[0].regex",
        ),
        (
            "{name: x, patterns: {custom: [{name: a, regex: a}, {name: a, regex: b}]}}",
            ".patterns.custom[1].name",
        ),
        ("{name: x, syntax: strict, banFor: 10m}", ".banFor"),
        (
            "{name: x, syntax: strict, action: Ban, banFor: 25h}",
            ".banFor",
        ),
        ("{name: x, syntax: strict, action: Ban, per: 1ms}", ".per"),
    ] {
        let (guard, found) = read(&format!(
            "  guards:\n  - {{name: m, methods: {{}}}}\n  - {bad}\n"
        ));
        assert_eq!(guard.unwrap().guards.len(), 1, "{bad}");
        let at = format!("spec.guards[1]{field}");
        assert!(
            found
                .iter()
                .any(|(code, path)| code.starts_with('E') && *path == at),
            "{bad}: {found:?}"
        );
        assert_eq!(
            read(&format!("  guards:\n  - {bad}\n"))
                .0
                .filter(|_| bad != "{name: m, syntax: strict}"),
            None,
            "{bad}"
        );
    }
}
