//! Changes that undo themselves unless confirmed, or at once when errors leave their band.
//!
//! An open change is a record in the log, committed together with the change itself: a control plane that dies in
//! between undoes it after its restart. The band is watched on the edges the change touches: the share of errors of the
//! minute before, widened by three standard deviations of the sample after and one point; at least three errors. The
//! sample after is all since the change, and the last minute of it. Proxies whose counters cannot be read from here are
//! named to whoever asks for the change.
//!
//! Not here: rollouts in steps.

use super::State;
use super::answer::{Outcome, Problem, ok};
use super::auth::Role;
use super::dispatch::Call;
use super::live::{Counts, Edge, Observed};
use super::objects::write_role;
use naka_api::Kind;
use naka_identity::{now_s, random_bytes};
use naka_store::{Draft, Filter, Snapshot};
use naka_types::name::ObjectRef;
use naka_types::workload::Ulid;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

const RECORD: &str = "confirm";
const OPENED: &str = "confirm.open";
/// Length of the minute before, in samples.
const SAMPLES: usize = 12;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(250);
/// Ticks between two looks at the traffic while a change is open.
const LOOK: u64 = 2;
/// Ticks between two samples that are kept. Every sample makes each proxy of the machine write out its counters.
const KEEP: u64 = 20;
/// Fewer errors than this are never an alarm.
const LEAST_ERRORS: u64 = 3;

type Sample = BTreeMap<Edge, Counts>;

/// Open changes and the samples of the last minute.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    open: BTreeMap<String, Open>,
    samples: VecDeque<(Instant, Sample)>,
}

/// One open change.
#[derive(Debug, Clone)]
struct Open {
    waiting: Waiting,
    revision: u64,
}

/// A change about to be made.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    id: String,
    actor: String,
    deadline_s: u64,
    objects: Vec<ObjectRef>,
    hosts: Vec<String>,
    /// The minute before.
    before: Counts,
    /// Counters when it was made.
    start: Sample,
    since: Instant,
    unwatched: Vec<String>,
}

impl Waiting {
    /// The record that goes into the same commit.
    pub(crate) fn draft(&self, actor: &str) -> Draft {
        let value =
            json!({"deadline_s": self.deadline_s, "actor": self.actor, "objects": self.objects});
        Draft::record(actor, "", OPENED, RECORD, &self.id, Some(value))
    }

    /// As the answer of apply names it.
    pub(crate) fn shown(&self) -> Value {
        json!({"id": self.id, "deadline": self.deadline_s, "hosts": self.hosts, "unwatched": self.unwatched})
    }
}

/// Gets ready to watch a change: samples the edges it will touch.
pub(crate) async fn prepare(
    state: &State,
    actor: &str,
    seconds: u64,
    after: Arc<Snapshot>,
    objects: Vec<ObjectRef>,
) -> Waiting {
    let hosts = state.live.hosts_of(after, objects.clone()).await;
    let Observed {
        edges: start,
        unwatched,
    } = state.live.edges().await;
    let oldest = lock(state)
        .samples
        .front()
        .map_or_else(|| start.clone(), |(_, sample)| sample.clone());
    let random = u128::from_be_bytes(random_bytes::<16>());
    // Short enough to type; unique among the few that are open.
    let id = Ulid::new(0, random).to_string()[18..].to_ascii_lowercase();
    Waiting {
        id,
        actor: actor.to_owned(),
        deadline_s: now_s() + seconds,
        before: between(&oldest, &start, &hosts),
        objects,
        hosts,
        start,
        since: Instant::now(),
        unwatched,
    }
}

/// Watches a change that has been made.
pub(crate) fn start(state: &State, waiting: Waiting, revision: u64) {
    let open = Open { waiting, revision };
    lock(state).open.insert(open.waiting.id.clone(), open);
}

/// `GET confirm`.
pub(crate) fn list(call: &Call) -> Outcome {
    let items = open(&call.state);
    Ok(ok(&json!({ "items": items })))
}

/// Open changes as JSON.
pub(crate) fn open(state: &State) -> Vec<Value> {
    let now = now_s();
    let shown = |open: &Open| {
        let objects: Vec<String> = open
            .waiting
            .objects
            .iter()
            .map(ToString::to_string)
            .collect();
        json!({"id": open.waiting.id, "revision": open.revision, "actor": open.waiting.actor, "objects": objects,
            "seconds_left": open.waiting.deadline_s.saturating_sub(now),
            "hosts": open.waiting.hosts, "unwatched": open.waiting.unwatched})
    };
    lock(state).open.values().map(shown).collect()
}

