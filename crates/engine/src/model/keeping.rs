//! How connections to a destination are kept, and how many of the requests to it may be repetitions.

use crate::limits;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

/// How connections to a destination are kept. By default as long as they serve, within this proxy's own limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keeping {
    /// Requests after which a connection is replaced.
    pub requests: Option<u32>,
    /// Time after which an unused connection is closed, and one of bytes on which nothing moves.
    pub idle: Option<Duration>,
    /// Age at which a connection takes no more requests, and one of bytes ends.
    pub longest: Option<Duration>,
    /// Streams on one HTTP/2 connection.
    pub streams: Option<u32>,
    /// HTTP/2 pings.
    pub pings: Option<Pings>,
    /// TCP keep-alive.
    pub probes: Option<Probes>,
}

/// Pings that find out whether an HTTP/2 connection still stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pings {
    /// Between two.
    pub every: Duration,
    /// Longest wait for the answer.
    pub timeout: Duration,
}

/// Probes that find out whether a silent TCP connection still stands; the system's numbers where there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Probes {
    /// Unanswered ones after which it is given up.
    pub count: Option<u32>,
    /// Silence before the first.
    pub after: Option<Duration>,
    /// Between two.
    pub every: Option<Duration>,
}

/// Which requests come first where requests wait for a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Priority {
    /// The header that names the class.
    pub header: HeaderName,
    /// Its values, the most important first; all others come last.
    pub values: Box<[Box<str>]>,
}

impl Priority {
    /// The class of a request: 0 comes first.
    #[must_use]
    pub fn class(&self, headers: &HeaderMap) -> u8 {
        let value = headers.get(&self.header).map(HeaderValue::as_bytes);
        let found = self.values.iter().position(|v| Some(v.as_bytes()) == value);
        u8::try_from(found.unwrap_or(self.values.len())).unwrap_or(u8::MAX)
    }
}

/// How many retries may be under way to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Share of the requests, in hundredths of a percent.
    pub share: u32,
    /// As many may be under way whatever the load.
    pub least: u32,
    /// Requests count for so long after they began, also when they have ended; without it while they are under way.
    pub window: Option<Duration>,
    /// Whether a destination that answers nothing but errors has only a reserve of retries; of a budget that nobody wrote.
    pub reserve: bool,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            share: limits::RETRY_BUDGET_PERCENT * 100,
            least: limits::MIN_CONCURRENT_RETRIES,
            window: None,
            reserve: true,
        }
    }
}

impl Budget {
    /// Retries that may be under way beside so many requests.
    #[must_use]
    pub fn of(&self, requests: u32) -> u32 {
        let share = u64::from(requests) * u64::from(self.share) / 10_000;
        u32::try_from(share).unwrap_or(u32::MAX).max(self.least)
    }
}

#[cfg(test)]
mod tests {
    use super::{HeaderMap, Priority};

    #[test]
    fn the_place_of_the_value_is_the_class() {
        let priority = Priority {
            header: http::HeaderName::from_static("x-class"),
            values: ["gold", "silver"].map(Into::into).into(),
        };
        for (value, class) in [
            (Some("gold"), 0),
            (Some("silver"), 1),
            (Some("lead"), 2),
            (None, 2),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert("x-class", value.parse().unwrap());
            }
            assert_eq!(priority.class(&headers), class, "{value:?}");
        }
    }
}
