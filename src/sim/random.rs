//! Chance from a seed: the same seed, the same run, on every machine and in every build.

/// SplitMix64 (Steele, Lea, Flood 2014): a whole period of 2^64 from any seed, and no state beside it. Fit for choosing
/// faults; not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of that seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to below `high`; `low` if there is nothing between. The bias of the remainder is below 2^-32 for all
    /// ranges that are used here.
    pub const fn within(&mut self, low: u64, high: u64) -> u64 {
        if high <= low { low } else { low + self.draw() % (high - low) }
    }

    /// An index below `len`; 0 if there is none.
    #[expect(clippy::cast_possible_truncation, reason = "the remainder is below a usize")]
    pub const fn index(&mut self, len: usize) -> usize {
        if len == 0 { 0 } else { (self.draw() % len as u64) as usize }
    }

    /// Once in `n` times.
    pub const fn one_in(&mut self, n: u64) -> bool {
        self.draw().is_multiple_of(n)
    }
}
