//! The demo's own look at the clock: nodes are programs of their own, whose ages and gaps stand beside the
//! arbiter's moments, which are of the same CLOCK_BOOTTIME. Nothing is decided by it.

use rustix::time::{ClockId, clock_gettime};

use crate::model::Time;

/// Now, comparable with the moments in an incident of an arbiter on this host.
pub(crate) fn now() -> Time {
    let now = clock_gettime(ClockId::Boottime);
    // Never negative, and 584 years fit.
    Time(u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0))
}
