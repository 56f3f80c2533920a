//! How a message's end can be read: strictly, and in each of the ways that programs and proxies were seen to read it.
//! The naive relay and the program are given one way each; where the two differ, requests can be smuggled.

use std::io::{self, BufRead};

/// A way to find the end of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// As the standard says: chunked, else one plain number, else nothing.
    Strict,
    /// The first Content-Length, as C's `strtol` takes it; no transfer coding.
    First,
    /// The last Content-Length, of a list too.
    Last,
    /// A Content-Length if there is one, else chunked.
    LengthFirst,
    /// Content-Length in base eight when it begins with 0.
    Octal,
    /// Content-Length, and what is no plain number is 0; no transfer coding.
    Plain,
    /// Chunked as soon as anything like it is written.
    AnyChunked,
    /// The same, sizes modulo 2^32.
    Wrapped,
    /// The same, a line feed alone ends a chunk's line.
    LineFeed,
    /// The same, but chunk lines end with both bytes only.
    BothBytes,
    /// Bodies are not looked at.
    Nothing,
    /// The body is all that comes before the connection ends.
    ToTheEnd,
}

/// A head as lines without their ends, up to the empty one; `None` when the connection ended first.
pub(crate) fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Ok(None);
        }
        if matches!(&head[before..], b"\n" | b"\r\n") {
            return Ok(Some(head));
        }
    }
}

/// Values of a header, as somebody reads it who forgives everything.
fn values(head: &[u8], name: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(head);
    text.split('\n')
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| key.trim().eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
        .collect()
}

/// As `strtol` with base 0 reads a number: white space, a sign, 0x.
fn strtol(text: &str) -> usize {
    let text = text.trim().trim_start_matches('+');
    if let Some(hex) = text.strip_prefix("0x") {
        return usize::from_str_radix(hex, 16).unwrap_or(0);
    }
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

/// The body that follows a head, its framing included, exactly as it came.
pub(crate) fn read_body(
    reader: &mut impl BufRead,
    head: &[u8],
    reading: Reading,
) -> io::Result<Vec<u8>> {
    let lengths = values(head, "content-length");
    let first = lengths.first().map_or("", String::as_str);
    let plain = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| digits).unwrap_or(0)
    };
    let forgiving = String::from_utf8_lossy(head).to_ascii_lowercase();
    let chunked = match reading {
        Reading::LengthFirst => lengths.is_empty() && !values(head, "transfer-encoding").is_empty(),
        Reading::Strict => values(head, "transfer-encoding") == ["chunked"],
        Reading::AnyChunked | Reading::Wrapped | Reading::LineFeed | Reading::BothBytes => {
            forgiving.contains("transfer-encoding") && forgiving.contains("chunked")
        }
        _ => false,
    };
    if chunked {
        return read_chunks(reader, reading);
    }
    if reading == Reading::ToTheEnd {
        let mut body = Vec::new();
        reader.read_to_end(&mut body)?;
        return Ok(body);
    }
    let length = match reading {
        Reading::Nothing => 0,
        Reading::First => strtol(first),
        Reading::Last => {
            let last = lengths.last().map_or("", String::as_str);
            strtol(last.rsplit(',').next().unwrap_or(""))
        }
        Reading::Octal if first.starts_with('0') => usize::from_str_radix(first, 8).unwrap_or(0),
        _ => plain(first),
    };
    let mut body = vec![0; length.min(1 << 20)];
    reader.read_exact(&mut body)?;
    Ok(body)
}

fn read_chunks(reader: &mut impl BufRead, reading: Reading) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line)?;
        while reading == Reading::BothBytes && !line.ends_with(b"\r\n") && !line.is_empty() {
            let before = line.len();
            reader.read_until(b'\n', &mut line)?;
            if line.len() == before {
                break;
            }
        }
        body.extend_from_slice(&line);
        let text = String::from_utf8_lossy(&line);
        let digits: String = text.chars().take_while(char::is_ascii_hexdigit).collect();
        let size = u128::from_str_radix(&digits, 16).unwrap_or(0);
        let size = match reading {
            Reading::Wrapped => size & 0xffff_ffff,
            _ => size.min(1 << 20),
        };
        if size == 0 {
            // The empty line; trailers are nobody's business here.
            let end = read_head(reader)?;
            body.extend_from_slice(&end.unwrap_or_default());
            return Ok(body);
        }
        let size = usize::try_from(size).unwrap_or(0) + 2;
        let at = body.len();
        body.resize(at + size, 0);
        reader.read_exact(&mut body[at..])?;
    }
}
