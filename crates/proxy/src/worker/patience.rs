//! What is borne of a caller of whom nothing is known: how many requests it may break off, and how long it may leave an
//! answer where it is.
//!
//! One per connection; the worker's sweep asks whether it is over. Requests that a caller breaks off at once cost it
//! nothing and the program something (CVE-2023-44487, where each request is let through to the program); a window that
//! never opens keeps memory. Cells only: nothing leaves the worker's thread.

use crate::io::coarse_seconds;
use crate::limits;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use tokio::time::Instant;

/// What a connection's caller did so far.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// Requests that ended, however that was.
    ended: Cell<u32>,
    /// Those of them that the caller broke off early.
    broken: Cell<u32>,
    /// Answers that the caller has yet to take.
    offered: RefCell<Vec<Weak<Offered>>>,
}

impl Patience {
    /// A request came to its end.
    pub(crate) fn ended(&self) {
        self.ended.set(self.ended.get().saturating_add(1));
    }

    /// A request was broken off by the caller; says whether those are too many of all.
    pub(crate) fn broken_off(&self, early: bool) -> bool {
        self.ended();
        let broken = self.broken.get().saturating_add(u32::from(early));
        self.broken.set(broken);
        let all = self.ended.get();
        early && all >= limits::H2_RESETS_JUDGED && broken >= all / 2
    }

    /// A part of an answer is handed over that more follows.
    pub(crate) fn offer(&self, until: Option<Instant>) -> Rc<Offered> {
        let offered = Rc::new(Offered {
            since: Cell::new(Some(coarse_seconds())),
            until,
        });
        self.offered.borrow_mut().push(Rc::downgrade(&offered));
        offered
    }

    /// Whether an answer waits for too long.
    pub(crate) fn is_stalled(&self, now: u32) -> bool {
        let mut stalled = false;
        self.offered.borrow_mut().retain(|one| {
            let one = one.upgrade();
            stalled |= one.as_ref().is_some_and(|one| one.is_overdue(now));
            one.is_some()
        });
        stalled
    }
}

/// A part of an answer that waits until the caller has room for more.
#[derive(Debug)]
pub(crate) struct Offered {
    /// Coarse time since when it waits.
    since: Cell<Option<u32>>,
    /// When the whole exchange must be over.
    until: Option<Instant>,
}

impl Offered {
    /// The caller has room again.
    pub(crate) fn taken(&self) {
        self.since.set(None);
    }

    /// Another part is handed over.
    pub(crate) fn again(&self) {
        self.since.set(Some(coarse_seconds()));
    }

    fn is_overdue(&self, now: u32) -> bool {
        self.since.get().is_some_and(|since| {
            u64::from(now.saturating_sub(since)) >= limits::STALLED.as_secs()
                || self.until.is_some_and(|until| Instant::now() >= until)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Patience;
    use crate::io::coarse_seconds;
    use crate::limits::{H2_RESETS_JUDGED, STALLED};
    use std::time::Duration;

    #[test]
    fn who_breaks_off_most_requests_is_found_out_and_others_are_not() {
        let all = Patience::default();
        for n in 1..H2_RESETS_JUDGED {
            assert!(!all.broken_off(true), "{n} are too few to judge");
        }
        assert!(all.broken_off(true));
        let some = Patience::default();
        for _ in 0..10_000 {
            some.ended();
            some.ended();
            assert!(!some.broken_off(true), "a third may be broken off");
        }
        let late = Patience::default();
        for _ in 0..10_000 {
            assert!(!late.broken_off(false), "who waited for a while may leave");
        }
    }

    #[test]
    fn an_answer_waits_only_so_long() {
        let patience = Patience::default();
        let limit = u32::try_from(STALLED.as_secs()).unwrap();
        let first = patience.offer(None);
        let now = coarse_seconds();
        assert!(!patience.is_stalled(now + limit - 1));
        assert!(patience.is_stalled(coarse_seconds() + limit));
        first.taken();
        assert!(!patience.is_stalled(now + 2 * limit), "it was taken");
        first.again();
        assert!(patience.is_stalled(coarse_seconds() + limit));
        drop(first);
        assert!(!patience.is_stalled(now + 2 * limit), "it is over");
        let soon = tokio::time::Instant::now() + Duration::from_secs(600);
        let second = patience.offer(Some(soon));
        assert!(!patience.is_stalled(now), "the route has time left");
        drop(second);
        let _third = patience.offer(Some(tokio::time::Instant::now()));
        assert!(patience.is_stalled(now), "the route's time is over");
    }
}
