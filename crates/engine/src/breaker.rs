//! An explicit breaker of a destination: closed, open, and half open for a few trials.
//!
//! Closed, it counts: failures in a row, failures within a window, or their share of the calls within a window;
//! whichever reaches its limit opens it. Open, nobody is called for a set time. Then it is half open: as many calls
//! as there are trials go through at a time; when as many of them have succeeded it closes, and one that fails opens
//! it again for the whole time.
//!
//! One circuit a cluster, shared by all workers and carried over every swap of configuration; atomics only. Time is a
//! monotonic argument.
//!
//! Invariants: while open nobody passes; half open never more than the trials pass at once; a trial that ends without
//! saying anything about the destination is given back.

use crate::runtime::ClusterRuntime;
use crate::runtime::Recent;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Acquire};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// When a breaker opens, and how it closes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// Failures in a row; 0 = not counted.
    pub in_a_row: u32,
    /// Failures within a time; where both are set, this and not the share.
    pub count: Option<(u32, Duration)>,
    /// Share of failures within a time.
    pub rate: Option<Rate>,
    /// How long it stays open.
    pub open_for: Duration,
    /// Calls let through at a time when half open, and successes that close it.
    pub trials: u32,
    /// Statuses that are failures, instead of all 5xx.
    pub statuses: Option<Box<[u16]>>,
}

/// A share of failures that opens a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In hundredths of a percent.
    pub share: u32,
    /// Fewest calls that a share means something of.
    pub least: u32,
    /// Within this time.
    pub window: Duration,
}

impl Breaker {
    /// Whether a status is a failure.
    #[must_use]
    pub fn is_failure(&self, status: u16) -> bool {
        match &self.statuses {
            None => (500..600).contains(&status),
            Some(listed) => listed.contains(&status),
        }
    }
}

/// Where a breaker stands.
#[derive(Debug, Default)]
pub(crate) struct Circuit {
    /// Milliseconds at which trials begin; 0 = closed.
    until: AtomicU64,
    trials: AtomicU32,
    successes: AtomicU32,
    in_a_row: AtomicU32,
    failed: Recent,
    all: Recent,
    /// The breaker that all this was counted for.
    policy: Mutex<Option<Breaker>>,
}

/// The right to make a call.
#[derive(Debug)]
pub(crate) enum Pass {
    /// As any other.
    Closed,
    /// One of the trials.
    Trial(Trial),
}

/// One of the trials of a half-open breaker; given back when it is dropped without a verdict.
#[derive(Debug)]
pub(crate) struct Trial {
    runtime: Arc<ClusterRuntime>,
    /// Of which opening.
    until: u64,
    told: bool,
}

