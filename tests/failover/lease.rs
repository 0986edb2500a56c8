//! Failing over and switching over under a lease: a majority seals, the old lease ends, and only then is anybody promoted.

use std::time::Duration;

use coroner::model::{
    ClusterPolicy, Command, Condition, Epoch, FenceReport, Proof, StepResult, Verdict,
    incident::IncidentState,
    record::{LogEntry, SagaKind},
    rule::Reaction,
};

use crate::{
    bench::{Bench, ORDERS, Script},
    policy::{is, leased, method, ms, policy, rule, secs},
};

fn bench() -> Bench {
    Bench::settled(policy(vec![leased(&["a", "b"])]))
}

fn dead() -> Bench {
    let mut bench = bench();
    bench.kill("a");
    bench
}

fn always(bench: &mut Bench, labels: &[&str], script: Script) {
    for label in labels {
        bench.default_script.insert((*label).into(), script);
    }
}

const FENCES: [&str; 2] = ["fence a 0.0", "fence a 1.0"];

fn switchover() -> Command {
    Command::Switchover { cluster: ORDERS.into(), to: None, reason: "work".into(), skip_guards: Vec::new() }
}

fn abort() -> Command {
    Command::Abort { cluster: ORDERS.into() }
}

/// The oldest incident: what comes after it is its rejoin.
fn first(bench: &Bench) -> (&coroner::model::Incident, &[LogEntry]) {
    let (incident, _, log) = bench.store.incidents.values().next().unwrap();
    (incident.as_ref().unwrap(), log)
}

fn go_on(bench: &mut Bench) {
    bench.ask(Command::Continue { cluster: ORDERS.into(), accept_loss: false }).unwrap().unwrap();
}

fn count(bench: &Bench, what: &str) -> usize {
    bench.done.iter().filter(|d| *d == what).count()
}

fn appointed(bench: &Bench) -> Option<(String, u64)> {
    bench.engine.appointment(&ORDERS.into()).map(|(member, epoch)| (member.to_string(), epoch.0))
}

fn held_because(bench: &Bench) -> String {
    bench.incident().unwrap().state_reason.clone().unwrap()
}

/// When the first act of that label was begun.
fn begun(bench: &Bench, label: &str) -> coroner::model::Time {
    let (incident, _) = bench.store.newest().unwrap();
    incident.steps.iter().find(|s| s.label.starts_with(label)).unwrap_or_else(|| panic!("no {label}")).started
}

#[test]
fn sealing_and_waiting_begin_with_the_first_level() {
    let mut bench = dead();
    bench.run_until(secs(60), "it is over", Bench::is_over);
    assert_eq!(
        bench.done,
        ["fence a 0.0", "seal", "await lease", "forbidden write 0", "catch up b", "promote b", "redirect 0"]
    );
    assert_eq!(begun(&bench, "fence"), begun(&bench, "have a majority"), "in the same moment");
    assert_eq!(appointed(&bench), Some(("b".into(), 2)));
    // It comes back, and nobody is sealed for that.
    bench.revive("a");
    bench.run_until(secs(60), "a is back", |b| b.is_quiet() && b.store.state().quarantined.is_empty());
    assert_eq!(count(&bench, "seal"), 1);
    assert_eq!(appointed(&bench), Some(("b".into(), 2)));
}

/// P15, G3: nobody reaches the primary's host, and every fence hangs: the end of the lease is enough, and nothing waits
/// for the fences.
#[test]
fn the_end_of_the_lease_promotes_when_all_fences_hang() {
    for script in [Script::Hang, Script::Unknown, Script::Refuse] {
        let mut bench = bench();
        always(&mut bench, &FENCES, script);
        bench.default_script.insert("await lease".into(), Script::Slow(ms(260)));
        bench.member("a").cut_off = true;
        bench.run_until(secs(30), "b serves", |b| b.store.state().primary == Some("b".into()));
        let took = begun(&bench, "promote").since(begun(&bench, "fence"));
        let limit = if script == Script::Hang { ms(300) } else { secs(1) };
        assert!(took >= ms(260) && took < limit, "{script:?}: {took:?}");
        bench.run_until(secs(60), "it is over", Bench::is_over);
        let (incident, _) = bench.store.newest().unwrap();
        assert_eq!((incident.proof, incident.state), (Proof::LeaseOver, IncidentState::Resolved), "{script:?}");
        assert_eq!(bench.writers(), ["b"]);
        assert!(bench.store.state().quarantined.contains_key("a"));
    }
}

