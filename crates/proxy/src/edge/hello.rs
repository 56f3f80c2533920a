//! What a TLS client says in the clear: the server name it wants.
//!
//! A pure reader of the first bytes, because a connection that passes through is never opened here and must keep every
//! byte. It takes what any TLS since 1.0 sends, in however many records and segments; what is malformed is no TLS.

/// The largest hello that is awaited, as Envoy's inspector.
pub(crate) const LONGEST: usize = 16 * 1024;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hello {
    /// A client hello, with the server name if it has a sound one (lower case).
    Said(Option<String>),
    /// Not TLS, or beyond all measure.
    Malformed,
    /// Not enough bytes to tell.
    More,
}

/// Reads the first bytes of a connection that begins with a handshake record.
pub(crate) fn read(bytes: &[u8]) -> Hello {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        let Some((head, body)) = rest.split_first_chunk::<5>() else {
            return more(bytes, rest.first() == Some(&22) || rest.is_empty());
        };
        let [kind, major, _, high, low] = *head;
        let length = usize::from(high) << 8 | usize::from(low);
        if kind != 22 || major != 3 || length == 0 || length > LONGEST {
            return Hello::Malformed;
        }
        let here = body.get(..length).unwrap_or(body);
        message.extend_from_slice(here);
        if let Some(done) = complete(&message) {
            return done;
        }
        match body.get(length..) {
            Some(next) => rest = next,
            None => return more(bytes, true),
        }
    }
}

fn more(bytes: &[u8], sound: bool) -> Hello {
    if sound && bytes.len() < LONGEST {
        Hello::More
    } else {
        Hello::Malformed
    }
}

/// The hello in a handshake message, once all of it is there.
fn complete(message: &[u8]) -> Option<Hello> {
    let (kind, rest) = message.split_first()?;
    if *kind != 1 {
        return Some(Hello::Malformed);
    }
    let (length, body) = rest.split_first_chunk::<3>()?;
    let length = length
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    if length > LONGEST {
        return Some(Hello::Malformed);
    }
    let body = body.get(..length)?;
    Some(server_name(body).map_or(Hello::Malformed, Hello::Said))
}

/// A reader of fields with lengths.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A field behind its length of so many bytes.
    fn field(&mut self, width: usize) -> Option<&'a [u8]> {
        let length = self.take(width)?;
        let length = length
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        self.take(length)
    }
}

/// The name of the server name extension; `None` when the hello cannot be read.
#[expect(
    clippy::option_option,
    reason = "unreadable, and read but without a name, differ"
)]
fn server_name(body: &[u8]) -> Option<Option<String>> {
    let mut fields = Fields(body);
    // Version, random, session, suites, compression.
    fields.take(2 + 32)?;
    fields.field(1)?;
    fields.field(2)?;
    fields.field(1)?;
    if fields.0.is_empty() {
        return Some(None);
    }
    let mut extensions = Fields(fields.field(2)?);
    while !extensions.0.is_empty() {
        let kind = extensions.take(2)?;
        let content = extensions.field(2)?;
        if kind == [0, 0] {
            let mut names = Fields(Fields(content).field(2)?);
            if names.take(1)? != [0] {
                return Some(None);
            }
            return Some(sound(names.field(2)?));
        }
    }
    Some(None)
}

/// A host name as certificates have them; anything else names nobody.
fn sound(name: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(name).ok()?;
    let host = naka_types::host::Host::parse(text).ok()?;
    (!host.is_wildcard()).then(|| host.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Hello, LONGEST, read};

    /// A hello with this server name, its message cut into records of so many bytes.
    fn hello(name: Option<&[u8]>, record: usize) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        let mut extensions = vec![0, 43, 0, 3, 2, 3, 4];
        if let Some(name) = name {
            let length = |count: usize| [(count >> 8) as u8, count as u8];
            extensions.extend([0, 0]);
            extensions.extend(length(name.len() + 5));
            extensions.extend(length(name.len() + 3));
            extensions.push(0);
            extensions.extend(length(name.len()));
            extensions.extend(name);
        }
        body.extend([(extensions.len() >> 8) as u8, extensions.len() as u8]);
        body.extend(extensions);
        let mut message = vec![1, 0, (body.len() >> 8) as u8, body.len() as u8];
        message.extend(body);
        let mut out = Vec::new();
        for part in message.chunks(record) {
            out.extend([22, 3, 1, (part.len() >> 8) as u8, part.len() as u8]);
            out.extend(part);
        }
        out
    }

    #[test]
    fn the_server_name_is_read_however_the_hello_is_cut() {
        let said = Hello::Said(Some("shop.example.com".to_owned()));
        for record in [1, 2, 3, 40, 10_000] {
            let bytes = hello(Some(b"Shop.Example.com"), record);
            assert_eq!(read(&bytes), said, "records of {record}");
            for end in 0..bytes.len() {
                assert_eq!(
                    read(&bytes[..end]),
                    Hello::More,
                    "{end} of records of {record}"
                );
            }
            let with_more = [bytes, vec![20, 3, 3, 0, 1, 1]].concat();
            assert_eq!(read(&with_more), said);
        }
        assert_eq!(read(&hello(None, 500)), Hello::Said(None));
    }

    #[test]
    fn what_names_nobody_and_what_is_no_hello() {
        for name in [&b""[..], b"a b", b"*.example.com", b"\xff", &[b'a'; 10_240]] {
            assert_eq!(
                read(&hello(Some(name), 4_000)),
                Hello::Said(None),
                "{}",
                name.len()
            );
        }
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            &[22, 3, 1, 0, 0],
            &[22, 2, 1, 0, 5, 1],
            &[22, 3, 1, 0, 4, 2, 0, 0, 0],
            &[22, 3, 1, 255, 255],
            &[22, 3, 1, 0, 4, 1, 255, 255, 255],
            &[22, 3, 1, 0, 6, 1, 0, 0, 2, 3, 3],
        ] {
            assert_eq!(read(bytes), Hello::Malformed, "{bytes:?}");
        }
        let endless = hello(Some(&[b'a'; 2 * LONGEST]), LONGEST);
        assert_eq!(read(&endless), Hello::Malformed);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut rng = fastrand::Rng::with_seed(3);
        let sound = hello(Some(b"shop.example.com"), 50);
        for _ in 0..20_000 {
            let mut bytes = sound.clone();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            bytes.truncate(rng.usize(..=bytes.len()));
            let _any = read(&bytes);
        }
    }
}
