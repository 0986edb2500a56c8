//! `status`, `why`, `why-not`, `signals`: what people are shown.

use coroner::model::{
    Command, Condition, Epoch, Fact, FailureKind, Mode, Observer, Outcome, Role, Verdict,
    explain::Guard,
    observation::Arrivals,
    policy::{Observers, SignalKind, Subjects},
    rule::{Count, Reaction},
};

use crate::{
    bench::Bench,
    court::{Court, ok},
    policy::{all, any, at_least, bare, full, held, is, ms, nodes, not, observers, policy, rule, secs, signal},
};

#[test]
fn status_of_a_quiet_cluster() {
    let bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    let status = bench.engine.status(bench.now);
    assert_eq!((status.arbiter.as_str(), status.policy_hash.as_str()), ("arbiter-1", "abc123"));
    assert_eq!((&status.tilt, &status.store_lost), (&None, &None));
    let cluster = &status.clusters[0];
    assert_eq!(cluster.primary, Some("a".into()));
    assert_eq!((cluster.verdict, cluster.ready), (Verdict::Alive, true));
    assert!(cluster.blocking.is_empty() && cluster.incident.is_none());
    assert!(cluster.verdict_since > secs(1));
    let [a, b] = cluster.members.as_slice() else { panic!("two members") };
    assert_eq!(
        (a.role, a.claims, b.role, b.claims),
        (Role::Primary, Some(Role::Primary), Role::Standby, Some(Role::Standby))
    );
    assert_eq!(b.address, "10.0.0.12:6379");
    assert!(a.position.is_some() && a.seen.unwrap() <= ms(500) && !a.quarantined);
    assert_eq!(cluster.nodes.len(), 3);
    assert!(cluster.nodes[0].received.unwrap() > 0 && cluster.nodes[0].last_arrival.unwrap() <= secs(1));
    assert_eq!(cluster.nodes[0].follows, Some("a".into()));
}

/// Where a person approves each failover, that nobody did yet is not what makes a cluster unready; a pause is.
#[test]
fn a_cluster_that_asks_first_is_ready_and_a_paused_one_is_not() {
    for (mode, is_paused, is_ready) in
        [(Mode::Auto, false, true), (Mode::Manual, false, true), (Mode::Auto, true, false), (Mode::Manual, true, false)]
    {
        let mut cluster = full(&["a", "b"]);
        cluster.mode = mode;
        let mut bench = Bench::settled(policy(vec![cluster]));
        if is_paused {
            let (cluster, reason) = (Some("orders".into()), "work".into());
            bench.ask(Command::Pause { cluster, owner: "ann".into(), reason, for_: None }).unwrap().unwrap();
        }
        let status = &bench.engine.status(bench.now).clusters[0];
        assert_eq!(status.ready, is_ready, "{mode:?}, paused: {is_paused}, {:?}", status.blocking);
        assert_eq!(status.blocking.iter().any(|g| g.guard == Guard::Approval), mode == Mode::Manual);
    }
}

#[test]
fn status_in_a_failover_and_after_it() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.kill("a");
    bench.run_until(secs(10), "it is open", |b| b.incident().is_some());
    let status = bench.engine.status(bench.now).clusters.remove(0);
    let brief = status.incident.unwrap();
    assert_eq!((brief.old_primary, brief.candidate, brief.epoch), ("a".into(), "b".into(), Epoch(2)));
    assert!(!status.ready);
    assert_eq!((status.verdict, status.rule), (Verdict::Dead, Some("no answer".into())));
    bench.run_until(secs(30), "it is over", Bench::is_over);
    let status = bench.engine.status(bench.now).clusters.remove(0);
    assert_eq!((status.epoch, status.primary), (Epoch(2), Some("b".into())));
    assert!(status.members[0].quarantined);
    let (incident, _) = bench.store.newest().unwrap();
    let brief = coroner::model::status::IncidentBrief::from(incident);
    assert!(brief.closed_unix_ms.unwrap() > brief.opened_unix_ms);
}

