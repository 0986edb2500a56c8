//! One part is proved rather than tried: over a grid of clock rates, delays and moments, with the real holder and the
//! real voter, an old lease never runs when a voter says that it is over. And the check can fail: with `W = L` it does.

use std::time::Duration;

use coroner::{
    lease::{
        holder::Holder,
        voter::{Memory, Voter},
    },
    model::{Epoch, Time, policy::LeasePolicy, time::Mono},
};

use super::policy;

/// A clock that runs at so many thousandths of true time. True times are whole microseconds, so readings are exact.
#[derive(Clone, Copy)]
struct Clock {
    permille: u64,
    offset: u64,
}

impl Clock {
    fn reads(self, true_us: u64) -> u64 {
        self.offset + true_us * self.permille
    }
}

/// The largest overlap over the grid, in microseconds of true time, and how many points were looked at.
fn worst_overlap(policy: &LeasePolicy) -> (u64, u64) {
    const ASKED: u64 = 100_000;
    let rho = u64::from(policy.clock_rate_permille);
    let rates = [1_000 - rho, 1_000 - rho / 2, 1_000, 1_000 + rho / 2, 1_000 + rho];
    let enforced_us = u64::try_from(policy.enforced_within.as_micros()).unwrap();
    let (mut worst, mut points) = (0, 0);
    for holder_rate in rates {
        for voter_rate in rates {
            for way_there in [0, 1, 137, 1_000, 7_301, 19_999, 40_000] {
                for way_back in [0, 1, 137, 1_000, 7_301, 19_999, 40_000] {
                    let holder_clock = Clock { permille: holder_rate, offset: 5_000_000_000 };
                    let voter_clock = Clock { permille: voter_rate, offset: 77 };
                    let mut holder = Holder::new(policy.clone());
                    let mut voter = Voter::new(Mono(voter_clock.reads(0)), Some(policy), Memory::default());
                    let request = holder.ask(Time(holder_clock.reads(ASKED)));
                    let received = ASKED + way_there;
                    voter.seal(Epoch(1));
                    voter.grant(Mono(voter_clock.reads(received)), &"a".into(), Epoch(1)).unwrap();
                    let answered = Time(holder_clock.reads(received + way_back));
                    holder.granted(answered, &"a".into(), request);
                    holder.granted(answered, &"arbiter".into(), request);
                    voter.seal(Epoch(2));
                    // The last moment at which something may leave the old primary's host…
                    let deadline = holder.deadline().map(|at| at.0);
                    let serves = |us: u64| deadline.is_some_and(|at| holder_clock.reads(us) < at);
                    // …and the first at which the voter says that it is over.
                    let mut over_at = None;
                    for us in (received..received + 80_000).step_by(10) {
                        points += 1;
                        let is_over = voter.older_runs_for(Mono(voter_clock.reads(us))).is_zero();
                        if is_over {
                            over_at.get_or_insert(us);
                        }
                        if let Some(over_at) = over_at
                            && serves(us.saturating_sub(enforced_us))
                        {
                            worst = worst.max(us - over_at + 1);
                        }
                    }
                }
            }
        }
    }
    (worst, points)
}

#[test]
fn no_lease_runs_when_a_voter_says_that_it_is_over() {
    for (length_ms, enforced_ms, permille) in [(20, 0, 100), (20, 2, 100), (20, 2, 0), (30, 5, 10), (10, 3, 300)] {
        let policy = policy(Duration::from_millis(length_ms), Duration::from_millis(enforced_ms), permille);
        let (worst, points) = worst_overlap(&policy);
        assert!(points > 5_000_000, "{points} points are no grid");
        assert_eq!(worst, 0, "L {length_ms} ms, fence {enforced_ms} ms, clocks {permille} thousandths");
    }
}

#[test]
fn the_check_finds_a_wait_that_is_too_short() {
    let mut short = policy(Duration::from_millis(20), Duration::from_millis(2), 100);
    short.wait = short.length;
    let (worst, _) = worst_overlap(&short);
    assert!(worst > 4_000, "with W = L the overlap is 20 % of the lease and more; found {worst} µs");
    let mut nearly = policy(Duration::from_millis(20), Duration::from_millis(2), 100);
    nearly.wait -= Duration::from_micros(50);
    assert!(worst_overlap(&nearly).0 > 0, "even a wait that is too short by 50 µs is found");
}
