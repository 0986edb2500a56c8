//! Accrual suspicion: how surprising is a silence, given the rhythm so far?
//!
//! `phi = -log10(P(a gap at least this long))`, with the gaps taken as normally distributed (Hayashibara et al.,
//! 2004; the tail by the logistic approximation that Akka uses). It ranks and warns well. The normal tail is
//! fiction in bursts, so the deviation has a floor of a tenth of the period, and a rule that acts should not
//! stand on phi alone.

use std::{hash::Hasher, time::Duration};

use crate::failover::Print;

/// The rhythm of one stream: exponentially weighted mean and variance of its gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rhythm {
    gaps: u32,
    mean_s: f64,
    variance_s2: f64,
}

/// Weight of the newest gap once enough were seen: about the last twenty count.
const NEWEST: f64 = 0.1;
/// Fewer gaps than this say nothing.
const GAPS_MIN: u32 = 5;

impl Rhythm {
    pub(super) fn fingerprint<H: Hasher>(&self, print: &mut Print<'_, H>) {
        print.plain((self.gaps, self.mean_s.to_bits(), self.variance_s2.to_bits()));
    }

    /// Takes note of one gap between two arrivals.
    pub(super) fn learn(&mut self, gap: Duration) {
        let gap_s = gap.as_secs_f64();
        self.gaps = self.gaps.saturating_add(1);
        let weight = NEWEST.max(1.0 / f64::from(self.gaps));
        let off = gap_s - self.mean_s;
        self.mean_s += weight * off;
        self.variance_s2 = (1.0 - weight) * (self.variance_s2 + weight * off * off);
    }

    /// The suspicion after `silence`, for a stream expected every `every`. `None`: too few gaps to say.
    pub(super) fn phi(&self, silence: Duration, every: Duration) -> Option<f64> {
        if self.gaps < GAPS_MIN {
            return None;
        }
        let deviation_s = self.variance_s2.sqrt().max(every.as_secs_f64() / 10.0).max(1e-3);
        let y = (silence.as_secs_f64() - self.mean_s) / deviation_s;
        let e = (-y * 0.070_566f64.mul_add(y * y, 1.597_6)).exp();
        let later = if y > 0.0 { e / (1.0 + e) } else { 1.0 - 1.0 / (1.0 + e) };
        Some(-later.max(1e-300).log10())
    }

    /// The silence after which the suspicion reaches `threshold`, found by bisection; `None`: too few gaps to say.
    pub(super) fn silence_for(&self, threshold: f64, every: Duration) -> Option<Duration> {
        self.phi(Duration::ZERO, every)?;
        let (mut low, mut high) = (Duration::ZERO, every.saturating_mul(1_000).max(Duration::from_secs(1)));
        for _ in 0..60 {
            let middle = low + (high - low) / 2;
            if self.phi(middle, every)? > threshold { high = middle } else { low = middle }
        }
        Some(high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn steady() -> Rhythm {
        let mut rhythm = Rhythm::default();
        for i in 0..50u64 {
            rhythm.learn(Duration::from_millis(980 + i % 5 * 10));
        }
        rhythm
    }

    #[test]
    fn a_short_history_says_nothing() {
        let mut rhythm = Rhythm::default();
        for _ in 0..4 {
            rhythm.learn(SECOND);
        }
        assert_eq!(rhythm.phi(SECOND * 10, SECOND), None);
        rhythm.learn(SECOND);
        assert!(rhythm.phi(SECOND * 10, SECOND).is_some());
    }

    /// Half of all gaps are longer than the mean; beyond it, deviations count.
    #[test]
    fn it_is_worked_out_from_the_mean_and_the_deviation() {
        let phi = |gaps: &[u64], silence_ms| {
            let mut rhythm = Rhythm::default();
            gaps.iter().cycle().take(400).for_each(|gap| rhythm.learn(Duration::from_millis(*gap)));
            rhythm.phi(Duration::from_millis(silence_ms), SECOND).unwrap()
        };
        assert!((phi(&[1_000], 1_000) - 2f64.log10()).abs() < 1e-9, "{}", phi(&[1_000], 1_000));
        // Two deviations, of which the least is a tenth of the period: 2.3 % are longer.
        assert!((phi(&[1_000], 1_200) - 1.64).abs() < 0.02, "{}", phi(&[1_000], 1_200));
        let of_both = phi(&[500, 1_500], 2_000);
        assert!((1.4..1.9).contains(&of_both), "{of_both}");
    }

    #[test]
    fn suspicion_only_grows_with_silence() {
        let rhythm = steady();
        let phis: Vec<f64> = (1..40).map(|i| rhythm.phi(SECOND * i / 10, SECOND).unwrap()).collect();
        assert!(phis.windows(2).all(|w| w[0] <= w[1]), "{phis:?}");
        assert!(phis[9] < 1.0, "on time is not suspicious: {}", phis[9]);
        assert!(phis[30] > 8.0, "three periods are: {}", phis[30]);
    }

    #[test]
    fn the_threshold_is_reached_when_predicted() {
        let rhythm = steady();
        let at = rhythm.silence_for(8.0, SECOND).unwrap();
        assert!(rhythm.phi(at, SECOND).unwrap() >= 8.0);
        assert!(rhythm.phi(at - Duration::from_micros(10), SECOND).unwrap() <= 8.0);
    }
}
