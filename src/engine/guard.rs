//! The guards between a verdict and an act. Each has a name, and a reason in words when it stands.
//!
//! A guard never changes what is believed; it only keeps the arbiter from acting on it. What keeps two primaries
//! apart (no fence, no candidate, an unclear primary, our own clock, the store) cannot be passed by anybody.

use super::{cluster::Cluster, own::Own, view::PEER_HEARD_WITHIN};
use crate::model::{
    MemberName, Mode, PartyName, Proof, Time,
    explain::{CandidateView, Guard, GuardState},
    policy::Observers,
    time::human,
};

impl Cluster {
    /// All guards, in their order.
    pub(super) fn guards(&self, now: Time, own: &Own, mode: Mode, candidates: &[CandidateView]) -> Vec<GuardState> {
        Guard::ALL
            .into_iter()
            .map(|guard| match self.blocks(guard, now, own, mode, candidates) {
                Some(reason) => GuardState { guard, blocks: true, reason },
                None => GuardState { guard, blocks: false, reason: self.is_fine(guard, candidates) },
            })
            .collect()
    }

    /// Why the guard stands against acting now; `None` if it does not.
    pub(super) fn blocks(
        &self,
        guard: Guard,
        now: Time,
        own: &Own,
        mode: Mode,
        candidates: &[CandidateView],
    ) -> Option<String> {
        let failover = &self.policy.failover;
        match guard {
            Guard::Paused => {
                let pause = self.state.pause.as_ref()?;
                let until = match pause.until_unix_ms {
                    None => "until `coroner resume`".to_owned(),
                    Some(until) => format!("for another {}", human(own.wall_left(now, until)?)),
                };
                Some(format!("paused by {} {until}: {}", pause.owner, pause.reason))
            }
            Guard::HeldByRule => {
                self.holding_rule().map(|name| format!("the rule “{name}” holds and says: do nothing"))
            }
            Guard::Tilt => own.tilt(now).map(|(left, why)| format!("{why}; watching only for another {}", human(left))),
            Guard::Isolated => self.isolated(now),
            Guard::NotLeading => own.not_leading.clone(),
            Guard::StoreLost => self.conflict.clone().or_else(|| own.store_lost.clone()),
            Guard::Cooldown => {
                if self.state.cooldown_over {
                    return None;
                }
                let ago = own.wall_age(now, *self.state.failovers_unix_ms.last()?);
                (ago < failover.cooldown).then(|| {
                    format!(
                        "the last failover was {} ago, and the cooldown is {}; `coroner incidents ack` ends it",
                        human(ago),
                        human(failover.cooldown)
                    )
                })
            }
            Guard::Budget => {
                let recent = self
                    .state
                    .failovers_unix_ms
                    .iter()
                    .filter(|at| own.wall_age(now, **at) < failover.budget_per)
                    .count();
                (recent >= failover.budget as usize).then(|| {
                    format!(
                        "{recent} failovers in the last {}, and the budget is {}",
                        human(failover.budget_per),
                        failover.budget
                    )
                })
            }
            Guard::Storm => own.storm(now, &self.policy.name),
            Guard::PrimaryUnclear => self.primary_unclear(now),
            Guard::NoCandidate => super::candidate::choose(candidates, None).err(),
            Guard::NoFence => self.no_fence(self.state.primary.as_ref()?, now, own),
            Guard::NoLease => self.no_lease(now, own),
            Guard::Approval => match mode {
                Mode::Auto => None,
                Mode::Manual => Some("mode is manual: `coroner failover` approves".into()),
                Mode::Shadow => Some("mode is shadow: judged and counted, never done".into()),
            },
            Guard::Busy => {
                let saga = self.saga.as_ref()?;
                Some(format!("incident {} is {}", saga.incident.id, saga.incident.state))
            }
        }
    }

    fn is_fine(&self, guard: Guard, candidates: &[CandidateView]) -> String {
        match guard {
            Guard::Paused => "not paused".into(),
            Guard::HeldByRule => "no rule says hold".into(),
            Guard::Tilt => "own clock and loop are on time".into(),
            Guard::Isolated => "others are heard".into(),
            Guard::NotLeading => "this arbiter leads".into(),
            Guard::StoreLost => "the store takes intents".into(),
            Guard::Cooldown => "no failover lately".into(),
            Guard::Budget => "within the budget".into(),
            Guard::Storm => "few clusters look dead".into(),
            Guard::PrimaryUnclear => match &self.state.primary {
                Some(primary) => format!("{primary} is primary in epoch {}", self.state.primary_epoch),
                None => String::new(),
            },
            Guard::NoCandidate => match candidates.iter().find(|c| c.rejected.is_empty()) {
                Some(best) => format!("{} is fit", best.member),
                None => String::new(),
            },
            Guard::NoFence => "a level can reach the proof needed".into(),
            Guard::NoLease => match self.policy.failover.lease.is_some() {
                true => "enough voters are heard to seal a new epoch".into(),
                false => "the primary has no lease".into(),
            },
            Guard::Approval => "mode is auto".into(),
            Guard::Busy => "no incident under way".into(),
        }
    }

