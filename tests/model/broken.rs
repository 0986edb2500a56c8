//! Can the checker fail? Each of these breaks one thing in the world around the engine, and has to be told the story of two
//! masters. The engine is the real one: that it stays right is not to be had in such a world.

use coroner::model::Action;

use crate::{
    moves::Move,
    search::{Limits, Story, search},
    setup::{Bug, Faults, Setup, links_of},
    world::{What, World},
};

/// Finds two masters, and tells how they come to be.
#[track_caller]
fn two_masters(setup: &Setup, limits: Limits) -> Story {
    let outcome = search(setup, limits);
    println!("{}", outcome.summary(setup.name));
    let story = outcome.wrong.unwrap_or_else(|| panic!("{}: nothing was found wrong", setup.name));
    println!("{}", story.text);
    assert!(story.what.starts_with("TWO MASTERS"), "{}", story.text);
    assert!(story.text.lines().count() >= story.moves.len(), "a story tells every move");
    story
}

/// The shortest story; whether incidents end is not asked.
fn shortest() -> Limits {
    Limits { calm_every: u32::MAX, ..Limits::default() }
}

fn is_about(world: &World, flight: u8, wanted: &Action) -> bool {
    matches!(&*world.flights[usize::from(flight)].what, What::Run(run) if run.action == *wanted)
}

fn with_cut(mut setup: Setup, cut: u16) -> Setup {
    setup.cuts = vec![cut];
    setup
}

/// One cut between the leader and the primary suffices: the primary serves on.
#[test]
fn a_fence_that_claims_falsely() {
    let bounds = Faults { all: 1, cut: 1, ..Faults::NONE };
    let setup = Setup::with("a fence that claims falsely", false, bounds, 0, Bug::FalseFence);
    two_masters(&setup, shortest());
}

/// A primary that nobody reaches holds its lease longer than the voters wait.
#[test]
fn voters_that_wait_too_short() {
    let bounds = Faults { all: 1, cut: 1, ..Faults::NONE };
    let setup = Setup::with("voters that wait too short", true, bounds, 0, Bug::ShortWait);
    two_masters(&with_cut(setup, links_of(&[2])), shortest());
}

/// The answers to a renewal are held up, the primary is cut off, and the answers arrive.
#[test]
fn a_holder_that_counts_from_the_answer() {
    let bounds = Faults { all: 2, cut: 1, slow: 1, ..Faults::NONE };
    let mut setup = Setup::with("a holder that counts from the answer", true, bounds, 0, Bug::CountsFromAnswer);
    setup.mends_within = 0;
    setup.draws = |world, what| match what {
        Move::Slow(0) => world.now == 0,
        Move::Cut(_) => world.members[0].late.is_some_and(|(_, sent, _)| sent == world.now),
        _ => false,
    };
    two_masters(&with_cut(setup, links_of(&[2])), shortest());
}

/// A switchover there and one back, and the first promotion arrives once more.
#[test]
fn an_agent_that_obeys_old_epochs() {
    let bounds = Faults { all: 3, act: 1, command: 2, ..Faults::NONE };
    let mut setup = Setup::with("an agent that obeys old epochs", false, bounds, 0, Bug::ObeysOldEpochs);
    setup.draws = |world, what| match what {
        Move::Switchover(_) if world.spent.command == 0 => world.now == 0,
        Move::Switchover(_) => world.spent.act == 1 && world.now <= 3,
        Move::Twice(flight) => world.spent.command == 1 && is_about(world, flight, &Action::Promote),
        _ => false,
    };
    two_masters(&setup, shortest());
}

/// Both arbiters lead. One drains the primary and promotes the standby; the other, in the same epoch, is asked to give its
/// own switchover up, and lets the primary take writes again.
#[test]
fn a_store_without_compare_and_swap() {
    let bounds = Faults { all: 3, command: 3, ..Faults::NONE };
    let mut setup = Setup::with("a store without compare-and-swap", false, bounds, 0, Bug::NoSwap);
    // The second one begins once the first has promoted, which it has not seen.
    setup.draws = |world, what| match what {
        Move::Switchover(0) => world.now == 0 && world.spent.command == 0,
        Move::Switchover(1) | Move::Abort(1) => world.members[1].is_primary,
        _ => false,
    };
    two_masters(&setup, shortest());
}
