//! How long something took. The edges measure with this and read no clock of their own.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Measures from its start, on CLOCK_BOOTTIME: a suspend in between is counted.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    started: Duration,
}

impl Stopwatch {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { started: boottime() }
    }

    /// The time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        boottime().saturating_sub(self.started)
    }
}

fn boottime() -> Duration {
    // Both parts are never negative for CLOCK_BOOTTIME; if a kernel ever said otherwise, zero is the safe answer.
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
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
