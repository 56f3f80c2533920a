//! What a proxy tells whoever started it: ready, how it stands, alive, stopping.
//!
//! The words are those of a service manager, the way there is the command line's (it knows the environment). A sign
//! of life is given only after the main thread's timer has fired and every worker has answered a question, so a
//! thread that hangs silences it.

use crate::settings::Role;
use crate::state::Shared;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How often the state is looked at for what changes without a bell.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// It serves, with a word on how. Given once.
    Ready(String),
    /// How it stands now, in one line.
    Status(String),
    /// It is alive: all its threads answer.
    Alive,
    /// It was told to stop.
    Stopping,
}

/// Where signs go, and how often a sign of life is wanted.
pub struct Teller {
    /// Takes a sign; must not block.
    pub to: Box<dyn Fn(Sign) + Send + Sync>,
    /// Pause between signs of life; none = no such signs.
    pub every: Option<Duration>,
}

impl std::fmt::Debug for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Teller")
            .field("every", &self.every)
            .finish_non_exhaustive()
    }
}

/// Begins to tell; what it starts ends with the set.
pub(super) fn begin(teller: &Arc<Teller>, shared: &Arc<Shared>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(stand(Arc::clone(teller), Arc::clone(shared)));
    if let Some(every) = teller.every {
        tasks.spawn(live(Arc::clone(teller), Arc::clone(shared), every));
    }
    tasks
}

async fn stand(teller: Arc<Teller>, shared: Arc<Shared>) {
    // A gateway's calls come from outside: it is ready when it takes them.
    let serving = shared.settings.role == Role::Gateway;
    let mut last = String::new();
    let mut ready = false;
    loop {
        let now = words(&shared, serving);
        if !ready && shared.missing(serving).is_empty() {
            ready = true;
            (teller.to)(Sign::Ready(now.clone()));
            last = now;
        } else if now != last {
            (teller.to)(Sign::Status(now.clone()));
            last = now;
        }
        shared.rung(LOOK_EVERY).await;
    }
}

/// One line on how it stands.
fn words(shared: &Shared, serving: bool) -> String {
    let lacks = shared.lacks(serving);
    if let Some(first) = lacks.first() {
        return format!("not ready: {}; {}", first.why, first.fix);
    }
    match shared.warnings().first() {
        Some(warning) => format!("ready, but {}", warning.why),
        None => "ready".to_owned(),
    }
}

async fn live(teller: Arc<Teller>, shared: Arc<Shared>, every: Duration) {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        shared.workers.answer().await;
        (teller.to)(Sign::Alive);
    }
}