/// A closed gate proves that the old primary is stopped now; only the seal proves that nobody grants it a lease again.
#[test]
fn a_closed_gate_does_not_promote_before_a_majority_has_sealed() {
    let mut bench = dead();
    bench.script("seal", &[Script::Slow(secs(3))]);
    bench.default_script.insert("await lease".into(), Script::Unknown);
    bench.run_until(secs(10), "it caught up", |b| b.done.contains(&"catch up b".to_owned()));
    bench.run_for(secs(2));
    assert_eq!(count(&bench, "promote b"), 0, "{:?}", bench.done);
    bench.run_until(secs(30), "it is over", Bench::is_over);
    assert!(begun(&bench, "promote").since(begun(&bench, "fence")) >= secs(3));
    assert_eq!(bench.store.newest().unwrap().0.proof, Proof::Gate);
}

/// A lease that is over by the count of a majority that sealed is sealed, whatever became of the act that only seals.
#[test]
fn a_lease_that_is_over_is_sealed_too() {
    let mut bench = dead();
    bench.default_script.insert("seal".into(), Script::Hang);
    bench.run_until(secs(5), "b serves", |b| b.store.state().primary == Some("b".into()));
    bench.run_until(secs(60), "it is over", Bench::is_over);
}

#[test]
fn voters_that_do_not_answer_are_asked_again_and_then_a_person_is() {
    for script in [Script::Refuse, Script::Unknown, Script::Hang] {
        let mut bench = dead();
        always(&mut bench, &["seal", "await lease"], script);
        bench.run_until(secs(600), "it is held", Bench::is_held);
        let reason = held_because(&bench);
        assert!(reason.contains("a majority of the voters could not be had to seal epoch 2"), "{script:?}: {reason}");
        assert_eq!((count(&bench, "seal"), count(&bench, "promote b")), (12, 0), "{script:?}");
        bench.default_script.clear();
        go_on(&mut bench);
        bench.run_until(secs(60), "it is over", Bench::is_over);
        assert_eq!(bench.writers(), ["b"]);
        assert_eq!(count(&bench, "fence a 0.0"), 1, "what was proved stays proved");
    }
    // They come back in time: nobody has to be asked.
    let mut bench = dead();
    bench.script("seal", &[Script::Refuse, Script::Unknown, Script::Hang]);
    bench.default_script.insert("await lease".into(), Script::Unknown);
    bench.run_until(secs(60), "it is over", Bench::is_over);
    assert_eq!(count(&bench, "seal"), 4);
}

#[test]
fn without_any_proof_it_is_held_after_the_lease_was_waited_for() {
    let mut bench = dead();
    always(&mut bench, &FENCES, Script::Refuse);
    bench.default_script.insert("await lease".into(), Script::Unknown);
    bench.run_for(secs(20));
    assert!(!bench.is_held(), "the fences are used up, and the lease is still waited for");
    bench.run_until(secs(600), "it is held", Bench::is_held);
    let reason = held_because(&bench);
    assert!(reason.contains("nor did the end of its lease (no majority answers)"), "{reason}");
    assert_eq!((count(&bench, "await lease"), count(&bench, "promote b")), (12, 0));
}

