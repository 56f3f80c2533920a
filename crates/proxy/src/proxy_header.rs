//! The PROXY header that a load balancer puts before a caller's bytes, versions 1 and 2: read at gateways, and written
//! where a DestinationRule asks for one (`proxyProtocol`).
//!
//! Pure: the caller reads and asks again while the answer is [`Header::More`]. Nothing is believed of a header that is
//! not complete and sound, and a header is looked for only from addresses that the Gateway names. Extensions are checked
//! and passed over; none are written.

use naka_engine::model::ProxyHeader;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header of version 1, as its text says.
const LONGEST_V1: usize = 107;
/// The longest header of version 2 that is taken: addresses and some kilobytes of extensions.
pub(crate) const LONGEST: usize = 16 + 4096;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    /// Who called.
    pub(crate) from: SocketAddr,
    /// Where to.
    pub(crate) to: SocketAddr,
}

/// What is said before all else on a connection that we make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Introduction {
    /// In which form.
    pub(crate) header: ProxyHeader,
    /// Of the caller's connection; `None`: nobody called, we ask ourselves.
    pub(crate) ends: Option<Ends>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Header {
    /// A header of so many bytes; the caller's connection, unless the balancer speaks for itself.
    Read(usize, Option<Ends>),
    /// None, or one that is not sound.
    Malformed,
    /// Not enough bytes to tell.
    More,
}

/// Reads the first bytes of a connection.
pub(crate) fn read(bytes: &[u8]) -> Header {
    let seen = bytes.len().min(SIGNATURE.len());
    if bytes[..seen] == SIGNATURE[..seen] {
        return if seen < SIGNATURE.len() {
            Header::More
        } else {
            second(bytes)
        };
    }
    first(bytes)
}

fn first(bytes: &[u8]) -> Header {
    const WORD: &[u8] = b"PROXY ";
    let seen = bytes.len().min(WORD.len());
    if bytes[..seen] != WORD[..seen] {
        return Header::Malformed;
    }
    let line = &bytes[..bytes.len().min(LONGEST_V1)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return if line.len() < LONGEST_V1 {
            Header::More
        } else {
            Header::Malformed
        };
    };
    let text = std::str::from_utf8(&line[WORD.len().min(end)..end]).unwrap_or_default();
    let words: Vec<&str> = text.split(' ').collect();
    let caller = match words.as_slice() {
        ["UNKNOWN", ..] => Some(None),
        ["TCP4", from, to, from_port, to_port] => {
            let v4 = |text: &str| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
            ends((v4(from), from_port), (v4(to), to_port)).map(Some)
        }
        ["TCP6", from, to, from_port, to_port] => {
            let v6 = |text: &str| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
            ends((v6(from), from_port), (v6(to), to_port)).map(Some)
        }
        _ => None,
    };
    caller.map_or(Header::Malformed, |caller| Header::Read(end + 2, caller))
}

fn ends(from: (Option<IpAddr>, &str), to: (Option<IpAddr>, &str)) -> Option<Ends> {
    let end = |(ip, port): (Option<IpAddr>, &str)| Some(SocketAddr::new(ip?, port.parse().ok()?));
    Some(Ends {
        from: end(from)?,
        to: end(to)?,
    })
}

fn second(bytes: &[u8]) -> Header {
    let Some(head) = bytes.get(12..16) else {
        return Header::More;
    };
    let (version, command, family) = (head[0] >> 4, head[0] & 15, head[1]);
    let length = usize::from(head[2]) << 8 | usize::from(head[3]);
    if version != 2 || command > 1 || 16 + length > LONGEST {
        return Header::Malformed;
    }
    let Some(body) = bytes.get(16..16 + length) else {
        return Header::More;
    };
    let (size, caller) = match (command, family) {
        // The balancer's own look at our health.
        (0, _) => (0, None),
        (1, 0x11) => (12, binary::<4>(body)),
        (1, 0x21) => (36, binary::<16>(body)),
        // A family without an address of the Internet.
        (1, 0x00 | 0x31 | 0x32) => (0, None),
        _ => return Header::Malformed,
    };
    if body.len() < size || command == 1 && !extensions(bytes, 16 + size, 16 + length, family) {
        return Header::Malformed;
    }
    Header::Read(16 + length, caller)
}

