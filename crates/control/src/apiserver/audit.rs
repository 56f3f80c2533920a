//! `audit`: the log as evidence. How it ends, whether it is as it was written, and its events for elsewhere.
//!
//! Who takes events out without masking them is an event himself. Whom this API does not let in, or refuses something,
//! is one of the stream of refused calls, where a flood of them harms nobody.

use super::State;
use super::answer::{Outcome, Problem, ok};
use super::auth::{Peer, Role};
use super::dispatch::Call;
use crate::denials::{DENIED, STREAM};
use crate::export::{LOG, leaving};
use crate::mask::mask;
use crate::settings::WhenFull;
use http::StatusCode;
use http::request::Parts;
use naka_identity::now_s;
use naka_store::{Draft, Entry, Error as StoreError, Event, Head, Stream, Verified, rfc3339};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};

/// Events that one answer looks at.
const PAGE: usize = 1000;
/// Heads that one question compares.
const MOST_HEADS: usize = 100;
/// Refusals of this API that are told one by one in a second; the others are counted.
const REFUSALS_A_SECOND: u64 = 20;
/// Refused calls of an answer unless asked otherwise, and at most.
const DENIALS: u64 = 50;
const MOST_DENIALS: u64 = 10_000;

/// What a request asked for, for the case that it is refused.
#[derive(Debug)]
pub(crate) struct Asked {
    method: String,
    path: String,
    by: String,
}

impl Asked {
    pub(crate) fn of(parts: &Parts) -> Self {
        let by = match parts.extensions.get::<Peer>() {
            Some(Peer::Unix { uid, .. }) => format!("uid:{uid}"),
            Some(Peer::Tls) | None => "remote".to_owned(),
        };
        Self {
            method: parts.method.to_string(),
            path: parts.uri.path().chars().take(512).collect(),
            by,
        }
    }
}

/// Refusals of this second.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<Counted>);

#[derive(Debug, Default, Clone, Copy)]
struct Counted {
    second: u64,
    told: u64,
    over: u64,
}

impl Counted {
    /// Whether one more is told, and how many were not told before it.
    fn one_more(&mut self, second: u64) -> Option<u64> {
        if self.second != second {
            (self.second, self.told) = (second, 0);
        }
        if self.told >= REFUSALS_A_SECOND {
            self.over += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.over))
    }
}

/// Remembers who was not let in, or was refused what he asked for.
pub(crate) fn refused(state: &State, asked: &Asked, problem: &Problem) {
    let kind = match problem.code {
        StatusCode::UNAUTHORIZED => "login.failed",
        StatusCode::FORBIDDEN => "access.denied",
        _ => return,
    };
    let Some(trail) = &state.trail else {
        return;
    };
    let now = now_s();
    let mut counted = state
        .refusals
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let Some(over) = counted.one_more(now) else {
        return;
    };
    drop(counted);
    let mut value = json!({
        "request.method": asked.method, "request.path": asked.path, "reason": problem.message, "count": 1,
    });
    if over > 0 {
        value["not_told_before"] = json!(over);
    }
    trail.stream.offer(vec![Entry {
        time_ms: now * 1000,
        actor: asked.by.clone(),
        kind: kind.to_owned(),
        value,
    }]);
}

/// Refuses a change where the trail must not have gaps and cannot be written, or is not taken away.
pub(crate) fn takes_changes(state: &State) -> Outcome<()> {
    let trail = state.trail.as_ref();
    let Some(trail) = trail.filter(|trail| trail.when_full == WhenFull::Refuse) else {
        return Ok(());
    };
    if let Some(why) = trail.stream.failing() {
        return Err(Problem::unavailable(format!(
            "no change is taken while refused calls cannot be recorded (--audit-when-full refuse): {why}"
        )));
    }
    for place in &trail.places {
        let behind = place.behind(&state.store, &trail.stream);
        if behind > trail.most_behind {
            let why = place.failing();
            return Err(Problem::unavailable(format!(
                "no change is taken while {} is {behind} events of the audit trail behind, more than {} \
                 (--audit-when-full refuse, --audit-most-behind): {}",
                place.to,
                trail.most_behind,
                why.as_deref().unwrap_or("it is catching up")
            )));
        }
    }
    Ok(())
}

/// A backup that was taken.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Taken {
    revision: u64,
}

/// `POST audit/backup`: somebody took one, from the files.
pub(crate) async fn backup(call: &Call, taken: Taken) -> Outcome {
    call.subject
        .need(Role::Admin, "", "note that a backup was taken")?;
    let value = json!({"revision": taken.revision});
    let note = Draft::note(&call.subject.name, "", "backup.taken", None, value);
    let commit = call.state.store.commit(vec![note]).await?;
    Ok(ok(&json!({"revision": commit.revision})))
}

