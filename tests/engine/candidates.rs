//! Who could be promoted: every filter with its reason, then a total order.

use coroner::model::{
    ClusterPolicy, Epoch, Fact, Observer, Outcome, Role,
    observation::RoleReport,
    policy::Rejoin,
    record::{ClusterState, Recovered},
};

use crate::{
    court::{Court, role},
    policy::{NS, full, policy, secs},
};

fn says(court: &mut Court, member: &str, report: RoleReport) {
    court.sees("role", Observer::Arbiter, Some(member), Outcome::Fact(Fact::Role(report)));
}

/// A court in which `a` is primary at position 1000, and the others say what they say.
fn court(cluster: ClusterPolicy, others: &[(&str, RoleReport)]) -> Court {
    let mut court = Court::of(ClusterPolicy { initial_primary: Some("a".into()), ..cluster });
    says(&mut court, "a", RoleReport { lineage: Some("x".into()), ..role(Role::Primary, 1000) });
    for (member, report) in others {
        says(&mut court, member, report.clone());
    }
    court
}

fn standby(position: u64) -> RoleReport {
    role(Role::Standby, position)
}

fn rejected(court: &Court, member: &str) -> String {
    let why_not = court.why_not();
    let view = why_not.candidates.iter().find(|c| c.member == member.into()).unwrap();
    assert_eq!(view.rank.is_none(), !view.rejected.is_empty());
    view.rejected.join("; ")
}

fn order(court: &Court) -> Vec<String> {
    court.why_not().candidates.iter().filter(|c| c.rank.is_some()).map(|c| c.member.to_string()).collect()
}

#[test]
fn every_rejection_says_why() {
    let lineage = |l: &str| RoleReport { lineage: Some(l.into()), ..standby(1000) };
    let table: [(RoleReport, &str); 5] = [
        (standby(1000), ""),
        (role(Role::Primary, 1000), "it claims to be primary already"),
        (RoleReport { priority: Some(0), ..standby(1000) }, "the broker gives it priority 0"),
        (lineage("y"), "its history is not the primary's: it has forked"),
        (lineage("x"), ""),
    ];
    for (report, expected) in table {
        let court = court(full(&["a", "b"]), &[("b", report.clone())]);
        assert_eq!(rejected(&court, "b"), expected, "{report:?}");
    }
    let court = court(full(&["a", "b"]), &[]);
    assert_eq!(rejected(&court, "b"), "it never told its role");
}

#[test]
fn what_the_file_says_of_a_member_is_heeded() {
    let mut cluster = full(&["a", "b"]);
    cluster.members[1].priority = 0;
    assert_eq!(rejected(&court(cluster, &[("b", standby(1000))]), "b"), "its priority is 0");
    let mut cluster = full(&["a", "b"]);
    cluster.failover.candidate_lag_max = Some(100);
    assert_eq!(rejected(&court(cluster.clone(), &[("b", standby(900))]), "b"), "");
    assert_eq!(
        rejected(&court(cluster.clone(), &[("b", standby(899))]), "b"),
        "it is 101 behind, more than the 100 allowed"
    );
    let unknown = RoleReport { position: None, ..standby(0) };
    let why = "it does not know its own position: its copy of the data is not complete";
    assert_eq!(rejected(&court(cluster, &[("b", unknown)]), "b"), why, "P24: half a copy is no standby");
}