/// `POST confirm/<id>`.
pub(crate) async fn confirm(call: &Call, id: &str) -> Outcome {
    if let Some((held, objects)) = call.state.live.held()
        && held == id
    {
        return release(call, held, &objects).await;
    }
    let found = lock(&call.state).open.get(id).cloned();
    let Some(open) = found else {
        return Err(Problem::not_found(format!(
            "no change {id} waits for a confirmation; it may have undone itself"
        )));
    };
    for object in &open.waiting.objects {
        let role = Kind::parse(&object.kind).map_or(Role::Admin, write_role);
        call.subject
            .need(role, &object.namespace, "confirm this change")?;
    }
    // Whoever takes it out of the map decides; the watcher finds it gone.
    if lock(&call.state).open.remove(id).is_none() {
        return Err(Problem::conflict(format!("change {id} is being undone")));
    }
    let draft = Draft::record(&call.subject.name, "", "confirm.kept", RECORD, id, None);
    if let Err(error) = call.state.store.commit(vec![draft]).await {
        lock(&call.state).open.insert(id.to_owned(), open);
        return Err(error.into());
    }
    Ok(ok(
        &json!({"id": id, "revision": open.revision, "kept": true}),
    ))
}

/// Lets deletions of the watched directory happen.
async fn release(call: &Call, id: String, objects: &[ObjectRef]) -> Outcome {
    for object in objects {
        let role = Kind::parse(&object.kind).map_or(Role::Admin, write_role);
        let what = "release these deletions";
        call.subject.need(role, &object.namespace, what)?;
    }
    let message = "the directory has changed meanwhile; see naka status";
    match call.state.live.release(id.clone()).await {
        Some(deleted) => Ok(ok(&json!({"id": id, "deleted": deleted}))),
        None => Err(Problem::conflict(message)),
    }
}

/// Undoes open changes at their deadline, or when their errors leave the band. Runs until dropped.
pub async fn watch_pending(state: Arc<State>) {
    restore(&state);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for tick in 0u64.. {
        ticks.tick().await;
        let watched = !lock(&state).open.is_empty();
        let sample = if tick.is_multiple_of(KEEP) || watched && tick.is_multiple_of(LOOK) {
            Some(state.live.edges().await.edges)
        } else {
            None
        };
        for (open, why) in due(&state, sample.as_ref(), now_s()) {
            take_back(&state, &open, &why).await;
        }
        if let Some(sample) = sample.filter(|_| tick.is_multiple_of(KEEP)) {
            let mut pending = lock(&state);
            pending.samples.push_back((Instant::now(), sample));
            while pending.samples.len() > SAMPLES {
                pending.samples.pop_front();
            }
        }
    }
}

/// Open changes of before a restart. Their band is gone with the counters; their deadline stands.
fn restore(state: &State) {
    let snapshot = state.store.snapshot();
    let filter = Filter {
        kind_prefix: Some(OPENED.to_owned()),
        ..Filter::default()
    };
    let events = if snapshot.records_of(RECORD).next().is_some() {
        state.store.history(&filter, usize::MAX).unwrap_or_default()
    } else {
        Vec::new()
    };
    for (id, value) in snapshot.records_of(RECORD) {
        let made = events
            .iter()
            .find(|event| event.record.as_ref().is_some_and(|(_, own)| own == id));
        let Some(made) = made else {
            continue;
        };
        let field = |name: &str| value.get(name).cloned().unwrap_or_default();
        let waiting = Waiting {
            id: id.to_owned(),
            actor: made.actor.clone(),
            deadline_s: field("deadline_s").as_u64().unwrap_or(0),
            objects: serde_json::from_value(field("objects")).unwrap_or_default(),
            hosts: Vec::new(),
            before: Counts::default(),
            start: Sample::new(),
            since: Instant::now(),
            unwatched: Vec::new(),
        };
        lock(state).open.entry(id.to_owned()).or_insert(Open {
            waiting,
            revision: made.revision,
        });
    }
}

/// Takes out those whose time has come, with the reason.
fn due(state: &State, sample: Option<&Sample>, now: u64) -> Vec<(Open, String)> {
    let mut pending = lock(state);
    let oldest = pending.samples.front().cloned();
    let reasons: Vec<(String, String)> = pending
        .open
        .values()
        .filter_map(|open| {
            reason(&open.waiting, sample, oldest.as_ref(), now)
                .map(|why| (open.waiting.id.clone(), why))
        })
        .collect();
    reasons
        .into_iter()
        .filter_map(|(id, why)| pending.open.remove(&id).map(|open| (open, why)))
        .collect()
}

