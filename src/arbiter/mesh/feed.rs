//! What a beat tells, as observations.

use std::time::Duration;

use crate::{
    arbiter::handle::Seen,
    config::{ClusterConfig, Config, Part, Source},
    mesh::message::Beat,
    model::{
        ClusterName, ClusterPolicy, Fact, MemberName, NodeName, Observer, Outcome, PartyName, agent::MemberReport,
        observation::AGENTS_SIGNAL, policy::Observers,
    },
};

/// A role that the agent read longer ago than this is not passed on: it would look as fresh as the beat.
const ROLE_FRESH_FOR: Duration = Duration::from_millis(500);

/// The observations of one beat. What the sender may not speak of, by the file, is left out.
pub(super) fn observations(config: &Config, from: &PartyName, beat: &Beat) -> Vec<Seen> {
    let Some(part) = config.mesh.as_ref().and_then(|mesh| mesh.parties.get(from)).map(|party| &party.part) else {
        return Vec::new();
    };
    let mut seen = Vec::new();
    let mut tell = |cluster: &ClusterName, signal: &str, observer: &Observer, subject, fact| {
        seen.push(Seen {
            cluster: cluster.clone(),
            signal: signal.into(),
            observer: observer.clone(),
            subject,
            outcome: Outcome::Fact(fact),
        });
    };
    match part {
        Part::Arbiter => {}
        Part::Members(members) => {
            for (cluster, member) in members {
                tell(
                    cluster,
                    AGENTS_SIGNAL,
                    &Observer::Member(member.clone()),
                    None,
                    Fact::Reaches(beat.reaches.clone()),
                );
            }
            for (cluster, member, report) in &beat.members {
                let is_its_own = members.iter().any(|(c, m)| (c, m) == (cluster, member));
                let Some((policy, parts)) = find(config, cluster).filter(|_| is_its_own) else { continue };
                let observer = Observer::Member(member.clone());
                for (signal, fact) in of_member(policy, parts, member, report, beat.challenge) {
                    tell(cluster, &signal, &observer, Some(member.clone()), fact);
                }
            }
        }
        Part::Nodes(nodes) => {
            for (cluster, node) in nodes {
                tell(cluster, AGENTS_SIGNAL, &Observer::Node(node.clone()), None, Fact::Reaches(beat.reaches.clone()));
            }
            for (cluster, node, arrivals) in &beat.nodes {
                let is_its_own = nodes.iter().any(|(c, n)| (c, n) == (cluster, node));
                let Some((policy, parts)) = find(config, cluster).filter(|_| is_its_own) else { continue };
                for signal in signals_of_node(policy, parts, node) {
                    tell(cluster, signal, &Observer::Node(node.clone()), None, Fact::Arrivals(arrivals.clone()));
                }
            }
        }
    }
    seen
}

fn find<'a>(config: &'a Config, cluster: &ClusterName) -> Option<(&'a ClusterPolicy, &'a ClusterConfig)> {
    Some((config.policy.clusters.get(cluster)?, config.clusters.get(cluster)?))
}

fn of_member(
    policy: &ClusterPolicy,
    parts: &ClusterConfig,
    member: &MemberName,
    report: &MemberReport,
    challenge: u64,
) -> Vec<(String, Fact)> {
    let mut facts = vec![(AGENTS_SIGNAL.to_owned(), Fact::Agent(Box::new(report.clone())))];
    if let (Some(signal), Some(role), Some(age)) = (&policy.role_signal, &report.role, report.role_age)
        && age < ROLE_FRESH_FOR
    {
        facts.push((signal.as_str().to_owned(), Fact::Role(role.clone())));
    }
    let concerns = |signal: &crate::model::SignalName| {
        policy.signals.get(signal).is_some_and(|s| match &s.subjects {
            crate::model::policy::Subjects::Member(only) => only == member,
            _ => true,
        })
    };
    for (signal, source) in parts.sources.iter().filter(|(name, _)| concerns(name)) {
        let Source::Agent { watch } = source else { continue };
        facts.extend(watch.fact_in(report, challenge).map(|fact| (signal.as_str().to_owned(), fact)));
    }
    facts
}

fn signals_of_node<'a>(policy: &'a ClusterPolicy, parts: &'a ClusterConfig, node: &NodeName) -> Vec<&'a str> {
    let is_observer = |signal: &crate::model::SignalName| {
        policy
            .signals
            .get(signal)
            .is_some_and(|s| matches!(&s.observers, Observers::Nodes(nodes) if nodes.contains(node)))
    };
    parts
        .sources
        .iter()
        .filter(|(name, source)| matches!(source, Source::Arrivals) && is_observer(name))
        .map(|(name, _)| name.as_str())
        .collect()
}
