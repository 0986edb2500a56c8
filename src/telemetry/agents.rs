//! What agents tell, what rehearsals showed, and how the mesh is linked, as gauges.

use std::time::Duration;

use super::{events::int, metrics::Metrics};
use crate::model::{
    PartyName, Policy,
    agent::{GateState, LeaseState},
    doctor::{MeshView, Rehearsal, unheard_voters},
    status::{AgentStatus, Status},
};

/// Links beyond so many are not exported: a mesh of a hundred parties has ten thousand.
const MAX_LINKS: usize = 10_000;

/// What the agent beside one member tells.
pub(super) fn refresh_agent(metrics: &Metrics, labels: [&str; 2], agent: &AgentStatus) {
    let [cluster, member] = labels;
    metrics.agent_heard.with_label_values(&labels).set(agent.is_heard.into());
    let Some(seen) = agent.seen else { return };
    metrics.agent_beat_age.with_label_values(&labels).set(seen.as_secs_f64());
    metrics.agent_epoch.with_label_values(&labels).set(agent.epoch.0.try_into().unwrap_or(i64::MAX));
    for (watch, is_so) in &agent.evidence {
        metrics.agent_evidence.with_label_values(&[cluster, member, watch.as_str()]).set((*is_so).into());
    }
    for (state, word) in [
        (GateState::None, "none"),
        (GateState::Unproven, "unproven"),
        (GateState::Open, "open"),
        (GateState::Closed, "closed"),
    ] {
        metrics.gate.with_label_values(&[cluster, member, word]).set((agent.gate == state).into());
    }
    if let Some(health) = &agent.renewals {
        for (result, count) in [("asked", health.rounds), ("granted", health.granted)] {
            let count = count.try_into().unwrap_or(i64::MAX);
            metrics.lease_renewals.with_label_values(&[cluster, member, result]).set(count);
        }
        if let Some(ms) = health.least_left_ms {
            metrics.lease_least_left.with_label_values(&labels).set(ms / 1e3);
        }
    }
}

/// Whether a member holds its lease. What a silent agent held is not known, and not told.
fn refresh_lease(metrics: &Metrics, labels: [&str; 2], agent: &AgentStatus) {
    if !agent.is_heard {
        return;
    }
    let left = match agent.lease {
        LeaseState::Held { left } => Some(left),
        _ => None,
    };
    metrics.lease_held.with_label_values(&labels).set(left.is_some().into());
    if let Some(left) = left {
        metrics.lease_left.with_label_values(&labels).set(left.as_secs_f64());
    }
}

/// What the newest rehearsals showed. Whatever is no longer configured disappears.
pub fn refresh_fences(metrics: &Metrics, policy: &Policy, rehearsals: &[Rehearsal]) {
    metrics.fence_check_every.set(policy.arbiter.check_fences_every.as_secs_f64());
    metrics.fence_usable.reset();
    metrics.fence_proof_age.reset();
    metrics.fence_rehearsal_age.reset();
    for rehearsal in rehearsals {
        let level = rehearsal.level.to_string();
        let labels = [rehearsal.cluster.as_str(), rehearsal.member.as_str(), &level, &rehearsal.method];
        if let Some(usable) = rehearsal.usable {
            metrics.fence_usable.with_label_values(&labels).set(usable.into());
        }
        let set = |vec: &prometheus::GaugeVec, age: Option<Duration>| {
            if let Some(age) = age {
                vec.with_label_values(&labels).set(age.as_secs_f64());
            }
        };
        set(&metrics.fence_proof_age, rehearsal.proof_age);
        set(&metrics.fence_rehearsal_age, rehearsal.age);
    }
}

/// How the mesh is linked, and who votes. `None`: there is no mesh, or its thread does not answer.
pub fn refresh_mesh(metrics: &Metrics, policy: &Policy, status: &Status, mesh: Option<&MeshView>) {
    for vec in [
        &metrics.mesh_link_up,
        &metrics.mesh_link_one_way,
        &metrics.agent_direct,
        &metrics.voters,
        &metrics.voters_heard,
    ] {
        vec.reset();
    }
    metrics.mesh_round_trip.reset();
    metrics.lease_length.reset();
    for cluster in &status.clusters {
        let name = [cluster.cluster.as_str()];
        let lease = policy.clusters.get(&cluster.cluster).and_then(|cluster| cluster.failover.lease.as_ref());
        if let Some(lease) = lease {
            metrics.lease_length.with_label_values(&name).set(lease.length.as_secs_f64());
            let unheard = unheard_voters(&lease.voters, &status.arbiter, cluster, mesh).len();
            metrics.voters.with_label_values(&name).set(int(lease.voters.len()));
            metrics.voters_heard.with_label_values(&name).set(int(lease.voters.len() - unheard));
        }
        for (member, agent) in cluster.members.iter().filter_map(|member| Some((member, member.agent.as_ref()?))) {
            if lease.is_some() {
                refresh_lease(metrics, [name[0], member.member.as_str()], agent);
            }
            let party = mesh.and_then(|mesh| mesh.party(&PartyName::from(&member.member)));
            if let Some(is_direct) = party.and_then(|party| party.is_direct) {
                metrics.agent_direct.with_label_values(&[name[0], member.member.as_str()]).set(is_direct.into());
            }
        }
    }
    let Some(mesh) = mesh else { return };
    for link in mesh.links.iter().take(MAX_LINKS) {
        let ends = [link.from.as_str(), link.to.as_str()];
        metrics.mesh_link_up.with_label_values(&ends).set(link.is_up.into());
        metrics.mesh_link_one_way.with_label_values(&ends).set(link.is_one_way.into());
        if let Some(trip) = link.round_trip {
            metrics.mesh_round_trip.with_label_values(&[link.to.as_str()]).set(trip.as_secs_f64());
        }
    }
    for (result, count) in &mesh.counts {
        let counter = metrics.mesh_messages.with_label_values(&[result.as_str()]);
        counter.inc_by(count.saturating_sub(counter.get()));
    }
}
