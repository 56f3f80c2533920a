//! A request body on its way past a copy of the request: the copy reads what the request itself has read.
//!
//! Frames are shared, not copied. A copy that reads too slowly is cut off, never waited for: what waits for one copy and
//! for all copies of a worker is bounded. A body that the request itself did not get whole ends the copy as broken, so
//! that nobody takes a part for the whole.

use crate::limits::{COPIES_BYTES, COPY_BYTES};
use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use tokio::sync::Notify;

/// Copies of requests under way.
#[derive(Default)]
pub(crate) struct Copies {
    pub(crate) running: Cell<usize>,
    /// Body bytes that wait for them.
    pub(crate) bytes: Budget,
}

/// Bytes that wait for all copies of a worker.
pub(crate) type Budget = Rc<Cell<usize>>;

/// The copy did not get the whole body.
#[derive(Debug, thiserror::Error)]
#[error("the copied body is not whole")]
pub(crate) struct Cut;

/// One copy's view of a body.
#[derive(Debug)]
pub(crate) struct Tap {
    inner: RefCell<Inner>,
    /// Length, if it is known.
    pub(crate) exact: Option<u64>,
    /// Told when the copy is cut off: a connection whose peer reads nothing would not look here again.
    cut: Notify,
}

#[derive(Debug)]
struct Inner {
    waiting: VecDeque<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
    state: State,
    waker: Option<Waker>,
    budget: Budget,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    Cut,
}

impl Tap {
    pub(crate) fn new(budget: Budget, exact: Option<u64>) -> Rc<Self> {
        Rc::new(Self {
            inner: RefCell::new(Inner {
                waiting: VecDeque::new(),
                bytes: 0,
                trailers: None,
                state: State::Open,
                waker: None,
                budget,
            }),
            exact,
            cut: Notify::new(),
        })
    }

    /// A frame passed by.
    pub(crate) fn push(&self, frame: &Frame<Bytes>) {
        let mut inner = self.inner.borrow_mut();
        if inner.state != State::Open {
            return;
        }
        if let Some(trailers) = frame.trailers_ref() {
            inner.trailers = Some(trailers.clone());
            inner.state = State::Ended;
        } else if let Some(data) = frame.data_ref() {
            let (own, all) = (inner.bytes + data.len(), inner.budget.get() + data.len());
            if own > COPY_BYTES || all > COPIES_BYTES {
                inner.cut();
                self.cut.notify_one();
            } else {
                inner.bytes = own;
                inner.budget.set(all);
                inner.waiting.push_back(data.clone());
            }
        }
        inner.wake();
    }

    /// The body is over: whole, or not.
    pub(crate) fn end(&self, whole: bool) {
        let mut inner = self.inner.borrow_mut();
        if inner.state == State::Open {
            if whole {
                inner.state = State::Ended;
            } else {
                inner.cut();
                self.cut.notify_one();
            }
            inner.wake();
        }
    }

    /// Waits until the copy is cut off.
    pub(crate) async fn was_cut(&self) {
        self.cut.notified().await;
    }

    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let mut inner = self.inner.borrow_mut();
        if let Some(data) = inner.waiting.pop_front() {
            inner.give_back(data.len());
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match inner.state {
            State::Open => {
                inner.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Ended => Poll::Ready(inner.trailers.take().map(|t| Ok(Frame::trailers(t)))),
            State::Cut => Poll::Ready(Some(Err(Cut))),
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let inner = self.inner.borrow();
        inner.state == State::Ended && inner.waiting.is_empty() && inner.trailers.is_none()
    }

    /// Nobody reads any more.
    pub(crate) fn close(&self) {
        self.inner.borrow_mut().cut();
    }
}

impl Inner {
    fn give_back(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.budget.set(self.budget.get().saturating_sub(bytes));
    }

    fn cut(&mut self) {
        self.state = State::Cut;
        self.waiting.clear();
        self.give_back(self.bytes);
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::{COPIES_BYTES, COPY_BYTES, Tap};
    use bytes::Bytes;
    use http_body::Frame;
    use std::cell::Cell;
    use std::rc::Rc;
    use std::task::{Context, Poll, Waker};

    fn read(tap: &Tap) -> Option<Result<usize, ()>> {
        match tap.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => panic!("nothing to read"),
            Poll::Ready(None) => None,
            Poll::Ready(Some(Ok(frame))) => {
                Some(Ok(frame.into_data().map_or(0, |data| data.len())))
            }
            Poll::Ready(Some(Err(_))) => Some(Err(())),
        }
    }

    fn frame(bytes: usize) -> Frame<Bytes> {
        Frame::data(Bytes::from(vec![0; bytes]))
    }

    #[test]
    fn a_copy_reads_what_passed_by_and_gives_the_room_back() {
        let budget = Rc::new(Cell::new(0));
        let tap = Tap::new(Rc::clone(&budget), None);
        tap.push(&frame(10));
        tap.push(&frame(20));
        assert_eq!(budget.get(), 30);
        assert_eq!(read(&tap), Some(Ok(10)));
        tap.end(true);
        assert!(!tap.is_end_stream());
        assert_eq!(read(&tap), Some(Ok(20)));
        assert!(tap.is_end_stream());
        assert_eq!((read(&tap), budget.get()), (None, 0));
    }

    #[test]
    fn a_slow_copy_is_cut_off_and_holds_nothing() {
        let budget = Rc::new(Cell::new(0));
        let tap = Tap::new(Rc::clone(&budget), None);
        tap.push(&frame(COPY_BYTES));
        tap.push(&frame(1));
        assert_eq!((read(&tap), budget.get()), (Some(Err(())), 0));
        // All copies together are bounded too.
        budget.set(COPIES_BYTES);
        let other = Tap::new(Rc::clone(&budget), None);
        other.push(&frame(1));
        assert_eq!(read(&other), Some(Err(())));
        assert_eq!(budget.get(), COPIES_BYTES);
    }

    #[test]
    fn half_a_body_is_never_taken_for_the_whole() {
        let budget = Rc::new(Cell::new(0));
        let tap = Tap::new(Rc::clone(&budget), None);
        tap.push(&frame(5));
        tap.end(false);
        assert_eq!(read(&tap), Some(Err(())));
        tap.push(&frame(5));
        assert_eq!(budget.get(), 0);
    }
}
