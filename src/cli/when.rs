//! Moments as people write them on the command line.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use crate::model::Span;

/// A moment, in milliseconds since 1970: `2026-11-02T03:12:44Z`, `2026-11-02 03:12:44` (UTC), `2026-11-02`, or how long ago:
/// `90s`, `2h`, `30d`.
pub(super) fn parse(text: &str, now_unix_ms: i64) -> Result<i64, String> {
    if let Ok(Span(ago)) = Span::parse(text) {
        return Ok(now_unix_ms.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)));
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at.as_millisecond());
    }
    let at = text.parse::<DateTime>().ok().and_then(|at| at.to_zoned(TimeZone::UTC).ok());
    at.map(|at| at.timestamp().as_millisecond()).ok_or_else(|| {
        format!("`{text}` is no moment: write for example `2026-11-02T03:12:44Z`, `2026-11-02 03:12`, or `2h` for two hours ago")
    })
}

/// For clap, which gives it to [`parse`] later: whether it can be one.
pub(super) fn check(text: &str) -> Result<String, String> {
    parse(text, 0).map(|_| text.to_owned())
}

/// A wall time with milliseconds, in UTC.
pub(super) fn precise(unix_ms: i64) -> String {
    Timestamp::from_millisecond(unix_ms)
        .map_or_else(|_| "an impossible time".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%S%.3fZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        let now = 1_700_000_000_000;
        for (text, ms) in [
            ("2023-11-14T22:13:20Z", now),
            ("2023-11-14T23:13:20+01:00", now),
            ("2023-11-14 22:13:20", now),
            ("2023-11-14", now - 80_000_000),
            ("90s", now - 90_000),
            ("1d", now - 86_400_000),
        ] {
            assert_eq!(parse(text, now), Ok(ms), "{text}");
        }
        for bad in ["", "yesterday", "30", "2023-13-01"] {
            assert!(parse(bad, now).is_err(), "{bad:?}");
        }
        assert_eq!(precise(now + 5), "2023-11-14 22:13:20.005Z");
    }
}
