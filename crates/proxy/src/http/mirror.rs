//! Copies of a request: sent beside it, never waited for, their answers read and dropped.
//!
//! A copy lives in a task of its own and can hurt nobody: its body is what the request itself reads ([`super::tap`]), its
//! number per worker and its time are bounded, and whatever goes wrong with it is counted and forgotten.

use super::body::ReqBody;
use crate::limits;
use crate::upstream::pool::{Lease, Target};
use crate::worker::Worker;
use http::header::{CONNECTION, HOST, TE};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Uri, Version};
use hyper::body::{Body, Incoming};
use naka_engine::runtime::Permit;
use naka_telemetry::Copied;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

/// A copy ready to go.
pub(super) struct Outgoing {
    /// Head for HTTP/1, with the copy's host.
    pub(super) head: Request<()>,
    pub(super) body: ReqBody,
    pub(super) target: Target,
    pub(super) permit: Permit,
    pub(super) limit: Option<Duration>,
}

/// Sends a copy in the background, if the worker has room for one more.
pub(super) fn send(worker: &Rc<Worker>, copy: Outgoing) {
    let copies = &worker.copies;
    if copies.running.get() >= limits::COPIES {
        return worker.shard.copied(Copied::Dropped);
    }
    copies.running.set(copies.running.get() + 1);
    let under_way = UnderWay(Rc::clone(worker));
    tokio::task::spawn_local(async move {
        let limit = copy
            .limit
            .unwrap_or(limits::COPY_TIME)
            .min(limits::COPY_TIME);
        let tap = match &copy.body {
            ReqBody::Copy(tap) => Some(Rc::clone(tap)),
            ReqBody::Empty | ReqBody::Once(_) | ReqBody::Stream { .. } => None,
        };
        let cut = async {
            match &tap {
                Some(tap) => tap.was_cut().await,
                None => std::future::pending().await,
            }
        };
        let taken = tokio::select! {
            sent = tokio::time::timeout(limit, exchange(&under_way.0, copy)) => sent.unwrap_or(false),
            () = cut => false,
        };
        let what = if taken { Copied::Sent } else { Copied::Dropped };
        under_way.0.shard.copied(what);
    });
}

/// Counts a copy out, however it ends.
struct UnderWay(Rc<Worker>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let running = &self.0.copies.running;
        running.set(running.get().saturating_sub(1));
    }
}

/// Whether the copy was taken: an answer came, whatever it says.
async fn exchange(worker: &Rc<Worker>, copy: Outgoing) -> bool {
    let _counted = copy.permit;
    let Ok(lease) = worker.pools.lease(&copy.target).await else {
        return false;
    };
    let mut head = copy.head;
    match &lease {
        Lease::Stream(_) => as_http2(&mut head),
        Lease::Alone(_) => {
            if head.headers().contains_key(TE) {
                let te = HeaderValue::from_static("te");
                head.headers_mut().insert(CONNECTION, te);
            }
        }
    }
    let request = head.map(|()| copy.body);
    let Ok((response, busy)) = lease.send(request, copy.target.key, &worker.pools).await else {
        return false;
    };
    if read_away(response.into_body()).await {
        busy.finished();
    }
    true
}

/// Reads an answer to its end, so that its connection can serve again; a long one is not worth it.
async fn read_away(mut body: Incoming) -> bool {
    let mut left = limits::COPY_BYTES;
    while !body.is_end_stream() {
        let next = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        match next {
            None => break,
            Some(Err(_)) => return false,
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len());
                match left.checked_sub(bytes) {
                    Some(rest) => left = rest,
                    None => return false,
                }
            }
        }
    }
    true
}

/// A head for HTTP/1 as one for HTTP/2.
pub(super) fn as_http2(head: &mut Request<()>) {
    let host = head.headers_mut().remove(HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = head.uri().path_and_query().cloned();
    if authority.is_some() {
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = authority;
    }
    *head.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
    *head.version_mut() = Version::HTTP_2;
}
