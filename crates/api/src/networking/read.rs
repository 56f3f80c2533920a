//! Small readers shared by the builders: values whose type the walk has checked already, and checks of meaning.

use crate::decode::Report;
use crate::tree::Node;
use base64::Engine as _;
use naka_types::host::Host;
use std::time::Duration;

/// Largest compiled regular expression, in bytes.
const REGEX_BYTES: usize = 1 << 20;

/// A non-empty text.
pub(crate) fn text(node: Option<&Node>) -> Option<String> {
    node.and_then(Node::text)
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

/// The texts of a list.
pub(crate) fn texts(node: Option<&Node>) -> Vec<String> {
    node.map(Node::items)
        .unwrap_or_default()
        .iter()
        .filter_map(Node::text)
        .map(str::to_owned)
        .collect()
}

/// A port number.
pub(crate) fn port(node: Option<&Node>) -> Option<u16> {
    node.and_then(Node::integer)
        .and_then(|number| u16::try_from(number).ok())
        .filter(|port| *port > 0)
}

/// A count.
pub(crate) fn count(node: Option<&Node>) -> Option<u32> {
    node.and_then(Node::integer)
        .and_then(|number| u32::try_from(number).ok())
}

/// A duration.
pub(crate) fn duration(node: Option<&Node>) -> Option<Duration> {
    node.and_then(Node::text)
        .and_then(|text| naka_types::duration::parse(text).ok())
}

/// A host, resolved in a namespace.
pub(crate) fn host(
    report: &mut Report,
    node: Option<&Node>,
    at: &str,
    namespace: &str,
    wildcard: bool,
) -> Option<Host> {
    let node = node?;
    let text = node.text().filter(|text| !text.is_empty())?;
    match Host::resolve(text, namespace) {
        Ok(host) if host.is_wildcard() && !wildcard => {
            report.invalid(
                at,
                node,
                format!("{text:?} is a pattern; a destination is one host"),
                "write the service's name".to_owned(),
            );
            None
        }
        Ok(host) => Some(host),
        Err(error) => {
            report.invalid(
                at,
                node,
                error.to_string(),
                "write a name such as payment or payment.prod.svc.cluster.local".to_owned(),
            );
            None
        }
    }
}

/// Whether a regular expression compiles; reports if not.
pub(crate) fn regex(report: &mut Report, pattern: &str, at: &str, node: &Node) -> bool {
    match regex::RegexBuilder::new(pattern)
        .size_limit(REGEX_BYTES)
        .build()
    {
        Ok(_) => true,
        Err(error) => {
            // The parser's message draws the pattern over several lines; its last line says what is wrong.
            let text = error.to_string();
            let why = text
                .lines()
                .last()
                .unwrap_or_default()
                .trim()
                .trim_start_matches("error: ")
                .to_owned();
            report.invalid(
                at,
                node,
                format!("the regular expression does not compile: {why}"),
                "use RE2 syntax: no look-around, no back-references".to_owned(),
            );
            false
        }
    }
}

/// Base64 bytes; reports without showing the value.
pub(crate) fn base64(report: &mut Report, node: &Node, at: &str) -> Option<Vec<u8>> {
    let text: String = node
        .text()?
        .chars()
        .filter(|c| !c.is_ascii_whitespace())
        .collect();
    let read = base64::engine::general_purpose::STANDARD.decode(text).ok();
    if read.is_none() {
        report.invalid(
            at,
            node,
            "not base64".to_owned(),
            "encode the value with base64".to_owned(),
        );
    }
    read
}

/// Whether a lower-case text is a header name (RFC 9110 token).
pub(crate) fn is_header_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Checks a header edit: name and value must be sendable, and framing stays out of reach.
pub(crate) fn check_header(report: &mut Report, name: &str, value: &str, at: &str, node: &Node) {
    if !is_header_name(name.strip_prefix(':').unwrap_or(name)) {
        report.invalid(
            at,
            node,
            format!("{name:?} is not a header name"),
            "use letters, digits and '-'".to_owned(),
        );
    } else if (name.starts_with(':') && name != ":authority")
        || matches!(
            name,
            "content-length"
                | "transfer-encoding"
                | "connection"
                | "te"
                | "upgrade"
                | "keep-alive"
                | "trailer"
        )
    {
        report.invalid(
            at,
            node,
            format!("{name} frames the message and cannot be edited"),
            "use rewrite for path and host; leave the others out".to_owned(),
        );
    }
    check_value(report, Some(value), at, node);
}

/// Refuses control characters, which would split a header.
pub(crate) fn check_value(report: &mut Report, value: Option<&str>, at: &str, node: &Node) {
    if value.is_some_and(|value| value.chars().any(|c| c.is_control() && c != '\t')) {
        report.invalid(
            at,
            node,
            "control characters are not allowed here".to_owned(),
            "write it in one line".to_owned(),
        );
    }
}
