//! Reports of load that programs put into their responses (ORCA, `endpoint-load-metrics`), and the weight they make.
//!
//! Three forms, as Envoy reads them: `endpoint-load-metrics: TEXT cpu_utilization:0.3,rps_fractional:100`, `JSON` with
//! an object, `BIN` with base64 of the protobuf message `xds.data.orca.v3.OrcaLoadReport`; and the older headers of
//! each form's own (`endpoint-load-metrics` without a word, `…-json`, `…-bin`). The weight is calls per second for each unit of utilisation; errors count as utilisation. A
//! report that cannot be read, or comes in two forms at once, is none.

use crate::model::Utilization;
use http::{HeaderMap, HeaderValue};
use serde_json::Value;

const TEXT: &str = "endpoint-load-metrics";
const JSON: &str = "endpoint-load-metrics-json";
const BINARY: &str = "endpoint-load-metrics-bin";
/// Longest report read.
const MAX_BYTES: usize = 4096;

/// What a report says, as far as it is asked after.
#[derive(Debug, Default, PartialEq)]
struct Report {
    application: f64,
    cpu: f64,
    memory: f64,
    rps: f64,
    eps: f64,
    /// The largest of the metrics that the configuration names.
    named: f64,
}

/// The weight that a response's report makes.
pub(crate) fn weight(headers: &HeaderMap, rules: &Utilization) -> Option<u32> {
    let report = match (headers.get(TEXT), headers.get(JSON), headers.get(BINARY)) {
        (Some(value), None, None) => {
            let value = short(value)?;
            match value.split_once(' ') {
                Some(("TEXT", text)) => of_text(text, rules),
                Some(("JSON", json)) => of_json(json, rules),
                Some(("BIN", binary)) => of_binary(binary, rules),
                _ => of_text(value, rules),
            }
        }
        (None, Some(json), None) => of_json(short(json)?, rules),
        (None, None, Some(binary)) => of_binary(short(binary)?, rules),
        _ => None,
    }?;
    report.weight(rules.penalty)
}

impl Report {
    /// Takes a metric by the name it has in the text form.
    fn set(&mut self, name: &str, value: f64, rules: &Utilization) -> bool {
        if rules.metrics.iter().any(|wanted| **wanted == *name) {
            self.named = self.named.max(value);
        }
        match name {
            "application_utilization" => self.application = value,
            "cpu_utilization" => self.cpu = value,
            "mem_utilization" => self.memory = value,
            "rps_fractional" => self.rps = value,
            "eps" => self.eps = value,
            _ => return name.starts_with("named_metrics.") || name.starts_with("utilization."),
        }
        true
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is positive, and one beyond the range counts as the largest"
    )]
    fn weight(&self, penalty: f64) -> Option<u32> {
        let mut used = [self.named, self.application, self.cpu]
            .into_iter()
            .find(|used| *used > 0.0)
            .unwrap_or(0.0);
        if self.rps <= 0.0 {
            return None;
        }
        used += penalty * self.eps / self.rps;
        (used > 0.0).then(|| (self.rps / used).min(f64::from(u32::MAX)) as u32)
    }
}

fn of_text(text: &str, rules: &Utilization) -> Option<Report> {
    let mut report = Report::default();
    for pair in text.split(',') {
        let (name, value) = pair.trim().split_once(':')?;
        let value: f64 = value.trim().parse().ok()?;
        if !value.is_finite() || !report.set(name.trim(), value, rules) {
            return None;
        }
    }
    Some(report)
}

fn short(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok().filter(|text| text.len() <= MAX_BYTES)
}

fn of_json(text: &str, rules: &Utilization) -> Option<Report> {
    let json: Value = serde_json::from_str(text).ok()?;
    let mut report = Report::default();
    for (name, value) in json.as_object()? {
        // Both spellings of protobuf's JSON.
        let name: String = name
            .chars()
            .flat_map(|c| {
                let split = c.is_ascii_uppercase().then_some('_');
                split.into_iter().chain([c.to_ascii_lowercase()])
            })
            .collect();
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    report.set(&format!("{name}.{key}"), value.as_f64()?, rules);
                }
            }
            other => {
                report.set(&name, other.as_f64()?, rules);
            }
        }
    }
    Some(report)
}

