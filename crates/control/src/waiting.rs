//! Connections that have not shown yet that they mean it: handshake or first request unfinished.
//!
//! Their number is bounded, and who comes when it is full takes the place of the one that has waited longest. A limit
//! that makes newcomers wait instead would let a few hundred connections that never say a word keep everybody out for
//! as long as a handshake may take, again and again.
//!
//! Not here: connections that have shown who they are.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// The places of one or more listeners.
#[derive(Debug)]
pub(crate) struct Waiting {
    most: usize,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    next: u64,
    /// Oldest first; dropping an entry ends its connection.
    all: BTreeMap<u64, oneshot::Sender<()>>,
}

/// One connection's place.
#[derive(Debug)]
pub(crate) struct Place {
    number: u64,
    waiting: Arc<Waiting>,
    evicted: oneshot::Receiver<()>,
}

impl Waiting {
    /// Room for this many.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most: most.max(1),
            line: Mutex::default(),
        })
    }

    /// A place for a new connection, taken from the oldest one when there is none.
    pub(crate) fn enter(self: &Arc<Self>) -> Place {
        let (kept, evicted) = oneshot::channel();
        let mut line = self.lock();
        if line.all.len() >= self.most {
            line.all.pop_first();
        }
        let number = line.next;
        line.next += 1;
        line.all.insert(number, kept);
        drop(line);
        Place {
            number,
            waiting: Arc::clone(self),
            evicted,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The future's result, if it comes in time and nobody took the place.
    pub(crate) async fn hold<T>(
        mut self,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            _ = &mut self.evicted => None,
            () = tokio::time::sleep(limit) => None,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.lock().all.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::Waiting;
    use std::future::{pending, ready};
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn the_oldest_makes_room_and_the_prompt_never_lose_theirs() {
        let waiting = Waiting::new(2);
        let oldest = tokio::spawn(waiting.enter().hold(LONG, pending::<()>()));
        let second = waiting.enter();
        assert_eq!(second.hold(LONG, ready(1)).await, Some(1));
        let third = waiting.enter();
        // The second has left, so there was room: the oldest still waits.
        assert!(!oldest.is_finished());
        let fourth = waiting.enter();
        assert_eq!(oldest.await.expect("no panic"), None, "it made room");
        assert_eq!(third.hold(LONG, ready(3)).await, Some(3));
        assert_eq!(fourth.hold(LONG, ready(4)).await, Some(4));
        assert!(waiting.lock().all.is_empty());
    }

    #[tokio::test]
    async fn time_ends_it_too() {
        let place = Waiting::new(2).enter();
        assert_eq!(
            place.hold(Duration::from_millis(1), pending::<()>()).await,
            None
        );
    }
}
