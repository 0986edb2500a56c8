//! The old primary comes back: quarantined, then a standby, then its fences are lifted.

use coroner::model::{Command, Proof, Role, incident::IncidentState, policy::Rejoin, record::SagaKind};

use crate::{
    bench::{Bench, Script},
    policy::{full, method, policy, secs},
};

/// A bench after a failover from `a` to `b`; `a` is still down.
fn after_failover(cluster: coroner::model::ClusterPolicy) -> Bench {
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.kill("a");
    bench.run_until(secs(60), "b serves", |b| b.is_quiet() && b.store.state().primary == Some("b".into()));
    bench.done.clear();
    bench
}

/// H17: fences are lifted in the reverse order, and only once the member follows.
#[test]
fn fences_are_lifted_in_reverse_and_only_after_it_follows() {
    let mut cluster = full(&["a", "b"]);
    cluster.failover.fence =
        vec![vec![method("claim", secs(1), Proof::Claim)], vec![method("gate", secs(1), Proof::Gate)]];
    let mut bench = after_failover(cluster);
    assert_eq!(bench.store.state().quarantined["a"].fences, [(0, 0), (1, 0)]);
    bench.script("rejoin a", &[Script::Refuse, Script::Unknown]);
    bench.script("unfence a 0.0", &[Script::Refuse]);
    bench.revive("a");
    bench.run_until(secs(60), "a is back", |b| b.is_quiet() && b.store.state().quarantined.is_empty());
    assert_eq!(bench.done, ["rejoin a", "rejoin a", "rejoin a", "unfence a 1.0", "unfence a 0.0", "unfence a 0.0"]);
    assert_eq!(bench.members["a"].role, Role::Standby);
    assert!(bench.members["a"].fences.is_empty());
    let record = bench.store.newest().unwrap().0.rejoin.clone().unwrap();
    assert_eq!(record.member, "a".into());
    assert!(record.done > record.seen);
    assert!(record.divergent.is_some());
}

#[test]
fn it_is_not_brought_back_while_it_is_not_seen() {
    let mut bench = after_failover(full(&["a", "b"]));
    bench.run_for(secs(60));
    assert!(bench.done.is_empty());
    assert!(bench.store.state().quarantined.contains_key("a"));
}

#[test]
fn ask_waits_for_a_person_and_never_for_ever() {
    for (rejoin, by_hand) in [(Rejoin::Ask, true), (Rejoin::Never, true), (Rejoin::Follow, false)] {
        let mut cluster = full(&["a", "b"]);
        cluster.failover.rejoin = rejoin;
        let mut bench = after_failover(cluster);
        bench.revive("a");
        bench.run_for(secs(30));
        assert_eq!(bench.done.is_empty(), by_hand, "{rejoin:?}");
        if by_hand {
            bench.ask_later(Command::Rejoin { cluster: "orders".into(), member: "a".into() });
            bench.run_until(secs(30), "a is back", |b| b.is_quiet() && b.store.state().quarantined.is_empty());
        }
    }
}

#[test]
fn a_member_that_does_not_come_back_is_held_after_eight_tries() {
    let mut bench = after_failover(full(&["a", "b"]));
    bench.default_script.insert("rejoin a".into(), Script::Refuse);
    bench.revive("a");
    bench.run_until(secs(300), "it is held", Bench::is_held);
    assert_eq!(bench.done.len(), 8, "{:?}", bench.done);
    assert!(!bench.members["a"].fences.is_empty());
    bench.default_script.clear();
    bench.ask(Command::Continue { cluster: "orders".into(), accept_loss: false }).unwrap().unwrap();
    bench.run_until(secs(60), "a is back", |b| b.is_quiet() && b.store.state().quarantined.is_empty());
}

