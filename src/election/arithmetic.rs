//! The numbers of an election, and what makes them unsafe. Exact: whole nanoseconds, a lease rounded down, a wait up.
//!
//! A leader reads its clock at true time `s`, sends a heartbeat, and acts until its clock has gone `V·(1−ρ)` further, which
//! is at most `V` of true time. Another saw that heartbeat at `r >= s` and waits until its own clock has gone `V·(1+ρ)`
//! further, which is at least `V` of true time. `r + V >= s + V`: the lease is over before the wait is.

use std::time::Duration;

use crate::model::time::human;

/// How an instance takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The group in which one leads.
    pub group: String,
    /// The program's name for itself.
    pub instance: String,
    /// A heartbeat this often.
    pub heartbeat_every: Duration,
    /// For how long a heartbeat is valid: whole milliseconds.
    pub valid_for: Duration,
    /// By how many thousandths a clock may run too fast or too slow.
    pub clock_rate_permille: u32,
    /// How long it takes to stop, once told: the leader is told that much before its lease ends.
    pub stop_time: Duration,
}

/// Why an election's numbers are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsafe {
    /// A group or an instance without a name.
    #[error("the group and the instance need names: up to 128 characters, no control characters")]
    Name,
    /// No time at all.
    #[error("a heartbeat's period must be longer than zero, and its validity whole milliseconds")]
    Zero,
    /// Clocks that may stand still bound nothing.
    #[error("clock rates may differ by less than 1000 thousandths, not by {0}")]
    Rate(u32),
    /// One lost heartbeat would depose a healthy leader.
    #[error(
        "a heartbeat of every {} that is valid for {} leaves a leader {} before it has to stop: two heartbeats must fit, \
         so let heartbeats be valid for at least {}",
        human(*.every),
        human(*.valid_for),
        human(*.left),
        human(*.needed)
    )]
    Rare {
        /// As given.
        every: Duration,
        /// As given.
        valid_for: Duration,
        /// What a leader has of it.
        left: Duration,
        /// The least that is accepted.
        needed: Duration,
    },
}

/// Names longer than this fit no index of every database.
const LONGEST_NAME: usize = 128;

impl Settings {
    /// A heartbeat each second, valid for five; clocks may differ by a tenth; a second to stop.
    #[must_use]
    pub fn new(group: impl Into<String>, instance: impl Into<String>) -> Self {
        let second = Duration::from_secs(1);
        Self {
            group: group.into(),
            instance: instance.into(),
            heartbeat_every: second,
            valid_for: 5 * second,
            clock_rate_permille: 100,
            stop_time: second,
        }
    }

    /// Whether these numbers keep what an election promises, and let one lost heartbeat pass.
    ///
    /// # Errors
    /// They do not; the first reason found.
    pub fn check(&self) -> Result<(), Unsafe> {
        let is_name = |name: &str| {
            !name.trim().is_empty() && name.chars().count() <= LONGEST_NAME && !name.chars().any(char::is_control)
        };
        if !is_name(&self.group) || !is_name(&self.instance) {
            return Err(Unsafe::Name);
        }
        if self.heartbeat_every.is_zero()
            || self.valid_for.is_zero()
            || !self.valid_for.subsec_nanos().is_multiple_of(1_000_000)
        {
            return Err(Unsafe::Zero);
        }
        if self.clock_rate_permille >= 1_000 {
            return Err(Unsafe::Rate(self.clock_rate_permille));
        }
        let left = self.lease(self.valid_for).saturating_sub(self.stop_time);
        if left < self.heartbeat_every.saturating_mul(2) {
            let whole = self.heartbeat_every.saturating_mul(2).saturating_add(self.stop_time);
            // Below 1000, so there is no division by zero; up to whole milliseconds.
            let needed = whole.saturating_mul(1_000) / (1_000 - self.clock_rate_permille);
            let needed = Duration::from_millis(u64::try_from(needed.as_millis()).unwrap_or(u64::MAX).saturating_add(1));
            return Err(Unsafe::Rare { every: self.heartbeat_every, valid_for: self.valid_for, left, needed });
        }
        Ok(())
    }

    /// How long a leader may act after it sent a heartbeat of that validity, by its own clock.
    #[must_use]
    pub fn lease(&self, valid_for: Duration) -> Duration {
        let rate = u128::from(self.clock_rate_permille.min(1_000));
        nanos(valid_for.as_nanos().saturating_mul(1_000 - rate) / 1_000)
    }

    /// How long the others wait once they saw that heartbeat, by theirs.
    #[must_use]
    pub fn wait(&self, valid_for: Duration) -> Duration {
        let rate = u128::from(self.clock_rate_permille);
        nanos(valid_for.as_nanos().saturating_mul(1_000 + rate).div_ceil(1_000))
    }
}

fn nanos(ns: u128) -> Duration {
    // "For ever" is as good as 584 years.
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_shorter_than_the_wait_for_its_end() {
        let settings = Settings::new("g", "a");
        settings.check().unwrap();
        assert_eq!(settings.lease(settings.valid_for), Duration::from_millis(4_500));
        assert_eq!(settings.wait(settings.valid_for), Duration::from_millis(5_500));
        assert_eq!(settings.wait(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn numbers_that_break_the_promise_are_refused() {
        let good = Settings::new("g", "a");
        let ms = Duration::from_millis;
        assert_eq!(Settings { group: " ".into(), ..good.clone() }.check(), Err(Unsafe::Name));
        assert_eq!(Settings { instance: "a\n".into(), ..good.clone() }.check(), Err(Unsafe::Name));
        assert_eq!(Settings { clock_rate_permille: 1_000, ..good.clone() }.check(), Err(Unsafe::Rate(1_000)));
        assert_eq!(Settings { valid_for: Duration::from_micros(1_500_001), ..good.clone() }.check(), Err(Unsafe::Zero));
        let rare = Settings { valid_for: ms(3_000), ..good.clone() };
        let Err(Unsafe::Rare { needed, .. }) = rare.check() else { panic!("two heartbeats do not fit") };
        assert_eq!(needed, ms(3_334));
        assert_eq!(Settings { valid_for: needed, ..good }.check(), Ok(()));
    }
}
