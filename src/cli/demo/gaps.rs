//! Pauses in a stream of arrivals, as the one who waited saw them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::Time;

/// Pauses shorter than this are not remembered.
pub(crate) const WORTH_TELLING: Duration = Duration::from_millis(150);
/// At most so many are remembered, the newest.
const KEPT: usize = 64;

/// One pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gap {
    /// The last arrival before it.
    pub(crate) from: Time,
    /// The first arrival after it.
    pub(crate) to: Time,
}

impl Gap {
    pub(crate) const fn length(&self) -> Duration {
        self.to.since(self.from)
    }
}

/// Arrivals, counted, with their pauses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arrived {
    /// How many.
    pub(crate) count: u64,
    /// The newest.
    pub(crate) last: Option<Time>,
    /// The pauses.
    pub(crate) gaps: Vec<Gap>,
}

impl Arrived {
    /// Counts arrivals of one moment.
    pub(crate) fn note(&mut self, at: Time, count: u64) {
        if let Some(last) = self.last
            && at.since(last) >= WORTH_TELLING
        {
            if self.gaps.len() == KEPT {
                self.gaps.remove(0);
            }
            self.gaps.push(Gap { from: last, to: at });
        }
        self.count += count;
        self.last = Some(at);
    }

    /// The longest pause that ended after `moment`.
    pub(crate) fn longest_since(&self, moment: Time) -> Option<Gap> {
        self.gaps.iter().filter(|gap| gap.to > moment).max_by_key(|gap| gap.length()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_remembered_and_bounded() {
        let mut arrived = Arrived::default();
        for ms in [0, 20, 40, 1_500, 1_520] {
            arrived.note(Time::from_millis(ms), 1);
        }
        assert_eq!(arrived.count, 5);
        assert_eq!(arrived.longest_since(Time::from_millis(100)).unwrap().length(), Duration::from_millis(1_460));
        assert_eq!(arrived.longest_since(Time::from_millis(1_500)), None);
        for i in 0..1_000 {
            arrived.note(Time::from_millis(2_000 + i * 200), 1);
        }
        assert_eq!(arrived.gaps.len(), KEPT);
    }
}
