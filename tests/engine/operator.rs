//! What people ask for: done, or refused with the reason and the remedy.

use coroner::model::{
    Command, CommandError, Epoch, Notice, Verdict,
    command::CommandErrorCode::{self, Blocked, NotFound, WrongState},
    explain::Guard,
};

use crate::{
    bench::{Bench, Script},
    policy::{full, ms, policy, secs},
};

fn bench() -> Bench {
    Bench::settled(policy(vec![full(&["a", "b", "c"])]))
}

fn orders() -> coroner::model::ClusterName {
    "orders".into()
}

#[track_caller]
fn refused(bench: &mut Bench, command: Command, code: CommandErrorCode, words: &str) -> CommandError {
    let error = bench.ask(command).expect("an answer at once").expect_err("it was not refused");
    assert_eq!(error.code, code, "{error}");
    assert!(error.text.contains(words), "{error}");
    error
}

fn failover(to: Option<&str>) -> Command {
    Command::Failover {
        cluster: orders(),
        to: to.map(Into::into),
        reason: "x".into(),
        accept_loss: false,
        skip_guards: vec![],
    }
}

fn adopt(primary: &str) -> Command {
    Command::Adopt { cluster: orders(), primary: primary.into(), reason: "promoted by hand".into() }
}

fn rejoin(member: &str) -> Command {
    Command::Rejoin { cluster: orders(), member: member.into() }
}

#[test]
fn what_is_not_there_is_not_found() {
    let mut bench = bench();
    let nowhere = || "nowhere".into();
    refused(&mut bench, Command::Abort { cluster: nowhere() }, NotFound, "there is no cluster nowhere");
    refused(&mut bench, Command::Resume { cluster: Some(nowhere()) }, NotFound, "coroner status");
    let ack = Command::Acknowledge { incident: "none".into(), cluster: None, note: String::new() };
    refused(&mut bench, ack, NotFound, "coroner incidents list");
    refused(&mut bench, adopt("x"), NotFound, "orders has no member x");
    refused(&mut bench, rejoin("x"), NotFound, "orders has no member x");
    let mut empty = Bench::new(policy(vec![full(&["a"])]));
    empty.event(coroner::model::Event::PolicyLoaded(Box::new(policy(Vec::new()))));
    assert_eq!(empty.ask(Command::Resume { cluster: None }).unwrap().unwrap().text, "no clusters");
}

#[test]
fn what_makes_no_sense_now_is_refused() {
    let mut bench = bench();
    refused(&mut bench, rejoin("b"), WrongState, "not quarantined");
    refused(&mut bench, Command::Abort { cluster: orders() }, WrongState, "no incident is under way");
    refused(&mut bench, Command::Continue { cluster: orders(), accept_loss: false }, WrongState, "no incident");
    let confirm = || Command::FenceConfirm { cluster: orders(), checked: "x".into() };
    refused(&mut bench, confirm(), WrongState, "no incident");
    bench.script("fence a 0.0", &[Script::Slow(secs(1))]);
    bench.kill("a");
    bench.run_until(secs(10), "the fence began", |b| b.done.len() == 1);
    refused(
        &mut bench,
        Command::Continue { cluster: orders(), accept_loss: false },
        WrongState,
        "is not held: it is fencing",
    );
    refused(&mut bench, confirm(), WrongState, "is not held");
    refused(&mut bench, adopt("b"), WrongState, "let it end first");
    bench.run_until(secs(30), "it is over", Bench::is_over);
    bench.default_script.insert("rejoin a".into(), Script::Hang);
    bench.revive("a");
    bench.run_until(secs(30), "it comes back", |b| b.done.contains(&"rejoin a".to_owned()));
    refused(&mut bench, rejoin("a"), WrongState, "is rejoining; let it end first");
    refused(&mut bench, failover(None), Blocked, "");
}

/// A confirmation where a promotion is waited for, not a fence.
#[test]
fn a_fence_is_confirmed_only_where_one_is_waited_for() {
    let mut bench = bench();
    bench.default_script.insert("catch up b".into(), Script::Hang);
    bench.default_script.insert("read-only a".into(), Script::Work);
    bench.default_script.insert("writable a".into(), Script::Unknown);
    bench.ask_later(Command::Switchover { cluster: orders(), to: None, reason: "x".into(), skip_guards: vec![] });
    bench.run_until(secs(120), "it is held", Bench::is_held);
    let confirm = Command::FenceConfirm { cluster: orders(), checked: "x".into() };
    refused(&mut bench, confirm, WrongState, "no fence is waited for");
}

#[test]
fn a_named_candidate_is_taken_or_refused_with_its_reason() {
    let mut bench = bench();
    refused(&mut bench, failover(Some("x")), Blocked, "x is not a standby of this cluster");
    refused(&mut bench, failover(Some("a")), Blocked, "a is not a standby");
    bench.kill("b");
    bench.run_for(secs(4));
    refused(&mut bench, failover(Some("b")), Blocked, "b is not fit: it last told its role");
    bench.ask(failover(Some("c"))).unwrap().unwrap();
    bench.run_until(secs(30), "c serves", |b| b.is_over() && b.store.state().primary == Some("c".into()));
}

