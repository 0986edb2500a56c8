//! The verdict is the worst that a true rule says; what acts, and what the policy in force is.

use coroner::model::{
    Command, Condition, Event, Fact, Mode, Notice, Observer, Outcome, Rule, Verdict,
    policy::{Observers, SignalKind, Subjects},
    rule::Reaction,
};

use crate::{
    bench::{Bench, Script},
    court::Court,
    policy::{bare, full, is, policy, rule, secs, signal},
};

fn three(verdicts: [Verdict; 3], modes: [Option<Mode>; 3]) -> Court {
    let mut cluster = bare(&["a", "b"]);
    for (i, name) in ["x", "y", "z"].into_iter().enumerate() {
        let mut policy = signal(SignalKind::Alert, Observers::Arbiter, Subjects::Service);
        policy.fresh_for = secs(3600);
        cluster.signals.insert(name.into(), policy);
        let one = rule(&format!("{name}-rule"), is(name, Condition::Firing), verdicts[i], Reaction::Alert);
        cluster.rules.push(Rule { mode: modes[i], ..one });
    }
    Court::of(cluster)
}

fn fire(court: &mut Court, name: &str, firing: bool) -> (Verdict, Option<String>) {
    court.sees(name, Observer::Arbiter, None, Outcome::Fact(Fact::Alert { firing }));
    (court.verdict(), court.why().rule.map(|r| r.to_string()))
}

#[test]
fn the_worst_that_is_true_is_believed() {
    use Verdict::{Alive, Dead, Gray, Suspect, Unknown};
    let mut court = three([Suspect, Dead, Gray], [None; 3]);
    assert_eq!(court.verdict(), Unknown, "nothing was seen");
    assert_eq!(fire(&mut court, "x", false), (Alive, None), "one rule that is known to be false");
    assert_eq!(fire(&mut court, "x", true), (Suspect, Some("x-rule".into())));
    assert_eq!(fire(&mut court, "z", true), (Gray, Some("z-rule".into())));
    assert_eq!(fire(&mut court, "y", true), (Dead, Some("y-rule".into())));
    assert_eq!(fire(&mut court, "z", false), (Dead, Some("y-rule".into())));
    assert_eq!(fire(&mut court, "y", false), (Suspect, Some("x-rule".into())));
    assert_eq!(fire(&mut court, "x", false), (Alive, None));
    let changes: Vec<(Verdict, Verdict)> = court
        .told
        .iter()
        .filter_map(|n| match n {
            Notice::VerdictChanged { from, to, .. } => Some((*from, *to)),
            _ => None,
        })
        .collect();
    assert_eq!(
        changes,
        [(Unknown, Alive), (Alive, Suspect), (Suspect, Gray), (Gray, Dead), (Dead, Suspect), (Suspect, Alive)]
    );
    // Of two that say the same, the first of the file decides.
    let mut court = three([Gray, Gray, Gray], [None; 3]);
    fire(&mut court, "y", true);
    assert_eq!(fire(&mut court, "x", true), (Gray, Some("x-rule".into())));
}

#[test]
fn a_shadow_rule_decides_nothing_in_a_cluster_that_acts_and_all_in_one_that_is_shadow() {
    let mut court = three([Verdict::Dead, Verdict::Suspect, Verdict::Gray], [Some(Mode::Shadow), None, None]);
    assert_eq!(fire(&mut court, "x", true), (Verdict::Alive, None));
    assert_eq!(fire(&mut court, "y", true), (Verdict::Suspect, Some("y-rule".into())));
    let mut cluster = bare(&["a", "b"]);
    cluster.mode = Mode::Shadow;
    cluster.signals.insert("x".into(), signal(SignalKind::Alert, Observers::Arbiter, Subjects::Service));
    cluster.rules = vec![rule("r", is("x", Condition::Firing), Verdict::Dead, Reaction::Alert)];
    cluster.rules[0].mode = Some(Mode::Shadow);
    let mut court = Court::of(cluster);
    assert_eq!(fire(&mut court, "x", true), (Verdict::Dead, Some("r".into())));
}

#[test]
fn without_rules_or_without_a_primary_nothing_is_believed() {
    assert_eq!(Court::of(bare(&["a"])).verdict(), Verdict::Unknown);
    let mut cluster = bare(&["a", "b"]);
    cluster.initial_primary = None;
    cluster.signals.insert("x".into(), signal(SignalKind::Alert, Observers::Arbiter, Subjects::Service));
    cluster.rules = vec![rule("r", is("x", Condition::Firing), Verdict::Dead, Reaction::Failover)];
    let mut court = Court::of(cluster);
    assert_eq!(fire(&mut court, "x", true), (Verdict::Unknown, Some("r".into())));
    assert_eq!(court.runs, 0);
}