/// H20, A18: somebody else has sealed more: nobody can be promoted in this epoch. A person lets it take a larger one.
#[test]
fn a_larger_epoch_that_is_sealed_holds_it_and_continue_takes_a_larger_one() {
    for label in ["seal", "await lease"] {
        let mut bench = dead();
        bench.script(label, &[Script::Outbid(9)]);
        let other = if label == "seal" { "await lease" } else { "seal" };
        bench.script(other, &[Script::Unknown]);
        bench.run_until(secs(60), "it is held", Bench::is_held);
        let reason = held_because(&bench);
        assert!(reason.contains("epoch 9 is sealed already, and this is epoch 2"), "{reason}");
        assert_eq!(count(&bench, "promote b"), 0);
        bench.sealed = Epoch(9);
        go_on(&mut bench);
        bench.run_until(secs(60), "it is over", Bench::is_over);
        let state = bench.store.state();
        assert_eq!((state.primary_epoch, state.epoch), (Epoch(10), Epoch(10)));
        assert_eq!(bench.store.newest().unwrap().0.epoch, Epoch(10));
        assert_eq!(bench.members["b"].epoch, Epoch(10), "the orders carry it");
        assert_eq!(count(&bench, "fence a 0.0"), 1);
        assert_eq!(appointed(&bench), Some(("b".into(), 10)));
    }
}

/// Sealed by a majority is sealed: one voter that knows a larger epoch does not stop it.
#[test]
fn a_single_voter_of_a_larger_epoch_does_not_undo_the_seal() {
    let mut bench = dead();
    bench.default_script.insert("await lease".into(), Script::Outbid(9));
    bench.script("fence a 0.0", &[Script::Slow(secs(1))]);
    bench.run_until(secs(60), "it is over", Bench::is_over);
    assert_eq!(bench.writers(), ["b"]);
}

/// A write that went through while the lease ran refutes the fences, and is tried again when the lease is over: only that
/// one says whether the lease binds.
#[test]
fn a_write_that_went_through_is_tried_again_when_the_lease_is_over() {
    for (again, promotes) in [(Script::Work, true), (Script::Refuse, false)] {
        let mut cluster = leased(&["a", "b"]);
        cluster.failover.fence = vec![vec![method("power", secs(2), Proof::PowerOff)]];
        let mut bench = Bench::settled(policy(vec![cluster]));
        bench.script("forbidden write 0", &[Script::Refuse, again]);
        bench.default_script.insert("await lease".into(), Script::Slow(secs(1)));
        bench.kill("a");
        bench.run_for(secs(30));
        assert_eq!(count(&bench, "promote b") == 1, promotes, "{again:?}: {:?}", bench.done);
        assert_eq!(count(&bench, "forbidden write 0"), 2);
        assert_eq!(bench.is_held(), !promotes);
        if !promotes {
            let reason = held_because(&bench);
            assert!(reason.contains("it was over, and a write went through"), "{reason}");
            // And no later waiting makes a proof of it.
            bench.script("fence a 0.0", &[Script::Unknown]);
            go_on(&mut bench);
            bench.run_until(secs(60), "it is held again", Bench::is_held);
            assert_eq!(count(&bench, "promote b"), 0);
        }
    }
}

/// What comes after the promotion changes nothing any more.
#[test]
fn a_wait_that_ends_after_the_promotion_does_not_matter() {
    for script in [Script::Slow(secs(4)), Script::Hang, Script::Outbid(9)] {
        let mut bench = dead();
        bench.script("await lease", &[script]);
        bench.run_until(secs(60), "it is over", Bench::is_over);
        bench.run_for(secs(20));
        assert!(bench.is_quiet());
        assert_eq!(bench.store.newest().unwrap().0.state, IncidentState::Resolved, "{script:?}");
        assert_eq!(bench.store.state().primary_epoch, Epoch(2));
    }
}

