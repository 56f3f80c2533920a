//! Counting and joining what the programs logged: never what the mesh says of itself.

use serde_json::Value;
use std::collections::BTreeMap;

/// What one load got, joined with what the servers say they served.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    /// Requests the load sent.
    pub(crate) sent: usize,
    /// Requests that did not end with 2xx, with their status and reason.
    pub(crate) failed: Vec<String>,
    /// Requests that ended well but that no server logged.
    pub(crate) unserved: usize,
    /// Requests served per version.
    pub(crate) versions: BTreeMap<String, usize>,
    /// Requests whose receiver verified `caller` as the peer.
    pub(crate) verified: usize,
    /// Requests served, retries included.
    pub(crate) served: usize,
}

impl Joined {
    /// Joins by the request id that the load chose.
    pub(crate) fn of(load: &[Value], servers: &[Vec<Value>], caller: &str) -> Self {
        let served: BTreeMap<&str, &Value> = servers
            .iter()
            .flatten()
            .filter_map(|line| Some((line["id"].as_str()?, line)))
            .collect();
        let mut joined = Self {
            sent: load.len(),
            ..Self::default()
        };
        for line in load {
            let id = line["id"].as_str().unwrap_or_default();
            let status = line["status"].as_u64().unwrap_or(0);
            if !(200..300).contains(&status) {
                joined.failed.push(line.to_string());
            }
            match served.get(id) {
                Some(seen) => {
                    joined.served += 1;
                    joined.verified += usize::from(seen["peer"] == caller);
                    *joined
                        .versions
                        .entry(seen["version"].as_str().unwrap_or_default().to_owned())
                        .or_default() += 1;
                }
                None => joined.unserved += usize::from((200..300).contains(&status)),
            }
        }
        joined
    }

    /// Share of a version in percent of all served.
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of a test are far below 2^52"
    )]
    pub(crate) fn share(&self, version: &str) -> f64 {
        100.0 * self.versions.get(version).copied().unwrap_or(0) as f64 / self.served.max(1) as f64
    }

    /// No failure, and every good answer was really given by a server.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        assert!(self.sent > 0, "the load sent nothing");
        assert!(
            self.failed.is_empty(),
            "{} of {} failed, first: {:?}",
            self.failed.len(),
            self.sent,
            &self.failed[..self.failed.len().min(3)]
        );
        assert_eq!(self.unserved, 0, "answers that no server gave");
    }
}
