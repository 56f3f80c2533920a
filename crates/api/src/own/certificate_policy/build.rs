//! The typed CertificatePolicy from a checked tree. An error puts the object out of force as a whole: half of a policy
//! would be another policy.

use super::{Attestation, CertificatePolicy, Renewal, Window};
use crate::decode::Report;
use crate::decode::meta::labels;
use crate::networking::read;
use crate::tree::Node;
use naka_types::key::KeyType;
use std::time::Duration;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR_S: u64 = 3600;
/// 397 days, what browsers take of the authorities of the web: nobody should need more.
const LONGEST: Duration = Duration::from_hours(397 * 24);

/// What a tier stands for.
struct Tier {
    lifetime: Duration,
    key: KeyType,
    manual: bool,
}

/// A tier's values.
fn tier(word: &str) -> Option<Tier> {
    let (days, key, manual) = match word {
        "high" => (7, KeyType::Rsa4096, true),
        "medium" => (30, KeyType::Rsa2048, false),
        "low" => (90, KeyType::Rsa2048, false),
        _ => return None,
    };
    Some(Tier {
        lifetime: Duration::from_hours(days * 24),
        key,
        manual,
    })
}

/// How long before the end certificates of a tier are renewed.
const TIER_RENEWS_BEFORE: Duration = Duration::from_hours(72);

/// Builds.
pub(crate) fn build(report: &mut Report, spec: &Node) -> CertificatePolicy {
    let tier = spec.get("tier").and_then(Node::text).and_then(tier);
    let lifetime = lifetime(report, spec).or(tier.as_ref().map(|tier| tier.lifetime));
    let renewal = renewal(report, spec, lifetime).unwrap_or(match &tier {
        Some(_) => Renewal::Before(TIER_RENEWS_BEFORE),
        None => Renewal::Usual,
    });
    let selector = spec
        .at(&["selector", "matchLabels"])
        .map(|node| labels(Some(node)))
        .filter(|labels| !labels.is_empty());
    CertificatePolicy {
        priority: spec.get("priority").and_then(Node::integer).unwrap_or(0),
        accounts: read::texts(spec.get("serviceAccounts")),
        selector,
        lifetime,
        renewal,
        key: match spec.get("privateKey") {
            Some(node) => key(report, node),
            None => tier.as_ref().map(|tier| tier.key).unwrap_or_default(),
        },
        window: window(report, spec),
        manual: match spec.get("approval").and_then(Node::text) {
            Some(word) => word == "Manual",
            None => tier.is_some_and(|tier| tier.manual),
        },
        attestation: attestation(report, spec),
    }
}

fn attestation(report: &mut Report, spec: &Node) -> Option<Attestation> {
    const AT: &str = "spec.attestation";
    let node = spec.get("attestation")?;
    let mut executables = Vec::new();
    let listed = node.get("executables").map(Node::items).unwrap_or_default();
    for (index, item) in listed.iter().enumerate() {
        let word = item.text().unwrap_or_default();
        let digits = word.strip_prefix("sha256:").unwrap_or_default();
        if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            executables.push(digits.to_ascii_lowercase());
            continue;
        }
        report.invalid(
            &format!("{AT}.executables[{index}]"),
            item,
            format!("{word:?} is no SHA-256 of a file"),
            "write sha256: and what sha256sum prints of the program's file".to_owned(),
        );
    }
    let uid = node.get("uid").and_then(Node::integer);
    let uid = uid.and_then(|uid| u32::try_from(uid).ok());
    if uid.is_none() && node.get("executables").is_none() {
        report.invalid(
            AT,
            node,
            "it asks for nothing".to_owned(),
            "write uid, executables, or both".to_owned(),
        );
    }
    if spec.get("serviceAccounts").is_none() {
        report.invalid(
            AT,
            node,
            "attestation binds service accounts, and none is named".to_owned(),
            "add serviceAccounts".to_owned(),
        );
    }
    if spec.get("selector").is_some() {
        // Labels are what a workload says of itself: with others it would be asked for nothing.
        report.invalid(
            AT,
            node,
            "a workload could leave the labels of the selector out and be asked for nothing"
                .to_owned(),
            "leave selector out and name serviceAccounts".to_owned(),
        );
    }
    Some(Attestation { uid, executables })
}

fn lifetime(report: &mut Report, spec: &Node) -> Option<Duration> {
    let node = spec.get("duration")?;
    let lifetime = read::duration(Some(node))?;
    if !(MINUTE..=LONGEST).contains(&lifetime) {
        report.invalid(
            "spec.duration",
            node,
            "certificates of workloads live from 1m to 9528h (397 days)".to_owned(),
            "write for example 24h, 168h (7 days), 720h (30 days) or 2160h (90 days)".to_owned(),
        );
    }
    Some(lifetime)
}

