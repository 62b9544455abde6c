//! A moment in UTC with nanoseconds. Read from RFC 3339 with any offset, written with `Z`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Nanoseconds since 1970-01-01T00:00:00Z; years 1 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i128);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);
    /// Later than every real moment.
    pub const MAX: Self = Self(253_402_207_200_000_000_000);

    /// From nanoseconds since the epoch.
    pub fn from_nanos(nanos: i128) -> Self {
        Self(nanos.min(Self::MAX.0))
    }

    /// From microseconds since the epoch.
    pub fn from_micros(micros: i64) -> Self {
        Self::from_nanos(i128::from(micros) * 1_000)
    }

    /// From milliseconds since the epoch.
    pub fn from_millis(millis: i64) -> Self {
        Self::from_nanos(i128::from(millis) * 1_000_000)
    }

    /// Nanoseconds since the epoch.
    pub fn as_nanos(self) -> i128 {
        self.0
    }

    /// Microseconds since the epoch, rounded down.
    pub fn as_micros(self) -> i64 {
        i64::try_from(self.0.div_euclid(1_000)).unwrap_or(i64::MAX)
    }

    /// Milliseconds since the epoch, rounded down.
    pub fn as_millis(self) -> i64 {
        i64::try_from(self.0.div_euclid(1_000_000)).unwrap_or(i64::MAX)
    }

    /// The time from `earlier` to `self`, zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        let nanos = (self.0 - earlier.0).max(0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self::from_nanos(
            self.0
                .saturating_add(i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)),
        )
    }
}

impl std::ops::Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)),
        )
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_nanosecond(self.0) {
            Ok(t) => write!(f, "{t}"),
            Err(_) => f.write_str("9999-12-30T22:00:00Z"),
        }
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            let shown: String = text.chars().take(40).collect();
            let shown = shown.escape_debug();
            Error::invalid("", format!("`{shown}` is not an RFC 3339 time"))
        };
        let whole = rfc3339(text).ok_or_else(bad)?;
        whole
            .parse::<jiff::Timestamp>()
            .map(|t| Self(t.as_nanosecond()))
            .map_err(|e| bad().because(e))
    }
}

/// The text where it has the shape of RFC 3339, with at most nine digits after the point: jiff
/// alone would also take other ISO 8601 forms, and refuse more digits.
fn rfc3339(text: &str) -> Option<std::borrow::Cow<'_, str>> {
    const SHAPE: &[u8] = b"0000-00-00T00:00:00";
    let fits = |text: &str, shape: &[u8]| {
        text.len() == shape.len()
            && text.bytes().zip(shape).all(|(b, s)| match s {
                b'0' => b.is_ascii_digit(),
                b'T' => b.eq_ignore_ascii_case(&b'T'),
                _ => b == *s,
            })
    };
    let (seconds, rest) = text.split_at_checked(SHAPE.len())?;
    let (digits, offset) = match rest.strip_prefix('.') {
        Some(fraction) => {
            let end = fraction.find(|c: char| !c.is_ascii_digit())?;
            fraction
                .split_at_checked(end)
                .filter(|(d, _)| !d.is_empty())?
        }
        None => ("", rest),
    };
    let offset_fits =
        offset.eq_ignore_ascii_case("z") || fits(offset, b"+00:00") || fits(offset, b"-00:00");
    if !fits(seconds, SHAPE) || !offset_fits {
        return None;
    }
    Some(match digits.get(..9) {
        Some(nine) if digits.len() > 9 => format!("{seconds}.{nine}{offset}").into(),
        _ => text.into(),
    })
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Durations as people write them: `250ms`, `30s`, `5m`, `2h`, `7d`; for serde `with`.
pub mod duration {
    use super::{Deserialize, Duration, Error, Result};

    /// Reads a whole number followed by `ms`, `s`, `m`, `h` or `d`.
    pub fn parse(text: &str) -> Result<Duration> {
        let bad = || {
            Error::invalid(
                "",
                format!("`{text}` is not a duration such as 250ms, 30s, 5m, 2h or 7d"),
            )
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        number
            .checked_mul(millis)
            .map(Duration::from_millis)
            .ok_or_else(bad)
    }

    /// Writes the largest unit that keeps the value whole.
    pub fn format(duration: Duration) -> String {
        let millis = duration.as_millis();
        for (unit, size) in [
            ("d", 86_400_000),
            ("h", 3_600_000),
            ("m", 60_000),
            ("s", 1_000),
        ] {
            if millis > 0 && millis.is_multiple_of(size) {
                return format!("{}{unit}", millis / size);
            }
        }
        format!("{millis}ms")
    }

    /// For `#[serde(with = "duration")]`.
    pub fn serialize<S: serde::Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(*duration))
    }

    /// For `#[serde(with = "duration")]`.
    pub fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_and_utc_is_written() {
        let t: Timestamp = "2023-05-13T22:09:38.000-04:00".parse().unwrap();
        assert_eq!(t.to_string(), "2023-05-14T02:09:38Z");
        let zero: Timestamp = "0001-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(zero.to_string(), "0001-01-01T00:00:00Z");
        let fine: Timestamp = "2018-04-05t17:31:00.1234567891z".parse().unwrap();
        assert_eq!(fine.to_string(), "2018-04-05T17:31:00.123456789Z");
        for bad in [
            "yesterday",
            "2018-04-05",
            "2018-04-05 17:31:00Z",
            "2018-04-05T17:31:00",
            "2018-04-05T17:31:00.Z",
            "2018-04-05T17:31:00+01",
            "20180405T173100Z",
            "2018-13-05T17:31:00Z",
            "2018-04-05T17:31:00Z[UTC]",
        ] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_round_trip() {
        for text in ["250ms", "30s", "5m", "2h", "7d", "0ms"] {
            assert_eq!(duration::format(duration::parse(text).unwrap()), text);
        }
        for bad in ["", "5", "s", "5 s", "-1s", "1.5s", "99999999999999999999d"] {
            assert!(duration::parse(bad).is_err(), "{bad}");
        }
    }
}
