//! LocalRateLimit: what is in force of it, and what a bad part takes with it.

use naka_api::limits::local_rate_limit::{LocalRateLimit, Target};
use naka_api::{Mode, decode_yaml};
use naka_types::finding::Finding;
use std::time::Duration;

fn read(spec: &str) -> (Option<LocalRateLimit>, Vec<Finding>) {
    let head = "apiVersion: naka.dev/v1alpha1\nkind: LocalRateLimit\nmetadata: {name: l}\nspec:\n";
    let decoded = decode_yaml("f", format!("{head}{spec}").as_bytes(), Mode::Compat);
    let limit = decoded
        .objects
        .first()
        .and_then(|object| object.local_rate_limit().cloned());
    (limit, decoded.findings)
}

#[test]
fn defaults_and_everything_set() {
    let (limit, findings) = read(
        "  targetRefs:\n  - {kind: Service, name: pay}\n  - {group: networking.istio.io, kind: Gateway, name: edge}\n  - {kind: VirtualService, name: pay, sectionName: big}\n  rules:\n  - {name: all, requests: 1000}\n  - name: each\n    when: request.method == 'POST'\n    keys: [source.principal, \"request.headers['x']\"]\n    requests: 5\n    per: 1m\n    burst: 20\n    maxKeys: 50\n    dryRun: true\n    responseHeaders: true\n",
    );
    assert!(findings.is_empty(), "{findings:?}");
    let limit = limit.expect("a limit");
    let [service, gateway, route] = limit.targets.as_slice() else {
        panic!("{limit:?}")
    };
    assert_eq!(*service, Target::Service("pay".to_owned()));
    assert_eq!(*gateway, Target::Gateway("edge".to_owned()));
    let section = Some("big".to_owned());
    assert_eq!(
        *route,
        Target::Route {
            name: "pay".to_owned(),
            section
        }
    );
    let [all, each] = limit.rules.as_slice() else {
        panic!("{limit:?}")
    };
    assert_eq!(
        (all.requests, all.burst, all.max_keys, all.per),
        (1000, 1000, 1024, Duration::from_secs(1))
    );
    assert!(!all.dry_run && !all.response_headers && all.keys.is_empty() && all.when.is_none());
    assert_eq!(
        (each.requests, each.burst, each.max_keys, each.per),
        (5, 20, 50, Duration::from_secs(60))
    );
    assert!(each.dry_run && each.response_headers && each.keys.len() == 2 && each.when.is_some());
}

#[test]
fn a_bad_rule_or_target_takes_itself_out() {
    let target =
        "  targetRefs: [{kind: Service, name: pay}]\n  rules:\n  - {name: good, requests: 5}\n";
    for (rule, code, field) in [
        ("{name: bad}", "E006", "spec.rules[1].requests"),
        ("{name: bad, requests: 0}", "E007", "spec.rules[1].requests"),
        (
            "{name: bad, requests: 5, burst: 0}",
            "E007",
            "spec.rules[1].burst",
        ),
        (
            "{name: bad, requests: 5, per: soon}",
            "E007",
            "spec.rules[1].per",
        ),
        (
            "{name: bad, requests: 5, maxKeys: 100001}",
            "E007",
            "spec.rules[1].maxKeys",
        ),
        ("{name: good, requests: 7}", "E007", "spec.rules[1].name"),
        (
            "{name: bad, requests: 5, when: request.method}",
            "E370",
            "spec.rules[1].when",
        ),
        (
            "{name: bad, requests: 5, when: request.body.a == 1}",
            "E370",
            "spec.rules[1].when",
        ),
        (
            "{name: bad, requests: 5, keys: [request.headers]}",
            "E370",
            "spec.rules[1].keys[0]",
        ),
        (
            "{name: bad, requests: 5, byrst: 6}",
            "E002",
            "spec.rules[1].byrst",
        ),
    ] {
        let (limit, findings) = read(&format!("{target}  - {rule}\n"));
        let told: Vec<_> = findings
            .iter()
            .map(|f| (f.code.as_str(), f.field.as_str()))
            .collect();
        assert_eq!(told, [(code, field)], "{rule}");
        let names: Vec<String> = limit
            .expect(rule)
            .rules
            .into_iter()
            .map(|rule| rule.name)
            .collect();
        assert_eq!(names, ["good"], "{rule}");
    }
    for (target, field) in [
        ("{kind: Pod, name: pay}", "spec.targetRefs[1].kind"),
        ("{kind: Service}", "spec.targetRefs[1].name"),
        (
            "{group: apps, kind: Service, name: pay}",
            "spec.targetRefs[1].group",
        ),
        (
            "{kind: Gateway, name: pay, sectionName: http}",
            "spec.targetRefs[1].sectionName",
        ),
    ] {
        let text = format!(
            "  targetRefs:\n  - {{kind: Service, name: pay}}\n  - {target}\n  rules: [{{name: a, requests: 1}}]\n"
        );
        let (limit, findings) = read(&text);
        assert_eq!(findings.len(), 1, "{target}: {findings:?}");
        assert_eq!(findings[0].field, field, "{target}");
        assert_eq!(limit.expect(target).targets.len(), 1, "{target}");
    }
    assert!(
        read("  targetRefs: [{kind: Service, name: pay}]\n  rules: []\n")
            .0
            .is_none()
    );
    assert!(read("  rules: [{name: a, requests: 1}]\n").0.is_none());
}
