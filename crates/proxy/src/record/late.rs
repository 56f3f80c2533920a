//! Requests that are counted once their caller's labels are known.

use crate::worker::{Peer, Worker};
use naka_engine::model::Inbound;
use naka_telemetry::Exchange as Counted;
use std::rc::Rc;
use std::sync::Arc;

/// A request to our program whose caller's labels are on their way; it is counted when this is dropped. The connection
/// is not held meanwhile: nothing but the record waits.
pub(crate) struct Late {
    pub(super) worker: Rc<Worker>,
    pub(super) peer: Option<Peer>,
    pub(super) port: Arc<Inbound>,
    pub(super) grpc: bool,
    pub(super) counted: Counted,
}

impl Drop for Late {
    fn drop(&mut self) {
        let handles = &self.worker.handles;
        handles
            .inbound(&self.worker, self.peer.as_ref(), &self.port, self.grpc)
            .record(&self.counted);
    }
}
