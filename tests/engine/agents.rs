//! What agents tell: of members that only they reach, of who reaches whom, of epochs, and who is to hold the lease.

use coroner::model::{
    ClusterPolicy, Command, Condition, Epoch, Event, Fact, FenceHealth, Observer, Outcome, PartyName, Role, Truth,
    Verdict,
    agent::{GateState, MemberReport},
    explain::Guard,
    observation::{AGENTS_SIGNAL, RoleReport},
    policy::{Observers, SignalKind, Subjects},
    rule::Reaction,
};

use crate::{
    bench::{Bench, Script},
    court::{Court, role},
    policy::{NS, full, is, leased, policy, rule, secs, signal},
};

fn primary_a(cluster: ClusterPolicy) -> Court {
    let mut court = Court::of(ClusterPolicy { initial_primary: Some("a".into()), ..cluster });
    court.sees("role", Observer::Arbiter, Some("a"), Outcome::Fact(Fact::Role(role(Role::Primary, 1000))));
    court
}

/// A court whose standby tells its role to the arbiter.
fn court(cluster: ClusterPolicy) -> Court {
    let mut court = primary_a(cluster);
    court.sees("role", Observer::Arbiter, Some("b"), Outcome::Fact(Fact::Role(role(Role::Standby, 1000))));
    court
}

/// The agent of the member is heard.
fn beats(court: &mut Court, member: &str, report: MemberReport) {
    let fact = Fact::Agent(Box::new(report));
    court.sees(AGENTS_SIGNAL, Observer::Member(member.into()), Some(member), Outcome::Fact(fact));
}

/// The agent of the member tells what the broker says of itself.
fn says(court: &mut Court, member: &str, report: RoleReport) {
    court.sees("role", Observer::Member(member.into()), Some(member), Outcome::Fact(Fact::Role(report)));
}

fn reaches(court: &mut Court, observer: Observer, parties: &[&str]) {
    let parties: Vec<PartyName> = parties.iter().map(|p| (*p).into()).collect();
    court.sees(AGENTS_SIGNAL, observer, None, Outcome::Fact(Fact::Reaches(parties)));
}

fn node(name: &str) -> Observer {
    Observer::Node(name.into())
}

fn rejected(court: &Court, member: &str) -> String {
    let view = court.why_not().candidates.into_iter().find(|c| c.member == member.into()).unwrap();
    view.rejected.join("; ")
}

fn blocked(court: &Court, guard: Guard) -> Option<String> {
    court.why_not().guards.into_iter().find(|g| g.guard == guard && g.blocks).map(|g| g.reason)
}

/// AS is cut, and the standby's agent is heard over a detour: it is a candidate all the same.
#[test]
fn a_standby_that_only_its_agent_reaches_is_a_candidate() {
    let mut court = primary_a(full(&["a", "b", "c"]));
    says(&mut court, "b", role(Role::Standby, 900));
    assert_eq!(rejected(&court, "b"), "");
    assert_eq!(rejected(&court, "c"), "it never told its role");
    let view = &court.why_not().candidates[0];
    assert_eq!((view.position, view.behind), (Some(900), Some(100)));

    // The fresher word counts, whoever had it.
    court.at(secs(2));
    let forked = RoleReport { priority: Some(0), ..role(Role::Standby, 950) };
    court.sees("role", Observer::Arbiter, Some("b"), Outcome::Fact(Fact::Role(forked)));
    assert_eq!(rejected(&court, "b"), "the broker gives it priority 0");
    court.at(secs(3));
    says(&mut court, "b", role(Role::Standby, 999));
    assert_eq!(rejected(&court, "b"), "");
    assert_eq!(court.why_not().candidates[0].position, Some(999));
    court.at(secs(6) + NS);
    assert_eq!(rejected(&court, "b"), "it last told its role 3s ago");

    // A look of the arbiter that fails does not undo what the agent says.
    let mut court = primary_a(full(&["a", "b"]));
    says(&mut court, "b", role(Role::Standby, 900));
    let failure = coroner::model::Failure::new(coroner::model::FailureKind::TimedOut, "no answer");
    court.sees("role", Observer::Arbiter, Some("b"), Outcome::Failure(failure));
    assert_eq!(rejected(&court, "b"), "");
    // Nobody speaks of another's role.
    court.sees("role", Observer::Member("a".into()), Some("b"), Outcome::Fact(Fact::Role(role(Role::Primary, 1))));
    assert_eq!(rejected(&court, "b"), "");
    assert_eq!(blocked(&court, Guard::PrimaryUnclear), None);
    says(&mut court, "b", role(Role::Primary, 900));
    assert!(blocked(&court, Guard::PrimaryUnclear).unwrap().contains("b claims to be primary"));
}

