//! Asking somebody else whether a request may pass (policies with CUSTOM).
//!
//! A question is a request of the proxy's own, in a connection of the provider's cluster, with the mesh's identity where
//! the provider is a workload of it. Everything is bounded: the time for all of it, the bytes of the answer, the part of
//! the body that is told. A question that provably reached nobody is asked once more.
//!
//! What is not an answer is never one: a connection that breaks, a status that no provider should give, bytes that are
//! no message, all of them are "nobody answered". Giving up the request gives up its question.

mod grpc;

use super::{Cx, Run};
use crate::fail::Seen;
use crate::http::body::ReqBody;
use crate::http::mirror::as_http2;
use crate::limits;
use crate::tls::Carry;
use crate::upstream::connect::To;
use crate::upstream::pool::Lease;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, response};
use hyper::body::{Body, Incoming};
use naka_engine::exchange::{Call, Checked, Need};
use naka_engine::model::{Asks, Authorizer, Cluster, HttpVersion};
use std::pin::Pin;
use std::sync::Arc;

/// The part of a body that is told, and whether it is only the beginning.
type Told = Option<(Bytes, bool)>;

/// An answer, read to its end.
struct Answer {
    head: response::Parts,
    body: Bytes,
    trailers: HeaderMap,
}

/// Why there is none.
struct NoAnswer {
    why: Box<str>,
    /// Whether it may be asked once more.
    again: bool,
}

impl NoAnswer {
    fn because(why: impl Into<Box<str>>) -> Self {
        Self {
            why: why.into(),
            again: false,
        }
    }
}

impl Run {
    /// Asks; `None`: the caller has gone.
    pub(super) async fn check(&mut self) -> Option<Checked> {
        let Some(authorizer) = self.engine.asking().cloned() else {
            return Some(Checked::Unanswered("nobody is to be asked".into()));
        };
        let told = match self.told(&authorizer).await {
            Ok(told) => told,
            Err(checked) => {
                let gone = self.body.as_ref().is_some_and(|body| body.failed());
                return (!gone).then_some(checked);
            }
        };
        let asking = Box::pin(self.ask(&authorizer, told));
        let checked = match tokio::time::timeout(authorizer.timeout, asking).await {
            Ok(Ok(checked)) => checked,
            Ok(Err(none)) => Checked::Unanswered(none.why),
            Err(_) => Checked::Unanswered("its time is over".into()),
        };
        if let Checked::Unanswered(why) = &checked {
            let name = &*authorizer.name;
            tracing::warn!(authorizer = name, %why, "nobody answered whether a request may pass");
        }
        Some(checked)
    }

    /// What is told of the body.
    async fn told(&self, authorizer: &Authorizer) -> Result<Told, Checked> {
        let (Some(wanted), Some(source)) = (authorizer.body, &self.body) else {
            return Ok(None);
        };
        if self.upgrade.is_some() {
            return Ok(None);
        }
        if !wanted.partial {
            let reading = Box::pin(source.whole(wanted.most));
            return match tokio::time::timeout(limits::BODY_WAIT, reading).await {
                Ok(Some(body)) => Ok(Some((body, false))),
                Ok(None) => Err(Checked::TooLong),
                Err(_) => Err(Checked::Late),
            };
        }
        let reading = Box::pin(source.beginning(wanted.most));
        match tokio::time::timeout(limits::BODY_WAIT, reading).await {
            Ok(Some(told)) => Ok(Some(told)),
            Ok(None) | Err(_) => Err(Checked::Late),
        }
    }

    async fn ask(&self, authorizer: &Authorizer, told: Told) -> Result<Checked, NoAnswer> {
        let worker = &self.scope.conn.worker;
        let looking = |cluster: &Arc<Cluster>| cluster.looking;
        let id = authorizer.cluster;
        if worker.snapshot().cluster(id).is_some_and(looking) {
            worker.fetch(Need::Lookup(id)).await;
        }
        match self.question(authorizer, &told).await {
            Err(none) if none.again => self.question(authorizer, &told).await,
            other => other,
        }
    }

