//! The aggregated discovery service: drives one [`Session`] per stream.
//!
//! Reading never waits for writing: requests are taken while responses queue, and a plan is made only when the queue
//! is empty, so what waits for a slow reader is its set of marks and one plan, never a backlog.

use crate::ca_service::peer;
use crate::compile::{Binds, Class, Dialect, Upstream};
use crate::outbox::{self, Responses};
use crate::plane::{Caller, Plane};
use crate::push::Subscriber;
use crate::push::session::Session;
use naka_types::node::{
    CAPABILITY_CLOSURE, CAPABILITY_DRAIN_ACK, CAPABILITY_NAME_FILTER, CAPABILITY_PEER_LABELS,
    NODE_METADATA, NodeId, Role,
};
use naka_wire::envoy::config::core::v3::Node;
use naka_wire::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_server::AggregatedDiscoveryService,
};
use naka_wire::google::protobuf::{Struct, value::Kind as Value};
use naka_wire::values;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

/// The service.
#[derive(Debug, Clone)]
pub struct Ads {
    plane: Arc<Plane>,
    stop: watch::Receiver<bool>,
}

impl Ads {
    /// A service on a plane; streams end when `stop` becomes true.
    #[must_use]
    pub fn new(plane: Arc<Plane>, stop: watch::Receiver<bool>) -> Self {
        Self { plane, stop }
    }
}

/// One of the two protocols of a stream.
trait Kind {
    type Request: Send + 'static;
    type Response: Send + 'static;

    fn node(request: &Self::Request) -> Option<&Node>;
    fn take(session: &mut Session, request: &Self::Request);
    fn plan(session: &mut Session) -> Vec<Self::Response>;
}

/// Only what changed.
struct Delta;

impl Kind for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }
    fn take(session: &mut Session, request: &Self::Request) {
        session.request(request);
    }
    fn plan(session: &mut Session) -> Vec<Self::Response> {
        session.plan()
    }
}

/// The state of the world.
struct Whole;

impl Kind for Whole {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }
    fn take(session: &mut Session, request: &Self::Request) {
        session.request_all(request);
    }
    fn plan(session: &mut Session) -> Vec<Self::Response> {
        session.plan_all()
    }
}

type Out<K> = outbox::Sender<<K as Kind>::Response>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.open::<Whole>(request)
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.open::<Delta>(request)
    }
}

impl Ads {
    fn open<K: Kind + 'static>(
        &self,
        request: Request<Streaming<K::Request>>,
    ) -> Result<Response<Responses<K::Response>>, Status> {
        let caller = self.plane.caller(&peer(&request)?);
        let (out, responses) = outbox::channel(1);
        let service = self.clone();
        let requests = request.into_inner();
        tokio::spawn(async move {
            if let Err(status) = service.serve::<K>(&caller, requests, &out).await {
                // A client that is gone does not hear it.
                let _ = out.send(Box::new(Err(status))).await;
            }
        });
        Ok(Response::new(responses))
    }

    async fn serve<K: Kind>(
        &self,
        caller: &Caller,
        mut requests: Streaming<K::Request>,
        out: &Out<K>,
    ) -> Result<(), Status> {
        let Some(first) = requests.message().await? else {
            return Ok(());
        };
        let node = K::node(&first)
            .ok_or_else(|| Status::invalid_argument("the first request names no node"))?;
        let subscriber = subscriber(node, caller)?;
        tracing::debug!(proxy = subscriber.name, "subscribed");
        let mut session = Session::new(Arc::clone(&self.plane.hub), subscriber);
        let notify = session.notify();
        let mut stop = self.stop.clone();
        K::take(&mut session, &first);
        let mut queue: VecDeque<K::Response> = K::plan(&mut session).into();
        let write = self.plane.hub.phases.write.clone();
        let mut planned = Instant::now();
        loop {
            tokio::select! {
                biased;
                request = requests.message() => match request? {
                    None => return Ok(()),
                    Some(request) => {
                        K::take(&mut session, &request);
                        // Requests that came together are answered together.
                        if queue.is_empty() {
                            planned = Instant::now();
                            queue.extend(K::plan(&mut session));
                        }
                    }
                },
                permit = out.reserve(), if !queue.is_empty() => {
                    let permit = permit.map_err(|_| Status::cancelled("the proxy is gone"))?;
                    if let Some(response) = queue.pop_front() {
                        permit.send(Box::new(Ok(response)));
                    }
                    if queue.is_empty() {
                        write.record(planned.elapsed());
                        planned = Instant::now();
                        queue.extend(K::plan(&mut session));
                    }
                }
                () = notify.notified(), if queue.is_empty() => {
                    planned = Instant::now();
                    queue.extend(K::plan(&mut session));
                }
                _ = stop.wait_for(|stop| *stop) => {
                    return Err(Status::unavailable("the control plane is stopping"));
                }
            }
        }
    }
}

