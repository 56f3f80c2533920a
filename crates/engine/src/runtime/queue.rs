//! Who waits for a connection of a cluster, by class and in the order of arrival, over all workers.
//!
//! A class is strict: as long as somebody of a better one waits, nobody of a worse one is called.
//!
//! Being called is a permission to try, not a connection: what became free may be of use to one place only (a pooled
//! connection to one endpoint on one worker), or be gone. Who tries in vain keeps the place in the line. Whoever
//! leaves calls the next, so a call is never lost with a caller that gave up, and one who finds that there is more
//! room passes the news on. Nothing here is touched while nobody waits.

use super::{ClusterRuntime, Count, Slot};
use crate::model::Limits;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

#[derive(Debug, Default)]
pub(super) struct Queue(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    next: u64,
    waiting: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    place: u64,
    /// Lower classes come first, each in the order of arrival.
    class: u8,
    called: bool,
    waker: Option<Waker>,
}

/// For whom something that became free is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Nobody waits.
    Nobody,
    /// The oldest waits at this place and has been called.
    Here,
    /// The oldest waits at another place: give the connection up.
    Elsewhere,
}

impl Queue {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, place: u64, class: u8) -> u64 {
        let mut line = self.line();
        let number = line.next;
        line.next += 1;
        // With everyone before it called, a call may have come to nobody: it tries once more.
        let called = line.waiting.iter().all(|entry| entry.called);
        let entry = Entry {
            number,
            place,
            class,
            called,
            waker: None,
        };
        let behind = line.waiting.partition_point(|other| other.class <= class);
        line.waiting.insert(behind, entry);
        number
    }

    fn leave(&self, number: u64) {
        self.line().waiting.retain(|entry| entry.number != number);
        self.call();
    }

    /// Calls the oldest that has not been called.
    pub(super) fn call(&self) {
        let mut line = self.line();
        let waker = line.waiting.iter_mut().find(|e| !e.called).map(Entry::call);
        drop(line);
        wake(waker);
    }

    fn offer(&self, place: u64) -> Offer {
        let mut line = self.line();
        let Some(oldest) = line.waiting.iter_mut().find(|entry| !entry.called) else {
            return Offer::Nobody;
        };
        if oldest.place != place {
            return Offer::Elsewhere;
        }
        let waker = oldest.call();
        drop(line);
        wake(Some(waker));
        Offer::Here
    }

    fn poll(&self, number: u64, cx: &Context<'_>) -> Poll<()> {
        let mut line = self.line();
        match line.waiting.iter_mut().find(|e| e.number == number) {
            Some(entry) if !entry.called => {
                entry.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            // Taken back before the try, so that what becomes free meanwhile calls again.
            Some(entry) => {
                entry.called = false;
                Poll::Ready(())
            }
            None => Poll::Ready(()),
        }
    }
}

impl Entry {
    fn call(&mut self) -> Option<Waker> {
        self.called = true;
        self.waker.take()
    }
}

fn wake(waker: Option<Option<Waker>>) {
    if let Some(Some(waker)) = waker {
        waker.wake();
    }
}

/// A place in the line, counted as a pending request.
#[must_use]
#[derive(Debug)]
pub struct Waiter {
    number: u64,
    pending: Slot,
}

impl Waiter {
    /// Resolves when it is this one's turn to try.
    pub async fn called(&self) {
        let queue = &self.pending.cluster.queue;
        poll_fn(|cx| queue.poll(self.number, cx)).await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.pending.cluster.queue.leave(self.number);
    }
}

impl ClusterRuntime {
    /// Joins the line for a connection; `None` when as many wait as may. `place` says which pooled connections are of
    /// use: those of the same worker, endpoint and kind; who is of a lower `class` comes before all of higher ones.
    #[must_use]
    pub fn wait(self: &Arc<Self>, limits: &Limits, place: u64, class: u8) -> Option<Waiter> {
        let pending = self.slot(Count::Pending, limits.pending)?;
        let number = self.queue.join(place, class);
        // Pairs with the one in `released`: either the try that follows sees the slot, or the release sees us.
        fence(Ordering::SeqCst);
        Some(Waiter { number, pending })
    }

    /// A pooled connection at this place became free.
    #[must_use]
    pub fn offer(&self, place: u64) -> Offer {
        if self.pending() == 0 {
            return Offer::Nobody;
        }
        self.queue.offer(place)
    }

