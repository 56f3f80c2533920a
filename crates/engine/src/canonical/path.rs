//! Normal form of a path, as Istio's default NORMALIZE: RFC 3986 §6.2.2 plus `\` as `/`.
//!
//! Unreserved characters are decoded, other escapes stay with upper-case digits (`%2F` and `%5C` stay escaped: they
//! are data, and decoding them would move segment borders), bytes above ASCII are escaped, dot segments are resolved,
//! also with parameters (`..;x`): servers that strip those would resolve them behind the policy (CVE-2026-73551).
//! Repeated slashes stay, as in Istio. Refused: broken escapes, escaped NUL, overlong UTF-8, raw control characters.

/// Puts a path into normal form; `None` when it already is.
///
/// # Errors
/// What is wrong, when the path has no single meaning.
pub fn normalise(path: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    if is_plain(path)? {
        return Ok(None);
    }
    let decoded = decode(path)?;
    let normal = resolve_dots(&decoded);
    Ok((normal != path).then_some(normal))
}

/// Whether nothing in the path could need a change.
fn is_plain(path: &[u8]) -> Result<bool, &'static str> {
    let mut plain = true;
    let mut previous = 0;
    for byte in path {
        match byte {
            0..=0x20 | 0x7f => return Err("control character or space in path"),
            b'%' | b'\\' | b'#' | 0x80.. => plain = false,
            b'.' if previous == b'/' => plain = false,
            _ => {}
        }
        previous = *byte;
    }
    if path.contains(&b'#') {
        return Err("fragment in path");
    }
    Ok(plain)
}

fn decode(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::with_capacity(path.len() + 16);
    let mut rest = path;
    // The escaped byte just before, to see overlong sequences.
    let mut lead = 0u8;
    while let [byte, tail @ ..] = rest {
        let (value, escaped) = match (byte, tail) {
            (b'%', [high, low, ..]) => {
                let value = hex(*high).zip(hex(*low)).ok_or("broken escape in path")?;
                rest = &tail[2..];
                (value.0 << 4 | value.1, true)
            }
            (b'%', _) => return Err("broken escape in path"),
            _ => {
                rest = tail;
                (*byte, false)
            }
        };
        if escaped && value == 0 {
            return Err("escaped NUL in path");
        }
        let overlong = matches!(value, 0xc0 | 0xc1)
            || lead == 0xe0 && matches!(value, 0x80..=0x9f)
            || lead == 0xf0 && matches!(value, 0x80..=0x8f);
        if overlong {
            return Err("overlong UTF-8 in path");
        }
        lead = value;
        match value {
            b'\\' if !escaped => out.push(b'/'),
            _ if !escaped && value < 0x80 => out.push(value),
            _ if is_unreserved(value) => out.push(value),
            _ => {
                out.push(b'%');
                out.push(HEX[usize::from(value >> 4)]);
                out.push(HEX[usize::from(value & 15)]);
            }
        }
    }
    Ok(out)
}

/// RFC 3986 §5.2.4 on an absolute path.
fn resolve_dots(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    let mut segments = path
        .strip_prefix(b"/")
        .unwrap_or(path)
        .split(|b| *b == b'/')
        .peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        // RFC 3986 §3.3: what follows a semicolon are parameters of the segment, not its name.
        let name = segment.split(|b| *b == b';').next().unwrap_or_default();
        match name {
            b"." | b".." => {
                if name == b".." {
                    let parent = out.iter().rposition(|b| *b == b'/').unwrap_or(0);
                    out.truncate(parent);
                }
                if last {
                    out.push(b'/');
                }
            }
            _ => {
                out.push(b'/');
                out.extend_from_slice(segment);
            }
        }
    }
    if out.is_empty() {
        out.push(b'/');
    }
    out
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use super::normalise;
    use proptest::prelude::{any, prop, proptest};

    #[test]
    fn paths_in_normal_form() {
        for (given, want) in [
            ("/", None),
            ("/a/b.c/..d/e..", None),
            ("//a//b", None),
            ("/a/./b", Some("/a/b")),
            ("/a/../b", Some("/b")),
            ("/a/b/..", Some("/a/")),
            ("/a/.", Some("/a/")),
            ("/../../a", Some("/a")),
            ("/..", Some("/")),
            ("/a//../b", Some("/a/b")),
            ("/%61%2d%7E", Some("/a-~")),
            ("/a%2fb", Some("/a%2Fb")),
            ("/a%2Fb", None),
            ("/a%5Cb", None),
            (r"/a\b", Some("/a/b")),
            (r"/a\..\b", Some("/b")),
            ("/a/%2e%2E/b", Some("/b")),
            ("/a/%252e%252e/b", None),
            ("/ä", Some("/%C3%A4")),
            ("/%c3%a4", Some("/%C3%A4")),
            ("/%E9", None),
            ("/a;b=..", None),
            ("/a/..;x/b", Some("/b")),
            ("/a/b/..;x=y;z", Some("/a/")),
            ("/a/.;/b", Some("/a/b")),
            ("/a/%2e.;x/b", Some("/b")),
            ("/a/..%3bx/b", Some("/a/..%3Bx/b")),
            ("/a/...;x/b", None),
        ] {
            let got = normalise(given.as_bytes()).unwrap();
            assert_eq!(
                got.as_deref().map(|b| std::str::from_utf8(b).unwrap()),
                want,
                "{given}"
            );
        }
    }

    #[test]
    fn what_has_no_single_meaning_is_refused() {
        for bad in [
            "/%",
            "/%4",
            "/%zz",
            "/a%00",
            "/%c0%af",
            "/%C1%9c",
            "/%e0%80%af",
            "/%f0%80%80%af",
            "/a b",
            "/a\0",
            "/a#b",
            "/a%0",
            "/\x7f",
        ] {
            assert!(normalise(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn normalising_is_total_and_idempotent(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let path: Vec<u8> = b"/".iter().copied().chain(bytes).collect();
            if let Ok(Some(normal)) = normalise(&path) {
                assert_eq!(normalise(&normal), Ok(None));
            }
        }

        #[test]
        fn hostile_paths_stay_inside(pieces in prop::collection::vec(prop::sample::select(
            vec!["/", "..", ".", "%2e", "%2E", "\\", "a", "%5c", "%2f", "%61", "//", "%25", ";"]), 0..24)) {
            let path = format!("/{}", pieces.concat());
            let normal = normalise(path.as_bytes()).unwrap().unwrap_or(path.into_bytes());
            let text = std::str::from_utf8(&normal).unwrap();
            assert!(text.starts_with('/') && !text.contains('\\'));
            assert!(text.split('/').all(|segment| !matches!(segment.split(';').next(), Some("." | ".."))));
            assert_eq!(normalise(&normal), Ok(None));
        }
    }
}
