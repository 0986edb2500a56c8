//! Fencing: levels fall through, unknown is not fenced, a write that goes through voids every claim.

use coroner::model::{
    Action, Command, Effect, Epoch, FenceReport, Proof, StepResult,
    event::Event,
    incident::IncidentState,
    policy::MethodPolicy,
    record::{LogEntry, Overrides, SagaKind},
};

use crate::{
    bench::{Bench, Script},
    policy::{full, method, ms, policy, secs},
};

fn dead() -> Bench {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.kill("a");
    bench
}

fn incident_state(bench: &Bench) -> IncidentState {
    bench.store.newest().unwrap().0.state
}

/// H1: a method that hangs costs its deadline and two seconds, then the next level is tried.
#[test]
fn a_fence_that_never_answers_is_unknown_after_its_deadline_and_the_next_level_is_used() {
    let mut bench = dead();
    bench.script("fence a 0.0", &[Script::Hang]);
    bench.run_until(secs(5), "the fence began", |b| b.done.len() == 1);
    let begun = bench.now;
    bench.run_until(secs(20), "the next level began", |b| b.done.contains(&"fence a 1.0".to_owned()));
    let took = bench.now.since(begun);
    assert!(took >= secs(4) && took < ms(4_400), "deadline 2s and grace 2s, and a forbidden write: {took:?}");
    bench.run_until(secs(20), "it is over", Bench::is_over);
    let (incident, _) = bench.store.newest().unwrap();
    assert_eq!(incident.proof, Proof::PowerOff);
    assert_eq!(incident.steps[0].outcome, "unknown");
    assert_eq!(bench.writers(), ["b"]);
}

/// H3: what was not fenced for sure is never replaced, however long it takes.
#[test]
fn unknown_never_promotes() {
    for script in [Script::Unknown, Script::DoneUnknown, Script::Refuse, Script::Hang] {
        let mut bench = dead();
        bench.default_script.insert("fence a 0.0".into(), script);
        bench.default_script.insert("fence a 1.0".into(), script);
        bench.run_until(secs(60), "it is held", Bench::is_held);
        assert!(!bench.done.iter().any(|d| d.starts_with("promote")), "{script:?}: {:?}", bench.done);
        let (incident, _) = bench.store.newest().unwrap();
        let reason = incident.state_reason.clone().unwrap();
        assert!(reason.contains("no fence gave the proof needed") && reason.contains("fence confirm"), "{reason}");
        bench.run_for(secs(600));
        assert_eq!(incident_state(&bench), IncidentState::Held, "held is held until a person comes");
        assert_eq!(bench.store.state().primary, Some("a".into()));
    }
}

/// H2: a method that says power off while the primary takes writes is not believed.
#[test]
fn a_forbidden_write_that_goes_through_voids_a_proof_of_5() {
    let mut cluster = full(&["a", "b"]);
    cluster.failover.fence = vec![vec![method("power", secs(2), Proof::PowerOff)]];
    let mut bench = Bench::settled(policy(vec![cluster]));
    // Alive, but cut off from the arbiter's probes: the lie would make two primaries.
    bench.script("fence a 0.0", &[Script::Lie]);
    bench.script("forbidden write 0", &[Script::Refuse]);
    bench.member("a").frozen = true;
    bench.run_until(secs(30), "it is held", Bench::is_held);
    assert!(!bench.done.contains(&"promote b".to_owned()), "{:?}", bench.done);
    let (incident, _) = bench.store.newest().unwrap();
    assert_eq!(incident.proof, Proof::Nothing);
    assert!(incident.timeline.iter().any(|t| t.text.contains("STILL TAKES WRITES")));
}

