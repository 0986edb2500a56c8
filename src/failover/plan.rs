//! What comes next: the table of the steps. Looks at the state and the world, changes nothing.

use std::time::Duration;

use super::state::{Act, SagaState};
use crate::model::{
    Action, ClusterPolicy, MemberName, NodeName, Proof, StepResult,
    explain::CandidateView,
    policy::UnknownLoss,
    record::{LogEntry, SagaKind},
};

/// What the plan needs to know of the world around the saga.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The standbys, as judged now.
    pub candidates: Vec<CandidateView>,
    /// The nodes that are expected to say whom they follow: those that reported lately.
    pub nodes_reporting: Vec<NodeName>,
    /// Those of them that follow the saga's epoch.
    pub nodes_following: Vec<NodeName>,
    /// The time for following is over.
    pub follow_time_over: bool,
    /// The fences that lie on the member of a rejoin, and where its primary was promoted.
    pub fences_to_lift: Vec<(usize, usize)>,
    /// See [`Action::Rejoin`].
    pub promoted_at: Option<u64>,
    /// Members that were fenced and are not back: they come back by a rejoin, or not at all.
    pub quarantined: Vec<MemberName>,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Next {
    /// Start these acts, side by side.
    Run(Vec<Start>),
    /// Write this down and look again.
    Note(LogEntry),
    /// Nothing, until something is heard or a delay is over.
    Wait,
}

/// One act to start.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Start {
    pub(super) action: Action,
    pub(super) member: MemberName,
    pub(super) deadline: Duration,
    /// How many acts of this shape failed before: the delay grows with it.
    pub(super) failed_before: usize,
}

/// How long a forbidden write may take. A write that is not answered proves nothing either way; stronger proofs do
/// not wait longer for it.
const FORBIDDEN_WRITE_WITHIN: Duration = Duration::from_millis(250);
/// Beyond the wait for the old lease: how long a majority may take to answer.
pub(super) const SEAL_WITHIN: Duration = Duration::from_secs(10);
const READ_ONLY_WITHIN: Duration = Duration::from_secs(3);
const REJOIN_WITHIN: Duration = Duration::from_secs(30);
const UNFENCE_WITHIN: Duration = Duration::from_secs(20);
const REPOINT_WITHIN: Duration = Duration::from_secs(10);

/// Tries of an act that provably did nothing, before another way is taken.
const TRIES: usize = 3;
/// Tries of an act that may have happened: the same target until it is proven (H9).
const TRIES_UNCERTAIN: usize = 5;
/// Tries of a rejoin, with growing delays, before a person is asked.
const TRIES_REJOIN: usize = 8;

impl SagaState {
    pub(super) fn next(&self, policy: &ClusterPolicy, world: &World) -> Next {
        if self.is_over() || self.held.is_some() {
            return Next::Wait;
        }
        match (self.kind, self.promoted) {
            (SagaKind::Rejoin, _) => self.next_of_rejoin(world),
            (SagaKind::Failover, None) => self.next_of_failover(policy, world),
            (SagaKind::Switchover, None) => self.next_of_switchover(policy),
            (_, Some(_)) => self.next_after_promotion(policy, world),
        }
    }

    fn next_of_failover(&self, policy: &ClusterPolicy, world: &World) -> Next {
        if let Some(reason) = &self.abort_requested {
            return Next::Note(LogEntry::Aborted { reason: reason.clone() });
        }
        let proof = self.proof(&policy.failover);
        if !proof.meets(policy.failover.proof_needed) {
            return self.next_of_fence(policy, proof);
        }
        // The proof stands on the methods; the forbidden write of that level runs beside the catching up and may
        // still void it. The promotion waits for both.
        let mut starts = self.missing_forbidden_write(policy);
        let catch_up = self.newest(|a| matches!(a, Action::CatchUp { .. }), &self.candidate);
        if catch_up.is_none() {
            starts.push(self.catch_up(policy, None));
        }
        if !starts.is_empty() {
            return Next::Run(starts);
        }
        if self.is_running(|a| matches!(a, Action::ForbiddenWrite { .. } | Action::CatchUp { .. })) {
            return Next::Wait;
        }
        if catch_up.is_some_and(|act| !act.succeeded()) {
            return self.other_candidate_or_hold(world, "it did not catch up", catch_up);
        }
        if let Some(reason) = self.too_much_loss(policy) {
            return Next::Note(LogEntry::Held { reason });
        }
        self.next_of_promotion(policy, world)
    }