/// Who is primary is learned from agents, too.
#[test]
fn a_primary_that_only_its_agent_reaches_is_adopted() {
    let mut court = Court::of(full(&["a", "b"]));
    says(&mut court, "a", role(Role::Primary, 10));
    says(&mut court, "b", role(Role::Standby, 10));
    court.at(secs(1));
    assert_eq!(court.why().primary, Some("a".into()));
}

/// G6, G21: the nodes cannot reach the standby: to fail over to it would help nobody.
#[test]
fn a_standby_that_the_nodes_do_not_reach_is_rejected() {
    let mut court = court(leased(&["a", "b"]));
    beats(&mut court, "b", MemberReport::default());
    assert_eq!(rejected(&court, "b"), "", "where nobody reports, nobody is rejected");
    let why = |n, of| format!("{n} of {of} nodes do not reach it: a failover would not help");
    for (unreached, of) in [(1, 1), (1, 2), (1, 3), (2, 3), (3, 3)] {
        for (index, name) in ["n1", "n2", "n3"].into_iter().enumerate().take(of) {
            reaches(&mut court, node(name), if index < unreached { &["arbiter-1"] } else { &["arbiter-1", "b"] });
        }
        // Those that did not report in this round did long ago.
        let expected = if unreached * 2 >= of { why(unreached, of) } else { String::new() };
        assert_eq!(rejected(&court, "b"), expected, "{unreached} of {of}");
        court.at(court.now.since(crate::court::OPENS) + secs(3) + NS);
        court.sees("role", Observer::Arbiter, Some("b"), Outcome::Fact(Fact::Role(role(Role::Standby, 1000))));
        beats(&mut court, "b", MemberReport::default());
        assert_eq!(rejected(&court, "b"), "", "what is old is not known");
    }
    // Strangers have no say.
    reaches(&mut court, node("stranger"), &[]);
    reaches(&mut court, Observer::Member("a".into()), &[]);
    assert_eq!(rejected(&court, "b"), "");
    // An agent that is not heard may be dead: that nodes do not reach it says nothing of the broker.
    let mut cluster = leased(&["a", "b"]);
    cluster.failover.lease = None;
    let mut court = self::court(cluster);
    reaches(&mut court, node("n1"), &[]);
    assert_eq!(rejected(&court, "b"), "");
    beats(&mut court, "b", MemberReport::default());
    assert_eq!(rejected(&court, "b"), why(1, 1));
}

#[test]
fn a_standby_whose_agent_is_not_heard_cannot_be_given_the_lease() {
    let unheard = "its agent is not heard, so it could not be given the lease";
    let mut court = court(leased(&["a", "b"]));
    assert_eq!(rejected(&court, "b"), unheard);
    beats(&mut court, "b", MemberReport::default());
    assert_eq!(rejected(&court, "b"), "");
    court.at(secs(3));
    assert_eq!(rejected(&court, "b"), "");
    court.at(secs(3) + NS);
    court.sees("role", Observer::Arbiter, Some("b"), Outcome::Fact(Fact::Role(role(Role::Standby, 1000))));
    assert_eq!(rejected(&court, "b"), unheard);
    // Any word of it counts.
    reaches(&mut court, Observer::Member("b".into()), &["a"]);
    assert_eq!(rejected(&court, "b"), "");
    // Without a lease it does not matter.
    let mut cluster = leased(&["a", "b"]);
    cluster.failover.lease = None;
    assert_eq!(rejected(&self::court(cluster), "b"), "");
}

#[test]
fn a_gate_that_is_not_proven_is_a_warning() {
    let mut court = court(leased(&["a", "b"]));
    beats(&mut court, "b", MemberReport { gate: GateState::Unproven, ..MemberReport::default() });
    let view = court.why_not().candidates[0].clone();
    assert_eq!((view.rank, view.rejected.len()), (Some(1), 0));
    assert!(view.warnings[0].contains("its gate is not proven"), "{:?}", view.warnings);
    beats(&mut court, "b", MemberReport { gate: GateState::Closed, ..MemberReport::default() });
    assert!(court.why_not().candidates[0].warnings.is_empty());
}

