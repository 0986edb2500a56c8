//! Catching up, loss, promotion, other candidates, and moving the nodes.

use coroner::model::{Command, Epoch, Role, incident::IncidentState, policy::UnknownLoss, record::LogEntry};

use crate::{
    bench::{Bench, Script},
    policy::{full, ms, policy, secs},
};

fn count(bench: &Bench, what: &str) -> usize {
    bench.done.iter().filter(|d| *d == what).count()
}

/// P19: the standby lags beyond what may be lost: held; `continue --accept-loss` promotes all the same.
#[test]
fn too_much_loss_is_held_until_a_person_accepts_it() {
    let mut cluster = full(&["a", "b"]);
    cluster.failover.max_loss = Some(5);
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.default_script.insert("catch up b".into(), Script::Reached(900));
    bench.kill("a");
    bench.run_until(secs(30), "it is held", Bench::is_held);
    let reason = bench.incident().unwrap().state_reason.clone().unwrap();
    assert!(reason.contains("would lose") && reason.contains("the 5 allowed"), "{reason}");
    let lost = bench.incident().unwrap().loss.clone().unwrap();
    assert!(lost.behind.unwrap() > 5 && lost.candidate_position == Some(900));

    let go = |accept_loss| Command::Continue { cluster: "orders".into(), accept_loss };
    bench.ask(go(false)).unwrap().unwrap();
    bench.run_until(secs(5), "it is held again", Bench::is_held);
    assert_eq!(count(&bench, "promote b"), 0);
    bench.ask(go(true)).unwrap().unwrap();
    bench.run_until(secs(30), "it is over", Bench::is_over);
    assert_eq!(bench.writers(), ["b"]);
    let (incident, _) = bench.store.newest().unwrap();
    assert!(incident.bypassed.iter().any(|b| b.contains("any loss was accepted")));
}

/// P19, at its limit: what is lost exactly as allowed is allowed; one more is not.
#[test]
fn the_loss_allowed_is_allowed_exactly() {
    for (short_of, promotes) in [(5, true), (6, false)] {
        let mut cluster = full(&["a", "b"]);
        cluster.failover.max_loss = Some(5);
        let mut bench = Bench::settled(policy(vec![cluster]));
        bench.kill("a");
        bench.run_for(secs(1));
        let last = bench.engine.status(bench.now).clusters[0].members[0].position.unwrap();
        bench.default_script.insert("catch up b".into(), Script::Reached(last - short_of));
        bench.run_for(secs(20));
        assert_eq!(count(&bench, "promote b") == 1, promotes, "{short_of} short");
    }
}

#[test]
fn a_loss_that_is_not_known_is_held_unless_the_file_accepts_it() {
    for (unknown_loss, promotes) in [(UnknownLoss::Hold, false), (UnknownLoss::Accept, true)] {
        let mut cluster = full(&["a", "b"]);
        cluster.failover.max_loss = Some(5);
        cluster.failover.unknown_loss = unknown_loss;
        let mut bench = Bench::settled(policy(vec![cluster]));
        // It catches up, but cannot tell its position.
        bench.default_script.insert("catch up b".into(), Script::Lie);
        bench.kill("a");
        bench.run_for(secs(30));
        assert_eq!(count(&bench, "promote b") == 1, promotes);
        assert_eq!(bench.is_held(), !promotes);
    }
}

/// H9: a promotion that may have happened is tried at the same target only, then held.
#[test]
fn an_uncertain_promotion_is_repeated_at_the_same_target_and_then_held() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b", "c"])]));
    bench.default_script.insert("promote b".into(), Script::Unknown);
    bench.kill("a");
    bench.run_until(secs(60), "it is held", Bench::is_held);
    assert_eq!(count(&bench, "promote b"), 5);
    assert_eq!(count(&bench, "promote c"), 0);
    // A person let it go on: still the same one, and now it works.
    bench.default_script.clear();
    bench.ask(Command::Continue { cluster: "orders".into(), accept_loss: false }).unwrap().unwrap();
    bench.run_until(secs(30), "it is over", Bench::is_over);
    assert_eq!(bench.writers(), ["b"]);
    assert_eq!(count(&bench, "promote c"), 0);
}

/// H9: even when later tries provably did nothing, an earlier one may have happened.
#[test]
fn one_uncertain_promotion_keeps_every_other_candidate_away() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b", "c"])]));
    bench.script("promote b", &[Script::Unknown]);
    bench.default_script.insert("promote b".into(), Script::Refuse);
    bench.kill("a");
    bench.run_until(secs(60), "it is held", Bench::is_held);
    bench.ask(Command::Continue { cluster: "orders".into(), accept_loss: false }).unwrap().unwrap();
    bench.run_for(secs(60));
    assert!(bench.is_held());
    assert_eq!(count(&bench, "promote c"), 0, "{:?}", bench.done);
}

/// H8: it was done and not seen to be done; done again it is harmless.
#[test]
fn a_promotion_that_happened_and_timed_out_is_found_by_the_next_try() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b", "c"])]));
    bench.script("promote b", &[Script::DoneUnknown, Script::DoneHang]);
    bench.kill("a");
    bench.run_until(secs(60), "it is over", Bench::is_over);
    assert_eq!((count(&bench, "promote b"), count(&bench, "promote c")), (3, 0));
    assert_eq!(bench.writers(), ["b"]);
}