/// `GET audit/status`: how the log ends, and how its streams are.
pub(crate) fn status(call: &Call) -> Outcome {
    call.subject.need(Role::Viewer, "", "see the audit trail")?;
    let streams: Vec<Value> = call
        .state
        .trail
        .iter()
        .map(|trail| {
            json!({
                "name": STREAM, "keep_s": trail.keep.as_secs(), "dropped": trail.stream.dropped(),
                "failing": trail.stream.failing(), "when_full": trail.when_full.word(),
                "events": trail.stream.span(),
            })
        })
        .collect();
    let store = &call.state.store;
    let trail = call.state.trail.iter();
    let places: Vec<Value> = trail
        .flat_map(|trail| trail.places.iter().map(move |place| (trail, place)))
        .map(|(trail, place)| {
            let (log, denials) = place.delivered();
            json!({
                "to": place.to, "form": place.form, "delivered": {LOG: log, STREAM: denials},
                "behind": place.behind(store, &trail.stream), "dropped": place.dropped(),
                "failing": place.failing(), "when_full": trail.when_full.word(),
                "most_behind": trail.most_behind,
            })
        })
        .collect();
    let head = store.head();
    let kept = call.state.trail.as_ref().and_then(|trail| trail.keep_log);
    let kept = kept.map(|keep| keep.as_secs());
    Ok(ok(&json!({
        "head": head.to_string(), "begins_after": store.start().seq, "keep_s": kept, "streams": streams,
        "places": places,
    })))
}

/// `GET denials?limit=N`: refused calls, newest first.
pub(crate) async fn denials(call: &Call) -> Outcome {
    let own = call.subject.namespaces.first().map_or("", String::as_str);
    call.subject.need(Role::Viewer, own, "see refused calls")?;
    let limit = call.number("limit")?.unwrap_or(DENIALS).min(MOST_DENIALS);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let Some(trail) = &call.state.trail else {
        return Ok(ok(&json!({"items": []})));
    };
    let found = paged(&trail.stream, move |stream| stream.newest(limit)).await?;
    let items: Vec<Value> = found
        .iter()
        .filter(|(_, event)| seen(call, event))
        .map(|(head, event)| flat(head, event))
        .collect();
    Ok(ok(&json!({"items": items})))
}

/// A refused call in one level, as a table shows it.
fn flat(head: &Head, event: &Event) -> Value {
    let mut value = event.after.clone().unwrap_or_default();
    mask(&mut value);
    let caller = value["source.principal"].as_str().unwrap_or_default();
    let caller = match (event.kind.as_str(), caller) {
        (DENIED, "") => "unknown".to_owned(),
        (DENIED, caller) => caller.trim_start_matches("spiffe://").to_owned(),
        _ => event.actor.clone(),
    };
    let part = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let called = match part("destination.workload") {
        name if name.is_empty() => String::new(),
        name => format!("{name}.{}", part("destination.namespace")),
    };
    let asked = format!("{} {}", part("request.method"), part("request.path"));
    value["seq"] = json!(head.seq);
    value["time"] = json!(rfc3339(event.time_ms));
    value["time_ms"] = json!(event.time_ms);
    value["kind"] = json!(event.kind);
    value["from"] = json!(caller);
    value["to"] = json!(called);
    value["asked"] = json!(asked.trim());
    value
}

/// Whether the caller of the API may see an event. Whoever sees some namespaces only does not see what belongs to none.
fn seen(call: &Call, event: &Event) -> bool {
    let of_stream = event
        .after
        .as_ref()
        .and_then(|value| value["destination.namespace"].as_str());
    match (&event.object, of_stream) {
        (Some(object), _) => call.subject.sees(&object.namespace),
        (None, Some(namespace)) => call.subject.sees(namespace),
        (None, None) => call.subject.sees_all(),
    }
}

type Page = Vec<(Head, Event)>;

/// Reads files where that holds up nobody.
async fn paged(
    stream: &Arc<Stream>,
    read: impl FnOnce(&Stream) -> Result<Page, StoreError> + Send + 'static,
) -> Outcome<Page> {
    let stream = Arc::clone(stream);
    aside(move || read(&stream)).await
}

async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Outcome<T> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| Problem::from(StoreError::Invalid(error.to_string())))?;
    done.map_err(Problem::from)
}

/// `GET audit/head`: how the log ends.
pub(crate) fn head(call: &Call) -> Outcome {
    call.subject.need(Role::Viewer, "", "read the log's head")?;
    let head = call.state.store.head();
    Ok(ok(&json!({"head": head.to_string(), "seq": head.seq})))
}

