//! `watch=true`: one JSON event per line, from any held revision on.
//!
//! Each watcher reads the store's recent events at its own pace; a slow reader costs nobody else anything, and one
//! that falls behind what is held gets 410 and lists again.

use super::answer::{Outcome, Problem};
use super::dispatch::Call;
use super::objects::{Place, after, select, shown};
use super::select::Selector;
use super::table;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, header};
use naka_identity::now_s;
use naka_store::{Error as StoreError, Event, Store};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;

/// Lines that may wait for a reader.
const BUFFER: usize = 64;
/// At most one bookmark in this time.
const BOOKMARK_EVERY: Duration = Duration::from_secs(1);
/// A watch ends after this at the latest, so that forgotten ones do not live for ever; clients watch again.
const LONGEST: Duration = Duration::from_hours(1);

type Lines = mpsc::Sender<Result<Bytes, Infallible>>;

struct Watcher {
    store: Arc<Store>,
    place: Place,
    selector: Selector,
    bookmarks: bool,
    tables: bool,
    /// Everything up to here was sent or does not matter.
    seen: u64,
    lines: Lines,
}

/// `GET` of a collection with `watch=true`.
pub(crate) async fn watch(call: &Call, place: Place) -> Outcome {
    place.readable(call)?;
    let selector = Selector::of(&call.query)?;
    let store = call.state.store.clone();
    let from = call.number("resourceVersion")?.unwrap_or(0);
    let initial = from == 0 || call.flag("sendInitialEvents");
    if !initial {
        // Too old is told at once and as an answer of its own.
        store.since(from).map_err(too_old)?;
    }
    let seconds = call
        .number("timeoutSeconds")?
        .map_or(LONGEST, Duration::from_secs)
        .min(LONGEST);
    let (lines, stream) = mpsc::channel(BUFFER);
    let watcher = Watcher {
        store,
        place,
        selector,
        bookmarks: call.flag("allowWatchBookmarks"),
        tables: table::wanted(call.header(header::ACCEPT)),
        seen: from,
        lines,
    };
    let marked = call.flag("sendInitialEvents");
    tokio::spawn(async move {
        let closed = watcher.lines.clone();
        tokio::select! {
            _ = watcher.run(initial, marked) => {}
            () = closed.closed() => {}
            () = tokio::time::sleep(seconds) => {}
        }
    });
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(stream)));
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

fn too_old(error: StoreError) -> Problem {
    match error {
        StoreError::Gone { asked, oldest } => Problem::gone(format!(
            "too old resource version: {asked} ({oldest}); list again"
        )),
        // From before a restore, or from another mesh: the client must list again just the same.
        StoreError::NoSuchRevision(asked) => Problem::gone(format!(
            "resource version {asked} is not of this log; list again"
        )),
        other => other.into(),
    }
}

impl Watcher {
    /// Sends until the reader is gone (`None`).
    async fn run(mut self, initial: bool, marked: bool) -> Option<()> {
        let mut revisions = self.store.subscribe();
        if initial {
            self.current(marked).await?;
        }
        let mut told = self.seen;
        let mut next_bookmark = Instant::now();
        loop {
            revisions.borrow_and_update();
            let events = match self.store.since(self.seen) {
                Ok(events) => events,
                Err(error) => {
                    let status = too_old(error).status();
                    return self.line("ERROR", status).await;
                }
            };
            for event in events {
                self.seen = event.seq;
                if self.event(&event).await? {
                    told = event.seq;
                }
            }
            let due = self.bookmarks && told < self.seen;
            if due && Instant::now() >= next_bookmark {
                self.bookmark(false).await?;
                told = self.seen;
                next_bookmark = Instant::now() + BOOKMARK_EVERY;
                continue;
            }
            tokio::select! {
                changed = revisions.changed() => changed.ok()?,
                () = sleep_until(next_bookmark), if due => {}
            }
        }
    }

    /// What is there now, as if it had just been added.
    async fn current(&mut self, marked: bool) -> Option<()> {
        let snapshot = self.store.snapshot();
        let values: Vec<Value> = select(&snapshot, &self.place, &self.selector)
            .into_iter()
            .map(|value| shown(self.place.kind, &self.place.version, value))
            .collect();
        for value in values {
            self.object("ADDED", value).await?;
        }
        self.seen = snapshot.revision;
        if marked {
            self.bookmark(true).await
        } else {
            Some(())
        }
    }

    /// Sends an event if this watch is about it; says whether it was.
    async fn event(&self, event: &Event) -> Option<bool> {
        let about = event.is_object()
            && event
                .object
                .as_ref()
                .is_some_and(|object| self.place.holds(object));
        if !about {
            return Some(false);
        }
        let matches = |value: &Option<Value>| {
            value
                .as_ref()
                .is_some_and(|value| self.selector.matches(value))
        };
        // An object that leaves the selection is deleted as far as this watcher is concerned.
        let kind = match (matches(&event.before), matches(&event.after)) {
            (false, false) => return Some(false),
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        let Some(value) = after(event) else {
            return Some(false);
        };
        self.object(kind, shown(self.place.kind, &self.place.version, &value))
            .await?;
        Some(true)
    }

    async fn object(&self, kind: &str, value: Value) -> Option<()> {
        let value = if self.tables {
            table::table(self.place.kind, &[value], self.seen, now_s())
        } else {
            value
        };
        self.line(kind, value).await
    }

    async fn bookmark(&self, initial_end: bool) -> Option<()> {
        let group = self.place.kind.names().group;
        let version = &self.place.version;
        let api_version = if group.is_empty() {
            version.clone()
        } else {
            format!("{group}/{version}")
        };
        let mut value = json!({"kind": self.place.kind.manifest(), "apiVersion": api_version,
            "metadata": {"resourceVersion": self.seen.to_string()}});
        if initial_end {
            value["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        self.line("BOOKMARK", value).await
    }

    async fn line(&self, kind: &str, object: Value) -> Option<()> {
        let mut text = json!({"type": kind, "object": object}).to_string();
        text.push('\n');
        self.lines.send(Ok(Bytes::from(text))).await.ok()
    }
}
