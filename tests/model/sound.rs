//! The engine as it is: nothing forbidden can happen, and everything wanted does.

use coroner::model::Action;

use crate::{
    goals::Goal,
    moves::Move,
    search::{Limits, Outcome, search},
    setup::{Bug, Faults, Setup, link, links_of},
    world::What,
};

/// `always` and `sometimes` of one run.
#[track_caller]
fn holds(setup: &Setup, limits: Limits, sometimes: &[Goal]) -> Outcome {
    let outcome = search(setup, limits);
    println!("{}", outcome.summary(setup.name));
    for (faults, states) in &outcome.by_faults {
        println!("    {states} states after {faults}");
    }
    if let Some(story) = &outcome.wrong {
        panic!("{}: {}", setup.name, story.text);
    }
    let missing = Goal::set(sometimes) & !outcome.reached;
    assert_eq!(missing, 0, "{}: never reached: {}", setup.name, Goal::names(missing).join(", "));
    outcome
}

/// The same, and no state was left out.
#[track_caller]
fn holds_everywhere(setup: &Setup, sometimes: &[Goal]) {
    let limits = match by_hand() {
        Some(_) => Limits { tells: true, ..Limits::default() },
        None => Limits { calm_every: 8, ..Limits::default() },
    };
    let outcome = holds(setup, limits, sometimes);
    assert!(outcome.is_exhausted, "{}: there are states that were not seen", setup.name);
}

/// How many states by hand. CI looks at small bounds, and at all of them.
pub fn by_hand() -> Option<usize> {
    let text = std::env::var("CORONER_MODEL_STATES").ok()?;
    Some(text.replace('_', "").parse().expect("CORONER_MODEL_STATES is a number of states"))
}

/// In CI, of the faults that differ least from one another one is drawn, in the first second or within an incident; by hand,
/// all of them are, at any time, and what undoes them too.
fn in_ci(mut setup: Setup, cuts: Vec<u16>) -> Setup {
    if by_hand().is_none() {
        setup.cuts = cuts;
        setup.mends_within = 0;
        setup.draws = |world, what| match what {
            Move::Die(_) | Move::Freeze(_) => false,
            Move::Cut(_) => world.now == 0,
            _ => true,
        };
    }
    setup
}

#[test]
fn one_fault_of_any_kind_with_a_lease() {
    let setup = in_ci(Setup::new("lease, one fault", true, Faults::any(1)), vec![link(0, 2), links_of(&[2])]);
    holds_everywhere(
        &setup,
        &[Goal::FailsOver, Goal::SwitchesOver, Goal::Rejoins, Goal::ProvedByFence, Goal::ProvedByLease],
    );
}

#[test]
fn one_fault_of_any_kind_without_a_lease() {
    let setup = in_ci(Setup::new("fences, one fault", false, Faults::any(1)), vec![link(0, 2), links_of(&[2])]);
    holds_everywhere(&setup, &[Goal::FailsOver, Goal::SwitchesOver, Goal::ProvedByFence]);
}

/// Holders' clocks as slow, and voters' as fast, as the lease's arithmetic allows: a primary that is cut off from everybody.
#[test]
fn one_cut_with_clocks_at_their_bounds() {
    let bounds = Faults { all: 1, cut: 1, ..Faults::NONE };
    let setup = Setup::with("lease, clocks a tenth off", true, bounds, 100, Bug::None);
    holds_everywhere(&in_ci(setup, vec![links_of(&[2])]), &[Goal::FailsOver, Goal::ProvedByLease]);
}

/// A host that freezes serves on as soon as it thaws, unless its lease is over: whenever that is.
#[test]
fn a_frozen_primary_thaws_at_any_time() {
    let bounds = Faults { all: 1, freeze: 1, ..Faults::NONE };
    let mut setup = Setup::new("lease, the primary freezes and thaws", true, bounds);
    if by_hand().is_none() {
        setup.mends_within = 6;
        setup.draws = |world, what| what == Move::Freeze(0) && world.now == 0;
    }
    holds_everywhere(&setup, &[Goal::FailsOver, Goal::ProvedByLease, Goal::Rejoins]);
}

/// Ends as soon as all of these were reached: what is to happen at some time does.
#[track_caller]
fn comes_to(setup: &Setup, sometimes: &[Goal]) {
    let until = Some(Goal::set(sometimes));
    holds(setup, Limits { until, calm_every: 16, ..Limits::default() }, sometimes);
}

