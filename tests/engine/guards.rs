//! The guards: each blocks, each ends, each stands in why-not with its reason.

use coroner::model::{
    ClusterPolicy, Command, Condition, Effect, Event, Fact, FenceHealth, Mode, Notice, Observation, Observer, Outcome,
    Policy, Proof, Role, Rule, Verdict, WallAnchor, command::CommandErrorCode, explain::Guard, policy::Rejoin,
    record::Recovered, rule::Reaction,
};

use crate::{
    bench::Bench,
    court::Court,
    policy::{bare, full, is, method, ms, not, policy, rule, secs},
};

fn reason(bench: &Bench, guard: Guard) -> Option<String> {
    let why_not = bench.engine.why_not(bench.now, &"orders".into()).unwrap();
    assert_eq!(why_not.guards.iter().map(|g| g.guard).collect::<Vec<_>>(), Guard::ALL, "all of them, in their order");
    assert!(why_not.guards.iter().all(|g| !g.reason.is_empty() || !g.blocks));
    why_not.guards.into_iter().find(|g| g.guard == guard && g.blocks).map(|g| g.reason)
}

fn promoted(bench: &Bench) -> bool {
    bench.done.iter().any(|d| d.starts_with("promote"))
}

fn failover(skip_guards: Vec<Guard>) -> Command {
    Command::Failover { cluster: "orders".into(), to: None, reason: "drill".into(), accept_loss: false, skip_guards }
}

fn pause(cluster: Option<&str>, for_: Option<std::time::Duration>) -> Command {
    Command::Pause { cluster: cluster.map(Into::into), owner: "bob".into(), reason: "F5: kernel update".into(), for_ }
}

/// The primary dies under this guard: nothing is done, and it says so once; then the guard ends, and it is done.
#[track_caller]
fn blocks_then_ends(mut bench: Bench, guard: Guard, words: &str, end: impl FnOnce(&mut Bench)) -> Bench {
    bench.kill("a");
    bench.run_for(secs(8));
    let why = reason(&bench, guard).unwrap_or_else(|| panic!("{guard} does not block\n{}", bench.story()));
    assert!(why.contains(words), "{why}");
    assert!(bench.done.is_empty(), "{guard}: {:?}", bench.done);
    let blocked =
        |n: &&Notice| matches!(n, Notice::ActBlocked { guards, .. } if guards.iter().any(|(g, _)| *g == guard));
    assert_eq!(bench.notices().filter(blocked).count(), 1, "{guard} is told once");
    let least = bench.engine.why_not(bench.now, &"orders".into()).unwrap();
    assert!(!least.ready);
    assert!(least.least_change.contains("these guards stand against it") && least.least_change.contains(words));
    end(&mut bench);
    bench.run_until(secs(60), "it is done", promoted);
    assert!(
        bench.notices().any(|n| matches!(n, Notice::ActBlocked { guards, .. } if guards.is_empty())),
        "told as over"
    );
    bench
}

/// F5: a planned stop of the primary under a pause is no death; the pause ends by itself, or by `resume`.
#[test]
fn paused() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.ask_later(pause(Some("orders"), None));
    bench.run_for(ms(10));
    blocks_then_ends(bench, Guard::Paused, "paused by bob until `coroner resume`: F5: kernel update", |bench| {
        bench.ask_later(Command::Resume { cluster: Some("orders".into()) });
    });
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.ask_later(pause(None, Some(secs(30))));
    bench.run_for(ms(10));
    let bench = blocks_then_ends(bench, Guard::Paused, "paused by bob for another 2", |_| {});
    assert!(bench.notices().any(|n| matches!(n, Notice::GuardChanged { guard: Guard::Paused, blocks: true, .. })));
    assert!(bench.notices().any(|n| matches!(n, Notice::GuardChanged { guard: Guard::Paused, blocks: false, .. })));
}

#[test]
fn held_by_rule() {
    let mut cluster = full(&["a", "b"]);
    let hold = rule("link is up", is("link", Condition::Link(true)), Verdict::Suspect, Reaction::Hold);
    cluster.rules.push(hold);
    // The standby's link stands on for a while after the primary stopped answering: freeze, not death.
    cluster.rules[0].when = is("role", Condition::LagAbove(1_000_000));
    cluster.rules[0].when = is("ping", Condition::FailingOf { failures: 3, of: 3 });
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.member("a").cut_off = true;
    bench.run_for(secs(10));
    let why = reason(&bench, Guard::HeldByRule).unwrap();
    assert!(why.contains("the rule “link is up” holds"), "{why}");
    assert!(bench.done.is_empty());
    bench.kill("a");
    bench.run_until(secs(30), "it is done", promoted);
}

