//! The trace a request belongs to, and this hop's place in it.
//!
//! Read: `traceparent` (W3C Trace Context), else `b3` in one header, else `x-b3-…` in several. Written: `traceparent`
//! always, B3 in the form in which it came, so that programs which only know B3 stay in the trace. Each hop is a span of
//! its own: what goes on names it as the parent of what comes.
//!
//! A header that is not what its specification says begins the trace afresh, and `tracestate` then goes too, because it
//! belongs to what could not be read. A second `traceparent` is such a case: who reads the first and who reads the last
//! would be in different traces.
//!
//! Not here: what is kept of a trace; see the proxy's ring.

use super::Cx;
use http::header::Entry;
use http::{HeaderMap, HeaderName, HeaderValue};
use naka_types::header as names;

const TRACEPARENT: HeaderName = HeaderName::from_static(names::TRACEPARENT);
const TRACESTATE: HeaderName = HeaderName::from_static(names::TRACESTATE);
const B3: HeaderName = HeaderName::from_static(names::B3);
const B3_TRACE: HeaderName = HeaderName::from_static(names::B3_TRACE);
const B3_SPAN: HeaderName = HeaderName::from_static(names::B3_SPAN);
const B3_PARENT: HeaderName = HeaderName::from_static(names::B3_PARENT);
const B3_SAMPLED: HeaderName = HeaderName::from_static(names::B3_SAMPLED);
const B3_FLAGS: HeaderName = HeaderName::from_static(names::B3_FLAGS);

/// Most members of a `tracestate`; one with more is not passed on.
const MOST_MEMBERS: usize = 32;
/// Longest `tracestate` that is passed on; everybody must take 512 bytes.
const LONGEST_STATE: usize = 4096;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// A hop's place in a trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trace {
    /// The trace; 0: not known yet.
    pub id: u128,
    /// This hop.
    pub span: u64,
    /// The hop or the program before; 0: the trace begins here.
    pub parent: u64,
    /// Whether somebody, or chance, chose to report it before anything was known of it.
    pub sampled: bool,
    /// Whether the caller named a trace that could be read.
    pub given: bool,
}

impl Trace {
    /// The last 64 bits of the trace's id.
    #[must_use]
    pub fn low(&self) -> u64 {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
        let low = self.id as u64;
        low
    }
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    id: u128,
    span: u64,
    /// None: the one who reads it decides.
    sampled: Option<bool>,
}

/// Finds out where the request stands and says so to whoever is next.
pub(super) fn follow(headers: &mut HeaderMap, cx: &mut Cx<'_>) -> Trace {
    let said = of_w3c(headers);
    if said.is_none() || headers.contains_key(TRACESTATE) && !is_sound_state(headers) {
        headers.remove(TRACESTATE);
    }
    let has_b3 = headers.contains_key(B3) || headers.contains_key(B3_TRACE);
    let said = match said {
        None if has_b3 => of_b3(headers),
        said => said,
    };
    let per_myriad = cx.around.sampled_per_myriad;
    let drawn = |rng: &mut fastrand::Rng| rng.u16(..10_000) < per_myriad;
    let span = cx.rng.u64(1..);
    let trace = match said {
        Some(said) => Trace {
            id: said.id,
            span,
            parent: said.span,
            sampled: said.sampled.unwrap_or_else(|| drawn(cx.rng)),
            given: true,
        },
        None => Trace {
            id: fresh(cx.rng),
            span,
            parent: 0,
            sampled: drawn(cx.rng),
            given: false,
        },
    };
    headers.insert(TRACEPARENT, parent_text(&trace));
    if has_b3 {
        write_b3(headers, &trace);
    }
    trace
}

/// An id of a new trace that is a random UUID too, so that a request's id and its trace's can be one.
fn fresh(rng: &mut fastrand::Rng) -> u128 {
    let bits = rng.u128(..);
    let version = 0xf << 76;
    let variant = 0x3 << 62;
    bits & !version & !variant | 0x4 << 76 | 0x2 << 62
}

// === W3C ===

fn of_w3c(headers: &HeaderMap) -> Option<Said> {
    let mut all = headers.get_all(TRACEPARENT).iter();
    let (first, second) = (all.next()?, all.next());
    second.is_none().then(|| w3c(first.as_bytes())).flatten()
}

/// Reads `version-trace-parent-flags`. Of later versions the first four fields, as the specification wants.
fn w3c(text: &[u8]) -> Option<Said> {
    let (head, rest) = text.split_at_checked(55)?;
    let version = hex(&head[..2])?;
    let dashes = [2, 35, 52].iter().all(|at| head[*at] == b'-');
    let ends = match version {
        0 => rest.is_empty(),
        0xff => return None,
        _ => rest.first().is_none_or(|next| *next == b'-'),
    };
    if !dashes || !ends {
        return None;
    }
    let (id, span) = (hex(&head[3..35])?, hex(&head[36..52])?);
    let flags = hex(&head[53..])?;
    Some(Said {
        id: Some(id).filter(|id| *id != 0)?,
        span: u64::try_from(span).ok().filter(|span| *span != 0)?,
        sampled: Some(flags & 1 == 1),
    })
}

