//! The agent's socket: aggregated discovery and keys for the clients beside it, and an ear for what an Envoy refused,
//! over gRPC on one Unix socket.
//!
//! The socket's mode (0600, in a directory of 0700) is the credential. Streams are numbered and their requests go
//! into one queue; what comes back is decided by [`super::relay`]. Keys are asked for on streams of their own, which
//! are the same to the relay: streams that open one type.

use naka_wire::ads::AdsServer;
use naka_wire::envoy::service::accesslog::v3::access_log_service_server::AccessLogServiceServer;
use naka_wire::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_server::AggregatedDiscoveryService,
};
use naka_wire::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{UnboundedReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::authority::Mended;
use super::denied::Ear;
use super::relay::StreamId;

/// Streams of one connection: an Envoy opens one for its configuration and one for each secret.
const STREAMS: u32 = 1024;

type Sender<T> = mpsc::UnboundedSender<Result<T, Status>>;
type Answers<T> = UnboundedReceiverStream<Result<T, Status>>;

/// Where the answers of a stream go. Bounded by the relay, which sends nothing to who leaves too much unanswered.
#[derive(Debug)]
pub(super) enum Out {
    Delta(Sender<DeltaDiscoveryResponse>),
    Whole(Sender<DiscoveryResponse>),
}

/// What happens on the socket.
#[derive(Debug)]
pub(super) enum Event {
    Opened(StreamId, Out),
    Delta(StreamId, Box<DeltaDiscoveryRequest>),
    Whole(StreamId, Box<DiscoveryRequest>),
    Closed(StreamId),
}

/// Both services.
#[derive(Debug, Clone)]
struct Door {
    events: mpsc::Sender<Event>,
    next: Arc<AtomicU64>,
}

/// Serves until the listener fails.
///
/// # Errors
/// The transport's.
pub(super) async fn serve(
    listener: UnixListener,
    events: mpsc::Sender<Event>,
    ear: Ear,
) -> Result<(), tonic::transport::Error> {
    let door = Door {
        events,
        next: Arc::default(),
    };
    let connections = UnixListenerStream::new(listener).map(|stream| stream.map(Mended::new));
    tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS)
        .add_service(AdsServer::new(door.clone()))
        .add_service(SecretDiscoveryServiceServer::new(door))
        .add_service(AccessLogServiceServer::new(ear))
        .serve_with_incoming(connections)
        .await
}

impl Door {
    fn delta(
        &self,
        requests: Streaming<DeltaDiscoveryRequest>,
    ) -> Response<Answers<DeltaDiscoveryResponse>> {
        let (out, answers) = mpsc::unbounded_channel();
        self.open(Out::Delta(out), requests, Event::Delta);
        Response::new(UnboundedReceiverStream::new(answers))
    }

    fn whole(&self, requests: Streaming<DiscoveryRequest>) -> Response<Answers<DiscoveryResponse>> {
        let (out, answers) = mpsc::unbounded_channel();
        self.open(Out::Whole(out), requests, Event::Whole);
        Response::new(UnboundedReceiverStream::new(answers))
    }

    fn open<R: Send + 'static>(
        &self,
        out: Out,
        mut requests: Streaming<R>,
        event: fn(StreamId, Box<R>) -> Event,
    ) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let events = self.events.clone();
        tokio::spawn(async move {
            // A closed queue means that the agent is ending.
            if events.send(Event::Opened(id, out)).await.is_err() {
                return;
            }
            while let Ok(Some(request)) = requests.message().await {
                if events.send(event(id, Box::new(request))).await.is_err() {
                    return;
                }
            }
            let _ = events.send(Event::Closed(id)).await;
        });
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Door {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(self.whole(request.into_inner()))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(self.delta(request.into_inner()))
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Door {
    type DeltaSecretsStream = Answers<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Answers<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Ok(self.delta(request.into_inner()))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        Ok(self.whole(request.into_inner()))
    }

    async fn fetch_secrets(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("keys are streamed"))
    }
}
