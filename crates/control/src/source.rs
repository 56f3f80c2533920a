//! A watched directory of YAML as a source of objects (`naka control --dir DIR`).
//!
//! The directory owns what it gives: the store refuses changes of these objects by anybody else and names file and
//! line. Once a second the files are listed; when anything changed and has stopped changing, they are read, compared
//! (`decide`) and committed in one change whose actor is `dir:<path>` and whose causes name file and line.
//!
//! Why looking rather than inotify: one listing a second costs little, works on every file system (NFS, overlays,
//! mounted ConfigMaps), needs no watch per directory and cannot lose an event. Why here and not in `store`: objects are
//! decoded and findings shown here, and the store stays a log.
//!
//! Invariants: nothing is deleted that is not certainly gone; an object without change makes no event; a directory that
//! cannot be read changes nothing.

mod decide;
mod scan;

use self::decide::{Given, Owns, Put, decide};
use self::scan::{Files, View};
use naka_api::{Object, codes};
use naka_store::{Draft, Error as StoreError, Owned, SOURCE, Snapshot, Store};
use naka_types::finding::Finding;
use naka_types::host::{DEFAULT_NAMESPACE, ROOT_NAMESPACE};
use naka_types::name::ObjectRef;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often the directory is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// Files that are being written are left alone until two looks this far apart are equal.
const STILL: Duration = Duration::from_millis(100);
/// But not longer than this many looks: some file may never rest.
const MOST_LOOKS: usize = 50;
/// Most findings that are kept for status.
const MAX_FINDINGS: usize = 100;

/// The directory and what is known of it.
#[derive(Debug)]
pub struct Source {
    root: PathBuf,
    actor: String,
    store: Arc<Store>,
    work: tokio::sync::Mutex<Work>,
    shown: Mutex<Shown>,
}

/// What the one who looks remembers.
#[derive(Debug, Default)]
struct Work {
    files: Option<Files>,
    views: BTreeMap<PathBuf, View>,
    owns: Owns,
    released: Option<String>,
    /// A look did not end well and is to be repeated.
    again: bool,
}

/// What status shows.
#[derive(Debug, Default)]
struct Shown {
    findings: Vec<Finding>,
    held: Option<(String, Vec<ObjectRef>)>,
}

impl Source {
    /// A source that has not looked yet. What it gave before this process began is its own from the start.
    #[must_use]
    pub fn new(root: &Path, store: Arc<Store>) -> Arc<Self> {
        let actor = format!("dir:{}", root.display());
        let snapshot = store.snapshot();
        let place = root.display().to_string();
        let owns: Owns = given_before(&snapshot, &actor)
            .map(|object| {
                let place = place.clone();
                let digest = None;
                (object, Given { place, digest })
            })
            .collect();
        let source = Arc::new(Self {
            root: root.to_owned(),
            actor,
            store,
            work: tokio::sync::Mutex::new(Work {
                owns,
                ..Work::default()
            }),
            shown: Mutex::default(),
        });
        if let Ok(work) = source.work.try_lock() {
            source.own(&work.owns, &[]);
        }
        source
    }

    /// Looks at once, without waiting for files to rest.
    pub async fn first(&self) {
        let mut work = self.work.lock().await;
        match self.look().await {
            Ok(files) => self.pass(&mut work, files).await,
            Err(why) => self.away(&why),
        }
    }

