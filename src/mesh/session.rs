//! What was heard of one peer's present life, so that each message is handled once.

use std::collections::{BTreeSet, VecDeque};

use super::message::Life;
use crate::model::PartyName;

/// How far messages of one life may overtake each other. Older ones are dropped, and asked again by who needs them.
const WINDOW: u64 = 1_024;
const WORDS: usize = 16;

/// Which numbers of one sender's life were handled.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    highest: u64,
    bits: [u64; WORDS],
}

impl Window {
    /// Whether this number was handled, or is too old to tell.
    pub(super) const fn is_known(&self, seq: u64) -> bool {
        seq == 0 || seq.saturating_add(WINDOW) <= self.highest || (seq <= self.highest && self.get(seq))
    }

    /// Whether this number is new; from now on it is not.
    pub(super) fn is_new(&mut self, seq: u64) -> bool {
        if self.is_known(seq) {
            return false;
        }
        if seq > self.highest {
            if seq - self.highest >= WINDOW {
                self.bits = [0; WORDS];
            } else {
                for between in self.highest + 1..seq {
                    self.set(between, false);
                }
            }
            self.highest = seq;
        }
        self.set(seq, true);
        true
    }

    // The word's index is below WORDS, for WINDOW is 64 times that.
    const fn place(seq: u64) -> (usize, u64) {
        let bit = seq % WINDOW;
        ((bit / 64) as usize % WORDS, 1 << (bit % 64))
    }

    const fn get(&self, seq: u64) -> bool {
        let (word, bit) = Self::place(seq);
        self.bits[word] & bit != 0
    }

    fn set(&mut self, seq: u64, is_set: bool) {
        let (word, bit) = Self::place(seq);
        if is_set {
            self.bits[word] |= bit;
        } else {
            self.bits[word] &= !bit;
        }
    }
}

/// What was passed on already: each message of a life once. Bounded; the oldest is forgotten first, and the hops count
/// down all the same.
#[derive(Debug, Default)]
pub(super) struct PassedOn {
    known: BTreeSet<(PartyName, Life, u64)>,
    order: VecDeque<(PartyName, Life, u64)>,
}

/// Remembered at most.
const PASSED_ON: usize = 4_096;

impl PassedOn {
    /// Whether it was passed on.
    pub(super) fn is_known(&self, from: &PartyName, life: Life, seq: u64) -> bool {
        self.known.contains(&(from.clone(), life, seq))
    }

    /// Whether this was not passed on yet; from now on it was.
    pub(super) fn is_new(&mut self, from: &PartyName, life: Life, seq: u64) -> bool {
        let key = (from.clone(), life, seq);
        if !self.known.insert(key.clone()) {
            return false;
        }
        self.order.push_back(key);
        if self.order.len() > PASSED_ON
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_is_new_at_most_once_and_near_ones_in_any_order(seqs in prop::collection::vec(1u64..3_000, 1..400)) {
            let mut window = Window::default();
            let (mut seen, mut highest) = (BTreeSet::new(), 0);
            for seq in seqs {
                let is_within = seq + WINDOW > highest;
                prop_assert_eq!(window.is_new(seq), is_within && !seen.contains(&seq));
                if is_within {
                    seen.insert(seq);
                }
                highest = highest.max(seq);
            }
        }
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let mut window = Window::default();
        assert!(window.is_new(5));
        assert!(window.is_new(u64::MAX));
        assert!(!window.is_new(u64::MAX));
        assert!(!window.is_new(6));
        assert!(!window.is_new(0));
    }

    #[test]
    fn what_was_passed_on_is_forgotten_only_behind_many_others() {
        let mut passed = PassedOn::default();
        let from = PartyName::from("a");
        assert!(passed.is_new(&from, Life(1), 1));
        assert!(!passed.is_new(&from, Life(1), 1));
        assert!(passed.is_new(&from, Life(2), 1));
        for seq in 2..10_000 {
            assert!(passed.is_new(&from, Life(1), seq));
        }
        assert_eq!(passed.known.len(), PASSED_ON);
    }
}
