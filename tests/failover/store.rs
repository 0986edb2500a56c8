//! The store refuses, hangs, or belongs to somebody else: nothing is done that is not durable first.

use coroner::model::{
    Command, CommandError, Effect, Epoch, Notice, command::CommandErrorCode, event::Event, explain::Guard,
    incident::IncidentState,
};

use crate::{
    bench::{Bench, StoreMode},
    policy::{full, ms, policy, secs},
};

fn bench() -> Bench {
    Bench::settled(policy(vec![full(&["a", "b"])]))
}

fn blocks(bench: &Bench, guard: Guard) -> bool {
    let why_not = bench.engine.why_not(bench.now, &"orders".into()).unwrap();
    why_not.guards.iter().any(|g| g.guard == guard && g.blocks)
}

fn pause(reason: &str) -> Command {
    Command::Pause { cluster: Some("orders".into()), owner: "ann".into(), reason: reason.into(), for_: None }
}

/// A17: no new failover without a durable intent; the primary is left alone, people are told, and it goes on once the
/// store takes intents again.
#[test]
fn a_store_that_fails_at_the_opening_leaves_the_primary_alone() {
    let mut bench = bench();
    bench.store_mode = StoreMode::Fails;
    bench.kill("a");
    bench.run_for(secs(60));
    assert!(bench.done.is_empty(), "{:?}", bench.done);
    assert!(bench.incident().is_none());
    assert!(blocks(&bench, Guard::StoreLost));
    assert_eq!(bench.engine.status(bench.now).clusters[0].epoch, Epoch(1));
    assert!(bench.notices().any(|n| matches!(n, Notice::Own { what, ok: false, .. } if what == "store")));
    assert!(
        !bench.notices().any(|n| matches!(n, Notice::IncidentUpdated(_))),
        "an incident that was never written down is not told"
    );
    assert!(bench.persists < 20, "a store that fails is not asked in a loop: {}", bench.persists);
    bench.store_mode = StoreMode::Works;
    bench.event(Event::StoreHealth { ok: true, detail: String::new() });
    bench.run_until(secs(30), "it is over", |b| b.is_quiet() && b.store.state().primary == Some("b".into()));
    assert_eq!(bench.store.state().primary_epoch, Epoch(2));
}

/// A17: a store that is known to be lost is not even asked.
#[test]
fn a_lost_store_blocks_before_it_is_asked() {
    let mut bench = bench();
    bench.event(Event::StoreHealth { ok: false, detail: "disk full".into() });
    let before = bench.persists;
    bench.kill("a");
    bench.run_for(secs(30));
    assert_eq!(bench.persists, before);
    assert!(blocks(&bench, Guard::StoreLost));
}

/// A17: mid-saga the record is repeated until it is taken; meanwhile nothing is handed out, and nothing is undone.
#[test]
fn a_store_that_fails_in_the_middle_is_asked_again_and_nothing_is_handed_out_meanwhile() {
    let mut bench = bench();
    bench.kill("a");
    bench.run_until(secs(10), "the fence began", |b| b.done.len() == 1);
    bench.store_mode = StoreMode::Fails;
    let asked = |bench: &Bench| bench.effects.iter().filter(|(_, e)| matches!(e, Effect::Persist { .. })).count();
    let before = asked(&bench);
    bench.run_for(secs(30));
    let times = asked(&bench) - before;
    assert!((25..=32).contains(&times), "once in a second, and not as fast as it refuses: {times} times");
    assert_eq!(bench.done.len(), 1, "{:?}", bench.done);
    assert!(bench.incident().is_some());
    assert!(blocks(&bench, Guard::StoreLost));
    bench.store_mode = StoreMode::Works;
    bench.run_until(secs(30), "it is over", Bench::is_over);
    assert_eq!(bench.writers(), ["b"]);
    assert_eq!(bench.store.newest().unwrap().0.state, IncidentState::Resolved);
    assert!(!blocks(&bench, Guard::StoreLost), "a record that was taken says that the store is well");
}

/// A19: a store that never answers stops what is behind it, and nothing else.
#[test]
fn a_store_that_hangs_holds_everything_back() {
    let mut bench = bench();
    bench.store_mode = StoreMode::Hangs;
    bench.kill("a");
    bench.run_for(secs(60));
    assert!(bench.done.is_empty());
    bench.store_mode = StoreMode::Works;
    bench.run_until(secs(60), "it is over", |b| b.is_quiet() && b.store.state().primary == Some("b".into()));
}