    /// Looks again and again. Runs until it is dropped.
    pub async fn watch(&self) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut work = self.work.lock().await;
            match self.look().await {
                Ok(files) if work.files.as_ref() == Some(&files) && !work.again => {}
                Ok(files) => match self.rest(files).await {
                    Ok(files) => self.pass(&mut work, files).await,
                    Err(why) => self.lost(&mut work, &why),
                },
                Err(why) => self.lost(&mut work, &why),
            }
        }
    }

    /// What is wrong with the directory now.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        lock(&self.shown).findings.clone()
    }

    /// Deletions that wait to be released, with their id.
    #[must_use]
    pub fn held(&self) -> Option<(String, Vec<ObjectRef>)> {
        lock(&self.shown).held.clone()
    }

    /// Lets the deletions of this id happen; how many there were.
    pub async fn release(&self, id: &str) -> Option<usize> {
        let mut work = self.work.lock().await;
        let (held, objects) = self.held()?;
        if held != id {
            return None;
        }
        work.released = Some(held);
        let files = work.files.clone()?;
        self.pass(&mut work, files).await;
        work.released = None;
        self.held().is_none().then_some(objects.len())
    }

    async fn look(&self) -> Result<Files, String> {
        let root = self.root.clone();
        tokio::task::spawn_blocking(move || scan::look(&root))
            .await
            .map_err(|error| error.to_string())?
    }

    /// Waits until nothing changes any more.
    async fn rest(&self, mut files: Files) -> Result<Files, String> {
        for _ in 0..MOST_LOOKS {
            tokio::time::sleep(STILL).await;
            let next = self.look().await?;
            if next == files {
                break;
            }
            files = next;
        }
        Ok(files)
    }

    /// The directory cannot be read: all it gave stays, and it is read anew when it is back.
    fn lost(&self, work: &mut Work, why: &str) {
        work.files = None;
        self.away(why);
    }

    fn away(&self, why: &str) {
        let message = format!("the watched directory cannot be read: {why}; what it gave stays");
        let mut shown = lock(&self.shown);
        if shown.findings.iter().all(|have| have.message != message) {
            tracing::warn!("{message}");
        }
        let finding = Finding::new(codes::E960.id, message);
        shown.findings = vec![finding.fix(format!("bring {} back", self.root.display()))];
        shown.held = None;
    }

    /// Reads what changed and makes the objects agree with it.
    async fn pass(&self, work: &mut Work, files: Files) {
        let before = work.files.take().unwrap_or_default();
        work.again = false;
        work.views.retain(|file, _| files.contains_key(file));
        let changed: Vec<(PathBuf, Option<u64>)> = files
            .iter()
            .filter(|(file, stat)| before.get(*file) != Some(*stat))
            .map(|(file, _)| (file.clone(), work.views.get(file).map(|view| view.digest)))
            .collect();
        let mut fresh = read(changed).await;
        let mut objects: BTreeMap<PathBuf, Vec<Object>> = BTreeMap::new();
        for (file, view, read) in fresh.drain(..) {
            work.views.insert(file.clone(), view);
            objects.insert(file, read);
        }
        let decision = decide(&work.views, &work.owns, work.released.as_deref());
        work.files = Some(files);
        for (object, place) in decision.moved {
            if let Some(given) = work.owns.get_mut(&object) {
                given.place = place;
            }
        }
        // Files that did not change may be asked for too, when an object's other place is gone.
        let missing = decision
            .puts
            .iter()
            .filter(|put| !objects.contains_key(&put.file));
        let missing: BTreeMap<PathBuf, Option<u64>> =
            missing.map(|put| (put.file.clone(), None)).collect();
        for (file, _, read) in read(missing.into_iter().collect()).await {
            objects.insert(file, read);
        }
        let mut findings = decision.findings;
        let failed = self
            .commit(work, decision.puts, decision.deletes, objects)
            .await;
        work.again |= !failed.is_empty();
        findings.extend(failed);
        self.own(&work.owns, &[]);
        self.show(findings, decision.held);
    }

    /// Stores puts and deletions as one change; objects that cannot be stored are left out and named.
    async fn commit(
        &self,
        work: &mut Work,
        puts: Vec<Put>,
        deletes: Vec<ObjectRef>,
        mut objects: BTreeMap<PathBuf, Vec<Object>>,
    ) -> Vec<Finding> {
        let mut drafts = Vec::new();
        let mut given = Vec::new();
        for put in puts {
            let all = objects.get_mut(&put.file);
            let Some(object) = all.and_then(|all| {
                let at = all.iter().rposition(|o| o.reference() == put.object)?;
                Some(all.swap_remove(at))
            }) else {
                // The file changed under our hands; the next look sees it.
                work.again = true;
                continue;
            };
            drafts.push(Draft::put(
                &self.actor,
                &put.given.place,
                put.object.clone(),
                object.raw,
            ));
            given.push((put.object, put.given));
        }
        let snapshot = self.store.snapshot();
        let going: BTreeSet<&ObjectRef> = deletes.iter().collect();
        for object in &deletes {
            if snapshot.value(object).is_none() || stays(&snapshot, object, &going) {
                continue;
            }
            let place = work.owns.get(object).map_or("", |given| &given.place);
            let cause = format!("no longer in {place}");
            drafts.push(Draft::delete(&self.actor, &cause, object.clone()));
        }
        let adopted: Vec<ObjectRef> = given.iter().map(|(object, _)| object.clone()).collect();
        self.own(&work.owns, &adopted);
        let failed = self.store(drafts).await;
        given.retain(|(object, _)| {
            failed
                .iter()
                .all(|(other, _)| other.as_ref() != Some(object))
        });
        let all = failed.iter().any(|(object, _)| object.is_none());
        if !all {
            work.owns.extend(given);
            for object in &deletes {
                work.owns.remove(object);
            }
        }
        let finding = |(object, error): (Option<ObjectRef>, StoreError)| {
            let message = format!("{}: not stored: {error}", self.root.display());
            let finding = Finding::new(codes::E962.id, message);
            match object {
                Some(object) => finding.on(object),
                None => finding,
            }
        };
        failed.into_iter().map(finding).collect()
    }

    /// One change; if an object stands in its way, one by one. What could not be stored, `None` = nothing.
    async fn store(&self, drafts: Vec<Draft>) -> Vec<(Option<ObjectRef>, StoreError)> {
        if drafts.is_empty() {
            return Vec::new();
        }
        let alone = drafts.clone();
        match self.store.commit(drafts).await {
            Ok(commit) => {
                if !commit.events.is_empty() {
                    tracing::info!(
                        revision = commit.revision,
                        changes = commit.events.len(),
                        "{} is in the store",
                        self.root.display()
                    );
                }
                Vec::new()
            }
            Err(error @ (StoreError::Stopped(_) | StoreError::ReadOnly(_))) => vec![(None, error)],
            Err(_) => {
                let mut failed = Vec::new();
                for draft in alone {
                    let object = draft.object.clone();
                    if let Err(error) = self.store.commit(vec![draft]).await {
                        failed.push((object, error));
                    }
                }
                failed
            }
        }
    }

    /// Tells the store what is owned: all that was given, and what is about to be.
    fn own(&self, owns: &Owns, more: &[ObjectRef]) {
        let mut places: BTreeMap<ObjectRef, String> = owns
            .iter()
            .map(|(object, given)| (object.clone(), given.place.clone()))
            .collect();
        let root = self.root.display().to_string();
        for object in more {
            places.entry(object.clone()).or_insert_with(|| root.clone());
        }
        self.store.own(Owned {
            actor: self.actor.clone(),
            places,
        });
    }

    fn show(&self, mut findings: Vec<Finding>, held: Option<(String, Vec<ObjectRef>)>) {
        let mut shown = lock(&self.shown);
        for finding in &findings {
            if !shown.findings.contains(finding) {
                tracing::warn!("{finding}");
            }
        }
        // The source's own words first: they say what happened to everything else.
        findings.sort_by_key(|finding| !finding.code.contains("96"));
        let more = findings.len().saturating_sub(MAX_FINDINGS);
        if more > 0 {
            findings.truncate(MAX_FINDINGS);
            let message = format!("{more} more findings; see naka check -f");
            findings.push(Finding::new(codes::E960.id, message));
        }
        *shown = Shown { findings, held };
    }
}

