//! What every drain does around its decisions, whoever closes: who is to be told, the report, the farewell.
//!
//! Our own proxies and the agent of an Envoy drain by the same [`Core`]; a [`Ceremony`] holds it with its clock and
//! with those who wait for the end. It closes nothing itself: that is where the two differ.

use super::{Core, Effect, Ended, Input};
use crate::lease::Lease;
use naka_wire::v1::RegisterResponse;
use naka_wire::v1::register_request::State;
use serde_json::{Value as Json, json};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// How long the control plane may take to hear that we are gone.
const FAREWELL: Duration = Duration::from_millis(300);

/// A drain, before, during and after.
#[derive(Debug)]
pub(crate) struct Ceremony {
    core: Core,
    began: Instant,
    drained: Vec<oneshot::Sender<()>>,
    ended: Option<Ended>,
}

impl Ceremony {
    /// One that has not begun and will wait for acknowledgements at most this long.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            core: Core::new(timeout),
            began: Instant::now(),
            drained: Vec::new(),
            ended: None,
        }
    }

    /// Whether it has begun.
    pub(crate) fn begun(&self) -> bool {
        self.core.begun()
    }

    /// Who was left out for saying nothing.
    pub(crate) fn dropped_silent(&self) -> &[String] {
        self.core.dropped_silent()
    }

    /// Somebody wants it and hears of its end. What is in flight is unknown until it has been looked at, so that
    /// nothing is taken for over before that.
    pub(crate) fn begin(
        &mut self,
        done: oneshot::Sender<()>,
        announced: bool,
        reachable: bool,
    ) -> Input {
        self.drained.push(done);
        if self.core.finished() {
            self.finish();
        }
        if !self.core.begun() {
            self.core.on(self.began.elapsed(), Input::InFlight(1));
        }
        Input::Begin {
            announced,
            reachable,
        }
    }

    /// The next decisions.
    pub(crate) fn on(&mut self, input: Input) -> Vec<Effect> {
        let effects = self.core.on(self.began.elapsed(), input);
        for effect in &effects {
            match effect {
                Effect::Announce => {
                    tracing::info!("draining: endpoints are announced, calls are still served");
                }
                Effect::Close(why) => {
                    tracing::info!(why = why.as_str(), "draining: no new connections");
                    self.ended = Some(*why);
                }
                Effect::Finished => tracing::info!("drained"),
            }
        }
        effects
    }

    /// The end: everybody who waits hears of it.
    pub(crate) fn finish(&mut self) {
        for done in self.drained.drain(..) {
            // The asker may be gone.
            let _ = done.send(());
        }
    }

    /// For the admin page, in a phase.
    pub(crate) fn report(&self, phase: &str) -> Json {
        let elapsed = self.core.elapsed(self.began.elapsed()).as_millis();
        json!({
            "phase": phase,
            "ended": self.ended.map(Ended::as_str),
            "waiting_for": self.core.waiting_for(),
            "dropped_silent": self.core.dropped_silent(),
            "elapsed_ms": u64::try_from(elapsed).unwrap_or(u64::MAX),
        })
    }
}

/// What the control plane says about a drain.
pub(crate) fn progress(answer: RegisterResponse) -> Option<Input> {
    answer.drain.map(|drain| Input::Progress {
        complete: drain.complete,
        waiting_for: drain.waiting_for,
        dropped_silent: drain.dropped_silent,
    })
}

/// Says goodbye, and waits a little for it to be heard if anybody listens.
pub(crate) async fn farewell(
    lease: &Lease,
    connected: bool,
    answers: &mut mpsc::UnboundedReceiver<RegisterResponse>,
) {
    lease.state(State::Gone);
    if connected {
        while answers.try_recv().is_ok() {}
        let _ = tokio::time::timeout(FAREWELL, answers.recv()).await;
    }
}