#[test]
fn why_and_the_incident_tell_the_same_tree() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.kill("a");
    let mut why = None;
    while bench.store.incidents.is_empty() {
        bench.step();
        why = bench.engine.why(bench.now, &"orders".into());
    }
    let (incident, _) = bench.store.newest().unwrap();
    let coroner::model::incident::Trigger::Rule(trigger) = &incident.trigger else { panic!("a rule did it") };
    let shown = &why.unwrap().rules[0];
    assert_eq!((&trigger.rule, trigger.truth, &trigger.tree.asked), (&shown.rule, shown.truth, &shown.tree.asked));
    assert_eq!(trigger.tree.seen, shown.tree.seen);
    assert!(trigger.tree.seen.contains("refused: connection refused"));
    assert_eq!(trigger.tree.observer.as_deref(), Some("arbiter"));
}

fn court(when: coroner::model::Expr, then: Reaction) -> Court {
    let mut cluster = bare(&["a", "b"]);
    cluster.nodes = ["n1", "n2", "n3"].map(Into::into).to_vec();
    cluster.signals.insert("ping".into(), signal(SignalKind::Check, Observers::Arbiter, Subjects::Primary));
    cluster.signals.insert("tcp".into(), signal(SignalKind::Check, nodes(&["n1", "n2", "n3"]), Subjects::Primary));
    cluster.rules = vec![rule("r", when, Verdict::Dead, then)];
    Court::of(cluster)
}

fn ping() -> coroner::model::Expr {
    is("ping", Condition::Failing)
}

#[test]
fn the_least_change_is_the_shortest_way_to_act() {
    let tcp = || observers(Count::Majority, "tcp", Condition::Failing);
    let mut one = court(ping(), Reaction::Failover);
    one.fact(ok()).sees("ping", Observer::Arbiter, Some("a"), Outcome::Fact(ok()));
    let text = one.why_not().least_change;
    assert!(text.starts_with("the rule “r” would hold with: ping failing (ok in 1ms); and then: "), "{text}");
    assert_eq!(one.why_not().rules.len(), 1);

    let mut one = court(all(vec![ping(), tcp()]), Reaction::Failover);
    one.sees(
        "tcp",
        Observer::Node("n1".into()),
        Some("a"),
        Outcome::Failure(coroner::model::Failure::new(FailureKind::Refused, "x")),
    );
    let text = one.why_not().least_change;
    assert!(text.contains("ping failing (never heard of) and tcp failing [n2] (never heard of);"), "{text}");

    let text = court(any(vec![all(vec![ping(), tcp()]), ping()]), Reaction::Failover).why_not().least_change;
    assert!(text.contains("would hold with: ping failing (never heard of);"), "{text}");

    let both = at_least(Count::Number(2), vec![ping(), tcp(), is("ping", Condition::Ok)]);
    let text = court(both, Reaction::Failover).why_not().least_change;
    assert_eq!(text.matches("never heard of").count(), 2, "{text}");

    let mut one = court(not(ping()), Reaction::Failover);
    one.sees(
        "ping",
        Observer::Arbiter,
        Some("a"),
        Outcome::Failure(coroner::model::Failure::new(FailureKind::Refused, "x")),
    );
    let text = one.why_not().least_change;
    assert!(text.contains("ping failing (refused: x)"), "{text}");

    let mut one = court(held(ping(), secs(60)), Reaction::Failover);
    one.sees(
        "ping",
        Observer::Arbiter,
        Some("a"),
        Outcome::Failure(coroner::model::Failure::new(FailureKind::Refused, "x")),
    );
    let text = one.why_not().least_change;
    assert!(text.contains("ping failing (for 1m)"), "{text}");

    assert_eq!(court(ping(), Reaction::Alert).why_not().least_change, "no rule of this cluster acts");
}

#[test]
fn why_not_of_a_rule_that_holds() {
    let mut one = court(ping(), Reaction::Failover);
    one.sees(
        "ping",
        Observer::Arbiter,
        Some("a"),
        Outcome::Failure(coroner::model::Failure::new(FailureKind::Refused, "x")),
    );
    let why_not = one.why_not();
    assert!(
        why_not.least_change.starts_with("the rule “r” holds; these guards stand against it: "),
        "{}",
        why_not.least_change
    );
    assert!(why_not.rules.is_empty() && !why_not.ready);
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.run_for(secs(1));
    let why_not = bench.engine.why_not(bench.now, &"orders".into()).unwrap();
    assert!(why_not.ready, "it could act now");
    assert!(why_not.guards.iter().all(|g| !g.blocks && !g.reason.is_empty()), "{:?}", why_not.guards);
    assert!(why_not.least_change.starts_with("the rule “no answer” would hold with: ping failing 3 of 3"));
}

