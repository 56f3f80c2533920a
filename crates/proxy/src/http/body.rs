//! Bodies on their way: the caller's towards a program, kept for a second try while that is possible, and the
//! program's answer back, counted and closed off exactly once.
//!
//! Nothing is ever collected whole. A request body is remembered up to [`crate::limits::REPLAY_BYTES`] and only until
//! a response head was taken; past that it streams, and flow control reaches from one end to the other because a
//! frame is asked for only when the other side has room.

use super::tap::{Cut, Tap};
use crate::limits::REPLAY_BYTES;
use crate::record::{End, Finish};
use crate::worker::patience::Offered;
use crate::worker::right::{Losing, Lost};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use naka_engine::grpc_web::{self, Decoder, Encoder, Form, NotText};
use smallvec::SmallVec;
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// The caller's body, as one try sees it.
#[derive(Debug)]
pub(crate) enum ReqBody {
    /// There is none.
    Empty,
    /// One frame of our own.
    Once(Option<Bytes>),
    /// From the start, or from where the kept part is replayed.
    Stream {
        /// Shared with earlier and later tries.
        source: Rc<Source>,
        /// Kept frames given out so far.
        at: usize,
    },
    /// What passes by on its way to the destination, for a copy of the request.
    Copy(Rc<Tap>),
}

/// The caller's body itself.
#[derive(Debug)]
pub(crate) struct Source(RefCell<Inner>);

#[derive(Debug)]
struct Inner {
    incoming: Incoming,
    kept: SmallVec<[Bytes; 4]>,
    kept_bytes: usize,
    keep: bool,
    /// The kept frames are all that ever came.
    whole: bool,
    trailers: Option<HeaderMap>,
    bytes: u64,
    ended: bool,
    failed: bool,
    cut: bool,
    /// Copies that read along; mostly none.
    taps: Vec<Rc<Tap>>,
    /// For a body in text.
    text: Option<Decoder>,
    malformed: bool,
}

