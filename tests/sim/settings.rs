//! The settings that are played: what the project's examples are built from.
#![allow(unreachable_pub, reason = "the benchmark plays them too")]

use coroner::{
    model::{
        ClusterPolicy, Condition, Proof, Verdict,
        agent::Watch,
        policy::{MethodPolicy, Observers, Rejoin, SignalKind, SignalPolicy, Subjects, Traffic},
        rule::{Count, Reaction},
    },
    sim::{Replication, Setting, Source},
};

use crate::policy::{all, full, is, leased, method, ms, observers, policy, rule, secs, signal};

fn by_agent(label: &str, proof: Proof) -> MethodPolicy {
    MethodPolicy { admits: label != "agent gate", is_by_agent: true, ..method(label, secs(2), proof) }
}

/// Rules as the reference file has them, only faster: the process is gone; silent to everyone.
fn rules(cluster: &mut ClusterPolicy) {
    let quick = |policy: SignalPolicy| SignalPolicy { every: ms(100), fresh_for: ms(300), ..policy };
    cluster.signals.insert("ping".into(), quick(signal(SignalKind::Check, Observers::Arbiter, Subjects::Primary)));
    let nodes = Observers::Nodes(cluster.nodes.clone());
    cluster.signals.insert(
        "arrivals".into(),
        SignalPolicy {
            every: ms(200),
            fresh_for: ms(600),
            traffic: Traffic::Attempted,
            ..signal(SignalKind::Arrivals, nodes, Subjects::Service)
        },
    );
    cluster.rules = vec![rule(
        "silent to everyone",
        all(vec![
            is("ping", Condition::Silent(secs(1))),
            observers(Count::Majority, "arrivals", Condition::Silent(secs(1))),
        ]),
        Verdict::Dead,
        Reaction::Failover,
    )];
}

/// Agents with gate and lease: one arbiter, a primary and its standbys, three nodes.
pub fn agents(members: &[&str]) -> Setting {
    let mut cluster = leased(members);
    rules(&mut cluster);
    cluster.signals.insert(
        "process".into(),
        SignalPolicy {
            every: ms(500),
            fresh_for: ms(1_500),
            ..signal(SignalKind::Process, Observers::Members, Subjects::Primary)
        },
    );
    cluster
        .rules
        .insert(0, rule("the process is gone", is("process", Condition::Exited), Verdict::Dead, Reaction::Failover));
    cluster.failover.fence = vec![vec![by_agent("agent gate", Proof::Gate), by_agent("agent kill", Proof::Stopped)]];
    cluster.failover.cooldown = secs(1);
    cluster.failover.budget = 100;
    cluster.failover.rejoin = Rejoin::Follow;
    let policy = policy(vec![cluster.clone()]);
    let mut setting = Setting::new(&policy, &cluster);
    setting.sources.insert("process".into(), Source::Agent(Watch::Process));
    setting
}

/// The same with two arbiters over one store.
pub fn several() -> Setting {
    let mut setting = agents(&["a", "b"]);
    setting.arbiters = 2;
    setting
}

/// The same with synchronous replication.
pub fn synchronous() -> Setting {
    Setting { replication: Replication::Sync, ..agents(&["a", "b"]) }
}

/// No agents: a firewall outside of the hosts, and a power switch.
pub fn without_agents() -> Setting {
    let mut cluster = full(&["a", "b"]);
    rules(&mut cluster);
    let firewall = MethodPolicy { admits: true, ..method("firewall", secs(2), Proof::Gate) };
    cluster.failover.fence = vec![vec![firewall], vec![method("fence_agent ipmi", secs(3), Proof::PowerOff)]];
    cluster.failover.cooldown = secs(1);
    cluster.failover.budget = 100;
    let policy = policy(vec![cluster.clone()]);
    Setting::new(&policy, &cluster)
}
