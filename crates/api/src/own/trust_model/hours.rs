//! Windows of time: days of the week and hours of the day in a time zone, and how they are asked and shown.

use std::fmt;

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Day {
    /// Day 0 of CEL's week.
    Sunday,
    /// Day 1.
    Monday,
    /// Day 2.
    Tuesday,
    /// Day 3.
    Wednesday,
    /// Day 4.
    Thursday,
    /// Day 5.
    Friday,
    /// Day 6.
    Saturday,
}

impl Day {
    /// As a week begins in most of the world.
    pub(super) const WEEK: [Self; 7] = [
        Self::Monday,
        Self::Tuesday,
        Self::Wednesday,
        Self::Thursday,
        Self::Friday,
        Self::Saturday,
        Self::Sunday,
    ];

    pub(super) const NAMES: [&'static str; 7] = [
        "Monday",
        "Tuesday",
        "Wednesday",
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
    ];

    pub(super) fn parse(name: &str) -> Option<Self> {
        let place = Self::NAMES.iter().position(|known| *known == name)?;
        Self::WEEK.get(place).copied()
    }

    fn place(self) -> usize {
        Self::WEEK.iter().position(|day| *day == self).unwrap_or(0)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES[self.place()])
    }
}

/// A window: from the first minute up to, and without, the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hours {
    /// Days it opens on, in the order of the week; never empty.
    pub days: Vec<Day>,
    /// First minute of the day.
    pub from: u16,
    /// First minute of the day that is outside again.
    pub to: u16,
    /// Name of the time zone.
    pub zone: String,
}

impl Hours {
    /// As an expression that holds within it.
    #[must_use]
    pub fn expression(&self) -> String {
        let zone = &self.zone;
        let days: Vec<String> = self.days.iter().map(|d| (*d as u8).to_string()).collect();
        let minute =
            format!("(request.time.getHours('{zone}') * 60 + request.time.getMinutes('{zone}'))");
        format!(
            "request.time.getDayOfWeek('{zone}') in [{}] && {minute} >= {} && {minute} < {}",
            days.join(", "),
            self.from,
            self.to
        )
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        write!(f, "{}-{} ", clock(self.from), clock(self.to))?;
        // Days that follow each other are shown as a run.
        let mut rest = self.days.as_slice();
        let mut first = true;
        while let [begin, ..] = rest {
            let run = rest
                .iter()
                .enumerate()
                .take_while(|(index, day)| day.place() == begin.place() + index)
                .count();
            let (here, after) = rest.split_at(run);
            if !first {
                f.write_str(", ")?;
            }
            first = false;
            match here {
                [one] => write!(f, "{one}")?,
                [one, .., last] => write!(f, "{one}-{last}")?,
                [] => {}
            }
            rest = after;
        }
        write!(f, " ({})", self.zone)
    }
}

#[cfg(test)]
mod tests {
    use super::{Day, Hours};

    #[test]
    fn how_windows_read() {
        use Day::{Friday, Monday, Saturday, Sunday, Thursday, Tuesday, Wednesday};
        for (days, wanted) in [
            (
                vec![Monday, Tuesday, Wednesday, Thursday, Friday],
                "Monday-Friday",
            ),
            (vec![Saturday, Sunday], "Saturday-Sunday"),
            (vec![Monday, Wednesday], "Monday, Wednesday"),
            (
                vec![Monday, Thursday, Friday, Sunday],
                "Monday, Thursday-Friday, Sunday",
            ),
        ] {
            let hours = Hours {
                days,
                from: 9 * 60,
                to: 18 * 60 + 5,
                zone: "Asia/Kolkata".to_owned(),
            };
            assert_eq!(
                hours.to_string(),
                format!("09:00-18:05 {wanted} (Asia/Kolkata)")
            );
        }
    }

    #[test]
    fn days_are_those_of_expressions() {
        let hours = Hours {
            days: vec![Day::Monday, Day::Sunday],
            from: 540,
            to: 1080,
            zone: "UTC".to_owned(),
        };
        let text = hours.expression();
        assert!(
            text.starts_with("request.time.getDayOfWeek('UTC') in [1, 0] && "),
            "{text}"
        );
        assert!(text.ends_with(" < 1080"), "{text}");
    }
}
