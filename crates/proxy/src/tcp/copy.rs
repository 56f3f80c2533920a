//! Moves bytes between two streams until both directions have ended.
//!
//! All relays of a worker share one scratch buffer, and a direction owns memory only while its writer is slower than
//! its reader, so an idle relay costs no buffer at all. A reader is not asked again before its bytes are written:
//! memory per direction is bounded by one read. Half-closing is passed on: the end of one side shuts down writing on
//! the other and the opposite direction goes on.

use crate::io::Io;
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const SCRATCH: usize = 64 * 1024;
/// Reads of one direction before others get their turn.
const TURNS: usize = 16;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Which side ended a relay early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The caller's connection failed.
    Downstream,
    /// The called one's connection failed.
    Upstream,
}

/// What a relay moved.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Total {
    /// From caller to called.
    pub(crate) sent: u64,
    /// From called to caller.
    pub(crate) received: u64,
    /// The side that broke it off, if any.
    pub(crate) broken: Option<Side>,
}

#[derive(Default)]
struct Direction {
    pending: Vec<u8>,
    done: usize,
    ended: bool,
    shut: bool,
    dirty: bool,
    moved: u64,
}

enum Broke {
    Reader,
    Writer,
}

impl Direction {
    /// Ready when this direction has ended and its end was passed on.
    fn poll(
        &mut self,
        from: &mut Io,
        to: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broke>> {
        for _ in 0..TURNS {
            if self.shut {
                return Poll::Ready(Ok(()));
            }
            if self.done < self.pending.len() {
                match Pin::new(&mut *to).poll_write(cx, &self.pending[self.done..]) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Broke::Writer)),
                    Poll::Ready(Ok(count)) => self.wrote(count),
                    Poll::Pending => return Poll::Pending,
                }
                continue;
            }
            if self.ended {
                return match Pin::new(&mut *to).poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => {
                        self.shut = true;
                        Poll::Ready(Ok(()))
                    }
                    Poll::Ready(Err(_)) => Poll::Ready(Err(Broke::Writer)),
                    Poll::Pending => Poll::Pending,
                };
            }
            match BUFFER.with_borrow_mut(|scratch| self.step(scratch, from, to, cx)) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(broke)) => return Poll::Ready(Err(broke)),
                Poll::Pending => return self.flush(to, cx),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One read and, at once, one write of what it brought.
    fn step(
        &mut self,
        scratch: &mut [u8],
        from: &mut Io,
        to: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broke>> {
        let mut buf = ReadBuf::new(scratch);
        match Pin::new(from).poll_read(cx, &mut buf) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Broke::Reader)),
            Poll::Ready(Ok(())) => {}
        }
        let bytes = buf.filled();
        if bytes.is_empty() {
            self.ended = true;
            return Poll::Ready(Ok(()));
        }
        self.moved += bytes.len() as u64;
        self.dirty = true;
        let written = match Pin::new(to).poll_write(cx, bytes) {
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Broke::Writer)),
            Poll::Ready(Ok(count)) => count,
            Poll::Pending => 0,
        };
        if written < bytes.len() {
            self.pending.extend_from_slice(&bytes[written..]);
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, count: usize) {
        self.done += count;
        if self.done == self.pending.len() {
            // Freed, not kept: most relays need this buffer once in a while at most.
            self.pending = Vec::new();
            self.done = 0;
        }
    }

    /// TLS keeps records back until flushed; waiting for more input must not hold output.
    fn flush(&mut self, to: &mut Io, cx: &mut Context<'_>) -> Poll<Result<(), Broke>> {
        if self.dirty {
            match Pin::new(to).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.dirty = false,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broke::Writer)),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }
}

/// Relays until both sides are done or one fails; both are closed afterwards.
pub(crate) async fn both(mut down: Io, mut up: Io) -> Total {
    let (mut there, mut back) = (Direction::default(), Direction::default());
    let broken = poll_fn(|cx| {
        let a = match there.poll(&mut down, &mut up, cx) {
            Poll::Ready(Err(Broke::Reader)) => return Poll::Ready(Some(Side::Downstream)),
            // A called side that no longer reads may still have an answer under way: go on with the other direction.
            Poll::Ready(Err(Broke::Writer)) if !back.shut => {
                there.shut = true;
                there.pending = Vec::new();
                true
            }
            Poll::Ready(Err(Broke::Writer)) => return Poll::Ready(Some(Side::Upstream)),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        let b = match back.poll(&mut up, &mut down, cx) {
            Poll::Ready(Err(Broke::Reader)) => return Poll::Ready(Some(Side::Upstream)),
            Poll::Ready(Err(Broke::Writer)) => return Poll::Ready(Some(Side::Downstream)),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        if a && b {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    })
    .await;
    Total {
        sent: there.moved,
        received: back.moved,
        broken,
    }
}