/// A13: somebody else has acted: this one stops and says so.
#[test]
fn a_conflict_stops_everything() {
    for at_opening in [true, false] {
        let mut bench = bench();
        bench.kill("a");
        if !at_opening {
            bench.run_until(secs(10), "the fence began", |b| b.done.len() == 1);
        }
        bench.store_mode = StoreMode::Conflicts;
        bench.run_for(secs(30));
        bench.store_mode = StoreMode::Works;
        bench.run_for(secs(30));
        assert_eq!(bench.done.len(), usize::from(!at_opening), "{:?}", bench.done);
        assert!(bench.incident().is_none());
        assert!(blocks(&bench, Guard::StoreLost));
        assert_eq!(bench.engine.status(bench.now).clusters[0].primary, Some("a".into()));
        assert!(bench.persists < 60, "a conflict is not repeated in a loop: {}", bench.persists);
    }
}

/// A13: a conflict at the very first record, the adoption of a primary, does not spin.
#[test]
fn a_conflict_at_the_adoption_is_not_repeated_in_a_loop() {
    for mode in [StoreMode::Conflicts, StoreMode::Fails] {
        let mut bench = Bench::new(policy(vec![full(&["a", "b"])]));
        bench.store_mode = mode;
        bench.run_for(secs(30));
        assert!(bench.persists < 40, "{mode:?}: {}", bench.persists);
        assert!(bench.engine.primaries()[0].primary.is_none());
        assert!(!bench.notices().any(|n| matches!(n, Notice::PrimaryChanged { .. })), "{mode:?}: told, and not so");
    }
}

#[test]
fn a_command_that_the_store_does_not_take_is_refused_and_undone() {
    let mut bench = bench();
    bench.store_mode = StoreMode::Fails;
    let refused: CommandError = bench.ask(pause("work")).unwrap().unwrap_err();
    assert_eq!(refused.code, CommandErrorCode::Store);
    assert!(!blocks(&bench, Guard::Paused));
    let adopt = Command::Adopt { cluster: "orders".into(), primary: "b".into(), reason: "x".into() };
    let refused = bench.ask(adopt).unwrap().unwrap_err();
    assert_eq!(refused.code, CommandErrorCode::Store);
    assert_eq!(bench.engine.status(bench.now).clusters[0].primary, Some("a".into()));
}

/// Every command is answered, whatever happens to the record before it.
#[test]
fn commands_behind_an_opening_that_fails_are_answered_too() {
    let mut bench = bench();
    bench.store_mode = StoreMode::Slow(secs(1));
    let failover = Command::Failover {
        cluster: "orders".into(),
        to: None,
        reason: "drill".into(),
        accept_loss: false,
        skip_guards: Vec::new(),
    };
    let first = bench.ask_later(failover);
    let second = bench.ask_later(pause("work"));
    bench.store_mode = StoreMode::Fails;
    bench.run_for(secs(5));
    assert_eq!(bench.replies[&first].as_ref().unwrap_err().code, CommandErrorCode::Store);
    assert_eq!(bench.replies[&second].as_ref().unwrap_err().code, CommandErrorCode::Store);
    assert!(!blocks(&bench, Guard::Paused), "what was refused is undone");
    assert!(bench.incident().is_none());
    assert!(bench.done.is_empty());
}

/// A record that fails while others wait behind it must not take back what they rest on: memory and store stay one.
#[test]
fn a_record_that_fails_before_a_failover_does_not_take_the_failovers_epoch_back() {
    let mut bench = bench();
    // A new stream is heard, and its record hangs; then the primary dies.
    bench.store_mode = StoreMode::Slow(secs(20));
    bench.ask_later(pause("for a moment"));
    bench.run_for(secs(1));
    let to = bench.ask_later(Command::Failover {
        cluster: "orders".into(),
        to: None,
        reason: "drill".into(),
        accept_loss: false,
        skip_guards: vec![Guard::Paused],
    });
    bench.store_mode = StoreMode::Fails;
    bench.run_for(secs(25));
    bench.store_mode = StoreMode::Works;
    bench.event(Event::StoreHealth { ok: true, detail: String::new() });
    bench.run_for(secs(60));
    assert!(bench.replies.contains_key(&to));
    assert!(!blocks(&bench, Guard::StoreLost), "no conflict with oneself\n{}", bench.story());
    let (stored, status) = (bench.store.state().clone(), bench.engine.status(bench.now));
    assert_eq!(status.clusters[0].epoch, stored.primary_epoch);
    assert_eq!(status.clusters[0].primary, stored.primary);
    assert!(bench.is_quiet());
    // And the next one works.
    if stored.primary == Some("a".into()) {
        bench.ask_later(Command::Resume { cluster: Some("orders".into()) });
        bench.kill("a");
        bench.run_until(secs(60), "b serves", |b| b.store.state().primary == Some("b".into()));
    }
}

