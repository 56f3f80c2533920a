//! From facts about an installation to a line per check, and a finding where one is not fulfilled.
//!
//! Pure: the facts and the time are arguments, so each limit is a row of the tests' table.

use naka_api::codes::{self, Code};
use naka_types::finding::Finding;
use serde::Serialize;
use serde_json::Value;

const DAY_S: u64 = 24 * 3600;
/// An authority that lives shortly by intent ends soon in the last quarter of its life only.
const LAST_SHARE: u64 = 4;
/// With less than this the next changes may not fit.
const FULL: u64 = 4 << 20;
/// Little is less than both of these.
const LITTLE: u64 = 1 << 30;
const LITTLE_SHARE: u64 = 20;

/// One line.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    /// What was looked at.
    pub(crate) check: &'static str,
    /// Of what, where there are many: a proxy, a gateway.
    pub(crate) of: String,
    /// `ok`, `warning` or `error`.
    pub(crate) state: &'static str,
    /// What was seen.
    pub(crate) message: String,
    /// What is wrong, if anything.
    #[serde(skip)]
    pub(crate) finding: Option<Finding>,
}

impl Line {
    /// All is well.
    pub(crate) fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self {
            check,
            of: String::new(),
            state: "ok",
            message: message.into(),
            finding: None,
        }
    }

    /// Something is not.
    pub(crate) fn bad(check: &'static str, code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        let finding = Finding::new(code.id, message.clone()).fix(code.fix);
        Self {
            state: if finding.is_error() {
                "error"
            } else {
                "warning"
            },
            finding: Some(finding),
            ..Self::ok(check, message)
        }
    }

    fn of(mut self, whom: &str) -> Self {
        whom.clone_into(&mut self.of);
        let check = self.check;
        self.finding = self
            .finding
            .map(|finding| finding.on(format_args!("{check} {whom}")));
        self
    }
}

fn number(value: &Value, path: &str) -> Option<u64> {
    value.pointer(path)?.as_u64()
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value
        .pointer(path)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn array<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    let found = value.get(field).and_then(Value::as_array);
    found.map_or(&[], Vec::as_slice)
}

/// Every line, in the order of what depends on what. `own` is the version of this command.
pub(crate) fn lines(facts: &Value, own: &str) -> Vec<Line> {
    let now = number(facts, "/now_s").unwrap_or(0);
    let mut lines = vec![version(own, text(facts, "/version"))];
    let ground = facts.get("ground").unwrap_or(&Value::Null);
    lines.push(store(ground));
    lines.push(disk(ground));
    for (what, soon) in [("root", 90), ("intermediate", 30), ("control", 0)] {
        let end = number(ground, &format!("/ends_s/{what}")).unwrap_or(0);
        let begin = number(ground, &format!("/begins_s/{what}")).unwrap_or(0);
        let soon = (soon * DAY_S).min(end.saturating_sub(begin) / LAST_SHARE);
        lines.push(authority(what, end, now, soon));
    }
    lines.push(dns(ground));
    lines.extend(gateways(facts));
    for proxy in array(facts, "proxies") {
        lines.extend(self::proxy(proxy, text(facts, "/version"), now));
    }
    lines
}

fn version(own: &str, control: &str) -> Line {
    match apart(own, control) {
        Some(0) => Line::ok("control plane", format!("answers, version {control}")),
        _ => Line::bad(
            "control plane",
            codes::W911,
            format!("it is version {control}, this command is {own}"),
        ),
    }
}

/// How many minor versions lie between two; `None` when one cannot be read or the major ones differ.
fn apart(one: &str, other: &str) -> Option<u64> {
    let parts = |text: &str| -> Option<(u64, u64)> {
        let mut numbers = text.split('.');
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    };
    let ((a, b), (c, d)) = (parts(one)?, parts(other)?);
    (a == c).then_some(b.abs_diff(d))
}

fn store(ground: &Value) -> Line {
    let dir = text(ground, "/dir");
    let why = ["/not_writing", "/not_writable"].map(|path| text(ground, path));
    match why.into_iter().find(|why| !why.is_empty()) {
        Some(why) => Line::bad("store", codes::E911, format!("{dir}: {why}")),
        None => Line::ok("store", format!("{dir} is sound and writable")),
    }
}

fn disk(ground: &Value) -> Line {
    let free = number(ground, "/disk_free_bytes");
    let (Some(free), Some(total)) = (free, number(ground, "/disk_total_bytes")) else {
        return Line::bad(
            "disk",
            codes::E912,
            "the system does not say how much is free",
        );
    };
    let told = format!("{} MiB of {} MiB free", free >> 20, total >> 20);
    if free < FULL {
        Line::bad("disk", codes::E912, told)
    } else if free < LITTLE && free < total / LITTLE_SHARE {
        Line::bad("disk", codes::W912, told)
    } else {
        Line::ok("disk", told)
    }
}

