//! The holder: does it ever serve longer than a majority let it?

use std::time::Duration;

use coroner::{
    lease::holder::Holder,
    model::{PartyName, Time},
};
use proptest::prelude::*;

use super::{ms, usual};

fn at(ms: u64) -> Time {
    Time::from_millis(1_000 + ms)
}

fn party(name: &str) -> PartyName {
    name.into()
}

#[test]
fn the_lease_counts_from_before_the_request() {
    let mut holder = Holder::new(usual());
    let request = holder.ask(at(0));
    assert_eq!(holder.granted(at(30), &party("a"), request), None, "one of three is no majority");
    assert_eq!(holder.granted(at(40), &party("a"), request), None, "the same voter twice is one voter");
    let extended = holder.granted(at(50), &party("b"), request).unwrap();
    assert_eq!(extended.deadline, at(200));
    assert_eq!(holder.remaining(at(50)), Some(ms(138)), "less the time of the local fence");
}

#[test]
fn an_answer_to_an_older_request_extends_to_that_request_only() {
    let mut holder = Holder::new(usual());
    let first = holder.ask(at(0));
    let second = holder.ask(at(50));
    holder.granted(at(60), &party("a"), second);
    holder.granted(at(60), &party("b"), second);
    assert_eq!(holder.deadline(), Some(at(250)));
    holder.granted(at(70), &party("a"), first);
    assert_eq!(holder.granted(at(70), &party("b"), first), None);
    assert_eq!(holder.deadline(), Some(at(250)));
}

#[test]
fn answers_of_two_requests_make_no_majority() {
    let mut holder = Holder::new(usual());
    let first = holder.ask(at(0));
    let second = holder.ask(at(50));
    holder.granted(at(60), &party("a"), first);
    assert_eq!(holder.granted(at(60), &party("b"), second), None);
    assert_eq!(holder.deadline(), None);
}

#[test]
fn what_comes_too_late_or_from_no_voter_extends_nothing() {
    let mut holder = Holder::new(usual());
    let request = holder.ask(at(0));
    holder.granted(at(10), &party("a"), request);
    assert_eq!(holder.granted(at(10), &party("mallory"), request), None);
    assert_eq!(holder.granted(at(188), &party("b"), request), None, "the local fence would have to begin already");
    assert_eq!(holder.granted(at(10), &party("b"), request + 1), None, "never asked");
}

#[test]
fn it_expires_once_and_can_be_had_again() {
    let mut holder = Holder::new(usual());
    let request = holder.ask(at(0));
    for voter in ["a", "b"] {
        holder.granted(at(10), &party(voter), request);
    }
    assert!(!holder.expire(at(187)));
    assert!(holder.expire(at(188)));
    assert!(!holder.expire(at(189)));
    let again = holder.ask(at(190));
    for voter in ["a", "b"] {
        holder.granted(at(200), &party(voter), again);
    }
    assert_eq!(holder.deadline(), Some(at(390)));
    holder.reset();
    assert_eq!(holder.granted(at(200), &party("arbiter"), again), None, "what was asked before means nothing now");
}

proptest! {
    /// Whatever comes in whatever order: the deadline is that of a request that a majority granted, and none later.
    #[test]
    fn the_deadline_is_that_of_the_newest_request_with_a_majority(
        steps in prop::collection::vec((0u64..60, prop::option::of((0u64..20, 0usize..4))), 1..200)
    ) {
        let names = ["arbiter", "a", "b", "mallory"];
        let mut holder = Holder::new(usual());
        let mut asked: Vec<(u64, Time, [bool; 3])> = Vec::new();
        let mut now = at(0);
        for (pass, step) in steps {
            now = now + Duration::from_millis(pass);
            match step {
                None => asked.push((holder.ask(now), now, [false; 3])),
                Some((back, voter)) => {
                    let Some(index) = asked.len().checked_sub(1 + usize::try_from(back).unwrap()) else { continue };
                    let number = asked[index].0;
                    if let Some(vote) = asked[index].2.get_mut(voter) {
                        *vote = true;
                    }
                    holder.granted(now, &party(names[voter]), number);
                }
            }
            let most = asked
                .iter()
                .filter(|(_, _, votes)| votes.iter().filter(|vote| **vote).count() >= 2)
                .map(|(_, sent, _)| *sent + ms(200))
                .max();
            prop_assert!(holder.deadline() <= most);
            if let Some(left) = holder.remaining(now) {
                prop_assert!(now + left + ms(12) <= most.unwrap());
            }
        }
    }
}
