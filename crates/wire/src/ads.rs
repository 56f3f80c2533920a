//! The server's side of aggregated discovery, for streams that live as long as a proxy.
//!
//! What tonic generates keeps, for each stream, a buffer of the size of the largest message ever sent on it. With a
//! thousand proxies that is most of a control plane's memory, so the two methods are served by hand: each message is
//! encoded into an allocation of its own, which goes when it is written. No compression, as with tonic's defaults.

use crate::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use bytes::Bytes;
use http_body::Frame;
use prost::Message;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codec::BufferSettings;
use tonic::codegen::tokio_stream::Stream;
use tonic::codegen::{Body as HttpBody, Service, StdError, http};
use tonic::server::NamedService;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstDecoder;

/// Largest request that is read, in bytes. A proxy names what it holds: some hundred bytes a resource.
const REQUEST_LIMIT: usize = 8 << 20;
/// First size of a stream's buffer for requests, in bytes.
const BUFFER: usize = 512;

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

/// A stream of messages as a gRPC body: each message in an allocation of its own size, which is gone once written.
struct Messages<S> {
    stream: Option<S>,
}

impl<S, M> HttpBody for Messages<S>
where
    S: Stream<Item = Result<M, Status>> + Unpin,
    M: Message,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(stream) = self.stream.as_mut() else {
            return Poll::Ready(None);
        };
        let status = match Pin::new(stream).poll_next(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(message))) => match framed(&message) {
                Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Err(status) => status,
            },
            Poll::Ready(Some(Err(status))) => status,
            Poll::Ready(None) => Status::ok(""),
        };
        self.stream = None;
        let mut trailers = http::HeaderMap::new();
        Poll::Ready(Some(
            status
                .add_header(&mut trailers)
                .map(|()| Frame::trailers(trailers)),
        ))
    }
}

/// A message with gRPC's prefix: not compressed, length.
fn framed(message: &impl Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let announced = u32::try_from(length)
        .map_err(|_| Status::resource_exhausted("a message of more than 4 GiB"))?;
    let mut bytes = Vec::with_capacity(5 + length);
    bytes.push(0);
    bytes.extend_from_slice(&announced.to_be_bytes());
    message
        .encode(&mut bytes)
        .map_err(|error| Status::internal(error.to_string()))?;
    Ok(bytes.into())
}

/// A request body as a stream of messages.
fn requests<M, B>(request: http::Request<B>) -> Request<Streaming<M>>
where
    M: Message + Default + 'static,
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    let decoder = ProstDecoder::new(BufferSettings::new(BUFFER, BUFFER));
    Request::from_http(
        request.map(|body| Streaming::new_request(decoder, body, None, Some(REQUEST_LIMIT))),
    )
}

/// The answer to a call.
fn answer<S, M>(called: Result<Response<S>, Status>) -> http::Response<Body>
where
    S: Stream<Item = Result<M, Status>> + Send + Unpin + 'static,
    M: Message + 'static,
{
    let response = match called {
        Ok(response) => response,
        Err(status) => return status.into_http(),
    };
    let (metadata, stream, extensions) = response.into_parts();
    let messages = Messages {
        stream: Some(stream),
    };
    let mut response = http::Response::new(Body::new(messages));
    *response.headers_mut() = metadata.into_headers();
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        tonic::metadata::GRPC_CONTENT_TYPE,
    );
    *response.extensions_mut() = extensions;
    response
}

impl<T, B> Service<http::Request<B>> for AdsServer<T>
where
    T: AggregatedDiscoveryService,
    T::StreamAggregatedResourcesStream: Unpin,
    T::DeltaAggregatedResourcesStream: Unpin,
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
                Ok(answer(
                    inner.stream_aggregated_resources(requests(request)).await,
                ))
            }),
            "DeltaAggregatedResources" => Box::pin(async move {
                Ok(answer(
                    inner.delta_aggregated_resources(requests(request)).await,
                ))
            }),
            _ => Box::pin(async { Ok(Status::unimplemented("no such method").into_http()) }),
        }
    }
}