    fn next_of_fence(&self, policy: &ClusterPolicy, proof: Proof) -> Next {
        for (level, methods) in policy.failover.fence.iter().enumerate() {
            let mut missing = Vec::new();
            let mut is_running = false;
            let mut is_used = false;
            for (method, spec) in methods.iter().enumerate().filter(|(_, m)| m.applies_to(&self.old_primary)) {
                is_used = true;
                let action = Action::Fence { level, method };
                match self.newest(|a| *a == action, &self.old_primary) {
                    None => missing.push(self.start(action, &self.old_primary, spec.deadline)),
                    Some(Act { result: None, .. }) => is_running = true,
                    Some(_) => {}
                }
            }
            if !missing.is_empty() {
                return Next::Run(missing);
            }
            if is_running {
                return Next::Wait;
            }
            if is_used && policy.has_broker {
                let write = Action::ForbiddenWrite { level };
                match self.newest(|a| *a == write, &self.old_primary) {
                    None => return Next::Run(vec![self.start(write, &self.old_primary, FORBIDDEN_WRITE_WITHIN)]),
                    Some(Act { result: None, .. }) => return Next::Wait,
                    Some(_) => {}
                }
            }
        }
        let needed = policy.failover.proof_needed;
        Next::Note(LogEntry::Held {
            reason: format!(
                "no fence gave the proof needed: reached {proof}, needed {needed}. Make sure by other means that {} \
                 is stopped, then `coroner fence confirm`; or mend the fence and `coroner continue`",
                self.old_primary
            ),
        })
    }

    /// The forbidden writes that the levels used so far have not seen yet.
    fn missing_forbidden_write(&self, policy: &ClusterPolicy) -> Vec<Start> {
        if !policy.has_broker || self.confirmed_by.is_some() {
            return Vec::new();
        }
        (0..policy.failover.fence.len())
            .filter(|level| {
                let used = |a: &Action| matches!(a, Action::Fence { level: l, .. } if l == level);
                self.newest(used, &self.old_primary).is_some()
                    && self.newest(|a| *a == Action::ForbiddenWrite { level: *level }, &self.old_primary).is_none()
            })
            .map(|level| self.start(Action::ForbiddenWrite { level }, &self.old_primary, FORBIDDEN_WRITE_WITHIN))
            .collect()
    }

    fn catch_up(&self, policy: &ClusterPolicy, exact_from: Option<MemberName>) -> Start {
        let action = Action::CatchUp { upto: self.last_position, exact_from };
        self.start(action, &self.candidate, policy.failover.catch_up_within)
    }

    /// The candidate's position after catching up.
    pub(super) fn caught_up_at(&self) -> Option<u64> {
        match self.newest(|a| matches!(a, Action::CatchUp { .. }), &self.candidate)?.result.as_ref()? {
            StepResult::Done(done) => done.position,
            _ => None,
        }
    }

    fn too_much_loss(&self, policy: &ClusterPolicy) -> Option<String> {
        let max = policy.failover.max_loss?;
        if self.overrides.accept_loss {
            return None;
        }
        match self.last_position.zip(self.caught_up_at()) {
            Some((last, own)) if last.saturating_sub(own) > max => Some(format!(
                "promoting {} would lose {} that {} had, more than the {max} allowed. `coroner continue --accept-loss` \
                 promotes all the same",
                self.candidate,
                last - own,
                self.old_primary,
            )),
            Some(_) => None,
            None if policy.failover.unknown_loss == UnknownLoss::Accept => None,
            None => Some(format!(
                "what promoting {} would lose is not known, and max_loss is set. `coroner continue --accept-loss` \
                 promotes all the same",
                self.candidate
            )),
        }
    }

