//! The only clock. Everything else is handed time as an argument; the edges measure with a [`Stopwatch`].

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::model::{
    Time, WallAnchor,
    time::{Moment, Mono},
};

/// Now, on CLOCK_BOOTTIME: it counts suspend.
#[must_use]
pub fn now() -> Time {
    Time(nanoseconds(ClockId::Boottime))
}

/// Both clocks at once. They are read one after the other; the microsecond between lies on the safe side: the holder's
/// clock is read first.
#[must_use]
pub fn moment() -> Moment {
    Moment { boot: now(), mono: Mono(nanoseconds(ClockId::Monotonic)) }
}

/// Ties boot time to wall time, for people.
#[must_use]
pub fn anchor() -> WallAnchor {
    let wall = clock_gettime(ClockId::Realtime);
    WallAnchor { boot: now(), unix_ms: wall.tv_sec.saturating_mul(1_000).saturating_add(wall.tv_nsec / 1_000_000) }
}

fn nanoseconds(clock: ClockId) -> u64 {
    // Both parts are never negative for these clocks; if a kernel ever said otherwise, zero is the safe answer.
    let at = clock_gettime(clock);
    let (seconds, nanos) = (u64::try_from(at.tv_sec).unwrap_or(0), u64::try_from(at.tv_nsec).unwrap_or(0));
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// Measures from its start, on CLOCK_BOOTTIME: a suspend in between is counted.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    started: Time,
}

impl Stopwatch {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { started: now() }
    }

    /// The time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        now().since(self.started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopwatch_runs_forward() {
        let watch = Stopwatch::start();
        let first = watch.elapsed();
        assert!(watch.elapsed() >= first);
        assert!(first < Duration::from_secs(60));
    }
}