fn authority(what: &str, end: u64, now: u64, soon: u64) -> Line {
    let ends = date(end);
    let line = if end <= now {
        Line::bad("authority", codes::E913, format!("ended {ends}"))
    } else if end < now + soon {
        Line::bad("authority", codes::W913, format!("ends {ends}"))
    } else {
        Line::ok("authority", format!("ends {ends}"))
    };
    line.of(what)
}

/// A second as a date; what is out of reach is shown as the end of time.
fn date(second: u64) -> String {
    naka_store::rfc3339(second.min(u64::from(u32::MAX)) * 1000)
}

fn dns(ground: &Value) -> Line {
    let words = |field: &str| -> Vec<&str> {
        let all = array(ground, field).iter();
        all.filter_map(Value::as_str).collect()
    };
    let (unresolved, advertised) = (words("unresolved"), words("advertise"));
    if !unresolved.is_empty() {
        let told = format!("{} does not resolve", unresolved.join(", "));
        return Line::bad("dns", codes::E914, told);
    }
    Line::ok(
        "dns",
        match advertised.as_slice() {
            [] => "serves this machine only: no name is advertised".to_owned(),
            all => format!("{} resolves", all.join(", ")),
        },
    )
}

fn gateways(facts: &Value) -> impl Iterator<Item = Line> {
    array(facts, "gateways").iter().map(|gateway| {
        let line = match number(gateway, "/proxies").unwrap_or(0) {
            0 => Line::bad(
                "gateway",
                codes::E915,
                "no connected gateway proxy serves it",
            ),
            count => Line::ok("gateway", format!("served by {count}")),
        };
        line.of(text(gateway, "/gateway"))
    })
}

/// One line if all is well with a proxy, else one for each thing that is not.
fn proxy(proxy: &Value, control: &str, now: u64) -> Vec<Line> {
    let name = text(proxy, "/name");
    if text(proxy, "/state") == "away" {
        return vec![Line::bad("proxy", codes::W919, "is not connected").of(name)];
    }
    let version = text(proxy, "/version");
    let end = number(proxy, "/certificate/not_after");
    let mut lines: Vec<Line> = [
        skew(proxy, version, control),
        end.and_then(|end| certificate(proxy, end, now)),
        configuration(proxy),
    ]
    .into_iter()
    .flatten()
    .collect();
    if lines.is_empty() {
        let revision = number(proxy, "/revision").unwrap_or(0);
        let version = match version {
            "" => text(proxy, "/dialect"),
            version => version,
        };
        let ends = end.map_or("unknown".to_owned(), date);
        let told = format!("version {version}, revision {revision}, certificate ends {ends}");
        lines.push(Line::ok("proxy", told));
    }
    lines.into_iter().map(|line| line.of(name)).collect()
}

fn skew(proxy: &Value, version: &str, control: &str) -> Option<Line> {
    // Others than Naka's proxies name no version of ours.
    let ours = text(proxy, "/dialect") == "naka" || !version.is_empty();
    let code = match apart(version, control) {
        Some(0) => return None,
        Some(1) => codes::W911,
        _ if ours => codes::E916,
        _ => return None,
    };
    let told = format!("is version {version:?}, the control plane {control:?}");
    Some(Line::bad("proxy", code, told))
}

fn certificate(proxy: &Value, end: u64, now: u64) -> Option<Line> {
    let begin = number(proxy, "/certificate/not_before").unwrap_or(now);
    let (ends, life) = (date(end), end.saturating_sub(begin));
    if end <= now {
        let told = format!("its certificate ended {ends}");
        return Some(Line::bad("proxy", codes::E917, told));
    }
    // By its policy it may have been due long before.
    let due = number(proxy, "/certificate/due").filter(|due| *due < end);
    let late = due.is_some_and(|due| now.saturating_sub(due) > (end - due) / 2);
    (late || end - now < life / 10).then(|| {
        let wanted = due.map_or(String::new(), |due| format!(" by {}", date(due)));
        let told = format!("its certificate ends {ends} and was not renewed{wanted}");
        Line::bad("proxy", codes::W917, told)
    })
}

