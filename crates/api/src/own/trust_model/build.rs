//! The typed TrustModel from a checked tree. An error anywhere leaves out the whole object: without one of its parts more
//! would get through.

use super::hours::{Day, Hours};
use super::{Crossing, Demand, Operation, TrustModel, Zones};
use crate::decode::Report;
use crate::decode::meta::labels;
use crate::networking::read;
use crate::security::authorization_policy::asked;
use crate::tree::{Node, join};
use naka_expr::{Expression, Place, Use};
use naka_types::cidr::Cidr;
use std::collections::BTreeMap;

const LEVELS: [(&str, u32); 5] = [
    ("public", 0),
    ("internal", 1),
    ("sensitive", 2),
    ("critical", 3),
    ("top_secret", 4),
];
const ZONES: [&str; 5] = [
    "DMZ",
    "INTERNAL_ZONE",
    "DATA_ZONE",
    "ADMIN_ZONE",
    "EXTERNAL_ZONE",
];

/// Builds.
pub(crate) fn build(report: &mut Report, spec: &Node, namespace: &str) -> TrustModel {
    let selector = spec
        .at(&["selector", "matchLabels"])
        .map(|node| labels(Some(node)))
        .filter(|labels| !labels.is_empty());
    let key = |field: &str, default: &str| {
        let written = spec.at(&["labels", field]).and_then(Node::text);
        written.unwrap_or(default).to_owned()
    };
    let levels = levels(spec);
    let mut operations = Vec::new();
    for (at, node) in each(spec, "spec", "operations") {
        let operation = operation(report, &at, node, (&levels, namespace));
        let same = |other: &Operation| other.name == operation.name;
        if operations.iter().any(same) {
            let message = format!("two operations are named {:?}", operation.name);
            let fix = "give each operation a name of its own".to_owned();
            report.invalid(&join(&at, "name"), node, message, fix);
        }
        operations.push(operation);
    }
    let mut demands = Vec::new();
    for (at, node) in each(spec, "spec", "demands") {
        let from = level(report, &at, node, "from", &levels);
        demands.push((from.unwrap_or(0), demand(report, &at, node)));
    }
    let claim = spec.get("approvalClaim").and_then(Node::text);
    TrustModel {
        selector,
        clearance_label: key("clearance", "security-clearance"),
        zone_label: key("zone", "trust-zone"),
        zones: zones(report, spec, &operations),
        levels,
        operations,
        demands,
        approval_claim: claim.unwrap_or("approved_by").to_owned(),
    }
}

/// Items of a list with their paths.
fn each<'n>(node: &'n Node, at: &str, field: &str) -> Vec<(String, &'n Node)> {
    let at = join(at, field);
    let all = node.get(field).map(Node::items).unwrap_or_default();
    let place = |(index, item)| (format!("{at}[{index}]"), item);
    all.iter().enumerate().map(place).collect()
}

fn levels(spec: &Node) -> BTreeMap<String, u32> {
    let written = spec.get("levels").map(Node::entries).unwrap_or_default();
    if written.is_empty() {
        let usual = LEVELS.iter();
        return usual.map(|(name, at)| ((*name).to_owned(), *at)).collect();
    }
    let read = written.iter().filter_map(|entry| {
        let number = read::count(Some(&entry.value))?;
        Some((entry.key.clone(), number))
    });
    read.collect()
}

/// A level by its name or number.
fn level(
    report: &mut Report,
    at: &str,
    node: &Node,
    field: &str,
    levels: &BTreeMap<String, u32>,
) -> Option<u32> {
    let written = node.get(field)?;
    if let Some(number) = read::count(Some(written)) {
        return Some(number);
    }
    let name = written.text().unwrap_or_default();
    let found = levels.get(name).copied();
    if found.is_none() {
        let known: Vec<&str> = levels.keys().map(String::as_str).collect();
        report.invalid(
            &join(at, field),
            written,
            format!("{name:?} is no clearance level"),
            format!("write one of {}, or a number", known.join(", ")),
        );
    }
    found
}

fn zones(report: &mut Report, spec: &Node, operations: &[Operation]) -> Option<Zones> {
    if spec.get("zones").is_none() && spec.get("crossings").is_none() {
        return None;
    }
    let written = read::texts(spec.get("zones"));
    let names = if written.is_empty() {
        ZONES.map(str::to_owned).to_vec()
    } else {
        written
    };
    let mut crossings = Vec::new();
    for (at, node) in each(spec, "spec", "crossings") {
        for field in ["from", "to"] {
            let (Some(value), Some(zone)) = (node.get(field), read::text(node.get(field))) else {
                continue;
            };
            if !names.contains(&zone) {
                report.invalid(
                    &join(&at, field),
                    value,
                    format!("{zone:?} is no zone"),
                    format!("write one of {}", names.join(", ")),
                );
            }
        }
        let only = read::texts(node.get("operations"));
        let known = |name: &&String| operations.iter().any(|one| one.name == **name);
        if let (Some(other), Some(value)) = (
            only.iter().find(|name| !known(name)),
            node.get("operations"),
        ) {
            report.invalid(
                &join(&at, "operations"),
                value,
                format!("{other:?} is no operation of this object"),
                "write the name of one of spec.operations".to_owned(),
            );
        }
        let zone = |field: &str| read::text(node.get(field)).unwrap_or_default();
        crossings.push(Crossing {
            from: zone("from"),
            to: zone("to"),
            operations: only,
        });
    }
    Some(Zones { names, crossings })
}

