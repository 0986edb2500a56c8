//! The voter: does it ever break a promise?

use std::{collections::BTreeMap, time::Duration};

use coroner::{
    lease::voter::{Memory, No, Voter},
    model::{Epoch, MemberName, time::Mono},
};
use proptest::prelude::*;

use super::{ms, usual};

fn at(ms: u64) -> Mono {
    Mono(ms * 1_000_000)
}

fn member(name: &str) -> MemberName {
    name.into()
}

fn fresh() -> Voter {
    Voter::new(at(0), Some(&usual()), Memory::default())
}

#[test]
fn a_voter_that_starts_waits_first() {
    let voter = fresh();
    assert_eq!(voter.older_runs_for(at(0)), usual().wait);
    assert!(voter.older_runs_for(at(258)).is_zero());
}

#[test]
fn a_shorter_lease_in_a_new_file_shortens_no_promise() {
    let before = Memory { longest_wait: ms(10_000), ..Memory::default() };
    let mut voter = Voter::new(at(0), Some(&usual()), before);
    assert_eq!(voter.older_runs_for(at(258)), ms(9_742));
    voter.settle(at(9_999));
    assert_eq!(voter.memory().longest_wait, ms(10_000));
    voter.settle(at(10_000));
    assert_eq!(voter.memory().longest_wait, usual().wait);
}

#[test]
fn the_wait_counts_from_the_last_grant() {
    let mut voter = fresh();
    voter.seal(Epoch(1));
    assert_eq!(voter.grant(at(1_000), &member("a"), Epoch(1)), Ok(()));
    assert_eq!(voter.grant(at(1_050), &member("a"), Epoch(1)), Ok(()));
    assert!(voter.older_runs_for(at(1_050)).is_zero(), "a lease of the sealed epoch is no older one");
    voter.seal(Epoch(2));
    assert_eq!(voter.older_runs_for(at(1_050)), usual().wait);
    assert_eq!(voter.grant(at(1_060), &member("a"), Epoch(1)), Err(No::Sealed));
    assert_eq!(voter.older_runs_for(at(1_060)), usual().wait - ms(10), "a refusal promises nothing");
    assert_eq!(voter.grant(at(1_060), &member("b"), Epoch(2)), Ok(()), "an arbiter sealed: it looked after the old");
}

#[test]
fn an_epoch_is_one_members() {
    let mut voter = fresh();
    voter.seal(Epoch(1));
    assert_eq!(voter.grant(at(0), &member("a"), Epoch(1)), Ok(()));
    assert_eq!(voter.grant(at(9_000), &member("b"), Epoch(1)), Err(No::Other));
    let again = Voter::new(at(0), Some(&usual()), voter.memory().clone());
    assert_eq!(again.clone().grant(at(0), &member("b"), Epoch(1)), Err(No::Other), "not even after a restart");
    assert_eq!(again.clone().grant(at(0), &member("a"), Epoch(1)), Ok(()), "and its holder need not wait");
}

#[test]
fn an_epoch_that_no_arbiter_sealed_here_has_to_wait() {
    let mut voter = fresh();
    voter.seal(Epoch(1));
    voter.grant(at(1_000), &member("a"), Epoch(1)).unwrap();
    assert_eq!(voter.grant(at(1_010), &member("b"), Epoch(2)), Err(No::LeaseRuns));
    assert_eq!(voter.sealed(), Epoch(2), "and yet it is adopted");
    assert_eq!(voter.grant(at(1_020), &member("a"), Epoch(1)), Err(No::Sealed));
    let mut sealed = voter.clone();
    sealed.seal(Epoch(2));
    assert_eq!(sealed.grant(at(1_020), &member("b"), Epoch(2)), Ok(()));
    assert_eq!(voter.grant(at(1_258), &member("b"), Epoch(2)), Ok(()));
    // The same member in a larger epoch endangers nobody.
    assert_eq!(voter.grant(at(1_259), &member("b"), Epoch(3)), Ok(()));
}

