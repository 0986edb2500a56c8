//! One of several arbiters: what it does not do while another one leads, and what it takes over.

use std::collections::BTreeMap;

use coroner::model::{
    Condition, Epoch, Event, Fact, Failure, FailureKind, Observer, Outcome, Role, Truth, Verdict,
    explain::Guard,
    policy::{Observers, SignalKind, Subjects},
    record::{ClusterState, Recovered},
    rule::{Count, Reaction},
};

use crate::{
    court::{Court, ok, role},
    policy::{bare, full, is, ms, policy, rule, secs, signal},
};

fn state(epoch: u64, primary: &str) -> ClusterState {
    ClusterState {
        cluster: "orders".into(),
        epoch: Epoch(epoch),
        primary: Some(primary.into()),
        primary_epoch: Epoch(epoch),
        ..ClusterState::default()
    }
}

fn follows(court: &mut Court, clusters: Vec<ClusterState>) {
    let reason = "x leads".to_owned();
    court.event(Event::Follows { reason, clusters: Some(clusters), seen: BTreeMap::new() });
}

fn leads(court: &mut Court, clusters: Vec<ClusterState>, seen: u64) {
    let recovered = Box::new(Recovered { clusters, open: Vec::new() });
    court.event(Event::Leads { recovered, seen: [("orders".into(), Epoch(seen))].into() });
}

fn reason(court: &Court, guard: Guard) -> Option<String> {
    court.why_not().guards.into_iter().find(|g| g.guard == guard && g.blocks).map(|g| g.reason)
}

fn primary(court: &Court) -> (Option<String>, u64) {
    let view = court.engine.primaries().remove(0);
    (view.primary.map(|p| p.to_string()), view.epoch.0)
}

fn says(court: &mut Court, member: &str, what: Role) {
    court.sees("role", Observer::Arbiter, Some(member), Outcome::Fact(Fact::Role(role(what, 5))));
}

#[test]
fn a_watcher_adopts_nobody_and_knows_whom_the_store_has() {
    let mut court = Court::of(full(&["a", "b"]));
    follows(&mut court, Vec::new());
    says(&mut court, "a", Role::Primary);
    says(&mut court, "b", Role::Standby);
    court.at(ms(10));
    assert_eq!(primary(&court), (None, 0));
    assert_eq!(reason(&court, Guard::NotLeading).as_deref(), Some("x leads"));
    follows(&mut court, vec![state(4, "a")]);
    assert_eq!(primary(&court), (Some("a".into()), 4));
    assert_eq!(court.engine.appointment(&"orders".into()), None, "who watches appoints nobody");
    leads(&mut court, vec![state(4, "a")], 4);
    assert_eq!((reason(&court, Guard::NotLeading), reason(&court, Guard::PrimaryUnclear)), (None, None));
    court.at(ms(20));
    assert_eq!(court.engine.appointment(&"orders".into()), Some(("a".into(), Epoch(4))));
}

/// A21: less is stored than was seen.
#[test]
fn a21_a_store_that_was_set_back_is_not_believed() {
    let mut court = Court::over(policy(vec![full(&["a", "b"])]), Recovered::default());
    leads(&mut court, vec![state(3, "a")], 7);
    let why = reason(&court, Guard::PrimaryUnclear).unwrap();
    assert!(why.contains("knows epoch 3") && why.contains("saw 7") && why.contains("coroner adopt"), "{why}");
    // Emptied, it is not taken for a new one.
    leads(&mut court, Vec::new(), 7);
    says(&mut court, "a", Role::Primary);
    says(&mut court, "b", Role::Standby);
    court.at(ms(10));
    assert_eq!(primary(&court), (None, 0));
}

/// Every arbiter that is heard counts, this one too; a view that is not renewed does not.
#[test]
fn what_other_arbiters_see_counts_for_unreachable_by_alone() {
    let count = Condition::UnreachableBy(Count::Majority);
    let cluster = |condition: Condition| {
        let looked = signal(SignalKind::Check, Observers::Arbiter, Subjects::Member("a".into()));
        Court::about(looked, is("s", condition))
    };
    let fails = || Outcome::Failure(Failure::new(FailureKind::TimedOut, "as scripted"));
    let peer = |court: &mut Court, name: &str, outcome: Outcome| {
        court.sees("s", Observer::Peer(name.into()), Some("a"), outcome);
    };
    let mut court = cluster(count);
    court.failure(FailureKind::TimedOut);
    assert_eq!(court.truth(), Truth::True, "alone, it is all there are");
    peer(&mut court, "y", Outcome::Fact(ok()));
    assert_eq!(court.truth(), Truth::False, "one of two is no majority");
    peer(&mut court, "z", fails());
    assert_eq!(court.truth(), Truth::True, "two of three");
    let tree = court.tree().to_text();
    assert!(tree.contains("2 of 3 true") && tree.contains("[y]") && tree.contains("[z]"), "{tree}");
    court.at(secs(5)).failure(FailureKind::TimedOut);
    assert_eq!(court.truth(), Truth::True, "those that are not heard any more are not counted");
    peer(&mut court, "y", Outcome::Fact(ok()));
    assert_eq!(court.truth(), Truth::False);

    // One that is heard and tells nothing of this any more has no word in it.
    let mut two = bare(&["a", "b"]);
    let looked = || signal(SignalKind::Check, Observers::Arbiter, Subjects::Member("a".into()));
    two.signals.extend([("s".into(), looked()), ("t".into(), looked())]);
    two.rules = vec![rule("r", is("s", Condition::UnreachableBy(Count::Majority)), Verdict::Dead, Reaction::Alert)];
    let mut court = Court::of(two);
    court.failure(FailureKind::TimedOut);
    peer(&mut court, "y", fails());
    assert_eq!(court.truth(), Truth::True, "two of two");
    court.at(secs(5)).failure(FailureKind::TimedOut);
    court.sees("t", Observer::Peer("y".into()), Some("a"), Outcome::Fact(ok()));
    assert_eq!(court.truth(), Truth::Unknown, "what y saw five seconds ago is no second word");

    let mut court = cluster(Condition::Failing);
    court.fact(ok());
    peer(&mut court, "y", fails());
    assert_eq!(court.truth(), Truth::False, "another one's trouble is no failure of ours");
}
