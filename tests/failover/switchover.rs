//! The planned switchover: it can be given up cleanly until the promotion starts.

use coroner::model::{Command, Epoch, Role, incident::IncidentState, record::SagaKind, rule::Reaction};

use crate::{
    bench::{Bench, Script},
    policy::{full, policy, secs},
};

fn switchover() -> Command {
    Command::Switchover { cluster: "orders".into(), to: None, reason: "kernel update".into(), skip_guards: Vec::new() }
}

fn bench() -> Bench {
    Bench::settled(policy(vec![full(&["a", "b"])]))
}

fn go_on(bench: &mut Bench) {
    bench.ask(Command::Continue { cluster: "orders".into(), accept_loss: false }).unwrap().unwrap();
}

#[test]
fn a_switchover_loses_nothing_and_the_old_primary_follows() {
    let mut bench = bench();
    let reply = bench.ask_later(switchover());
    bench.run_for(secs(1));
    let answer = bench.replies[&reply].clone().unwrap();
    assert!(answer.text.contains("switchover of orders to b has begun"));
    bench.run_until(secs(30), "it is over", Bench::is_over);
    assert_eq!(bench.done, ["read-only a", "catch up b", "promote b", "redirect 0", "rejoin a"]);
    let (incident, _) = bench.store.newest().unwrap();
    assert_eq!((incident.kind, incident.state), (SagaKind::Switchover, IncidentState::Resolved));
    assert_eq!(Some(incident.id.clone()), answer.incident);
    assert!(incident.loss.as_ref().unwrap().detail.starts_with("none"));
    assert_eq!(bench.writers(), ["b"]);
    assert_eq!(bench.members["a"].role, Role::Standby);
    assert!(bench.store.state().quarantined.is_empty());
    assert_eq!(bench.store.state().primary_epoch, Epoch(2));
    // Back again, at once: a planned switchover starts no cooldown.
    bench.ask_later(switchover());
    bench.run_until(secs(30), "it is back", |b| b.is_quiet() && b.store.state().primary == Some("a".into()));
    assert_eq!(bench.store.state().primary_epoch, Epoch(3));
}

#[test]
fn it_is_given_up_when_the_primary_cannot_be_drained_or_the_standby_does_not_catch_up() {
    for (label, script) in [
        ("read-only a", Script::Refuse),
        ("read-only a", Script::Unknown),
        ("read-only a", Script::DoneHang),
        ("catch up b", Script::Refuse),
        ("catch up b", Script::Hang),
        ("promote b", Script::Refuse),
    ] {
        let mut bench = bench();
        bench.default_script.insert(label.into(), script);
        bench.ask_later(switchover());
        bench.run_until(secs(60), "it is over", Bench::is_over);
        let (incident, _) = bench.store.newest().unwrap();
        assert_eq!(incident.state, IncidentState::Aborted, "{label} {script:?}");
        assert!(incident.state_reason.is_some());
        assert_eq!(bench.writers(), ["a"], "{label} {script:?}: the old primary serves again");
        assert_eq!(bench.store.state().primary, Some("a".into()));
        assert_eq!(bench.done.last().map(String::as_str), Some("writable a"));
    }
}

#[test]
fn a_person_gives_it_up_until_the_promotion_starts() {
    let mut b = bench();
    b.script("catch up b", &[Script::Slow(secs(2))]);
    b.ask_later(switchover());
    b.run_until(secs(5), "it catches up", |b| b.done.len() == 2);
    b.ask(Command::Abort { cluster: "orders".into() }).unwrap().unwrap();
    b.run_until(secs(20), "it is over", Bench::is_over);
    assert_eq!(b.writers(), ["a"]);
    assert_eq!(b.store.newest().unwrap().0.state, IncidentState::Aborted);

    let mut b = bench();
    b.script("promote b", &[Script::Slow(secs(2))]);
    b.ask_later(switchover());
    b.run_until(secs(5), "it is promoted", |b| b.done.len() == 3);
    let refused = b.ask(Command::Abort { cluster: "orders".into() }).unwrap().unwrap_err();
    assert!(refused.text.contains("forward"));
    b.run_until(secs(20), "it is over", Bench::is_over);
    assert_eq!(b.writers(), ["b"]);
}

/// Given up, but the old primary may be writable or not: `continue` finishes giving up. It never promotes beside it.
#[test]
fn a_switchover_that_was_given_up_is_not_taken_up_again_by_continue() {
    let mut bench = bench();
    bench.script("catch up b", &[Script::Refuse]);
    bench.script(
        "writable a",
        &[Script::DoneUnknown, Script::Unknown, Script::Unknown, Script::Unknown, Script::Unknown],
    );
    bench.ask_later(switchover());
    bench.run_until(secs(120), "it is held", Bench::is_held);
    assert!(bench.incident().unwrap().state_reason.clone().unwrap().contains("could not be made writable again"));
    go_on(&mut bench);
    bench.run_until(secs(60), "it is over", Bench::is_over);
    assert!(!bench.done.contains(&"promote b".to_owned()), "{:?}", bench.done);
    assert_eq!(bench.store.newest().unwrap().0.state, IncidentState::Aborted);
    assert_eq!(bench.writers(), ["a"]);
}