    fn next_of_promotion(&self, policy: &ClusterPolicy, world: &World) -> Next {
        let promote = |a: &Action| matches!(a, Action::Promote);
        let tries: Vec<&Act> = self.acts_of(promote, &self.candidate).collect();
        match tries.last() {
            None => {}
            Some(act) if act.result.is_none() => return Next::Wait,
            Some(act) if act.succeeded() => {
                let position = match &act.result {
                    Some(StepResult::Done(done)) => done.position,
                    _ => None,
                };
                return Next::Note(LogEntry::Promoted { position });
            }
            Some(act) if tries.len() >= TRIES && tries.iter().all(|act| act.provably_did_nothing()) => {
                return self.other_candidate_or_hold(world, "it could not be promoted", Some(act));
            }
            Some(act) if tries.len() >= TRIES_UNCERTAIN => {
                return Next::Note(LogEntry::Held {
                    reason: format!(
                        "{} may or may not have been promoted ({}). Look at it, then `coroner continue`",
                        self.candidate,
                        failure(act)
                    ),
                });
            }
            Some(_) => {}
        }
        let mut start = self.start(Action::Promote, &self.candidate, policy.failover.promote_within);
        start.failed_before = tries.len();
        Next::Run(vec![start])
    }

    /// Another candidate, while nothing irreversible was done with this one; else hold.
    fn other_candidate_or_hold(&self, world: &World, why: &str, act: Option<&Act>) -> Next {
        let reason =
            format!("{}: {why}{}", self.candidate, act.map(|a| format!(" ({})", failure(a))).unwrap_or_default());
        let may_be_promoted = self
            .acts
            .values()
            .any(|a| a.action == Action::Promote && a.member == self.candidate && !a.provably_did_nothing());
        let other = world
            .candidates
            .iter()
            .find(|c| c.rejected.is_empty() && c.member != self.candidate && !self.given_up.contains(&c.member));
        match other {
            Some(other) if !may_be_promoted => {
                Next::Note(LogEntry::CandidateChanged { to: other.member.clone(), reason })
            }
            _ => Next::Note(LogEntry::Held {
                reason: format!("{reason}; no other standby is fit. Mend one, then `coroner continue`"),
            }),
        }
    }

    fn next_of_switchover(&self, policy: &ClusterPolicy) -> Next {
        let promoting = self.newest(|a| matches!(a, Action::Promote), &self.candidate);
        if let (Some(reason), false) = (self.why_abort_switchover(), self.may_have_promoted()) {
            return self.next_of_abort(reason);
        }
        if promoting.is_some() {
            // No other candidate in a switchover: the drained primary would wait for it.
            return self.next_of_promotion(policy, &World::default());
        }
        let read_only = self.newest(|a| matches!(a, Action::MakeReadOnly), &self.old_primary);
        match read_only {
            None => {
                return Next::Run(vec![self.start(Action::MakeReadOnly, &self.old_primary, READ_ONLY_WITHIN)]);
            }
            Some(Act { result: None, .. }) => return Next::Wait,
            Some(_) => {}
        }
        match self.newest(|a| matches!(a, Action::CatchUp { .. }), &self.candidate) {
            None => Next::Run(vec![self.catch_up(policy, Some(self.old_primary.clone()))]),
            Some(Act { result: None, .. }) => Next::Wait,
            Some(_) => self.next_of_promotion(policy, &World::default()),
        }
    }