fn operation(
    report: &mut Report,
    at: &str,
    node: &Node,
    (levels, namespace): (&BTreeMap<String, u32>, &str),
) -> Operation {
    let lowest = levels.values().copied().min().unwrap_or(0);
    let mut hosts = Vec::new();
    for (at, item) in each(node, at, "hosts") {
        hosts.extend(read::host(report, Some(item), &at, namespace, true));
    }
    Operation {
        name: read::text(node.get("name")).unwrap_or_default(),
        hosts,
        conditions: asked(report, node, at, namespace),
        clearance: level(report, at, node, "clearance", levels).unwrap_or(lowest),
        demand: demand(report, at, node),
    }
}

fn demand(report: &mut Report, at: &str, node: &Node) -> Demand {
    let mut windows = Vec::new();
    for (at, item) in each(node, at, "hours") {
        windows.extend(hours(report, &at, item));
    }
    let mut ranges = Vec::new();
    for (at, item) in each(node, at, "networks") {
        match Cidr::parse(item.text().unwrap_or_default()) {
            Ok(range) => ranges.push(range),
            Err(_) => report.invalid(
                &at,
                item,
                "this is no range of addresses".to_owned(),
                "write an address or a range like 10.0.0.0/8".to_owned(),
            ),
        }
    }
    for (field, empty) in [
        ("hours", windows.is_empty()),
        ("networks", ranges.is_empty()),
    ] {
        if let (Some(written), true) = (node.get(field), empty) {
            let message = format!("{field} without any lets nobody pass, ever");
            let fix = format!("write some, or leave {field} out");
            report.invalid(&join(at, field), written, message, fix);
        }
    }
    let session = read::duration(node.get("sessionTimeout"));
    if let (Some(written), Some(true)) = (
        node.get("sessionTimeout"),
        session.map(|time| time.is_zero()),
    ) {
        let fix = "write for example 15m".to_owned();
        let message = "a session of no time lets nobody pass".to_owned();
        report.invalid(&join(at, "sessionTimeout"), written, message, fix);
    }
    let said = |field: &str, word: &str| node.get(field).and_then(Node::text) == Some(word);
    Demand {
        hours: (!windows.is_empty())
            .then_some(windows)
            .into_iter()
            .collect(),
        networks: (!ranges.is_empty()).then_some(ranges).into_iter().collect(),
        dual: node.get("dualAuthorization").and_then(Node::truth) == Some(true),
        session,
        audit: said("auditTrail", "comprehensive"),
    }
}

fn hours(report: &mut Report, at: &str, node: &Node) -> Option<Hours> {
    let mut days: Vec<Day> = read::texts(node.get("days"))
        .iter()
        .filter_map(|name| Day::parse(name))
        .collect();
    if days.is_empty() {
        days = Day::WEEK[..5].to_vec();
    }
    let week = Day::WEEK.into_iter();
    let days: Vec<Day> = week.filter(|day| days.contains(day)).collect();
    let zone = read::text(node.get("timeZone")).unwrap_or_else(|| "UTC".to_owned());
    let mut minute = |field: &str| {
        let written = node.get(field)?;
        let read = clock(written.text().unwrap_or_default());
        if read.is_none() {
            let message = "this is no time of day".to_owned();
            let fix = "write hours and minutes, like \"09:00\"".to_owned();
            report.invalid(&join(at, field), written, message, fix);
        }
        read
    };
    let (from, to) = (minute("from")?, minute("to")?);
    if to <= from {
        let message = "the window closes before it opens".to_owned();
        let fix = "for a night write two windows: until 24:00, and from 00:00".to_owned();
        report.invalid(&join(at, "to"), node.get("to")?, message, fix);
    }
    let hours = Hours {
        days,
        from,
        to,
        zone,
    };
    // It becomes part of an expression, and is to be nothing else there.
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_+-:".contains(c);
    let sound = hours.zone.chars().all(plain)
        && Expression::compile(&hours.expression(), Use::Condition, Place::Limit).is_ok();
    if !sound {
        let message = format!("{:?} is not a time zone", hours.zone);
        let fix = "write a name such as Asia/Kolkata, or +05:30".to_owned();
        report.invalid(
            &join(at, "timeZone"),
            node.get("timeZone").unwrap_or(node),
            message,
            fix,
        );
        return None;
    }
    Some(hours)
}

/// Minutes of the day.
fn clock(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= 24 * 60).then_some(minute)
}

#[cfg(test)]
mod tests {
    use super::clock;

    #[test]
    fn times_of_day() {
        for (text, wanted) in [
            ("00:00", Some(0)),
            ("09:00", Some(540)),
            ("24:00", Some(1440)),
            ("24:01", None),
            ("09:60", None),
            ("9:00", None),
            ("0900", None),
            ("aa:bb", None),
        ] {
            assert_eq!(clock(text), wanted, "{text}");
        }
    }
}