/// Wherever the rule that holds stands in the file: a death before it does not outvote it.
#[test]
fn a_rule_that_holds_is_heeded_in_any_place() {
    for place in 0..2 {
        let mut cluster = full(&["a", "b"]);
        let hold =
            rule("standby answers", is("role", Condition::RoleIs(Role::Standby)), Verdict::Suspect, Reaction::Hold);
        cluster.rules.insert(place, hold);
        let mut bench = Bench::settled(policy(vec![cluster]));
        bench.kill("a");
        bench.run_for(secs(10));
        assert!(
            reason(&bench, Guard::HeldByRule).is_some_and(|why| why.contains("standby answers")),
            "in place {place}"
        );
        assert!(bench.done.is_empty(), "in place {place}: {:?}", bench.done);
    }
}

#[test]
fn tilt() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.event(Event::RanLate { by: secs(30), detail: "the process was stopped for 30s".into() });
    bench.kill("a");
    bench.run_for(secs(4));
    assert!(reason(&bench, Guard::Tilt).unwrap().contains("the process was stopped for 30s"));
    assert!(bench.done.is_empty());
    bench.run_until(secs(30), "it is done", promoted);
}

/// G7, G8: fewer than a majority of the nodes heard: the cut may be ours.
#[test]
fn isolated_from_nodes() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    for node in ["n1", "n2"] {
        bench.nodes.get_mut(node).unwrap().alive = false;
    }
    bench.run_for(secs(4));
    blocks_then_ends(bench, Guard::Isolated, "1 of 3 nodes are heard, 2 are needed", |bench| {
        bench.nodes.get_mut("n1").unwrap().alive = true;
    });
}

#[test]
fn isolated_from_standbys_where_no_node_reports() {
    let mut cluster = full(&["a", "b"]);
    cluster.nodes.clear();
    cluster.signals.remove("arrivals");
    cluster.failover.candidate_fresh_for = secs(600);
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.member("b").cut_off = true;
    bench.run_for(secs(4));
    blocks_then_ends(bench, Guard::Isolated, "no standby is heard", |bench| bench.member("b").cut_off = false);
}

#[test]
fn no_candidate() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.kill("b");
    bench.run_for(secs(4));
    assert!(
        bench.notices().any(|n| matches!(n, Notice::GuardChanged { guard: Guard::NoCandidate, blocks: true, .. })),
        "told before it matters"
    );
    blocks_then_ends(bench, Guard::NoCandidate, "no standby is fit: b: it last told its role", |bench| {
        bench.revive("b")
    });
    let court = Court::of(bare(&["a"]));
    let guards = court.why_not().guards;
    assert!(guards.iter().any(|g| g.guard == Guard::NoCandidate && g.reason == "there is no standby"));
}

#[test]
fn no_fence() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    let health = |level, usable, member: &str| Event::FenceChecked {
        cluster: "orders".into(),
        member: member.into(),
        level,
        method: 0,
        health: FenceHealth { usable, detail: "no route to the BMC".into() },
    };
    bench.event(health(0, Some(false), "a"));
    assert_eq!(reason(&bench, Guard::NoFence), None, "the other level can do it");
    bench.event(health(1, None, "a"));
    bench.event(health(1, Some(false), "b"));
    assert_eq!(reason(&bench, Guard::NoFence), None, "not known is not unusable, and b is not the primary");
    bench.event(health(1, Some(false), "a"));
    bench.run_for(ms(10));
    assert!(bench.notices().any(|n| matches!(n, Notice::GuardChanged { guard: Guard::NoFence, blocks: true, .. })));
    blocks_then_ends(bench, Guard::NoFence, "no fence for a can reach proof 3", |bench| {
        bench.event(health(1, Some(true), "a"));
    });
}