fn of_binary(text: &str, rules: &Utilization) -> Option<Report> {
    let bytes = base64(text.as_bytes())?;
    let mut report = Report::default();
    for field in fields(&bytes)? {
        match field {
            (1, Field::Double(v)) => report.cpu = v,
            (2, Field::Double(v)) => report.memory = v,
            (6, Field::Double(v)) => report.rps = v,
            (7, Field::Double(v)) => report.eps = v,
            (9, Field::Double(v)) => report.application = v,
            (4 | 5 | 8, Field::Bytes(entry)) => {
                let (mut key, mut number) = ("", 0.0);
                for field in fields(entry)? {
                    match field {
                        (1, Field::Bytes(text)) => key = std::str::from_utf8(text).ok()?,
                        (2, Field::Double(v)) => number = v,
                        _ => {}
                    }
                }
                let map = match field.0 {
                    4 => "request_cost",
                    5 => "utilization",
                    _ => "named_metrics",
                };
                report.set(&format!("{map}.{key}"), number, rules);
            }
            _ => {}
        }
    }
    for (name, value) in [
        ("cpu_utilization", report.cpu),
        ("mem_utilization", report.memory),
        ("application_utilization", report.application),
    ] {
        report.set(name, value, rules);
    }
    Some(report)
}

/// A field of a protobuf message, as far as the report has such.
enum Field<'a> {
    Double(f64),
    Bytes(&'a [u8]),
    Other,
}

fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let field = match tag & 7 {
            0 => {
                varint(&mut bytes)?;
                Field::Other
            }
            1 => {
                let (head, rest) = bytes.split_first_chunk::<8>()?;
                bytes = rest;
                Field::Double(f64::from_le_bytes(*head)).finite()?
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (head, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Field::Bytes(head)
            }
            5 => {
                bytes = bytes.get(4..)?;
                Field::Other
            }
            _ => return None,
        };
        all.push((tag >> 3, field));
    }
    Some(all)
}