/// A pause that fails in the middle of a failover must not take the promotion back.
#[test]
fn a_pause_that_fails_in_the_middle_of_a_failover_takes_nothing_back() {
    let mut bench = bench();
    bench.latency = ms(200);
    bench.kill("a");
    bench.run_until(secs(10), "it is promoted", |b| b.done.contains(&"promote b".to_owned()));
    bench.store_mode = StoreMode::Slow(ms(500));
    let to = bench.ask_later(pause("work"));
    bench.run_for(ms(400));
    bench.store_mode = StoreMode::Fails;
    bench.run_for(secs(5));
    bench.store_mode = StoreMode::Works;
    bench.run_until(secs(60), "it is over", Bench::is_over);
    assert_eq!(bench.store.state().primary, Some("b".into()));
    assert_eq!(bench.engine.primaries()[0].primary, Some("b".into()));
    assert!(bench.replies.contains_key(&to));
    assert_eq!(bench.store.state().pause.is_some(), blocks(&bench, Guard::Paused));
    assert!(!bench.effects.is_empty() && bench.effects.iter().any(|(_, e)| matches!(e, Effect::Reply { .. })));
}

/// Every answer twice: harmless.
#[test]
fn double_events_are_harmless() {
    let mut bench = bench();
    bench.every_act_twice = true;
    bench.kill("a");
    bench.run_until(secs(30), "it is over", |b| b.is_quiet() && b.store.state().primary == Some("b".into()));
    for id in 0..100 {
        bench.event(Event::Persisted(id));
        bench.event(Event::PersistFailed { id, conflict: true, reason: "an answer to nothing".into() });
    }
    bench.run_for(secs(5));
    assert!(!blocks(&bench, Guard::StoreLost), "an answer to nothing is no conflict");
    bench.revive("a");
    bench.run_until(secs(60), "a is back", |b| b.is_quiet() && b.store.state().quarantined.is_empty());
    assert_eq!(bench.writers(), ["b"]);
}

/// The store takes seconds over the opening; meanwhile the primary is back and serves. What was wanted then is not done
/// now: the incident is given up, and nothing was touched. (Found by the simulator, seed 884: `tests/sim`.)
#[test]
fn an_opening_that_took_long_is_looked_at_once_more_before_anything_is_done() {
    let mut bench = bench();
    bench.store_mode = StoreMode::Slow(secs(4));
    bench.kill("a");
    bench.run_until(secs(10), "an opening is on its way", |b| b.incident().is_some());
    bench.revive("a");
    bench.run_for(secs(15));
    assert!(bench.done.is_empty(), "{:?}\n{}", bench.done, bench.story());
    let (incident, _) = bench.store.newest().unwrap();
    assert_eq!(incident.state, IncidentState::Aborted, "{}", bench.story());
    assert!(incident.state_reason.as_ref().unwrap().contains("holds no more"), "{:?}", incident.state_reason);
    assert_eq!(bench.writers(), ["a"]);
}

/// A11: the arbiter slept while its opening became durable. It acts upon nothing from before that.
#[test]
fn a11_an_arbiter_that_slept_over_its_opening_acts_upon_nothing() {
    let mut bench = bench();
    bench.store_mode = StoreMode::Slow(secs(4));
    bench.kill("a");
    bench.run_until(secs(10), "an opening is on its way", |b| b.incident().is_some());
    bench.event(Event::RanLate { by: secs(30), detail: "the loop ran late".into() });
    bench.run_for(secs(4));
    assert!(bench.done.is_empty(), "{:?}\n{}", bench.done, bench.story());
    bench.store_mode = StoreMode::Works;
    bench.run_until(secs(60), "the primary is dead all the same", |b| b.is_quiet() && b.writers() == ["b"]);
}
