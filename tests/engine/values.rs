//! `above`, `below`, `latency_above`, `text`, `role_is`, `writable`, `link`, `exited`, `firing`.

use coroner::model::{
    Condition, Fact, FailureKind, Role,
    Truth::{self, False, True, Unknown},
    observation::RoleReport,
    policy::{Observers, SignalKind, Subjects},
};

use crate::{
    court::{Court, ok, role},
    policy::{NS, is, ms, secs, signal},
};

/// Each condition, each fact, and what a failure that counts says. Every one of them: no data and stale data are
/// unknown, and so is a failure that is no evidence (F4).
fn table() -> Vec<(SignalKind, Condition, Vec<(Fact, Truth)>, Truth)> {
    use SignalKind as K;
    let value = Fact::Value;
    let latency = |ns| Fact::Ok { latency: ms(200) + NS * ns };
    let canary = |n| Fact::Canary { latency: ms(n) };
    let text = |t: &str| Fact::Text(t.into());
    let link = |up| Fact::Link { up, last_io: None };
    let role_link = |link_up| Fact::Role(RoleReport { link_up, ..role(Role::Standby, 1) });
    let process = |running| Fact::Process { running, detail: "signal 9".into() };
    let alert = |firing| Fact::Alert { firing };
    let at = |position| Fact::Position { position };
    vec![
        (
            K::Value,
            Condition::Above(0.9),
            vec![(value(0.9), False), (value(0.9 + 1e-9), True), (value(f64::NAN), Unknown), (ok(), Unknown)],
            Unknown,
        ),
        (
            K::Value,
            Condition::Below(3.0),
            vec![
                (value(3.0), False),
                (value(3.0 - 1e-9), True),
                (value(f64::NAN), Unknown),
                (value(f64::INFINITY), False),
            ],
            Unknown,
        ),
        (K::Position, Condition::Above(10.0), vec![(at(10), False), (at(11), True)], Unknown),
        (K::Position, Condition::Below(10.0), vec![(at(10), False), (at(9), True)], Unknown),
        (
            K::Check,
            Condition::LatencyAbove(ms(200)),
            vec![(latency(0), False), (latency(1), True), (value(1.0), Unknown)],
            Unknown,
        ),
        (K::Canary, Condition::LatencyAbove(ms(200)), vec![(canary(200), False), (canary(201), True)], Unknown),
        (
            K::Text,
            Condition::TextIs("ok".into()),
            vec![(text("ok"), True), (text("ok "), False), (text(""), False), (value(1.0), Unknown)],
            Unknown,
        ),
        (
            K::Role,
            Condition::RoleIs(Role::Standby),
            vec![
                (Fact::Role(role(Role::Standby, 1)), True),
                (Fact::Role(role(Role::Primary, 1)), False),
                (ok(), Unknown),
            ],
            Unknown,
        ),
        (
            K::Write,
            Condition::Writable(false),
            vec![(Fact::Writable(false), True), (Fact::Writable(true), False), (ok(), Unknown)],
            True,
        ),
        (
            K::Write,
            Condition::Writable(true),
            vec![(Fact::Writable(false), False), (Fact::Writable(true), True)],
            False,
        ),
        (K::Link, Condition::Link(true), vec![(link(true), True), (link(false), False)], Unknown),
        (K::Link, Condition::Link(false), vec![(link(true), False), (link(false), True)], Unknown),
        (
            K::Role,
            Condition::Link(false),
            vec![
                (role_link(Some(false)), True),
                (role_link(Some(true)), False),
                (role_link(None), Unknown),
                (ok(), Unknown),
            ],
            Unknown,
        ),
        (K::Alert, Condition::Firing, vec![(alert(true), True), (alert(false), False), (ok(), Unknown)], Unknown),
        (K::Process, Condition::Exited, vec![(process(true), False), (ok(), Unknown)], Unknown),
    ]
}

