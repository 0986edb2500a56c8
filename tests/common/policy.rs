//! Policies for tests of the decision, built in a few words.
#![allow(dead_code, unreachable_pub, reason = "each test crate uses its part")]

use std::{collections::BTreeMap, time::Duration};

use coroner::model::{
    ClusterPolicy, Condition, Expr, Mode, Policy, Proof, Rule, Verdict,
    policy::{
        ArbiterPolicy, FailoverPolicy, MemberPolicy, MethodPolicy, Observers, Rejoin, SignalKind, SignalPolicy,
        Subjects, Traffic, UnknownLoss,
    },
    rule::{Count, ExprKind, Reaction, Window},
};

pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub const NS: Duration = Duration::from_nanos(1);

pub fn signal(kind: SignalKind, observers: Observers, subjects: Subjects) -> SignalPolicy {
    SignalPolicy { kind, observers, subjects, every: ms(500), fresh_for: ms(1500), traffic: Traffic::Attempted }
}

pub fn nodes(names: &[&str]) -> Observers {
    Observers::Nodes(names.iter().map(|n| (*n).into()).collect())
}

pub fn is(signal: &str, condition: Condition) -> Expr {
    Expr::plain(ExprKind::Signal { signal: signal.into(), condition })
}

pub fn observers(count: Count, signal: &str, are: Condition) -> Expr {
    Expr::plain(ExprKind::Observers { count, signal: signal.into(), are })
}

pub fn all(list: Vec<Expr>) -> Expr {
    Expr::plain(ExprKind::All(list))
}

pub fn any(list: Vec<Expr>) -> Expr {
    Expr::plain(ExprKind::Any(list))
}

pub fn not(expr: Expr) -> Expr {
    Expr::plain(ExprKind::Not(Box::new(expr)))
}

pub fn at_least(count: Count, of: Vec<Expr>) -> Expr {
    Expr::plain(ExprKind::AtLeast { count, of })
}

pub fn held(expr: Expr, hold: Duration) -> Expr {
    Expr { hold: Some(hold), ..expr }
}

pub fn within(expr: Expr, true_for: Duration, of: Duration) -> Expr {
    Expr { window: Some(Window { true_for, of }), ..expr }
}

pub fn rule(name: &str, when: Expr, verdict: Verdict, then: Reaction) -> Rule {
    Rule { name: name.into(), when, verdict, then, mode: None }
}

pub fn method(label: &str, deadline: Duration, best_proof: Proof) -> MethodPolicy {
    MethodPolicy { label: label.into(), deadline, best_proof, only_for: Vec::new(), admits: false, is_by_agent: false }
}

pub fn failover_policy() -> FailoverPolicy {
    FailoverPolicy {
        fence: vec![vec![method("gate", secs(2), Proof::Gate)], vec![method("power", secs(5), Proof::PowerOff)]],
        proof_needed: Proof::Gate,
        is_unsafe: false,
        catch_up_within: secs(5),
        promote_within: secs(5),
        max_loss: None,
        unknown_loss: UnknownLoss::Hold,
        redirect: vec![method("http", secs(2), Proof::Nothing)],
        redirect_within: secs(10),
        rejoin: Rejoin::Follow,
        candidate_fresh_for: secs(3),
        candidate_lag_max: None,
        lease: None,
        preserve_within: Duration::ZERO,
        cooldown: secs(600),
        budget: 3,
        budget_per: secs(3600),
    }
}

/// A cluster of these members without a broker kind, without signals and rules: for tests of judging.
pub fn bare(members: &[&str]) -> ClusterPolicy {
    ClusterPolicy {
        name: "orders".into(),
        mode: Mode::Auto,
        members: members
            .iter()
            .enumerate()
            .map(|(i, name)| MemberPolicy {
                name: (*name).into(),
                address: format!("10.0.0.{}:6379", 11 + i),
                priority: 100,
                zone: None,
                has_agent: false,
            })
            .collect(),
        nodes: Vec::new(),
        initial_primary: members.first().map(|m| (*m).into()),
        has_broker: false,
        signals: BTreeMap::new(),
        role_signal: None,
        rules: Vec::new(),
        failover: failover_policy(),
    }
}

/// A whole cluster: a broker kind, roles, pings, heartbeats, links, arrivals at three nodes, and one rule that acts
/// when three pings in a row fail.
pub fn full(members: &[&str]) -> ClusterPolicy {
    let mut cluster = bare(members);
    cluster.has_broker = true;
    cluster.initial_primary = None;
    cluster.nodes = ["n1", "n2", "n3"].map(Into::into).to_vec();
    cluster.role_signal = Some("role".into());
    cluster.signals = BTreeMap::from([
        ("role".into(), signal(SignalKind::Role, Observers::Arbiter, Subjects::Members)),
        ("ping".into(), signal(SignalKind::Check, Observers::Arbiter, Subjects::Primary)),
        ("link".into(), signal(SignalKind::Link, Observers::Arbiter, Subjects::Standbys)),
        (
            "heartbeat".into(),
            SignalPolicy {
                every: secs(1),
                fresh_for: secs(3),
                ..signal(SignalKind::Heartbeat, Observers::Members, Subjects::Primary)
            },
        ),
        (
            "arrivals".into(),
            SignalPolicy {
                every: secs(1),
                fresh_for: secs(3),
                ..signal(SignalKind::Arrivals, nodes(&["n1", "n2", "n3"]), Subjects::Service)
            },
        ),
    ]);
    cluster.rules = vec![rule(
        "no answer",
        is("ping", Condition::FailingOf { failures: 3, of: 3 }),
        Verdict::Dead,
        Reaction::Failover,
    )];
    cluster
}

/// The same with agents beside the members and a lease of the primary.
pub fn leased(members: &[&str]) -> ClusterPolicy {
    let mut cluster = full(members);
    for member in &mut cluster.members {
        member.has_agent = true;
    }
    let arbiter: coroner::model::PartyName = "arbiter-1".into();
    let voters = std::iter::once(arbiter).chain(members.iter().map(|m| (*m).into())).collect();
    cluster.failover.lease = Some(coroner::model::policy::LeasePolicy {
        length: ms(200),
        renew_every: ms(50),
        enforced_within: ms(10),
        clock_rate_permille: 100,
        wait: ms(260),
        voters,
    });
    cluster
}

pub fn policy(clusters: Vec<ClusterPolicy>) -> Policy {
    Policy {
        hash: "abc123".into(),
        arbiter: ArbiterPolicy { name: "arbiter-1".into(), ..ArbiterPolicy::default() },
        clusters: clusters.into_iter().map(|c| (c.name.clone(), c)).collect(),
    }
}
