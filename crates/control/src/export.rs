//! The standing export of the audit trail: every event of the log and of its streams goes, masked, to each place that
//! the control plane was told at its start, by itself and at least once.
//!
//! The log is the queue. Each place has a task of its own, so one that hangs delays no other, no change and no call;
//! what it has got is remembered in a file beside the log (not in it: the note would be an event to send), with the
//! hash of the last event, so that another log in the same directory (a backup put back, a chain written anew) is told
//! apart and sent from its beginning. Only what retention removed from log or stream before a place took it is lost to
//! that place, and that is counted and an event.
//!
//! Options and no object: whoever may write objects is among those who are watched.
//!
//! Not here: what refuses changes while a place is behind (`apiserver::audit`).

use crate::apiserver::read::event_value;
use crate::denials::STREAM;
use crate::mask::mask;
use crate::settings::Audit;
use naka_store::{Draft, Error as StoreError, Event, Head, Store, Stream};
use position::{Position, Positions};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

mod file;
mod otlp;
mod position;

pub(crate) use otlp::Stream as Connection;
pub use otlp::{Collector, Unsent};

/// Name of the log among the streams.
pub(crate) const LOG: &str = "log";
/// Kind of the event that says what a place never gets.
const UNDELIVERED: &str = "audit.undelivered";
/// Kind of the event of another sealing key, which writes the chain anew.
const REWRITTEN: &str = "seal.rotate";
/// Events of one batch.
const PAGE: usize = 500;
/// Streams are looked at so often; the log says itself that it has more.
const LOOK: Duration = Duration::from_secs(1);
/// Changes that come together go together.
const GATHER: Duration = Duration::from_millis(50);
/// Shortest and longest pause after a batch that was not taken.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Where events go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Lines of JSON in a file, which is rotated by its size.
    File(PathBuf),
    /// A collector of OpenTelemetry, OTLP over HTTP.
    Collector(String),
}

impl Place {
    /// Reads an address or a path.
    ///
    /// # Errors
    /// When it looks like an address of something else.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(_) => Collector::new(text, None).map(|_| Self::Collector(text.to_owned())),
            None if text.is_empty() => Err("write a file or http://HOST:4318/v1/logs".to_owned()),
            None => Ok(Self::File(PathBuf::from(text))),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Collector(url) => url.clone(),
        }
    }
}

/// How a place is: what it has got, and what is wrong with it.
#[derive(Debug)]
pub struct Shown {
    /// Its file or address.
    pub to: String,
    /// `file` or `otlp`.
    pub form: &'static str,
    log: AtomicU64,
    denials: AtomicU64,
    dropped: AtomicU64,
    failing: Mutex<Option<String>>,
}

impl Shown {
    /// The last event of the log and of the refused calls that it has got.
    #[must_use]
    pub fn delivered(&self) -> (u64, u64) {
        (self.log.load(Relaxed), self.denials.load(Relaxed))
    }

    /// Events that it will never get, since this process began.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Why it takes nothing now, if so.
    #[must_use]
    pub fn failing(&self) -> Option<String> {
        let failing = self.failing.lock();
        failing.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Events that are there and that it has not got.
    #[must_use]
    pub fn behind(&self, store: &Store, denials: &Stream) -> u64 {
        let (log, refused) = self.delivered();
        let last = denials.span().map_or(0, |(_, last)| last);
        store.head().seq.saturating_sub(log) + last.saturating_sub(refused)
    }

    fn stands(&self, stream: &str, seq: u64) {
        let number = if stream == LOG {
            &self.log
        } else {
            &self.denials
        };
        number.store(seq, Relaxed);
    }

    fn says(&self, what: Option<String>) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*failing, &what) {
            (None, Some(why)) => tracing::error!(
                to = self.to,
                error = why,
                "the audit trail does not get there; it is kept and tried again"
            ),
            (Some(_), None) => tracing::info!(to = self.to, "the audit trail gets there again"),
            _ => {}
        }
        *failing = what;
    }
}

/// What takes events.
enum Sink {
    File(file::Rotated),
    Collector(Box<Collector>),
}

impl Sink {
    async fn take(&self, events: Vec<Value>) -> Result<(), Unsent> {
        match self {
            Self::Collector(collector) => collector.send(&events).await,
            Self::File(file) => {
                let file = file.clone();
                let done = tokio::task::spawn_blocking(move || file.append(&events)).await;
                done.unwrap_or_else(|error| Err(error.to_string()))
                    .map_err(Unsent::Later)
            }
        }
    }
}

