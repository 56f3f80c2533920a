//! Names and workloads that requests ask for while they wait.
//!
//! A name that is held is answered at once; a name and port that the control plane said do not exist are refused at
//! once. Everything else is subscribed to, and answered after the workers
//! passed the step that brought it, or refused after one second. At most [`crate::names::CAPACITY`] names are
//! subscribed to; the one asked for longest ago leaves.
//!
//! A peer of which the control plane says that it does not know it is waited for all the same, once: its certificate
//! shows that it joined, and a workload that calls at once is faster than the news of it. Whoever asks again after that
//! second is answered at once.

use super::book::Book;
use crate::names::{CAPACITY, Called};
use crate::worker::Want;
use naka_telemetry::Workload;
use naka_types::name::VirtualHostName;
use naka_types::reason::Reason;
use naka_wire::type_url;
use naka_wire::v1::WorkloadRecord;
use naka_xds::driver::Command;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// How long a request waits for configuration.
const PATIENCE: Duration = crate::limits::CONFIG_WAIT;

/// What is held and not subscribed to any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Evicted {
    /// A virtual host.
    Host(String),
    /// The record of a workload.
    Workload(String),
}

#[derive(Debug)]
enum Reply {
    Host(oneshot::Sender<Result<(), Reason>>),
    Workload(oneshot::Sender<Option<Arc<Workload>>>),
    Peer(oneshot::Sender<()>),
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    /// The step that brings it, once it has arrived.
    after: Option<u64>,
    replies: Vec<Reply>,
}