#[test]
fn the_newest_fact_decides_while_it_is_fresh() {
    for (kind, condition, facts, on_failure) in table() {
        for (fact, expected) in facts {
            let mut court =
                Court::about(signal(kind, Observers::Arbiter, Subjects::Primary), is("s", condition.clone()));
            assert_eq!(court.truth(), Unknown, "{condition} without data");
            court.at(secs(1)).fact(fact.clone());
            assert_eq!(court.truth(), expected, "{condition} of {fact:?}");
            let tree = court.tree();
            assert!(tree.asked.contains(&condition.to_string()) && !tree.seen.is_empty(), "{tree:?}");
            court.at(secs(1) + ms(1500));
            assert_eq!(court.truth(), expected, "{condition} of {fact:?}, just fresh");
            court.at(secs(1) + ms(1500) + NS);
            assert_eq!(court.truth(), Unknown, "{condition} of {fact:?}, stale");
            court.failure(FailureKind::TimedOut);
            assert_eq!(court.truth(), on_failure, "{condition} of a failure");
            court.failure(FailureKind::Auth);
            assert_eq!(court.truth(), Unknown, "{condition} of a failure that is no evidence");
        }
    }
}

/// P1: a process that ended stays ended until somebody says that it runs; that does not go stale.
#[test]
fn an_exit_does_not_go_stale() {
    let process = |running| Fact::Process { running, detail: "signal 9".into() };
    let mut court =
        Court::about(signal(SignalKind::Process, Observers::Arbiter, Subjects::Primary), is("s", Condition::Exited));
    court.at(secs(1)).fact(process(false));
    assert_eq!(court.truth(), True);
    assert!(court.tree().seen.contains("ended: signal 9"), "{}", court.tree().seen);
    court.at(secs(3600));
    assert_eq!(court.truth(), True);
    court.fact(process(true));
    assert_eq!(court.truth(), False);
}

/// Several streams mean any of them.
#[test]
fn a_bare_condition_over_several_streams_means_any() {
    use coroner::model::{Failure, Observer, Outcome};
    let mut court =
        Court::about(signal(SignalKind::Link, Observers::Arbiter, Subjects::Members), is("s", Condition::Link(false)));
    let mut said = |member: &str, up| {
        court.sees("s", Observer::Arbiter, Some(member), Outcome::Fact(Fact::Link { up, last_io: None }));
        court.truth()
    };
    assert_eq!(said("a", true), Unknown);
    assert_eq!(said("b", true), False);
    assert_eq!(said("b", false), True);
    assert_eq!(court.tree().seen, "1 of 2 true");
    court.sees("s", Observer::Arbiter, Some("b"), Outcome::Failure(Failure::new(FailureKind::Auth, "x")));
    assert_eq!(court.tree().seen, "0 of 2 true, 1 unknown");
}

/// Nobody to ask is unknown: a condition about standbys of a cluster that has none.
#[test]
fn nobody_to_ask_is_unknown() {
    let mut cluster = crate::policy::bare(&["a"]);
    cluster.signals.insert("s".into(), signal(SignalKind::Link, Observers::Arbiter, Subjects::Standbys));
    let rule =
        |when| crate::policy::rule("r", when, coroner::model::Verdict::Dead, coroner::model::rule::Reaction::Alert);
    for when in [is("s", Condition::Link(true)), crate::policy::not(is("s", Condition::Link(true)))] {
        cluster.rules = vec![rule(when)];
        assert_eq!(Court::of(cluster.clone()).truth(), Unknown);
    }
}

/// A signal about one member is about it, whatever its role.
#[test]
fn a_signal_about_one_member_is_about_no_other() {
    use coroner::model::{Observer, Outcome};
    let policy = || signal(SignalKind::Check, Observers::Arbiter, Subjects::Member("b".into()));
    let mut court = Court::about(policy(), is("s", Condition::Ok));
    court.fact(ok());
    assert_eq!(court.truth(), Unknown, "`a` is not asked for");
    court.sees("s", Observer::Arbiter, Some("b"), Outcome::Fact(ok()));
    assert_eq!(court.truth(), True);
    assert_eq!(court.tree().subject.as_deref(), Some("b"));
    // A rule about a signal that is not there knows nothing.
    let mut court = Court::about(policy(), is("gone", Condition::Ok));
    assert_eq!(court.truth(), Unknown);
    assert!(court.at(secs(2)).tree().children.is_empty());
}

/// Without a position there is nothing that could stall, and what is shown is the newest outcome.
#[test]
fn a_role_without_a_position_cannot_stall() {
    let policy = signal(SignalKind::Role, Observers::Arbiter, Subjects::Primary);
    let mut court = Court::about(policy, is("s", Condition::Stalled(secs(1))));
    court.fact(Fact::Role(RoleReport { position: None, ..role(Role::Primary, 0) })).at(ms(1200));
    assert_eq!(court.truth(), Unknown);
    assert_eq!(court.tree().seen, "says it is primary");
}
