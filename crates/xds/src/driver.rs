//! Performs a client's actions on a gRPC channel.
//!
//! One call of [`run`] is one stream; reconnecting, and with which delay, is the caller's business, because the same
//! connection carries registration and certificates too. The client's state survives between calls.
//!
//! Requests are queued without bound towards the transport, but they are answers to what the server sent and
//! commands of the application, both of which are bounded at their source.

use crate::delta::client::{Action, Client, Event, Ticket, Update};
use crate::resource::Reject;
use naka_wire::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, Bytes, StdError};

/// Largest message either side accepts.
pub const MESSAGE_LIMIT: usize = 64 << 20;
/// HTTP/2 ping interval for xDS connections; a peer that is gone is noticed within this and [`KEEPALIVE_TIMEOUT`].
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a ping may stay unanswered.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the application asks of a running stream.
#[derive(Debug)]
pub enum Command {
    /// More names of a type.
    Subscribe {
        /// Type.
        type_url: String,
        /// Names.
        names: Vec<String>,
    },
    /// Fewer names of a type.
    Unsubscribe {
        /// Type.
        type_url: String,
        /// Names.
        names: Vec<String>,
    },
}

/// The application's answer to one update. Dropping it unanswered refuses the whole update, so that a lost task is
/// seen by the control plane instead of counting as acknowledged.
#[derive(Debug)]
pub struct Verdict {
    ticket: Ticket,
    names: Vec<String>,
    out: Option<mpsc::UnboundedSender<(Ticket, Vec<Reject>)>>,
}

impl Verdict {
    /// Everything but `rejects` is in force (or will be for every request that starts from now on).
    pub fn answer(mut self, rejects: Vec<Reject>) {
        self.send(rejects);
    }

    fn send(&mut self, rejects: Vec<Reject>) {
        if let Some(out) = self.out.take() {
            // A closed channel means that the stream ended: there is nobody left to tell.
            let _ = out.send((self.ticket, rejects));
        }
    }
}

impl Drop for Verdict {
    fn drop(&mut self) {
        let rejects = std::mem::take(&mut self.names)
            .into_iter()
            .map(|name| Reject {
                name,
                reason: "the proxy gave no verdict".to_owned(),
            })
            .collect();
        self.send(rejects);
    }
}

/// The application behind a stream.
pub trait Handler {
    /// The stream is open and its first requests are on their way.
    fn opened(&mut self) {}
    /// An update came. Answer at once or hand the verdict to whoever knows.
    fn update(&mut self, update: Update, verdict: Verdict);
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The server refused or broke the stream.
    #[error("the control plane ended the stream: {} ({:?})", .0.message(), .0.code())]
    Status(Box<tonic::Status>),
    /// The server closed the stream in good order.
    #[error("the control plane closed the stream")]
    Closed,
    /// The application dropped its command sender: it is stopping.
    #[error("the proxy is stopping")]
    Stopped,
}

/// Runs one stream until it ends. Commands that were not yet taken stay in the channel.
///
/// `service` is a tonic `Channel` or anything that speaks HTTP/2 (`GrpcService`).
pub async fn run<T, H>(
    service: T,
    client: &mut Client,
    commands: &mut mpsc::Receiver<Command>,
    handler: &mut H,
) -> Ended
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
    H: Handler,
{
    let ended = stream(service, client, commands, handler).await;
    client.on(Event::Disconnected);
    ended
}

async fn stream<T, H>(
    service: T,
    client: &mut Client,
    commands: &mut mpsc::Receiver<Command>,
    handler: &mut H,
) -> Ended
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
    H: Handler,
{
    let (requests, outgoing) = mpsc::unbounded_channel::<DeltaDiscoveryRequest>();
    let (verdicts, mut decided) = mpsc::unbounded_channel();
    let mut stub =
        AggregatedDiscoveryServiceClient::new(service).max_decoding_message_size(MESSAGE_LIMIT);
    // The first requests go into the queue before the call: a server may wait for them before it answers at all.
    perform(client.on(Event::Connected), &requests, &verdicts, handler);
    let call = stub.delta_aggregated_resources(UnboundedReceiverStream::new(outgoing));
    let mut incoming = match call.await {
        Ok(response) => response.into_inner(),
        Err(status) => return Ended::Status(Box::new(status)),
    };
    handler.opened();
    loop {
        let event = tokio::select! {
            biased;
            Some((ticket, rejects)) = decided.recv() => Event::Verdict { ticket, rejects },
            command = commands.recv() => match command {
                Some(Command::Subscribe { type_url, names }) => Event::Subscribe { type_url, names },
                Some(Command::Unsubscribe { type_url, names }) => Event::Unsubscribe { type_url, names },
                None => return Ended::Stopped,
            },
            message = incoming.message() => match message {
                Ok(Some(response)) => Event::Response(response),
                Ok(None) => return Ended::Closed,
                Err(status) => return Ended::Status(Box::new(status)),
            },
        };
        perform(client.on(event), &requests, &verdicts, handler);
    }
}

fn perform<H: Handler>(
    actions: Vec<Action>,
    requests: &mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    verdicts: &mpsc::UnboundedSender<(Ticket, Vec<Reject>)>,
    handler: &mut H,
) {
    for action in actions {
        match action {
            // A closed queue shows as the end of the stream right after.
            Action::Send(request) => drop(requests.send(request)),
            Action::Deliver(update) => {
                let verdict = Verdict {
                    ticket: update.ticket,
                    names: update.resources.iter().map(|r| r.name.clone()).collect(),
                    out: Some(verdicts.clone()),
                };
                handler.update(update, verdict);
            }
        }
    }
}
