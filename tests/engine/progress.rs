//! `stalled`, `lag_above`: answers come, but nothing moves, or not fast enough.

use coroner::model::{
    Condition, Fact, FailureKind, Observer, Outcome, Role,
    Truth::{False, True, Unknown},
    policy::{Observers, SignalKind, SignalPolicy, Subjects, Traffic},
};

use crate::{
    court::{Court, arrived, role},
    policy::{NS, is, ms, nodes, secs, signal},
};

#[test]
fn a_counter_is_stalled_exactly_at_its_limit() {
    for (kind, fact) in [
        (SignalKind::Value, (|n| Fact::Value(f64::from(n))) as fn(u32) -> Fact),
        (SignalKind::Position, |n| Fact::Position { position: n.into() }),
        (SignalKind::Role, |n| Fact::Role(role(Role::Primary, n.into()))),
        (SignalKind::Text, |n| Fact::Text(n.to_string())),
    ] {
        let policy = signal(kind, Observers::Arbiter, Subjects::Primary);
        let mut court = Court::about(policy, is("s", Condition::Stalled(secs(3))));
        assert_eq!(court.truth(), Unknown);
        court.at(secs(1)).fact(fact(7)).at(secs(2)).fact(fact(8)).at(secs(3)).fact(fact(8)).at(secs(4)).fact(fact(8));
        assert_eq!(court.truth(), False, "{kind:?}");
        court.at(secs(5) - NS);
        assert_eq!(court.truth(), False, "{kind:?}");
        court.at(secs(5));
        assert_eq!(court.truth(), True, "{kind:?}");
        assert!(court.tree().seen.contains("3s ago"), "{}", court.tree().seen);
        court.at(secs(4) + ms(1500) + NS);
        assert_eq!(court.truth(), Unknown, "{kind:?}: no answer is no stall");
        court.fact(fact(8));
        assert_eq!(court.truth(), True);
        court.failure(FailureKind::TimedOut);
        assert_eq!(court.truth(), Unknown, "{kind:?}: a failure is no stall");
        court.fact(fact(9));
        assert_eq!(court.truth(), False);
        // A counter that begins anew has moved.
        court.at(secs(7)).fact(fact(9)).at(secs(8)).fact(fact(0)).at(secs(9)).fact(fact(0));
        assert_eq!(court.truth(), False, "{kind:?}");
    }
}

/// P26: arrivals that do not move though nobody sends are not stalled.
#[test]
fn a_stall_of_arrivals_needs_attempts() {
    let policy = |traffic| SignalPolicy {
        traffic,
        fresh_for: secs(3),
        ..signal(SignalKind::Arrivals, nodes(&["n1"]), Subjects::Service)
    };
    let mut court = Court::about(policy(Traffic::Attempted), is("s", Condition::Stalled(secs(60))));
    for s in 0..200 {
        court.at(secs(s)).report("n1", arrived(7, Some(secs(s)), Some(3)));
        assert_ne!(court.truth(), True, "idle at {s}s");
    }
    // From 200s on somebody sends, once a second, and it does not arrive.
    for s in 200..259 {
        court.at(secs(s)).report("n1", arrived(7, Some(secs(s)), Some(s)));
        assert_ne!(court.truth(), True, "{s}s");
    }
    for s in 259..300 {
        court.at(secs(s)).report("n1", arrived(7, Some(secs(s)), Some(s)));
    }
    assert_eq!(court.truth(), True, "attempts are remembered as long as a stall needs them");

    let mut court = Court::about(policy(Traffic::Constant), is("s", Condition::Stalled(secs(5))));
    court.at(secs(1)).report("n1", arrived(7, None, None)).at(secs(4)).report("n1", arrived(7, None, None));
    court.at(secs(6) - NS);
    assert_eq!(court.truth(), False);
    court.at(secs(6));
    assert_eq!(court.truth(), True);
}

#[test]
fn lag_is_measured_against_the_last_known_position_of_the_primary() {
    let mut court = Court::about(
        signal(SignalKind::Position, Observers::Arbiter, Subjects::Members),
        is("s", Condition::LagAbove(100)),
    );
    let b = |court: &mut Court, position| {
        court.sees("s", Observer::Arbiter, Some("b"), Outcome::Fact(Fact::Position { position }));
    };
    b(&mut court, 900);
    assert_eq!(court.truth(), Unknown, "the primary never told its position");
    court.fact(Fact::Position { position: 1000 });
    assert_eq!(court.truth(), False, "exactly 100 behind");
    court.fact(Fact::Position { position: 1001 });
    assert_eq!(court.truth(), True);
    // The primary dies: its last position stands, also when it is old.
    court.at(secs(1));
    b(&mut court, 950);
    court.at(secs(2));
    b(&mut court, 950);
    assert_eq!(court.why().rules[0].tree.children[1].truth, False);
    assert!(court.tree().children[1].seen.contains("51 behind the primary"), "{:?}", court.tree().children[1]);
    court.sees("s", Observer::Arbiter, Some("b"), Outcome::Fact(Fact::Position { position: 2000 }));
    assert_eq!(court.tree().children[1].truth, False, "ahead is not behind");
}

#[test]
fn lag_in_time_is_what_the_link_says() {
    let link = || signal(SignalKind::Link, Observers::Arbiter, Subjects::Standbys);
    let mut court = Court::about(link(), is("s", Condition::LagLongerThan(secs(5))));
    let said = |last_io| Outcome::Fact(Fact::Link { up: true, last_io });
    for (last_io, expected) in
        [(None, Unknown), (Some(secs(5)), False), (Some(secs(5) + NS), True), (Some(secs(0)), False)]
    {
        court.sees("s", Observer::Arbiter, Some("b"), said(last_io));
        assert_eq!(court.truth(), expected, "{last_io:?}");
    }
    // For a node it is the age of its last arrival.
    let mut court = Court::about(
        signal(SignalKind::Arrivals, nodes(&["n1"]), Subjects::Service),
        is("s", Condition::LagLongerThan(secs(5))),
    );
    for (age, expected) in [(None, Unknown), (Some(secs(5)), False), (Some(secs(6)), True)] {
        court.report("n1", arrived(1, age, None));
        assert_eq!(court.truth(), expected);
    }
}
