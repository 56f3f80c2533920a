//! Copies of a request to where its route mirrors it: chosen by the engine, sent beside the request, never waited for.

use super::Run;
use crate::http::body::ReqBody;
use crate::http::mirror;
use http::Version;
use http::header::HOST;
use naka_engine::exchange::Cx;
use naka_telemetry::Copied;

impl Run {
    /// Sends the copies of this request that its route wants.
    pub(super) fn copy(&self) {
        let worker = &self.scope.conn.worker;
        let snapshot = worker.snapshot();
        let copies = self.engine.copies(
            &self.request,
            &mut Cx {
                snapshot: &snapshot,
                origin: &self.scope.origin,
                now: worker.now(),
                around: &worker.around.borrow(),
                rng: &mut worker.rng.borrow_mut(),
                cursors: &mut worker.cursors.borrow_mut(),
                why: None,
            },
        );
        for copy in copies {
            let Ok(target) = self.target(&copy.cluster, &copy.endpoint, copy.cluster.spec.http)
            else {
                worker.shard.copied(Copied::Dropped);
                continue;
            };
            let mut head = self.request.head(Version::HTTP_11);
            head.headers_mut().insert(HOST, copy.host);
            let body = self.body.as_ref();
            let body = body.map_or(ReqBody::Empty, |body| {
                ReqBody::Copy(body.tap(&worker.copies.bytes))
            });
            let outgoing = mirror::Outgoing {
                head,
                body,
                target,
                permit: copy.permit,
                limit: copy.limit,
            };
            mirror::send(worker, outgoing);
        }
    }
}