/// Given up before any fence may have held: it stays primary, and can be given a lease again, since it is in the saga's
/// epoch from there on.
#[test]
fn a_failover_that_is_given_up_leaves_the_old_primary_in_the_new_epoch() {
    let mut bench = bench();
    always(&mut bench, &FENCES, Script::Refuse);
    bench.default_script.insert("await lease".into(), Script::Unknown);
    bench.default_script.insert("forbidden write 0".into(), Script::Refuse);
    bench.member("a").only_by_agent = true;
    bench.run_until(secs(600), "it is held", Bench::is_held);
    assert_eq!(appointed(&bench), None, "it is being replaced");
    assert!(bench.members["a"].is_lease_over, "sealed is sealed");
    bench.member("a").only_by_agent = false;
    bench.ask(abort()).unwrap().unwrap();
    bench.run_until(secs(5), "it is over", Bench::is_over);
    let told = &bench.store.newest().unwrap().0.timeline.last().unwrap().text;
    assert!(told.contains("a stays primary, in a new epoch"), "{told}");
    let state = bench.store.state();
    assert_eq!((state.primary.clone(), state.primary_epoch, state.epoch), (Some("a".into()), Epoch(2), Epoch(2)));
    bench.run_for(secs(2));
    assert_eq!(appointed(&bench), Some(("a".into(), 2)));
    assert_eq!(bench.writers(), ["a"]);
    assert!(bench.store.newest().unwrap().0.timeline.last().unwrap().text.contains("in a new epoch"));
}

/// Once the standby may have been promoted, on the lease alone, there is no way back either.
#[test]
fn a_failover_by_the_lease_is_not_given_up_once_the_promotion_began() {
    let mut bench = dead();
    always(&mut bench, &FENCES, Script::Refuse);
    bench.default_script.insert("promote b".into(), Script::Unknown);
    bench.run_until(secs(120), "it is held", Bench::is_held);
    let refused = bench.ask(abort()).unwrap().unwrap_err();
    assert!(refused.text.contains("forward"), "{refused}");
}

#[test]
fn a_switchover_seals_once_the_standby_has_all() {
    let mut bench = bench();
    assert_eq!(appointed(&bench), Some(("a".into(), 1)));
    bench.script("await lease", &[Script::Slow(secs(1))]);
    bench.ask_later(switchover());
    bench.run_until(secs(10), "it is drained", |b| b.done.len() == 2);
    assert_eq!(appointed(&bench), Some(("a".into(), 1)), "the lease is kept until the standby has all");
    bench.run_until(secs(10), "it is sealed", |b| b.done.len() == 4);
    assert_eq!(appointed(&bench), None);
    bench.run_until(secs(60), "it is over", Bench::is_over);
    assert_eq!(bench.done, ["read-only a", "catch up b", "seal", "await lease", "promote b", "redirect 0", "rejoin a"]);
    assert!(begun(&bench, "promote").since(begun(&bench, "have a majority")) >= secs(1));
    assert_eq!(appointed(&bench), Some(("b".into(), 2)));
    bench.run_for(secs(1));
    assert_eq!(bench.writers(), ["b"]);
}

#[test]
fn a_switchover_given_up_appoints_the_old_primary_anew() {
    for (label, script, epoch) in [
        ("catch up b", Script::Refuse, 2),
        ("seal", Script::Refuse, 2),
        ("seal", Script::Unknown, 2),
        ("await lease", Script::Refuse, 2),
        ("await lease", Script::Hang, 2),
        ("promote b", Script::Refuse, 2),
    ] {
        let mut bench = bench();
        bench.default_script.insert(label.into(), script);
        if label == "seal" {
            // The other act of the two would say that it is sealed.
            bench.default_script.insert("await lease".into(), script);
        }
        bench.ask_later(switchover());
        bench.run_until(secs(120), "it is over", Bench::is_over);
        let (incident, _) = bench.store.newest().unwrap();
        assert_eq!(incident.state, IncidentState::Aborted, "{label} {script:?}");
        let state = bench.store.state();
        assert_eq!((state.primary.clone(), state.primary_epoch), (Some("a".into()), Epoch(epoch)), "{label}");
        assert_eq!(bench.done.last().map(String::as_str), Some("writable a"));
        bench.run_for(secs(2));
        assert_eq!(appointed(&bench), Some(("a".into(), epoch)), "{label} {script:?}");
        assert_eq!(bench.writers(), ["a"], "{label} {script:?}");
        // And the next one, in an epoch of its own, works.
        bench.default_script.clear();
        bench.ask_later(switchover());
        bench.run_until(secs(60), "b serves", |b| b.is_quiet() && b.store.state().primary == Some("b".into()));
        assert_eq!(bench.store.state().primary_epoch, Epoch(3));
    }
}