/// A closed gate drops the forbidden write, and its deadline is not part of the outage; only the agent's own word, read
/// back from its kernel, is worth that.
#[test]
fn a_forbidden_write_without_an_answer_delays_no_promotion_where_the_agent_closed_the_gate() {
    for (is_by_agent, waits) in [(true, false), (false, true)] {
        let mut cluster = full(&["a", "b"]);
        let gate = MethodPolicy { is_by_agent, ..method("gate", secs(2), Proof::Gate) };
        cluster.failover.fence = vec![vec![gate]];
        let mut bench = Bench::settled(policy(vec![cluster]));
        bench.script("forbidden write 0", &[Script::Slow(ms(250))]);
        bench.kill("a");
        bench.run_until(secs(30), "it is over", Bench::is_over);
        let incident = bench.store.newest().unwrap().0;
        let step = |what: &str| incident.steps.iter().find(|s| s.label.starts_with(what)).unwrap();
        let (fence, promote) = (step("fence"), step("promote"));
        let took = promote.started.since(fence.started + fence.took.unwrap());
        assert_eq!(took >= ms(250), waits, "{took:?} from the fence to the promotion");
        assert!(
            incident.steps.iter().any(|s| s.label.starts_with("try a forbidden write")),
            "it is tried all the same"
        );
        assert_eq!(bench.writers(), ["b"]);
    }
}

/// H2: a write that goes through in time voids what an agent says as well.
#[test]
fn a_forbidden_write_that_goes_through_voids_the_gate_of_an_agent() {
    let mut cluster = full(&["a", "b"]);
    cluster.failover.fence = vec![vec![MethodPolicy { is_by_agent: true, ..method("gate", secs(2), Proof::Gate) }]];
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.script("fence a 0.0", &[Script::Lie]);
    bench.script("forbidden write 0", &[Script::Refuse]);
    bench.script("catch up b", &[Script::Slow(ms(20))]);
    bench.member("a").frozen = true;
    bench.run_until(secs(30), "it is held", Bench::is_held);
    assert!(!bench.done.contains(&"promote b".to_owned()), "{:?}", bench.done);
    assert_eq!(bench.store.newest().unwrap().0.proof, Proof::Nothing);
}

/// H2: one that goes through only once the promotion is under way undoes nothing, and is told.
#[test]
fn a_forbidden_write_that_goes_through_late_is_told() {
    let mut cluster = full(&["a", "b"]);
    cluster.failover.fence = vec![vec![MethodPolicy { is_by_agent: true, ..method("gate", secs(2), Proof::Gate) }]];
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.may_lie = true;
    bench.script("fence a 0.0", &[Script::Lie]);
    bench.script("forbidden write 0", &[Script::Slow(ms(200))]);
    bench.script("promote b", &[Script::Slow(ms(500))]);
    bench.member("a").frozen = true;
    bench.run_until(secs(30), "the promotion began", |b| b.done.contains(&"promote b".to_owned()));
    bench.member("a").frozen = false;
    bench.run_until(secs(30), "b is primary", |b| b.store.state().primary == Some("b".into()));
    let incident = bench.store.newest().unwrap().0;
    assert!(incident.timeline.iter().any(|t| t.text.contains("STILL TAKES WRITES")), "{:#?}", incident.timeline);
}

/// H2, H4: after the lie was found out, `continue` fences anew. The old claim does not come back to life.
#[test]
fn a_claim_that_was_voided_stays_void_after_continue() {
    let mut cluster = full(&["a", "b"]);
    cluster.failover.fence = vec![vec![method("power", secs(2), Proof::PowerOff)]];
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.script("fence a 0.0", &[Script::Lie, Script::Unknown]);
    bench.script("forbidden write 0", &[Script::Refuse, Script::Unknown, Script::Unknown]);
    bench.member("a").frozen = true;
    bench.run_until(secs(30), "it is held", Bench::is_held);
    bench.ask(Command::Continue { cluster: "orders".into(), accept_loss: false }).unwrap().unwrap();
    bench.run_for(secs(30));
    assert!(!bench.done.contains(&"promote b".to_owned()), "{:?}", bench.done);
    assert_eq!(bench.done.iter().filter(|d| *d == "fence a 0.0").count(), 2, "{:?}", bench.done);
    assert_eq!(incident_state(&bench), IncidentState::Held);
    // Mended, it goes on.
    bench.ask(Command::Continue { cluster: "orders".into(), accept_loss: false }).unwrap().unwrap();
    bench.run_until(secs(30), "it is over", Bench::is_over);
    assert_eq!(bench.writers(), ["b"]);
}

