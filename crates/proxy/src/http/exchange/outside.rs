//! A try that leaves the mesh as it came: no cluster says anything about it.

use super::{Answer, Run};
use crate::limits;
use crate::upstream::connect::To;
use crate::upstream::pool::{ANYBODY, Key, Target};
use naka_engine::exchange::Outcome;
use naka_engine::model::{HttpVersion, Limits};

impl Run {
    /// Sends the request to one of the addresses that its host has, the next one at each try.
    pub(super) async fn outside(&mut self) -> Result<Answer, Outcome<'static>> {
        let tried = usize::try_from(self.engine.attempts()).unwrap_or(1).max(1);
        let Some(address) = self
            .outside
            .get((tried - 1) % self.outside.len().max(1))
            .copied()
        else {
            return Err(Outcome::ConnectFailed);
        };
        self.finish.upstream = Some(address);
        self.finish.attempts = self.engine.attempts();
        self.finish.cluster = Some("PassthroughCluster".into());
        crate::seen::count(&self.scope.conn.worker.seen.bypassed);
        let target = Target {
            key: Key {
                cluster: None,
                address,
                tls: 0,
                carry: self.carry(HttpVersion::SameAsCaller, &Limits::default(), false),
                client: ANYBODY,
            },
            to: To::Anyone,
            cluster: None,
            limit: limits::PASSTHROUGH_CONNECT,
            secured: None,
            said: None,
            keep: limits::H1_IDLE_PROGRAM,
            class: 0,
        };
        self.send(&target, true, None, None).await
    }
}