    async fn question(&self, authorizer: &Authorizer, told: &Told) -> Result<Checked, NoAnswer> {
        let call = self.callee()?;
        let partial = told.as_ref().map(|(_, partial)| *partial);
        match &authorizer.asks {
            Asks::Http(check) => {
                let head = check.question(&self.request, partial);
                let head = head.map_err(|reason| NoAnswer::because(reason.code()))?;
                let body = match told {
                    Some((bytes, _)) if !bytes.is_empty() => ReqBody::Once(Some(bytes.clone())),
                    _ => ReqBody::Empty,
                };
                let limits = &call.cluster.spec.limits;
                let carry = match call.cluster.spec.http {
                    HttpVersion::Http2 => Carry::Http2,
                    _ if limits.connections != u32::MAX => Carry::Http1Alone,
                    HttpVersion::Http1 | HttpVersion::SameAsCaller => Carry::Http1,
                };
                let answer = self.call(&call, carry, head.map(|()| body)).await?;
                Ok(check.answer(answer.head, answer.body))
            }
            Asks::Grpc(authority) => {
                let as_bytes = authorizer.body.is_some_and(|body| body.as_bytes);
                let message = grpc::question(self, told.as_ref(), as_bytes);
                let request = grpc::request(authority, message);
                let answer = self.call(&call, Carry::Http2, request).await?;
                grpc::answer(&answer.head, &answer.body, &answer.trailers)
                    .map_err(|why| NoAnswer::because(why.as_str()))
            }
        }
    }

    /// Whom to ask.
    fn callee(&self) -> Result<Call, NoAnswer> {
        let worker = &self.scope.conn.worker;
        let snapshot = worker.snapshot();
        let mut cx = Cx {
            snapshot: &snapshot,
            origin: &self.scope.origin,
            now: worker.now(),
            around: &worker.around.borrow(),
            rng: &mut worker.rng.borrow_mut(),
            cursors: &mut worker.cursors.borrow_mut(),
            why: None,
        };
        let call = self.engine.authorizer(&mut cx);
        call.map_err(|reason| NoAnswer::because(reason.code()))
    }

    async fn call(
        &self,
        call: &Call,
        carry: Carry,
        request: Request<ReqBody>,
    ) -> Result<Answer, NoAnswer> {
        let (cluster, endpoint) = (&call.cluster, &call.endpoint);
        let target = self.target_by(cluster, endpoint, carry, To::Anyone);
        let target = target.map_err(|_| NoAnswer::because("no TLS with it"))?;
        let pools = &self.scope.conn.worker.pools;
        let none = |fail: crate::fail::Fail| NoAnswer {
            why: if fail.detail.is_empty() {
                fail.reason.code().into()
            } else {
                (&*fail.detail).into()
            },
            again: fail.seen != Seen::Maybe,
        };
        let lease = pools.lease(&target).await.map_err(none)?;
        let (parts, body) = request.into_parts();
        let mut head = Request::from_parts(parts, ());
        if matches!(lease, Lease::Stream(_)) {
            as_http2(&mut head);
        }
        let sent = lease.send(head.map(|()| body), target.key, pools).await;
        let (response, busy) = sent.map_err(none)?;
        let (head, body) = response.into_parts();
        let read = read(body).await;
        let (body, trailers) = read.ok_or_else(|| {
            NoAnswer::because("its answer broke off, or is longer than an answer may be")
        })?;
        busy.finished();
        Ok(Answer {
            head,
            body,
            trailers,
        })
    }
}

/// A whole answer with its trailers, if it is not too long.
async fn read(mut body: Incoming) -> Option<(Bytes, HeaderMap)> {
    let mut bytes = BytesMut::new();
    let mut trailers = HeaderMap::new();
    while !body.is_end_stream() {
        let next = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let frame = match next {
            None => break,
            Some(frame) => frame.ok()?,
        };
        match frame.into_data() {
            Ok(data) if bytes.len() + data.len() <= limits::CHECK_ANSWER => {
                bytes.extend_from_slice(&data);
            }
            Ok(_) => return None,
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    Some((bytes.freeze(), trailers))
}
