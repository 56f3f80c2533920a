//! The way out of a stream that lives as long as a proxy.
//!
//! A channel of tokio keeps room for 32 messages from the start. With a thousand proxies and two streams each, room for
//! whole responses is ten megabytes that nobody uses, so what waits is a pointer.
//!
//! Not here: what is sent and when (`ads`, `workloads`).

use futures_util::StreamExt;
use futures_util::stream::Map;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

type Boxed<T> = Box<Result<T, Status>>;

/// Takes responses, or the status with which the stream ends.
pub(crate) type Sender<T> = mpsc::Sender<Boxed<T>>;
/// The responses as tonic wants them.
pub(crate) type Responses<T> = Map<ReceiverStream<Boxed<T>>, fn(Boxed<T>) -> Result<T, Status>>;

/// A way out with room for this many responses.
pub(crate) fn channel<T>(room: usize) -> (Sender<T>, Responses<T>) {
    let (out, responses) = mpsc::channel(room);
    (out, ReceiverStream::new(responses).map(|boxed| *boxed))
}
