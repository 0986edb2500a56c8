//! Time as data. Clocks are read in `sys::clock` only.

use std::{fmt, ops::Add, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A moment on this host's CLOCK_BOOTTIME, in nanoseconds since boot.
///
/// It includes suspend. It is comparable only with moments of the same boot of the same host; ages from
/// other hosts arrive as durations, never as moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Time(pub u64);

impl Time {
    /// The start of time.
    pub const ZERO: Self = Self(0);

    /// A moment `ms` milliseconds after boot; for tests and tables.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms * 1_000_000)
    }

    /// How long ago `earlier` was; zero if it lies in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment `by` before this one, or the start of time.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(by)))
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Time {
    type Output = Self;

    /// Saturates at the end of time (584 years after boot), so that "never" can be a long duration.
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(nanos(by)))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}s", Duration::from_nanos(self.0).as_secs_f64())
    }
}

/// A moment on this host's CLOCK_MONOTONIC, in nanoseconds. It stands still in suspend: a voter that was suspended waits
/// longer, never shorter. Not comparable with [`Time`], nor with another host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Mono(pub u64);

impl Mono {
    /// How long ago `earlier` was; zero if it lies in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(nanos(by)))
    }
}

/// One reading of both clocks. Holders of a lease count on `boot`, voters on `mono`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// CLOCK_BOOTTIME: includes suspend, so that a holder that slept finds its lease over.
    pub boot: Time,
    /// CLOCK_MONOTONIC: without suspend, so that a voter that slept waits on.
    pub mono: Mono,
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self { boot: self.boot + by, mono: self.mono + by }
    }
}

/// Ties boot time to wall time for people who read reports. Never used to decide anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WallAnchor {
    /// The boot-time moment at which the wall clock was read.
    pub boot: Time,
    /// What the wall clock said then, in milliseconds since 1970, UTC.
    pub unix_ms: i64,
}

impl WallAnchor {
    /// What the wall clock would have shown at `at`, in milliseconds since 1970, UTC.
    #[must_use]
    pub fn unix_ms_at(&self, at: Time) -> i64 {
        let delta_ns = i128::from(at.0) - i128::from(self.boot.0);
        self.unix_ms.saturating_add(i64::try_from(delta_ns / 1_000_000).unwrap_or(i64::MAX))
    }
}

/// Shortest readable form of a duration, with its unit: `840µs`, `12ms`, `1.5s`, `2m 10s`, `3h 5m`, `2d 4h`.
#[must_use]
pub fn human(d: Duration) -> String {
    let ns = d.as_nanos();
    let secs = d.as_secs();
    match ns {
        0 => "0s".into(),
        1..1_000_000 => format!("{}µs", ns / 1_000),
        1_000_000..1_000_000_000 => format!("{}ms", ns / 1_000_000),
        _ if secs < 60 => {
            let text = format!("{:.1}", d.as_secs_f64());
            format!("{}s", text.strip_suffix(".0").unwrap_or(&text))
        }
        _ => {
            let (big, big_unit, small, small_unit) = match secs {
                60..3_600 => (secs / 60, 'm', secs % 60, 's'),
                3_600..86_400 => (secs / 3_600, 'h', secs % 3_600 / 60, 'm'),
                _ => (secs / 86_400, 'd', secs % 86_400 / 3_600, 'h'),
            };
            if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit} {small}{small_unit}") }
        }
    }
}

/// `#[serde(with = "millis")]`: a duration as a number of milliseconds with fraction; field names end in `_ms`.
pub mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes milliseconds.
    #[expect(clippy::missing_errors_doc, reason = "serde's own contract")]
    pub fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64((d.as_secs_f64() * 1e6).round() / 1e3)
    }

    /// Reads milliseconds.
    #[expect(clippy::missing_errors_doc, reason = "serde's own contract")]
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        let ms = f64::deserialize(d)?;
        Duration::try_from_secs_f64(ms / 1e3).map_err(serde::de::Error::custom)
    }

    /// The same for an optional duration.
    pub mod option {
        use std::time::Duration;

        use serde::{Deserialize, Deserializer, Serialize, Serializer};

        #[derive(Serialize, Deserialize)]
        #[serde(transparent)]
        struct Ms(#[serde(with = "super")] Duration);

        /// Writes milliseconds, or null.
        #[expect(clippy::missing_errors_doc, reason = "serde's own contract")]
        pub fn serialize<S: Serializer>(d: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
            d.map(Ms).serialize(s)
        }

        /// Reads milliseconds, or null.
        #[expect(clippy::missing_errors_doc, reason = "serde's own contract")]
        pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
            Ok(Option::<Ms>::deserialize(d)?.map(|ms| ms.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let cases = [
            (0, "0s"),
            (840_000, "840µs"),
            (12_000_000, "12ms"),
            (1_500_000_000, "1.5s"),
            (10_000_000_000, "10s"),
            (130_000_000_000, "2m 10s"),
            (3_600_000_000_000, "1h"),
            (187_200_000_000_000, "2d 4h"),
        ];
        for (ns, text) in cases {
            assert_eq!(human(Duration::from_nanos(ns)), text);
        }
    }

    #[test]
    fn time_saturates_instead_of_wrapping() {
        assert_eq!(Time(5).since(Time(9)), Duration::ZERO);
        assert_eq!(Time(5).before(Duration::from_secs(1)), Time::ZERO);
        assert_eq!(Time(5) + Duration::MAX, Time(u64::MAX));
    }

    #[test]
    fn anchors_translate_both_ways() {
        let anchor = WallAnchor { boot: Time::from_millis(1_000), unix_ms: 50_000 };
        assert_eq!(anchor.unix_ms_at(Time::from_millis(1_250)), 50_250);
        assert_eq!(anchor.unix_ms_at(Time::from_millis(500)), 49_500);
    }
}