/// H9: the same target until it is proven.
#[test]
fn an_uncertain_promotion_is_held_and_goes_forward() {
    let mut bench = bench();
    bench.default_script.insert("promote b".into(), Script::DoneUnknown);
    bench.ask_later(switchover());
    bench.run_until(secs(120), "it is held", Bench::is_held);
    assert!(!bench.done.contains(&"writable a".to_owned()));
    bench.default_script.clear();
    go_on(&mut bench);
    bench.run_until(secs(60), "it is over", Bench::is_over);
    assert_eq!(bench.writers(), ["b"]);
}

/// The old primary does not follow in time: it stays quarantined and comes back by a rejoin of its own.
#[test]
fn an_old_primary_that_does_not_follow_is_brought_back_later() {
    let mut bench = bench();
    bench.script("rejoin a", &[Script::Refuse, Script::Refuse, Script::Refuse]);
    bench.ask_later(switchover());
    bench.run_until(secs(120), "a follows", |b| {
        b.is_quiet() && b.store.state().primary == Some("b".into()) && b.store.state().quarantined.is_empty()
    });
    assert_eq!(bench.members["a"].role, Role::Standby);
    assert_eq!(bench.store.newest().unwrap().0.kind, SagaKind::Rejoin);
}

/// P10, H18: a rule may ask for a switchover; and it does not flap between two members.
#[test]
fn a_rule_switches_over_once_and_not_back_and_forth() {
    let mut cluster = full(&["a", "b"]);
    cluster.rules = vec![crate::policy::rule(
        "slow",
        crate::policy::is("ping", coroner::model::Condition::LatencyAbove(std::time::Duration::ZERO)),
        coroner::model::Verdict::Gray,
        Reaction::Switchover,
    )];
    let mut bench = Bench::new(policy(vec![cluster]));
    bench.run_until(secs(30), "b serves", |b| {
        b.is_quiet() && b.store.clusters.get("orders").is_some_and(|s| s.primary == Some("b".into()))
    });
    bench.run_for(secs(120));
    assert_eq!(bench.done.iter().filter(|d| d.starts_with("promote")).count(), 1, "{:?}", bench.done);
    bench.run_for(secs(600));
    assert_eq!(bench.done.iter().filter(|d| d.starts_with("promote")).count(), 2, "the cooldown ends");
}

/// The primary dies in the middle: the switchover is given up, and since that cannot be undone at a dead primary, it makes
/// way for the failover that a rule wants.
#[test]
fn a_primary_that_dies_in_the_middle_is_failed_over() {
    for dies_at in 1..=2 {
        let mut bench = bench();
        bench.latency = std::time::Duration::from_millis(300);
        if dies_at == 2 {
            bench.script("catch up b", &[Script::Refuse]);
        }
        bench.ask_later(switchover());
        bench.run_until(secs(10), "it is under way", |b| b.done.len() == dies_at);
        bench.kill("a");
        bench.run_until(secs(120), "b serves", |b| b.is_over() && b.store.state().primary == Some("b".into()));
        assert_eq!(bench.store.newest().unwrap().0.kind, SagaKind::Failover);
        assert_eq!(bench.store.state().primary_epoch, Epoch(3), "the epoch of the switchover stays unused");
    }
}

/// A switchover that is held while it is given up can be left as it is: a person's way out.
#[test]
fn a_person_may_leave_a_held_switchover_as_it_is() {
    let mut bench = bench();
    bench.script("catch up b", &[Script::Refuse]);
    bench.default_script.insert("writable a".into(), Script::Refuse);
    bench.ask_later(switchover());
    bench.run_until(secs(120), "it is held", Bench::is_held);
    assert_eq!(bench.done.iter().filter(|d| *d == "writable a").count(), 5);
    bench.ask(Command::Abort { cluster: "orders".into() }).unwrap().unwrap();
    bench.run_until(secs(5), "it is over", Bench::is_over);
    let (incident, _) = bench.store.newest().unwrap();
    assert_eq!(incident.state, IncidentState::Aborted);
    assert!(incident.state_reason.as_ref().unwrap().contains("a may still refuse writes"));
    assert_eq!(bench.done.iter().filter(|d| *d == "writable a").count(), 5, "nothing more is tried");
}