#[test]
fn within_a_level_all_are_used_and_the_strongest_counts() {
    let mut cluster = full(&["a", "b"]);
    cluster.failover.fence = vec![vec![method("gate", secs(2), Proof::Gate), method("kill", secs(2), Proof::Stopped)]];
    cluster.failover.proof_needed = Proof::Stopped;
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.script("fence a 0.1", &[Script::Slow(secs(1))]);
    bench.kill("a");
    bench.run_until(secs(30), "it is over", Bench::is_over);
    assert_eq!(bench.done[..3], ["fence a 0.0", "fence a 0.1", "forbidden write 0"]);
    let (incident, _) = bench.store.newest().unwrap();
    assert_eq!(incident.proof, Proof::Stopped);
    let quarantine = &bench.store.state().quarantined["a"];
    assert_eq!(quarantine.fences, [(0, 0), (0, 1)], "all that may lie on it are kept to be lifted");
}

#[test]
fn a_method_for_other_members_is_not_used() {
    let mut cluster = full(&["a", "b"]);
    cluster.failover.fence[0][0].only_for = vec!["b".into()];
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.kill("a");
    bench.run_until(secs(30), "it is over", Bench::is_over);
    assert_eq!(bench.done[0], "fence a 1.0");
}

/// A bare claim becomes a read-back only when both connections were refused.
#[test]
fn a_claim_needs_two_refusals_to_become_a_read_back() {
    for (script, promotes) in [(Script::Work, true), (Script::Unknown, false)] {
        let mut cluster = full(&["a", "b"]);
        cluster.failover.fence = vec![vec![method("flag", secs(2), Proof::Claim)]];
        cluster.failover.proof_needed = Proof::ReadBack;
        cluster.failover.is_unsafe = true;
        let mut bench = Bench::settled(policy(vec![cluster]));
        bench.default_script.insert("forbidden write 0".into(), script);
        bench.kill("a");
        bench.run_for(secs(30));
        assert_eq!(bench.done.contains(&"promote b".to_owned()), promotes, "{script:?}: {:?}", bench.done);
        let (incident, _) = bench.store.newest().unwrap();
        assert!(incident.bypassed.iter().any(|b| b.contains("UNSAFE")), "lowered proofs are printed");
    }
}

/// A method's own word on a read-back counts as a claim where the forbidden write does not bear it out.
#[test]
fn a_read_back_that_the_forbidden_write_does_not_bear_out_is_a_claim() {
    let mut cluster = full(&["a", "b"]);
    cluster.failover.fence = vec![vec![method("flag", secs(2), Proof::ReadBack)]];
    cluster.failover.proof_needed = Proof::ReadBack;
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.default_script.insert("forbidden write 0".into(), Script::Unknown);
    bench.kill("a");
    bench.run_until(secs(30), "it is held", Bench::is_held);
    assert_eq!(bench.store.newest().unwrap().0.proof, Proof::Claim);
}

/// Nothing is heard any more, of nobody: the engine asks to be woken for the end of its act all the same.
#[test]
fn a_fence_is_given_up_in_time_where_nothing_else_happens() {
    let mut bench = dead();
    bench.script("fence a 0.0", &[Script::Hang]);
    bench.run_until(secs(5), "the fence began", |b| b.done.len() == 1);
    let (begun, mut engine) = (bench.now, bench.engine.clone());
    let mut next = None;
    while next.is_none() {
        let at = engine.poll_timeout().unwrap();
        assert!(at.since(begun) < secs(6), "it was never given up");
        engine.handle_timeout(at);
        while let Some(effect) = engine.poll_effect() {
            match effect {
                Effect::Persist { id, .. } => engine.handle(at, Event::Persisted(id)),
                Effect::Run(run) => next = Some((at, run.action)),
                Effect::Tell(_) | Effect::Reply { .. } => {}
            }
        }
    }
    let (at, action) = next.unwrap();
    assert!((ms(4_000)..ms(4_050)).contains(&at.since(begun)), "deadline 2s and grace 2s: {:?}", at.since(begun));
    assert!(matches!(action, Action::ForbiddenWrite { level: 0 } | Action::Fence { level: 1, .. }), "{action:?}");
}

