//! Carries out what [`super::relay`] decides: one task between the control plane's line and the agent's socket.
//!
//! Also here: keys and roots as secrets for an Envoy, and the copy on disk, which is written off this thread and at
//! most once per tick.

use super::files::Files;
use super::relay::{Effect, Message, Relay, StreamId, Wants};
use super::serve::{Event, Out};
use crate::control_client::News;
use crate::rotation::{Feed, Identity};
use crate::saved;
use naka_types::version::Version;
use naka_wire::envoy::config::core::v3::{DataSource, data_source::Specifier};
use naka_wire::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use naka_wire::type_url;
use naka_wire::v1::RegisterResponse;
use naka_xds::Encoded;
use naka_xds::delta::client::{Client, Subscription, Ticket, Update};
use naka_xds::driver::{Command, Verdict};
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Names as our own proxies and the compile have them.
const KEYS: &str = "default";
const ROOTS: &str = "ROOTCA";
const FORMAT: u32 = 1;
const TICK: Duration = Duration::from_millis(500);
/// How long the end waits for a save under way.
const LAST_SAVE: Duration = Duration::from_millis(500);

/// What the task is built from.
#[derive(Debug)]
pub(super) struct Params {
    pub(super) relay: Relay,
    pub(super) feed: Arc<Feed>,
    pub(super) news: mpsc::UnboundedReceiver<News>,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) answers: mpsc::UnboundedSender<RegisterResponse>,
    /// Whether a client that starts now would be served.
    pub(super) speaks: watch::Sender<bool>,
    pub(super) run_dir: PathBuf,
}

/// The task.
#[derive(Debug)]
pub(super) struct Middle {
    params: Params,
    outs: HashMap<StreamId, Out>,
    verdicts: HashMap<Ticket, Verdict>,
    waiting: VecDeque<Command>,
    files: Files,
    unsaved: bool,
    saving: Option<tokio::task::JoinHandle<()>>,
    began: Instant,
}

/// The client of the control plane that goes with a relay.
pub(super) fn client(
    relay: &Relay,
    wants: Wants,
    node: naka_wire::envoy::config::core::v3::Node,
) -> Client {
    let types = [
        type_url::CLUSTER,
        type_url::ENDPOINT,
        type_url::EXTENSION,
        type_url::LISTENER,
        type_url::ROUTE,
    ];
    let of = |url| match wants {
        Wants::Everything => Subscription::everything(),
        // What programs named before; they will again.
        Wants::Named => Subscription::names(relay.versions(url).into_iter().map(|(name, _)| name)),
    };
    let secrets = match wants {
        // With the certificates that a gateway's listeners refer to.
        Wants::Everything => Subscription::everything(),
        Wants::Named => Subscription::names([ROOTS]),
    };
    let mut subscriptions = vec![(type_url::SECRET, secrets)];
    subscriptions.extend(types.map(|url| (url, of(url))));
    // A type without names would say "everything" for some of them; it is opened when the first is asked for.
    subscriptions.retain(|(_, wanted)| wanted.wildcard || !wanted.names.is_empty());
    let mut client = Client::new(node, subscriptions);
    for url in types {
        client.restore(url, relay.versions(url));
    }
    client
}

impl Middle {
    pub(super) fn new(params: Params) -> Self {
        Self {
            params,
            outs: HashMap::new(),
            verdicts: HashMap::new(),
            waiting: VecDeque::new(),
            files: Files::default(),
            unsaved: false,
            saving: None,
            began: Instant::now(),
        }
    }

