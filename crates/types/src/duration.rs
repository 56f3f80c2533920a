//! Durations as users write them: Go's notation (`1h30m`, `10s`, `250ms`), as in Istio and protobuf JSON.

use std::fmt;
use std::time::Duration;

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a duration: write a number with a unit, such as 10s, 250ms, 1m30s (units: ns us ms s m h)"
)]
pub struct Invalid(pub String);

/// Parses Go's duration notation. Signs are refused: no duration of a mesh is negative.
///
/// # Errors
/// [`Invalid`] with the text, when it is empty, has no unit, an unknown unit, or overflows.
pub fn parse(text: &str) -> Result<Duration, Invalid> {
    let invalid = || Invalid(text.to_owned());
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(invalid());
    }
    let mut rest = text;
    let mut total: f64 = 0.0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(invalid)?;
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let nanos = match &rest[..letters] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(invalid()),
        };
        total += number * nanos;
        rest = &rest[letters..];
    }
    if total > 9.2e18 {
        return Err(invalid());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounded above, and no sign is accepted"
    )]
    Ok(Duration::from_nanos(total.round() as u64))
}

/// Shows a duration in the notation [`parse`] reads, shortest form first (`1m30s`, `250ms`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Show(pub Duration);

impl fmt::Display for Show {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        if nanos < 1_000_000_000 {
            return if nanos.is_multiple_of(1_000_000) {
                write!(f, "{}ms", nanos / 1_000_000)
            } else if nanos.is_multiple_of(1_000) {
                write!(f, "{}us", nanos / 1_000)
            } else {
                write!(f, "{nanos}ns")
            };
        }
        let secs = self.0.as_secs();
        let (hours, minutes, seconds) = (secs / 3600, secs / 60 % 60, secs % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        let millis = self.0.subsec_millis();
        match (seconds, millis) {
            (0, 0) => Ok(()),
            (_, 0) => write!(f, "{seconds}s"),
            _ => write!(f, "{seconds}.{millis:03}s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Show, parse};

    #[test]
    fn reads_and_shows() {
        for (text, millis, shown) in [
            ("10s", 10_000, "10s"),
            ("1h30m", 5_400_000, "1h30m"),
            ("250ms", 250, "250ms"),
            ("1.5s", 1_500, "1.500s"),
            ("0s", 0, "0s"),
            ("0", 0, "0s"),
            ("90s", 90_000, "1m30s"),
        ] {
            let read = parse(text).unwrap();
            assert_eq!(read, Duration::from_millis(millis), "{text}");
            assert_eq!(Show(read).to_string(), shown);
        }
        for bad in ["", "10", "s", "-1s", "1x", "1.2.3s", "99999999999h", "10 s"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
