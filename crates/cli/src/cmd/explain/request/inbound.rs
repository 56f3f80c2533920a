//! The other end: what the called workload's own proxy decides, by its mTLS mode and the policies that hold for it.
//!
//! The workload is the one whose endpoint was picked, with its labels; of a mesh made of files one that wears the labels
//! a workload has unless told otherwise. The caller is who was named; labels of both count as granted.

use super::{Asked, MAX_STEPS, Walk};
use crate::cmd::explain::explained::{Explained, Sent};
use http::{HeaderName, Request};
use naka_control::compile::{Class, INBOUND, Key};
use naka_control::registry::{Health, Member, Registration, ServedPort};
use naka_control::world::{Endpoint, World};
use naka_engine::canonical::{Caller, Canonical, Origin, Source};
use naka_engine::exchange::{Answered, Around, Checked, Cx, Effect, Exchange, Input, Need};
use naka_engine::pick::Cursors;
use naka_engine::why::{Stage, Why};
use naka_proxy::state::book::Book;
use naka_types::host::Host;
use naka_types::name::ClusterName;
use naka_types::workload::Ulid;
use naka_wire::type_url;
use naka_wire::v1::WorkloadRecord;
use naka_xds::Resource;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

/// Stand for the two workloads.
const CALLED: Ulid = Ulid::new(1, 1);
const CALLER: Ulid = Ulid::new(1, 2);

/// Ports of workloads by the address that callers dial, as far as anybody said.
pub(crate) type Ports = BTreeMap<String, (u16, String)>;

/// Decides what becomes of the last request that was sent to a workload of the mesh.
pub(crate) fn decide(world: &mut World, asked: &Asked, ports: &Ports, explained: &mut Explained) {
    let Some((sent, registration)) = explained
        .sent
        .last()
        .and_then(|sent| Some((sent, called(world, sent, ports)?)))
    else {
        return;
    };
    let Some(mut request) = request(asked, sent) else {
        return;
    };
    let port = registration.ports.first().map_or(80, |served| served.port);
    let because = format!(
        "the proxy of {}.{} decides, for port {port} of its program",
        registration.workload_name, registration.namespace
    );
    let class = Class {
        namespace: registration.namespace.clone(),
        workload_id: CALLED.to_string(),
        peer_labels: true,
        ..Class::default()
    };
    let granted = registration.labels.clone();
    world.granted.insert(CALLED.to_string(), granted);
    world.workloads.insert(
        CALLED.to_string(),
        Arc::new(Member {
            registration: Arc::new(registration),
            health: Some(Health::Healthy),
            connected: true,
        }),
    );
    explained
        .trail
        .push(Why::new(Stage::Peer, "called", because));
    let origin = origin(world, asked, port);
    let mut walk = Walk {
        world,
        asked,
        origin: &origin,
        seen: &[],
        book: Book::new(&class.namespace),
        class,
    };
    walk.load(vec![Key::Listener(INBOUND.to_owned())], explained);
    walk.know_the_caller();
    walk.arrive(&mut request, explained);
}

/// The workload that a request was sent to.
fn called(world: &World, sent: &Sent, ports: &Ports) -> Option<Registration> {
    let Some(ClusterName::Outbound { host, port, .. }) = ClusterName::parse(&sent.cluster) else {
        return None;
    };
    let host = Host::parse(&host).ok()?;
    let (service, namespace) = host.service()?;
    let address = sent.address.to_string();
    let all = world.endpoints.get(&host)?.values().flatten();
    let found: &Endpoint = all.into_iter().find(|one| one.address == address)?;
    let mut labels = found.labels.clone();
    for (key, value) in [("app", service), ("version", "v1")] {
        labels
            .entry(key.to_owned())
            .or_insert_with(|| value.to_owned());
    }
    let declared = world.services.get(&host)?.ports.get(&port);
    let assumed = || {
        (
            port,
            declared
                .map_or("", |port| port.protocol.as_str())
                .to_owned(),
        )
    };
    let (port, protocol) = ports.get(&address).cloned().unwrap_or_else(assumed);
    Some(Registration {
        workload_id: CALLED.to_string(),
        namespace: namespace.to_owned(),
        service: service.to_owned(),
        service_account: service.to_owned(),
        labels,
        workload_name: found.workload.clone(),
        ports: vec![ServedPort {
            port,
            inbound_address: address,
            protocol,
            name: String::new(),
            first: true,
        }],
        ip: String::new(),
        gateway: false,
        capture: String::new(),
        seen_at: String::new(),
    })
}

