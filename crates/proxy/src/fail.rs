//! Why a try failed: which reason a caller is told, and whether the request may have been seen by anyone.
//!
//! The second question decides about retries (design decision 12): only a failure that proves the request was not
//! processed is [`Seen::No`]. A connection that was reused and ended before any byte of an answer was most likely closed
//! for being idle, but once a byte of the request was written that is no proof: the peer may have died at work on it,
//! and the end of a connection looks the same (RFC 9112, section 9.3.1). So it is [`Seen::Hardly`]: good enough to
//! repeat what is safe to repeat.

use naka_engine::exchange::Outcome;
use naka_types::reason::Reason;
use std::error::Error as _;
use std::rc::Rc;

/// Whether the called program can have begun to work on the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Certainly not.
    No,
    /// Most likely not: a reused connection ended before any byte of an answer.
    Hardly,
    /// It may have.
    Maybe,
}

/// What a connection moved since a request was handed to it. Bytes of a shared connection may be another stream's: they
/// can only weaken what is concluded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since {
    /// Any byte towards the peer.
    pub(crate) written: bool,
    /// Any byte from it.
    pub(crate) read: bool,
}

/// What kind of failure, as retry conditions tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No usable connection came about.
    Connect,
    /// The destination's limits allow no connection and no waiting for one.
    Full,
    /// The peer refused the stream (HTTP/2 `REFUSED_STREAM` or `GOAWAY`).
    Refused,
    /// The connection or stream ended before the response head.
    Reset,
    /// Bytes came that are no response.
    Protocol,
    /// The caller's own body could not be read.
    Caller,
}

/// A failed try.
#[derive(Debug, Clone)]
pub(crate) struct Fail {
    pub(crate) kind: Kind,
    pub(crate) reason: Reason,
    pub(crate) seen: Seen,
    /// For the log, with every cause.
    pub(crate) detail: Rc<str>,
}

impl Fail {
    /// No connection.
    pub(crate) fn connect(reason: Reason, detail: &str) -> Self {
        Self {
            kind: Kind::Connect,
            reason,
            seen: Seen::No,
            detail: detail.into(),
        }
    }

    /// At the limit of connections, and of those who wait for one.
    pub(crate) fn full() -> Self {
        Self {
            kind: Kind::Full,
            ..Self::connect(Reason::CircuitOpen, "the limit of connections is reached")
        }
    }

    /// The same in the engine's words.
    pub(crate) fn outcome(&self) -> Outcome<'static> {
        match (self.kind, self.reason, self.seen) {
            (Kind::Connect, Reason::ConnectTimeout, _) => Outcome::ConnectTimeout,
            (Kind::Connect, Reason::TlsFailed, _) => Outcome::TlsFailed,
            (Kind::Connect, Reason::WrongPeerIdentity, _) => Outcome::WrongPeerIdentity,
            (Kind::Connect, _, _) => Outcome::ConnectFailed,
            (Kind::Full, _, _) => Outcome::CircuitOpen,
            (Kind::Refused, _, _) => Outcome::RefusedStream,
            (Kind::Reset, _, Seen::No) => Outcome::NotProcessed,
            (Kind::Reset, _, Seen::Hardly) => Outcome::Stale,
            (Kind::Reset, _, Seen::Maybe) => Outcome::Reset,
            (Kind::Protocol, _, _) => Outcome::ProtocolError,
            (Kind::Caller, _, _) => Outcome::ClientGone,
        }
    }

    /// From hyper's error for a request that was sent, or was to be sent, on a connection. `reused` tells whether the
    /// connection had served a request before.
    pub(crate) fn sending(error: &hyper::Error, reused: bool, since: Since) -> Self {
        let detail: Rc<str> = chain(error).into();
        let with = |kind, reason, seen| Self {
            kind,
            reason,
            seen,
            detail: Rc::clone(&detail),
        };
        if let Some(http2) = cause::<h2::Error>(error) {
            return match http2.reason() {
                Some(h2::Reason::REFUSED_STREAM) => {
                    with(Kind::Refused, Reason::UpstreamReset, Seen::No)
                }
                // Only of streams above the last that the peer says it took up; others end as the connection does.
                Some(h2::Reason::NO_ERROR) if http2.is_go_away() && http2.is_remote() => {
                    with(Kind::Refused, Reason::UpstreamReset, Seen::No)
                }
                Some(
                    h2::Reason::PROTOCOL_ERROR
                    | h2::Reason::FRAME_SIZE_ERROR
                    | h2::Reason::COMPRESSION_ERROR,
                ) if http2.is_library() => {
                    with(Kind::Protocol, Reason::UpstreamProtocolError, Seen::Maybe)
                }
                _ => with(Kind::Reset, Reason::UpstreamReset, Seen::Maybe),
            };
        }
        if error.is_canceled() {
            // Never left our queue: the connection closed first.
            return with(Kind::Reset, Reason::UpstreamReset, Seen::No);
        }
        if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
            return with(Kind::Protocol, Reason::UpstreamProtocolError, Seen::Maybe);
        }
        if error.is_user() {
            return with(Kind::Caller, Reason::ClientGone, Seen::Maybe);
        }
        let seen = match since {
            Since { written: false, .. } => Seen::No,
            Since { read: false, .. } if reused => Seen::Hardly,
            Since { .. } => Seen::Maybe,
        };
        with(Kind::Reset, Reason::UpstreamReset, seen)
    }
}

/// The first cause of a type.
fn cause<E: std::error::Error + 'static>(error: &hyper::Error) -> Option<&E> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// An error and its causes, one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