#[test]
fn a_fence_that_cannot_reach_the_proof_needed_is_no_fence() {
    let with = |best, has_broker, needed| {
        let mut cluster = ClusterPolicy { has_broker, ..bare(&["a", "b"]) };
        cluster.failover.fence = vec![vec![method("m", secs(1), best)]];
        cluster.failover.proof_needed = needed;
        if has_broker {
            cluster = ClusterPolicy { initial_primary: Some("a".into()), role_signal: Some("role".into()), ..cluster };
            cluster.signals = full(&["a", "b"]).signals;
        }
        let mut court = Court::of(cluster);
        if has_broker {
            let report = crate::court::role(Role::Primary, 1);
            court.sees("role", Observer::Arbiter, Some("a"), Outcome::Fact(Fact::Role(report)));
        }
        court.why_not().guards.iter().any(|g| g.guard == Guard::NoFence && g.blocks)
    };
    assert!(!with(Proof::Gate, true, Proof::Gate));
    assert!(with(Proof::ReadBack, true, Proof::Gate));
    assert!(!with(Proof::Claim, true, Proof::ReadBack), "a claim may become a read-back by the forbidden write");
    assert!(with(Proof::Claim, false, Proof::ReadBack), "nobody to try it with");
    assert!(with(Proof::Claim, true, Proof::Gate));
}

#[test]
fn budget() {
    let mut cluster = full(&["a", "b"]);
    (cluster.failover.cooldown, cluster.failover.budget, cluster.failover.budget_per) = (secs(1), 2, secs(300));
    let mut bench = Bench::settled(policy(vec![cluster]));
    for (dies, serves) in [("a", "b"), ("b", "a")] {
        bench.kill(dies);
        bench.run_until(secs(60), "failed over", |b| b.is_quiet() && b.store.state().primary == Some(serves.into()));
        bench.revive(dies);
        bench.run_until(secs(60), "back", |b| b.is_quiet() && b.store.state().quarantined.is_empty());
        bench.run_for(secs(4));
    }
    bench.done.clear();
    blocks_then_ends(bench, Guard::Budget, "2 failovers in the last 5m, and the budget is 2", |bench| {
        bench.run_for(secs(280));
    });
}

/// H18: the cooldown lasts over a restart, exactly as long as written.
#[test]
fn cooldown() {
    let mut cluster = full(&["a", "b"]);
    cluster.failover.cooldown = secs(120);
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.kill("a");
    bench.run_until(secs(10), "the incident is open", |b| b.incident().is_some());
    let opened = bench.now;
    bench.run_until(secs(60), "failed over", |b| b.is_quiet() && b.store.state().primary == Some("b".into()));
    bench.revive("a");
    bench.run_until(secs(60), "back", |b| b.is_quiet() && b.store.state().quarantined.is_empty());
    bench.restart(secs(1));
    bench.run_for(secs(5));
    bench.kill("b");
    bench.run_until(secs(200), "it is done again", |b| b.store.state().primary == Some("a".into()));
    let after = bench.now.since(opened);
    assert!(after >= secs(120) && after < secs(121), "{after:?}");
}

/// Whoever took note of an older incident has not taken note of the newest.
#[test]
fn acknowledging_an_older_incident_does_not_end_the_cooldown_of_a_newer_one() {
    let mut cluster = full(&["a", "b"]);
    cluster.failover.cooldown = secs(60);
    let mut bench = Bench::settled(policy(vec![cluster]));
    let mut opened = Vec::new();
    for (dies, serves) in [("a", "b"), ("b", "a")] {
        bench.kill(dies);
        bench.run_until(secs(120), "failed over", |b| b.is_quiet() && b.store.state().primary == Some(serves.into()));
        opened.push(bench.store.newest().unwrap().0.id.clone());
        bench.revive(dies);
        bench.run_until(secs(60), "back", |b| b.is_quiet() && b.store.state().quarantined.is_empty());
    }
    bench.restart(secs(1));
    bench.run_for(secs(1));
    let ack = |incident: &coroner::model::IncidentId| Command::Acknowledge {
        incident: incident.clone(),
        cluster: Some("orders".into()),
        note: String::new(),
    };
    let said = bench.ask(ack(&opened[0])).unwrap().unwrap();
    assert!(said.text.contains("the cooldown of a newer incident goes on"), "{}", said.text);
    assert!(reason(&bench, Guard::Cooldown).is_some());
    assert!(bench.ask(ack(&opened[1])).unwrap().unwrap().text.contains("the cooldown is over"));
    assert_eq!(reason(&bench, Guard::Cooldown), None);
}

