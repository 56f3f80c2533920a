//! The mesh's own headers: what is believed, what is taken away, what is added.
//!
//! Trust: a verified mesh proxy is believed; the own program only in the six `x-envoy-*` wishes of the contracts;
//! nobody else in anything. Wishes are read and then taken away, so that they never travel further than one hop.

use super::Cx;
use super::trace::{self, Trace};
use crate::canonical::{Caller, Canonical, Direction, Origin, own};
use crate::limits;
use crate::model::{RetryOn, RetryPolicy};
use http::{HeaderMap, HeaderName, HeaderValue};
use naka_types::header as names;
use naka_types::reason::Reason;
use naka_types::spiffe::SpiffeId;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

const REQUEST_ID: HeaderName = own(names::REQUEST_ID);
const FORWARDED_PROTO: HeaderName = own(names::FORWARDED_PROTO);
const FORWARDED_FOR: HeaderName = own(names::FORWARDED_FOR);
const REASON: HeaderName = own(names::REASON);
const XFCC: HeaderName = own(names::XFCC);
const ATTEMPT_COUNT: HeaderName = own(names::ATTEMPT_COUNT);
const EXPECTED_TIMEOUT: HeaderName = own(names::EXPECTED_TIMEOUT);
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What the caller asked for by headers.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// `x-envoy-upstream-rq-timeout-ms`; zero: none.
    timeout: Option<Duration>,
    /// Time the caller has left itself (`x-envoy-expected-rq-timeout-ms`, and the deadline of a gRPC call).
    left: Option<Duration>,
    pub(super) per_try: Option<Duration>,
    pub(super) retry_on: RetryOn,
    pub(super) max_retries: Option<u32>,
    /// The incoming request was a retry already.
    pub(super) again: bool,
}

impl Asked {
    /// The timeout in force, given the route's.
    pub(super) fn timeout(&self, route: Option<Duration>) -> Option<Duration> {
        let own = self.timeout.or(route).filter(|t| !t.is_zero());
        match (own, self.left) {
            (Some(own), Some(left)) => Some(own.min(left)),
            (own, left) => own.or(left),
        }
    }
}

/// Reads wishes, takes untrusted headers away, adds what every hop adds.
pub(super) fn sanitise(request: &mut Canonical, cx: &mut Cx<'_>) -> (Asked, Trace) {
    let mut asked = Asked::default();
    if request.internal {
        if number(&request.parts.headers, names::ATTEMPT_COUNT).is_some_and(|n| n > 1) {
            asked.again = true;
        }
        match cx.origin.caller {
            Caller::OwnProgram => read_wishes(&request.parts.headers, &mut asked),
            Caller::MeshPeer { .. } | Caller::Outside => {}
        }
        if matches!(cx.origin.caller, Caller::MeshPeer { .. }) {
            request.parts.headers.remove(XFCC);
        } else {
            strip_internal(&mut request.parts.headers);
        }
    }
    if request.is_grpc() && !matches!(cx.origin.direction, Direction::Inbound { .. }) {
        let deadline = request.parts.headers.get(GRPC_TIMEOUT).and_then(grpc_time);
        asked.left = match (asked.left, deadline) {
            (Some(left), Some(deadline)) => Some(left.min(deadline)),
            (left, deadline) => left.or(deadline),
        };
    }
    let trace = add(&mut request.parts.headers, cx);
    (asked, trace)
}