/// An epoch that was only claimed before an arbiter sealed it is no ground to take the next one without waiting.
#[test]
fn a_claim_that_was_never_granted_carries_no_further() {
    let mut voter = fresh();
    assert_eq!(voter.grant(at(0), &member("b"), Epoch(0)), Ok(()));
    assert_eq!(voter.grant(at(0), &member("a"), Epoch(3)), Err(No::LeaseRuns));
    voter.seal(Epoch(3));
    assert_eq!(voter.grant(at(0), &member("a"), Epoch(4)), Err(No::LeaseRuns), "the lease of b runs");
    assert_eq!(voter.grant(at(258), &member("a"), Epoch(4)), Ok(()));
}

#[derive(Clone, Debug)]
enum Step {
    Seal(u64),
    Adopt(u64),
    Claim(bool, u64),
    Grant(bool, u64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let step = prop_oneof![
        1 => (0u64..6).prop_map(Step::Seal),
        1 => (0u64..6).prop_map(Step::Adopt),
        1 => (any::<bool>(), 0u64..6).prop_map(|(who, epoch)| Step::Claim(who, epoch)),
        6 => (any::<bool>(), 0u64..6).prop_map(|(who, epoch)| Step::Grant(who, epoch)),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec((0u64..200, step), 1..100)
}

proptest! {
    #[test]
    fn no_promise_is_ever_broken(steps in steps()) {
        let mut voter = fresh();
        let mut now = 0;
        let mut started = 0;
        let mut highest = Epoch::ZERO;
        let mut holders: BTreeMap<Epoch, MemberName> = BTreeMap::new();
        let mut granted: Vec<(u64, Epoch)> = Vec::new();
        let mut sealed_by_arbiter = Epoch::ZERO;
        for (pass, step) in steps {
            now += pass;
            match step {
                Step::Seal(epoch) => {
                    voter.seal(Epoch(epoch));
                    if voter.sealed() == Epoch(epoch) {
                        sealed_by_arbiter = Epoch(epoch);
                    }
                }
                Step::Adopt(epoch) => voter.adopt(Epoch(epoch)),
                Step::Claim(who, epoch) => {
                    let _ = voter.claim(&member(if who { "a" } else { "b" }), Epoch(epoch));
                }
                Step::Restart => {
                    voter = Voter::new(at(now), Some(&usual()), voter.memory().clone());
                    started = now;
                }
                Step::Grant(who, epoch) => {
                    let (who, epoch) = (member(if who { "a" } else { "b" }), Epoch(epoch));
                    if voter.grant(at(now), &who, epoch).is_ok() {
                        prop_assert!(epoch >= highest);
                        prop_assert_eq!(holders.entry(epoch).or_insert_with(|| who.clone()), &who);
                        let others = granted.iter().filter(|(_, of)| *of < epoch && holders[of] != who);
                        // By an arbiter's word, or because it goes on from this voter's own last grant.
                        let goes_on = granted.last().is_some_and(|(_, of)| holders[of] == who);
                        let is_proven = sealed_by_arbiter == epoch || goes_on;
                        for (then, _) in others {
                            prop_assert!(is_proven || at(now).since(at(*then)) >= usual().wait);
                        }
                        granted.push((now, epoch));
                    }
                }
            }
            prop_assert!(voter.sealed() >= highest);
            highest = voter.sealed();
            // "It is over" is said only of leases that are over by this voter's own count.
            if voter.older_runs_for(at(now)).is_zero() {
                prop_assert!(at(now).since(at(started)) >= usual().wait);
                for (then, of) in &granted {
                    let has_waited = Duration::from_millis(now - then) >= usual().wait;
                    prop_assert!(*of == highest || has_waited, "a grant of {} at {then}, now {now}", of);
                }
            }
        }
    }
}