/// A dozen clusters that die at once are the network, or us.
#[test]
fn storm() {
    let clusters = |n: usize| -> Policy {
        let one = |i: usize| {
            let mut cluster = bare(&["a", "b"]);
            cluster.name = format!("c{i}").as_str().into();
            let signal = crate::policy::signal(
                coroner::model::policy::SignalKind::Check,
                coroner::model::policy::Observers::Arbiter,
                coroner::model::policy::Subjects::Members,
            );
            cluster.signals.insert("s".into(), signal);
            cluster.rules = vec![rule("down", not(is("s", Condition::Ok)), Verdict::Dead, Reaction::Failover)];
            cluster.rules[0].when =
                crate::policy::observers(coroner::model::rule::Count::Number(1), "s", Condition::Failing);
            cluster.failover.candidate_fresh_for = secs(60);
            cluster
        };
        policy((0..n).map(one).collect())
    };
    let die = |n: usize, dead: usize| {
        let mut court = Court::over(clusters(n), Recovered::default());
        let see = |court: &mut Court, i: usize, member: &str, outcome| {
            let seen = Observation {
                at: court.now,
                cluster: format!("c{i}").as_str().into(),
                signal: "s".into(),
                observer: Observer::Arbiter,
                subject: Some(member.into()),
                outcome,
            };
            court.engine.handle(court.now, Event::Observed(seen));
        };
        court.at(secs(1));
        for i in 0..n {
            see(&mut court, i, "b", Outcome::Fact(crate::court::ok()));
        }
        for i in 0..dead {
            let failure = coroner::model::Failure::new(coroner::model::FailureKind::Refused, "x");
            see(&mut court, i, "a", Outcome::Failure(failure));
        }
        court.settle();
        court
    };
    assert_eq!(die(5, 3).runs, 3, "three of five at once are within the limit");
    let court = die(5, 4);
    assert_eq!(court.runs, 0, "four at once are a storm: judged before anyone acts");
    let why_not = court.engine.why_not(court.now, &"c0".into()).unwrap();
    let storm = why_not.guards.iter().find(|g| g.guard == Guard::Storm).unwrap();
    assert!(storm.blocks && storm.reason.contains("4 clusters look dead within 1m, more than 3"), "{storm:?}");
    // It is over when the wants are older than the time in which they count.
    let mut court = court;
    court.at(secs(3)).at(secs(61));
    court.at(secs(64));
    let why_not = court.engine.why_not(court.now, &"c0".into()).unwrap();
    assert!(why_not.guards.iter().any(|g| g.guard == Guard::Storm && !g.blocks), "the storm is over");
}

#[test]
fn approval_is_a_person() {
    for mode in [Mode::Manual, Mode::Shadow] {
        let mut cluster = full(&["a", "b"]);
        cluster.mode = mode;
        let mut bench = Bench::settled(policy(vec![cluster]));
        bench.kill("a");
        bench.run_for(secs(10));
        assert!(reason(&bench, Guard::Approval).unwrap().contains(&format!("mode is {mode}")));
        assert!(bench.done.is_empty());
        assert_eq!(
            bench.engine.why(bench.now, &"orders".into()).unwrap().verdict,
            Verdict::Dead,
            "judged all the same"
        );
        bench.ask_later(failover(Vec::new()));
        bench.run_until(secs(30), "a person's word is the approval", promoted);
    }
    // A rule narrower than its cluster.
    let mut cluster = full(&["a", "b"]);
    cluster.rules[0].mode = Some(Mode::Manual);
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.kill("a");
    bench.run_for(secs(10));
    assert!(bench.done.is_empty());
    assert!(bench.notices().any(|n| matches!(n, Notice::ActBlocked { guards, .. } if guards[0].0 == Guard::Approval)));
}

/// A rule may be narrower than its cluster, and never wider.
#[test]
fn a_rule_that_may_act_does_not_in_a_cluster_that_may_not() {
    let mut cluster = full(&["a", "b"]);
    cluster.mode = Mode::Manual;
    cluster.rules[0].mode = Some(Mode::Auto);
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.kill("a");
    bench.run_for(secs(10));
    assert!(bench.done.is_empty(), "{:?}", bench.done);
    assert!(bench.notices().any(|n| matches!(n, Notice::ActBlocked { guards, .. } if guards[0].0 == Guard::Approval)));
}