fn renewal(report: &mut Report, spec: &Node, lifetime: Option<Duration>) -> Option<Renewal> {
    let (before, left) = (spec.get("renewBefore"), spec.get("renewBeforePercentage"));
    if let (Some(_), Some(node)) = (before, left) {
        report.invalid(
            "spec.renewBeforePercentage",
            node,
            "renewBefore and renewBeforePercentage exclude each other".to_owned(),
            "keep one of them".to_owned(),
        );
    }
    if let Some(node) = before {
        let before = read::duration(Some(node))?;
        let day = Duration::from_hours(24);
        let lifetime = lifetime.unwrap_or(day);
        if before.is_zero() || before >= lifetime {
            report.invalid(
                "spec.renewBefore",
                node,
                format!(
                    "a certificate of {} h cannot be renewed so long before its end",
                    lifetime.as_secs() / HOUR_S
                ),
                "write less than duration, for example a third of it".to_owned(),
            );
        }
        return Some(Renewal::Before(before));
    }
    read::count(left).map(Renewal::Left)
}

fn key(report: &mut Report, node: &Node) -> KeyType {
    let algorithm = node
        .get("algorithm")
        .and_then(Node::text)
        .unwrap_or("ECDSA");
    let size = node.get("size").and_then(Node::integer);
    let known = match (algorithm, size) {
        ("ECDSA", None | Some(256)) => Some(KeyType::EcdsaP256),
        ("ECDSA", Some(384)) => Some(KeyType::EcdsaP384),
        ("RSA", None | Some(2048)) => Some(KeyType::Rsa2048),
        ("RSA", Some(4096)) => Some(KeyType::Rsa4096),
        ("Ed25519", None) => Some(KeyType::Ed25519),
        _ => None,
    };
    if let (None, Some(written)) = (known, node.get("size")) {
        let (message, fix) = match (algorithm, size) {
            ("Ed25519", _) => (
                "Ed25519 has one size only".to_owned(),
                "leave size out".to_owned(),
            ),
            ("ECDSA", Some(2048 | 3072 | 4096)) => (
                format!(
                    "{} is a size of RSA, not of ECDSA",
                    size.unwrap_or_default()
                ),
                "write algorithm: RSA, or size: 256 or 384".to_owned(),
            ),
            ("ECDSA", _) => (
                "ECDSA has the sizes 256 and 384".to_owned(),
                "write 256 or 384".to_owned(),
            ),
            _ => (
                "RSA keys are of 2048 or 4096 bits".to_owned(),
                "write 2048 or 4096".to_owned(),
            ),
        };
        report.invalid("spec.privateKey.size", written, message, fix);
    }
    known.unwrap_or_default()
}

fn window(report: &mut Report, spec: &Node) -> Option<Window> {
    const AT: &str = "spec.maintenanceWindow";
    let node = spec.get("maintenanceWindow")?;
    let mut minute = |field: &str| {
        let written = node.get(field)?;
        let minute = written.text().and_then(minute_of);
        if minute.is_none() {
            report.invalid(
                &format!("{AT}.{field}"),
                written,
                format!(
                    "{:?} is no time of a day",
                    written.text().unwrap_or_default()
                ),
                "write hours and minutes in quotes, such as \"02:00\"".to_owned(),
            );
        }
        minute
    };
    let (opens, closes) = (minute("start"), minute("end"));
    let name = node.get("timeZone").and_then(Node::text).unwrap_or("UTC");
    let zone = naka_expr::zone(name);
    if let (None, Some(written)) = (&zone, node.get("timeZone")) {
        report.invalid(
            &format!("{AT}.timeZone"),
            written,
            format!("{name:?} is no time zone"),
            "write a name such as Asia/Kolkata, or +05:30".to_owned(),
        );
    }
    let most = read::duration(node.get("maxDuration"));
    if let (Some(written), true) = (
        node.get("maxDuration"),
        most.is_some_and(|most| most < MINUTE),
    ) {
        report.invalid(
            &format!("{AT}.maxDuration"),
            written,
            "a window is open for a minute at least".to_owned(),
            "write for example 30m".to_owned(),
        );
    }
    if let (Some(written), true) = (node.get("end"), opens.is_some() && opens == closes) {
        report.invalid(
            &format!("{AT}.end"),
            written,
            "it closes when it opens".to_owned(),
            "write a later time, or leave maintenanceWindow out".to_owned(),
        );
    }
    Some(Window {
        opens: opens?,
        closes: closes?,
        zone: zone?,
        most,
    })
}

/// `HH:MM` as a minute of the day.
fn minute_of(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    (hour < 24 && minute < 60).then_some(hour * 60 + minute)
}
