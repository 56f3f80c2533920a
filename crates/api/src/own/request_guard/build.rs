//! The typed RequestGuard from a checked tree.

use super::{Action, Guard, RequestGuard, SETS, Watch};
use crate::decode::Report;
use crate::decode::meta::labels;
use crate::networking::read;
use crate::security::attached;
use crate::tree::{Node, join};
use std::time::Duration;

const METHODS: [&str; 7] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];
const ANOMALIES: [&str; 3] = ["expired", "signature", "issuer"];
const KINDS: [&str; 5] = ["methods", "syntax", "patterns", "handshakes", "tokens"];
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Builds; `None` when no guard of it could be in force.
pub(crate) fn build(report: &mut Report, spec: &Node) -> Option<RequestGuard> {
    let selector = spec
        .at(&["selector", "matchLabels"])
        .map(|node| labels(Some(node)))
        .filter(|labels| !labels.is_empty());
    let attached = attached::read(report, spec);
    let mut guards: Vec<Guard> = Vec::new();
    let items = spec.get("guards").map(Node::items).unwrap_or_default();
    for (index, node) in items.iter().enumerate() {
        let at = format!("spec.guards[{index}]");
        let Some(guard) = guard(report, node, &at) else {
            continue;
        };
        if guards.iter().any(|other| other.name == guard.name) {
            let message = format!("two guards are named {:?}", guard.name);
            let fix = "give each guard a name of its own".to_owned();
            report.invalid(&join(&at, "name"), node, message, fix);
        }
        if report.sound(&at) {
            guards.push(guard);
        }
    }
    (!guards.is_empty()).then_some(RequestGuard {
        selector,
        attached,
        guards,
    })
}

fn guard(report: &mut Report, node: &Node, at: &str) -> Option<Guard> {
    let written: Vec<&str> = KINDS
        .into_iter()
        .filter(|kind| node.get(kind).is_some())
        .collect();
    let [kind] = written.as_slice() else {
        let message = match written.as_slice() {
            [] => "it says nothing to look at".to_owned(),
            several => format!("it looks at several things: {}", several.join(", ")),
        };
        let fix = format!("write one of {} in each guard", KINDS.join(", "));
        report.invalid(at, node, message, fix);
        return None;
    };
    let below = node.get(kind)?;
    let at_kind = join(at, kind);
    let watch = match *kind {
        "methods" => methods(report, below, &at_kind),
        "syntax" => Watch::Syntax,
        "patterns" => patterns(report, below, &at_kind),
        "handshakes" => Watch::Handshakes,
        _ => {
            let faults = read::texts(below.get("faults"));
            Watch::Tokens(match faults.as_slice() {
                [] => ANOMALIES.map(str::to_owned).to_vec(),
                _ => faults,
            })
        }
    };
    Some(Guard {
        name: name(report, node, at)?,
        action: action(report, node, at, &watch),
        watch,
    })
}

/// Names become parts of the names of rules.
fn name(report: &mut Report, node: &Node, at: &str) -> Option<String> {
    let name = read::text(node.get("name"))?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > 63 || !name.bytes().all(plain) {
        let message = format!("{name:?} is no name for a guard");
        let fix = "write letters, digits, dashes and dots, at most 63".to_owned();
        report.invalid(&join(at, "name"), node.get("name")?, message, fix);
        return None;
    }
    Some(name)
}

fn methods(report: &mut Report, node: &Node, at: &str) -> Watch {
    let Some(allow) = node.get("allow") else {
        return Watch::Methods(METHODS.map(str::to_owned).to_vec());
    };
    let mut all = Vec::new();
    for (index, item) in allow.items().iter().enumerate() {
        let method = item.text().unwrap_or_default();
        if method.is_empty()
            || !method
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte == b'-')
        {
            let fix = format!("write it in capitals, for example {}", METHODS.join(", "));
            let message = format!("{method:?} is no method");
            report.invalid(&format!("{at}.allow[{index}]"), item, message, fix);
        }
        all.push(method.to_owned());
    }
    if all.is_empty() {
        let message = "no method would pass".to_owned();
        let fix = format!("list some of {}, or leave allow out", METHODS.join(", "));
        report.invalid(&join(at, "allow"), allow, message, fix);
    }
    Watch::Methods(all)
}

fn patterns(report: &mut Report, node: &Node, at: &str) -> Watch {
    let on = |set: &&str| node.get(set).and_then(Node::truth) == Some(true);
    let mut all: Vec<(String, Option<String>)> = SETS
        .into_iter()
        .filter(on)
        .map(|set| (set.to_owned(), None))
        .collect();
    let custom = node.get("custom").map(Node::items).unwrap_or_default();
    for (index, item) in custom.iter().enumerate() {
        let at = format!("{at}.custom[{index}]");
        let regex = read::text(item.get("regex")).unwrap_or_default();
        let place = item.get("regex").unwrap_or(item);
        read::regex(report, &regex, &join(&at, "regex"), place);
        let Some(name) = name(report, item, &at) else {
            continue;
        };
        if all.iter().any(|(other, _)| *other == name) {
            let message = format!("two patterns are named {name:?}");
            let fix = "give each pattern a name of its own".to_owned();
            report.invalid(&join(&at, "name"), item, message, fix);
        }
        all.push((name, Some(regex)));
    }
    if all.is_empty() {
        let message = "every set is off and none is custom: it finds nothing".to_owned();
        let fix = "turn a set on, for example sqlInjection: true, or write custom".to_owned();
        report.invalid(at, node, message, fix);
    }
    Watch::Patterns(all)
}

fn action(report: &mut Report, node: &Node, at: &str, watch: &Watch) -> Action {
    let bans = match node.get("action").and_then(Node::text) {
        Some("Log") => return only(report, node, at, Action::Log),
        Some("Ban") => true,
        _ => false,
    };
    if !bans {
        return only(report, node, at, Action::Deny);
    }
    let often = match watch {
        Watch::Handshakes | Watch::Tokens(_) => 5,
        Watch::Methods(_) | Watch::Syntax | Watch::Patterns(_) => 1,
    };
    let mut time = |field: &str, default: Duration| {
        let written = read::duration(node.get(field)).unwrap_or(default);
        if let Some(place) = node.get(field)
            && (written > DAY || written < Duration::from_secs(1))
        {
            let message = "a time between 1s and 24h is kept".to_owned();
            let fix = format!("write {}s or another time up to 24h", default.as_secs());
            report.invalid(&join(at, field), place, message, fix);
        }
        written
    };
    Action::Ban {
        failures: read::count(node.get("failures")).unwrap_or(often),
        per: time("per", MINUTE),
        lasts: time("banFor", MINUTE * 10),
    }
}

/// Fields of a ban mean nothing elsewhere: they say that one was meant.
fn only(report: &mut Report, node: &Node, at: &str, action: Action) -> Action {
    for field in ["failures", "per", "banFor"] {
        if let Some(written) = node.get(field) {
            let message =
                format!("{field} says when a peer is banned, and this action bans nobody");
            let fix = format!("write action: Ban, or remove {field}");
            report.invalid(&join(at, field), written, message, fix);
        }
    }
    action
}