/// Two addresses and two ports.
fn binary<const N: usize>(body: &[u8]) -> Option<Ends>
where
    IpAddr: From<[u8; N]>,
{
    let (from, rest) = body.split_first_chunk::<N>()?;
    let (to, rest) = rest.split_first_chunk::<N>()?;
    let (from_port, rest) = rest.split_first_chunk::<2>()?;
    let to_port = rest.first_chunk::<2>()?;
    let end = |ip: &[u8; N], port: &[u8; 2]| (IpAddr::from(*ip), u16::from_be_bytes(*port)).into();
    Some(Ends {
        from: end(from, from_port),
        to: end(to, to_port),
    })
}

/// Whether what stands from `at` to `end`, after the addresses, is a list of extensions that ends where the header does,
/// and a checksum among them is right.
fn extensions(bytes: &[u8], mut at: usize, end: usize, family: u8) -> bool {
    const CHECKSUM: u8 = 3;
    if !matches!(family, 0x11 | 0x21) {
        return true;
    }
    while at < end {
        let Some((head, rest)) = bytes[at..end].split_first_chunk::<3>() else {
            return false;
        };
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some(value) = rest.get(..length) else {
            return false;
        };
        if head[0] == CHECKSUM {
            let value: Option<[u8; 4]> = value.try_into().ok();
            let place = at + 3..at + 7;
            if value.is_none_or(|value| u32::from_be_bytes(value) != crc32c(&bytes[..end], place)) {
                return false;
            }
        }
        at += 3 + length;
    }
    true
}

/// The bytes of a header. Of nobody's call the first version names `own`, the ends of the connection itself, if they are
/// known, and the second one says that it is about nobody (LOCAL), as Envoy's do.
pub(crate) fn written(said: &Introduction, own: Option<Ends>) -> Vec<u8> {
    match (said.header, said.ends) {
        (ProxyHeader::V1, ends) => match ends.or(own) {
            Some(ends) => line(ends).into_bytes(),
            None => b"PROXY UNKNOWN\r\n".to_vec(),
        },
        (ProxyHeader::V2, Some(ends)) => frame(ends),
        (ProxyHeader::V2, None) => [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat(),
    }
}

/// Both addresses in one family: that of IPv4 only if both are of it.
fn alike(ends: Ends) -> (IpAddr, IpAddr) {
    match (ends.from.ip().to_canonical(), ends.to.ip().to_canonical()) {
        (IpAddr::V4(from), to @ IpAddr::V6(_)) => (from.to_ipv6_mapped().into(), to),
        (from @ IpAddr::V6(_), IpAddr::V4(to)) => (from, to.to_ipv6_mapped().into()),
        both => both,
    }
}

fn line(ends: Ends) -> String {
    let (from, to) = alike(ends);
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from_port, to_port) = (ends.from.port(), ends.to.port());
    format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n")
}

fn frame(ends: Ends) -> Vec<u8> {
    let (from, to) = alike(ends);
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(four) => four.octets().to_vec(),
        IpAddr::V6(six) => six.octets().to_vec(),
    };
    let (family, length) = if from.is_ipv4() {
        (0x11, 12)
    } else {
        (0x21, 36)
    };
    let mut out = SIGNATURE.to_vec();
    out.extend([0x21, family, 0, length]);
    out.extend(octets(from));
    out.extend(octets(to));
    out.extend(ends.from.port().to_be_bytes());
    out.extend(ends.to.port().to_be_bytes());
    out
}