async fn read(files: Vec<(PathBuf, Option<u64>)>) -> Vec<(PathBuf, View, Vec<Object>)> {
    let work = move || {
        let read = |(file, digest): (PathBuf, Option<u64>)| {
            let (view, objects) = scan::read(&file, digest)?;
            Some((file, view, objects))
        };
        files.into_iter().filter_map(read).collect()
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

/// Objects in the store that this source gave.
fn given_before<'a>(
    snapshot: &'a Snapshot,
    actor: &'a str,
) -> impl Iterator<Item = ObjectRef> + 'a {
    snapshot
        .values()
        .filter(move |(_, raw)| came_from(raw) == Some(actor))
        .map(|(key, _)| key.clone())
}

/// The source an object came from.
fn came_from(raw: &Value) -> Option<&str> {
    raw.get("metadata")?
        .get("annotations")?
        .get(SOURCE)?
        .as_str()
}

/// Whether an object outlives its file: the mesh's own namespaces, and a namespace in which others still have something.
pub(crate) fn stays(snapshot: &Snapshot, object: &ObjectRef, going: &BTreeSet<&ObjectRef>) -> bool {
    if object.kind != naka_api::Kind::Namespace.as_str() {
        return false;
    }
    [DEFAULT_NAMESPACE, ROOT_NAMESPACE].contains(&object.name.as_str())
        || snapshot
            .objects
            .keys()
            .any(|other| other.namespace == object.name && !going.contains(other))
}

fn lock(shown: &Mutex<Shown>) -> MutexGuard<'_, Shown> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}