    /// Runs until both sides are gone.
    pub(super) async fn run(mut self) {
        let mut identity = self.params.feed.watch();
        identity.mark_changed();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let commands = self.params.commands.clone();
            let effects = tokio::select! {
                news = self.params.news.recv() => match news {
                    None => return,
                    Some(News::Opened) => Vec::new(),
                    Some(News::Lease(answer)) => {
                        // A closed receiver means that the agent is ending.
                        let _ = self.params.answers.send(answer);
                        Vec::new()
                    }
                    Some(News::Update(update, verdict)) => self.update(update, verdict),
                },
                event = self.params.events.recv() => match event {
                    None => return,
                    Some(event) => self.event(event),
                },
                Ok(()) = identity.changed() => {
                    let now = identity.borrow_and_update().clone();
                    now.map(|now| self.keys(&now)).unwrap_or_default()
                }
                permit = commands.reserve(), if !self.waiting.is_empty() => match (permit, self.waiting.pop_front()) {
                    (Ok(permit), Some(command)) => {
                        permit.send(command);
                        Vec::new()
                    }
                    _ => return,
                },
                _ = tick.tick() => {
                    self.save();
                    let now = self.began.elapsed();
                    let mut effects = self.params.relay.tick(now);
                    for (name, cluster) in self.files.again(now) {
                        effects.extend(self.params.relay.offer(type_url::CLUSTER, &name, cluster));
                    }
                    effects
                }
            };
            self.perform(effects);
            let speaks = self.params.relay.speaks();
            self.params
                .speaks
                .send_if_modified(|now| std::mem::replace(now, speaks) != speaks);
        }
    }

    fn update(&mut self, mut update: Update, verdict: Verdict) -> Vec<Effect> {
        if update.type_url == type_url::SECRET {
            let own = |name: &str| name == ROOTS || name == KEYS;
            let (roots, others): (Vec<_>, Vec<_>) = std::mem::take(&mut update.resources)
                .into_iter()
                .partition(|resource| own(&resource.name));
            let unsound = roots.iter().filter(|resource| !self.trust(resource));
            let rejects: Vec<_> = unsound
                .map(|resource| naka_xds::Reject {
                    name: resource.name.clone(),
                    reason: "no trust bundle".to_owned(),
                })
                .collect();
            update.resources = others;
            update.removed.retain(|name| !own(name));
            let nothing_else = update.resources.is_empty() && update.removed.is_empty();
            if nothing_else || !rejects.is_empty() {
                verdict.answer(rejects);
                return Vec::new();
            }
        }
        if update.type_url == type_url::CLUSTER {
            for resource in &mut update.resources {
                self.files.check(resource);
            }
            for name in &update.removed {
                self.files.forget(name);
            }
        }
        self.verdicts.insert(update.ticket, verdict);
        self.params.relay.update(self.began.elapsed(), update)
    }

    fn trust(&self, resource: &naka_xds::Resource) -> bool {
        let Ok(Secret {
            r#type: Some(secret::Type::ValidationContext(context)),
            ..
        }) = naka_wire::unpack(&resource.any)
        else {
            return false;
        };
        match context.trusted_ca.and_then(|source| source.specifier) {
            Some(Specifier::InlineBytes(pem)) => {
                // Aliases stand in the listeners and clusters that its client gets.
                let pem = String::from_utf8_lossy(&pem);
                self.params.feed.trust(&pem, &[])
            }
            _ => false,
        }
    }

    fn event(&mut self, event: Event) -> Vec<Effect> {
        let now = self.began.elapsed();
        let relay = &mut self.params.relay;
        match event {
            Event::Opened(id, out) => {
                relay.open(id, matches!(out, Out::Whole(_)));
                self.outs.insert(id, out);
                Vec::new()
            }
            Event::Closed(id) => {
                relay.close(id);
                self.outs.remove(&id);
                Vec::new()
            }
            Event::Delta(id, request) => relay.delta(now, id, &request),
            Event::Whole(id, request) => relay.whole(now, id, &request),
        }
    }

    /// The identity as secrets.
    fn keys(&mut self, identity: &Identity) -> Vec<Effect> {
        let (chain, roots) = (identity.svid.chain_pem(), identity.bundle.to_pem());
        let own = secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: inline(&chain),
            private_key: inline(&identity.svid.key_pem()),
            ..TlsCertificate::default()
        });
        let trusted = secret::Type::ValidationContext(CertificateValidationContext {
            trusted_ca: inline(&roots),
            ..CertificateValidationContext::default()
        });
        let relay = &mut self.params.relay;
        let mut effects = relay.own(KEYS, encoded(KEYS, &chain, own));
        effects.extend(relay.own(ROOTS, encoded(ROOTS, &roots, trusted)));
        effects
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(id, message) => match (self.outs.get(&id), *message) {
                    // A client that is gone closes its stream; that comes as an event.
                    (Some(Out::Delta(out)), Message::Delta(message)) => {
                        drop(out.send(Ok(message)));
                    }
                    (Some(Out::Whole(out)), Message::Whole(message)) => {
                        drop(out.send(Ok(message)));
                    }
                    _ => {}
                },
                Effect::Verdict(ticket, rejects) => {
                    for reject in &rejects {
                        tracing::warn!(resource = reject.name, reason = reject.reason, "refused");
                    }
                    if let Some(verdict) = self.verdicts.remove(&ticket) {
                        verdict.answer(rejects);
                    }
                }
                Effect::Ask(url, names) => self.waiting.push_back(Command::Subscribe {
                    type_url: url.to_owned(),
                    names,
                }),
                Effect::Forget(url, names) => self.waiting.push_back(Command::Unsubscribe {
                    type_url: url.to_owned(),
                    names,
                }),
                Effect::Save => self.unsaved = true,
            }
        }
    }

    fn save(&mut self) {
        let busy = self.saving.as_ref().is_some_and(|task| !task.is_finished());
        if !self.unsaved || busy {
            return;
        }
        self.unsaved = false;
        let (dir, good) = (self.params.run_dir.clone(), self.params.relay.good());
        self.saving = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = saved::save_last_good(&dir, &good) {
                tracing::warn!(%error, "the configuration could not be saved; a restart will need the control plane");
            }
        }));
    }
}

impl Drop for Middle {
    /// What came since the last tick is saved too: a program may live shorter than that, and the next one counts on it.
    fn drop(&mut self) {
        if !self.unsaved {
            return;
        }
        let began = Instant::now();
        while self.saving.as_ref().is_some_and(|task| !task.is_finished())
            && began.elapsed() < LAST_SAVE
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Err(error) = saved::save_last_good(&self.params.run_dir, &self.params.relay.good()) {
            tracing::warn!(%error, "the configuration could not be saved; a restart will need the control plane");
        }
    }
}

fn inline(text: &str) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(Specifier::InlineString(text.to_owned())),
        ..DataSource::default()
    })
}

fn encoded(name: &str, content: &str, secret: secret::Type) -> Encoded {
    Encoded {
        version: Version::of(FORMAT, content.as_bytes()).to_string().into(),
        any: naka_wire::pack(&Secret {
            name: name.to_owned(),
            r#type: Some(secret),
        }),
    }
}
