//! The configuration in force: from updates to what every worker uses, and who must be told that it does.
//!
//! One task ([`Main`]) owns the [`Book`]; a second ([`Publisher`]) hands snapshots to the workers one after another
//! and returns when all have passed a step. Only then is an update acknowledged (capability `drain-ack`) and only
//! then is a waiting request answered that its host is there. Updates that come in while a step is under way are
//! joined into the next one.
//!
//! [`Shared`] is what the rest of the main thread (admin, drain, readiness) sees; nothing on a request path takes
//! its locks.

pub mod book;
mod demand;
mod gauges;
mod lookups;
mod readiness;
mod shared;

use crate::control_client::News;
use crate::edge::spec::Table;
use crate::names::{Called, Filter};
use crate::rotation::Identity;
use crate::saved;
use crate::tls::TlsSet;
use crate::worker::{Want, WorkerMsg, Workers};
use book::{Book, Change};
use demand::{Demand, Evicted};
use lookups::Lookups;
use naka_engine::model::Snapshot;
use naka_wire::type_url;
use naka_xds::delta::client::Update;
use naka_xds::driver::{Command, Verdict};
use naka_xds::{Reject, Resource};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

pub use readiness::Lack;
pub use shared::{Shared, SharedParams, describe_clusters};

/// How long changes are collected before the copy on disk is replaced.
const SAVE_AFTER: Duration = Duration::from_millis(200);
const TICK: Duration = Duration::from_millis(50);
/// How often files of certificates are looked at.
const FILES: Duration = Duration::from_secs(2);

/// One step for all workers.
#[derive(Debug)]
struct Step {
    number: u64,
    edge: Option<Arc<Table>>,
    snapshot: Option<Arc<Snapshot>>,
    names: Option<Arc<Filter>>,
}

/// Hands steps and identities to the workers, in order, and reports each step when all have passed it.
#[derive(Debug)]
pub struct Publisher {
    steps: mpsc::UnboundedReceiver<Step>,
    passed: mpsc::UnboundedSender<u64>,
    identity: watch::Receiver<Option<Arc<Identity>>>,
    shared: Arc<Shared>,
}

impl Publisher {
    /// Runs until the process ends.
    pub async fn run(mut self) {
        self.identity.mark_changed();
        loop {
            tokio::select! {
                biased;
                changed = self.identity.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.identify().await;
                }
                step = self.steps.recv() => match step {
                    Some(step) => self.publish(step).await,
                    None => return,
                },
            }
        }
    }

    async fn publish(&self, step: Step) {
        if let Some(names) = step.names {
            self.shared.names_are(Arc::clone(&names));
            tell(&self.shared.workers, || {
                WorkerMsg::Names(Arc::clone(&names))
            })
            .await;
        }
        // Before the servers that need it.
        if let Some(edge) = step.edge {
            tell(&self.shared.workers, || WorkerMsg::Edge(Arc::clone(&edge))).await;
        }
        if let Some(snapshot) = step.snapshot {
            self.shared.workers.publish(&snapshot).await;
            self.shared.in_force(snapshot);
        }
        // A closed receiver means that the process is ending.
        let _ = self.passed.send(step.number);
    }

    async fn identify(&mut self) {
        let Some(identity) = self.identity.borrow_and_update().clone() else {
            return;
        };
        match TlsSet::new(identity.svid.clone(), identity.bundle.clone()) {
            Ok(set) => {
                let set = Arc::new(set);
                tell(&self.shared.workers, || WorkerMsg::Tls(Arc::clone(&set))).await;
                // Roots that are acknowledged are believed by every worker.
                self.shared.workers.answer().await;
                self.shared.metrics.certificate_expires(
                    "workload",
                    &identity.svid.spiffe.to_string(),
                    identity.svid.not_after,
                );
                self.shared.identified();
            }
            Err(error) => {
                tracing::error!(%error, "the new certificate cannot be used; the old one stays")
            }
        }
    }
}

async fn tell(workers: &Workers, message: impl Fn() -> WorkerMsg) {
    for worker in workers.all() {
        worker.send(message()).await;
    }
}