#[test]
fn a_switchover_that_is_outbid_is_held_and_may_be_left() {
    let mut bench = bench();
    bench.script("seal", &[Script::Outbid(9)]);
    bench.script("await lease", &[Script::Outbid(9)]);
    bench.ask_later(switchover());
    bench.run_until(secs(60), "it is held", Bench::is_held);
    assert!(held_because(&bench).contains("epoch 9 is sealed already"));
    bench.sealed = Epoch(9);
    bench.ask(abort()).unwrap().unwrap();
    bench.run_until(secs(5), "it is over", Bench::is_over);
    bench.run_for(secs(2));
    assert_eq!(appointed(&bench), Some(("a".into(), 10)), "larger than all that is sealed");
    assert!(!bench.members["a"].is_lease_over);
}

/// A cluster in which a rule asks for a switchover when pings fail.
fn by_rule() -> Bench {
    by_rule_with(|_| {})
}

fn by_rule_with(adapt: impl FnOnce(&mut ClusterPolicy)) -> Bench {
    let mut cluster = leased(&["a", "b"]);
    adapt(&mut cluster);
    let failing = is("ping", Condition::FailingOf { failures: 8, of: 8 });
    cluster.rules = vec![rule("slow", failing, Verdict::Gray, Reaction::Switchover)];
    Bench::settled(policy(vec![cluster]))
}

/// cuts.csv: a switchover if the arbiter reaches the primary by any path, else a failover.
#[test]
fn a_rules_switchover_of_a_primary_that_nobody_hears_is_a_failover() {
    let mut bench = by_rule();
    bench.member("a").cut_off = true;
    bench.default_script.insert("fence a 0.0".into(), Script::Hang);
    bench.run_until(secs(60), "it is over", Bench::is_over);
    let (incident, _) = bench.store.newest().unwrap();
    assert_eq!(incident.kind, SagaKind::Failover);
    let told = "the rule asks for a switchover, and a is not heard by any path: a failover";
    assert!(incident.timeline.iter().any(|t| t.text == told), "{:?}", incident.timeline);
    assert_eq!(count(&bench, "read-only a"), 0);
    assert_eq!(bench.writers(), ["b"]);

    // Its agent's word is a path.
    let mut bench = by_rule();
    bench.member("a").only_by_agent = true;
    bench.run_until(secs(60), "it is over", Bench::is_over);
    assert_eq!(bench.store.newest().unwrap().0.kind, SagaKind::Switchover);
    assert_eq!(count(&bench, "fence a 0.0"), 0);
}

/// G19: the primary is cut off from its nodes and its standby, and steps down when it is told to.
#[test]
fn a_rules_switchover_whose_standby_falls_short_goes_on_with_the_loss_that_is_allowed() {
    for (max_loss, moves) in [(None, true), (Some(7), true), (Some(6), false)] {
        let mut bench = by_rule_with(|policy| policy.failover.max_loss = max_loss);
        bench.default_script.insert("catch up b".into(), Script::Reached(900));
        bench.member("a").only_by_agent = true;
        bench.run_until(secs(60), "it is over", |b| !b.store.incidents.is_empty() && first(b).0.is_closed());
        let (incident, log) = first(&bench);
        assert_eq!(bench.done[0], "read-only a");
        if moves {
            assert_eq!((incident.kind, incident.state), (SagaKind::Failover, IncidentState::Resolved), "{max_loss:?}");
            assert!(log.iter().any(|e| matches!(e, LogEntry::BecameFailover { .. })));
            assert!(incident.timeline.iter().any(|t| t.text.contains("it lacks 7")), "{:?}", incident.timeline);
            assert_eq!(bench.writers(), ["b"]);
        } else {
            assert_eq!((incident.kind, incident.state), (SagaKind::Switchover, IncidentState::Aborted));
            assert_eq!(bench.writers(), ["a"]);
        }
    }
}

