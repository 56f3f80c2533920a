//! The typed LocalRateLimit from a checked tree.

use super::{LocalRateLimit, Rule, Target};
use crate::codes;
use crate::decode::Report;
use crate::kind::Kind;
use crate::networking::read;
use crate::tree::Node;
use naka_expr::{Expression, Place, Use};
use std::time::Duration;

const MAX_KEYS: u32 = 1024;
const SECOND: Duration = Duration::from_secs(1);

/// Builds; `None` when nothing of it could be in force. A bad rule takes itself out, as does a bad target.
pub(crate) fn build(report: &mut Report, spec: &Node) -> Option<LocalRateLimit> {
    let items = |key: &str| spec.get(key).map(Node::items).unwrap_or_default();
    let mut targets = Vec::new();
    for (index, node) in items("targetRefs").iter().enumerate() {
        let at = format!("spec.targetRefs[{index}]");
        let target = target(report, node, &at);
        targets.extend(target.filter(|_| report.sound(&at)));
    }
    let mut rules: Vec<Rule> = Vec::new();
    for (index, node) in items("rules").iter().enumerate() {
        let at = format!("spec.rules[{index}]");
        let Some(rule) = rule(report, node, &at) else {
            continue;
        };
        if rules.iter().any(|other| other.name == rule.name) {
            let fix = "give each rule a name of its own".to_owned();
            let message = format!("two rules are named {:?}", rule.name);
            report.invalid(&format!("{at}.name"), node, message, fix);
        }
        if report.sound(&at) {
            rules.push(rule);
        }
    }
    let whole = !targets.is_empty() && !rules.is_empty();
    whole.then_some(LocalRateLimit { targets, rules })
}

fn target(report: &mut Report, node: &Node, at: &str) -> Option<Target> {
    let name = read::text(node.get("name"))?;
    let section = read::text(node.get("sectionName"));
    let (kind, target) = match node.get("kind").and_then(Node::text)? {
        "Service" => (Kind::Service, Target::Service(name)),
        "Gateway" => (Kind::Gateway, Target::Gateway(name)),
        "VirtualService" => {
            let section = section.clone();
            (Kind::VirtualService, Target::Route { name, section })
        }
        _ => return None,
    };
    let group = kind.names().group;
    if let Some(written) = node
        .get("group")
        .filter(|g| g.text().is_some_and(|g| g != group))
    {
        let (message, fix) = (
            format!("{kind} is of the group {group:?}"),
            "leave group out".to_owned(),
        );
        report.invalid(&format!("{at}.group"), written, message, fix);
    }
    if let (Some(written), false) = (
        node.get("sectionName"),
        matches!(target, Target::Route { .. }),
    ) {
        let message = format!("a {kind} has no routes");
        let fix = "name a VirtualService, or leave sectionName out".to_owned();
        report.invalid(&format!("{at}.sectionName"), written, message, fix);
    }
    Some(target)
}

fn rule(report: &mut Report, node: &Node, at: &str) -> Option<Rule> {
    let flag = |key: &str| node.get(key).and_then(Node::truth).unwrap_or(false);
    let when = read::text(node.get("when"));
    if let (Some(source), Some(written)) = (&when, node.get("when")) {
        check(
            report,
            source,
            Use::Condition,
            written,
            &format!("{at}.when"),
        );
    }
    let keys = read::texts(node.get("keys"));
    let written = node.get("keys").map(Node::items).unwrap_or_default();
    for (index, (key, written)) in keys.iter().zip(written).enumerate() {
        check(
            report,
            key,
            Use::Key,
            written,
            &format!("{at}.keys[{index}]"),
        );
    }
    let requests = read::count(node.get("requests"))?;
    let per = read::duration(node.get("per")).unwrap_or(SECOND);
    if let Some(written) = node
        .get("per")
        .filter(|_| per.as_nanos() < u128::from(requests))
    {
        let message = format!("{requests} requests in so short a time cannot be told apart");
        report.invalid(
            &format!("{at}.per"),
            written,
            message,
            "write 1s or more".to_owned(),
        );
    }
    Some(Rule {
        name: read::text(node.get("name"))?,
        when,
        keys,
        requests,
        per,
        burst: read::count(node.get("burst")).unwrap_or(requests),
        max_keys: read::count(node.get("maxKeys")).unwrap_or(MAX_KEYS),
        dry_run: flag("dryRun"),
        response_headers: flag("responseHeaders"),
    })
}

fn check(report: &mut Report, source: &str, purpose: Use, node: &Node, at: &str) {
    if let Err(error) = Expression::compile(source, purpose, Place::Limit) {
        report.error(codes::E370, at, node.place, error.to_string(), error.fix);
    }
}