/// P21, P23: the standby dies before anything was done with it; the next one is promoted.
#[test]
fn a_standby_that_provably_was_not_promoted_gives_way_to_another() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b", "c"])]));
    bench.default_script.insert("promote b".into(), Script::Refuse);
    bench.kill("a");
    bench.run_until(secs(60), "it is over", Bench::is_over);
    assert_eq!((count(&bench, "promote b"), count(&bench, "promote c")), (3, 1));
    assert_eq!(bench.writers(), ["c"]);
    let (incident, log) = bench.store.newest().unwrap();
    assert_eq!(incident.candidate, "c".into());
    assert!(log.iter().any(|e| matches!(e, LogEntry::CandidateChanged { to, .. } if *to == "c".into())));
    assert_eq!(bench.members["b"].follows, Some("c".into()), "the one that was passed over follows too (P25)");
}

#[test]
fn a_standby_that_does_not_catch_up_gives_way_to_another_or_is_held() {
    for (members, held) in [(&["a", "b", "c"][..], false), (&["a", "b"][..], true)] {
        let mut bench = Bench::settled(policy(vec![full(members)]));
        bench.default_script.insert("catch up b".into(), Script::Refuse);
        bench.kill("a");
        bench.run_until(secs(60), "an end", |b| b.is_quiet() && b.store.newest().is_some() || b.is_held());
        assert_eq!(bench.is_held(), held);
        assert_eq!(count(&bench, "promote b"), 0);
        if held {
            // The fence stays where it is: never an automatic un-fence.
            assert!(!bench.members["a"].fences.is_empty());
            bench.default_script.clear();
            bench.ask(Command::Continue { cluster: "orders".into(), accept_loss: false }).unwrap().unwrap();
            bench.run_until(secs(30), "it is over", Bench::is_over);
            assert_eq!(bench.writers(), ["b"]);
        }
    }
}

/// H10: nodes that do not follow are named; the incident ends when the time for following is over.
#[test]
fn laggards_are_named_when_the_time_is_over() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.nodes.get_mut("n2").unwrap().is_deaf = true;
    bench.kill("a");
    bench.run_until(secs(10), "b serves", |b| b.store.state().primary == Some("b".into()));
    let promoted = bench.now;
    bench.run_until(secs(60), "it is over", Bench::is_over);
    let took = bench.now.since(promoted);
    assert!(took >= ms(9_900) && took < ms(10_500), "{took:?}");
    let (incident, _) = bench.store.newest().unwrap();
    assert_eq!(incident.outage.laggards, ["n2".into()]);
    assert_eq!(incident.state, IncidentState::Resolved);
    assert_eq!(count(&bench, "redirect 0"), 3, "those that did not take it are told again");
}

/// H10: a redirect that fails is no reason to wait when the nodes follow all the same.
#[test]
fn nodes_that_follow_by_themselves_end_it() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.default_script.insert("redirect 0".into(), Script::Refuse);
    bench.kill("a");
    bench.run_until(secs(10), "b serves", |b| b.store.state().primary == Some("b".into()));
    for node in bench.nodes.values_mut() {
        (node.primary, node.epoch) = (Some("b".into()), Epoch(2));
    }
    bench.run_until(secs(5), "it is over", Bench::is_over);
    assert!(bench.store.newest().unwrap().0.outage.laggards.is_empty());
}

/// A node that says the new epoch and another primary does not follow.
#[test]
fn a_node_that_names_another_primary_does_not_follow() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.default_script.insert("redirect 0".into(), Script::Refuse);
    bench.kill("a");
    bench.run_until(secs(10), "b serves", |b| b.store.state().primary == Some("b".into()));
    for node in bench.nodes.values_mut() {
        node.epoch = Epoch(2);
    }
    bench.run_until(secs(60), "it is over", Bench::is_over);
    assert_eq!(bench.store.newest().unwrap().0.outage.laggards.len(), 3);
}

/// P25: other standbys are pointed at the new primary, and a failure of that does not keep the incident open for ever.
#[test]
fn other_standbys_are_pointed_at_the_new_primary() {
    for (script, tries) in [(Script::Work, 1), (Script::Refuse, 3)] {
        let mut bench = Bench::settled(policy(vec![full(&["a", "b", "c"])]));
        bench.default_script.insert("repoint c".into(), script);
        bench.kill("a");
        bench.run_until(secs(60), "it is over", Bench::is_over);
        assert_eq!(count(&bench, "repoint c"), tries);
        assert_eq!(count(&bench, "repoint a"), 0, "the fenced one is left alone");
    }
}