impl Field<'_> {
    fn finite(self) -> Option<Self> {
        match self {
            Self::Double(value) if !value.is_finite() => None,
            other => Some(other),
        }
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Base64 with or without padding.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.trim_ascii();
    let text = text
        .strip_suffix(b"==")
        .or(text.strip_suffix(b"="))
        .unwrap_or(text);
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::weight;
    use crate::model::Utilization;
    use base64::Engine as _;
    use http::{HeaderMap, HeaderValue};

    fn of(pairs: &[(&'static str, &str)]) -> Option<u32> {
        by("named_metrics.queue", pairs)
    }

    /// The weight where this metric counts as utilisation.
    fn by(metric: &str, pairs: &[(&'static str, &str)]) -> Option<u32> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let rules = Utilization {
            metrics: Box::new([metric.into()]),
            ..Utilization::default()
        };
        weight(&headers, &rules)
    }

    #[test]
    fn the_three_forms_say_the_same() {
        let text = "endpoint-load-metrics";
        let json = "endpoint-load-metrics-json";
        let binary = "endpoint-load-metrics-bin";
        assert_eq!(
            of(&[(text, "cpu_utilization:0.5,rps_fractional:100")]),
            Some(200)
        );
        assert_eq!(
            of(&[(json, r#"{"cpu_utilization":0.5,"rpsFractional":100}"#)]),
            Some(200)
        );
        for (word, report) in [
            ("TEXT", "cpu_utilization:0.5,rps_fractional:100"),
            ("JSON", r#"{"cpu_utilization":0.5,"rpsFractional":100}"#),
            ("BIN", "CQAAAAAAAOA/MQAAAAAAAFlA"),
        ] {
            assert_eq!(
                of(&[(text, &format!("{word} {report}"))]),
                Some(200),
                "{word}"
            );
        }
        // Fields 1 (cpu 0.5) and 6 (rps 100).
        assert_eq!(of(&[(binary, "CQAAAAAAAOA/MQAAAAAAAFlA")]), Some(200));
    }

    #[test]
    fn what_counts_as_utilisation() {
        let text = "endpoint-load-metrics";
        let rps = "rps_fractional:100";
        for (report, want) in [
            (
                "application_utilization:0.25,cpu_utilization:0.5",
                Some(400),
            ),
            (
                "named_metrics.queue:0.8,application_utilization:0.25",
                Some(125),
            ),
            ("named_metrics.other:0.8,cpu_utilization:0.5", Some(200)),
            ("cpu_utilization:0.5,eps:50", Some(100)),
            ("mem_utilization:0.5", None),
            ("mem_utilization:0.9,cpu_utilization:0.5", Some(200)),
            ("utilization.disk:0.9,cpu_utilization:0.5", Some(200)),
            ("named_metrics.queue:0.8,named_metrics.queue:0.2", Some(125)),
            ("cpu_utilization:0", None),
            ("cpu_utilization:nan", None),
            ("cpu_utilization", None),
            ("colour:1", None),
        ] {
            assert_eq!(of(&[(text, &format!("{report},{rps}"))]), want, "{report}");
        }
        assert_eq!(
            of(&[(text, "cpu_utilization:0.5")]),
            None,
            "no calls, no weight"
        );
        assert_eq!(of(&[(text, "cpu_utilization:0.5,rps_fractional:0")]), None);
        assert_eq!(of(&[]), None);
        let two = [
            (text, "cpu_utilization:0.5,rps_fractional:1"),
            ("endpoint-load-metrics-json", "{}"),
        ];
        assert_eq!(of(&two), None, "two forms at once");
        for broken in ["?", "CQ", "////"] {
            assert_eq!(
                of(&[("endpoint-load-metrics-bin", broken)]),
                None,
                "{broken}"
            );
        }
    }

    /// Fields of the protobuf message, one after the other.
    enum Part<'a> {
        Double(u8, f64),
        /// A field of a number without meaning, of each wire type.
        Varint(u64),
        Fixed32,
        Entry(u8, &'a str, f64),
        Raw(&'a [u8]),
    }

    fn number(bytes: &mut Vec<u8>, mut left: u64) {
        while left > 0x7f {
            bytes.push(u8::try_from(left & 0x7f).unwrap() | 0x80);
            left >>= 7;
        }
        bytes.push(u8::try_from(left).unwrap());
    }

    fn encoded(parts: &[Part<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in parts {
            match part {
                Part::Double(number, value) => {
                    bytes.push(number << 3 | 1);
                    bytes.extend(value.to_le_bytes());
                }
                Part::Varint(value) => {
                    // Field 600, so that the tag has two bytes as well.
                    bytes.extend([0xc0, 0x25]);
                    number(&mut bytes, *value);
                }
                Part::Fixed32 => bytes.extend([11 << 3 | 5, 1, 2, 3, 4]),
                Part::Entry(field, key, value) => {
                    let mut entry = vec![1 << 3 | 2];
                    number(&mut entry, key.len() as u64);
                    entry.extend(key.as_bytes());
                    entry.extend(encoded(&[Part::Double(2, *value)]));
                    bytes.push(field << 3 | 2);
                    number(&mut bytes, entry.len() as u64);
                    bytes.extend(entry);
                }
                Part::Raw(raw) => bytes.extend(*raw),
            }
        }
        bytes
    }

    fn binary(parts: &[Part<'_>]) -> Option<u32> {
        let standard = base64::engine::general_purpose::STANDARD;
        of(&[(
            "endpoint-load-metrics-bin",
            &standard.encode(encoded(parts)),
        )])
    }

    #[test]
    fn every_field_of_the_message_is_read_and_others_are_passed_over() {
        use Part::{Double, Entry, Fixed32, Raw, Varint};
        for (what, parts, want) in [
            ("cpu", &[Double(1, 0.5), Double(6, 100.0)][..], Some(200)),
            ("memory", &[Double(2, 0.5), Double(6, 100.0)], None),
            (
                "errors",
                &[Double(1, 0.5), Double(6, 100.0), Double(7, 50.0)],
                Some(100),
            ),
            (
                "application",
                &[Double(9, 0.25), Double(1, 0.5), Double(6, 100.0)],
                Some(400),
            ),
            (
                "named",
                &[Entry(8, "queue", 0.8), Double(1, 0.5), Double(6, 100.0)],
                Some(125),
            ),
            (
                "a cost is no named one",
                &[Entry(4, "queue", 0.8), Double(1, 0.5), Double(6, 100.0)],
                Some(200),
            ),
            (
                "nor is a utilisation",
                &[Entry(5, "queue", 0.8), Double(1, 0.5), Double(6, 100.0)],
                Some(200),
            ),
            (
                "others",
                &[
                    Varint(1),
                    Fixed32,
                    Varint(u64::MAX),
                    Double(1, 0.5),
                    Double(6, 100.0),
                ],
                Some(200),
            ),
            (
                "a long one",
                &[Double(1, 0.5), Varint(300), Double(6, 100.0)],
                Some(200),
            ),
            (
                "cut in a number",
                &[Double(1, 0.5), Double(6, 100.0), Raw(&[0x80])],
                None,
            ),
            (
                "cut in a double",
                &[Double(1, 0.5), Double(6, 100.0), Raw(&[7 << 3 | 1, 0])],
                None,
            ),
            (
                "cut in a text",
                &[Double(1, 0.5), Double(6, 100.0), Raw(&[8 << 3 | 2, 9, 0])],
                None,
            ),
            (
                "cut in 32 bits",
                &[
                    Double(1, 0.5),
                    Double(6, 100.0),
                    Raw(&[11 << 3 | 5, 0, 0, 0]),
                ],
                None,
            ),
            (
                "a number without end",
                &[Double(1, 0.5), Double(6, 100.0), Raw(&[0xff; 12])],
                None,
            ),
            (
                "a group",
                &[Double(1, 0.5), Double(6, 100.0), Raw(&[11 << 3 | 3])],
                None,
            ),
            ("no number", &[Double(1, f64::NAN), Double(6, 100.0)], None),
            (
                "without end",
                &[Double(1, f64::INFINITY), Double(6, 100.0)],
                None,
            ),
        ] {
            assert_eq!(binary(parts), want, "{what}");
        }
    }

    /// Whatever is named counts, in each form under the same name.
    #[test]
    fn any_metric_can_be_named() {
        use Part::{Double, Entry};
        let json =
            |inner: &str| format!(r#"JSON {{"cpuUtilization":0.5,"rpsFractional":100,{inner}}}"#);
        let plain = |inner: &str| format!("cpu_utilization:0.5,rps_fractional:100,{inner}");
        // Lengths of more than one byte, of two sizes.
        let (longer, longest) = ("q".repeat(200), "q".repeat(2000));
        for name in [&longer, &longest] {
            let parts = encoded(&[Double(1, 0.5), Double(6, 100.0), Entry(8, name, 0.8)]);
            let encoded = base64::engine::general_purpose::STANDARD.encode(parts);
            let report = [("endpoint-load-metrics-bin", &*encoded)];
            assert_eq!(by(&format!("named_metrics.{name}"), &report), Some(125));
        }
        for (metric, part, inner, line) in [
            (
                "named_metrics.q",
                Entry(8, "q", 0.8),
                r#""namedMetrics":{"q":0.8}"#,
                "named_metrics.q:0.8",
            ),
            (
                "utilization.q",
                Entry(5, "q", 0.8),
                r#""utilization":{"q":0.8}"#,
                "utilization.q:0.8",
            ),
            (
                "mem_utilization",
                Double(2, 0.8),
                r#""memUtilization":0.8"#,
                "mem_utilization:0.8",
            ),
            (
                "request_cost.q",
                Entry(4, "q", 0.8),
                r#""request_cost":{"q":0.8}"#,
                "",
            ),
        ] {
            let parts = encoded(&[Double(1, 0.5), Double(6, 100.0), part]);
            let encoded = base64::engine::general_purpose::STANDARD.encode(parts);
            let mut forms = vec![format!("BIN {encoded}"), json(inner)];
            // The text form has no costs.
            forms.extend((!line.is_empty()).then(|| plain(line)));
            for form in forms {
                let report = [("endpoint-load-metrics", &*form)];
                assert_eq!(by(metric, &report), Some(125), "{form}");
                assert_eq!(by("other", &report), Some(200), "{form}");
            }
        }
    }

    #[test]
    fn a_report_of_4096_bytes_is_read_and_a_longer_one_is_not() {
        let padded = |length: usize| {
            let (head, tail) = ("cpu_utilization:0.5,rps_fractional:", "100");
            let width = length - head.len();
            of(&[("endpoint-load-metrics", &format!("{head}{tail:>width$}"))])
        };
        assert_eq!(padded(4096), Some(200));
        assert_eq!(padded(4097), None);
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
        for length in 0..70u8 {
            // All values of six bits occur.
            let bytes: Vec<u8> = (0..length)
                .map(|n| n.wrapping_mul(167).wrapping_add(length))
                .collect();
            for text in [STANDARD.encode(&bytes), STANDARD_NO_PAD.encode(&bytes)] {
                assert_eq!(
                    super::base64(text.as_bytes()),
                    Some(bytes.clone()),
                    "{text}"
                );
            }
        }
        for broken in ["Q!", "QQ=a", "Q-", "Q_"] {
            assert_eq!(super::base64(broken.as_bytes()), None, "{broken}");
        }
    }
}