/// Given up by a person, it stays quarantined; only a person brings it back.
#[test]
fn a_rejoin_that_was_given_up_waits_for_a_person() {
    let mut bench = after_failover(full(&["a", "b"]));
    bench.default_script.insert("rejoin a".into(), Script::Refuse);
    bench.revive("a");
    bench.run_until(secs(30), "it began", |b| b.done.len() > 1);
    bench.ask(Command::Abort { cluster: "orders".into() }).unwrap().unwrap();
    bench.run_until(secs(10), "it is given up", Bench::is_over);
    let (incident, _) = bench.store.newest().unwrap();
    assert_eq!((incident.kind, incident.state), (SagaKind::Rejoin, IncidentState::Aborted));
    let last = &incident.timeline.last().unwrap().text;
    assert!(!last.contains("a stays primary"), "{last}");
    let tried = bench.done.len();
    bench.default_script.clear();
    bench.run_for(secs(30));
    assert_eq!(bench.done.len(), tried);
    bench.ask_later(Command::Rejoin { cluster: "orders".into(), member: "a".into() });
    bench.run_until(secs(30), "a is back", |b| b.is_quiet() && b.store.state().quarantined.is_empty());
}

/// The primary dies while the old one comes back: the failover goes first, and the one that came back comes later.
#[test]
fn a_failover_goes_before_a_rejoin() {
    let mut cluster = full(&["a", "b", "c"]);
    cluster.failover.cooldown = secs(1);
    let mut bench = after_failover(cluster);
    bench.script("rejoin a", &[Script::Hang]);
    bench.revive("a");
    bench.run_until(secs(30), "it began", |b| !b.done.is_empty());
    bench.kill("b");
    bench.run_until(secs(60), "c serves", |b| b.store.state().primary == Some("c".into()));
    let kinds: Vec<(SagaKind, IncidentState)> =
        bench.store.incidents.values().filter_map(|(i, ..)| i.as_ref()).map(|i| (i.kind, i.state)).collect();
    assert!(kinds.contains(&(SagaKind::Rejoin, IncidentState::Aborted)), "{kinds:?}");
    bench.run_until(secs(60), "a follows c", |b| b.is_quiet() && !b.store.state().quarantined.contains_key("a"));
    assert_eq!(bench.members["a"].follows, Some("c".into()));
    assert_eq!(bench.writers(), ["c"]);
}

/// No rejoin while people say hands off, or while the primary is in doubt.
#[test]
fn a_pause_keeps_it_from_beginning() {
    let mut bench = after_failover(full(&["a", "b"]));
    let pause = Command::Pause {
        cluster: Some("orders".into()),
        owner: String::new(),
        reason: "work".into(),
        for_: Some(secs(60)),
    };
    bench.ask_later(pause);
    bench.revive("a");
    bench.run_for(secs(50));
    assert!(bench.done.is_empty(), "{:?}", bench.done);
    bench.run_until(secs(30), "a is back", |b| b.is_quiet() && b.store.state().quarantined.is_empty());
}

/// A saga that lifted nothing leaves nothing: a switchover's quarantine has no fences.
#[test]
fn only_auto_mode_brings_back_by_itself() {
    let mut bench = after_failover(full(&["a", "b"]));
    let mut changed = bench.policy.clone();
    changed.clusters.get_mut("orders").unwrap().mode = coroner::model::Mode::Manual;
    bench.event(coroner::model::Event::PolicyLoaded(Box::new(changed)));
    bench.revive("a");
    bench.run_for(secs(30));
    assert!(bench.done.is_empty(), "{:?}", bench.done);
}

/// Puts other fences into the file.
fn reload(bench: &mut Bench, fence: Vec<Vec<coroner::model::policy::MethodPolicy>>) {
    let mut changed = bench.policy.clone();
    changed.clusters.get_mut("orders").unwrap().failover.fence = fence;
    bench.policy = changed.clone();
    bench.event(coroner::model::Event::PolicyLoaded(Box::new(changed)));
}