#[test]
fn a_rules_switchover_whose_primary_cannot_be_drained_goes_on_as_a_failover() {
    let mut bench = by_rule();
    bench.default_script.insert("read-only a".into(), Script::Unknown);
    bench.member("a").only_by_agent = true;
    bench.run_until(secs(60), "it is over", |b| !b.store.incidents.is_empty() && first(b).0.is_closed());
    let (incident, log) = first(&bench);
    assert_eq!((incident.kind, incident.state), (SagaKind::Failover, IncidentState::Resolved));
    assert!(log.iter().any(|e| matches!(e, LogEntry::BecameFailover { .. })));
    assert!(incident.timeline.iter().any(|t| t.text.contains("whether a refuses writes is not known")));
    assert_eq!(bench.store.state().primary_epoch, Epoch(2), "in the same epoch");
    assert_eq!(bench.done[..4], ["read-only a", "fence a 0.0", "seal", "await lease"]);
    assert_eq!(bench.writers(), ["b"]);

    // One that can neither be drained nor be given back is as good as out of reach.
    let mut bench = by_rule();
    bench.default_script.insert("read-only a".into(), Script::Refuse);
    bench.default_script.insert("writable a".into(), Script::Refuse);
    bench.member("a").only_by_agent = true;
    bench.run_until(secs(60), "it is over", |b| !b.store.incidents.is_empty() && first(b).0.is_closed());
    assert_eq!(first(&bench).0.kind, SagaKind::Failover);
    assert!(first(&bench).0.timeline.iter().any(|t| t.text.contains("neither be drained nor be given back")));

    // Where a guard stands against a failover it is given up, as before.
    let mut bench = by_rule();
    bench.default_script.insert("read-only a".into(), Script::Unknown);
    bench.script("read-only a", &[Script::Slow(secs(1))]);
    bench.script("catch up b", &[Script::Refuse]);
    bench.member("a").only_by_agent = true;
    bench.run_until(secs(60), "it is over", |b| !b.store.incidents.is_empty() && first(b).0.is_closed());
    assert_eq!(first(&bench).0.state, IncidentState::Aborted, "it is heard, and was drained");

    let mut bench = by_rule();
    bench.script("read-only a", &[Script::Unknown]);
    bench.latency = ms(300);
    bench.member("a").only_by_agent = true;
    bench.run_until(secs(20), "it began", |b| b.done.len() == 1);
    let owner = String::new();
    bench.ask_later(Command::Pause { cluster: None, owner, reason: "hands off".into(), for_: None });
    bench.run_until(secs(60), "it is over", |b| !b.store.incidents.is_empty() && first(b).0.is_closed());
    assert_eq!(first(&bench).0.state, IncidentState::Aborted, "{}", bench.story());
}

/// What a person asked for stays what they asked for.
#[test]
fn a_persons_switchover_is_never_made_a_failover() {
    let mut bench = bench();
    bench.default_script.insert("read-only a".into(), Script::Unknown);
    bench.ask_later(switchover());
    bench.run_until(secs(60), "it is over", Bench::is_over);
    let (incident, _) = bench.store.newest().unwrap();
    assert_eq!((incident.kind, incident.state), (SagaKind::Switchover, IncidentState::Aborted));
}

/// A late answer of an act of sealing is told and ignored.
#[test]
fn a_late_end_of_the_lease_is_ignored() {
    let mut bench = dead();
    always(&mut bench, &FENCES, Script::Refuse);
    always(&mut bench, &["await lease"], Script::Hang);
    bench.run_until(secs(600), "it is held", Bench::is_held);
    let token = bench.effects.iter().find_map(|(_, e)| match e {
        coroner::model::Effect::Run(run) if run.action == coroner::model::Action::AwaitLease => Some(run.token.clone()),
        _ => None,
    });
    let result = StepResult::Fenced(FenceReport::confirmed(Proof::LeaseOver, "after all"));
    bench.event(coroner::model::Event::StepEnded { token: token.unwrap(), result });
    bench.run_for(Duration::from_secs(5));
    assert!(bench.is_held());
    assert_eq!(count(&bench, "promote b"), 0);
}