/// The places of a control plane.
pub struct Export {
    store: Arc<Store>,
    denials: Arc<Stream>,
    positions: Arc<Positions>,
    places: Vec<(Arc<Shown>, Sink)>,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export")
            .field("places", &self.shown())
            .finish_non_exhaustive()
    }
}

impl Export {
    /// Opens the places, which need not be there yet.
    ///
    /// # Errors
    /// When an address, a file of authorities or what the places have cannot be read.
    pub fn new(
        dir: &Path,
        store: &Arc<Store>,
        denials: &Arc<Stream>,
        settings: &Audit,
    ) -> Result<Self, String> {
        let mut places = Vec::new();
        for place in &settings.to {
            let (form, sink) = match place {
                Place::File(path) => {
                    let file =
                        file::Rotated::new(path.clone(), settings.file_bytes, settings.files);
                    ("file", Sink::File(file))
                }
                Place::Collector(url) => {
                    let collector = Collector::new(url, settings.authorities.as_deref())?;
                    ("otlp", Sink::Collector(Box::new(collector)))
                }
            };
            let shown = Shown {
                to: place.name(),
                form,
                log: AtomicU64::new(0),
                denials: AtomicU64::new(0),
                dropped: AtomicU64::new(0),
                failing: Mutex::default(),
            };
            places.push((Arc::new(shown), sink));
        }
        let positions = Arc::new(Positions::load(dir)?);
        for (shown, _) in &places {
            for stream in [LOG, STREAM] {
                if let Some(head) = positions.get(&shown.to, stream) {
                    shown.stands(stream, head.seq);
                }
            }
        }
        Ok(Self {
            store: Arc::clone(store),
            denials: Arc::clone(denials),
            positions,
            places,
        })
    }

    /// How the places are.
    #[must_use]
    pub fn shown(&self) -> Vec<Arc<Shown>> {
        self.places
            .iter()
            .map(|(shown, _)| Arc::clone(shown))
            .collect()
    }

    /// Serves every place. Runs until it is dropped.
    pub async fn run(self) {
        let Self {
            store,
            denials,
            positions,
            places,
        } = self;
        let each = places.into_iter().map(|(shown, sink)| {
            let one = One {
                store: Arc::clone(&store),
                denials: Arc::clone(&denials),
                positions: Arc::clone(&positions),
                shown,
                sink,
            };
            one.run()
        });
        futures_util::future::join_all(each).await;
    }
}

/// One place at work.
struct One {
    store: Arc<Store>,
    denials: Arc<Stream>,
    positions: Arc<Positions>,
    shown: Arc<Shown>,
    sink: Sink,
}

