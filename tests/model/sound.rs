//! The engine as it is: nothing forbidden can happen, and everything wanted does.

use crate::{
    goals::Goal,
    search::{Limits, Outcome, search},
    setup::{Bug, Faults, Setup},
};

/// `always` and `sometimes` of one run.
#[track_caller]
fn holds(setup: &Setup, limits: Limits, sometimes: &[Goal]) -> Outcome {
    let outcome = search(setup, limits);
    println!("{}", outcome.summary(setup.name));
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
    let outcome = holds(setup, Limits::default(), sometimes);
    assert!(outcome.is_exhausted, "{}: there are states that were not seen", setup.name);
}

/// How many states by hand. CI looks at small bounds, and at all of them.
pub fn by_hand() -> Option<usize> {
    let text = std::env::var("CORONER_MODEL_STATES").ok()?;
    Some(text.replace('_', "").parse().expect("CORONER_MODEL_STATES is a number of states"))
}

#[test]
fn one_fault_of_any_kind_with_a_lease() {
    let setup = Setup::new("lease, one fault", true, Faults::any(1));
    holds_everywhere(
        &setup,
        &[Goal::FailsOver, Goal::SwitchesOver, Goal::Rejoins, Goal::ProvedByFence, Goal::ProvedByLease],
    );
}

#[test]
fn one_fault_of_any_kind_without_a_lease() {
    let setup = Setup::new("fences, one fault", false, Faults::any(1));
    holds_everywhere(&setup, &[Goal::FailsOver, Goal::SwitchesOver, Goal::Holds, Goal::ProvedByFence]);
}

/// Holders' clocks as slow, and voters' as fast, as the lease's arithmetic allows.
#[test]
fn one_cut_with_clocks_at_their_bounds() {
    let bounds = Faults { all: 1, cut: 1, freeze: 1, ..Faults::NONE };
    let setup = Setup::with("lease, clocks a tenth off", true, bounds, 100, Bug::None);
    holds_everywhere(&setup, &[Goal::FailsOver, Goal::ProvedByLease]);
}

/// As far as somebody wants to wait: three faults of any kind.
#[test]
fn as_far_as_asked_for() {
    let limits = Limits { is_depth_first: true, ..Limits::default() };
    let limits = match by_hand() {
        Some(states) => Limits { states, calm_every: 16, tells: true, ..limits },
        None => Limits { states: 2_000, ..limits },
    };
    let goals: &[Goal] = if by_hand().is_some() { &Goal::ALL } else { &[] };
    let setups = [
        Setup::new("lease, three faults", true, Faults::any(3)),
        Setup::new("fences, three faults", false, Faults::any(3)),
        Setup::with("lease, clocks a tenth off, three faults", true, Faults::any(3), 100, Bug::None),
    ];
    let mut reached = 0;
    for setup in setups {
        reached |= holds(&setup, limits, &[]).reached;
    }
    let missing = Goal::set(goals) & !reached;
    assert_eq!(missing, 0, "never reached: {}", Goal::names(missing).join(", "));
}
