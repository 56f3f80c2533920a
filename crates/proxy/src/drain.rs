//! Acknowledged draining: when a stopping proxy may stop accepting, decided without sockets or clocks.
//!
//! Announce (state DRAINING), go on serving until everybody who might still call has acknowledged, then close
//! gracefully, then wait for what is in flight. The first of these ends the wait: all acknowledged (the control
//! plane leaves out subscribers that are silent for 5 s and names them), the drain timeout, the control plane
//! unreachable for 5 s. [`Core`] decides; [`crate::run`] performs.

mod ceremony;

pub(crate) use ceremony::{Ceremony, farewell, progress};

use std::time::Duration;

/// How long the control plane may be unreachable before its acknowledgements are not waited for any more.
pub const UNREACHABLE: Duration = Duration::from_secs(5);

/// What happens to a drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// It is wanted. `announced` = somebody else may be calling us (we are registered with ports).
    Begin {
        /// Whether there is anybody to wait for.
        announced: bool,
        /// Whether the control plane can be reached now.
        reachable: bool,
    },
    /// The control plane says who has acknowledged.
    Progress {
        /// Everybody has, or was left out.
        complete: bool,
        /// Who has not.
        waiting_for: Vec<String>,
        /// Who was left out for saying nothing.
        dropped_silent: Vec<String>,
    },
    /// The control plane was lost or came back.
    Reachable(bool),
    /// Connections and requests still served.
    InFlight(usize),
    /// Time passed.
    Tick,
}

/// What the driver must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Tell the control plane DRAINING.
    Announce,
    /// Stop accepting; finish what is open with GOAWAY and `Connection: close`.
    Close(Ended),
    /// Nothing of inbound is left (or may be waited for): the drain is over.
    Finished,
}

/// Why the wait for acknowledgements ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everybody acknowledged.
    Acknowledged,
    /// There was nobody to wait for.
    NobodyCalls,
    /// The drain timeout passed.
    Timeout,
    /// The control plane was unreachable for too long.
    Unreachable,
}

impl Ended {
    /// A word for logs and the admin page.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::NobodyCalls => "nobody-calls",
            Self::Timeout => "timeout",
            Self::Unreachable => "control-unreachable",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Waiting,
    Closing,
    Finished,
}

/// The decision core of one drain.
#[derive(Debug)]
pub struct Core {
    phase: Phase,
    timeout: Duration,
    began: Duration,
    closed: Duration,
    unreachable_since: Option<Duration>,
    in_flight: usize,
    waiting_for: Vec<String>,
    dropped_silent: Vec<String>,
}