/// P19: a standby that is not heard of is no candidate.
#[test]
fn a_candidate_must_have_been_heard_of_lately() {
    let mut court = court(full(&["a", "b"]), &[("b", standby(1000))]);
    court.at(secs(3));
    assert_eq!(rejected(&court, "b"), "");
    court.at(secs(3) + NS);
    assert_eq!(rejected(&court, "b"), "it last told its role 3s ago");

    // Without a broker kind: anything that was heard of it.
    let mut cluster = crate::policy::bare(&["a", "b"]);
    let link = crate::policy::signal(
        coroner::model::policy::SignalKind::Check,
        coroner::model::policy::Observers::Arbiter,
        coroner::model::policy::Subjects::Members,
    );
    cluster.signals.insert("s".into(), link);
    let mut court = Court::of(cluster);
    assert_eq!(rejected(&court, "b"), "nothing was heard of it lately");
    court.sees("s", Observer::Arbiter, Some("b"), Outcome::Fact(crate::court::ok()));
    assert_eq!(rejected(&court, "b"), "");
    court.at(secs(3));
    assert_eq!(rejected(&court, "b"), "");
    court.at(secs(3) + NS);
    assert_eq!(rejected(&court, "b"), "nothing was heard of it lately");
}

/// Position, then priority, then zone, then name.
#[test]
fn the_order_is_total() {
    let members = ["a", "b", "c", "d"];
    let all = |positions: [u64; 3]| {
        [("b", standby(positions[0])), ("c", standby(positions[1])), ("d", standby(positions[2]))]
    };
    assert_eq!(order(&court(full(&members), &all([7, 7, 7]))), ["b", "c", "d"], "by name");
    assert_eq!(order(&court(full(&members), &all([5, 7, 6]))), ["c", "d", "b"], "by position");
    let mut cluster = full(&members);
    (cluster.members[2].priority, cluster.members[3].priority) = (200, 300);
    assert_eq!(order(&court(cluster.clone(), &all([7, 7, 7]))), ["d", "c", "b"], "by priority");
    assert_eq!(order(&court(cluster, &all([8, 7, 7]))), ["b", "d", "c"], "position before priority");
    let mut cluster = full(&members);
    (cluster.members[0].zone, cluster.members[2].zone) = (Some("z1".into()), Some("z1".into()));
    (cluster.members[1].zone, cluster.members[3].zone) = (Some("z2".into()), None);
    assert_eq!(order(&court(cluster.clone(), &all([7, 7, 7]))), ["c", "b", "d"], "the zone of the primary first");
    cluster.members[3].priority = 101;
    assert_eq!(order(&court(cluster, &all([7, 7, 7]))), ["d", "c", "b"], "priority before zone");
    // Those that are rejected come last, whatever they have.
    let best_rejected = [("b", RoleReport { priority: Some(0), ..standby(99) }), ("c", standby(7)), ("d", standby(7))];
    let court = court(full(&members), &best_rejected);
    assert_eq!(order(&court), ["c", "d"]);
    let last = court.why_not().candidates.last().unwrap().clone();
    assert_eq!((last.member, last.position, last.behind), ("b".into(), Some(99), Some(901)));
    let ranks: Vec<_> = court.why_not().candidates.iter().map(|c| c.rank).collect();
    assert_eq!(ranks, [Some(1), Some(2), None]);
}

/// What was fenced comes back by a rejoin, which takes its divergent tail away, or not at all.
#[test]
fn a_member_that_was_fenced_and_is_not_back_is_no_candidate() {
    let quarantine = coroner::model::record::Quarantine {
        incident: "former".into(),
        epoch: Epoch(3),
        fences: Vec::new(),
        labels: Vec::new(),
        promoted_at: None,
    };
    let state = ClusterState {
        cluster: "orders".into(),
        epoch: Epoch(4),
        primary: Some("a".into()),
        primary_epoch: Epoch(4),
        quarantined: [("b".into(), quarantine)].into(),
        ..ClusterState::default()
    };
    let mut cluster = full(&["a", "b"]);
    cluster.failover.rejoin = Rejoin::Ask;
    let recovered = Recovered { clusters: vec![state], open: Vec::new() };
    let mut court = Court::over(policy(vec![cluster]), recovered);
    says(&mut court, "a", role(Role::Primary, 1000));
    says(&mut court, "b", standby(2000));
    assert_eq!(rejected(&court, "b"), "it was fenced and is not back yet");
}