/// A member that was fenced before is nobody's to repoint: it comes back by its own plan, or not at all.
#[test]
fn a_quarantined_member_is_not_repointed() {
    let mut cluster = full(&["a", "b", "c"]);
    cluster.failover.rejoin = coroner::model::policy::Rejoin::Ask;
    cluster.failover.cooldown = secs(1);
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.kill("a");
    bench.run_until(secs(30), "it is over", |b| b.is_quiet() && b.store.state().primary == Some("b".into()));
    bench.revive("a");
    bench.run_for(secs(10));
    assert_eq!(bench.members["a"].role, Role::Primary, "it thinks so behind its fence");
    bench.kill("b");
    bench.run_until(secs(60), "c serves", |b| b.is_quiet() && b.store.state().primary == Some("c".into()));
    assert_eq!(count(&bench, "repoint a"), 0);
    assert_eq!(bench.members["a"].role, Role::Primary);
    assert_eq!(bench.store.state().quarantined.len(), 2);
}

/// The nodes' side of the story.
#[test]
fn the_outage_is_told_from_the_nodes_side() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.kill("a");
    bench.run_until(secs(60), "it is over", Bench::is_over);
    let (incident, _) = bench.store.newest().unwrap();
    let outage = &incident.outage;
    let last_good = outage.last_good.unwrap();
    assert!(last_good <= incident.opened && incident.opened.since(last_good) < secs(10), "{outage:?}");
    assert!(outage.first_new.unwrap() > incident.opened, "{outage:?}");
    assert!(incident.timeline.iter().any(|t| t.text.contains("the first message under epoch 2 reached")));
    let labels: Vec<&str> = incident.steps.iter().map(|s| s.label.as_str()).collect();
    assert_eq!(
        labels,
        [
            "fence a by gate (level 1)",
            "try a forbidden write at a (level 1)",
            "let b catch up",
            "promote b",
            "redirect by http"
        ]
    );
    assert!(incident.steps.iter().all(|s| s.took.is_some() && s.outcome != "running"));
    assert_eq!(incident.steps[0].outcome, "confirmed, proof 3 (gate closed)");
    assert_eq!(incident.epoch_before, Epoch(1));
    assert_eq!(incident.policy_hash, "abc123");
    assert!(!incident.guards.is_empty() && incident.guards.iter().all(|g| !g.blocks));
    assert_eq!(incident.candidates[0].member, "b".into());
    let loss = incident.loss.as_ref().unwrap();
    assert!(loss.detail.contains("at least") && loss.blind.is_some(), "{loss:?}");
}

/// A stranger that calls itself a node is not taken into the record.
#[test]
fn reports_of_nodes_that_the_file_does_not_know_stay_out_of_the_record() {
    use coroner::model::{Event, Fact, Observation, Observer, Outcome, observation::Arrivals};
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.kill("a");
    bench.run_until(secs(10), "b serves", |b| b.store.state().primary == Some("b".into()));
    let outcome = Outcome::Fact(Fact::Arrivals(Arrivals { epoch: Epoch(2), ..Arrivals::default() }));
    let seen = Observation {
        at: bench.now,
        cluster: "orders".into(),
        signal: "arrivals".into(),
        observer: Observer::Node("stranger".into()),
        subject: None,
        outcome,
    };
    bench.event(Event::Observed(seen));
    bench.run_until(secs(60), "it is over", Bench::is_over);
    let (incident, _) = bench.store.newest().unwrap();
    assert!(incident.outage.following.iter().all(|(n, _)| n.as_str() != "stranger"));
}

/// poll_timeout lies in the future, whatever is delayed or over: an engine that asks to be woken in the past spins.
#[test]
fn nothing_spins_while_a_redirect_outlasts_the_time_for_following() {
    let mut cluster = full(&["a", "b"]);
    cluster.failover.redirect[0].deadline = secs(60);
    cluster.failover.redirect_within = secs(5);
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.default_script.insert("redirect 0".into(), Script::Slow(secs(40)));
    bench.kill("a");
    bench.run_until(secs(10), "b serves", |b| b.store.state().primary == Some("b".into()));
    let mut wakes = 0;
    let until = bench.now + secs(30);
    while bench.now < until {
        let before = bench.now;
        bench.step();
        wakes += 1;
        assert!(wakes < 2_000, "woken {wakes} times by {before}");
    }
}

/// Where no node reports, nobody is waited for.
#[test]
fn without_nodes_that_report_it_ends_with_the_redirect() {
    let mut cluster = full(&["a", "b"]);
    cluster.nodes.clear();
    cluster.signals.remove("arrivals");
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.kill("a");
    bench.run_until(secs(30), "it is over", Bench::is_over);
    let (incident, _) = bench.store.newest().unwrap();
    assert!(incident.timeline.iter().any(|t| t.text == "no node reports whom it follows"));
    assert_eq!(bench.done.last().map(String::as_str), Some("redirect 0"));
}

/// Its agent died in the same moment as the primary, and is started again by its supervisor: nobody has to be called.
#[test]
fn the_only_standby_is_waited_for_while_it_does_not_answer() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.script("catch up b", &[Script::Refuse, Script::Unknown, Script::Refuse]);
    bench.kill("a");
    bench.run_until(secs(60), "b serves", |b| b.store.state().primary == Some("b".into()));
    assert_eq!(count(&bench, "catch up b"), 4, "{:?}", bench.done);
}