fn read_wishes(headers: &HeaderMap, asked: &mut Asked) {
    let millis = |name| number(headers, name).map(Duration::from_millis);
    asked.timeout = millis(names::UPSTREAM_TIMEOUT);
    asked.left = millis(names::EXPECTED_TIMEOUT).filter(|left| !left.is_zero());
    asked.per_try = millis(names::UPSTREAM_PER_TRY_TIMEOUT).filter(|t| !t.is_zero());
    asked.max_retries = number(headers, names::MAX_RETRIES).map(|n| {
        u32::try_from(n)
            .unwrap_or(u32::MAX)
            .min(limits::MAX_RETRIES)
    });
    let mut wished = RetryPolicy::default();
    for name in [names::RETRY_ON, names::RETRY_GRPC_ON] {
        for value in headers.get_all(name) {
            // Unknown words are ignored, as Envoy does with a program's header; bare statuses are not in its syntax.
            let _unknown = wished.add_words(value.to_str().unwrap_or_default());
        }
    }
    asked.retry_on = wished.on;
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// A `grpc-timeout`: up to eight digits and a unit.
fn grpc_time(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits
        .iter()
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

fn strip_internal(headers: &mut HeaderMap) {
    let found: Vec<HeaderName> = headers
        .keys()
        .filter(|name| names::is_internal(name.as_str()))
        .cloned()
        .collect();
    for name in found {
        headers.remove(name);
    }
}

fn add(headers: &mut HeaderMap, cx: &mut Cx<'_>) -> Trace {
    let trace = trace::follow(headers, cx);
    let sound_id = headers.get(&REQUEST_ID).is_some_and(|id| {
        (1..=limits::REQUEST_ID_BYTES).contains(&id.len())
            && id.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    if !sound_id {
        headers.insert(REQUEST_ID, trace::uuid(trace.id));
    }
    let trusted = !matches!(cx.origin.caller, Caller::Outside);
    if !trusted || !headers.contains_key(&FORWARDED_PROTO) {
        let scheme = if cx.origin.tls && !matches!(cx.origin.caller, Caller::MeshPeer { .. }) {
            "https"
        } else {
            // Between mesh proxies TLS is the mesh's, not the caller's.
            "http"
        };
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    match &cx.origin.caller {
        Caller::MeshPeer { xfcc: Some(xfcc) } => {
            headers.insert(XFCC, xfcc.clone());
        }
        _ if cx.origin.direction == Direction::Gateway => {
            if let Some(address) = cx.origin.address {
                forwarded_for(headers, address);
            }
        }
        _ => {}
    }
    trace
}

/// The id that a request has been given.
pub(super) fn request_id_of(request: &Canonical) -> Option<&HeaderValue> {
    request.headers().get(&REQUEST_ID)
}

/// Adds the address the gateway saw; what the caller claimed stays before it.
fn forwarded_for(headers: &mut HeaderMap, address: IpAddr) {
    let mut text = String::new();
    for claimed in headers.get_all(&FORWARDED_FOR) {
        if let Ok(claimed) = claimed.to_str() {
            text.push_str(claimed);
            text.push(',');
        }
    }
    let _infallible = write!(text, "{address}");
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// Tells the next hop which try this is and how long it has.
pub(super) fn mark_attempt(
    request: &mut Canonical,
    attempt: u32,
    per_try: Option<Duration>,
    left: Option<Duration>,
) {
    let headers = &mut request.parts.headers;
    let value = match attempt {
        1 => HeaderValue::from_static("1"),
        n => HeaderValue::from(n),
    };
    headers.insert(ATTEMPT_COUNT, value);
    let expected = match (per_try, left) {
        (Some(per_try), Some(left)) => Some(per_try.min(left)),
        (per_try, left) => per_try.or(left),
    };
    if let Some(expected) = expected {
        let millis = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
        headers.insert(EXPECTED_TIMEOUT, HeaderValue::from(millis));
    }
}

/// Takes the mesh's own headers out of a response where they would be forged or leak: from anybody but a mesh proxy,
/// and at a gateway towards outside. That the mesh asks for TLS is said in plaintext or not at all, so the own program
/// is told it by whoever says it; nothing is decided by it.
pub(super) fn sanitise_response(headers: &mut HeaderMap, from_mesh: bool, origin: &Origin) {
    let leaves = origin.direction == Direction::Gateway;
    if (!from_mesh || leaves) && headers.keys().any(|name| names::is_internal(name.as_str())) {
        let refused = headers.remove(REASON).filter(|reason| {
            reason == Reason::MtlsRequired.code() && origin.direction == Direction::Outbound
        });
        strip_internal(headers);
        headers.extend(refused.map(|reason| (REASON, reason)));
    }
}

/// Text of `x-forwarded-client-cert` for a verified caller; make it once per connection.
#[must_use]
pub fn xfcc(
    by: &SpiffeId,
    caller: &SpiffeId,
    cert_sha256: &[u8; 32],
    subject: &str,
) -> Option<HeaderValue> {
    let mut text = format!("By={by};Hash=");
    for byte in cert_sha256 {
        let _infallible = write!(text, "{byte:02x}");
    }
    let quoted = subject.replace('\\', "\\\\").replace('"', "\\\"");
    let _infallible = write!(text, ";Subject=\"{quoted}\";URI={caller}");
    HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::{grpc_time, sanitise_response};
    use crate::canonical::{Caller, Origin};
    use http::{HeaderMap, HeaderValue};
    use std::time::Duration;

    #[test]
    fn of_plaintext_only_the_refusal_of_plaintext_is_told_and_to_the_own_program_only() {
        let outbound = || Origin::outbound(80);
        let inbound = || Origin::inbound(80, Caller::Outside, false);
        for (reason, origin, kept) in [
            ("mtls-required", outbound(), true),
            ("already-retried", outbound(), false),
            ("draining", outbound(), false),
            ("mtls-required", inbound(), false),
            ("mtls-required", Origin::gateway(80, false, None), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-naka-reason", HeaderValue::from_static(reason));
            headers.insert("x-naka-keep", HeaderValue::from_static("1"));
            sanitise_response(&mut headers, false, &origin);
            assert_eq!(headers.contains_key("x-naka-reason"), kept, "{reason}");
            assert!(!headers.contains_key("x-naka-keep"));
        }
    }

    #[test]
    fn deadlines_of_grpc() {
        let millis = Duration::from_millis;
        for (text, want) in [
            ("200m", Some(millis(200))),
            ("1S", Some(millis(1_000))),
            ("2M", Some(millis(120_000))),
            ("1H", Some(millis(3_600_000))),
            ("1500u", Some(Duration::from_micros(1_500))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("123456789m", None),
            ("5", None),
            ("m", None),
            ("-1S", None),
            ("1s", None),
            ("", None),
        ] {
            assert_eq!(grpc_time(&HeaderValue::from_static(text)), want, "{text}");
        }
    }
}