/// The request as it arrives.
fn request(asked: &Asked, sent: &Sent) -> Option<Canonical> {
    let mut request = Request::builder()
        .method(asked.method.clone())
        .uri(&sent.target);
    if let Some(headers) = request.headers_mut() {
        headers.clone_from(&sent.headers);
        let host = http::HeaderValue::from_str(&sent.authority).ok()?;
        headers.insert(HeaderName::from_static("host"), host);
    }
    let parts = request.body(()).ok()?.into_parts().0;
    let origin = Origin::inbound(80, Caller::MeshPeer { xfcc: None }, true);
    Canonical::from_parts(parts, &origin).ok()
}

fn origin(world: &World, asked: &Asked, port: u16) -> Origin {
    let mut origin = Origin::inbound(port, Caller::MeshPeer { xfcc: None }, true);
    origin.address = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    origin.source = Some(Source {
        identity: asked.identity(world).into(),
        workload: asked.from.as_str().into(),
        id: Some(CALLER),
    });
    origin
}

/// What somebody else would say who is asked about the request: nobody is asked here, so that it passes.
pub(super) fn assumed(trail: &mut Vec<Why>) -> Checked {
    let because = "nobody is asked here; the way of a request that passes is shown";
    trail.push(Why::new(Stage::Policy, "assumed", because));
    Checked::Allowed(Box::default())
}

impl Walk<'_> {
    /// Gives the called proxy the record of the caller.
    fn know_the_caller(&mut self) {
        let record = WorkloadRecord {
            workload_id: CALLER.to_string(),
            namespace: self.asked.namespace.clone(),
            service_account: self.asked.from.clone(),
            labels: self.asked.labels.clone(),
            granted: self.asked.labels.clone(),
            ..WorkloadRecord::default()
        };
        let resource = Resource {
            type_url: type_url::WORKLOAD.to_owned(),
            name: CALLER.to_string(),
            version: "1".to_owned(),
            any: naka_wire::pack(&record),
        };
        self.book.apply(type_url::WORKLOAD, &[resource], &[]);
        self.book.settle();
    }

    fn arrive(&self, request: &mut Canonical, explained: &mut Explained) {
        let mut exchange = Exchange::new();
        let (mut rng, mut cursors) = (fastrand::Rng::new(), Cursors::new());
        let around = Around {
            epoch: self.asked.at,
            ..Around::default()
        };
        let snapshot = self.book.snapshot();
        let mut input = Input::Begin;
        for _ in 0..MAX_STEPS {
            let mut cx = Cx {
                snapshot: &snapshot,
                origin: self.origin,
                now: Duration::ZERO,
                around: &around,
                rng: &mut rng,
                cursors: &mut cursors,
                why: Some(&mut explained.trail),
            };
            input = match exchange.step(request, input, &mut cx) {
                Effect::Need(Need::Check) => Input::Checked(assumed(&mut explained.trail)),
                Effect::Need(_) => Input::Answer(Answered::Ready),
                Effect::Reply(reply) => {
                    let judged = exchange.judged().unwrap_or_default();
                    explained.trust = judged.trust;
                    let by = judged.refused_by;
                    let sent = std::mem::take(&mut explained.verdict);
                    explained.replied(reply);
                    let rule = by.map_or_else(String::new, |rule| format!(" (rule: {rule})"));
                    explained.verdict = format!("{}{rule}, after {sent}", explained.verdict);
                    return;
                }
                // It reaches the program: what was said of its way there stands.
                _ => {
                    let judged = exchange.judged().unwrap_or_default();
                    explained.trust = judged.trust;
                    return;
                }
            };
        }
    }
}