/// A18: never below what an agent has seen, whatever the store says.
#[test]
fn the_largest_epoch_is_learned_from_agents() {
    let mut court = Court::of(full(&["a", "b"]));
    beats(&mut court, "b", MemberReport { epoch: Epoch(41), ..MemberReport::default() });
    says(&mut court, "a", role(Role::Primary, 10));
    says(&mut court, "b", role(Role::Standby, 10));
    court.at(secs(1));
    let status = court.engine.status(court.now);
    assert_eq!((status.clusters[0].primary.clone(), status.clusters[0].epoch), (Some("a".into()), Epoch(41)));

    let mut bench = Bench::settled(policy(vec![leased(&["a", "b"])]));
    bench.sealed = Epoch(7);
    bench.run_for(secs(1));
    bench.kill("a");
    bench.run_until(secs(60), "b serves", |b| b.is_over() && b.store.state().primary == Some("b".into()));
    assert_eq!(bench.store.state().primary_epoch, Epoch(8));
    // A stranger's word is not taken.
    let mut court = Court::of(full(&["a", "b"]));
    beats(&mut court, "x", MemberReport { epoch: Epoch(99), ..MemberReport::default() });
    let other = Fact::Agent(Box::new(MemberReport { epoch: Epoch(99), ..MemberReport::default() }));
    court.sees(AGENTS_SIGNAL, Observer::Member("a".into()), Some("b"), Outcome::Fact(other));
    says(&mut court, "a", role(Role::Primary, 10));
    says(&mut court, "b", role(Role::Standby, 10));
    court.at(secs(1));
    assert_eq!(court.engine.status(court.now).clusters[0].epoch, Epoch(1));
}

#[test]
fn too_few_voters_are_told_before_it_matters_and_block() {
    let mut court = court(leased(&["a", "b"]));
    let why = blocked(&court, Guard::NoLease).unwrap();
    assert_eq!(why, "1 of 3 voters are heard, 2 are needed to seal a new epoch; not heard: a, b");
    beats(&mut court, "a", MemberReport::default());
    assert_eq!(blocked(&court, Guard::NoLease), None, "any two decide");
    court.at(secs(3) + NS);
    assert!(blocked(&court, Guard::NoLease).is_some());
    assert_eq!(blocked(&self::court(full(&["a", "b"])), Guard::NoLease), None, "no lease, no voters");

    // In a failover: nothing is done, until they are heard again. A person may insist.
    let alone = |skip_guards: Vec<Guard>| {
        let mut cluster = leased(&["a", "b"]);
        for member in &mut cluster.members {
            member.has_agent = false;
        }
        let mut bench = Bench::settled(policy(vec![cluster]));
        bench.kill("a");
        bench.run_for(secs(10));
        assert!(bench.done.is_empty(), "{:?}", bench.done);
        let failover = Command::Failover {
            cluster: "orders".into(),
            to: None,
            reason: "drill".into(),
            accept_loss: false,
            skip_guards,
        };
        bench.ask(failover).unwrap()
    };
    assert_eq!(alone(Vec::new()).unwrap_err().guards[0].0, Guard::NoLease);
    assert!(alone(vec![Guard::NoLease]).is_ok(), "the saga waits for the seal itself");
}

/// The end of the lease needs nobody's help at the primary's host.
#[test]
fn a_lease_is_a_fence() {
    let mut cluster = leased(&["a", "b"]);
    cluster.failover.fence.clear();
    assert_eq!(blocked(&court(cluster.clone()), Guard::NoFence), None);
    cluster.failover.lease = None;
    assert!(blocked(&court(cluster), Guard::NoFence).is_some());
    let mut cluster = leased(&["a", "b"]);
    cluster.failover.fence.clear();
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.kill("a");
    bench.run_until(secs(60), "it is over", Bench::is_over);
    assert_eq!(bench.done[..2], ["seal", "await lease"]);
    assert_eq!(bench.writers(), ["b"]);
}

