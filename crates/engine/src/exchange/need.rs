//! What an exchange lacks to go on. Where it is to come from is the proxy's business.

use crate::model::ClusterId;
use naka_types::workload::Ulid;
use std::sync::Arc;
use std::time::Duration;

/// What is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Configuration of a name as the caller wrote it (lower case, maybe short).
    VirtualHost {
        /// Host.
        host: Arc<str>,
        /// Service port.
        port: u16,
    },
    /// The whole body, if it is not longer; then step with [`super::Input::Body`]. It is still to be sent.
    Body {
        /// Most bytes.
        limit: usize,
    },
    /// Time before the next try.
    Backoff(Duration),
    /// The first answer about a cluster's names; answered by [`super::Answered::Ready`] also when none came.
    Lookup(ClusterId),
    /// Addresses of a name that the caller said; answered by [`super::Input::Addresses`].
    Addresses {
        /// Host.
        host: Arc<str>,
        /// Port.
        port: u16,
        /// Whether the address that the connection was made to stands for the name, where it is known.
        kept: bool,
    },
    /// The record of the caller's workload; answered by [`super::Answered::Ready`] also when there is none.
    Peer(Ulid),
    /// The word of somebody else ([`super::Exchange::asking`]); then step with [`super::Input::Checked`].
    Check,
    /// Time that the route lets the request wait first (an injected fault).
    Delay(Duration),
}
