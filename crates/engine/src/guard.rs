//! The shapes that guards know: what a strict reading of a request forbids, and patterns of injections.
//!
//! The canonical form already refuses what has two meanings; [`strict`] refuses besides what has one but should not be
//! written. Patterns are looked for in what a program reads: path and query with their escapes resolved (twice, since
//! `%2527` is a quote to who decodes twice), and values of headers. Each set is one regular expression in linear time.
//!
//! Invariant: nothing of a request is kept; the work is bounded by the limits of a head.

mod sets;

pub use sets::{SETS, set};

use crate::canonical::Canonical;
use crate::model::Sought;
use http::{HeaderName, header};
use std::borrow::Cow;

/// Fields that a request may have once; of two nobody knows which one the program reads.
const SINGLE: [HeaderName; 8] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::FROM,
    header::MAX_FORWARDS,
    header::ORIGIN,
    header::RANGE,
    header::REFERER,
    header::USER_AGENT,
];

/// What a strict reading forbids of a canonical request.
#[must_use]
pub fn strict(request: &Canonical) -> Option<&'static str> {
    let path = request.path().bytes().any(|byte| !is_pchar(byte));
    if path && request.path() != "*" {
        return Some("the path has a character that RFC 3986 wants escaped");
    }
    if let Some(query) = request.query()
        && let Some(wrong) = strict_query(query.as_bytes())
    {
        return Some(wrong);
    }
    for (name, value) in request.headers() {
        if name.as_str().contains('_') {
            return Some("the name of a header has an underscore, which programs read as a dash");
        }
        if value.as_bytes().iter().any(|byte| *byte >= 0x80) {
            return Some("a header has bytes that are not ASCII");
        }
    }
    SINGLE
        .iter()
        .any(|name| request.headers().get_all(name).iter().nth(1).is_some())
        .then_some("a header that may come once came twice")
}

fn strict_query(query: &[u8]) -> Option<&'static str> {
    let mut rest = query;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match byte {
            b'%' => match tail {
                [high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    if (*high, *low) == (b'0', b'0') {
                        return Some("the query has an escaped NUL");
                    }
                    rest = after;
                }
                _ => return Some("the query has a broken escape"),
            },
            b'?' => {}
            other if is_pchar(*other) => {}
            _ => return Some("the query has a character that RFC 3986 wants escaped"),
        }
    }
    None
}

/// `pchar` of RFC 3986, the slash and the percent sign, whose digits the canonical form has looked at.
fn is_pchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte)
}

/// The first pattern that is found in a request.
#[must_use]
pub fn find<'p>(sought: &'p [Sought], request: &Canonical) -> Option<&'p Sought> {
    let query = request.query().unwrap_or_default().split('&');
    let target = std::iter::once(request.path()).chain(query);
    for part in target.filter(|part| !part.is_empty()) {
        let once = decoded(part.as_bytes());
        if let Some(found) = matching(sought, &once) {
            return Some(found);
        }
        if once.contains(&b'%')
            && let Some(found) = matching(sought, &decoded(&once))
        {
            return Some(found);
        }
    }
    let values = request.headers().iter();
    values
        .filter(|(name, _)| name.as_str() != "x-forwarded-client-cert")
        .find_map(|(_, value)| matching(sought, value.as_bytes()))
}

fn matching<'p>(sought: &'p [Sought], text: &[u8]) -> Option<&'p Sought> {
    sought.iter().find(|one| one.pattern.is_found(text))
}

/// Escapes resolved, `+` as the space that it is in a form.
fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return text.into();
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let escaped = match (byte, tail) {
            (b'%', [high, low, ..]) => digit(high).zip(digit(low)),
            _ => None,
        };
        match (byte, escaped) {
            (_, Some((high, low))) => {
                out.push(u8::try_from(high << 4 | low).unwrap_or(b'%'));
                rest = &tail[2..];
            }
            (b'+', None) => out.push(b' '),
            (other, None) => out.push(*other),
        }
    }
    out.into()
}

#[cfg(test)]
mod tests;
