//! Between two leaders: what the one began the other takes up, and nothing of what the first had still in hand comes out.

use std::collections::BTreeMap;

use coroner::{
    engine::Engine,
    model::{Action, Effect, Epoch, Event, Notice, Observer, Outcome, Role, Time, record::Recovered},
};

use crate::{
    bench::{Bench, Script},
    court::{ANCHOR, Court, OPENS, role},
    policy::{bare, full, method, policy, secs},
};

fn seen(epoch: u64) -> BTreeMap<coroner::model::ClusterName, Epoch> {
    [("orders".into(), Epoch(epoch))].into()
}

/// All that comes out, every record answered at once.
fn drain(engine: &mut Engine, now: Time) -> Vec<Effect> {
    let mut all = Vec::new();
    while let Some(effect) = engine.poll_effect() {
        if let Effect::Persist { id, .. } = &effect {
            engine.handle(now, Event::Persisted(*id));
        }
        all.push(effect);
    }
    all
}

/// A8: the leader dies with a fence under way. Whoever leads next reads the log, and asks for the same act again.
#[test]
fn who_begins_to_lead_takes_up_what_is_under_way() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    bench.default_script.insert("fence a 0.0".into(), Script::Hang);
    bench.kill("a");
    bench.run_until(secs(10), "the fence began", |b| b.done.len() == 1);
    let recovered = bench.store.recovered();
    assert_eq!(recovered.open.len(), 1);

    let mut court = Court::over(bench.policy.clone(), Recovered::default());
    court.event(Event::Follows { reason: "x leads".into(), clusters: Some(Vec::new()), seen: seen(2) });
    assert!(court.engine.incident(&"orders".into()).is_none());
    court.engine.handle(court.now, Event::Leads { recovered: Box::new(recovered), seen: seen(2) });
    let effects = drain(&mut court.engine, court.now);
    let incident = court.engine.incident(&"orders".into()).expect("it is taken up");
    assert_eq!(incident.epoch, Epoch(2));
    let runs: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Run(run) => Some((run.token.number, run.action.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(runs, [(1, Action::Fence { level: 0, method: 0 })], "under its own number");
}

/// A follower may have known another primary: what the store says counts.
#[test]
fn who_begins_to_lead_goes_by_the_store() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    let before = bench.store.recovered();
    bench.kill("a");
    bench.run_until(secs(30), "failed over", Bench::is_over);
    let after = bench.store.recovered();

    let mut court = Court::over(bench.policy.clone(), Recovered::default());
    court.event(Event::Follows { reason: "x leads".into(), clusters: Some(before.clusters), seen: seen(1) });
    let primary = |court: &Court| court.engine.primaries()[0].primary.clone();
    assert_eq!(primary(&court), Some("a".into()));
    court.event(Event::Leads { recovered: Box::new(after), seen: seen(2) });
    assert_eq!(primary(&court), Some("b".into()));
    assert_eq!(court.engine.appointment(&"orders".into()), Some(("b".into(), Epoch(2))));
    assert_eq!(court.engine.quarantined(&"orders".into()), ["a".into()]);
}

/// An act that was decided and not yet handed out is not done by who leads no more.
#[test]
fn a_leader_that_was_deposed_hands_nothing_out_any_more() {
    let mut cluster = full(&["a", "b"]);
    let gate = |label| method(label, secs(2), coroner::model::Proof::Gate);
    cluster.failover.fence = vec![vec![gate("one"), gate("two"), gate("three")]];
    let mut bench = Bench::settled(policy(vec![cluster]));
    bench.default_script.insert("fence a 0.0".into(), Script::Hang);
    bench.kill("a");
    bench.run_until(secs(10), "the fences began", |b| b.done.len() == 3);
    let recovered = bench.store.recovered();

    let mut engine = Engine::new(OPENS, ANCHOR, 7, bench.policy.clone(), recovered);
    // The record of having taken it up comes first; behind it wait three fences.
    let record = std::iter::from_fn(|| engine.poll_effect()).find_map(|effect| match effect {
        Effect::Persist { id, .. } => Some(id),
        _ => None,
    });
    engine.handle(OPENS, Event::Persisted(record.expect("a record")));
    let is_run = |effect: &Effect| matches!(effect, Effect::Run(_));
    while !engine.poll_effect().as_ref().is_some_and(is_run) {}
    engine.handle(OPENS, Event::Follows { reason: "x leads".into(), clusters: None, seen: seen(2) });
    let left = drain(&mut engine, OPENS);
    assert!(!left.iter().any(is_run), "{left:?}");
}

/// Each cluster's queue waits for its own record.
#[test]
fn an_answer_of_the_store_releases_its_own_cluster_alone() {
    let mut payments = bare(&["a", "b"]);
    payments.name = "payments".into();
    let mut engine = Engine::new(OPENS, ANCHOR, 1, policy(vec![bare(&["a", "b"]), payments]), Recovered::default());
    let mut ids = Vec::new();
    while let Some(effect) = engine.poll_effect() {
        if let Effect::Persist { id, records } = effect {
            ids.push((id, format!("{records:?}").contains("payments")));
        }
    }
    let (of_payments, of_orders) =
        (ids.iter().find(|(_, is)| *is).unwrap().0, ids.iter().find(|(_, is)| !*is).unwrap().0);
    let told = |engine: &mut Engine| -> Vec<String> {
        std::iter::from_fn(|| engine.poll_effect())
            .filter_map(|effect| match effect {
                Effect::Tell(notice) => match *notice {
                    Notice::PrimaryChanged { cluster, .. } => Some(cluster.to_string()),
                    _ => None,
                },
                _ => None,
            })
            .collect()
    };
    engine.handle(OPENS, Event::Persisted(of_payments));
    assert_eq!(told(&mut engine), ["payments"]);
    engine.handle(OPENS, Event::Persisted(of_payments + of_orders + 1));
    assert_eq!(told(&mut engine), [""; 0], "an answer to nothing releases nobody");
    engine.handle(OPENS, Event::Persisted(of_orders));
    assert_eq!(told(&mut engine), ["orders"]);
}

/// The primary's own agent speaks of itself: another member's is not taken for it.
#[test]
fn an_agent_speaks_of_no_other_member() {
    let mut court = Court::of(full(&["a", "b"]));
    let says = |court: &mut Court, observer: &str, subject: &str, epoch: u64| {
        let report = coroner::model::agent::MemberReport { epoch: Epoch(epoch), ..Default::default() };
        let fact = coroner::model::Fact::Agent(Box::new(report));
        let signal = coroner::model::observation::AGENTS_SIGNAL;
        court.sees(signal, Observer::Member(observer.into()), Some(subject), Outcome::Fact(fact));
    };
    says(&mut court, "b", "a", 70);
    says(&mut court, "b", "b", 5);
    for (member, what) in [("a", Role::Primary), ("b", Role::Standby)] {
        court.sees("role", Observer::Arbiter, Some(member), Outcome::Fact(coroner::model::Fact::Role(role(what, 1))));
    }
    court.at(secs(1));
    let view = court.engine.primaries().remove(0);
    assert_eq!((view.primary, view.epoch), (Some("a".into()), Epoch(5)), "70 is nobody's own word");
}