impl One {
    async fn run(self) {
        let mut revisions = self.store.subscribe();
        let mut pause = PAUSE;
        loop {
            let mut more = false;
            let mut wrong = None;
            for stream in [LOG, STREAM] {
                match self.round(stream).await {
                    Ok(taken) => more |= taken,
                    Err(why) => wrong = Some(why),
                }
            }
            let failed = wrong.is_some();
            self.shown.says(wrong);
            if failed {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
            pause = PAUSE;
            if more {
                continue;
            }
            tokio::select! {
                changed = revisions.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(GATHER).await;
                }
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Sends the next batch of a stream; whether there was one.
    async fn round(&self, stream: &'static str) -> Result<bool, String> {
        let known = self.positions.get(&self.shown.to, stream);
        let after = known.unwrap_or_default();
        let page = self.page(stream, after.seq + 1).await;
        let page = page.map_err(|error| error.to_string())?;
        let Some((_, first)) = page.first() else {
            if self.last(stream).is_some_and(|last| last < after.seq) {
                self.again(stream).await?;
                return Ok(true);
            }
            return Ok(false);
        };
        if first.seq == after.seq + 1 && !follows(first, after) {
            self.again(stream).await?;
            return Ok(true);
        }
        self.overtaken(stream, known, first).await?;
        let noted = page.iter().all(|(_, event)| event.kind == UNDELIVERED);
        let events = page
            .iter()
            .map(|(head, event)| leaving(stream, head, event, false))
            .collect();
        match self.sink.take(events).await {
            Ok(()) => {}
            Err(Unsent::Later(why)) => return Err(why),
            Err(Unsent::Never { count, why }) => {
                // Said once: the event of a refused event may be refused, too.
                let what =
                    json!({"first": first.seq, "last": page.last().map(|(head, _)| head.seq)});
                if noted {
                    self.shown.dropped.fetch_add(count, Relaxed);
                } else {
                    self.undelivered(stream, count, &why, what).await;
                }
            }
        }
        if let Some((head, _)) = page.last() {
            self.stands(stream, *head).await?;
        }
        Ok(true)
    }

    /// The newest event of a stream; `None` where there is none.
    fn last(&self, stream: &str) -> Option<u64> {
        match stream {
            LOG => Some(self.store.head().seq),
            _ => self.denials.span().map(|(_, last)| last),
        }
    }

    /// Goes on behind what is gone already. To a new place nothing of that was ever due; to another it is lost, and
    /// counted once, whether or not the place takes anything now.
    async fn overtaken(
        &self,
        stream: &'static str,
        known: Option<Head>,
        first: &Event,
    ) -> Result<(), String> {
        let after = known.unwrap_or_default();
        let before = Head {
            seq: first.seq - 1,
            hash: first.prev_hash,
        };
        if known.is_some() && before.seq == after.seq {
            return Ok(());
        }
        self.stands(stream, before).await?;
        if known.is_some() {
            let what = json!({"first": after.seq + 1, "last": before.seq});
            let why = "they were removed by their age before they were taken";
            self.undelivered(stream, before.seq - after.seq, why, what)
                .await;
        }
        Ok(())
    }

    async fn page(&self, stream: &str, from: u64) -> Result<Vec<(Head, Event)>, StoreError> {
        let (store, denials, of_log) = (
            Arc::clone(&self.store),
            Arc::clone(&self.denials),
            stream == LOG,
        );
        let read = move || match of_log {
            true => store.page(from, PAGE),
            false => denials.page(from, PAGE),
        };
        let done = tokio::task::spawn_blocking(read).await;
        done.unwrap_or_else(|error| Err(StoreError::Invalid(error.to_string())))
    }

    /// The log in the directory is not the one that was sent: it is sent from its beginning.
    async fn again(&self, stream: &str) -> Result<(), String> {
        tracing::warn!(
            to = self.shown.to,
            stream,
            "the chain is another one than was sent; it is sent from its beginning"
        );
        self.stands(stream, Head::default()).await
    }

    async fn stands(&self, stream: &str, head: Head) -> Result<(), String> {
        self.shown.stands(stream, head.seq);
        let (positions, to, stream) = (
            Arc::clone(&self.positions),
            self.shown.to.clone(),
            stream.to_owned(),
        );
        let save = move || positions.set(&to, &stream, Position::from(head));
        let saved = tokio::task::spawn_blocking(save).await;
        saved.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Counts what this place never gets, and says so in the log.
    async fn undelivered(&self, stream: &str, count: u64, why: &str, mut what: Value) {
        self.shown.dropped.fetch_add(count, Relaxed);
        what["to"] = json!(self.shown.to);
        what["stream"] = json!(stream);
        what["events"] = json!(count);
        let note = Draft::note("system", why, UNDELIVERED, None, what);
        if let Err(error) = self.store.commit(vec![note]).await {
            tracing::error!(%error, to = self.shown.to, count, "events that are lost to a place could not be noted");
        }
    }
}

/// Whether an event is the one behind a place's last.
fn follows(event: &Event, after: Head) -> bool {
    let before = event.after.as_ref().map(|value| &value["chain_before"]);
    let head = after.to_string();
    let (_, hash) = head.split_once(':').unwrap_or_default();
    event.prev_hash == after.hash
        || event.kind == REWRITTEN && before.and_then(Value::as_str) == Some(hash)
}

/// An event as it leaves the mesh.
pub(crate) fn leaving(stream: &str, head: &Head, event: &Event, unmasked: bool) -> Value {
    let mut value = event_value(event);
    if !unmasked {
        // Who, when and what stay as they are.
        for field in ["cause", "before", "after"] {
            mask(&mut value[field]);
        }
    }
    value["stream"] = json!(stream);
    value["head"] = json!(head.to_string());
    value
}
