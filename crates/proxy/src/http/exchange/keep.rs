//! `x-naka-keep`: a response says that its trace is to be kept, to the proxies above.
//!
//! Read of mesh proxies alone (what others say of it was taken away before), written to mesh proxies alone: a program is
//! not told, and passes on what happened to its calls by answering; the proxy knows the trace of both.

use crate::record::Open;
use crate::worker::Entrance;
use http::{HeaderMap, HeaderName, HeaderValue};
use naka_types::header as names;

const KEEP: HeaderName = HeaderName::from_static(names::KEEP);

/// Reads the mark, and sets it where the caller is a mesh proxy.
pub(super) fn mark(headers: &mut HeaderMap, open: &Open) {
    let said = headers.remove(KEEP).is_some();
    let kept = open.conn.worker.spans.answered(open, said);
    let mesh =
        matches!(*open.conn.entrance, Entrance::Inbound { .. }) && open.conn.peer.get().is_some();
    if kept && mesh {
        headers.insert(KEEP, HeaderValue::from_static("1"));
    }
}