    fn why_abort_switchover(&self) -> Option<String> {
        if let Some(reason) = &self.abort_requested {
            return Some(reason.clone());
        }
        let read_only = self.newest(|a| matches!(a, Action::MakeReadOnly), &self.old_primary);
        if let Some(act @ Act { result: Some(_), .. }) = read_only
            && !act.succeeded()
        {
            return Some(format!("{} could not be made read-only ({})", self.old_primary, failure(act)));
        }
        let catch_up = self.newest(|a| matches!(a, Action::CatchUp { .. }), &self.candidate);
        if let Some(act @ Act { result: Some(_), .. }) = catch_up
            && !act.succeeded()
        {
            return Some(format!("{} did not catch up ({})", self.candidate, failure(act)));
        }
        let tries: Vec<&Act> = self.acts_of(|a| matches!(a, Action::Promote), &self.candidate).collect();
        if tries.len() >= TRIES && tries.iter().all(|act| act.provably_did_nothing()) {
            return Some(format!("{} could not be promoted", self.candidate));
        }
        // Once it was begun to let the old primary write again, only giving up is left: it may take writes already.
        let is_given_up = self.acts.values().any(|act| act.action == Action::MakeWritable);
        is_given_up.then(|| "it was being given up when it was held".into())
    }

    fn next_of_abort(&self, reason: String) -> Next {
        if self.abandoned {
            let reason = format!("{reason}; {} may still refuse writes", self.old_primary);
            return Next::Note(LogEntry::Aborted { reason });
        }
        if self.is_running(|a| matches!(a, Action::MakeReadOnly | Action::CatchUp { .. })) {
            return Next::Wait;
        }
        let tries: Vec<&Act> = self.acts_of(|a| matches!(a, Action::MakeWritable), &self.old_primary).collect();
        match tries.last() {
            Some(act) if act.result.is_none() => Next::Wait,
            Some(act) if act.succeeded() => Next::Note(LogEntry::Aborted { reason }),
            Some(act) if tries.len() >= TRIES_UNCERTAIN => Next::Note(LogEntry::Held {
                reason: format!(
                    "the switchover was given up ({reason}), but {} could not be made writable again ({}). Do it by \
                     hand, then `coroner continue`; or `coroner abort` to leave it so",
                    self.old_primary,
                    failure(act)
                ),
            }),
            _ => {
                let mut start = self.start(Action::MakeWritable, &self.old_primary, READ_ONLY_WITHIN);
                start.failed_before = tries.len();
                Next::Run(vec![start])
            }
        }
    }

    fn next_after_promotion(&self, policy: &ClusterPolicy, world: &World) -> Next {
        if self.followed {
            return Next::Note(LogEntry::Resolved);
        }
        let all_follow = world.nodes_reporting.iter().all(|node| world.nodes_following.contains(node));
        let mut wanted: Vec<(Action, &MemberName, Duration, usize)> = policy
            .failover
            .redirect
            .iter()
            .enumerate()
            .filter(|(_, m)| m.applies_to(&self.candidate))
            .map(|(method, spec)| (Action::Redirect { method }, &self.candidate, spec.deadline, TRIES))
            .collect();
        let repoint = Action::Repoint { primary: self.candidate.clone() };
        for member in policy.members.iter().map(|m| &m.name) {
            if *member != self.candidate && *member != self.old_primary && !world.quarantined.contains(member) {
                wanted.push((repoint.clone(), member, REPOINT_WITHIN, TRIES));
            }
        }
        for (level, method) in self.fences() {
            let spec = policy.failover.fence.get(level).and_then(|l| l.get(method)).filter(|m| m.admits);
            if let Some(spec) = spec {
                wanted.push((Action::Admit { level, method }, &self.old_primary, spec.deadline, TRIES));
            }
        }
        if self.kind == SagaKind::Switchover {
            let rejoin = Action::Rejoin { primary: self.candidate.clone(), promoted_at: self.promoted.flatten() };
            wanted.push((rejoin, &self.old_primary, REJOIN_WITHIN, TRIES));
        }
        let mut starts = Vec::new();
        let mut is_running = false;
        for (action, member, deadline, tries_max) in wanted {
            let tries: Vec<&Act> = self.acts_of(|a| *a == action, member).collect();
            match tries.last() {
                Some(act) if act.result.is_none() => is_running = true,
                Some(act) if act.succeeded() => {}
                Some(_) if tries.len() >= tries_max || world.follow_time_over => {}
                // A redirect that failed is not repeated once every node says that it follows.
                Some(_)
                    if matches!(action, Action::Redirect { .. }) && all_follow && !world.nodes_reporting.is_empty() => {
                }
                tried => {
                    let failed_before = tried.map_or(0, |_| tries.len());
                    starts.push(Start { action, member: member.clone(), deadline, failed_before });
                }
            }
        }
        if !starts.is_empty() {
            return Next::Run(starts);
        }
        if is_running || !(all_follow || world.follow_time_over) {
            return Next::Wait;
        }
        let laggards = world.nodes_reporting.iter().filter(|n| !world.nodes_following.contains(n)).cloned().collect();
        Next::Note(LogEntry::Followed { nodes: world.nodes_following.clone(), laggards })
    }

