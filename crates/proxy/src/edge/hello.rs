//! What a TLS client says in the clear: the server name it wants.
//!
//! A pure reader of the first bytes, because a connection that passes through is never opened here and must keep every
//! byte. It takes what any TLS since 1.0 sends, in however many records and segments; what is malformed is no TLS.

/// The largest hello that is awaited, as Envoy's inspector.
pub(crate) const LONGEST: usize = 16 * 1024;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hello {
    /// A client hello.
    Said(Said),
    /// Not TLS, or beyond all measure.
    Malformed,
    /// Not enough bytes to tell.
    More,
}

/// What a client hello says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Said {
    /// The server name, lower case, if it is a sound one.
    pub(crate) name: Option<String>,
    /// There is a server name, and it is none that a certificate could have; or it cannot be known whether there is one.
    pub(crate) unsound: bool,
    /// There is a second hello inside, encrypted (ECH): the name that counts may be another one.
    pub(crate) encrypted: bool,
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
    Some(said(body).map_or(Hello::Malformed, Hello::Said))
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

/// Number of the server name extension.
const SERVER_NAME: [u8; 2] = [0, 0];
/// Number of the extension that holds an encrypted hello, or bytes that look like one.
const ENCRYPTED: [u8; 2] = [0xfe, 0x0d];

/// What the extensions say; `None` when the hello cannot be read.
fn said(body: &[u8]) -> Option<Said> {
    let mut fields = Fields(body);
    // Version, random, session, suites, compression.
    fields.take(2 + 32)?;
    fields.field(1)?;
    fields.field(2)?;
    fields.field(1)?;
    let mut said = Said::default();
    if fields.0.is_empty() {
        return Some(said);
    }
    let mut extensions = Fields(fields.field(2)?);
    while !extensions.0.is_empty() {
        let kind = extensions.take(2)?;
        let content = extensions.field(2)?;
        if kind == SERVER_NAME {
            let mut names = Fields(Fields(content).field(2)?);
            let is_host = names.take(1)? == [0];
            said.name = sound(names.field(2)?).filter(|_| is_host);
            said.unsound = said.name.is_none();
        } else if kind == ENCRYPTED {
            said.encrypted = true;
        }
    }
    Some(said)
}

/// A host name as certificates have them; anything else names nobody.
fn sound(name: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(name).ok()?;
    let host = naka_types::host::Host::parse(text).ok()?;
    (!host.is_wildcard()).then(|| host.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Hello, LONGEST, Said, read};

    /// A hello with this server name, its message cut into records of so many bytes.
    fn hello(name: Option<&[u8]>, record: usize) -> Vec<u8> {
        hello_with(name, &[], record)
    }

    /// The same with more extensions behind the name.
    fn hello_with(name: Option<&[u8]>, more: &[u8], record: usize) -> Vec<u8> {
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
        extensions.extend(more);
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
        let said = Hello::Said(Said {
            name: Some("shop.example.com".to_owned()),
            ..Said::default()
        });
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
        assert_eq!(read(&hello(None, 500)), Hello::Said(Said::default()));
    }

    #[test]
    fn a_hello_within_the_hello_is_noticed() {
        for (more, expect) in [
            (&[0xfe, 0x0d, 0, 2, 0, 1][..], true),
            (&[0xfe, 0x0e, 0, 2, 0, 1], false),
            (&[], false),
        ] {
            let said = read(&hello_with(Some(b"shop.example.com"), more, 500));
            let Hello::Said(said) = said else {
                panic!("{said:?}")
            };
            assert_eq!(said.name.as_deref(), Some("shop.example.com"));
            assert_eq!((said.encrypted, said.unsound), (expect, false), "{more:?}");
        }
        let cut = hello_with(Some(b"shop.example.com"), &[0xfe, 0x0d, 0, 9, 0], 500);
        assert_eq!(read(&cut), Hello::Malformed);
    }

    #[test]
    fn what_names_nobody_and_what_is_no_hello() {
        for name in [&b""[..], b"a b", b"*.example.com", b"\xff", &[b'a'; 10_240]] {
            let nobody = Said {
                unsound: true,
                ..Said::default()
            };
            assert_eq!(
                read(&hello(Some(name), 4_000)),
                Hello::Said(nobody),
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
