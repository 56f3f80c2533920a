//! A maintenance window: hours of each day by the clock of a place.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use std::time::Duration;

/// Hours of each day.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// Minute of the day in which it opens.
    pub opens: u16,
    /// Minute of the day in which it closes; before `opens`: on the next day.
    pub closes: u16,
    /// Whose clock.
    pub zone: TimeZone,
    /// Renewals begin within so long after its opening; no longer than it is open.
    pub most: Option<Duration>,
}

impl Window {
    /// The window that is open at a second (since 1970), or the next one: its first and its last second.
    #[must_use]
    pub fn at_or_after(&self, second: u64) -> Option<(u64, u64)> {
        let moment = Timestamp::from_second(i64::try_from(second).ok()?).ok()?;
        let today = moment.to_zoned_datetime(self.zone.clone()).date();
        let mut day = today.yesterday().ok()?;
        // Yesterday's may still be open; where a day has no such hour, tomorrow's is the next.
        for _ in 0..4 {
            if let Some((opens, closes)) = self.on(day)
                && closes > second
            {
                return Some((opens, closes));
            }
            day = day.tomorrow().ok()?;
        }
        None
    }

    fn on(&self, day: Date) -> Option<(u64, u64)> {
        let opens = self.second(day, self.opens)?;
        let last = match self.closes > self.opens {
            true => day,
            false => day.tomorrow().ok()?,
        };
        let closes = self.second(last, self.closes)?;
        let most = self
            .most
            .map_or(closes, |most| opens.saturating_add(most.as_secs()));
        let closes = closes.min(most);
        (closes > opens).then_some((opens, closes))
    }

    fn second(&self, day: Date, minute: u16) -> Option<u64> {
        let (hour, minute) = (
            i8::try_from(minute / 60).ok()?,
            i8::try_from(minute % 60).ok()?,
        );
        let moment = self.zone.to_timestamp(day.at(hour, minute, 0, 0)).ok()?;
        u64::try_from(moment.as_second()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::Window;
    use jiff::Timestamp;
    use std::time::Duration;

    fn at(text: &str) -> u64 {
        let moment: Timestamp = text.parse().unwrap();
        u64::try_from(moment.as_second()).unwrap()
    }

    #[test]
    fn it_opens_by_the_clock_of_its_place() {
        let window = |opens, closes, zone: &str, most: Option<u64>| Window {
            opens,
            closes,
            zone: naka_expr::zone(zone).unwrap(),
            most: most.map(Duration::from_secs),
        };
        let night = || window(120, 240, "Asia/Kolkata", None);
        for (window, now, opens, closes) in [
            // Two at night in Kolkata is half past eight in the evening before, in UTC.
            (
                night(),
                "2026-11-27T10:00:00Z",
                "2026-11-27T20:30:00Z",
                "2026-11-27T22:30:00Z",
            ),
            (
                night(),
                "2026-11-27T21:00:00Z",
                "2026-11-27T20:30:00Z",
                "2026-11-27T22:30:00Z",
            ),
            (
                night(),
                "2026-11-27T22:30:00Z",
                "2026-11-28T20:30:00Z",
                "2026-11-28T22:30:00Z",
            ),
            // At most half an hour of it.
            (
                window(120, 240, "UTC", Some(1800)),
                "2026-11-27T02:31:00Z",
                "2026-11-28T02:00:00Z",
                "2026-11-28T02:30:00Z",
            ),
            // Over midnight: yesterday's is still open.
            (
                window(1380, 60, "UTC", None),
                "2026-11-27T00:30:00Z",
                "2026-11-26T23:00:00Z",
                "2026-11-27T01:00:00Z",
            ),
            // The night in which the clocks of Berlin go from two to three: it opens at three, an hour long.
            (
                window(150, 240, "Europe/Berlin", None),
                "2026-03-29T00:00:00Z",
                "2026-03-29T01:30:00Z",
                "2026-03-29T02:00:00Z",
            ),
        ] {
            assert_eq!(
                window.at_or_after(at(now)),
                Some((at(opens), at(closes))),
                "{now}"
            );
        }
    }
}