/// F3: an open incident keeps the policy it began with, whatever is loaded meanwhile.
#[test]
fn an_open_incident_keeps_its_policy() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.script("fence a 0.0", &[Script::Unknown]);
    bench.kill("a");
    bench.run_until(secs(10), "the fence began", |b| b.done.len() == 1);
    let mut changed = bench.policy.clone();
    changed.hash = "new".into();
    let cluster = changed.clusters.get_mut("orders").unwrap();
    cluster.failover.fence.truncate(1);
    cluster.failover.redirect.clear();
    bench.event(Event::PolicyLoaded(Box::new(changed)));
    assert_eq!(bench.engine.policy().hash, "new");
    bench.run_until(secs(60), "it is over", Bench::is_over);
    assert_eq!(
        bench.done,
        [
            "fence a 0.0",
            "forbidden write 0",
            "fence a 1.0",
            "forbidden write 1",
            "catch up b",
            "promote b",
            "redirect 0"
        ]
    );
    assert_eq!(bench.store.newest().unwrap().0.policy_hash, "abc123");
    assert!(bench.notices().any(|n| matches!(n, Notice::Own { what, ok: true, .. } if what == "policy")));
}

/// A rule that is unchanged keeps what it held; one that changed begins anew. Streams stay where they are still named.
#[test]
fn a_reload_keeps_what_is_unchanged() {
    let mut cluster = bare(&["a", "b"]);
    let alarm = || {
        let mut policy = signal(SignalKind::Alert, Observers::Arbiter, Subjects::Service);
        policy.fresh_for = secs(3600);
        policy
    };
    cluster.signals.insert("x".into(), alarm());
    cluster.signals.insert("y".into(), alarm());
    cluster.rules = vec![
        rule("kept", crate::policy::held(is("x", Condition::Firing), secs(10)), Verdict::Dead, Reaction::Alert),
        rule("changed", crate::policy::held(is("x", Condition::Firing), secs(10)), Verdict::Gray, Reaction::Alert),
    ];
    let mut court = Court::of(cluster.clone());
    fire(&mut court, "x", true);
    fire(&mut court, "y", true);
    court.at(secs(9));
    cluster.rules[1].when = crate::policy::held(is("x", Condition::Firing), secs(11));
    cluster.rules.swap(0, 1);
    cluster.signals.remove("y");
    court.event(Event::PolicyLoaded(Box::new(policy(vec![cluster]))));
    court.at(secs(10));
    assert_eq!(court.verdict(), Verdict::Dead, "held since it began");
    assert_eq!(court.why().rule, Some("kept".into()));
    assert!(!court.why().rules[0].truth.is_true(), "the other one counts from the reload");
    assert_eq!(court.engine.signals(court.now, &"orders".into()).unwrap().len(), 1);
}

/// A cluster that leaves the file is no longer judged, and one that comes is; the others keep what is known of them.
#[test]
fn clusters_come_and_go() {
    let named = |name: &str| {
        let mut cluster = bare(&["a", "b"]);
        cluster.name = name.into();
        cluster
    };
    let mut court = Court::over(policy(vec![named("one"), named("two")]), Default::default());
    court.event(Event::PolicyLoaded(Box::new(policy(vec![named("two"), named("three")]))));
    let names: Vec<String> = court.engine.status(court.now).clusters.iter().map(|c| c.cluster.to_string()).collect();
    assert_eq!(names, ["three", "two"]);
    assert!(court.engine.why(court.now, &"one".into()).is_none());
    assert_eq!(court.engine.primaries().iter().filter(|p| p.primary.is_some()).count(), 2);
    let mut wakes = 0;
    while wakes < 10 {
        let wake = court.engine.poll_timeout().unwrap();
        assert!(wake > court.now);
        court.now = wake;
        court.engine.handle_timeout(wake);
        court.settle();
        wakes += 1;
    }
}

/// A cluster whose incident is open stays until that is over.
#[test]
fn a_cluster_with_an_open_incident_stays_until_it_is_over() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.kill("a");
    bench.run_until(secs(10), "the fence began", |b| b.done.len() == 1);
    bench.event(Event::PolicyLoaded(Box::new(policy(Vec::new()))));
    bench.run_until(secs(60), "it is over", Bench::is_over);
    assert_eq!(bench.store.state().primary, Some("b".into()));
    bench.event(Event::PolicyLoaded(Box::new(policy(Vec::new()))));
    assert!(bench.engine.status(bench.now).clusters.is_empty());
    let to = bench.ask_later(Command::Abort { cluster: "orders".into() });
    assert!(bench.replies[&to].is_err());
}
