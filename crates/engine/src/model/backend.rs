//! What a BackendPolicy says of a destination: breaker, fallback, health checks.

use super::ClusterId;
use crate::breaker::Breaker;
use crate::reply::LocalReply;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use naka_types::reason::Reason;
use std::sync::Arc;
use std::time::Duration;

/// What a BackendPolicy adds to a destination.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Backend {
    /// Opens when the destination fails.
    pub breaker: Option<Breaker>,
    /// What is answered instead.
    pub fallback: Option<Fallback>,
    /// Questions after its endpoints' health.
    pub check: Option<HealthCheck>,
    /// A call that has no answer for so long is also sent to another endpoint.
    pub hedge: Option<Duration>,
}

/// What is answered when a destination has no answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Fallback {
    /// For these reasons; empty = for every failure to get an answer.
    pub reasons: Box<[Reason]>,
    /// For these statuses of the destination's own.
    pub statuses: Box<[u16]>,
    /// What instead.
    pub to: FallbackTo,
}

/// What is answered instead.
#[derive(Debug, Clone, PartialEq)]
pub enum FallbackTo {
    /// Another cluster's answer.
    Cluster(ClusterId, Arc<str>),
    /// This.
    Reply {
        /// Status.
        status: StatusCode,
        /// Headers.
        headers: HeaderMap,
        /// Body.
        body: Bytes,
    },
}

impl Fallback {
    /// Whether it is for such a failure. What is wrong with the request itself is never answered by somebody else.
    #[must_use]
    pub fn is_for(&self, reason: Reason) -> bool {
        if self.reasons.is_empty() {
            matches!(
                reason,
                Reason::NoHealthyEndpoints
                    | Reason::ConnectFailed
                    | Reason::ConnectTimeout
                    | Reason::TlsFailed
                    | Reason::UpstreamReset
                    | Reason::UpstreamProtocolError
                    | Reason::RequestTimeout
                    | Reason::PerTryTimeout
                    | Reason::CircuitOpen
                    | Reason::BreakerOpen
            )
        } else {
            self.reasons.contains(&reason)
        }
    }

    /// The fixed answer, if it is one; it carries the reason it was made for.
    #[must_use]
    pub fn reply(&self, reason: Reason) -> Option<LocalReply> {
        let FallbackTo::Reply {
            status,
            headers,
            body,
        } = &self.to
        else {
            return None;
        };
        let mut reply = LocalReply::new(reason, false);
        reply.status = *status;
        reply.headers.remove(http::header::CONTENT_TYPE);
        reply.headers.extend(headers.clone());
        reply.body = body.clone();
        Some(reply)
    }
}

/// A question after the health of endpoints, asked again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub ask: Ask,
    /// Time between two questions to an endpoint.
    pub interval: Duration,
    /// Longest wait for the answer.
    pub timeout: Duration,
    /// Failures in a row that take an endpoint out.
    pub unhealthy: u32,
    /// Successes in a row that bring it back.
    pub healthy: u32,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// `GET` of a path; healthy is 200, or any of these.
    Http {
        /// Path.
        path: Arc<str>,
        /// Host header.
        host: Arc<str>,
        /// Statuses from, up to and without.
        statuses: Box<[(u16, u16)]>,
    },
    /// `grpc.health.v1.Health/Check` of a service, empty for the whole server.
    Grpc {
        /// Service.
        service: Arc<str>,
    },
    /// A connection.
    Tcp,
}
