//! Time: what the engine wakes for, what it forgets, and which clock it believes.

use coroner::model::{
    Command, Condition, Event, Expr, Fact, Failure, FailureKind, Notice, Observer, Operator, Outcome, Time,
    Truth::{self, False, True, Unknown},
    WallAnchor,
    explain::Guard,
    policy::{Observers, SignalKind, Subjects, Traffic},
};
use proptest::prelude::*;

use crate::{
    court::{ANCHOR, Court, OPENS, arrived, ok},
    policy::{NS, all, any, bare, held, is, ms, nodes, not, policy, rule, secs, signal, within},
};

fn ping(condition: Condition) -> Court {
    Court::about(signal(SignalKind::Check, Observers::Arbiter, Subjects::Primary), is("s", condition))
}

/// A driver that comes back later than it was asked to still gets its answer at once.
#[test]
fn a_wake_up_that_comes_late_is_not_lost() {
    let heartbeat = signal(SignalKind::Heartbeat, Observers::Members, Subjects::Primary);
    let mut court = Court::about(heartbeat, is("s", Condition::Silent(secs(2))));
    court.beat(1);
    assert_eq!(court.truth(), False);
    court.leap(secs(2) + ms(300));
    assert_eq!(court.truth(), True);
    assert!(court.engine.poll_timeout().is_some_and(|wake| wake > court.now), "and it sleeps again");
}

/// A11, A12, C3: an arbiter that ran late, or whose machine slept, forgets its suspicions and starts anew.
#[test]
fn after_tilt_nothing_that_was_seen_before_counts() {
    let late = |by| Event::RanLate { by, detail: "the loop was late".into() };
    // k of n: the window starts anew.
    let mut court = ping(Condition::FailingOf { failures: 3, of: 3 });
    for s in 1..4 {
        court.at(secs(s)).failure(FailureKind::TimedOut);
    }
    assert_eq!(court.truth(), True);
    court.event(late(ms(499)));
    assert_eq!(court.truth(), True, "a little late is nothing");
    court.event(late(ms(500)));
    assert_eq!(court.truth(), Unknown);
    court.failure(FailureKind::TimedOut).failure(FailureKind::TimedOut);
    assert_eq!(court.truth(), Unknown);
    court.failure(FailureKind::TimedOut);
    assert_eq!(court.truth(), True);

    // Newest outcomes: what was fresh is void.
    for condition in [Condition::Failing, Condition::FailedWith(FailureKind::TimedOut)] {
        let mut court = ping(condition);
        court.at(secs(1)).failure(FailureKind::TimedOut);
        assert_eq!(court.truth(), True);
        court.at(ms(1100)).event(late(secs(30)));
        assert_eq!(court.truth(), Unknown);
        assert!(court.tree().seen.contains("before all was looked at anew"), "{}", court.tree().seen);
        court.failure(FailureKind::TimedOut);
        assert_eq!(court.truth(), True);
    }

    // Silences count from now.
    let beat = signal(SignalKind::Heartbeat, Observers::Members, Subjects::Primary);
    let mut court = Court::about(beat, is("s", Condition::Silent(secs(10))));
    court.beat(1).at(secs(30));
    assert_eq!(court.truth(), True);
    court.event(late(secs(29)));
    assert_eq!(court.truth(), False);
    court.at(secs(40) - NS);
    assert_eq!(court.truth(), False);
    court.at(secs(40));
    assert_eq!(court.truth(), True);

    // A hold begins anew.
    let mut court = Court::about(
        signal(SignalKind::Check, Observers::Arbiter, Subjects::Primary),
        held(is("s", Condition::Failing), secs(1)),
    );
    court.failure(FailureKind::TimedOut).at(ms(1000));
    assert_eq!(court.truth(), True);
    court.event(late(secs(29))).failure(FailureKind::TimedOut);
    assert_eq!(court.truth(), False);
}