impl Drop for Trial {
    fn drop(&mut self) {
        let circuit = &self.runtime.circuit;
        if !self.told && circuit.until.load(Acquire) == self.until {
            // Whoever opens or closes it begins the count anew, so it cannot go below nothing.
            let _ = circuit
                .trials
                .fetch_update(AcqRel, Acquire, |n| n.checked_sub(1));
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl ClusterRuntime {
    /// Whether a call may be made; `None` while the breaker is open or all trials are under way.
    pub(crate) fn pass(self: &Arc<Self>, breaker: &Breaker, now: Duration) -> Option<Pass> {
        let circuit = &self.circuit;
        let until = circuit.until.load(Acquire);
        if until == 0 {
            return Some(Pass::Closed);
        }
        if millis(now) < until {
            return None;
        }
        let trials = breaker.trials.max(1);
        circuit
            .trials
            .fetch_update(AcqRel, Acquire, |n| (n < trials).then_some(n + 1))
            .ok()?;
        Some(Pass::Trial(Trial {
            runtime: Arc::clone(self),
            until,
            told: false,
        }))
    }

    /// Whether the breaker lets nobody through at this time.
    #[must_use]
    pub fn is_open(&self, now: Duration) -> bool {
        let until = self.circuit.until.load(Acquire);
        until != 0 && millis(now) < until
    }

    /// Since when the breaker is not closed, and when its trials begin or began; `None`: it is closed.
    #[must_use]
    pub fn stands(&self, breaker: &Breaker) -> Option<(Duration, Duration)> {
        let until = Duration::from_millis(self.circuit.until.load(Acquire));
        (!until.is_zero()).then(|| (until.saturating_sub(breaker.open_for), until))
    }

    /// Takes the breaker to be open until then. For whoever asks what would happen; calls open it by how they end.
    pub fn opened(&self, until: Duration) {
        let until = millis(until);
        self.circuit
            .until
            .store(until, std::sync::atomic::Ordering::Release);
    }

    /// Takes note of how a call ended; true when that opened the breaker.
    pub(crate) fn ended(
        &self,
        breaker: &Breaker,
        trial: Option<Trial>,
        failed: bool,
        now: Duration,
    ) -> bool {
        let circuit = &self.circuit;
        if let Some(mut trial) = trial {
            trial.told = true;
            return circuit.tried(breaker, trial.until, failed, now);
        }
        if circuit.until.load(Acquire) != 0 {
            // A call from before it opened.
            return false;
        }
        if circuit.counts(breaker, failed, now) {
            return circuit.open(breaker, 0, now);
        }
        false
    }

    /// Which breaker holds from now on. What was counted for another one means nothing any more. For when
    /// configuration is built: it takes a lock.
    pub fn breaker_is(&self, breaker: Option<&Breaker>) {
        let held = self.circuit.policy.lock();
        let mut held = held.unwrap_or_else(std::sync::PoisonError::into_inner);
        if held.as_ref() != breaker {
            *held = breaker.cloned();
            self.circuit.close();
        }
    }
}

impl Circuit {
    /// Counts a call of a closed breaker; true when it is enough.
    fn counts(&self, breaker: &Breaker, failed: bool, now: Duration) -> bool {
        if let Some(rate) = breaker.rate {
            self.all.add(rate.window, now);
        }
        if !failed {
            self.in_a_row.store(0, std::sync::atomic::Ordering::Release);
            return false;
        }
        let row = self.in_a_row.fetch_add(1, AcqRel).saturating_add(1);
        let mut enough = breaker.in_a_row > 0 && row >= breaker.in_a_row;
        if let Some(window) = breaker.count.map(|(_, window)| window) {
            self.failed.add(window, now);
        } else if let Some(rate) = breaker.rate {
            self.failed.add(rate.window, now);
        }
        if let Some((most, window)) = breaker.count {
            enough |= self.failed.count(window, now) >= most;
        } else if let Some(rate) = breaker.rate {
            let all = self.all.count(rate.window, now);
            let failed = u64::from(self.failed.count(rate.window, now)) * 10_000;
            enough |= all >= rate.least && failed >= u64::from(rate.share) * u64::from(all);
        }
        enough
    }

    /// Opens it unless somebody else did meanwhile.
    fn open(&self, breaker: &Breaker, from: u64, now: Duration) -> bool {
        let until = millis(now + breaker.open_for);
        let opened = self.until.compare_exchange(from, until, AcqRel, Acquire);
        if opened.is_ok() {
            self.begin_anew();
        }
        opened.is_ok()
    }

    fn close(&self) {
        self.begin_anew();
        self.until.store(0, std::sync::atomic::Ordering::Release);
    }

    fn begin_anew(&self) {
        for counter in [&self.trials, &self.successes, &self.in_a_row] {
            counter.store(0, std::sync::atomic::Ordering::Release);
        }
        self.failed.clear();
        self.all.clear();
    }

    /// A trial ended.
    fn tried(&self, breaker: &Breaker, of: u64, failed: bool, now: Duration) -> bool {
        if self.until.load(Acquire) != of {
            return false;
        }
        if failed {
            return self.open(breaker, of, now);
        }
        if self.successes.fetch_add(1, AcqRel) + 1 >= breaker.trials.max(1) {
            self.close();
        } else {
            let _ = self
                .trials
                .fetch_update(AcqRel, Acquire, |n| n.checked_sub(1));
        }
        false
    }
}

#[cfg(test)]
mod tests;