fn configuration(proxy: &Value) -> Option<Line> {
    match text(proxy, "/state") {
        "refused" => {
            let words: Vec<String> = array(proxy, "refused")
                .iter()
                .map(|one| format!("{}: {}", text(one, "/resource"), text(one, "/message")))
                .collect();
            let told = format!("refuses {}", words.join("; "));
            Some(Line::bad("proxy", codes::E918, told))
        }
        "behind" => Some(Line::bad(
            "proxy",
            codes::W918,
            "does not have the newest configuration",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{DAY_S, lines};
    use serde_json::{Value, json};

    const NOW: u64 = 1_800_000_000;

    fn sound() -> Value {
        json!({
            "version": "0.3.1", "now_s": NOW,
            "ground": {
                "dir": "/m", "not_writing": null, "not_writable": null, "advertise": [], "unresolved": [],
                "disk_free_bytes": 10_u64 << 30, "disk_total_bytes": 100_u64 << 30,
                "begins_s": {"root": NOW - 600 * DAY_S, "intermediate": NOW - 60 * DAY_S, "control": NOW - 60},
                "ends_s": {"root": NOW + 3000 * DAY_S, "intermediate": NOW + 20 * DAY_S, "control": NOW + 3600},
            },
            "gateways": [{"gateway": "a/g", "proxies": 1}],
            "proxies": [{"name": "order.default", "state": "programmed", "version": "0.3.0", "dialect": "naka",
                "revision": 7, "refused": [], "certificate": {"not_before": NOW - 3600, "not_after": NOW + 3600}}],
        })
    }

    /// Codes that the facts lead to when one of them is another.
    fn codes(path: &str, value: Value) -> Vec<String> {
        let mut facts = sound();
        *facts.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
        lines(&facts, "0.3.0")
            .into_iter()
            .filter_map(|line| Some(line.finding?.code))
            .collect()
    }

    /// A certificate of 90 days whose renewal was due 30 days before its end, so many days ago.
    fn overdue(days: u64) -> Value {
        let due = NOW - days * DAY_S;
        json!({"not_before": due - 60 * DAY_S, "not_after": due + 30 * DAY_S, "due": due})
    }

    #[test]
    fn a_sound_installation_has_a_line_per_check_and_no_finding() {
        let found = lines(&sound(), "0.3.0");
        let checks: Vec<&str> = found.iter().map(|line| line.check).collect();
        let wanted = [
            "control plane",
            "store",
            "disk",
            "authority",
            "authority",
            "authority",
            "dns",
            "gateway",
            "proxy",
        ];
        assert_eq!(checks, wanted);
        let good = |line: &super::Line| line.state == "ok" && line.finding.is_none();
        assert!(found.iter().all(good), "{found:?}");
    }

    /// Each fault has its code, and its neighbour inside the limit has none.
    #[test]
    fn each_fault_is_seen_at_its_limit() {
        let tib = 1_u64 << 40;
        let mut facts: Vec<(&str, Value, &[&str])> = vec![
            ("/version", json!("0.4.0"), &["W911", "W911"]),
            ("/version", json!("0.3.9"), &[]),
            ("/ground/not_writing", json!("until repair"), &["E911"]),
            ("/ground/not_writable", json!("Read-only"), &["E911"]),
            ("/ground/disk_free_bytes", json!((4 << 20) - 1), &["E912"]),
            ("/ground/disk_free_bytes", json!(4 << 20), &["W912"]),
            ("/ground/disk_free_bytes", json!(1 << 30), &[]),
            ("/ground/disk_free_bytes", json!(null), &["E912"]),
            ("/ground/disk_total_bytes", json!(tib), &[]),
            ("/ground/ends_s/root", json!(NOW), &["E913"]),
            (
                "/ground/ends_s/root",
                json!(NOW + 90 * DAY_S - 1),
                &["W913"],
            ),
            ("/ground/ends_s/root", json!(NOW + 90 * DAY_S), &[]),
            ("/ground/ends_s/control", json!(NOW), &["E913"]),
            ("/ground/ends_s/control", json!(NOW + 1), &[]),
            ("/ground/unresolved", json!(["mesh.invalid"]), &["E914"]),
            ("/gateways/0/proxies", json!(0), &["E915"]),
        ];
        // One of 80 days has a quarter of them left; of a longer life 30 days are little.
        for (end, codes) in [(-1, &["E913"][..]), (20, &[]), (19, &["W913"])] {
            let end = json!(NOW.saturating_add_signed(end * DAY_S.cast_signed()));
            facts.push(("/ground/ends_s/intermediate", end, codes));
        }
        let long_ago = json!(NOW - 400 * DAY_S);
        facts.push(("/ground/begins_s/intermediate", long_ago, &["W913"]));
        facts.extend::<Vec<(&str, Value, &[&str])>>(vec![
            ("/proxies/0/version", json!("0.2.9"), &["W911"]),
            ("/proxies/0/version", json!("0.1.0"), &["E916"]),
            ("/proxies/0/version", json!("1.3.0"), &["E916"]),
            ("/proxies/0/version", json!(""), &["E916"]),
            ("/proxies/0/certificate/not_after", json!(NOW), &["E917"]),
            (
                "/proxies/0/certificate/not_after",
                json!(NOW + 60),
                &["W917"],
            ),
            // Due by its policy when 30 days were left: half of them have passed, or not yet.
            ("/proxies/0/certificate", overdue(16), &["W917"]),
            ("/proxies/0/certificate", overdue(14), &[]),
            ("/proxies/0/certificate", json!({}), &[]),
            ("/proxies/0/state", json!("refused"), &["E918"]),
            ("/proxies/0/state", json!("behind"), &["W918"]),
            ("/proxies/0/state", json!("away"), &["W919"]),
        ]);
        for (path, value, wanted) in facts {
            assert_eq!(codes(path, value.clone()), wanted, "{path} = {value}");
        }
        let envoy = json!({"name": "e", "state": "programmed", "version": "", "dialect": "envoy"});
        let none = codes("/proxies/0", envoy);
        assert!(none.is_empty(), "an Envoy names no version of ours");
    }
}