/// A wall clock that is set forward ends no cooldown: its age is told by the arbiter's own clock while it lives.
#[test]
fn the_wall_clock_ends_no_cooldown() {
    let mut cluster = full(&["a", "b"]);
    cluster.failover.cooldown = secs(120);
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.kill("a");
    bench.run_until(secs(60), "failed over", |b| b.is_quiet() && b.store.state().primary == Some("b".into()));
    bench.revive("a");
    bench.run_until(secs(60), "back", |b| b.is_quiet() && b.store.state().quarantined.is_empty());
    let anchor = bench.engine.anchor();
    let tomorrow = WallAnchor { boot: bench.now, unix_ms: anchor.unix_ms_at(bench.now) + 86_400_000 };
    bench.event(Event::WallClockRead(tomorrow));
    bench.kill("b");
    bench.run_for(secs(20));
    assert!(reason(&bench, Guard::Cooldown).is_some(), "{}", bench.story());
    assert_eq!(bench.store.state().primary, Some("b".into()));
    bench.run_until(secs(120), "it ends all the same", |b| b.store.state().primary == Some("a".into()));
}

/// While the primary is suspected nobody is brought back: that would stand in the way of replacing it.
#[test]
fn nobody_is_brought_back_beside_a_primary_that_is_suspected() {
    let mut cluster = full(&["a", "b"]);
    cluster.failover.cooldown = secs(3_600);
    cluster.rules.push(rule("odd", is("ping", Condition::Failing), Verdict::Suspect, Reaction::Alert));
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.kill("a");
    bench.run_until(secs(60), "b serves", |b| b.is_quiet() && b.store.state().primary == Some("b".into()));
    bench.kill("b");
    bench.run_until(secs(10), "b is suspected", |b| {
        b.engine.why(b.now, &"orders".into()).unwrap().verdict >= Verdict::Suspect
    });
    bench.revive("a");
    bench.run_for(secs(10));
    assert!(bench.incident().is_none(), "{}", bench.story());
    assert!(bench.store.state().quarantined.contains_key("a"));
    bench.revive("b");
    bench.run_until(secs(60), "a is back", |b| b.is_quiet() && b.store.state().quarantined.is_empty());
}

/// A rule in shadow is judged and told, and never acts nor decides.
#[test]
fn a_shadow_rule_never_acts() {
    let mut cluster = full(&["a", "b"]);
    cluster.rules[0] = Rule { mode: Some(Mode::Shadow), ..cluster.rules[0].clone() };
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.kill("a");
    bench.run_for(secs(30));
    assert!(bench.done.is_empty());
    let why = bench.engine.why(bench.now, &"orders".into()).unwrap();
    assert_eq!(why.verdict, Verdict::Alive);
    assert!(why.rules[0].shadow && why.rules[0].truth.is_true());
    assert!(bench.notices().any(|n| matches!(n, Notice::RuleFired { .. })), "counted and told");
}

#[test]
fn busy_is_the_incident_under_way() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.kill("a");
    bench.run_until(secs(10), "it is open", |b| b.incident().is_some());
    assert!(reason(&bench, Guard::Busy).unwrap().contains("is fencing"));
    let refused = bench.ask(failover(Vec::new())).unwrap().unwrap_err();
    assert!(matches!(refused.code, CommandErrorCode::Blocked | CommandErrorCode::Store));
    bench.run_until(secs(30), "it is over", Bench::is_over);
    assert_eq!(reason(&bench, Guard::Busy), None);
}

