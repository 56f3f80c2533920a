//! What connections to a destination say of the caller whom they are made for (`proxyProtocol` of a DestinationRule).
//!
//! As with Envoy it is the caller's connection that is named, whatever came over it: where it came from and where it was
//! made to, as a load balancer's header (at gateways) or the kernel (of captured programs) says. A header holds for all
//! that follows, so no two callers share a connection, and those of a caller end with him. Not here: how it is written.

use super::Conn;
use crate::proxy_header::{Ends, Introduction};
use crate::upstream::pool::ANYBODY;
use naka_engine::model::ClusterSpec;

impl Conn {
    /// What a connection to a cluster begins with on this one's behalf, and whose it is (see `pool::Key`).
    pub(crate) fn introduction(&self, spec: &ClusterSpec) -> (Option<Introduction>, u64) {
        let Some(header) = spec.proxy_header else {
            return (None, ANYBODY);
        };
        self.introduced.set(true);
        let own = Ends {
            from: self.remote,
            to: self.local,
        };
        let said = Introduction {
            header,
            ends: Some(self.told.get().copied().unwrap_or(own)),
        };
        (Some(said), self.client())
    }

    /// Its caller is gone.
    pub(super) fn leave(&self) {
        if self.introduced.get() {
            self.worker.pools.left(self.client());
        }
    }

    /// Never [`ANYBODY`], and nobody else's again.
    fn client(&self) -> u64 {
        self.number + 1
    }
}