#[test]
fn signals_show_every_stream_and_those_that_are_silent() {
    let mut cluster = bare(&["a", "b"]);
    let mut put = |name: &str, kind, subjects| {
        cluster.signals.insert(name.into(), signal(kind, Observers::Arbiter, subjects));
    };
    put("ping", SignalKind::Check, Subjects::Primary);
    put("value", SignalKind::Value, Subjects::Primary);
    put("link", SignalKind::Link, Subjects::Standbys);
    put("write", SignalKind::Write, Subjects::Primary);
    put("process", SignalKind::Process, Subjects::Primary);
    put("alert", SignalKind::Alert, Subjects::Service);
    put("text", SignalKind::Text, Subjects::Primary);
    put("never", SignalKind::Check, Subjects::Member("b".into()));
    put("position", SignalKind::Position, Subjects::Primary);
    put("role", SignalKind::Role, Subjects::Members);
    cluster.signals.insert("arrivals".into(), signal(SignalKind::Arrivals, nodes(&["n1"]), Subjects::Service));
    let mut court = Court::of(cluster);
    let a = Some("a");
    let mut fact = |signal: &str, subject, fact| {
        court.sees(signal, Observer::Arbiter, subject, Outcome::Fact(fact));
    };
    fact("ping", a, ok());
    fact("value", a, Fact::Value(2.5));
    fact("link", Some("b"), Fact::Link { up: true, last_io: None });
    fact("write", a, Fact::Writable(false));
    fact("process", a, Fact::Process { running: true, detail: String::new() });
    fact("alert", None, Fact::Alert { firing: true });
    fact("text", a, Fact::Text("hello".into()));
    fact("position", a, Fact::Position { position: 77 });
    fact("role", a, Fact::Role(crate::court::role(Role::Primary, 78)));
    let report = Arrivals { received: 9, last_age: Some(secs(1)), ..Arrivals::default() };
    court.sees("arrivals", Observer::Node("n1".into()), None, Outcome::Fact(Fact::Arrivals(report)));
    court.at(ms(1)).failure(FailureKind::TimedOut);
    court.sees(
        "ping",
        Observer::Arbiter,
        a,
        Outcome::Failure(coroner::model::Failure::new(FailureKind::TimedOut, "x")),
    );
    court.at(ms(101));
    let signals = court.engine.signals(court.now, &"orders".into()).unwrap();
    let of = |name: &str| signals.iter().find(|s| s.signal == name.into()).unwrap().clone();
    let shown = [
        ("ping", Some(false), "timed_out: x", Some(0.001)),
        ("value", Some(true), "2.5", Some(2.5)),
        ("link", Some(true), "link up", Some(1.0)),
        ("write", Some(true), "refuses writes", Some(0.0)),
        ("process", Some(true), "running", Some(1.0)),
        ("alert", Some(true), "firing", Some(1.0)),
        ("text", Some(true), "\"hello\"", None),
        ("position", Some(true), "position 77", Some(77.0)),
        ("role", Some(true), "says it is primary", Some(78.0)),
        ("arrivals", Some(true), "9 received, last 1s before, epoch 0", Some(9.0)),
        ("never", None, "nothing yet", None),
    ];
    for (name, up, seen, value) in shown {
        let status = of(name);
        assert_eq!((status.up, status.seen.as_str(), status.value), (up, seen, value), "{name}");
    }
    assert_eq!(of("ping").age, Some(ms(100)));
    assert_eq!(of("ping").subject, Some("a".into()));
    assert_eq!(of("never").subject, Some("b".into()));
    assert_eq!(of("arrivals").observer, "n1");
    assert!(court.engine.signals(court.now, &"nowhere".into()).is_none());
}
