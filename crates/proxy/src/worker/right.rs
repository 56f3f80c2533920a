//! Calls under way whose right is looked at again whenever configuration changes, where a PeerAuthentication asks for it
//! (`naka.dev/close-denied`); those that would not be let in any more end.
//!
//! Off by default, and then a request costs the look at one flag. Where it is on, a copy of each request's head is kept
//! as long as the call lasts, because policies judge what it said. A connection of bytes is judged as a connection.
//!
//! Not here: what a right rests on besides (certificates: `sweep`). Whoever was asked about a request (CUSTOM) is not
//! asked again, and a token that was sound at the beginning counts to the end of the call.

use super::state::Worker;
use crate::judged;
use naka_engine::canonical::{Canonical, Direction, Origin};
use naka_engine::exchange::{Cx, still_admitted};
use naka_engine::model::Snapshot;
use naka_types::reason::Reason;
use std::cell::{Cell, OnceCell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use tokio::sync::Notify;

/// Fewest that are looked through for those that have ended.
const FEW: usize = 64;

/// Why a call ends.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    pub(crate) reason: Reason,
    /// The rule that refuses it now.
    pub(crate) detail: Rc<str>,
}

/// The right of one call under way.
#[derive(Debug)]
pub(crate) struct Right {
    port: u16,
    origin: Origin,
    request: Option<Canonical>,
    lost: OnceCell<Lost>,
    told: Notify,
}

impl Right {
    /// Resolves when the call must end. Cancel-safe.
    pub(crate) async fn lost(&self) -> Lost {
        loop {
            let told = self.told.notified();
            if let Some(lost) = self.lost.get() {
                return lost.clone();
            }
            told.await;
        }
    }

    /// Whether it must.
    pub(crate) fn now(&self) -> Option<&Lost> {
        self.lost.get()
    }
}

/// Resolves when a call must end whose right is watched; never for others.
pub(crate) async fn lost(right: Option<Rc<Right>>) -> Lost {
    match right {
        Some(right) => right.lost().await,
        None => std::future::pending().await,
    }
}

/// The same for whoever polls.
pub(crate) struct Losing(Pin<Box<dyn Future<Output = Lost>>>);

impl Losing {
    pub(crate) fn of(right: Rc<Right>) -> Self {
        Self(Box::pin(lost(Some(right))))
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Lost> {
        self.0.as_mut().poll(cx)
    }
}

impl std::fmt::Debug for Losing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Losing")
    }
}

/// Those of a worker.
#[derive(Debug, Default)]
pub(crate) struct Rights {
    /// Whether any port asks for it.
    on: Cell<bool>,
    all: RefCell<Vec<Weak<Right>>>,
    /// So many are looked through next for those that have ended.
    full: Cell<usize>,
}

impl Rights {
    /// Takes up what a configuration says.
    pub(super) fn set(&self, snapshot: &Snapshot) {
        self.on
            .set(snapshot.inbounds().any(|inbound| inbound.closes));
    }
}

impl Worker {
    /// Watches the right of a call that was let in, where its port asks for that.
    pub(crate) fn right(&self, origin: &Origin, request: Option<&Canonical>) -> Option<Rc<Right>> {
        if !self.rights.on.get() {
            return None;
        }
        let Direction::Inbound { port } = origin.direction else {
            return None;
        };
        self.snapshot().inbound(port).filter(|own| own.closes)?;
        let right = Rc::new(Right {
            port,
            origin: origin.clone(),
            request: request.cloned(),
            lost: OnceCell::new(),
            told: Notify::new(),
        });
        let mut all = self.rights.all.borrow_mut();
        if all.len() >= self.rights.full.get().max(FEW) {
            all.retain(|one| one.strong_count() > 0);
            self.rights.full.set(2 * all.len());
        }
        all.push(Rc::downgrade(&right));
        Some(right)
    }

    /// Looks at every right again.
    pub(super) fn judge_again(&self) {
        let all = self.rights.all.borrow();
        for right in all.iter().filter_map(Weak::upgrade) {
            if right.now().is_some() {
                continue;
            }
            let snapshot = self.snapshot();
            let judging = still_admitted(
                right.request.as_ref(),
                right.port,
                &mut Cx {
                    snapshot: &snapshot,
                    origin: &right.origin,
                    now: self.now(),
                    around: &self.around.borrow(),
                    rng: &mut self.rng.borrow_mut(),
                    cursors: &mut self.cursors.borrow_mut(),
                    why: None,
                },
            );
            let Err((reason, said)) = judging else {
                continue;
            };
            let rule = said.and_then(|said| Some((said.refused_by.clone()?, said.by)));
            let rule = rule.map_or_else(String::new, |(rule, by)| judged::refused_by(&rule, by));
            let detail = format!("{rule} while it was under way");
            // Empty: it was looked at above.
            let _ = right.lost.set(Lost {
                reason,
                detail: detail.trim_start().into(),
            });
            right.told.notify_waiters();
        }
    }
}
