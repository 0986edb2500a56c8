//! Who could be promoted: filters with a stated reason for every rejection, then a total order.
//!
//! The order is: the further position, then the higher priority, then the zone in which the old primary was, then
//! the name. The last tie-break is arbitrary and written down, so that two runs choose the same.

use super::view::View;
use crate::model::{
    ClusterPolicy, MemberName, Role, Time, agent::GateState, explain::CandidateView, policy::MemberPolicy,
    record::ClusterState, time::human,
};

/// All members but the primary, best first, the rejected ones last with their reasons.
pub(super) fn candidates(policy: &ClusterPolicy, state: &ClusterState, view: &View, now: Time) -> Vec<CandidateView> {
    let primary = state.primary.as_ref();
    let ahead = primary.and_then(|p| view.position(p)).map(|(_, position)| position);
    let zone = primary.and_then(|p| policy.member(p)).and_then(|m| m.zone.as_deref());
    let mut all: Vec<(CandidateView, bool)> = policy
        .members
        .iter()
        .filter(|m| Some(&m.name) != primary)
        .map(|member| {
            let position = view.position(&member.name).map(|(_, position)| position);
            let behind = ahead.zip(position).map(|(ahead, own)| ahead.saturating_sub(own));
            let rejected = rejections(member, behind, ahead.is_some(), policy, state, view, now);
            let name = member.name.clone();
            let is_near = zone.is_some() && member.zone.as_deref() == zone;
            let warnings = warnings(member, policy, view);
            let priority = member.priority;
            (CandidateView { member: name, rank: None, rejected, warnings, position, behind, priority }, is_near)
        })
        .collect();
    all.sort_by(|(a, a_near), (b, b_near)| {
        (a.rejected.len().min(1).cmp(&b.rejected.len().min(1)))
            .then(b.position.cmp(&a.position))
            .then(b.priority.cmp(&a.priority))
            .then(b_near.cmp(a_near))
            .then(a.member.cmp(&b.member))
    });
    let mut rank = 0;
    for (view, _) in &mut all {
        if view.rejected.is_empty() {
            rank += 1;
            view.rank = Some(rank);
        }
    }
    all.into_iter().map(|(view, _)| view).collect()
}

fn rejections(
    member: &MemberPolicy,
    behind: Option<u64>,
    is_position_told: bool,
    policy: &ClusterPolicy,
    state: &ClusterState,
    view: &View,
    now: Time,
) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut reject = |reason: String| reasons.push(reason);
    if member.priority == 0 {
        reject("its priority is 0".into());
    }
    if state.quarantined.contains_key(&member.name) {
        reject("it was fenced and is not back yet".into());
    }
    let fresh_for = policy.failover.candidate_fresh_for;
    if policy.has_broker {
        match view.role(policy, &member.name, now, fresh_for) {
            None => reject(match view.last_role(policy, &member.name) {
                Some((at, _)) => format!("it last told its role {} ago", human(now.since(at))),
                None => "it never told its role".into(),
            }),
            Some((_, report)) => {
                if report.role == Role::Primary {
                    reject("it claims to be primary already".into());
                }
                // A kind that tells the primary's position tells a standby's too, unless its copy is not complete.
                if report.role == Role::Standby && report.position.is_none() && is_position_told {
                    reject("it does not know its own position: its copy of the data is not complete".into());
                }
                if report.priority == Some(0) {
                    reject("the broker gives it priority 0".into());
                }
                if let (Some(own), Some(lineage)) = (&report.lineage, primary_lineage(policy, state, view))
                    && *own != lineage
                {
                    reject("its history is not the primary's: it has forked".into());
                }
            }
        }
    } else if view.member_seen(&member.name).is_none_or(|at| now.since(at) > fresh_for) {
        reject("nothing was heard of it lately".into());
    }
    let is_agent_heard = view.agent_seen(&member.name).is_some_and(|at| now.since(at) <= fresh_for);
    if policy.failover.lease.is_some() && member.has_agent && !is_agent_heard {
        reject("its agent is not heard, so it could not be given the lease".into());
    }
    // An agent that is not heard may be dead: that nodes do not reach it says nothing of their way to the member.
    if member.has_agent && is_agent_heard {
        let (reached, asked) = view.reached_by_nodes(policy, &member.name, now, fresh_for);
        if asked > 0 && reached <= asked / 2 {
            reject(format!("{} of {asked} nodes do not reach it: a failover would not help", asked - reached));
        }
    }
    if let (Some(max), Some(behind)) = (policy.failover.candidate_lag_max, behind)
        && behind > max
    {
        reject(format!("it is {behind} behind, more than the {max} allowed"));
    }
    reasons
}

/// What people should know of a standby that may be promoted all the same.
fn warnings(member: &MemberPolicy, policy: &ClusterPolicy, view: &View) -> Vec<String> {
    let is_unproven = view.agent(&member.name).is_some_and(|(_, report)| report.gate == GateState::Unproven);
    if policy.failover.lease.is_some() && is_unproven {
        return vec!["its gate is not proven: its lease would not bind it".into()];
    }
    Vec::new()
}

fn primary_lineage(policy: &ClusterPolicy, state: &ClusterState, view: &View) -> Option<String> {
    let (_, report) = view.last_role(policy, state.primary.as_ref()?)?;
    (report.role == Role::Primary).then(|| report.lineage.clone()).flatten()
}

/// The best candidate, or the one that a person named, if it is fit.
pub(super) fn choose(all: &[CandidateView], named: Option<&MemberName>) -> Result<MemberName, String> {
    let fit = |c: &&CandidateView| c.rejected.is_empty();
    match named {
        None => all.iter().find(fit).map(|c| c.member.clone()).ok_or_else(|| {
            let reasons: Vec<String> = all.iter().map(|c| format!("{}: {}", c.member, c.rejected.join(", "))).collect();
            if reasons.is_empty() {
                "there is no standby".into()
            } else {
                format!("no standby is fit: {}", reasons.join("; "))
            }
        }),
        Some(name) => match all.iter().find(|c| c.member == *name) {
            None => Err(format!("{name} is not a standby of this cluster")),
            Some(c) if c.rejected.is_empty() => Ok(c.member.clone()),
            Some(c) => Err(format!("{name} is not fit: {}", c.rejected.join(", "))),
        },
    }
}