/// CRC-32C with the bytes of `place` taken for zero, bit by bit: a header is short and comes once per connection.
fn crc32c(bytes: &[u8], place: std::ops::Range<usize>) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let zeroed = bytes
        .iter()
        .enumerate()
        .map(|(at, byte)| match place.contains(&at) {
            true => 0,
            false => *byte,
        });
    !zeroed.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| match crc & 1 {
            0 => crc >> 1,
            _ => crc >> 1 ^ POLYNOMIAL,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{Ends, Header, Introduction, LONGEST, SIGNATURE, crc32c, read, written};
    use naka_engine::model::ProxyHeader;

    fn ends(from: &str, to: &str) -> Ends {
        Ends {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
        }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut out = SIGNATURE.to_vec();
        out.extend([
            0x20 | command,
            family,
            (body.len() >> 8) as u8,
            body.len() as u8,
        ]);
        out.extend(body);
        out
    }

    #[test]
    fn headers_of_both_versions_name_the_caller() {
        let four = [192, 0, 2, 7, 10, 0, 0, 1, 0, 80, 1, 187];
        let with = |extension: &[u8]| [&four[..], extension].concat();
        let caller = Some(ends("192.0.2.7:80", "10.0.0.1:443"));
        for (bytes, expect) in [
            (
                b"PROXY TCP4 192.0.2.7 10.0.0.1 80 443\r\nGET".to_vec(),
                Header::Read(38, caller),
            ),
            (
                b"PROXY TCP6 2001:db8::1 ::1 80 443\r\n".to_vec(),
                Header::Read(35, Some(ends("[2001:db8::1]:80", "[::1]:443"))),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), Header::Read(15, None)),
            (
                b"PROXY TCP4 192.0.2.7 10.0.0.1 80\r\n".to_vec(),
                Header::Malformed,
            ),
            (
                b"PROXY TCP4 192.0.2.7 10.0.0.1 80 99999\r\n".to_vec(),
                Header::Malformed,
            ),
            (b"PROXY TCP4 ::1 ::1 80 443\r\n".to_vec(), Header::Malformed),
            (
                [b"PROXY ".to_vec(), vec![b'a'; 200]].concat(),
                Header::Malformed,
            ),
            (b"GET / HTTP/1.1\r\n".to_vec(), Header::Malformed),
            (b"PROXY TCP4 192.0".to_vec(), Header::More),
            (Vec::new(), Header::More),
            (v2(1, 0x11, &four), Header::Read(28, caller)),
            (v2(1, 0x11, &with(&[4, 0, 1, 9])), Header::Read(32, caller)),
            (v2(1, 0x11, &with(&[4, 0, 9, 9])), Header::Malformed),
            (v2(1, 0x11, &with(&[4, 0])), Header::Malformed),
            (v2(1, 0x11, &four[..8]), Header::Malformed),
            (v2(0, 0x00, &[]), Header::Read(16, None)),
            (v2(2, 0x11, &four), Header::Malformed),
            (v2(1, 0x12, &four), Header::Malformed),
            (v2(1, 0x11, &[0; LONGEST]), Header::Malformed),
            (v2(1, 0x11, &four)[..20].to_vec(), Header::More),
        ] {
            assert_eq!(
                read(&bytes),
                expect,
                "{:?}",
                String::from_utf8_lossy(&bytes)
            );
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let (v4, v6) = ("192.0.2.7:80", "[2001:db8::1]:443");
        let own = ends("10.0.0.1:1", "10.0.0.2:2");
        for header in [ProxyHeader::V1, ProxyHeader::V2] {
            for (said, got) in [
                (ends(v4, "10.0.0.1:443"), ends(v4, "10.0.0.1:443")),
                (ends(v6, "[::1]:80"), ends(v6, "[::1]:80")),
                (ends("[::ffff:192.0.2.7]:80", v4), ends(v4, v4)),
                (ends(v4, v6), ends("[::ffff:192.0.2.7]:80", v6)),
                (ends(v6, v4), ends(v6, "[::ffff:192.0.2.7]:80")),
            ] {
                let ends = Some(said);
                let bytes = written(&Introduction { header, ends }, Some(own));
                assert_eq!(
                    read(&bytes),
                    Header::Read(bytes.len(), Some(got)),
                    "{said:?}"
                );
            }
        }
        let nobody = |header, own| written(&Introduction { header, ends: None }, own);
        assert_eq!(
            nobody(ProxyHeader::V1, Some(own)),
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"
        );
        assert_eq!(nobody(ProxyHeader::V1, None), b"PROXY UNKNOWN\r\n");
        assert_eq!(nobody(ProxyHeader::V2, Some(own)), v2(0, 0, &[]));
    }

    #[test]
    fn a_checksum_must_be_right() {
        assert_eq!(crc32c(b"123456789", 0..0), 0xe306_9283);
        let four = [192, 0, 2, 7, 10, 0, 0, 1, 0, 80, 1, 187];
        let mut sound = v2(1, 0x11, &[&four[..], &[3, 0, 4, 9, 9, 9, 9]].concat());
        assert_eq!(read(&sound), Header::Malformed);
        let sum = crc32c(&sound, 31..35);
        sound[31..35].copy_from_slice(&sum.to_be_bytes());
        assert!(matches!(read(&sound), Header::Read(35, Some(_))));
        let short = v2(1, 0x11, &[&four[..], &[3, 0, 2, 9, 9]].concat());
        assert_eq!(read(&short), Header::Malformed);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut rng = fastrand::Rng::with_seed(5);
        let sound = v2(1, 0x21, &[7; 60]);
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
