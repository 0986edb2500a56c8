//! Who is primary, learned at the start: from the store, from the members, from the file; never against what is seen.

use coroner::model::{
    ClusterPolicy, Epoch, Fact, Notice, Observer, Outcome, Role,
    explain::Guard,
    observation::RoleReport,
    record::{ClusterState, Recovered},
};

use crate::{
    court::{Court, role},
    policy::{full, ms, policy, secs},
};

fn says(court: &mut Court, member: &str, report: RoleReport) {
    court.sees("role", Observer::Arbiter, Some(member), Outcome::Fact(Fact::Role(report)));
}

fn primary(court: &Court) -> (Option<String>, u64) {
    let view = court.engine.primaries().remove(0);
    assert_eq!(view.address.is_some(), view.primary.is_some());
    (view.primary.map(|p| p.to_string()), view.epoch.0)
}

fn unclear(court: &Court) -> Option<String> {
    court.why_not().guards.into_iter().find(|g| g.guard == Guard::PrimaryUnclear && g.blocks).map(|g| g.reason)
}

fn with(epoch: u64, report: RoleReport) -> RoleReport {
    RoleReport { epoch: Some(Epoch(epoch)), ..report }
}

#[test]
fn one_that_claims_it_and_one_that_follows_are_enough() {
    let mut court = Court::of(full(&["a", "b"]));
    assert_eq!(primary(&court), (None, 0));
    assert!(unclear(&court).unwrap().contains("not known yet"));
    says(&mut court, "a", role(Role::Primary, 5));
    assert_eq!(primary(&court), (None, 0), "a primary that nobody follows may be anybody");
    says(&mut court, "b", role(Role::Standby, 5));
    assert_eq!(primary(&court), (Some("a".into()), 1));
    assert_eq!(unclear(&court), None);
    let told = court.told.iter().filter(|n| matches!(n, Notice::PrimaryChanged { .. })).count();
    assert_eq!(told, 1);
}

/// A18: never below an epoch that a member has stored, not even one that is heard of later.
#[test]
fn the_epoch_is_never_below_what_a_member_has_stored() {
    let mut court = Court::of(full(&["a", "b", "c"]));
    says(&mut court, "a", with(4, role(Role::Primary, 5)));
    says(&mut court, "b", with(7, role(Role::Standby, 5)));
    assert_eq!(primary(&court), (Some("a".into()), 7));
}

#[test]
fn two_that_claim_it_are_nobody() {
    let mut court = Court::of(full(&["a", "b", "c"]));
    says(&mut court, "a", role(Role::Primary, 5));
    says(&mut court, "c", role(Role::Primary, 5));
    says(&mut court, "b", role(Role::Standby, 5));
    assert_eq!(primary(&court).0, None);
    assert!(
        court.told.iter().any(|n| matches!(n, Notice::TwoPrimaries { members, now: true, .. } if members.len() == 2))
    );
    // One of them is gone: once what it said is stale, it is clear.
    court.at(secs(1));
    says(&mut court, "c", role(Role::Primary, 5));
    says(&mut court, "b", role(Role::Standby, 5));
    assert_eq!(primary(&court).0, None);
    court.at(secs(2));
    assert_eq!(primary(&court), (Some("c".into()), 1));
    assert!(court.told.iter().any(|n| matches!(n, Notice::TwoPrimaries { now: false, .. })));
}

#[test]
fn the_file_may_name_it_but_not_against_what_is_seen() {
    let named = || ClusterPolicy { initial_primary: Some("a".into()), ..full(&["a", "b"]) };
    let mut court = Court::of(named());
    assert_eq!(primary(&court).0, None, "the broker kind can tell: wait for it");
    says(&mut court, "a", role(Role::Primary, 5));
    assert_eq!(primary(&court).0, Some("a".into()), "no follower is needed");
    let mut court = Court::of(named());
    says(&mut court, "b", role(Role::Primary, 5));
    says(&mut court, "a", role(Role::Standby, 5));
    assert_eq!(primary(&court).0, None, "the members say otherwise");
    // Without a broker kind nobody can tell otherwise.
    let court = Court::of(crate::policy::bare(&["a", "b"]));
    assert_eq!(primary(&court), (Some("a".into()), 1));
}

/// A restart knows from the store; P22: somebody else promoted meanwhile: hands off, and say so.
#[test]
fn a_foreign_promotion_blocks_and_is_told() {
    let state = ClusterState {
        cluster: "orders".into(),
        epoch: Epoch(9),
        primary: Some("a".into()),
        primary_epoch: Epoch(8),
        ..ClusterState::default()
    };
    let recovered = Recovered { clusters: vec![state], open: Vec::new() };
    let mut court = Court::over(policy(vec![full(&["a", "b"])]), recovered);
    assert_eq!(primary(&court), (Some("a".into()), 8));
    says(&mut court, "b", role(Role::Primary, 5));
    let reason = unclear(&court).unwrap();
    assert!(reason.contains("b claims to be primary") && reason.contains("coroner adopt"), "{reason}");
    assert!(!court.told.iter().any(|n| matches!(n, Notice::TwoPrimaries { .. })), "one claim is not two");
    says(&mut court, "a", role(Role::Primary, 5));
    assert!(court.told.iter().any(|n| matches!(n, Notice::TwoPrimaries { now: true, .. })));
    court.at(ms(1501));
    assert_eq!(unclear(&court), None, "a claim that is stale blocks nothing");
}
