//! What is simulated: one cluster of a policy, and what the policy does not say about its surroundings.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::model::{
    ClusterName, ClusterPolicy, MemberName, PartyName, Policy, Proof, SignalName,
    agent::Watch,
    policy::{MethodPolicy, SignalKind},
};

/// How a standby gets what the primary acknowledges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replication {
    /// Afterwards: what was acknowledged in the last moment may be lost.
    #[default]
    Async,
    /// Before it is acknowledged: a primary whose standbys cannot be reached acknowledges nothing.
    Sync,
}

/// Where a signal comes from, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The member tells that it lives.
    Heartbeat,
    /// Nodes tell what reaches them.
    Arrivals,
    /// A message through the broker to the nodes.
    Canary,
    /// The agent's evidence.
    Agent(Watch),
    /// The arbiter asks the member.
    Ask(SignalKind),
    /// Nothing is known of what moves it: it stays as it is on a good day.
    Constant,
}

/// What a fence method does in this world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The agent closes the kernel's gate before the port.
    AgentGate,
    /// The agent ends the process and keeps it from being started again.
    AgentKill,
    /// Somebody outside of the host lets nothing through to it.
    Firewall,
    /// The process is ended over the network, and nothing restarts it.
    RemoteKill,
    /// The process is ended over the network; what restarts it is not known.
    Claim,
    /// The broker is asked to refuse writes.
    ReadOnly,
    /// The host's power is switched off, by a way of its own.
    Power,
    /// All nodes drop what comes from it.
    Nodes,
}

impl Method {
    /// What the policy's words mean here.
    #[must_use]
    pub fn of(method: &MethodPolicy) -> Self {
        let kind = method.label.split(' ').next().unwrap_or_default();
        match (method.label.as_str(), kind, method.best_proof) {
            ("agent gate", ..) => Self::AgentGate,
            ("agent read_only", ..) | (_, "read_only" | "file_flag", _) => Self::ReadOnly,
            (_, "agent", _) => Self::AgentKill,
            (_, "nodes", _) => Self::Nodes,
            (_, _, Proof::PowerOff) => Self::Power,
            (_, _, Proof::Stopped) => Self::RemoteKill,
            (_, _, Proof::Gate) => Self::Firewall,
            (_, _, Proof::ReadBack) => Self::ReadOnly,
            _ => Self::Claim,
        }
    }

    /// Whether it needs the agent beside the member.
    #[must_use]
    pub const fn is_by_agent(self) -> bool {
        matches!(self, Self::AgentGate | Self::AgentKill)
    }

    /// Whether a fault may have it say that it worked when it did not. What a kernel or a power controller was read back
    /// for is believed, here as in the file.
    #[must_use]
    pub const fn may_lie(self) -> bool {
        matches!(self, Self::Claim | Self::ReadOnly)
    }
}

/// One cluster in its surroundings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// The policy, with this one cluster.
    pub policy: Policy,
    /// The cluster.
    pub cluster: ClusterName,
    /// Where its signals come from.
    pub sources: BTreeMap<SignalName, Source>,
    /// The names of the agents, where they are not their members'.
    pub agents: BTreeMap<PartyName, MemberName>,
    /// Members whose port has a gate that its agent programs.
    pub gates: Vec<MemberName>,
    /// An agent whose broker gave no answer for this long renews no lease.
    pub progress_timeout: Duration,
    /// How often agents repeat an unchanged beat.
    pub beat_every: Duration,
    /// How long an agent's challenge is good for.
    pub order_valid_for: Duration,
    /// Whether agents pass messages on for others.
    pub has_relays: bool,
    /// How many arbiters there are; more than one share the store.
    pub arbiters: usize,
    /// How standbys get what is acknowledged.
    pub replication: Replication,
    /// A broker that ends is started again after this long, as its files say, unless that is inhibited. `None`: nobody does.
    pub restarts_after: Option<Duration>,
}

impl Setting {
    /// One cluster of a policy, in usual surroundings: one arbiter, asynchronous replication, relays, a supervisor that
    /// starts a broker again after half a second.
    #[must_use]
    pub fn new(policy: &Policy, cluster: &ClusterPolicy) -> Self {
        let sources = cluster.signals.iter().map(|(name, signal)| {
            let source = match signal.kind {
                SignalKind::Heartbeat => Source::Heartbeat,
                SignalKind::Arrivals => Source::Arrivals,
                SignalKind::Canary => Source::Canary,
                SignalKind::Process => Source::Agent(Watch::Process),
                SignalKind::Value | SignalKind::Text | SignalKind::Alert => Source::Constant,
                asked => Source::Ask(asked),
            };
            (name.clone(), source)
        });
        let with_agent = cluster.members.iter().filter(|member| member.has_agent);
        Self {
            policy: Policy {
                hash: policy.hash.clone(),
                arbiter: policy.arbiter.clone(),
                clusters: BTreeMap::from([(cluster.name.clone(), cluster.clone())]),
            },
            cluster: cluster.name.clone(),
            sources: sources.collect(),
            agents: BTreeMap::new(),
            gates: with_agent.map(|member| member.name.clone()).collect(),
            progress_timeout: Duration::from_secs(1),
            beat_every: Duration::from_millis(500),
            order_valid_for: Duration::from_secs(1),
            has_relays: true,
            arbiters: 1,
            replication: Replication::Async,
            restarts_after: Some(Duration::from_millis(500)),
        }
    }

    /// The cluster's policy.
    ///
    /// # Panics
    /// Never for a setting made by [`Self::new`], which puts it there; a setting that was read from a file is checked by
    /// [`Self::is_whole`].
    #[must_use]
    pub fn cluster_policy(&self) -> &ClusterPolicy {
        &self.policy.clusters[&self.cluster]
    }

    /// Whether it holds the cluster that it names, with members, and at least one arbiter.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        (1..=8).contains(&self.arbiters)
            && self.policy.clusters.get(&self.cluster).is_some_and(|cluster| !cluster.members.is_empty())
    }

    /// The method at that place.
    #[must_use]
    pub fn method(&self, level: usize, method: usize) -> Option<(Method, &MethodPolicy)> {
        let found = self.cluster_policy().failover.fence.get(level)?.get(method)?;
        Some((Method::of(found), found))
    }

    /// The longest that anything in the rules and the failover waits for: what a run has to last.
    #[must_use]
    pub fn longest_wait(&self) -> Duration {
        use crate::model::{Condition, rule::ExprKind};
        let policy = self.cluster_policy();
        let mut longest = Duration::from_secs(1);
        for rule in &policy.rules {
            let mut of_rule = Duration::ZERO;
            rule.when.walk(&mut |expr| {
                let asked = match &expr.kind {
                    ExprKind::Signal { condition, .. } | ExprKind::Observers { are: condition, .. } => {
                        match condition {
                            Condition::Silent(d) | Condition::Stalled(d) | Condition::LagLongerThan(d) => *d,
                            _ => Duration::ZERO,
                        }
                    }
                    _ => Duration::ZERO,
                };
                let held = expr.hold.unwrap_or_default() + expr.window.map_or(Duration::ZERO, |window| window.of);
                of_rule = of_rule.max(asked + held);
            });
            longest = longest.max(of_rule);
        }
        let fresh = policy.signals.values().map(|signal| signal.fresh_for).max().unwrap_or_default();
        longest + fresh
    }
}
