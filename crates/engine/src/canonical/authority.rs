//! Host and port of a request, checked and in lower case, without a heap allocation for ordinary names.

use super::{Check, bad};
use crate::limits;
use naka_types::reason::Reason;
use smallvec::SmallVec;
use std::net::Ipv6Addr;

/// `host` or `host:port`; the host is in lower case, has no trailing dot and no user name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// ASCII only, checked by [`Authority::parse`].
    text: SmallVec<[u8; 64]>,
    host: usize,
    port: Option<u16>,
}

impl Authority {
    /// Checks an authority.
    ///
    /// # Errors
    /// `bad-request` for anything but a DNS name or IP literal with an optional port.
    pub fn parse(text: &[u8]) -> Result<Self, (Reason, &'static str)> {
        if text.contains(&b'@') {
            return Err(bad("user name in authority"));
        }
        let (host, port) = split(text)?;
        let host = check_host(host)?;
        let mut out = SmallVec::with_capacity(host.len() + 6);
        out.extend(host.iter().map(u8::to_ascii_lowercase));
        let port = port.filter(|digits| !digits.is_empty());
        let number = port.map(parse_port).transpose()?;
        if let Some(digits) = port {
            out.push(b':');
            out.extend_from_slice(digits);
        }
        Ok(Self {
            text: out,
            host: host.len(),
            port: number,
        })
    }

    /// Host, IPv6 in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        std::str::from_utf8(&self.text[..self.host]).unwrap_or_default()
    }

    /// Port, if given.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text).unwrap_or_default()
    }
}

fn split(text: &[u8]) -> Check<(&[u8], Option<&[u8]>)> {
    if text.first() == Some(&b'[') {
        let end = text
            .iter()
            .position(|b| *b == b']')
            .ok_or(bad("open bracket in host"))?;
        let (host, rest) = text.split_at(end + 1);
        return match rest {
            [] => Ok((host, None)),
            [b':', port @ ..] => Ok((host, Some(port))),
            _ => Err(bad("text after the bracket in host")),
        };
    }
    Ok(match text.iter().position(|b| *b == b':') {
        None => (text, None),
        Some(colon) => (&text[..colon], Some(&text[colon + 1..])),
    })
}

fn check_host(host: &[u8]) -> Check<&[u8]> {
    if let [b'[', inner @ .., b']'] = host {
        let sound = std::str::from_utf8(inner).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok());
        return if sound {
            Ok(host)
        } else {
            Err(bad("host is no IPv6 address"))
        };
    }
    let host = host.strip_suffix(b".").unwrap_or(host);
    let label = |label: &[u8]| {
        (1..=63).contains(&label.len())
            && label
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if host.len() <= limits::HOST_BYTES && host.split(|b| *b == b'.').all(label) {
        Ok(host)
    } else {
        Err(bad("host is no name"))
    }
}

fn parse_port(digits: &[u8]) -> Check<u16> {
    let sound = digits.len() <= 5 && digits[0] != b'0' && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits)
        .ok()
        .filter(|_| sound)
        .and_then(|text| text.parse().ok())
        .ok_or(bad("port is no number"))
}

#[cfg(test)]
mod tests {
    use super::Authority;
    use proptest::prelude::{any, prop, proptest};

    #[test]
    fn authorities() {
        for (given, host, port, text) in [
            ("payment", "payment", None, "payment"),
            (
                "Payment.SHOP.:80",
                "payment.shop",
                Some(80),
                "payment.shop:80",
            ),
            ("a:", "a", None, "a"),
            ("10.0.0.1:8080", "10.0.0.1", Some(8080), "10.0.0.1:8080"),
            ("[::1]:80", "[::1]", Some(80), "[::1]:80"),
            ("[2001:DB8::1]", "[2001:db8::1]", None, "[2001:db8::1]"),
            ("my_svc-1", "my_svc-1", None, "my_svc-1"),
        ] {
            let got = Authority::parse(given.as_bytes()).unwrap();
            assert_eq!((got.host(), got.port(), got.as_str()), (host, port, text));
        }
        for bad in [
            "", ".", "a..b", "u@a", "u:p@a", "a:0", "a:080", "a:99999", "a:x", "a:80:90", "[::1",
            "[::1]x", "[x]", "::1", "a b", "a/b", "ä", "a%41", "-..", "a\0",
        ] {
            assert!(Authority::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn total_and_idempotent(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(first) = Authority::parse(&bytes) {
                assert_eq!(Authority::parse(first.as_str().as_bytes()), Ok(first));
            }
        }

        #[test]
        fn names_are_taken(name in "[a-zA-Z0-9_-]{1,63}(\\.[a-z0-9]{1,10}){0,4}\\.?(:[1-9][0-9]{0,3})?") {
            let first = Authority::parse(name.as_bytes()).unwrap();
            assert_eq!(Authority::parse(first.as_str().as_bytes()), Ok(first));
        }
    }
}
