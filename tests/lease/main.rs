//! Leases: may an old one run while a new one begins?

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use coroner::{
    lease::arithmetic::{Unsafe, check, majority, safety_hash, wait},
    model::{PartyName, policy::LeasePolicy},
};
use proptest::prelude::*;

mod grid;
mod holders;
mod voters;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn policy(length: Duration, enforced_within: Duration, permille: u32) -> LeasePolicy {
    LeasePolicy {
        length,
        renew_every: length / 4,
        enforced_within,
        clock_rate_permille: permille,
        wait: wait(length, enforced_within, permille),
        voters: ["arbiter", "a", "b"].into_iter().map(PartyName::from).collect(),
    }
}

fn usual() -> LeasePolicy {
    policy(ms(200), ms(12), 100)
}

#[test]
fn the_wait_of_the_papers() {
    // L = 200 ms at 10 %: 1.1 * 200 / 0.9.
    assert_eq!(wait(ms(200), ms(0), 100), Duration::from_nanos(244_444_445));
    assert_eq!(wait(ms(1_000), ms(0), 100), Duration::from_nanos(1_222_222_223));
    assert_eq!(wait(ms(200), ms(12), 100), Duration::from_nanos(257_644_445));
    assert_eq!(wait(ms(200), ms(12), 0), ms(212));
    assert_eq!(wait(ms(200), ms(12), 1_000), Duration::MAX);
}

proptest! {
    /// `W * 1000 * (1000-r) >= (1000+r) * (1000 * L + (1000-r) * T)`, and one nanosecond less would not do.
    #[test]
    fn the_wait_is_the_smallest_that_is_enough(l in 0u64..1 << 50, t in 0u64..1 << 50, r in 0u32..1_000) {
        let w = wait(Duration::from_nanos(l), Duration::from_nanos(t), r).as_nanos();
        let (l, t, r) = (u128::from(l), u128::from(t), u128::from(r));
        let needed = (1_000 + r) * (1_000 * l + (1_000 - r) * t);
        prop_assert!(w * 1_000 * (1_000 - r) >= needed);
        prop_assert!(w == 0 || (w - 1) * 1_000 * (1_000 - r) < needed);
    }

    #[test]
    fn no_input_overflows(l: u64, nanos in 0u32..1_000_000_000, t: u64, r: u32) {
        let w = wait(Duration::new(l, nanos), Duration::new(t, nanos), r);
        prop_assert!(w >= Duration::new(l, nanos));
    }
}

/// Any two of them share a voter: half is none.
#[test]
fn a_majority_is_more_than_half_of_any_number() {
    for voters in 1..12 {
        assert!(2 * majority(voters) > voters, "two majorities of {voters} may have nobody in common");
        assert!(2 * (majority(voters) - 1) <= voters, "fewer of {voters} would do");
    }
}

#[test]
fn what_is_unsafe_is_refused() {
    assert_eq!(check(&usual()), Ok(()));
    let with = |change: fn(&mut LeasePolicy)| {
        let mut policy = usual();
        change(&mut policy);
        check(&policy)
    };
    assert_eq!(with(|p| p.length = Duration::ZERO), Err(Unsafe::Zero));
    assert_eq!(with(|p| p.renew_every = Duration::ZERO), Err(Unsafe::Zero));
    assert_eq!(with(|p| p.clock_rate_permille = 1_000), Err(Unsafe::Rate(1_000)));
    assert!(matches!(with(|p| p.wait -= Duration::from_nanos(1)), Err(Unsafe::ShortWait { .. })));
    assert_eq!(with(|p| p.wait += ms(1)), Ok(()), "longer is safe");
    assert_eq!(with(|p| p.renew_every = ms(94)), Ok(()));
    assert!(matches!(with(|p| p.renew_every = ms(95)), Err(Unsafe::RareRenewal { .. })));
    assert_eq!(with(|p| p.voters.clear()), Err(Unsafe::NoVoters));
    assert_eq!(with(|p| p.voters.push("a".into())), Err(Unsafe::TwiceVoter("a".into())));
}

#[test]
fn the_safety_hash_is_the_same_everywhere_and_differs_where_it_matters() {
    let hash = safety_hash(&usual());
    assert_eq!(hash, SAFETY_OF_THE_USUAL, "an agent of another version must reckon the same");
    let with = |change: fn(&mut LeasePolicy)| {
        let mut policy = usual();
        change(&mut policy);
        safety_hash(&policy)
    };
    assert_eq!(with(|p| p.voters.reverse()), hash);
    assert_eq!(with(|p| p.renew_every = ms(1)), hash, "how often one asks endangers nobody");
    for other in [
        with(|p| p.length += Duration::from_nanos(1)),
        with(|p| p.wait += Duration::from_nanos(1)),
        with(|p| p.enforced_within += Duration::from_nanos(1)),
        with(|p| p.clock_rate_permille += 1),
        with(|p| p.voters.truncate(2)),
        with(|p| p.voters[2] = "c".into()),
    ] {
        assert_ne!(other, hash);
    }
}

/// SHA-256 of the text, reckoned by another program.
const SAFETY_OF_THE_USUAL: u64 = 1_362_885_971_152_495_104;
