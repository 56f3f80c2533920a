//! The server's side of aggregated discovery, over [`SmallCodec`]; otherwise what `envoy-types` generates.

use crate::codec::SmallCodec;
use crate::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DiscoveryRequest,
    aggregated_discovery_service_server::AggregatedDiscoveryService,
};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Service, StdError, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

/// Largest request that is read, in bytes. A proxy names what it holds: some hundred bytes a resource.
const REQUEST_LIMIT: usize = 8 << 20;

type BoxFuture<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// Serves an [`AggregatedDiscoveryService`].
#[derive(Debug)]
pub struct AdsServer<T> {
    inner: Arc<T>,
}

impl<T> AdsServer<T> {
    /// A server of this service.
    #[must_use]
    pub fn new(service: T) -> Self {
        Self {
            inner: Arc::new(service),
        }
    }
}

impl<T> Clone for AdsServer<T> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<T> NamedService for AdsServer<T> {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

struct StateOfTheWorld<T>(Arc<T>);

impl<T: AggregatedDiscoveryService> StreamingService<DiscoveryRequest> for StateOfTheWorld<T> {
    type Response = crate::envoy::service::discovery::v3::DiscoveryResponse;
    type ResponseStream = T::StreamAggregatedResourcesStream;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<DiscoveryRequest>>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.stream_aggregated_resources(request).await })
    }
}

struct Delta<T>(Arc<T>);

impl<T: AggregatedDiscoveryService> StreamingService<DeltaDiscoveryRequest> for Delta<T> {
    type Response = crate::envoy::service::discovery::v3::DeltaDiscoveryResponse;
    type ResponseStream = T::DeltaAggregatedResourcesStream;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.delta_aggregated_resources(request).await })
    }
}

impl<T, B> Service<http::Request<B>> for AdsServer<T>
where
    T: AggregatedDiscoveryService,
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let inner = Arc::clone(&self.inner);
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        match method {
            "StreamAggregatedResources" => Box::pin(async move {
                let mut grpc =
                    Grpc::new(SmallCodec::default()).max_decoding_message_size(REQUEST_LIMIT);
                Ok(grpc.streaming(StateOfTheWorld(inner), request).await)
            }),
            "DeltaAggregatedResources" => Box::pin(async move {
                let mut grpc =
                    Grpc::new(SmallCodec::default()).max_decoding_message_size(REQUEST_LIMIT);
                Ok(grpc.streaming(Delta(inner), request).await)
            }),
            _ => Box::pin(async { Ok(Status::unimplemented("no such method").into_http()) }),
        }
    }
}