/// A fence is what its label says: a file that was put in another order has it elsewhere.
#[test]
fn the_fence_that_lies_on_it_is_lifted_wherever_the_file_has_it_now() {
    let gate = || method("gate", secs(1), Proof::Gate);
    let power = || method("power", secs(1), Proof::PowerOff);
    for (fence, lifted) in [
        (vec![vec![power()], vec![gate()]], "unfence a 1.0"),
        (vec![vec![power(), gate()]], "unfence a 0.1"),
        (vec![vec![gate(), power()]], "unfence a 0.0"),
    ] {
        let mut cluster = full(&["a", "b"]);
        cluster.failover.fence = vec![vec![gate()]];
        let mut bench = after_failover(cluster);
        assert_eq!(bench.store.state().quarantined["a"].labels, ["gate"]);
        reload(&mut bench, fence);
        bench.revive("a");
        bench.run_until(secs(60), "a is back", |b| b.is_quiet() && b.store.state().quarantined.is_empty());
        assert_eq!(bench.done, ["rejoin a", lifted]);
    }
}

/// A fence that the file no longer has is not forgotten: a person lifts it by hand, and says so.
#[test]
fn a_fence_that_the_file_no_longer_has_is_a_persons_to_lift() {
    let mut cluster = full(&["a", "b"]);
    cluster.failover.fence = vec![vec![method("gate", secs(1), Proof::Gate)]];
    let mut bench = after_failover(cluster);
    reload(&mut bench, vec![vec![method("power", secs(1), Proof::PowerOff)]]);
    bench.revive("a");
    bench.run_until(secs(60), "it is held", Bench::is_held);
    assert_eq!(bench.done, ["rejoin a"], "another fence at its place is not lifted");
    let reason = bench.incident().unwrap().state_reason.clone().unwrap();
    assert!(reason.contains("the file no longer has gate, which lies on a"), "{reason}");
    bench.restart(secs(1));
    bench.run_for(secs(5));
    assert!(bench.is_held());
    bench.ask(Command::Continue { cluster: "orders".into(), accept_loss: false }).unwrap().unwrap();
    bench.run_until(secs(60), "a is back", |b| b.is_quiet() && b.store.state().quarantined.is_empty());
    assert_eq!(bench.done, ["rejoin a"]);

    // Or it is put back: what was given up is begun anew.
    let mut cluster = full(&["a", "b"]);
    cluster.failover.fence = vec![vec![method("gate", secs(1), Proof::Gate)]];
    let mut bench = after_failover(cluster.clone());
    reload(&mut bench, vec![vec![method("power", secs(1), Proof::PowerOff)]]);
    bench.revive("a");
    bench.run_until(secs(60), "it is held", Bench::is_held);
    reload(&mut bench, cluster.failover.fence);
    bench.ask(Command::Abort { cluster: "orders".into() }).unwrap().unwrap();
    bench.run_until(secs(5), "it is given up", Bench::is_over);
    bench.ask_later(Command::Rejoin { cluster: "orders".into(), member: "a".into() });
    bench.run_until(secs(60), "a is back", |b| b.is_quiet() && b.store.state().quarantined.is_empty());
    assert_eq!(bench.done, ["rejoin a", "rejoin a", "unfence a 0.0"]);
}

/// Its agent was not heard after the promotion, so what it had stopped was never started again.
#[test]
fn a_member_that_was_not_let_through_is_let_through_before_the_next_try() {
    let mut cluster = full(&["a", "b"]);
    cluster.failover.fence[0][0].admits = true;
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.default_script.insert("admit a 0.0".into(), Script::Refuse);
    bench.kill("a");
    bench.run_until(secs(60), "b serves", |b| b.is_quiet() && b.store.state().primary == Some("b".into()));
    bench.done.clear();
    bench.default_script.clear();
    bench.script("rejoin a", &[Script::Refuse]);
    bench.revive("a");
    bench.run_until(secs(60), "a is back", |b| b.is_quiet() && b.store.state().quarantined.is_empty());
    assert_eq!(bench.done, ["rejoin a", "admit a 0.0", "rejoin a", "unfence a 0.0"]);
}