/// Why a request's body is not sent on to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsent {
    #[error("the request's body broke off")]
    Caller(#[source] hyper::Error),
    #[error("the answer was complete before the request was")]
    Answered,
    #[error(transparent)]
    Text(#[from] NotText),
    #[error(transparent)]
    Copy(#[from] Cut),
}

impl Source {
    /// Takes over a body; `None` when there is nothing in it. `keep`: a second try may come. `text`: it is base64, to be
    /// passed on as bytes.
    pub(crate) fn new(incoming: Incoming, keep: bool, text: bool) -> Option<Rc<Self>> {
        if incoming.is_end_stream() {
            return None;
        }
        Some(Rc::new(Self(RefCell::new(Inner {
            incoming,
            kept: SmallVec::new(),
            kept_bytes: 0,
            keep,
            whole: true,
            trailers: None,
            bytes: 0,
            ended: false,
            failed: false,
            cut: false,
            taps: Vec::new(),
            text: text.then(Decoder::default),
            malformed: false,
        }))))
    }

    /// Whether another try would see the whole body.
    pub(crate) fn replayable(&self) -> bool {
        let inner = self.0.borrow();
        inner.whole && inner.keep && !inner.failed
    }

    /// Reads ahead: the whole body, if it is not longer than `limit`. What was read is kept for the first try,
    /// whatever comes of it. Cancel-safe.
    pub(crate) async fn whole(&self, limit: usize) -> Option<Bytes> {
        std::future::poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            while !inner.ended {
                let read: usize = inner.kept.iter().map(Bytes::len).sum();
                if read > limit {
                    return Poll::Ready(None);
                }
                match std::task::ready!(inner.read(cx)) {
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            inner.kept_bytes += data.len();
                            inner.kept.push(data);
                        }
                    }
                    Some(Err(_)) => return Poll::Ready(None),
                    None => {}
                }
            }
            let read: usize = inner.kept.iter().map(Bytes::len).sum();
            Poll::Ready((read <= limit).then(|| match inner.kept.as_slice() {
                [only] => only.clone(),
                parts => parts.concat().into(),
            }))
        })
        .await
    }

    /// Reads ahead until there are so many bytes, or the end; says whether there is more. What was read is kept for the
    /// first try. `None`: reading failed. Cancel-safe.
    pub(crate) async fn beginning(&self, most: usize) -> Option<(Bytes, bool)> {
        std::future::poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            let mut read: usize = inner.kept.iter().map(Bytes::len).sum();
            while !inner.ended && read < most {
                match std::task::ready!(inner.read(cx)) {
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            read += data.len();
                            inner.kept_bytes += data.len();
                            inner.kept.push(data);
                        }
                    }
                    Some(Err(_)) => return Poll::Ready(None),
                    None => {}
                }
            }
            let mut all: Bytes = inner.kept.concat().into();
            all.truncate(most);
            let ended = inner.ended || inner.incoming.is_end_stream();
            Poll::Ready(Some((all, !ended || read > most)))
        })
        .await
    }

    /// Lets a copy read along; before the request itself is sent.
    pub(crate) fn tap(&self, budget: &super::tap::Budget) -> Rc<Tap> {
        let mut inner = self.0.borrow_mut();
        let tap = Tap::new(Rc::clone(budget), inner.exact());
        // What was read ahead has passed by already.
        for data in &inner.kept {
            tap.push(&Frame::data(data.clone()));
        }
        if inner.ended {
            if let Some(trailers) = &inner.trailers {
                tap.push(&Frame::trailers(trailers.clone()));
            }
            tap.end(true);
        }
        inner.taps.push(Rc::clone(&tap));
        tap
    }

    /// No further try will come.
    pub(crate) fn stop_keeping(&self) {
        self.0.borrow_mut().keep = false;
    }

    /// The answer is complete: nothing of the body is sent any more, and the connection it went on ends.
    pub(crate) fn cut(&self) {
        self.0.borrow_mut().cut = true;
    }

    /// Bytes that came from the caller.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.borrow().bytes
    }

    /// Whether all of it came.
    pub(crate) fn ended(&self) -> bool {
        let inner = self.0.borrow();
        inner.ended || inner.incoming.is_end_stream()
    }

    /// Whether reading it failed: the caller went away or broke the protocol.
    pub(crate) fn failed(&self) -> bool {
        self.0.borrow().failed
    }

    /// Whether it was to be text and was not.
    pub(crate) fn malformed(&self) -> bool {
        self.0.borrow().malformed
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let whole = (self.ended || self.incoming.is_end_stream()) && !self.failed;
        for tap in &self.taps {
            tap.end(whole);
        }
    }
}

impl Inner {
    /// How much the caller's rest will be when it is passed on, where that is known.
    fn exact(&self) -> Option<u64> {
        let bytes = self.text.is_none();
        self.incoming.size_hint().exact().filter(|_| bytes)
    }

    fn fail(&mut self, why: Unsent) -> Poll<Option<Result<Frame<Bytes>, Unsent>>> {
        self.failed = true;
        self.taps.iter().for_each(|tap| tap.end(false));
        Poll::Ready(Some(Err(why)))
    }

    /// A frame in text as bytes; `None` when it completes none.
    fn plain(&mut self, frame: Frame<Bytes>) -> Result<Option<Frame<Bytes>>, NotText> {
        let Some(text) = &mut self.text else {
            return Ok(Some(frame));
        };
        let Ok(data) = frame.into_data() else {
            // Nobody who sees no trailers sends any.
            return text.end().map(|()| None);
        };
        self.bytes += data.len() as u64;
        let bytes = text.decode(&data)?;
        if self.incoming.is_end_stream() {
            text.end()?;
        }
        Ok((!bytes.is_empty()).then(|| Frame::data(bytes.into())))
    }