/// H5: an answer that comes after the act was given up is told, and changes nothing.
#[test]
fn a_late_answer_is_told_and_ignored() {
    let mut bench = dead();
    bench.script("fence a 0.0", &[Script::Hang]);
    bench.default_script.insert("fence a 1.0".into(), Script::Unknown);
    bench.run_until(secs(30), "it is held", Bench::is_held);
    let token = bench
        .effects
        .iter()
        .find_map(|(_, e)| match e {
            Effect::Run(run) => Some(run.token.clone()),
            _ => None,
        })
        .unwrap();
    let result = StepResult::Fenced(FenceReport::confirmed(Proof::PowerOff, "it is off after all"));
    bench.event(Event::StepEnded { token: token.clone(), result: result.clone() });
    bench.run_for(secs(5));
    assert!(bench.is_held());
    assert!(!bench.done.contains(&"promote b".to_owned()));
    let incident = bench.incident().unwrap();
    assert!(incident.timeline.iter().any(|t| t.text.contains("a late answer of act 1 was ignored")));

    // Of an incident that is over, or of another one, nothing is heard at all.
    let before = bench.engine.status(bench.now);
    let mut other = token;
    other.incident = "another".into();
    bench.event(Event::StepEnded { token: other, result });
    assert_eq!(bench.engine.status(bench.now), before);
}

#[test]
fn a_person_confirms_the_fence_and_it_goes_on() {
    let mut bench = dead();
    bench.default_script.insert("fence a 0.0".into(), Script::Unknown);
    bench.default_script.insert("fence a 1.0".into(), Script::Unknown);
    let confirm = |text: &str| Command::FenceConfirm { cluster: "orders".into(), checked: text.into() };
    assert!(bench.ask(confirm("I saw it")).unwrap().is_err(), "nothing is held yet");
    bench.run_until(secs(30), "it is held", Bench::is_held);
    assert!(bench.ask(confirm("  ")).unwrap().is_err(), "say what was checked");
    bench.ask(confirm("the plug is in my hand")).unwrap().unwrap();
    bench.run_until(secs(30), "it is over", Bench::is_over);
    let (incident, log) = bench.store.newest().unwrap();
    assert!(incident.bypassed.iter().any(|b| b.contains("the plug is in my hand") && b.contains("ann")));
    assert!(log.iter().any(|e| matches!(e, LogEntry::FenceConfirmed { .. })));
    assert_eq!(bench.writers(), ["b"]);
    assert!(bench.ask(confirm("again")).unwrap().is_err());
}

#[test]
fn a_failover_is_aborted_only_while_nothing_may_have_been_fenced() {
    let abort = || Command::Abort { cluster: "orders".into() };
    let mut bench = dead();
    assert!(bench.ask(abort()).unwrap().is_err(), "nothing is under way");
    bench.script("fence a 0.0", &[Script::Slow(secs(1))]);
    bench.run_until(secs(10), "the fence began", |b| b.done.len() == 1);
    let refused = bench.ask(abort()).unwrap().unwrap_err();
    assert!(refused.text.contains("forward"), "{refused}");

    let mut bench = dead();
    bench.default_script.insert("fence a 0.0".into(), Script::Unknown);
    bench.default_script.insert("fence a 1.0".into(), Script::Refuse);
    bench.run_until(secs(30), "it is held", Bench::is_held);
    assert!(bench.ask(abort()).unwrap().is_err(), "an unknown fence may lie on it");

    let mut bench = dead();
    bench.default_script.insert("fence a 0.0".into(), Script::Refuse);
    bench.default_script.insert("fence a 1.0".into(), Script::Refuse);
    bench.run_until(secs(30), "it is held", Bench::is_held);
    bench.ask(abort()).unwrap().unwrap();
    bench.run_until(secs(5), "it is given up", Bench::is_over);
    let (incident, _) = bench.store.newest().unwrap();
    assert_eq!(incident.state, IncidentState::Aborted);
    assert!(incident.closed.is_some());
    assert!(incident.timeline.last().unwrap().text.ends_with("; a stays primary"), "{:?}", incident.timeline);
    let state = bench.store.state();
    assert_eq!((state.primary.clone(), state.primary_epoch, state.epoch), (Some("a".into()), Epoch(1), Epoch(2)));
    assert!(state.quarantined.is_empty());
}

