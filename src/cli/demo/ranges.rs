//! Sets of numbers that mostly follow on each other: messages that were acknowledged, messages that came.

use serde::{Deserialize, Serialize};

/// Ranges with both ends, in order, apart from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds a number; `false` if it was there.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        // The first range that begins behind the number.
        let behind = self.0.partition_point(|(from, _)| *from <= number);
        let before = behind.checked_sub(1);
        if before.is_some_and(|at| self.0[at].1 >= number) {
            return false;
        }
        let grows_before = before.filter(|at| self.0[*at].1 + 1 == number);
        let grows_behind = self.0.get(behind).is_some_and(|(from, _)| *from == number + 1);
        match (grows_before, grows_behind) {
            (Some(at), true) => {
                self.0[at].1 = self.0[behind].1;
                self.0.remove(behind);
            }
            (Some(at), false) => self.0[at].1 = number,
            (None, true) => self.0[behind].0 = number,
            (None, false) => self.0.insert(behind, (number, number)),
        }
        true
    }

    /// The largest number.
    pub(crate) fn largest(&self) -> Option<u64> {
        self.0.last().map(|(_, to)| *to)
    }

    /// How many of the others are not here.
    pub(crate) fn missing_of(&self, others: &Self) -> u64 {
        others.numbers().filter(|number| !self.contains(*number)).count() as u64
    }

    /// All numbers, in order.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.0.iter().flat_map(|(from, to)| *from..=*to)
    }

    fn contains(&self, number: u64) -> bool {
        let behind = self.0.partition_point(|(from, _)| *from <= number);
        behind.checked_sub(1).is_some_and(|at| self.0[at].1 >= number)
    }
}

#[cfg(test)]
impl FromIterator<(u64, u64)> for Ranges {
    fn from_iter<T: IntoIterator<Item = (u64, u64)>>(ranges: T) -> Self {
        Self(ranges.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ranges_are_what_a_set_would_be() {
        let mut state = 7_u64;
        for _ in 0..200 {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for _ in 0..60 {
                // A small linear congruential generator: the same numbers each time.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let number = (state >> 33) % 40;
                assert_eq!(ranges.insert(number), set.insert(number));
            }
            assert!(ranges.numbers().eq(set.iter().copied()), "{ranges:?}");
            assert!(ranges.0.windows(2).all(|two| two[0].1 + 1 < two[1].0), "apart: {ranges:?}");
            assert_eq!(ranges.largest(), set.last().copied());
            assert_eq!(ranges.missing_of(&[(0, 39)].into_iter().collect()), 40 - set.len() as u64);
        }
    }
}
