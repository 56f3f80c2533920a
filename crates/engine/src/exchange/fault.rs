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
        // Callers that do not speak gRPC get 200, as from Envoy.
        AbortStatus::Grpc(code) => (StatusCode::OK, code),
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
