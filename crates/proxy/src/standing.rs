//! What this proxy found out about those it calls, put into its registration: `naka why` and `naka explain` read it.
//!
//! The engine's times are since this process began; told are times of day, from where the two clocks met when they
//! were first compared, so that nothing seems to have changed that did not. Bounded: what keeps calls away comes first.

use crate::io::process_start;
use naka_engine::model::Cluster;
use naka_engine::runtime::Bar;
use naka_engine::standing::{About, Standing, standing};
use naka_wire::v1;
use naka_wire::v1::verdict::Kind;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Most verdicts that are told.
pub const MOST: usize = 64;
/// Clocks that are further apart than this were set meanwhile.
const SET: Duration = Duration::from_secs(2);

/// Where the engine's clock began, as time since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Began(Duration);

impl Began {
    /// Compares the clocks.
    #[must_use]
    pub fn now() -> Self {
        let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self(
            today
                .unwrap_or_default()
                .saturating_sub(process_start().elapsed()),
        )
    }

    /// Compares them again, and keeps what was found before unless the clock was set.
    pub fn check(&mut self) {
        let now = Self::now();
        if now.0.abs_diff(self.0) > SET {
            *self = now;
        }
    }

    fn millis(self, at: Option<Duration>) -> u64 {
        let millis = |at: Duration| u64::try_from((self.0 + at).as_millis()).unwrap_or(u64::MAX);
        at.map_or(0, millis)
    }
}

/// The verdicts as they are told, and how many more there are.
pub fn told<'a>(
    clusters: impl IntoIterator<Item = &'a Arc<Cluster>>,
    began: Began,
) -> (Vec<v1::Verdict>, u32) {
    let all = standing(clusters);
    let more = all.len().saturating_sub(MOST);
    let told = all.iter().take(MOST).map(|one| verdict(one, began));
    (told.collect(), u32::try_from(more).unwrap_or(u32::MAX))
}

fn verdict(one: &Standing, began: Began) -> v1::Verdict {
    let (kind, address) = match one.about {
        About::Endpoint(address, Bar::Outlier) => (Kind::Outlier, address.to_string()),
        About::Endpoint(address, Bar::HealthCheck) => (Kind::HealthCheck, address.to_string()),
        About::Breaker => (Kind::Breaker, String::new()),
    };
    v1::Verdict {
        kind: kind.into(),
        cluster: one.cluster.to_string(),
        address,
        since_ms: began.millis(one.since),
        until_ms: began.millis(one.until),
    }
}