/// Who waits for what, and what is subscribed to.
#[derive(Debug)]
pub(crate) struct Demand {
    namespace: String,
    called: Called,
    unsaved: bool,
    waiting: BTreeMap<(&'static str, String), Waiting>,
    absent: BTreeSet<(&'static str, String)>,
    workloads: VecDeque<String>,
    evicted: Vec<Evicted>,
    /// The last step that all workers have passed.
    step: u64,
    commands: mpsc::Sender<Command>,
    /// Commands that found the channel full; sent at the next tick.
    unsent: VecDeque<Command>,
}

impl Demand {
    pub(crate) fn new(namespace: &str, called: Called, commands: mpsc::Sender<Command>) -> Self {
        Self {
            namespace: namespace.to_owned(),
            called,
            unsaved: false,
            waiting: BTreeMap::new(),
            absent: BTreeSet::new(),
            workloads: VecDeque::new(),
            evicted: Vec::new(),
            step: 0,
            commands,
            unsent: VecDeque::new(),
        }
    }

    /// A worker asks. What is known and in force already is answered at once: no later step may come for long.
    pub(crate) fn want(&mut self, want: Want, book: &Book, last_step: u64) {
        self.take(want, book, last_step);
        self.passed(self.step, book);
    }

    fn take(&mut self, want: Want, book: &Book, last_step: u64) {
        match want {
            Want::Host { host, port, reply } => {
                let name = VirtualHostName { host, port };
                let held = book.has_host(&name);
                let name = name.to_string();
                let (new, evicted) = self.called.touch(&name);
                self.unsaved |= new;
                if let Some(evicted) = evicted {
                    self.evict(evicted);
                }
                if new {
                    // What was said of it unasked (it was held as one of the own namespace) says nothing of now: it may
                    // be one of a pattern's, and those come to who asks.
                    self.absent.remove(&(type_url::VIRTUAL_HOST, name.clone()));
                    self.send(Command::Subscribe {
                        type_url: type_url::VIRTUAL_HOST.to_owned(),
                        names: vec![name.clone()],
                    });
                }
                let known = held
                    || self
                        .absent
                        .contains(&(type_url::VIRTUAL_HOST, name.clone()));
                self.wait(
                    type_url::VIRTUAL_HOST,
                    name,
                    Reply::Host(reply),
                    known,
                    last_step,
                );
            }
            Want::Workload { id, reply } => {
                let id = id.to_string();
                if let Some(record) = book.workload(&id) {
                    // The asker may be gone.
                    let _ = reply.send(Some(Arc::new(described(&record))));
                    return;
                }
                self.subscribe_to(&id);
                let known = self.absent.contains(&(type_url::WORKLOAD, id.clone()));
                self.wait(
                    type_url::WORKLOAD,
                    id,
                    Reply::Workload(reply),
                    known,
                    last_step,
                );
            }
            Want::Peer { id, reply } => {
                let id = id.to_string();
                self.subscribe_to(&id);
                let known = book.workload(&id).is_some()
                    || self.absent.contains(&(type_url::WORKLOAD, id.clone()));
                self.wait(type_url::WORKLOAD, id, Reply::Peer(reply), known, last_step);
            }
        }
    }

    /// Follows the record of a workload; the one followed longest leaves for one too many.
    fn subscribe_to(&mut self, id: &str) {
        if !self.workloads.iter().any(|known| known == id) {
            self.workloads.push_back(id.to_owned());
            if self.workloads.len() > CAPACITY
                && let Some(oldest) = self.workloads.pop_front()
            {
                self.send(Command::Unsubscribe {
                    type_url: type_url::WORKLOAD.to_owned(),
                    names: vec![oldest.clone()],
                });
                self.absent.remove(&(type_url::WORKLOAD, oldest.clone()));
                self.evicted.push(Evicted::Workload(oldest));
            }
            self.send(Command::Subscribe {
                type_url: type_url::WORKLOAD.to_owned(),
                names: vec![id.to_owned()],
            });
        }
    }

    fn wait(&mut self, kind: &'static str, name: String, reply: Reply, known: bool, step: u64) {
        let waiting = self.waiting.entry((kind, name)).or_insert_with(|| Waiting {
            since: Instant::now(),
            after: known.then_some(step),
            replies: Vec::new(),
        });
        waiting.replies.push(reply);
    }

    /// Something came, or was said not to exist; `step` puts it in force.
    pub(crate) fn arrived(&mut self, kind: &str, name: &str, exists: bool, step: u64) {
        let kind = if kind == type_url::WORKLOAD {
            type_url::WORKLOAD
        } else {
            type_url::VIRTUAL_HOST
        };
        let key = (kind, name.to_owned());
        if let Some(waiting) = self.waiting.get_mut(&key)
            && (exists || kind != type_url::WORKLOAD)
        {
            waiting.after = Some(step);
        }
        if exists {
            self.absent.remove(&key);
        } else {
            if self.absent.len() >= 2 * CAPACITY {
                self.absent.clear();
            }
            // Remembered also when nobody waits now: who asks later has been answered already.
            self.absent.insert(key);
        }
    }

    /// All workers have passed a step.
    pub(crate) fn passed(&mut self, step: u64, book: &Book) {
        self.step = step;
        let due: Vec<(&'static str, String)> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.after.is_some_and(|after| after <= step))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            // What came and was refused is neither held nor absent; the engine finds that it is missing.
            let gone = self.absent.contains(&key);
            let Some(waiting) = self.waiting.remove(&key) else {
                continue;
            };
            for reply in waiting.replies {
                // The asker may be gone; then nobody needs the answer.
                match reply {
                    Reply::Host(reply) if gone => drop(reply.send(Err(Reason::NoSuchPort))),
                    Reply::Host(reply) => drop(reply.send(Ok(()))),
                    Reply::Peer(reply) => drop(reply.send(())),
                    Reply::Workload(reply) => {
                        let record = book.workload(&key.1);
                        drop(reply.send(record.map(|record| Arc::new(described(&record)))));
                    }
                }
            }
        }
    }

    fn evict(&mut self, name: String) {
        let own = VirtualHostName::parse(&name).is_some_and(|name| {
            naka_types::host::Host::parse(&name.host)
                .is_ok_and(|host| host.service().is_some_and(|(_, ns)| ns == self.namespace))
        });
        self.absent.remove(&(type_url::VIRTUAL_HOST, name.clone()));
        self.send(Command::Unsubscribe {
            type_url: type_url::VIRTUAL_HOST.to_owned(),
            names: vec![name.clone()],
        });
        // Names of the own namespace are held anyway.
        if !own {
            self.evicted.push(Evicted::Host(name));
        }
    }

    fn send(&mut self, command: Command) {
        self.unsent.push_back(command);
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(command) = self.unsent.pop_front() {
            match self.commands.try_send(command) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(command)) => {
                    self.unsent.push_front(command);
                    return;
                }
                // The process is ending.
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
    }

    /// Whether anything must happen later.
    pub(crate) fn waits(&self) -> bool {
        !self.waiting.is_empty()
            || !self.unsent.is_empty()
            || self.unsaved
            || !self.evicted.is_empty()
    }

    /// Refuses what waited too long; returns what is to be dropped.
    pub(crate) fn tick(&mut self) -> Vec<Evicted> {
        self.flush();
        let now = Instant::now();
        self.waiting.retain(|_, waiting| {
            let patient = now.duration_since(waiting.since) < PATIENCE;
            if !patient {
                for reply in waiting.replies.drain(..) {
                    match reply {
                        Reply::Host(reply) => drop(reply.send(Err(Reason::ConfigUnavailable))),
                        Reply::Workload(reply) => drop(reply.send(None)),
                        Reply::Peer(reply) => drop(reply.send(())),
                    }
                }
            }
            patient
        });
        std::mem::take(&mut self.evicted)
    }

    pub(crate) fn take_unsaved(&mut self) -> bool {
        std::mem::take(&mut self.unsaved)
    }

    pub(crate) fn called(&self) -> Vec<String> {
        self.called.in_order()
    }
}

/// A workload as its record describes it. Its principal is not in there: only its certificate says who it is.
fn described(record: &WorkloadRecord) -> Workload {
    Workload::new(
        &record.workload_name,
        &record.namespace,
        "unknown",
        "Kubernetes",
        &record.labels,
    )
}

#[cfg(test)]
mod tests {
    use super::{Book, Called, Demand, Reason, Want, mpsc, oneshot, type_url};
    use naka_types::workload::Ulid;

    const NAME: &str = "999/pay.default.svc.cluster.local:999";

    fn ask(demand: &mut Demand, book: &Book, step: u64) -> oneshot::Receiver<Result<(), Reason>> {
        let (reply, answer) = oneshot::channel();
        let host = "pay.default.svc.cluster.local".to_owned();
        let port = 999;
        demand.want(Want::Host { host, port, reply }, book, step);
        answer
    }

    #[tokio::test]
    async fn what_does_not_exist_is_refused_at_once_whenever_that_was_said() {
        let (commands, mut sent) = mpsc::channel(8);
        let called = Called::restore(Vec::new());
        let mut demand = Demand::new("default", called, commands);
        let book = Book::new("default");
        let mut first = ask(&mut demand, &book, 1);
        assert!(sent.try_recv().is_ok(), "the first to ask subscribes");
        demand.passed(1, &book);
        assert!(first.try_recv().is_err(), "nobody has said anything yet");
        demand.arrived(type_url::VIRTUAL_HOST, NAME, false, 2);
        demand.passed(2, &book);
        assert_eq!(first.await, Ok(Err(Reason::NoSuchPort)));
        let mut again = ask(&mut demand, &book, 2);
        assert_eq!(
            again.try_recv(),
            Ok(Err(Reason::NoSuchPort)),
            "no step has to come first"
        );
        // It has come, and was refused by this proxy: that is another story.
        demand.arrived(type_url::VIRTUAL_HOST, NAME, true, 3);
        let mut refused = ask(&mut demand, &book, 3);
        demand.passed(3, &book);
        assert!(refused.try_recv().is_err());
        demand.arrived(type_url::VIRTUAL_HOST, NAME, true, 4);
        demand.passed(4, &book);
        assert_eq!(refused.await, Ok(Ok(())));
    }

    #[tokio::test]
    async fn what_was_said_before_anybody_asked_is_no_answer() {
        let (commands, mut sent) = mpsc::channel(8);
        let mut demand = Demand::new("default", Called::restore(Vec::new()), commands);
        let book = Book::new("default");
        // A host that was held without being asked for is gone.
        demand.arrived(type_url::VIRTUAL_HOST, NAME, false, 1);
        let mut answer = ask(&mut demand, &book, 1);
        assert!(sent.try_recv().is_ok() && answer.try_recv().is_err());
        demand.arrived(type_url::VIRTUAL_HOST, NAME, true, 2);
        demand.passed(2, &book);
        assert_eq!(answer.await, Ok(Ok(())));
    }

    #[tokio::test]
    async fn a_peer_that_is_not_known_yet_is_waited_for_once() {
        let (commands, _sent) = mpsc::channel(8);
        let mut demand = Demand::new("default", Called::restore(Vec::new()), commands);
        let book = Book::new("default");
        let ask = |demand: &mut Demand, id: Ulid| {
            let (reply, answer) = oneshot::channel();
            demand.want(Want::Peer { id, reply }, &book, 1);
            answer
        };
        let [late, never] = [1, 2].map(|number| Ulid::new(number, 1));
        let (mut one, mut two) = (ask(&mut demand, late), ask(&mut demand, never));
        for id in [late, never] {
            demand.arrived(type_url::WORKLOAD, &id.to_string(), false, 2);
        }
        demand.passed(2, &book);
        let mut joined = ask(&mut demand, late);
        for answer in [&mut one, &mut two, &mut joined] {
            assert!(answer.try_recv().is_err(), "nobody is answered yet");
        }
        demand.arrived(type_url::WORKLOAD, &late.to_string(), true, 3);
        demand.passed(3, &book);
        assert!(one.try_recv().is_ok() && joined.try_recv().is_ok());
        for waiting in demand.waiting.values_mut() {
            waiting.since -= super::PATIENCE;
        }
        demand.tick();
        assert!(two.try_recv().is_ok(), "its second is over");
        assert!(ask(&mut demand, never).try_recv().is_ok(), "and not again");
    }

    #[tokio::test]
    async fn an_answer_that_came_before_the_question_counts() {
        let (commands, _sent) = mpsc::channel(8);
        let called = Called::restore(vec![NAME.to_owned()]);
        let mut demand = Demand::new("default", called, commands);
        let book = Book::new("default");
        demand.arrived(type_url::VIRTUAL_HOST, NAME, false, 1);
        let answer = ask(&mut demand, &book, 1);
        demand.passed(1, &book);
        assert_eq!(answer.await, Ok(Err(Reason::NoSuchPort)));
    }
}
