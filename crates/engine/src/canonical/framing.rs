//! Framing headers must leave one meaning, and hop-by-hop headers end at this hop.

use super::{Check, bad};
use http::{HeaderMap, HeaderName, HeaderValue, Version, header, request};

/// Refuses heads whose body length two readers could see differently (request smuggling).
pub(super) fn check(parts: &request::Parts) -> Check<()> {
    let headers = &parts.headers;
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(bad("more than one Content-Length"));
    }
    if let Some(value) = length {
        let digits = value.as_bytes();
        if !(1..=19).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
            return Err(bad("Content-Length is no number"));
        }
        // In base eight to some.
        if digits.len() > 1 && digits[0] == b'0' {
            return Err(bad("Content-Length begins with 0"));
        }
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(());
    };
    if codings.next().is_some() || length.is_some() {
        return Err(bad("two ways of framing"));
    }
    if parts.version != Version::HTTP_11 || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(bad("unknown transfer coding"));
    }
    Ok(())
}

/// What hop-by-hop headers asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hop {
    /// Protocol to switch to (`websocket`), when `Connection` names `upgrade`.
    pub upgrade: Option<HeaderValue>,
    /// Whether the other side takes trailers.
    pub trailers: bool,
    /// Whether the other side wants the connection closed.
    pub close: bool,
}

const HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Removes hop-by-hop headers and those that `Connection` names, and says what they asked for. `te: trailers` and,
/// for an upgrade, `connection` and `upgrade` are for the caller to put back where the next hop needs them.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) -> Hop {
    let mut hop = Hop::default();
    let token = |value: &[u8], want: &[u8]| {
        value
            .split(|b| *b == b',')
            .any(|t| t.trim_ascii().eq_ignore_ascii_case(want))
    };
    hop.trailers = headers
        .get_all(header::TE)
        .iter()
        .any(|v| token(v.as_bytes(), b"trailers"));
    let connection: Vec<HeaderValue> = headers
        .get_all(header::CONNECTION)
        .iter()
        .cloned()
        .collect();
    for value in &connection {
        if token(value.as_bytes(), b"upgrade") {
            hop.upgrade = headers.get(header::UPGRADE).cloned();
        }
        hop.close |= token(value.as_bytes(), b"close");
        for name in value.as_bytes().split(|b| *b == b',') {
            // End-to-end headers that a caller must not be able to have removed.
            let name = name.trim_ascii();
            let keep = [&b"content-length"[..], b"host", b"authorization", b"cookie"]
                .iter()
                .any(|k| name.eq_ignore_ascii_case(k));
            if let (false, Ok(name)) = (keep, HeaderName::from_bytes(name)) {
                headers.remove(name);
            }
        }
    }
    for name in &HOP {
        headers.remove(name);
    }
    hop
}

#[cfg(test)]
mod tests {
    use super::strip_hop_by_hop;
    use http::HeaderMap;

    #[test]
    fn hop_by_hop_headers_end_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "Upgrade, x-mine, content-length"),
            ("upgrade", "websocket"),
            ("x-mine", "1"),
            ("content-length", "3"),
            ("te", "gzip, trailers"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("x-other", "2"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let hop = strip_hop_by_hop(&mut headers);
        assert_eq!(hop.upgrade.unwrap(), "websocket");
        assert!(hop.trailers && !hop.close);
        let mut left: Vec<_> = headers.keys().map(|n| n.as_str()).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "x-other"]);
    }

    #[test]
    fn an_upgrade_needs_connection_to_name_it() {
        let mut headers = HeaderMap::new();
        headers.append("upgrade", "h2c".parse().unwrap());
        assert_eq!(strip_hop_by_hop(&mut headers).upgrade, None);
        assert!(headers.is_empty());
    }
}
