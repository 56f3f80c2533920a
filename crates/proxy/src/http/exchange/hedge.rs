//! Two tries of one request at a time: who answers first wins, the other is dropped, which ends its stream or connection.
//!
//! When there is a second try, and whom it asks, the engine says (`engine::exchange::Exchange::hedge`). A failure or a
//! server error does not win while the other try may still bring something better. Tries own all that they need, so
//! that one ends without the other.

use super::{Answer, Run};
use crate::fail::Fail;
use crate::http::body::ReqBody;
use crate::upstream::pool::{Lease, Pools, Target};
use http::header::{CONNECTION, TE};
use http::{HeaderValue, Request, Version};
use naka_engine::canonical::Canonical;
use naka_engine::exchange::{Cx, Outcome, Try};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// The head for HTTP/1.1 and for HTTP/2.
type Heads = [Request<()>; 2];

/// One try of a request without a body.
async fn once(pools: Rc<Pools>, target: Target, heads: Heads) -> Result<Answer, Fail> {
    let lease = pools.lease(&target).await?;
    let [first, second] = heads;
    let (version, mut head) = match &lease {
        Lease::Alone(_) => (Version::HTTP_11, first),
        Lease::Stream(_) => (Version::HTTP_2, second),
    };
    if version == Version::HTTP_11 && head.headers().contains_key(TE) {
        head.headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("te"));
    }
    let request = head.map(|()| ReqBody::Empty);
    let sent = lease.send(request, target.key, &pools).await?;
    Ok(Answer::of(sent, version))
}

fn is_good(sent: &Result<Answer, Fail>) -> bool {
    sent.as_ref()
        .is_ok_and(|answer| !answer.head.status.is_server_error())
}

/// The better end of two tries, and whether it is the first one's. `second` is made when the first has not ended after
/// a while.
async fn race<F: Future<Output = Result<Answer, Fail>>>(
    first: F,
    after: Duration,
    second: impl FnOnce() -> Option<F>,
) -> (bool, Result<Answer, Fail>) {
    let mut first = pin!(first);
    if let Ok(sent) = tokio::time::timeout(after, first.as_mut()).await {
        return (true, sent);
    }
    let Some(second) = second() else {
        return (true, first.await);
    };
    let mut second = pin!(second);
    let (of_first, sent) = tokio::select! {
        sent = first.as_mut() => (true, sent),
        sent = second.as_mut() => (false, sent),
    };
    if is_good(&sent) {
        return (of_first, sent);
    }
    let other = if of_first { second.await } else { first.await };
    if is_good(&other) || sent.is_err() {
        (!of_first, other)
    } else {
        (of_first, sent)
    }
}

impl Run {
    /// Sends a request without a body, and when no answer comes for a while, to another endpoint too.
    pub(super) async fn race(
        &mut self,
        target: Target,
        after: Duration,
        limit: Option<(Duration, Outcome<'static>)>,
    ) -> Result<Answer, Outcome<'static>> {
        let pools = Rc::clone(&self.scope.conn.worker.pools);
        let mut second = None;
        let sent = {
            let first = once(Rc::clone(&pools), target, heads(&self.request));
            let race = race(first, after, || {
                let (attempt, target) = self.hedge()?;
                second = Some(attempt);
                Some(once(pools, target, heads(&self.request)))
            });
            match limit {
                None => race.await,
                Some((limit, late)) => match tokio::time::timeout(limit, race).await {
                    Ok(sent) => sent,
                    // Who was asked last is who is told off.
                    Err(_) => return Err(late),
                },
            }
        };
        let (of_first, sent) = sent;
        if let Some(second) = second {
            self.finish.attempts = second.attempt;
            if of_first {
                self.engine.first_won();
            } else {
                self.is_of(second);
            }
        }
        sent.inspect(|_| self.finish.answered = Some(self.finish.started.elapsed()))
            .map_err(|fail| {
                self.finish.detail = Rc::clone(&fail.detail);
                fail.outcome()
            })
    }

    /// The second try of a race, if there is to be one.
    fn hedge(&mut self) -> Option<(Try, Target)> {
        let worker = Rc::clone(&self.scope.conn.worker);
        let snapshot = worker.snapshot();
        let attempt = self.engine.hedge(
            &mut self.request,
            &mut Cx {
                snapshot: &snapshot,
                origin: &self.scope.origin,
                now: worker.now(),
                around: &worker.around.borrow(),
                rng: &mut worker.rng.borrow_mut(),
                cursors: &mut worker.cursors.borrow_mut(),
                why: None,
            },
        )?;
        match self.target(&attempt.cluster, &attempt.endpoint, attempt.http) {
            Ok(target) => Some((attempt, target)),
            Err(_) => {
                self.engine.first_won();
                None
            }
        }
    }

    /// The exchange goes on with the second try of a race.
    fn is_of(&mut self, second: Try) {
        let (conn, worker) = (&self.scope.conn, &self.scope.conn.worker);
        let (cluster, endpoint) = (second.cluster, second.endpoint);
        let grpc = self.request.is_grpc();
        self.finish.upstream = Some(endpoint.address);
        self.finish.permit = Some(second.permit);
        self.finish.handle = Some(worker.handles.endpoint(conn, &cluster, &endpoint, grpc));
        if cluster.spec.outlier.is_some() {
            self.finish.watched = Some((cluster, endpoint));
        }
    }
}

/// The head in either version, for a request whose connection is still to be found.
fn heads(request: &Canonical) -> Heads {
    [Version::HTTP_11, Version::HTTP_2].map(|version| request.head(version))
}

/// The time that ends a try, and what that means.
pub(super) fn limit_of(
    left: Option<Duration>,
    per_try: Option<Duration>,
) -> Option<(Duration, Outcome<'static>)> {
    match (left, per_try) {
        (Some(left), Some(one)) if one < left => Some((one, Outcome::PerTryTimeout)),
        (Some(left), _) => Some((left, Outcome::Timeout)),
        (None, Some(one)) => Some((one, Outcome::PerTryTimeout)),
        (None, None) => None,
    }
}
