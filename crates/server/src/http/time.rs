//! Times as requests give them: RFC 3339 with any offset, or a duration back from now.

use fanfare::core::error::{Error, Result};
use fanfare::core::timestamp::{Timestamp, duration};

/// Reads a moment.
pub(crate) fn parse(text: &str, now: Timestamp) -> Result<Timestamp> {
    if let Ok(back) = duration::parse(text) {
        return Ok(now - back);
    }
    // A `+` that the client did not escape reaches us as a space.
    text.replace(' ', "+").parse().map_err(|_| {
        Error::invalid(
            "",
            format!(
                "`{}` is neither an RFC 3339 time nor a duration such as 30s or 2h",
                text.escape_debug()
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_may_be_a_duration_back_from_now() {
        let now: Timestamp = "2026-11-21T00:10:00Z".parse().unwrap();
        let read = |text| parse(text, now).unwrap().to_string();
        assert_eq!(read("10m"), "2026-11-21T00:00:00Z");
        assert_eq!(read("2026-11-21T02:00:00+02:00"), "2026-11-21T00:00:00Z");
        assert_eq!(read("2026-11-21T02:00:00 02:00"), "2026-11-21T00:00:00Z");
        assert!(parse("yesterday", now).is_err());
    }
}
