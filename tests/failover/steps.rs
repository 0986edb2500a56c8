//! The steps, in their order, when all goes well.

use coroner::model::{Command, Epoch, Role, explain::Guard, incident::IncidentState, record::SagaKind};

use crate::{
    bench::Bench,
    policy::{full, policy, secs},
};

/// P1: the primary is killed, the standby takes over, and the old one comes back as a standby.
#[test]
fn a_dead_primary_is_fenced_and_replaced_and_comes_back_as_a_standby() {
    let mut bench = Bench::settled(policy(vec![full(&["a", "b"])]));
    assert_eq!(bench.store.state().epoch, Epoch(1));
    bench.kill("a");
    bench.run_until(secs(10), "b serves", |b| b.store.state().primary == Some("b".into()));
    bench.run_until(secs(20), "it is over", Bench::is_over);
    assert_eq!(bench.done, ["fence a 0.0", "forbidden write 0", "catch up b", "promote b", "redirect 0"]);
    assert_eq!(bench.store.state().primary_epoch, Epoch(2));
    assert!(bench.store.state().quarantined.contains_key("a"));
    assert_eq!(bench.writers(), ["b"]);
    let (incident, _) = bench.store.newest().unwrap();
    assert_eq!((incident.kind, incident.state), (SagaKind::Failover, IncidentState::Resolved));
    assert_eq!(incident.outage.following.len(), 3);
    assert!(incident.outage.laggards.is_empty());
    assert!(incident.outage.last_good < incident.outage.first_new);

    bench.revive("a");
    bench.run_until(secs(20), "a is back", |b| b.is_quiet() && b.store.state().quarantined.is_empty());
    assert_eq!(bench.done[5..], ["rejoin a", "unfence a 0.0"]);
    assert_eq!(bench.members["a"].role, Role::Standby);
    assert!(bench.members["a"].fences.is_empty());
    let (incident, _) = bench.store.newest().unwrap();
    assert_eq!((incident.kind, incident.state), (SagaKind::Rejoin, IncidentState::Resolved));

    // A second failover, back to it, works once the cooldown is over or a person says so (H18).
    bench.kill("b");
    bench.run_for(secs(20));
    assert_eq!(bench.store.state().primary, Some("b".into()), "the cooldown keeps it from flapping");
    let why_not = bench.engine.why_not(bench.now, &"orders".into()).unwrap();
    assert!(why_not.guards.iter().any(|g| g.guard == Guard::Cooldown && g.blocks));
    let id = bench.store.newest().unwrap().0.id.clone();
    bench
        .ask(Command::Acknowledge { incident: id, cluster: Some("orders".into()), note: "seen".into() })
        .unwrap()
        .unwrap();
    bench.run_until(secs(20), "a serves again", |b| b.store.state().primary == Some("a".into()));
    assert_eq!(bench.store.state().primary_epoch, Epoch(3));
}
