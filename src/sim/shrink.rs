//! Makes a failing schedule small: fewer faults, shorter, at round times, as long as it still fails alike.

use std::{cell::Cell, time::Duration};

use super::{
    fault::Schedule,
    run::{Outcome, run},
    setting::Setting,
};

/// Runs at most; a schedule has a handful of faults.
const TRIES: usize = 400;

/// The smallest schedule found that `fails` as the given one does. `fails` is asked of each outcome.
#[must_use]
pub fn shrink(setting: &Setting, schedule: &Schedule, fails: impl Fn(&Outcome) -> bool) -> Schedule {
    let mut best = schedule.clone();
    let tries = Cell::new(0);
    let is_failing = |candidate: &Schedule| {
        tries.set(tries.get() + 1);
        tries.get() <= TRIES && fails(&run(setting, candidate))
    };
    loop {
        let mut is_smaller = false;
        let mut index = 0;
        while index < best.faults.len() {
            let mut fewer = best.clone();
            fewer.faults.remove(index);
            if is_failing(&fewer) {
                best = fewer;
                is_smaller = true;
            } else {
                index += 1;
            }
        }
        for index in 0..best.faults.len() {
            for grain in [1_000, 100, 10] {
                let mut rounder = best.clone();
                let timed = &mut rounder.faults[index];
                timed.at = round(timed.at, grain);
                timed.for_ = timed.for_.map(|d| round(d, grain).max(Duration::from_millis(grain)));
                if rounder != best && is_failing(&rounder) {
                    best = rounder;
                    is_smaller = true;
                    break;
                }
            }
            let mut lasting = best.clone();
            if lasting.faults[index].for_.take().is_some() && is_failing(&lasting) {
                best = lasting;
                is_smaller = true;
            }
        }
        if !is_smaller || tries.get() > TRIES {
            return best;
        }
    }
}

fn round(d: Duration, grain_ms: u64) -> Duration {
    let ms = u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(ms / grain_ms * grain_ms)
}
