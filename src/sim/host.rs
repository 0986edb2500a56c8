//! Hosts with clocks of their own, and the network between them.

use std::collections::BTreeSet;

use super::random::Random;
use crate::model::{
    Time,
    time::{Moment, Mono},
};

/// A millisecond of true time.
pub(super) const MS: u64 = 1_000_000;
/// A second of true time.
pub(super) const SEC: u64 = 1_000 * MS;

/// A host: an arbiter's, a member's or a node's.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) name: String,
    /// Its power is on.
    pub(super) is_on: bool,
    /// Since when it is suspended.
    pub(super) asleep_since: Option<u64>,
    /// Until when nothing of its processes is scheduled: a pause that no clock misses.
    pub(super) paused_until: u64,
    /// In thousandths of true time.
    pub(super) rate: u64,
    offset: u64,
    slept: u64,
}

impl Host {
    pub(super) const fn new(name: String, rate: u64, offset: u64) -> Self {
        Self { name, is_on: true, asleep_since: None, paused_until: 0, rate, offset, slept: 0 }
    }

    /// Whether its processes run at this moment.
    pub(super) const fn runs(&self, now: u64) -> bool {
        self.is_on && self.asleep_since.is_none() && self.paused_until <= now
    }

    /// What its clocks show.
    pub(super) const fn moment(&self, now: u64) -> Moment {
        let boot = self.boot(now);
        Moment { boot, mono: Mono(boot.0 - self.slept) }
    }

    pub(super) const fn boot(&self, now: u64) -> Time {
        // 128 bits: a thousand times a true time may not fit 64.
        Time(self.offset + (now as u128 * self.rate as u128 / 1_000) as u64)
    }

    /// The first true time at which CLOCK_BOOTTIME has reached this.
    pub(super) const fn true_time_of(&self, boot: Time) -> u64 {
        let since = boot.0.saturating_sub(self.offset) as u128 * 1_000;
        let at = since.div_ceil(self.rate as u128);
        if at > u64::MAX as u128 { u64::MAX } else { at as u64 }
    }

    pub(super) fn wake(&mut self, now: u64) {
        if let Some(since) = self.asleep_since.take() {
            self.slept += self.boot(now).0 - self.boot(since).0;
        }
    }
}

/// The links between hosts, by number, and to the store.
#[derive(Clone, Debug)]
pub(super) struct Network {
    /// Nothing passes from the one to the other.
    pub(super) cuts: BTreeSet<(usize, usize)>,
    /// Of a hundred messages, so many are lost.
    pub(super) loss_percent: u64,
    /// Of a hundred messages, so many come twice.
    pub(super) twice_percent: u64,
    /// How long a message takes, from and to, in nanoseconds.
    pub(super) delay: (u64, u64),
}

impl Network {
    pub(super) const fn good() -> Self {
        Self { cuts: BTreeSet::new(), loss_percent: 0, twice_percent: 0, delay: (MS / 5, MS) }
    }

    pub(super) fn carries(&self, from: usize, to: usize) -> bool {
        from == to || !self.cuts.contains(&(from, to))
    }

    pub(super) fn both_ways(&self, a: usize, b: usize) -> bool {
        self.cuts.is_empty() || (self.carries(a, b) && self.carries(b, a))
    }

    /// How long a message takes; `None`: it is lost.
    pub(super) fn send(&self, random: &mut Random) -> Option<u64> {
        if self.loss_percent > 0 && random.within(0, 100) < self.loss_percent {
            return None;
        }
        Some(random.within(self.delay.0, self.delay.1))
    }
}