/// Tilt ends by itself, and every new cause prolongs it; it is told when it begins and when it ends.
#[test]
fn tilt_ends_by_itself() {
    let mut court = ping(Condition::Ok);
    let tilt = |court: &Court| court.engine.status(court.now).tilt;
    court.at(secs(10)).event(Event::RanLate { by: secs(1), detail: "slept".into() });
    assert_eq!(tilt(&court), Some("slept".into()));
    court.at(secs(13)).event(Event::RanLate { by: secs(1), detail: "slept again".into() });
    court.at(secs(18) - NS);
    assert_eq!(tilt(&court), Some("slept again".into()));
    court.at(secs(18));
    assert_eq!(tilt(&court), None);
    let own: Vec<bool> = court
        .told
        .iter()
        .filter_map(|n| match n {
            Notice::Own { what, ok, .. } if what == "tilt" => Some(*ok),
            _ => None,
        })
        .collect();
    assert_eq!(own, [false, false, true]);
}

/// C1: the wall clock jumps; pauses and cooldowns of this life run by the boot clock.
#[test]
fn a_jump_of_the_wall_clock_changes_no_decision() {
    for jump_ms in [3_600_000_i64, -3_600_000] {
        let mut court = ping(Condition::Ok);
        let pause = Command::Pause { cluster: None, owner: "ann".into(), reason: "x".into(), for_: Some(secs(60)) };
        court.event(Event::Commanded { by: Operator("ann".into()), command: pause, reply_to: 1 });
        let paused = |court: &Court| court.why_not().guards.into_iter().any(|g| g.guard == Guard::Paused && g.blocks);
        assert!(paused(&court));
        let anchor = WallAnchor { boot: OPENS, unix_ms: ANCHOR.unix_ms + jump_ms };
        court.event(Event::WallClockRead(anchor));
        assert_eq!(court.engine.anchor(), anchor);
        court.at(secs(60) - NS);
        assert!(paused(&court), "jump of {jump_ms} ms");
        court.at(secs(60));
        assert!(!paused(&court), "jump of {jump_ms} ms");
    }
}

#[derive(Clone, Debug)]
enum Seen {
    Ok,
    Fail,
    NoEvidence,
    Beat,
    Report { age_s: u64, attempted: u64 },
}

fn rules() -> Vec<Expr> {
    let ping = |c| is("ping", c);
    let beat = |c| is("beat", c);
    let arrivals = |c| is("arrivals", c);
    vec![
        ping(Condition::Ok),
        not(ping(Condition::Failing)),
        ping(Condition::FailingOf { failures: 2, of: 3 }),
        ping(Condition::Silent(ms(700))),
        beat(Condition::Silent(ms(900))),
        not(beat(Condition::Silent(ms(300)))),
        beat(Condition::PhiAbove(3.0)),
        arrivals(Condition::Silent(ms(1200))),
        arrivals(Condition::Stalled(ms(1100))),
        held(ping(Condition::Failing), ms(400)),
        within(ping(Condition::Failing), ms(500), ms(1300)),
        held(within(ping(Condition::Failing), ms(300), ms(900)), ms(250)),
        within(held(beat(Condition::Silent(ms(400))), ms(100)), ms(200), ms(2000)),
        all(vec![held(ping(Condition::Failing), ms(150)), not(beat(Condition::Silent(ms(600))))]),
        any(vec![arrivals(Condition::Silent(ms(500))), held(not(ping(Condition::Ok)), ms(333))]),
    ]
}

fn court() -> Court {
    let mut cluster = bare(&["a", "b"]);
    cluster.nodes = vec!["n1".into()];
    let with = |mut s: coroner::model::policy::SignalPolicy, fresh| {
        (s.fresh_for, s.every, s.traffic) = (fresh, ms(200), Traffic::Attempted);
        s
    };
    cluster
        .signals
        .insert("ping".into(), with(signal(SignalKind::Check, Observers::Arbiter, Subjects::Primary), ms(450)));
    cluster
        .signals
        .insert("beat".into(), with(signal(SignalKind::Heartbeat, Observers::Members, Subjects::Primary), ms(600)));
    cluster
        .signals
        .insert("arrivals".into(), with(signal(SignalKind::Arrivals, nodes(&["n1"]), Subjects::Service), ms(800)));
    cluster.rules = rules()
        .into_iter()
        .enumerate()
        .map(|(i, when)| {
            rule(&format!("r{i}"), when, coroner::model::Verdict::Dead, coroner::model::rule::Reaction::Alert)
        })
        .collect();
    Court::of(cluster)
}