    fn next_of_rejoin(&self, world: &World) -> Next {
        if let Some(reason) = &self.abort_requested {
            return Next::Note(LogEntry::Aborted { reason: reason.clone() });
        }
        let rejoin = Action::Rejoin { primary: self.candidate.clone(), promoted_at: world.promoted_at };
        let is_rejoin = |a: &Action| matches!(a, Action::Rejoin { .. });
        let mut todo = vec![(rejoin, REJOIN_WITHIN)];
        // Lifted in the reverse order, and only once the member follows.
        todo.extend(
            world
                .fences_to_lift
                .iter()
                .rev()
                .map(|(level, method)| (Action::Unfence { level: *level, method: *method }, UNFENCE_WITHIN)),
        );
        for (action, deadline) in todo {
            let tries: Vec<&Act> =
                self.acts_of(|a| *a == action || (is_rejoin(a) && is_rejoin(&action)), &self.old_primary).collect();
            match tries.last() {
                Some(act) if act.result.is_none() => return Next::Wait,
                Some(act) if act.succeeded() => {}
                Some(act) if tries.len() >= TRIES_REJOIN => {
                    return Next::Note(LogEntry::Held {
                        reason: format!(
                            "{} does not come back as a standby ({}). Mend it, then `coroner continue`",
                            self.old_primary,
                            failure(act)
                        ),
                    });
                }
                _ => {
                    let failed_before = tries.len();
                    return Next::Run(vec![Start {
                        action,
                        member: self.old_primary.clone(),
                        deadline,
                        failed_before,
                    }]);
                }
            }
        }
        Next::Note(LogEntry::Resolved)
    }

    fn start(&self, action: Action, member: &MemberName, deadline: Duration) -> Start {
        Start { action, member: member.clone(), deadline, failed_before: 0 }
    }

    fn is_running(&self, shape: impl Fn(&Action) -> bool) -> bool {
        self.acts.values().any(|act| act.result.is_none() && shape(&act.action))
    }
}

fn failure(act: &Act) -> String {
    match &act.result {
        None => "it did not end".into(),
        Some(StepResult::Failed(error)) => error.detail.clone(),
        Some(StepResult::Fenced(report)) => report.detail.clone(),
        Some(StepResult::WriteTried(attempt)) => attempt.detail.clone(),
        Some(StepResult::Done(done)) => done.detail.clone(),
        Some(StepResult::Outbid { sealed }) => format!("epoch {sealed} is sealed already"),
        Some(StepResult::Told { failed, .. }) => {
            failed.iter().map(|(node, why)| format!("{node}: {why}")).collect::<Vec<_>>().join(", ")
        }
    }
}
