//! Whether an endpoint may be called by what this proxy itself found out about it, apart from what it was told
//! (`Endpoint::health`).
//!
//! Each finder of facts has its own bit, so that one never lifts what another laid. Every change moves the cluster's
//! epoch on: who works something out from availability keeps the epoch it was worked out at and does it again when
//! that has passed. An epoch of 0 says that no endpoint was ever barred, which is the usual case and costs one load.
//!
//! Invariant: bits change before the epoch does, so that what is worked out at an epoch has seen every change up to
//! it. Bits live as long as the endpoint's state, over every swap of configuration.

use super::{ClusterRuntime, EndpointState};
use std::sync::atomic::Ordering;

/// Why an endpoint is not to be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Bar {
    /// Outlier detection ejected it.
    Outlier = 1,
    /// Active health checks failed.
    HealthCheck = 1 << 1,
}

impl Bar {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Outlier, Self::HealthCheck];

    /// In a sentence: "it is ...".
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outlier => "ejected by outlier detection",
            Self::HealthCheck => "failing its health checks",
        }
    }
}

impl EndpointState {
    /// Whether anything speaks against calling it.
    #[must_use]
    pub fn is_barred(&self) -> bool {
        self.bars.load(Ordering::Acquire) != 0
    }

    /// Whether this speaks against calling it.
    #[must_use]
    pub fn has(&self, bar: Bar) -> bool {
        self.bars.load(Ordering::Acquire) & bar as u32 != 0
    }
}

impl ClusterRuntime {
    /// Moves on whenever an endpoint of this cluster becomes available or stops being it; 0 while none ever did.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Says that an endpoint of this cluster is not to be called; `false` if that was known.
    pub fn bar(&self, endpoint: &EndpointState, bar: Bar) -> bool {
        let before = endpoint.bars.fetch_or(bar as u32, Ordering::AcqRel);
        self.changed(before & bar as u32 == 0)
    }

    /// Takes that back; `false` if there was nothing to take back.
    pub fn lift(&self, endpoint: &EndpointState, bar: Bar) -> bool {
        let before = endpoint.bars.fetch_and(!(bar as u32), Ordering::AcqRel);
        self.changed(before & bar as u32 != 0)
    }

    fn changed(&self, changed: bool) -> bool {
        if changed {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::Bar;
    use crate::runtime::Registry;

    #[test]
    fn bars_are_lifted_by_who_laid_them_and_each_change_is_an_epoch() {
        let registry = Registry::default();
        let cluster = registry.cluster("a");
        let one = registry.endpoint(&"a".into(), "127.0.0.1:1".parse().unwrap());
        assert!(!one.is_barred() && cluster.epoch() == 0);
        assert!(cluster.bar(&one, Bar::Outlier) && !cluster.bar(&one, Bar::Outlier));
        assert!(cluster.bar(&one, Bar::HealthCheck));
        assert_eq!(cluster.epoch(), 2);
        assert!(cluster.lift(&one, Bar::Outlier));
        assert!(one.is_barred() && !one.has(Bar::Outlier));
        assert!(cluster.lift(&one, Bar::HealthCheck) && !one.is_barred());
        assert_eq!(cluster.epoch(), 4);
    }
}