    /// The next frame of the caller, counted.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Unsent>>> {
        let frame = loop {
            let frame = match std::task::ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => self.plain(frame),
                Some(Err(error)) => return self.fail(Unsent::Caller(error)),
                None => match self.text.as_ref().map_or(Ok(()), Decoder::end) {
                    Ok(()) => {
                        self.ended = true;
                        self.taps.iter().for_each(|tap| tap.end(true));
                        return Poll::Ready(None);
                    }
                    Err(error) => Err(error),
                },
            };
            match frame {
                Ok(Some(frame)) => break frame,
                Ok(None) => {}
                Err(error) => {
                    self.malformed = true;
                    return self.fail(Unsent::Text(error));
                }
            }
        };
        for tap in &self.taps {
            tap.push(&frame);
            if self.incoming.is_end_stream() {
                tap.end(true);
            }
        }
        if let Some(data) = frame.data_ref() {
            if self.text.is_none() {
                self.bytes += data.len() as u64;
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.ended = true;
            if self.keep {
                self.trailers = Some(trailers.clone());
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn poll(
        &mut self,
        at: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Unsent>>> {
        if self.cut {
            return Poll::Ready(Some(Err(Unsent::Answered)));
        }
        if let Some(bytes) = self.kept.get(*at) {
            *at += 1;
            return Poll::Ready(Some(Ok(Frame::data(bytes.clone()))));
        }
        if self.ended {
            return Poll::Ready(self.trailers.clone().map(|t| Ok(Frame::trailers(t))));
        }
        let frame = match std::task::ready!(self.read(cx)) {
            Some(Ok(frame)) => frame,
            other => return Poll::Ready(other),
        };
        if let Some(data) = frame.data_ref() {
            if self.keep && self.kept_bytes + data.len() <= REPLAY_BYTES {
                self.kept_bytes += data.len();
                self.kept.push(data.clone());
                *at += 1;
            } else {
                self.keep = false;
                self.whole = false;
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl ReqBody {
    /// The body as a new try sees it.
    pub(crate) fn of(source: Option<&Rc<Source>>) -> Self {
        match source {
            Some(source) => Self::Stream {
                source: Rc::clone(source),
                at: 0,
            },
            None => Self::Empty,
        }
    }
}

impl Body for ReqBody {
    type Data = Bytes;
    type Error = Unsent;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Unsent>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Once(frame) => Poll::Ready(frame.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream { source, at } => source.0.borrow_mut().poll(at, cx),
            Self::Copy(tap) => tap.poll(cx).map_err(Unsent::Copy),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Once(frame) => frame.is_none(),
            Self::Copy(tap) => tap.is_end_stream(),
            Self::Stream { source, at } => {
                let inner = source.0.borrow();
                *at >= inner.kept.len()
                    && inner.trailers.is_none()
                    && (inner.ended || inner.incoming.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Once(frame) => {
                SizeHint::with_exact(frame.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            // Only looked at before the first frame.
            Self::Copy(tap) => tap
                .exact
                .map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Stream { source, at } => {
                let inner = source.0.borrow();
                let kept: usize = inner.kept.iter().skip(*at).map(Bytes::len).sum();
                match inner.exact() {
                    Some(rest) => SizeHint::with_exact(rest + kept as u64),
                    None => SizeHint::default(),
                }
            }
        }
    }
}

impl Drop for ReqBody {
    fn drop(&mut self) {
        if let Self::Copy(tap) = self {
            tap.close();
        }
    }
}

/// What a caller gets.
#[derive(Debug)]
pub(crate) enum RespBody {
    /// Nothing.
    Empty,
    /// A local reply.
    Full(Bytes),
    /// The program's answer; the box is of the exchange, made once.
    Relay(Box<Relay>),
}

/// The program's answer under way.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) incoming: Incoming,
    /// Taken when the end is known.
    pub(crate) finish: Option<Finish>,
    /// When the whole exchange must be over (the route's timeout).
    pub(crate) limit: Option<Pin<Box<tokio::time::Sleep>>>,
    /// A part that the caller may not have taken yet.
    pub(crate) offered: Option<Rc<Offered>>,
    /// Ends it when the call is not let in any more.
    pub(crate) lost: Option<Losing>,
    /// For a caller of gRPC-Web.
    pub(crate) web: Option<Web>,
}

/// How messages and trailers are written for a caller of gRPC-Web.
#[derive(Debug)]
pub(crate) enum Web {
    /// As they are, the trailers as one frame more.
    Bytes,
    /// The same as base64.
    Text(Box<Encoder>),
}

impl Web {
    pub(crate) fn of(form: Form) -> Self {
        if form.text_response {
            Self::Text(Box::default())
        } else {
            Self::Bytes
        }
    }

    /// What the caller gets of a frame; `None` while there is nothing.
    fn frame(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let bytes = match frame.into_data() {
            Ok(bytes) => bytes,
            Err(frame) => grpc_web::trailers(frame.trailers_ref()?).into(),
        };
        let written = match self {
            Self::Bytes => bytes,
            Self::Text(encoder) => encoder.encode(&bytes).into(),
        };
        (!written.is_empty()).then(|| Frame::data(written))
    }
}

/// Why a relayed body ended early; ends the caller's stream as a broken one, never as a complete one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the response was cut off")]
    Upstream(#[source] hyper::Error),
    #[error("the response took longer than the route's timeout")]
    Late,
    #[error("the call is not let in any more")]
    Denied,
}

impl Relay {
    fn end(&mut self, how: End) {
        if let Some(finish) = self.finish.take() {
            finish.done(how);
        }
    }

    /// The call's right has ended before the response did.
    fn denied(&mut self, lost: Lost) -> Option<Broken> {
        self.lost = None;
        let mut finish = self.finish.take()?;
        finish.reason = Some(lost.reason);
        finish.detail = lost.detail;
        // Whatever is left of the response makes its connection useless.
        finish.busy = None;
        finish.done(End::Complete(None));
        Some(Broken::Denied)
    }

    /// A part was handed over and more is to come; hyper asks for it once the caller has room. Whether a stranger makes
    /// room is watched.
    fn offer(&mut self) {
        match (&self.offered, &self.finish) {
            (Some(offered), _) => offered.again(),
            (None, Some(finish)) if finish.conn.is_stranger() => {
                let until = self.limit.as_ref().map(|limit| limit.deadline());
                self.offered = Some(finish.conn.patience().offer(until));
            }
            (None, _) => {}
        }
    }

    /// Whether the time is over. A timer is only set while there is nothing to pass on.
    fn is_late(&mut self, waiting: bool, cx: &mut Context<'_>) -> bool {
        match &mut self.limit {
            None => false,
            Some(limit) if waiting => limit.as_mut().poll(cx).is_ready(),
            Some(limit) => tokio::time::Instant::now() >= limit.deadline(),
        }
    }

    /// The program's next frame, counted.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(offered) = &self.offered {
            offered.taken();
        }
        if let Some(losing) = &mut self.lost
            && let Poll::Ready(lost) = losing.poll(cx)
        {
            return Poll::Ready(self.denied(lost).map(Err));
        }
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        let unfinished = matches!(polled, Poll::Pending | Poll::Ready(Some(Ok(_))));
        if unfinished && self.finish.is_some() && self.is_late(polled.is_pending(), cx) {
            self.end(End::Late);
            return Poll::Ready(Some(Err(Broken::Late)));
        }
        match std::task::ready!(polled) {
            None => {
                self.end(End::Complete(None));
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                self.end(End::UpstreamBroke);
                Poll::Ready(Some(Err(Broken::Upstream(error))))
            }
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    if let Some(finish) = &mut self.finish {
                        finish.received(data.len());
                    }
                    // A caller that knows the length never asks for the end.
                    if self.incoming.is_end_stream() {
                        self.end(End::Complete(None));
                    } else {
                        self.offer();
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.end(End::Complete(Some(trailers)));
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }
}

impl Body for RespBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let relay = match &mut *self {
            Self::Empty => return Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            Self::Relay(relay) => relay,
        };
        loop {
            let frame = match std::task::ready!(relay.poll(cx)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            let written = match &mut relay.web {
                None => Some(frame),
                Some(web) => web.frame(frame),
            };
            if let Some(frame) = written {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Relay(relay) => relay.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Relay(relay) if relay.web.is_some() => SizeHint::default(),
            Self::Relay(relay) => relay.incoming.size_hint(),
        }
    }
}