fn reason(
    waiting: &Waiting,
    sample: Option<&Sample>,
    oldest: Option<&(Instant, Sample)>,
    now: u64,
) -> Option<String> {
    if now >= waiting.deadline_s {
        return Some("not confirmed in time".to_owned());
    }
    let since = |from: &Sample| Some(between(from, sample?, &waiting.hosts));
    // Hours of good traffic must not hide what goes wrong now.
    let latest = oldest.filter(|(when, _)| *when >= waiting.since);
    let spans = [
        since(&waiting.start),
        latest.and_then(|(_, from)| since(from)),
    ];
    let after = spans
        .into_iter()
        .flatten()
        .find(|after| left_band(waiting.before, *after));
    after.map(|after| {
        let percent = |counts: Counts| 100.0 * share(counts);
        format!(
            "errors on {} rose from {:.1} % in the minute before to {:.1} % ({} of {} requests)",
            waiting.hosts.join(", "),
            percent(waiting.before),
            percent(after),
            after.errors,
            after.requests
        )
    })
}

fn share(counts: Counts) -> f64 {
    if counts.requests == 0 {
        return 0.0;
    }
    // Counters of a minute are far below 2^52.
    #[expect(clippy::cast_precision_loss, reason = "shares need no more digits")]
    let share = counts.errors as f64 / counts.requests as f64;
    share
}

/// Whether the errors after a change are outside of what the minute before explains.
fn left_band(before: Counts, after: Counts) -> bool {
    if after.errors < LEAST_ERRORS || after.requests == 0 {
        return false;
    }
    let (base, now) = (share(before), share(after));
    #[expect(
        clippy::cast_precision_loss,
        reason = "a deviation needs no more digits"
    )]
    let deviation = (base * (1.0 - base) / after.requests as f64).sqrt();
    now > base + 0.01 + 3.0 * deviation
}

/// What happened on edges towards these hosts between two samples. A counter that fell has started again.
fn between(from: &Sample, to: &Sample, hosts: &[String]) -> Counts {
    let grown = |old: u64, new: u64| if new >= old { new - old } else { new };
    to.iter().filter(|(edge, _)| hosts.contains(&edge.to)).fold(
        Counts::default(),
        |sum, (edge, new)| {
            let old = from.get(edge).copied().unwrap_or_default();
            Counts {
                requests: sum.requests + grown(old.requests, new.requests),
                errors: sum.errors + grown(old.errors, new.errors),
            }
        },
    )
}

async fn take_back(state: &State, open: &Open, why: &str) {
    let cause = format!("undo of revision {}: {why}", open.revision);
    let closed = |kind: &str| Draft::record("system", &cause, kind, RECORD, &open.waiting.id, None);
    let result = match state.store.undo(open.revision, "system", &cause) {
        Ok(mut drafts) => {
            drafts.push(closed("confirm.undone"));
            state
                .store
                .commit(drafts)
                .await
                .map(|commit| commit.revision)
        }
        Err(error) => Err(error),
    };
    match result {
        Ok(revision) => tracing::warn!(
            revision,
            undone = open.revision,
            why,
            "a change took itself back"
        ),
        Err(error) => {
            // Somebody changed the same objects since: taking this one back would lose that, so it stays, and is told.
            tracing::error!(%error, revision = open.revision, why, "a change could not take itself back");
            let note = json!({"revision": open.revision, "why": why, "error": error.to_string()});
            let drafts = vec![
                closed("confirm.stuck"),
                Draft::note("system", &cause, "confirm.failed", None, note),
            ];
            if let Err(error) = state.store.commit(drafts).await {
                tracing::error!(%error, "and that could not be remembered");
            }
        }
    }
}

fn lock(state: &State) -> MutexGuard<'_, Pending> {
    state.pending.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{Counts, Edge, Sample, between, left_band};

    fn counts(requests: u64, errors: u64) -> Counts {
        Counts { requests, errors }
    }

    #[test]
    fn the_band_is_left_by_errors_that_were_not_there_before() {
        assert!(left_band(counts(1000, 0), counts(10, 3)));
        assert!(
            left_band(counts(0, 0), counts(3, 3)),
            "no traffic before is no excuse"
        );
        assert!(
            !left_band(counts(1000, 0), counts(10, 2)),
            "two errors are no alarm"
        );
        assert!(
            !left_band(counts(1000, 100), counts(100, 12)),
            "ten percent were there before"
        );
        assert!(left_band(counts(1000, 100), counts(100, 25)));
        assert!(
            !left_band(counts(1000, 0), counts(100_000, 900)),
            "below one point"
        );
    }

    #[test]
    fn only_touched_edges_count_and_restarted_counters_count_from_zero() {
        let edge = |to: &str| Edge {
            from: "a/b".to_owned(),
            to: to.to_owned(),
            proxy: "1".to_owned(),
        };
        let from = Sample::from([(edge("x"), counts(100, 50)), (edge("y"), counts(5, 0))]);
        let to = Sample::from([
            (edge("x"), counts(7, 1)),
            (edge("y"), counts(9, 4)),
            (edge("z"), counts(1, 1)),
        ]);
        assert_eq!(between(&from, &to, &["x".to_owned()]), counts(7, 1));
        assert_eq!(
            between(&from, &to, &["y".to_owned(), "z".to_owned()]),
            counts(5, 5)
        );
    }
}