/// A switchover is given up, and what its leader had begun is ended, or refused, once another one leads.
#[test]
fn a_switchover_is_given_up() {
    let mut setup = Setup::new("a switchover given up", false, Faults { all: 2, command: 2, ..Faults::NONE });
    setup.draws = |_, what| matches!(what, Move::Switchover(_) | Move::Abort(_));
    comes_to(&setup, &[Goal::Aborts, Goal::SwitchesOver]);
}

#[test]
fn a_failover_is_held_for_a_person() {
    let mut setup = Setup::new("a failover held", true, Faults { all: 2, cut: 2, ..Faults::NONE });
    // Neither the primary nor enough voters are reached.
    setup.cuts = vec![links_of(&[2, 3]), link(0, 2)];
    setup.draws = |world, what| match what {
        Move::Cut(0) => !world.store.open.is_empty(),
        Move::Cut(_) => world.now == 0,
        _ => false,
    };
    setup.mends_within = 0;
    comes_to(&setup, &[Goal::Holds]);
}

/// The second arbiter ends what the first had begun; a record and an order of the first that come too late are refused.
#[test]
fn a_takeover_in_the_middle() {
    let bounds = Faults { all: 2, cut: 1, usurp: 1, ..Faults::NONE };
    let mut setup = Setup::new("a takeover in the middle of a failover", false, bounds);
    setup.cuts = vec![link(0, 2)];
    setup.draws = |world, what| match what {
        Move::Cut(_) => world.now == 0,
        Move::Usurp(_) => world.spent.cut > 0,
        _ => false,
    };
    setup.mends_within = 0;
    comes_to(&setup, &[Goal::TakesOver, Goal::RefusesWrite, Goal::Repeats]);
}

/// A leader that was followed by another one has an act lying in a queue, which comes after two switchovers.
#[test]
fn an_order_of_a_former_leader_is_refused() {
    let bounds = Faults { all: 4, command: 2, act: 1, usurp: 1, ..Faults::NONE };
    let mut setup = Setup::new("an order that comes too late", false, bounds);
    setup.draws = |world, what| match what {
        Move::Switchover(0) => world.now == 0 && world.spent.all == 0,
        Move::Twice(flight) => {
            matches!(&*world.flights[usize::from(flight)].what, What::Run(run) if run.action == Action::Promote)
        }
        Move::Usurp(1) => world.spent.act == 1 && world.store.open.is_empty() && world.flights.len() == 1,
        Move::Switchover(1) => world.spent.usurp == 1,
        _ => false,
    };
    setup.mends_within = 0;
    comes_to(&setup, &[Goal::RefusesStale]);
}

/// Two faults of any kind, to the end: by hand only a matter of patience.
#[test]
fn two_faults_of_any_kind() {
    for (name, has_lease) in [("fences, two faults", false), ("lease, two faults", true)] {
        let setup = Setup::new(name, has_lease, Faults::any(2));
        let limits = match by_hand() {
            Some(states) => Limits { is_depth_first: true, states, calm_every: 16, tells: true, ..Limits::default() },
            None => Limits { states: 300, calm_every: 4, ..Limits::default() },
        };
        let _ = holds(&setup, limits, &[]);
    }
}

/// As far as somebody wants to wait: three faults of any kind.
#[test]
fn as_far_as_asked_for() {
    let limits = Limits { is_depth_first: true, ..Limits::default() };
    let limits = match by_hand() {
        Some(states) => Limits { states, calm_every: 16, tells: true, ..limits },
        None => Limits { states: 200, calm_every: 4, ..limits },
    };
    // An order that is late by two switchovers lies deeper: the test above looks for it.
    let all = Goal::ALL.into_iter().filter(|goal| *goal != Goal::RefusesStale);
    let goals: Vec<Goal> = if by_hand().is_some() { all.collect() } else { Vec::new() };
    let setups = [
        Setup::new("lease, three faults", true, Faults::any(3)),
        Setup::new("fences, three faults", false, Faults::any(3)),
        Setup::with("lease, clocks a tenth off, three faults", true, Faults::any(3), 100, Bug::None),
    ];
    let mut reached = 0;
    for setup in setups {
        reached |= holds(&setup, limits, &[]).reached;
    }
    let missing = Goal::set(&goals) & !reached;
    assert_eq!(missing, 0, "never reached: {}", Goal::names(missing).join(", "));
}