/// A number in lower-case hexadecimal digits.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |sum: u128, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u128::from(value))
    })
}

fn is_sound_state(headers: &HeaderMap) -> bool {
    let (mut bytes, mut members) = (0, 0);
    for value in headers.get_all(TRACESTATE) {
        let text = value.as_bytes();
        if !text.iter().all(|b| matches!(b, b' '..=b'~' | b'\t')) {
            return false;
        }
        bytes += text.len();
        members += text
            .split(|b| *b == b',')
            .filter(|m| !m.trim_ascii().is_empty())
            .count();
    }
    bytes <= LONGEST_STATE && members <= MOST_MEMBERS
}

fn digits(to: &mut [u8], number: u128) {
    for (place, digit) in to.iter_mut().rev().enumerate() {
        *digit = HEX[usize::try_from(number >> (4 * place) & 15).unwrap_or(0)];
    }
}

fn value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static("-"))
}

fn parent_text(trace: &Trace) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    digits(&mut text[3..35], trace.id);
    digits(&mut text[36..52], trace.span.into());
    text[54] += u8::from(trace.sampled);
    value(&text)
}

/// An id of a trace as a UUID.
pub(super) fn uuid(id: u128) -> HeaderValue {
    let mut plain = [0; 32];
    digits(&mut plain, id);
    let mut text = [b'-'; 36];
    for (at, from) in [
        (0, 0..8),
        (9, 8..12),
        (14, 12..16),
        (19, 16..20),
        (24, 20..32),
    ] {
        text[at..at + from.len()].copy_from_slice(&plain[from]);
    }
    value(&text)
}

// === B3 ===

fn of_b3(headers: &HeaderMap) -> Option<Said> {
    if let Some(one) = headers.get(B3) {
        return b3(one.as_bytes());
    }
    let of = |name: HeaderName| headers.get(name).map(HeaderValue::as_bytes);
    let decided = match (of(B3_FLAGS), of(B3_SAMPLED)) {
        // Debug: sampled whatever else is said.
        (Some(b"1"), _) => Some(true),
        (_, Some(word)) => Some(sampled(word)?),
        (_, None) => None,
    };
    Some(Said {
        id: b3_trace(of(B3_TRACE)?)?,
        span: b3_span(of(B3_SPAN)?)?,
        sampled: decided,
    })
}

/// Reads `trace-span[-sampled[-parent]]`. The lone words (`0`, `1`, `d`) name no trace: it begins here.
fn b3(text: &[u8]) -> Option<Said> {
    let mut parts = text.split(|b| *b == b'-');
    let (id, span) = (b3_trace(parts.next()?)?, b3_span(parts.next()?)?);
    let decided = match parts.next() {
        None => None,
        Some(b"d") => Some(true),
        Some(word) => Some(sampled(word)?),
    };
    if let Some(parent) = parts.next() {
        b3_span(parent)?;
    }
    parts.next().is_none().then_some(Said {
        id,
        span,
        sampled: decided,
    })
}

fn sampled(word: &[u8]) -> Option<bool> {
    match word {
        b"1" | b"true" => Some(true),
        b"0" | b"false" => Some(false),
        _ => None,
    }
}

fn b3_trace(text: &[u8]) -> Option<u128> {
    let fits = matches!(text.len(), 16 | 32);
    hex(text).filter(|id| fits && *id != 0)
}

fn b3_span(text: &[u8]) -> Option<u64> {
    let span = hex(text).filter(|_| text.len() == 16)?;
    u64::try_from(span).ok().filter(|span| *span != 0)
}

/// In the form in which it came.
fn write_b3(headers: &mut HeaderMap, trace: &Trace) {
    let (mut id, mut span, mut parent) = ([0; 32], [0; 16], [0; 16]);
    digits(&mut id, trace.id);
    digits(&mut span, trace.span.into());
    digits(&mut parent, trace.parent.into());
    if let Entry::Occupied(mut one) = headers.entry(B3) {
        let mut text = [b'-'; 51];
        text[..32].copy_from_slice(&id);
        text[33..49].copy_from_slice(&span);
        text[50] = b'0' + u8::from(trace.sampled);
        one.insert(value(&text));
    }
    if headers.contains_key(B3_TRACE) {
        headers.insert(B3_TRACE, value(&id));
        headers.insert(B3_SPAN, value(&span));
        match trace.parent {
            0 => headers.remove(B3_PARENT),
            _ => headers.insert(B3_PARENT, value(&parent)),
        };
        if headers.get(B3_FLAGS).is_none_or(|flags| flags != "1") {
            let word = if trace.sampled { "1" } else { "0" };
            headers.insert(B3_SAMPLED, HeaderValue::from_static(word));
        }
    }
}

#[cfg(test)]
mod tests;