    /// Too few others are heard to know whether the trouble is our own. With nodes that report: fewer than a
    /// majority of them. Without: no standby.
    fn isolated(&self, now: Time) -> Option<String> {
        let reporting: Vec<_> = self
            .policy
            .nodes
            .iter()
            .filter(|node| {
                self.policy
                    .signals
                    .values()
                    .any(|s| matches!(&s.observers, Observers::Nodes(list) if list.contains(node)))
            })
            .collect();
        if reporting.is_empty() {
            let primary = self.state.primary.as_ref();
            let heard = self
                .policy
                .members
                .iter()
                .filter(|m| Some(&m.name) != primary)
                .filter_map(|m| self.view.member_seen(&m.name).max(self.view.agent_seen(&m.name)))
                .any(|at| now.since(at) <= self.longest_fresh());
            return (!heard).then(|| "no standby is heard, and no node reports: the cut may be ours".into());
        }
        let heard = reporting.iter().filter(|node| self.hears_node(node, now)).count();
        let needed = reporting.len() / 2 + 1;
        (heard < needed).then(|| {
            format!("{heard} of {} nodes are heard, {needed} are needed: the cut may be ours", reporting.len())
        })
    }

    /// Whether the node itself said anything that is still fresh.
    pub(super) fn hears_node(&self, node: &crate::model::NodeName, now: Time) -> bool {
        let fresh_for = self.policy.failover.candidate_fresh_for;
        if self.view.node_agent_seen(node).is_some_and(|at| now.since(at) <= fresh_for) {
            return true;
        }
        self.view.of_node(node).any(|(name, stream)| {
            let fresh_for = self.policy.signals.get(name).map(|signal| signal.fresh_for);
            stream.success.as_ref().zip(fresh_for).is_some_and(|((at, _), fresh_for)| now.since(*at) <= fresh_for)
        })
    }

    fn primary_unclear(&self, now: Time) -> Option<String> {
        if self.set_back > self.state.epoch {
            return Some(format!(
                "the store knows epoch {} at most, and this arbiter saw {} in it: it was set back, and what it says of \
                 the primary may be long over. Look which member is primary, and say so: `coroner adopt`",
                self.state.epoch, self.set_back
            ));
        }
        let Some(primary) = &self.state.primary else {
            return Some("who is primary is not known yet".into());
        };
        let foreign: Vec<MemberName> = self
            .view
            .claims_of_primary(&self.policy, now, self.settled_at)
            .into_iter()
            .filter(|m| m != primary && !self.state.quarantined.contains_key(m))
            .collect();
        (self.saga.is_none() && !foreign.is_empty()).then(|| {
            let names: Vec<&str> = foreign.iter().map(MemberName::as_str).collect();
            format!(
                "{} claims to be primary, but Coroner made {primary} primary: somebody else promoted. `coroner adopt` \
                 says who is",
                names.join(", ")
            )
        })
    }

    /// Too few voters are heard to seal a new epoch, so that nobody could be promoted.
    fn no_lease(&self, now: Time, own: &Own) -> Option<String> {
        let lease = self.policy.failover.lease.as_ref()?;
        let fresh_for = self.policy.failover.candidate_fresh_for;
        let is_heard = |voter: &PartyName| {
            voter.as_str() == own.arbiter.name
                || self.view.peer_seen(voter.as_str()).is_some_and(|at| now.since(at) <= PEER_HEARD_WITHIN)
                || self
                    .policy
                    .members
                    .iter()
                    .filter(|m| PartyName::from(&m.name) == *voter)
                    .any(|m| self.view.agent_seen(&m.name).is_some_and(|at| now.since(at) <= fresh_for))
        };
        let missing: Vec<&str> = lease.voters.iter().filter(|v| !is_heard(v)).map(PartyName::as_str).collect();
        let (voters, needed) = (lease.voters.len(), lease.voters.len() / 2 + 1);
        let heard = voters - missing.len();
        (heard < needed).then(|| {
            format!(
                "{heard} of {voters} voters are heard, {needed} are needed to seal a new epoch; not heard: {}",
                missing.join(", ")
            )
        })
    }

    fn no_fence(&self, primary: &MemberName, now: Time, own: &Own) -> Option<String> {
        let needed = self.policy.failover.proof_needed;
        // The end of a lease needs nobody's help at the primary's host.
        let mut best = if self.policy.failover.lease.is_some() { Proof::LeaseOver } else { Proof::Nothing };
        let mut broken = Vec::new();
        for (level, methods) in self.policy.failover.fence.iter().enumerate() {
            for (method, spec) in methods.iter().enumerate().filter(|(_, m)| m.applies_to(primary)) {
                let health = self.fence_health.get(&(primary.clone(), level, method));
                let old = own.arbiter.check_fences_every.saturating_mul(5);
                let why_not = health.and_then(|(at, health)| match health.usable {
                    Some(false) => Some(health.detail.clone()),
                    // One that was never exercised may work; one that was, and is not any more, has no one who looks.
                    _ if now.since(*at) > old => {
                        Some(format!("last exercised {} ago, and counted on for {}", human(now.since(*at)), human(old)))
                    }
                    _ => None,
                });
                if let Some(why_not) = why_not {
                    broken.push(format!("{} (level {}): {why_not}", spec.label, level + 1));
                    continue;
                }
                // A bare claim can become a read-back by the forbidden write.
                let reachable = if spec.best_proof == Proof::Claim && self.policy.has_broker {
                    Proof::ReadBack
                } else {
                    spec.best_proof
                };
                best = best.max(reachable);
            }
        }
        (!best.meets(needed)).then(|| {
            let why = if broken.is_empty() { String::new() } else { format!("; not usable: {}", broken.join("; ")) };
            format!("no fence for {primary} can reach proof {needed} now: the best is {best}{why}")
        })
    }
}
