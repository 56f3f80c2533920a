//! Injected faults, drawn for each request: a wait, then an answer.
//!
//! Both happen before the destination is drawn, so a wait takes nothing from the route's timeout and an answer is
//! never retried here.

use super::{Cx, Exchange};
use crate::canonical::Canonical;
use crate::model::{AbortStatus, Fault};
use crate::reply::LocalReply;
use crate::why::{Stage, Why};
use http::StatusCode;
use naka_types::reason::Reason;
use std::time::Duration;

impl Exchange {
    /// How long to wait first.
    pub(super) fn delay(fault: &Fault, cx: &mut Cx<'_>) -> Option<Duration> {
        let (pause, share) = fault.delay?;
        let drawn = share.drawn(cx.rng);
        cx.explain(|| {
            let decision = if drawn { "delayed" } else { "not delayed" };
            Why::new(Stage::Fault, decision, format!("{pause:?} for {share}"))
        });
        drawn.then_some(pause)
    }

    /// What to answer instead of the route's action.
    pub(super) fn abort(fault: &Fault, request: &Canonical, cx: &mut Cx<'_>) -> Option<LocalReply> {
        let (status, share) = fault.abort?;
        let drawn = share.drawn(cx.rng);
        cx.explain(|| {
            let decision = if drawn { "aborted" } else { "not aborted" };
            Why::new(Stage::Fault, decision, format!("{status:?} for {share}"))
        });
        drawn.then(|| answer(status, request.is_grpc()))
    }
}

fn answer(status: AbortStatus, grpc: bool) -> LocalReply {
    let mut reply = LocalReply::new(Reason::FaultAbort, grpc);
    let (http, code) = match status {
        AbortStatus::Http(status) => (status, grpc_of(status)),
        AbortStatus::Grpc(code) => (http_of(code), code),
    };
    if grpc {
        reply.headers.insert("grpc-status", u16::from(code).into());
    } else {
        reply.status = http;
    }
    reply
}

/// gRPC status of an HTTP status, as gRPC's own table and Envoy have it.
fn grpc_of(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// HTTP status of a gRPC status, Envoy's table.
fn http_of(code: u8) -> StatusCode {
    let status = match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    };
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
