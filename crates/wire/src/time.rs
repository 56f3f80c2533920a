//! Protobuf durations and timestamps against the standard library's.

use crate::google::protobuf;
use std::time::Duration;

/// To protobuf. Durations beyond what protobuf allows (10,000 years) are cut to the limit.
#[must_use]
pub fn to_wire(duration: Duration) -> protobuf::Duration {
    const LIMIT: u64 = 315_576_000_000;
    protobuf::Duration {
        seconds: i64::try_from(duration.as_secs().min(LIMIT)).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// From protobuf; `None` for a negative or malformed one.
#[must_use]
pub fn from_wire(duration: &protobuf::Duration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok()?;
    (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::{from_wire, protobuf, to_wire};
    use std::time::Duration;

    #[test]
    fn durations_round_trip_and_nonsense_is_refused() {
        for millis in [0, 1, 250, 1_500, 86_400_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(from_wire(&to_wire(duration)), Some(duration));
        }
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000)] {
            assert_eq!(from_wire(&protobuf::Duration { seconds, nanos }), None);
        }
        assert_eq!(to_wire(Duration::MAX).seconds, 315_576_000_000);
    }
}