#[test]
fn pause_and_resume() {
    let mut bench = bench();
    let pause = |owner: &str| Command::Pause {
        cluster: Some(orders()),
        owner: owner.into(),
        reason: "work".into(),
        for_: Some(secs(60)),
    };
    assert_eq!(bench.ask(pause("")).unwrap().unwrap().text, "orders is paused");
    assert_eq!(bench.store.state().pause.as_ref().unwrap().owner, "ann", "who asked");
    bench.ask(pause("ops")).unwrap().unwrap();
    assert_eq!(bench.store.state().pause.as_ref().unwrap().owner, "ops");
    assert_eq!(bench.engine.status(bench.now).clusters[0].pause.as_ref().unwrap().reason, "work");
    let resume = || Command::Resume { cluster: None };
    assert!(bench.ask(resume()).unwrap().unwrap().text.contains("goes on"));
    assert!(bench.ask(resume()).unwrap().unwrap().text.contains("was not paused"));
    assert_eq!(bench.store.state().pause, None);
    // A pause lasts over a restart of the arbiter.
    bench.ask(pause("ops")).unwrap().unwrap();
    bench.restart(secs(1));
    bench.run_for(secs(3));
    let paused = |b: &Bench| {
        b.engine.why_not(b.now, &orders()).unwrap().guards.iter().any(|g| g.guard == Guard::Paused && g.blocks)
    };
    assert!(paused(&bench));
    bench.run_for(secs(60));
    assert!(!paused(&bench));
}

/// P22: a person says who is primary after somebody else changed it; that takes a new epoch.
#[test]
fn adopt_takes_a_new_epoch() {
    let mut bench = bench();
    bench.member("b").epoch = Epoch(6);
    bench.run_for(secs(1));
    let reply = bench.ask(adopt("b")).unwrap().unwrap();
    assert!(reply.text.contains("b is primary of orders in epoch 7, says ann: promoted by hand"), "{}", reply.text);
    let state = bench.store.state();
    assert_eq!((state.primary.clone(), state.epoch, state.primary_epoch), (Some("b".into()), Epoch(7), Epoch(7)));
    assert!(bench.notices().any(|n| matches!(n, Notice::PrimaryChanged { epoch: Epoch(7), .. })));
    assert_eq!(bench.engine.primaries()[0].address.as_deref(), Some("10.0.0.12:6379"));
}

/// A18, A21: the epoch of a failover is above whatever a member has seen.
#[test]
fn a_failover_takes_an_epoch_above_all_that_was_seen() {
    let mut bench = bench();
    bench.member("c").epoch = Epoch(41);
    bench.run_for(secs(1));
    bench.kill("a");
    bench.run_until(secs(30), "it is over", Bench::is_over);
    assert_eq!(bench.store.state().primary_epoch, Epoch(42));
}

/// An acknowledgement ends the cooldown and stands in the record, over a restart too.
#[test]
fn acknowledge() {
    let mut bench = bench();
    for label in ["fence a 0.0", "fence a 1.0"] {
        bench.default_script.insert(label.into(), Script::Unknown);
    }
    bench.kill("a");
    bench.run_until(secs(30), "it is held", Bench::is_held);
    let incident = bench.incident().unwrap().id.clone();
    let ack = Command::Acknowledge { incident: incident.clone(), cluster: None, note: "on my way".into() };
    let reply = bench.ask(ack).unwrap();
    let reply = reply.unwrap();
    assert_eq!(reply.incident, Some(incident));
    bench.run_for(ms(10));
    assert!(bench.store.state().cooldown_over);
    bench.restart(secs(1));
    let noted = bench.incident().unwrap().acknowledged.clone().unwrap();
    assert_eq!((noted.by.0.as_str(), noted.note.as_str()), ("ann", "on my way"));
    assert!(coroner::model::status::IncidentBrief::from(bench.incident().unwrap()).acknowledged);
}

/// A person's failover of a living primary: it is fenced and replaced, whatever the rules say.
#[test]
fn a_failover_by_hand_needs_no_death() {
    let mut bench = bench();
    assert_eq!(bench.engine.why(bench.now, &orders()).unwrap().verdict, Verdict::Alive);
    let reply = bench.ask(failover(None)).unwrap().unwrap();
    assert!(reply.text.contains("failover of orders to b has begun"));
    bench.run_until(secs(30), "it is over", |b| b.is_over() && b.store.state().primary == Some("b".into()));
    assert_eq!(bench.writers(), ["b"]);
    let incident = bench.store.incidents[&reply.incident.unwrap()].0.as_ref().unwrap();
    assert!(incident.timeline[0].text.contains("asked for by ann: x"));
}

#[test]
fn guards_that_a_person_cannot_pass_stand_against_people_too() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.kill("b");
    bench.run_for(secs(4));
    let error = refused(&mut bench, failover(None), Blocked, "guards stand against it");
    assert_eq!(error.guards[0].0, Guard::NoCandidate);
    bench.event(coroner::model::Event::RanLate { by: secs(3), detail: "late".into() });
    let error = refused(&mut bench, failover(None), Blocked, "");
    assert!(error.guards.iter().any(|(g, _)| *g == Guard::Tilt));
}
