//! After a 101 or a CONNECT: the connection is bytes from now on.
//!
//! The relay holds the connection and its record, never a snapshot, so configuration may change under it as often as
//! it likes. It ends when both sides have ended, or when the worker closes it.

use crate::io::Io;
use crate::record::{End, Finish};
use crate::tcp::copy;
use crate::worker::right::{self, Right};
use crate::worker::{Conn, Phase};
use hyper::upgrade::OnUpgrade;
use naka_types::reason::Reason;
use std::rc::Rc;

/// Relays between both ends of an upgraded exchange until it is over.
pub(crate) fn relay(
    conn: Rc<Conn>,
    caller: OnUpgrade,
    called: OnUpgrade,
    mut finish: Finish,
    right: Option<Rc<Right>>,
) {
    tokio::task::spawn_local(async move {
        let (down, up) = match (caller.await, called.await) {
            (Ok(down), Ok(up)) => (Io::upgraded(down), Io::upgraded(up)),
            (down, up) => {
                let error = down.err().or(up.err()).map(|e| crate::fail::chain(&e));
                tracing::debug!(
                    error = error.as_deref().unwrap_or(""),
                    "an upgrade did not come about"
                );
                finish.reason = Some(Reason::UpstreamReset);
                finish.done(End::Complete(None));
                return;
            }
        };
        finish.busy = None;
        let total = tokio::select! {
            total = copy::both(down, up) => total,
            () = conn.reaches(Phase::Closing) => copy::Total::default(),
            lost = right::lost(right) => {
                finish.reason = Some(lost.reason);
                finish.detail = lost.detail;
                copy::Total::default()
            }
        };
        finish.tunnelled(total.sent, total.received);
        finish.done(End::Complete(None));
    });
}
