//! What a connection speaks, from its first bytes.
//!
//! Pure: the caller reads and asks again while the answer is [`Speaks::More`]. A declared protocol is believed and
//! never comes here. Unknown methods count as HTTP only with a target after them, so that text protocols whose client
//! speaks first (Redis inline commands, SMTP, memcached) stay opaque.

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// An HTTP/1 request.
    Http1,
    /// The preface of HTTP/2.
    Http2,
    /// A TLS client hello.
    Tls,
    /// Anything else.
    Other,
    /// Not enough bytes to tell.
    More,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of the preface that nothing else begins with; the rest is HTTP/2's own business.
const PREFACE_SURE: usize = 16;
const LONGEST_METHOD: usize = 20;

/// Bytes that always suffice for an answer.
pub(crate) const ENOUGH: usize = 32;

/// Judges the first bytes of a connection.
#[must_use]
pub(crate) fn speaks(bytes: &[u8]) -> Speaks {
    let Some(&first) = bytes.first() else {
        return Speaks::More;
    };
    if first == 0x16 {
        return match bytes {
            [_, 3, ..] => Speaks::Tls,
            [_] => Speaks::More,
            _ => Speaks::Other,
        };
    }
    if bytes.len() >= PREFACE_SURE {
        if bytes.starts_with(&PREFACE[..PREFACE_SURE]) {
            return Speaks::Http2;
        }
    } else if PREFACE.starts_with(bytes) {
        return Speaks::More;
    }
    http1(bytes)
}

fn http1(bytes: &[u8]) -> Speaks {
    let method = bytes
        .iter()
        .take(LONGEST_METHOD + 1)
        .take_while(|b| b.is_ascii_uppercase() || **b == b'-' || **b == b'_')
        .count();
    if method == 0 || method > LONGEST_METHOD {
        return Speaks::Other;
    }
    match bytes.get(method) {
        None => return Speaks::More,
        Some(b' ') if method >= 3 => {}
        Some(_) => return Speaks::Other,
    }
    let target = &bytes[method + 1..];
    let connect = &bytes[..method] == b"CONNECT";
    match target.first() {
        None => Speaks::More,
        Some(b'/' | b'*') => Speaks::Http1,
        Some(_) if connect => Speaks::Http1,
        Some(_) => {
            let scheme = b"http";
            let seen = target.len().min(scheme.len());
            if !target[..seen].eq_ignore_ascii_case(&scheme[..seen]) {
                Speaks::Other
            } else if seen < scheme.len() {
                Speaks::More
            } else {
                Speaks::Http1
            }
        }
    }
}

/// Whether the called side's first bytes are how every HTTP/2 server greets, without having been asked: a SETTINGS frame
/// (whole entries, no acknowledgement) of stream 0.
pub(crate) fn is_http2_server(bytes: &[u8]) -> bool {
    const LONGEST: usize = 6 * 64;
    let Some(head) = bytes.first_chunk::<9>() else {
        return false;
    };
    let length = usize::from(head[1]) << 8 | usize::from(head[2]);
    head[0] == 0 && length <= LONGEST && length.is_multiple_of(6) && head[3..] == [4, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::{ENOUGH, PREFACE, Speaks, speaks};

    #[test]
    fn first_bytes_tell_the_protocol() {
        for (bytes, want) in [
            (&b"GET / HTTP/1.1\r\n"[..], Speaks::Http1),
            (b"OPTIONS * HTTP/1.1", Speaks::Http1),
            (b"CONNECT a:80 HTTP/1.1", Speaks::Http1),
            (b"GET http://a/", Speaks::Http1),
            (b"PROPFIND /", Speaks::Http1),
            (PREFACE, Speaks::Http2),
            (b"PRI * HTTP/2.0\r\n", Speaks::Http2),
            (b"PRI * HTTP/1.1\r\n", Speaks::Http1),
            (b"\x16\x03\x01", Speaks::Tls),
            (b"\x16\x00", Speaks::Other),
            (b"PING\r\n", Speaks::Other),
            (b"SET key value\r\n", Speaks::Other),
            (b"EHLO mail.example\r\n", Speaks::Other),
            (b"*1\r\n$4\r\nPING\r\n", Speaks::Other),
            (b"\0\0\0\x08", Speaks::Other),
            (b"get / HTTP/1.1", Speaks::Other),
            (b"", Speaks::More),
            (b"P", Speaks::More),
            (b"GET ", Speaks::More),
            (b"GET htt", Speaks::More),
        ] {
            assert_eq!(speaks(bytes), want, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn the_answer_never_changes_with_more_bytes_and_is_there_in_time() {
        let mut rng = fastrand::Rng::with_seed(7);
        let seeds: [&[u8]; 4] = [
            PREFACE,
            b"POST http://a/b HTTP/1.1\r\nHost: a",
            b"\x16\x03\x03aaaaaaaa",
            b"SET a b",
        ];
        for round in 0..20_000 {
            let mut bytes = seeds[round % 4].to_vec();
            bytes.resize(ENOUGH + 8, b'A');
            for _ in 0..rng.usize(..3) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            let mut known = Speaks::More;
            for end in 0..=bytes.len() {
                let now = speaks(&bytes[..end]);
                assert!(known == Speaks::More || known == now, "{bytes:?} at {end}");
                known = now;
            }
            assert_ne!(known, Speaks::More, "{bytes:?}");
        }
    }

    #[test]
    fn how_an_http2_server_greets() {
        for (bytes, expect) in [
            (&b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0\x40\0"[..], true),
            (b"\0\0\0\x04\0\0\0\0\0", true),
            (b"\0\0\0\x04\x01\0\0\0\0", false),
            (b"\0\0\x05\x04\0\0\0\0\0", false),
            (b"\0\0\x06\x04\0\0\0\0\x01", false),
            (b"\x4a\0\0\0\x0a8.0.36-mysql", false),
            (b"220 mail ready\r\n", false),
            (b"SSH-2.0-OpenSSH_9.2\r\n", false),
            (b"\0\0\x06\x04", false),
            (b"", false),
        ] {
            assert_eq!(super::is_http2_server(bytes), expect, "{bytes:?}");
        }
    }
}