/// What keeps two primaries apart cannot be passed; what only keeps people calm can.
#[test]
fn some_guards_may_be_skipped_and_some_never() {
    let skippable: Vec<Guard> = Guard::ALL.into_iter().filter(|g| g.may_be_skipped()).collect();
    assert_eq!(
        skippable,
        [
            Guard::Paused,
            Guard::HeldByRule,
            Guard::Isolated,
            Guard::Cooldown,
            Guard::Budget,
            Guard::Storm,
            Guard::NoLease,
            Guard::Approval
        ]
    );
    for guard in Guard::ALL.into_iter().filter(|g| !g.may_be_skipped()) {
        let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
        let refused = bench.ask(failover(vec![guard])).unwrap().unwrap_err();
        assert_eq!(refused.code, CommandErrorCode::Invalid, "{guard}");
        assert!(refused.text.contains("keeps two primaries apart"));
        assert!(bench.incident().is_none());
    }
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.ask(pause(Some("orders"), None)).unwrap().unwrap();
    let refused = bench.ask(failover(Vec::new())).unwrap().unwrap_err();
    assert_eq!(refused.code, CommandErrorCode::Blocked);
    assert_eq!(refused.guards.iter().map(|(g, _)| *g).collect::<Vec<_>>(), [Guard::Paused]);
    bench.ask(failover(vec![Guard::Paused])).unwrap().unwrap();
    bench.run_until(secs(30), "it is over", Bench::is_over);
    let (incident, _) = bench.store.newest().unwrap();
    assert!(incident.bypassed.iter().any(|b| b.contains("the guard paused was passed")));
}

/// P11, never worse than no arbiter: guards that begin and end are told once each.
#[test]
fn guards_are_told_when_they_begin_and_when_they_end() {
    let mut bench = Bench::settled(policy(vec![ClusterPolicy {
        failover: coroner::model::policy::FailoverPolicy { rejoin: Rejoin::Ask, ..crate::policy::failover_policy() },
        ..full(&["a", "b"])
    }]));
    bench.run_for(secs(4));
    bench.effects.clear();
    bench.kill("b");
    bench.run_for(secs(10));
    bench.revive("b");
    bench.run_for(secs(10));
    let told: Vec<(Guard, bool)> = bench
        .effects
        .iter()
        .filter_map(|(_, e)| match e {
            Effect::Tell(n) => match &**n {
                Notice::GuardChanged { guard, blocks, .. } => Some((*guard, *blocks)),
                _ => None,
            },
            _ => None,
        })
        .collect();
    assert_eq!(told, [(Guard::NoCandidate, true), (Guard::NoCandidate, false)]);
}

/// A rejoin asked for by a person waits for what keeps two primaries apart, too.
#[test]
fn a_rejoin_by_hand_is_blocked_while_the_arbiter_distrusts_itself() {
    let mut cluster = full(&["a", "b"]);
    cluster.failover.rejoin = Rejoin::Ask;
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.kill("a");
    bench.run_until(secs(30), "failed over", |b| b.is_over() && b.store.state().primary == Some("b".into()));
    bench.revive("a");
    bench.run_for(secs(2));
    bench.event(Event::RanLate { by: secs(3), detail: "late".into() });
    let refused = bench.ask(Command::Rejoin { cluster: "orders".into(), member: "a".into() }).unwrap().unwrap_err();
    assert_eq!(refused.code, CommandErrorCode::Blocked);
    assert!(refused.text.contains("tilt: late"), "{refused}");
}

/// What the store says of the past may be anything: a row that was edited, a clock that was wrong by centuries.
#[test]
fn moments_at_the_ends_of_time_are_only_long_ago_or_far_off() {
    use coroner::{
        engine::Engine,
        model::{
            Time, WallAnchor,
            record::{ClusterState, Pause},
        },
    };
    let now = Time(5_000_000_000_000);
    for unix_ms in [i64::MIN, i64::MAX, 0] {
        let pause = Pause { owner: "bob".into(), reason: "work".into(), until_unix_ms: Some(unix_ms) };
        let state = ClusterState {
            cluster: "orders".into(),
            failovers_unix_ms: vec![unix_ms],
            pause: Some(pause),
            ..ClusterState::default()
        };
        let recovered = Recovered { clusters: vec![state], open: Vec::new() };
        for anchor in [WallAnchor { boot: now, unix_ms: 1_700_000_000_000 }, WallAnchor { boot: now, unix_ms: -1_000 }]
        {
            let engine = Engine::new(now, anchor, 1, policy(vec![full(&["a", "b"])]), recovered.clone());
            let why_not = engine.why_not(now, &"orders".into()).unwrap();
            let paused = why_not.guards.iter().any(|guard| guard.guard == Guard::Paused && guard.blocks);
            assert_eq!(paused, unix_ms > anchor.unix_ms, "{unix_ms}");
        }
    }
}