/// The owner of the configuration.
#[derive(Debug)]
pub struct Main {
    shared: Arc<Shared>,
    book: Book,
    demand: Demand,
    lookups: Lookups,
    news: mpsc::UnboundedReceiver<News>,
    wants: mpsc::Receiver<Want>,
    steps: mpsc::UnboundedSender<Step>,
    passed: mpsc::UnboundedReceiver<u64>,
    last_step: u64,
    /// Verdicts and the step after which each may be given.
    waiting: Vec<(u64, Verdict, Vec<Reject>)>,
    lease: mpsc::UnboundedSender<naka_wire::v1::RegisterResponse>,
    save_at: Option<tokio::time::Instant>,
    run_dir: PathBuf,
}

/// What [`Main`] is built from.
#[derive(Debug)]
pub struct MainParams {
    /// Seen by the rest of the process.
    pub shared: Arc<Shared>,
    /// Resources of the saved copy already applied, not yet settled.
    pub book: Book,
    /// Names called earlier.
    pub called: Called,
    /// From the line to the control plane.
    pub news: mpsc::UnboundedReceiver<News>,
    /// From the workers.
    pub wants: mpsc::Receiver<Want>,
    /// To the line.
    pub commands: mpsc::Sender<Command>,
    /// Answers to our registration go here.
    pub lease: mpsc::UnboundedSender<naka_wire::v1::RegisterResponse>,
}

impl Main {
    /// The pair.
    #[must_use]
    pub fn new(params: MainParams) -> (Self, Publisher) {
        let (steps, to_publish) = mpsc::unbounded_channel();
        let (passed, reports) = mpsc::unbounded_channel();
        let run_dir = params.shared.settings.run_dir.clone();
        let namespace = params.shared.settings.namespace.clone();
        let publisher = Publisher {
            steps: to_publish,
            passed,
            identity: params.shared.feed.watch(),
            shared: Arc::clone(&params.shared),
        };
        let main = Self {
            demand: Demand::new(&namespace, params.called, params.commands),
            lookups: Lookups::new(Arc::clone(&params.shared.servers)),
            shared: params.shared,
            book: params.book,
            news: params.news,
            wants: params.wants,
            steps,
            passed: reports,
            last_step: 0,
            waiting: Vec::new(),
            lease: params.lease,
            save_at: None,
            run_dir,
        };
        (main, publisher)
    }