fn see(court: &mut Court, seen: &Seen) {
    let a = Some("a");
    match seen {
        Seen::Ok => court.sees("ping", Observer::Arbiter, a, Outcome::Fact(ok())),
        Seen::Fail => {
            court.sees("ping", Observer::Arbiter, a, Outcome::Failure(Failure::new(FailureKind::TimedOut, "")))
        }
        Seen::NoEvidence => {
            court.sees("ping", Observer::Arbiter, a, Outcome::Failure(Failure::new(FailureKind::Tls, "")))
        }
        Seen::Beat => {
            court.sees("beat", Observer::Member("a".into()), a, Outcome::Fact(Fact::Beat { seq: 1, echoed: true }))
        }
        Seen::Report { age_s, attempted } => {
            let report = arrived(7, Some(ms(age_s * 100)), Some(*attempted));
            court.sees("arrivals", Observer::Node("n1".into()), None, Outcome::Fact(Fact::Arrivals(report)))
        }
    };
}

fn truths(court: &Court) -> Vec<Truth> {
    court.why().rules.iter().map(|r| r.truth).collect()
}

fn nothing_new() -> Event {
    Event::FenceChecked {
        cluster: "orders".into(),
        member: "b".into(),
        level: 0,
        method: 0,
        health: coroner::model::FenceHealth { usable: None, detail: String::new() },
    }
}

fn seen() -> impl Strategy<Value = Seen> {
    prop_oneof![
        2 => Just(Seen::Ok),
        3 => Just(Seen::Fail),
        1 => Just(Seen::NoEvidence),
        3 => Just(Seen::Beat),
        3 => (0u64..20, 0u64..50).prop_map(|(age_s, attempted)| Seen::Report { age_s, attempted }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// The engine is woken in time for every change: looking every millisecond sees nothing that jumping from wake to
    /// wake does not see at the same moment.
    #[test]
    fn it_is_woken_in_time_for_every_change(list in proptest::collection::vec((1u64..600, seen()), 1..12)) {
        let mut stepping = court();
        let mut jumping = court();
        let mut at = 0;
        for (wait, seen) in list.iter().chain(&[(3000, Seen::Ok)]) {
            for ms_at in at + 1..=at + wait {
                // Something that says nothing of any signal makes it look.
                stepping.at(ms(ms_at)).event(nothing_new());
                jumping.at(ms(ms_at));
                let (s, j) = (truths(&stepping), truths(&jumping));
                prop_assert_eq!(&s, &j, "at {} ms of {:?}", ms_at, list);
            }
            at += wait;
            see(&mut stepping, seen);
            see(&mut jumping, seen);
        }
    }
}

/// An idle engine is looked at about once a second, and never asks to be woken in the past.
#[test]
fn an_idle_engine_sleeps() {
    let mut court = ping(Condition::Ok);
    let mut wakes = 0;
    while court.now < OPENS + secs(60) {
        let wake = court.engine.poll_timeout().unwrap();
        assert!(wake > court.now);
        court.now = wake;
        court.engine.handle_timeout(wake);
        court.settle();
        wakes += 1;
    }
    assert!(wakes <= 61, "{wakes}");
    let mut nobody = coroner::engine::Engine::new(Time(5), ANCHOR, 1, policy(Vec::new()), Default::default());
    assert_eq!((nobody.poll_timeout(), nobody.poll_effect()), (None, None));
    assert_eq!(court.truth(), Unknown);
}

/// A driver that comes late finds everything that was due meanwhile; one that comes early finds nothing changed.
#[test]
fn woken_late_it_still_looks() {
    let beat = || signal(SignalKind::Heartbeat, Observers::Members, Subjects::Primary);
    let mut court = Court::about(beat(), is("s", Condition::Silent(ms(1300))));
    court.beat(1).leap(ms(700));
    assert_eq!(court.truth(), False);
    assert_eq!(court.engine.poll_timeout(), Some(OPENS + secs(1)), "an early call changes no wake");
    court.leap(ms(1900));
    assert_eq!(court.truth(), True);
    assert!(court.engine.poll_timeout().unwrap() > court.now);
}
