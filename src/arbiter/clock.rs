//! The only clock. Everything else is handed time as an argument.

use rustix::time::{ClockId, clock_gettime};

use crate::model::{Time, WallAnchor};

/// Now, on CLOCK_BOOTTIME: it counts suspend.
#[must_use]
pub fn now() -> Time {
    let at = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(at.tv_sec).unwrap_or(0), u64::try_from(at.tv_nsec).unwrap_or(0));
    Time(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Ties boot time to wall time, for people.
#[must_use]
pub fn anchor() -> WallAnchor {
    let wall = clock_gettime(ClockId::Realtime);
    WallAnchor { boot: now(), unix_ms: wall.tv_sec.saturating_mul(1_000).saturating_add(wall.tv_nsec / 1_000_000) }
}
