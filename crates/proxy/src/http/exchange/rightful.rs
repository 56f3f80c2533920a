//! An exchange with a port whose policies are asked again while it is under way.
//!
//! Until the response's head has come it is answered like any call that is not let in; from then on the response breaks
//! off (`body`), so that nobody takes it for whole. Here, too: exchanges whose caller leaves before that.

use super::{Answer, Outcome, RespBody, Response, Run, reply};
use crate::worker::right::Lost;
use http::Version;
use naka_engine::exchange::Try;
use naka_engine::reply::LocalReply;
use naka_types::reason::Reason;
use std::rc::Rc;

impl Run {
    /// A try that ends when the call's right does; the first of an exchange begins to watch it.
    pub(super) async fn rightful(&mut self, attempt: Try) -> Result<Answer, Outcome<'static>> {
        if self.right.is_none() {
            let worker = &self.scope.conn.worker;
            self.right = worker.right(&self.scope.origin, Some(&self.request));
        }
        let Some(right) = self.right.as_ref().map(Rc::clone) else {
            return self.attempt(attempt).await;
        };
        let trying = Box::pin(self.attempt(attempt));
        tokio::select! {
            biased;
            _ = right.lost() => Err(Outcome::ClientGone),
            got = trying => got,
        }
    }

    /// The caller broke off its own request.
    pub(super) fn gone(mut self: Box<Self>) -> Response<RespBody> {
        self.note();
        if let Some(lost) = self.right.as_ref().and_then(|right| right.now().cloned()) {
            return self.denied(lost);
        }
        if self.body.as_ref().is_some_and(|body| body.malformed()) {
            self.finish.detail = "the body is not sound base64".into();
            let local = LocalReply::new(Reason::BadRequest, true);
            return self.reply(local);
        }
        drop(self.finish);
        reply::last(
            Reason::BadRequest,
            false,
            self.caller_version <= Version::HTTP_11,
        )
    }

    /// The answer to a call whose right ended before its response began.
    fn denied(mut self: Box<Self>, lost: Lost) -> Response<RespBody> {
        self.finish.detail = lost.detail;
        let grpc = self.request.is_grpc();
        self.reply(LocalReply::new(lost.reason, grpc))
    }
}