/// Who subscribes, if the node's words agree with what the connection proved.
fn subscriber(node: &Node, caller: &Caller) -> Result<Subscriber, Status> {
    let denied = |what: &str, said: &str, is: &str| {
        Status::permission_denied(format!(
            "the node says {what} {said:?}, its identity says {is:?}"
        ))
    };
    let id = NodeId::parse(&node.id)
        .ok_or_else(|| Status::invalid_argument(format!("{:?} is not a node id", node.id)))?;
    let empty = Default::default();
    let metadata = node.metadata.as_ref().unwrap_or(&empty);
    let namespace = caller.spiffe.namespace();
    if id.namespace != namespace {
        return Err(denied("namespace", &id.namespace, namespace));
    }
    let expected = [
        ("NAMESPACE", namespace),
        ("SERVICE_ACCOUNT", caller.spiffe.service_account()),
    ];
    for (key, is) in expected {
        match values::get_str(metadata, key) {
            Some(said) if said != is => return Err(denied(key, said, is)),
            _ => {}
        }
    }
    let own = values::get_struct(metadata, NODE_METADATA).unwrap_or(&empty);
    if let Some(said) = values::get_str(own, "workload_id")
        && said != caller.workload_id
    {
        return Err(denied("workload id", said, &caller.workload_id));
    }
    let capabilities = values::get_strings(own, "capabilities");
    let has = |capability: &str| capabilities.iter().any(|known| known == capability);
    let dialect = Dialect::of(&capabilities, &node.user_agent_name);
    let labels = match id.role {
        Role::Gateway => values::get_struct(metadata, "LABELS").map(values::to_map),
        Role::Sidecar => None,
    };
    Ok(Subscriber {
        name: format!("{}.{}", id.workload, id.namespace),
        node: node.id.clone(),
        class: Class {
            role: id.role,
            namespace: namespace.to_owned(),
            workload_id: caller.workload_id.clone(),
            labels: labels.unwrap_or_default(),
            narrow: false,
            network: String::new(),
            peer_labels: has(CAPABILITY_PEER_LABELS),
            dialect,
            binds: Arc::new(match dialect {
                Dialect::Envoy => binds(own),
                _ => Binds::default(),
            }),
        },
        drain_ack: has(CAPABILITY_DRAIN_ACK),
        closure: has(CAPABILITY_CLOSURE),
        name_filter: has(CAPABILITY_NAME_FILTER),
        version: values::get_str(own, "version")
            .unwrap_or_default()
            .to_owned(),
    })
}

/// At most this many addresses of one node are taken.
const BINDS: usize = 256;

/// What an Envoy's agent says of its listeners; what cannot be read is left out.
fn binds(own: &Struct) -> Binds {
    let entries = |key: &str| -> Vec<&Struct> {
        let Some(Value::ListValue(list)) = values::get(own, key) else {
            return Vec::new();
        };
        let fields = list.values.iter().filter_map(|value| match &value.kind {
            Some(Value::StructValue(fields)) => Some(fields),
            _ => None,
        });
        fields.take(BINDS).collect()
    };
    let bind = |entry: &Struct| values::get_str(entry, "bind")?.parse().ok();
    let mut upstreams: Vec<Upstream> = entries("upstreams")
        .into_iter()
        .filter_map(|entry| {
            Some(Upstream {
                bind: bind(entry)?,
                host: values::get_str(entry, "host")?.to_owned(),
                port: port(entry)?,
            })
        })
        .collect();
    upstreams.sort();
    upstreams.dedup_by_key(|upstream| upstream.bind);
    Binds {
        http_proxy: values::get_str(own, "http_proxy").and_then(|bind| bind.parse().ok()),
        upstreams,
        gateway_ports: entries("gateway_ports")
            .into_iter()
            .filter_map(|entry| Some((port(entry)?, bind(entry)?)))
            .collect(),
    }
}

/// A port as number or text.
fn port(entry: &Struct) -> Option<u16> {
    match values::get(entry, "port")? {
        Value::StringValue(text) => text.parse().ok(),
        Value::NumberValue(number) => number.to_string().parse().ok(),
        _ => None,
    }
}