/// `GET audit/verify?heads=SEQ:HASH,…`.
pub(crate) async fn verify(call: &Call) -> Outcome {
    call.subject.need(Role::Viewer, "", "verify the log")?;
    let words = call
        .param("heads")
        .split(',')
        .filter(|word| !word.is_empty());
    let heads: Vec<Head> = words.map(noted).collect::<Outcome<_>>()?;
    if heads.len() > MOST_HEADS {
        return Err(Problem::bad_request(format!(
            "{} heads are too many: {MOST_HEADS} at a time",
            heads.len()
        )));
    }
    let store = Arc::clone(&call.state.store);
    let stream = call
        .state
        .trail
        .as_ref()
        .map(|trail| Arc::clone(&trail.stream));
    // A long log takes seconds.
    let verified = aside(move || {
        if let Some(stream) = stream {
            // What was taken is looked at, too.
            stream.settle();
        }
        store.verify(&heads)
    })
    .await?;
    Ok(ok(&told(&verified)))
}

/// What was found, with the finding in words too.
fn told(verified: &Verified) -> Value {
    let mut value = json!(verified);
    value["from"] = json!(verified.from_ms.map(rfc3339));
    value["until"] = json!(verified.until_ms.map(rfc3339));
    value["told"] = json!(verified.broken.as_ref().map(ToString::to_string));
    value
}

fn noted(word: &str) -> Outcome<Head> {
    Head::parse(word).ok_or_else(|| {
        Problem::bad_request(format!(
            "{word:?} is no head: write SEQ:HASH, as `naka audit head` prints it"
        ))
    })
}

/// `GET audit/events?stream=NAME&from=SEQ&to=SEQ&since=MS&until=MS&kind=PREFIX,…&unmasked=true`: events in order with the hashes of
/// their chain, and where to go on.
pub(crate) async fn events(call: &Call) -> Outcome {
    let own = call.subject.namespaces.first().map_or("", String::as_str);
    call.subject.need(Role::Viewer, own, "read the log")?;
    let unmasked = call.flag("unmasked");
    let from = call.number("from")?.unwrap_or(0);
    let to = call.number("to")?.unwrap_or(u64::MAX);
    let since = call.number("since")?.unwrap_or(0);
    let until = call.number("until")?.unwrap_or(u64::MAX);
    if unmasked {
        call.subject
            .need(Role::Admin, "", "read the log without masking")?;
        let value = json!({"from": from, "to": to});
        let note = Draft::note(&call.subject.name, "", "audit.unmasked", None, value);
        call.state.store.commit(vec![note]).await?;
    }
    let kinds: Vec<&str> = call
        .param("kind")
        .split(',')
        .filter(|kind| !kind.is_empty())
        .collect();
    let wanted = |event: &Event| {
        seen(call, event)
            && (since..=until).contains(&event.time_ms)
            && (kinds.is_empty() || kinds.iter().any(|kind| event.kind.starts_with(kind)))
    };
    let store = Arc::clone(&call.state.store);
    let stream = Some(call.param("stream")).filter(|name| !name.is_empty());
    let stream = stream.unwrap_or(LOG);
    let page = match (stream, &call.state.trail) {
        (LOG, _) => aside(move || store.page(from, PAGE)).await?,
        (STREAM, Some(trail)) => {
            paged(&trail.stream, move |stream| {
                if from <= 1 {
                    stream.settle();
                }
                stream.page(from, PAGE)
            })
            .await?
        }
        (other, _) => {
            return Err(Problem::not_found(format!(
                "there is no stream {other:?}: there are {LOG} and {STREAM}"
            )));
        }
    };
    let more = page.len() == PAGE;
    let last = page
        .last()
        .map_or(from.saturating_sub(1), |(head, _)| head.seq);
    let items: Vec<Value> = page
        .iter()
        .filter(|(head, event)| head.seq <= to && wanted(event))
        .map(|(head, event)| leaving(stream, head, event, unmasked))
        .collect();
    let next = (more && last < to).then_some(last + 1);
    Ok(ok(
        &json!({"items": items, "last": last.min(to), "next": next}),
    ))
}

#[cfg(test)]
mod tests {
    use super::{Counted, REFUSALS_A_SECOND};

    #[test]
    fn so_many_refusals_a_second_are_told_and_the_others_counted() {
        let mut counted = Counted::default();
        for _ in 0..REFUSALS_A_SECOND {
            assert_eq!(counted.one_more(7), Some(0));
        }
        assert_eq!((counted.one_more(7), counted.one_more(7)), (None, None));
        assert_eq!(counted.one_more(8), Some(2));
        assert_eq!(counted.one_more(8), Some(0));
    }
}
