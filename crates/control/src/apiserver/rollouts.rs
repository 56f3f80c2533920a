//! `rollouts`: changes in steps, and what a person may say to them.

use super::answer::{Outcome, Problem, ok};
use super::auth::Role;
use super::authority::ground;
use super::dispatch::Call;
use crate::rollout::Rollout;
use crate::rollout::driver::{Driver, Error};
use naka_store::rfc3339;
use serde_json::{Value, json};

/// `GET rollouts`.
pub(crate) fn list(call: &Call) -> Outcome {
    call.subject.need(Role::Viewer, "", "see rollouts")?;
    let rollouts = &ground(call)?.rollouts;
    let all = rollouts.all();
    let items: Vec<Value> = all.iter().map(|one| told(rollouts, one)).collect();
    Ok(ok(&json!({ "items": items })))
}

/// `POST rollouts/<name>/promote` and `abort`.
pub(crate) async fn steer(call: &Call, name: &str, verb: &str) -> Outcome {
    call.subject
        .need(Role::Admin, "", &format!("{verb} a rollout"))?;
    let rollouts = &ground(call)?.rollouts;
    let actor = &call.subject.name;
    let done = match verb {
        "promote" => rollouts.promote(name, actor).await,
        _ => rollouts.abort(name, actor).await,
    };
    Ok(ok(&told(rollouts, &done.map_err(refused)?)))
}

/// A rollout as it is shown.
pub(crate) fn told(rollouts: &Driver, rollout: &Rollout) -> Value {
    let time = |s: u64| rfc3339(s.saturating_mul(1_000));
    let ended = rollout.phase.ended();
    let waits = match ended {
        true => rollout.problem.clone(),
        false => rollouts.waits(rollout),
    };
    json!({
        "name": rollout.name,
        "change": rollout.change,
        "manual": rollout.manual,
        "step": rollout.phase.word(),
        "ended": ended,
        "since": time(rollout.since_s),
        "started": time(rollout.started_s),
        "started_by": rollout.started_by,
        "aborted_by": rollout.aborted_by,
        "waits": waits,
        "left_behind": rollout.left_behind,
    })
}

pub(crate) fn refused(error: Error) -> Problem {
    match error {
        Error::Unknown(_) => Problem::not_found(error.to_string()),
        Error::Store(error) => error.into(),
        _ => Problem::bad_request(error.to_string()),
    }
}