    /// A connection was closed.
    pub(super) fn released(&self) {
        fence(Ordering::SeqCst);
        if self.pending() > 0 {
            self.queue.call();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Offer;
    use crate::model::Limits;
    use crate::runtime::{Registry, Waiter};
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::task::{Context, Wake, Waker};

    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn is_called(waiter: &Waiter, waker: &Waker) -> bool {
        pin!(waiter.called())
            .poll(&mut Context::from_waker(waker))
            .is_ready()
    }

    #[test]
    fn a_released_slot_calls_the_oldest_and_only_it() {
        let limits = Limits {
            connections: 1,
            pending: 2,
            ..Limits::default()
        };
        let cluster = Registry::default().cluster("a");
        let held = cluster.connection(&limits).unwrap();
        let counts = [0, 0].map(|_| Arc::new(Count(AtomicUsize::new(0))));
        let wakers = counts.clone().map(Waker::from);
        let first = cluster.wait(&limits, 1, 0).unwrap();
        assert!(
            is_called(&first, &wakers[0]),
            "the first tries once more after it joined"
        );
        let second = cluster.wait(&limits, 2, 0).unwrap();
        assert!(cluster.wait(&limits, 1, 0).is_none(), "two may wait");
        assert!(!is_called(&first, &wakers[0]) && !is_called(&second, &wakers[1]));
        drop(held);
        assert_eq!(counts.each_ref().map(|c| c.0.load(SeqCst)), [1, 0]);
        assert!(is_called(&first, &wakers[0]) && !is_called(&second, &wakers[1]));
        drop(first);
        assert!(
            is_called(&second, &wakers[1]),
            "who leaves passes the call on"
        );
        assert_eq!(cluster.pending(), 1);
    }

    #[test]
    fn an_offer_is_for_the_place_of_the_oldest() {
        let (cluster, limits) = (Registry::default().cluster("a"), Limits::default());
        assert_eq!(cluster.offer(1), Offer::Nobody);
        let first = cluster.wait(&limits, 1, 0).unwrap();
        assert!(is_called(&first, Waker::noop()));
        let _second = cluster.wait(&limits, 2, 0).unwrap();
        assert_eq!(cluster.offer(2), Offer::Elsewhere);
        assert_eq!(cluster.offer(1), Offer::Here);
        assert!(is_called(&first, Waker::noop()));
    }

    #[test]
    fn better_classes_are_called_first_and_each_in_its_order() {
        let limits = Limits {
            connections: 1,
            ..Limits::default()
        };
        let cluster = Registry::default().cluster("a");
        let held = cluster.connection(&limits).unwrap();
        let classes = [2, 1, 2, 0, 1];
        let mut waiting: Vec<_> = classes
            .iter()
            .map(|class| cluster.wait(&limits, 1, *class).unwrap())
            .collect();
        let places: Vec<usize> = (0..classes.len()).collect();
        // Each tries once more after it joined, in vain.
        for waiter in &waiting {
            let _ = is_called(waiter, Waker::noop());
        }
        drop(held);
        let mut order = Vec::new();
        let mut left = places;
        while !waiting.is_empty() {
            let at = waiting
                .iter()
                .position(|w| is_called(w, Waker::noop()))
                .unwrap();
            order.push(left.remove(at));
            drop(waiting.remove(at));
        }
        assert_eq!(order, [3, 1, 4, 0, 2]);
    }

    #[test]
    fn nobody_sleeps_beside_a_free_slot() {
        let limits = Limits {
            connections: 2,
            ..Limits::default()
        };
        let cluster = Registry::default().cluster("a");
        let most = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for place in 0..8 {
                let (cluster, limits, most) = (&cluster, &limits, &most);
                scope.spawn(move || {
                    for _ in 0..300 {
                        let mut waiter = None;
                        let slot = loop {
                            if let Some(slot) = cluster.connection(limits) {
                                break slot;
                            }
                            let waiter = waiter
                                .get_or_insert_with(|| cluster.wait(limits, place, 0).unwrap());
                            block_on(waiter.called());
                        };
                        drop(waiter);
                        most.fetch_max(cluster.connections() as usize, SeqCst);
                        std::thread::yield_now();
                        drop(slot);
                    }
                });
            }
        });
        assert_eq!((cluster.connections(), cluster.pending()), (0, 0));
        assert!(most.load(SeqCst) <= 2);
    }

    struct Thread(std::thread::Thread);
    impl Wake for Thread {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    fn block_on(future: impl Future<Output = ()>) {
        let waker = Waker::from(Arc::new(Thread(std::thread::current())));
        let mut future = pin!(future);
        while future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
        {
            std::thread::park_timeout(std::time::Duration::from_secs(30));
        }
    }
}
