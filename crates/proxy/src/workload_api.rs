//! SPIFFE's Workload API for the program beside this proxy: its own certificate, key and roots, again whenever they change.
//!
//! For programs that do TLS themselves, by their own SPIFFE library (`SPIFFE_ENDPOINT_SOCKET` leads it here). The socket's
//! mode (0600, in a directory of 0700) is the proof: whoever may open it runs as the workload's user, who may read the
//! identity file of this proxy as well. As the standard wants, calls without the header `workload.spiffe.io: true` are
//! refused, so that no browser or proxy can be made to ask.
//!
//! The server is made when the first client comes: most programs never do, and a sidecar's memory is mostly code.
//!
//! Not here: JWT-SVIDs (the calls answer UNIMPLEMENTED) and roots of other trust domains.

use crate::agent::authority::Mended;
use crate::rotation::{Feed, Identity};
use naka_wire::spiffe::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use naka_wire::spiffe::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse,
};
use std::pin::Pin;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

/// Name of the socket in the run directory.
pub const SOCKET: &str = "workload.sock";
/// Streams of one connection; a library opens two.
const STREAMS: u32 = 64;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct Api(Arc<Feed>);

/// Serves until the listener fails.
pub(crate) async fn serve(listener: UnixListener, feed: Arc<Feed>) {
    let Ok((first, _)) = listener.accept().await else {
        return;
    };
    let others = UnixListenerStream::new(listener);
    let connections = tokio_stream::once(Ok(first)).chain(others);
    let served = tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS)
        .add_service(SpiffeWorkloadApiServer::new(Api(feed)))
        .serve_with_incoming(connections.map(|stream| stream.map(Mended::new)))
        .await;
    if let Err(error) = served {
        tracing::warn!(%error, "the Workload API is not served any more");
    }
}

/// Refuses who does not say that the call is meant (SPIFFE Workload API 3.2).
fn meant<T>(request: &Request<T>) -> Result<(), Status> {
    match request.metadata().get("workload.spiffe.io") {
        Some(value) if value == "true" => Ok(()),
        _ => Err(Status::invalid_argument(
            "the header \"workload.spiffe.io: true\" is missing",
        )),
    }
}

fn der(certificates: &[impl AsRef<[u8]>]) -> Vec<u8> {
    certificates
        .iter()
        .map(AsRef::as_ref)
        .collect::<Vec<_>>()
        .concat()
}

fn svid(identity: &Identity) -> X509svidResponse {
    X509svidResponse {
        svids: vec![X509svid {
            spiffe_id: identity.svid.spiffe.to_string(),
            x509_svid: der(&identity.svid.chain),
            x509_svid_key: identity.svid.key.secret_der().to_vec(),
            bundle: der(identity.bundle.roots()),
            hint: String::new(),
        }],
        ..X509svidResponse::default()
    }
}

fn bundles(identity: &Identity) -> X509BundlesResponse {
    let domain = format!("spiffe://{}", identity.bundle.trust_domain());
    X509BundlesResponse {
        bundles: [(domain, der(identity.bundle.roots()))].into(),
        ..X509BundlesResponse::default()
    }
}

impl Api {
    /// The identity in this shape, now (as soon as there is one) and after each change.
    fn follow<T: Send + 'static>(&self, shape: fn(&Identity) -> T) -> Response<Answers<T>> {
        let changes = WatchStream::new(self.0.watch());
        let shaped = changes.filter_map(move |now| now.map(|identity| Ok(shape(&identity))));
        Response::new(Box::pin(shaped))
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Api {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        meant(&request)?;
        Ok(self.follow(svid))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        meant(&request)?;
        Ok(self.follow(bundles))
    }

    async fn fetch_jwtsvid(
        &self,
        _request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        Err(no_tokens())
    }

    async fn fetch_jwt_bundles(
        &self,
        _request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(no_tokens())
    }

    async fn validate_jwtsvid(
        &self,
        _request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(no_tokens())
    }
}

fn no_tokens() -> Status {
    Status::unimplemented("this mesh has no JWT-SVIDs, only X.509-SVIDs")
}