    /// Runs until the line's end of the channel closes.
    pub async fn run(mut self) {
        self.settle();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut files = tokio::time::interval(FILES);
        files.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                passed = self.passed.recv() => match passed {
                    Some(step) => self.passed(step),
                    None => return,
                },
                news = self.news.recv() => match news {
                    Some(news) => self.news(news),
                    None => return,
                },
                () = self.shared.stopping() => {
                    if self.save_at.is_some() || self.demand.take_unsaved() {
                        save(&self.run_dir, &self.book.resources(), &self.demand.called());
                    }
                    self.shared.all_saved();
                }
                answer = self.lookups.next() => {
                    self.book.means(&answer.name, answer.addresses);
                    self.settle();
                }
                Some(want) = self.wants.recv() => self.demand.want(want, &self.book, self.last_step),
                _ = files.tick(), if self.book.has_files() => {
                    self.book.look_at_files();
                    self.settle();
                }
                _ = tick.tick(), if self.demand.waits() || self.save_at.is_some() => self.tick(),
            }
        }
    }

    /// Everything that is there is taken together, so that a burst of responses makes one step.
    fn news(&mut self, first: News) {
        let mut next = Some(first);
        let mut verdicts = Vec::new();
        while let Some(news) = next {
            match news {
                News::Update(update, verdict) => {
                    let rejects = self.update(&update);
                    verdicts.push((verdict, rejects));
                }
                News::Opened => self.shared.bell(),
                News::Lease(answer) => drop(self.lease.send(answer)),
            }
            next = self.news.try_recv().ok();
        }
        let step = self.settle();
        for (verdict, rejects) in verdicts {
            self.waiting.push((step, verdict, rejects));
        }
        self.acknowledge(self.shared.passed_step());
    }

    fn update(&mut self, update: &Update) -> Vec<Reject> {
        let rejects = self
            .book
            .apply(&update.type_url, &update.resources, &update.removed);
        for reject in &rejects {
            tracing::warn!(name = %reject.name, reason = %reject.reason, rev = %update.revision, "a resource was refused");
        }
        self.shared.count(rejects.len(), &update.revision);
        if update.type_url == type_url::SECRET {
            self.shared.first_answer();
        }
        if update.type_url == type_url::VIRTUAL_HOST || update.type_url == type_url::WORKLOAD {
            let (kind, step) = (&update.type_url, self.last_step + 1);
            for resource in &update.resources {
                self.demand.arrived(kind, &resource.name, true, step);
            }
            for name in &update.removed {
                self.demand.arrived(kind, name, false, step);
            }
        }
        rejects
    }

    /// Makes a step of what changed. Returns the number of the step after which everything taken so far is in force.
    fn settle(&mut self) -> u64 {
        let Change {
            snapshot,
            edge,
            names,
            roots,
            revoked,
            save,
        } = self.book.settle();
        if snapshot.is_some() {
            self.lookups.want(&self.book.names());
            let openings = self.book.openings();
            self.shared.openings.send_if_modified(|held| {
                let differs = *held != openings;
                *held = openings;
                differs
            });
        }
        if let Some(roots) = roots {
            self.shared.feed.trust(&roots.pem, &roots.aliases);
        }
        if let Some(revoked) = revoked {
            self.shared.feed.revoke(revoked);
        }
        if save {
            self.save_at
                .get_or_insert_with(|| tokio::time::Instant::now() + SAVE_AFTER);
            self.shared.holds(self.book.resources());
        }
        let has_listener = self
            .book
            .holds(type_url::LISTENER, crate::intake::listener::INBOUND);
        self.shared.has(
            has_listener,
            self.book.holds(type_url::NAME_FILTER, book::NAMES),
        );
        // Also without a new snapshot a step is made: whoever asked is answered behind everything sent before.
        self.last_step += 1;
        // A closed receiver means that the process is ending.
        let _ = self.steps.send(Step {
            number: self.last_step,
            edge,
            snapshot,
            names,
        });
        self.last_step
    }

    fn passed(&mut self, step: u64) {
        self.shared.step_passed(step);
        self.acknowledge(step);
        self.demand.passed(step, &self.book);
    }

    fn acknowledge(&mut self, step: u64) {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(after, ..)| *after <= step);
        self.waiting = later;
        for (_, verdict, rejects) in due {
            verdict.answer(rejects);
        }
    }

    fn tick(&mut self) {
        for gone in self.demand.tick() {
            match gone {
                Evicted::Host(name) => self.book.forget_host(&name),
                Evicted::Workload(id) => self.book.forget_workload(&id),
            }
        }
        if self
            .save_at
            .is_some_and(|at| tokio::time::Instant::now() >= at)
        {
            self.save_at = None;
            self.save();
        }
        if self.demand.take_unsaved() && self.save_at.is_none() {
            self.save_at = Some(tokio::time::Instant::now() + SAVE_AFTER);
        }
    }

    /// Replaces the copies on disk, off this thread.
    fn save(&self) {
        let dir = self.run_dir.clone();
        let resources = self.book.resources();
        let names = self.demand.called();
        drop(tokio::task::spawn_blocking(move || {
            save(&dir, &resources, &names);
        }));
    }
}

/// Writes both copies; what cannot be written is said, and the proxy goes on.
fn save(dir: &std::path::Path, resources: &[Arc<Resource>], names: &[String]) {
    let kept = resources
        .iter()
        .map(|resource| &**resource)
        .filter(|resource| resource.type_url != type_url::WORKLOAD);
    for written in [
        saved::save_last_good(dir, kept),
        saved::save_names(dir, names),
    ] {
        if let Err(error) = written {
            tracing::warn!(%error, "the configuration could not be saved; a restart without the control plane would begin with an older one");
        }
    }
}
