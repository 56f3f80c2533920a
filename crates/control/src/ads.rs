//! The aggregated discovery service: drives one [`Session`] per stream.
//!
//! Reading never waits for writing: requests are taken while responses queue, and a plan is made only when the queue
//! is empty, so what waits for a slow reader is its set of marks and one plan, never a backlog.

use crate::ca_service::peer;
use crate::compile::Class;
use crate::plane::{Caller, Plane};
use crate::push::Subscriber;
use crate::push::session::Session;
use naka_types::node::{CAPABILITY_CLOSURE, CAPABILITY_DRAIN_ACK, NODE_METADATA, NodeId, Role};
use naka_wire::envoy::config::core::v3::Node;
use naka_wire::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_server::AggregatedDiscoveryService,
};
use naka_wire::values;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
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

type Out = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented(
            "state-of-the-world xDS is not served yet; use DELTA_GRPC",
        ))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let caller = self.plane.caller(&peer(&request)?);
        let (out, responses) = mpsc::channel(1);
        let service = self.clone();
        let requests = request.into_inner();
        tokio::spawn(async move {
            if let Err(status) = service.serve(&caller, requests, &out).await {
                // A client that is gone does not hear it.
                let _ = out.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

impl Ads {
    async fn serve(
        &self,
        caller: &Caller,
        mut requests: Streaming<DeltaDiscoveryRequest>,
        out: &Out,
    ) -> Result<(), Status> {
        let Some(first) = requests.message().await? else {
            return Ok(());
        };
        let node = first
            .node
            .as_ref()
            .ok_or_else(|| Status::invalid_argument("the first request names no node"))?;
        let subscriber = subscriber(node, caller)?;
        tracing::debug!(proxy = subscriber.name, "subscribed");
        let mut session = Session::new(Arc::clone(&self.plane.hub), subscriber);
        let notify = session.notify();
        let mut stop = self.stop.clone();
        session.request(&first);
        let mut queue: VecDeque<DeltaDiscoveryResponse> = session.plan().into();
        loop {
            tokio::select! {
                biased;
                request = requests.message() => match request? {
                    None => return Ok(()),
                    Some(request) => {
                        session.request(&request);
                        // Requests that came together are answered together.
                        if queue.is_empty() {
                            queue.extend(session.plan());
                        }
                    }
                },
                permit = out.reserve(), if !queue.is_empty() => {
                    let permit = permit.map_err(|_| Status::cancelled("the proxy is gone"))?;
                    if let Some(response) = queue.pop_front() {
                        permit.send(Ok(response));
                    }
                    if queue.is_empty() {
                        queue.extend(session.plan());
                    }
                }
                () = notify.notified(), if queue.is_empty() => queue.extend(session.plan()),
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
        },
        drain_ack: has(CAPABILITY_DRAIN_ACK),
        closure: has(CAPABILITY_CLOSURE),
        version: values::get_str(own, "version")
            .unwrap_or_default()
            .to_owned(),
    })
}
