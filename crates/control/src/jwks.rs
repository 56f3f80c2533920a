//! Keys of issuers that are fetched (`jwksUri`): asked for, kept, asked for again.
//!
//! What was fetched last is a record of the store, so it is there after a restart, reaches the proxies as any change
//! does, and stays in force while its issuer cannot be reached. Of an issuer whose keys were never fetched every token
//! is refused. When to fetch what is decided without a clock or a socket (`plan`); `fetch` asks one server.
//!
//! Not here: how keys reach proxies (`compile`), what a set of keys is (`naka-types`).

use crate::settings::Jwks as Settings;
use naka_api::security::request_authentication::Keys;
use naka_api::{Object, codes};
use naka_store::{Draft, Snapshot, Store};
use naka_types::finding::Finding;
use naka_types::jwk::{KeySet, KeyUri};
use plan::{Failing, Millis, Plan, Wish};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

mod fetch;
mod plan;

/// Record kind of fetched keys; the id is the address they came from.
pub const RECORD: &str = "jwks";
const ACTOR: &str = "system";
/// Fetches under way at once.
const AT_ONCE: usize = 8;
/// How long the loop rests when nothing is due.
const REST: Duration = Duration::from_mins(1);

/// The keys that the mesh's objects ask for.
#[derive(Debug)]
pub struct Fetcher {
    store: Arc<Store>,
    settings: Settings,
    plan: Mutex<Plan>,
    started: Instant,
}

/// What ended: an address, and its keys or why there are none.
type Ended = (KeyUri, Result<KeySet, String>);

impl Fetcher {
    /// One for a store; nothing is fetched before [`Fetcher::keep`] runs.
    #[must_use]
    pub fn new(store: Arc<Store>, settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            plan: Mutex::new(Plan::new(settings.refresh)),
            store,
            settings,
            started: Instant::now(),
        })
    }

    /// Fetches what objects name and forgets what none names any more. Runs until it is dropped.
    pub async fn keep(&self) {
        let mut revisions = self.store.subscribe();
        let mut under_way: JoinSet<Ended> = JoinSet::new();
        loop {
            revisions.mark_unchanged();
            self.look().await;
            let room = AT_ONCE.saturating_sub(under_way.len());
            for (uri, timeout) in self.plan().take(self.now(), room) {
                let settings = self.settings.clone();
                under_way.spawn(async move {
                    let result = fetch::keys(&uri, timeout, &settings).await;
                    (uri, result)
                });
            }
            let wait = self.plan().next(self.now());
            let wait = wait.map_or(REST, Duration::from_millis).min(REST);
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return },
                Some(ended) = under_way.join_next() => match ended {
                    Ok(ended) => self.ended(ended).await,
                    Err(error) => tracing::error!(%error, "a fetch of keys ended by itself"),
                },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// What fails, for findings: the object's addresses of which no new keys come.
    #[must_use]
    pub fn findings(&self, object: &Object, snapshot: &Snapshot) -> Vec<Finding> {
        let now = self.now();
        let plan = self.plan();
        let of = |(index, uri, _): (usize, &KeyUri, Duration)| {
            let failing = plan.failing(uri)?;
            let have = snapshot.record(RECORD, uri.as_str()).is_some();
            let field = format!("spec.jwtRules[{index}].jwksUri");
            Some(
                finding(uri, failing, have, now)
                    .at(&field)
                    .on(object.reference()),
            )
        };
        fetched(object).filter_map(of).collect()
    }

    /// Compares what objects name with what is planned and kept.
    async fn look(&self) {
        let snapshot = self.store.snapshot();
        let wishes = wishes(&snapshot);
        let known = snapshot.records_of(RECORD).map(|(id, _)| id);
        let gone: Vec<String> = known
            .filter(|id| !wishes.keys().any(|uri| uri.as_str() == *id))
            .map(str::to_owned)
            .collect();
        self.plan().wanted(wishes, self.now());
        let drop = |id: &String| {
            let cause = "no RequestAuthentication names it any more";
            Draft::record(ACTOR, cause, "jwks.forget", RECORD, id, None)
        };
        if !gone.is_empty()
            && let Err(error) = self.store.commit(gone.iter().map(drop).collect()).await
        {
            tracing::warn!(%error, "keys that nobody needs stay");
        }
    }

    async fn ended(&self, (uri, result): Ended) {
        let result = match result {
            Ok(keys) => self.remember(&uri, &keys).await,
            Err(why) => Err(why),
        };
        if let Err(why) = &result {
            tracing::warn!(uri = uri.as_str(), "keys were not fetched: {why}");
        }
        self.plan().ended(&uri, result, self.now(), fastrand::f64());
    }

    /// Equal keys make no event.
    async fn remember(&self, uri: &KeyUri, keys: &KeySet) -> Result<(), String> {
        let value: Value = serde_json::from_str(&keys.to_json()).map_err(|e| e.to_string())?;
        let cause = "fetched";
        let draft = Draft::record(
            ACTOR,
            cause,
            "jwks.fetch",
            RECORD,
            uri.as_str(),
            Some(value),
        );
        let stored = self.store.commit(vec![draft]).await;
        stored
            .map(|_| ())
            .map_err(|error| format!("they came, and could not be stored: {error}"))
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Millis {
        Millis::try_from(self.started.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }
}

/// Fetched keys of an object: place of the issuer, address, time.
fn fetched(object: &Object) -> impl Iterator<Item = (usize, &KeyUri, Duration)> {
    let rules = object.request_authentication().into_iter();
    let rules = rules.flat_map(|own| own.rules.iter().enumerate());
    rules.filter_map(|(index, rule)| match &rule.keys {
        Keys::Fetched { uri, timeout } => Some((index, uri, *timeout)),
        Keys::Written(_) => None,
    })
}

/// What the objects of a snapshot ask for. An object that was written again asks for its keys anew.
fn wishes(snapshot: &Snapshot) -> BTreeMap<KeyUri, Wish> {
    let mut wishes: BTreeMap<KeyUri, Wish> = BTreeMap::new();
    for object in snapshot.objects.values() {
        let revision = object.meta.resource_version.parse().unwrap_or(0);
        for (_, uri, timeout) in fetched(object) {
            let wish = wishes.entry(uri.clone()).or_default();
            wish.revision = wish.revision.max(revision);
            wish.timeout = wish.timeout.max(timeout);
        }
    }
    wishes
}

fn finding(uri: &KeyUri, failing: &Failing, have: bool, now: Millis) -> Finding {
    let seconds = now.saturating_sub(failing.since) / 1_000;
    let times = failing.times;
    let what = format!("{uri}: {} (for {seconds} s, {times} times)", failing.why);
    let fix = "make the address answer this machine with the issuer's keys, or correct it; applying the object with any change asks at once";
    let finding = if have {
        let message = format!("keys cannot be fetched again, the last ones stay in force: {what}");
        Finding::new(codes::W952.id, message)
    } else {
        let message =
            format!("keys were never fetched, every token of the issuer is refused: {what}");
        Finding::new(codes::E952.id, message)
    };
    finding.fix(fix)
}