/// A fence that was exercised, and is not any more, is not counted on.
#[test]
fn a_fence_that_nobody_exercises_any_more_is_not_counted_on() {
    let mut court = court(full(&["a", "b"]));
    let checked = |usable, level| Event::FenceChecked {
        cluster: "orders".into(),
        member: "a".into(),
        level,
        method: 0,
        health: FenceHealth { usable, detail: "x".into() },
    };
    court.event(checked(Some(true), 0)).event(checked(None, 1));
    court.at(secs(300));
    assert_eq!(blocked(&court, Guard::NoFence), None);
    court.at(secs(300) + NS);
    let why = blocked(&court, Guard::NoFence).unwrap();
    assert!(
        why.contains(
            "gate (level 1): last exercised 5m ago, and counted on for 5m; power (level 2): last exercised 5m ago"
        ),
        "{why}"
    );
    court.event(checked(Some(true), 1));
    assert_eq!(blocked(&court, Guard::NoFence), None);
}

/// Nobody is appointed who is not known to be primary, is being replaced, or whose place is not durable.
#[test]
fn who_is_to_hold_the_lease() {
    let appointment =
        |bench: &Bench| bench.engine.appointment(&"orders".into()).map(|(m, epoch)| (m.to_string(), epoch.0));
    assert_eq!(Bench::new(policy(vec![leased(&["a", "b"])])).engine.appointment(&"orders".into()), None);
    let mut bench = Bench::settled(policy(vec![leased(&["a", "b"])]));
    assert_eq!(appointment(&bench), Some(("a".into(), 1)));
    assert_eq!(bench.engine.appointment(&"strangers".into()), None);
    bench.restart(secs(1));
    bench.run_for(secs(1));
    assert_eq!(appointment(&bench), Some(("a".into(), 1)), "over a restart");

    bench.latency = crate::policy::ms(200);
    bench.script("promote b", &[Script::Slow(secs(1))]);
    bench.kill("a");
    bench.run_until(secs(10), "it began", |b| !b.done.is_empty());
    assert_eq!(appointment(&bench), None);
    bench.run_until(secs(10), "it is promoted", |b| b.done.contains(&"promote b".to_owned()));
    assert_eq!(appointment(&bench), None);
    bench.run_until(secs(10), "b serves", |b| b.store.state().primary == Some("b".into()));
    bench.run_for(crate::policy::ms(5));
    assert_eq!(appointment(&bench), Some(("b".into(), 2)));
    bench.run_until(secs(60), "it is over", Bench::is_quiet);
    bench.revive("a");
    bench.run_until(secs(30), "a comes back", |b| b.incident().is_some());
    assert_eq!(appointment(&bench), Some(("b".into(), 2)), "while another comes back");
    bench.run_until(secs(60), "a is back", |b| b.is_quiet() && b.store.state().quarantined.is_empty());

    // What the store has not taken is not so.
    bench.store_mode = crate::bench::StoreMode::Slow(secs(2));
    bench.ask_later(Command::Adopt { cluster: "orders".into(), primary: "a".into(), reason: "x".into() });
    bench.run_for(secs(1));
    assert_eq!(appointment(&bench), Some(("b".into(), 2)));
    bench.run_for(secs(5));
    assert_eq!(appointment(&bench), Some(("a".into(), 3)));
}

/// An agent speaks for its own member, and for no other.
#[test]
fn what_an_agent_says_of_another_member_is_not_heard() {
    let mut cluster = full(&["a", "b"]);
    cluster.signals.insert("process".into(), signal(SignalKind::Process, Observers::Members, Subjects::Primary));
    cluster.rules = vec![rule("gone", is("process", Condition::Exited), Verdict::Dead, Reaction::Alert)];
    let mut court = primary_a(cluster);
    let gone = |running: bool| Outcome::Fact(Fact::Process { running, detail: String::new() });
    court.sees("process", Observer::Member("b".into()), Some("a"), gone(false));
    assert_eq!(court.truth(), Truth::Unknown, "b's agent cannot know");
    court.sees("process", Observer::Member("a".into()), Some("a"), gone(true));
    court.sees("process", Observer::Member("b".into()), Some("a"), gone(false));
    assert_eq!(court.truth(), Truth::False);
    court.sees("process", Observer::Member("a".into()), Some("a"), gone(false));
    assert_eq!(court.truth(), Truth::True);
    // Nor is it a sign of life of the other.
    court.at(secs(20));
    court.sees("process", Observer::Member("b".into()), Some("a"), gone(true));
    let members = court.engine.status(court.now).clusters.remove(0).members;
    let a = members.iter().find(|member| member.member == "a".into()).unwrap();
    assert_eq!(a.seen, Some(secs(20)));
}