impl Core {
    /// A drain that has not begun. `timeout` bounds the wait for acknowledgements, and once more what is in flight.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self {
            phase: Phase::Serving,
            timeout,
            began: Duration::ZERO,
            closed: Duration::ZERO,
            unreachable_since: None,
            in_flight: 0,
            waiting_for: Vec::new(),
            dropped_silent: Vec::new(),
        }
    }

    /// Takes one input at a time since some fixed origin.
    pub fn on(&mut self, now: Duration, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Begin {
                announced,
                reachable,
            } => {
                if self.phase == Phase::Serving {
                    self.phase = Phase::Waiting;
                    self.began = now;
                    self.unreachable_since = (!reachable).then_some(now);
                    effects.push(Effect::Announce);
                    if !announced {
                        self.close(now, Ended::NobodyCalls, &mut effects);
                    }
                }
            }
            Input::Progress {
                complete,
                waiting_for,
                dropped_silent,
            } => {
                self.waiting_for = waiting_for;
                self.dropped_silent = dropped_silent;
                if complete && self.phase == Phase::Waiting {
                    self.close(now, Ended::Acknowledged, &mut effects);
                }
            }
            Input::Reachable(true) => self.unreachable_since = None,
            Input::Reachable(false) => {
                self.unreachable_since.get_or_insert(now);
            }
            Input::InFlight(count) => self.in_flight = count,
            Input::Tick => {}
        }
        if self.phase == Phase::Waiting {
            if self
                .unreachable_since
                .is_some_and(|since| now.saturating_sub(since) >= UNREACHABLE)
            {
                self.close(now, Ended::Unreachable, &mut effects);
            } else if now.saturating_sub(self.began) >= self.timeout {
                self.close(now, Ended::Timeout, &mut effects);
            }
        }
        if self.phase == Phase::Closing
            && (self.in_flight == 0 || now.saturating_sub(self.closed) >= self.timeout)
        {
            self.phase = Phase::Finished;
            effects.push(Effect::Finished);
        }
        effects
    }

    fn close(&mut self, now: Duration, why: Ended, effects: &mut Vec<Effect>) {
        self.phase = Phase::Closing;
        self.closed = now;
        effects.push(Effect::Close(why));
    }

    /// Whether the drain has begun.
    #[must_use]
    pub fn begun(&self) -> bool {
        self.phase != Phase::Serving
    }

    /// Whether it is over.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.phase == Phase::Finished
    }

    /// Time since it began.
    #[must_use]
    pub fn elapsed(&self, now: Duration) -> Duration {
        if self.begun() {
            now.saturating_sub(self.began)
        } else {
            Duration::ZERO
        }
    }

    /// Who has not acknowledged yet.
    #[must_use]
    pub fn waiting_for(&self) -> &[String] {
        &self.waiting_for
    }

    /// Who was left out for saying nothing.
    #[must_use]
    pub fn dropped_silent(&self) -> &[String] {
        &self.dropped_silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    fn begin(reachable: bool) -> Input {
        Input::Begin {
            announced: true,
            reachable,
        }
    }

    fn progress(complete: bool) -> Input {
        Input::Progress {
            complete,
            waiting_for: vec!["order".into()],
            dropped_silent: Vec::new(),
        }
    }

    /// Runs a script of (milliseconds, input) and compares what came out, with its time.
    #[track_caller]
    fn check(script: &[(u64, Input)], expect: &[(u64, Effect)]) {
        let mut core = Core::new(TIMEOUT);
        let mut got = Vec::new();
        for (at, input) in script {
            for effect in core.on(Duration::from_millis(*at), input.clone()) {
                got.push((*at, effect));
            }
        }
        assert_eq!(got, expect);
    }

    #[test]
    fn it_closes_only_when_all_have_acknowledged_and_ends_when_nothing_is_in_flight() {
        check(
            &[
                (0, Input::InFlight(2)),
                (10, begin(true)),
                (15, begin(true)),
                (20, progress(false)),
                (4_000, Input::Tick),
                (4_100, progress(true)),
                (4_200, Input::InFlight(1)),
                (4_300, Input::InFlight(0)),
                (4_400, Input::Tick),
            ],
            &[
                (10, Effect::Announce),
                (4_100, Effect::Close(Ended::Acknowledged)),
                (4_300, Effect::Finished),
            ],
        );
    }

    #[test]
    fn the_timeout_ends_the_wait_and_once_more_what_is_in_flight() {
        check(
            &[
                (0, Input::InFlight(1)),
                (0, begin(true)),
                (19_999, Input::Tick),
                (20_000, Input::Tick),
                (39_999, Input::Tick),
                (40_000, Input::Tick),
            ],
            &[
                (0, Effect::Announce),
                (20_000, Effect::Close(Ended::Timeout)),
                (40_000, Effect::Finished),
            ],
        );
    }

    #[test]
    fn an_unreachable_control_plane_is_waited_for_five_seconds_and_its_return_counts() {
        check(
            &[
                (0, begin(false)),
                (4_999, Input::Tick),
                (5_000, Input::Tick),
            ],
            &[
                (0, Effect::Announce),
                (5_000, Effect::Close(Ended::Unreachable)),
                (5_000, Effect::Finished),
            ],
        );
        check(
            &[
                (0, begin(false)),
                (4_000, Input::Reachable(true)),
                (6_000, Input::Reachable(false)),
                (6_500, Input::Reachable(false)),
                (10_999, Input::Tick),
                (11_000, Input::Tick),
            ],
            &[
                (0, Effect::Announce),
                (11_000, Effect::Close(Ended::Unreachable)),
                (11_000, Effect::Finished),
            ],
        );
    }

    #[test]
    fn a_client_only_has_nobody_to_wait_for() {
        check(
            &[(
                7,
                Input::Begin {
                    announced: false,
                    reachable: true,
                },
            )],
            &[
                (7, Effect::Announce),
                (7, Effect::Close(Ended::NobodyCalls)),
                (7, Effect::Finished),
            ],
        );
    }

    #[test]
    fn nothing_happens_before_it_begins() {
        check(&[(1, progress(true)), (90_000, Input::Tick)], &[]);
    }
}