/// The state of a saga is what its log says, and nothing else.
#[test]
fn a_log_that_does_not_open_is_no_saga() {
    use coroner::failover::SagaState;
    assert_eq!(SagaState::from_log(&[]), None);
    assert_eq!(SagaState::from_log(&[LogEntry::Resolved]), None);
    let opened = LogEntry::Opened {
        kind: SagaKind::Failover,
        epoch: Epoch(4),
        old_primary: "a".into(),
        candidate: "b".into(),
        overrides: Overrides::default(),
        last_position: Some(7),
    };
    let state = SagaState::from_log(std::slice::from_ref(&opened)).unwrap();
    assert_eq!((state.epoch, state.last_position, state.next_act()), (Epoch(4), Some(7), 1));
    let result = StepResult::Fenced(FenceReport::unknown("x"));
    let ended = LogEntry::Ended { act: 9, result, took: secs(1) };
    assert_eq!(SagaState::from_log(&[opened, ended]).unwrap(), state, "an end of nothing changes nothing");
}

/// A slow store must not eat the executors' time: an act's deadline runs from when it is handed out (A20).
#[test]
fn an_act_that_waits_for_the_store_keeps_its_whole_deadline() {
    let mut bench = dead();
    bench.store_mode = crate::bench::StoreMode::Slow(secs(10));
    bench.run_until(secs(120), "b serves", |b| b.store.state().primary == Some("b".into()));
    assert_eq!(bench.done.iter().filter(|d| d.starts_with("fence")).count(), 1, "{:?}", bench.done);
    let (incident, _) = bench.store.newest().unwrap();
    assert_eq!(incident.proof, Proof::Gate);
    assert!(incident.steps[0].took.unwrap() < secs(1), "{:?}", incident.steps[0]);
}

/// A gate that lets the arbiter in does so only once the standby is promoted: before, the forbidden write has to meet
/// what clients meet. A gate that will not open to the arbiter delays nobody.
#[test]
fn the_arbiter_is_let_through_a_gate_only_after_the_promotion() {
    for script in [Script::Work, Script::Refuse] {
        let mut cluster = full(&["a", "b"]);
        cluster.failover.fence[0][0].admits = true;
        let mut bench = Bench::settled(policy(vec![cluster]));
        bench.default_script.insert("admit a 0.0".into(), script);
        bench.kill("a");
        bench.run_until(secs(60), "it is over", Bench::is_over);
        let place = |what: &str| bench.done.iter().position(|d| d == what).unwrap_or_else(|| panic!("no {what}"));
        assert!(place("admit a 0.0") > place("promote b"), "{:?}", bench.done);
        assert!(place("forbidden write 0") < place("promote b"), "{:?}", bench.done);
        assert_eq!(incident_state(&bench), IncidentState::Resolved);
        let admitted = bench.done.iter().filter(|d| *d == "admit a 0.0").count();
        assert_eq!(admitted, if script == Script::Work { 1 } else { 3 }, "tried again, and not for ever");
    }
}

/// A gate is proof enough while the kill beside it is still under way. What the kill stops is let through only once it has
/// ended, and the failover is not over before: else nobody would ever start it again.
#[test]
fn a_fence_that_ends_after_the_promotion_is_let_through_as_well() {
    let mut cluster = full(&["a", "b"]);
    cluster.failover.fence = vec![vec![method("gate", secs(5), Proof::Gate), method("kill", secs(5), Proof::Stopped)]];
    for method in &mut cluster.failover.fence[0] {
        (method.admits, method.is_by_agent) = (true, true);
    }
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.default_script.insert("fence a 0.1".into(), Script::Slow(secs(3)));
    bench.kill("a");
    bench.run_until(secs(2), "b serves", |b| b.store.state().primary == Some("b".into()));
    assert!(!bench.is_over(), "the kill is under way");
    bench.run_until(secs(60), "it is over", Bench::is_over);
    let place = |what: &str| bench.done.iter().position(|d| d == what).unwrap_or_else(|| panic!("no {what}"));
    assert!(place("admit a 0.1") > place("fence a 0.1"), "{:?}", bench.done);
    assert!(place("admit a 0.1") > place("promote b"), "{:?}", bench.done);
}

/// No broker kind is named: there is nothing through which a write could be tried.
#[test]
fn without_a_broker_no_write_is_tried() {
    let mut cluster = full(&["a", "b"]);
    (cluster.has_broker, cluster.initial_primary) = (false, Some("a".into()));
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.kill("a");
    bench.run_until(secs(20), "it is over", Bench::is_over);
    assert_eq!(bench.store.state().primary, Some("b".into()));
    assert_eq!(bench.done.iter().filter(|act| act.starts_with("forbidden write")).count(), 0, "{:?}", bench.done);
}
