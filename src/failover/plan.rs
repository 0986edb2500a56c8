//! What comes next: the table of the steps. Looks at the state and the world, changes nothing.

use std::time::Duration;

use super::state::{Act, SagaState};
use crate::model::{
    Action, ClusterPolicy, FenceVerdict, MemberName, NodeName, Proof, StepResult,
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
    /// The fences that lie on the member of a rejoin, at their places in the saga's policy.
    pub fences_to_lift: Vec<(usize, usize)>,
    /// Those of them that the saga's policy no longer has.
    pub fences_missing: Vec<String>,
    /// See [`Action::Rejoin`].
    pub promoted_at: Option<u64>,
    /// Members that were fenced and are not back: they come back by a rejoin, or not at all.
    pub quarantined: Vec<MemberName>,
    /// The old primary is heard by some path.
    pub is_primary_heard: bool,
    /// A switchover may go on as a failover: a rule asked for it, and no guard stands against it.
    pub may_fail_over: bool,
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
    /// How many acts of this shape failed before: the delay grows with it.
    pub(super) failed_before: usize,
}

/// How far it is with an act that is tried again.
#[derive(Clone, Debug, PartialEq)]
enum Attempt {
    Done,
    Running,
    Start(Start),
    /// It was tried often enough.
    Failed(String),
}

impl Attempt {
    fn to_start(&self) -> Option<Start> {
        match self {
            Self::Start(start) => Some(start.clone()),
            _ => None,
        }
    }
}

/// How long a forbidden write may take. A write that is not answered proves nothing either way; stronger proofs do
/// not wait longer for it.
const FORBIDDEN_WRITE_WITHIN: Duration = Duration::from_millis(250);
/// Beyond the wait for the old lease: how long a majority may take to answer, once.
const SEAL_WITHIN: Duration = Duration::from_secs(5);
const READ_ONLY_WITHIN: Duration = Duration::from_secs(3);
const REJOIN_WITHIN: Duration = Duration::from_secs(30);
const UNFENCE_WITHIN: Duration = Duration::from_secs(20);
const REPOINT_WITHIN: Duration = Duration::from_secs(10);

/// How long each act may take, once. A method that the policy no longer has is asked about all the same: it answers at
/// once.
#[must_use]
pub fn deadline_of(action: &Action, policy: &ClusterPolicy) -> Duration {
    let failover = &policy.failover;
    let fence = |level: usize, method: usize| failover.fence.get(level).and_then(|m| m.get(method));
    match action {
        Action::Fence { level, method } | Action::Admit { level, method } => {
            fence(*level, *method).map_or(REPOINT_WITHIN, |m| m.deadline)
        }
        Action::Unfence { .. } => UNFENCE_WITHIN,
        Action::Seal => SEAL_WITHIN,
        Action::AwaitLease => SEAL_WITHIN + failover.lease.as_ref().map_or(Duration::ZERO, |lease| lease.wait),
        Action::ForbiddenWrite { .. } => FORBIDDEN_WRITE_WITHIN,
        Action::MakeReadOnly | Action::MakeWritable => READ_ONLY_WITHIN,
        Action::CatchUp { .. } => failover.catch_up_within,
        Action::Promote => failover.promote_within,
        Action::Repoint { .. } => REPOINT_WITHIN,
        Action::Redirect { method } => failover.redirect.get(*method).map_or(REPOINT_WITHIN, |m| m.deadline),
        Action::Rejoin { .. } => REJOIN_WITHIN,
    }
}

/// Tries of an act that provably did nothing, before another way is taken.
const TRIES: usize = 3;
/// Tries of an act that may have happened: the same target until it is proven (H9).
const TRIES_UNCERTAIN: usize = 5;
/// Tries of sealing in a failover, with growing delays: without it nothing goes on, and voters may come back.
const TRIES_SEAL: usize = 12;
/// In a switchover the drained primary waits meanwhile: it goes back at once.
const TRIES_SEAL_DRAINED: usize = 1;
/// Tries of catching up, with growing delays, where no other standby is fit, before a person is asked.
const TRIES_CATCH_UP: usize = 6;
/// Tries of a rejoin, with growing delays, before a person is asked.
const TRIES_REJOIN: usize = 8;

impl SagaState {
    pub(super) fn next(&self, policy: &ClusterPolicy, world: &World) -> Next {
        if self.is_over() || self.held.is_some() {
            return Next::Wait;
        }
        match (self.kind, self.promoted) {
            (SagaKind::Rejoin, _) => self.next_of_rejoin(policy, world),
            (SagaKind::Failover, None) => self.next_of_failover(policy, world),
            (SagaKind::Switchover, None) => self.next_of_switchover(policy, world),
            (_, Some(_)) => self.next_after_promotion(policy, world),
        }
    }

    fn next_of_failover(&self, policy: &ClusterPolicy, world: &World) -> Next {
        if let (Some(reason), false) = (&self.abort_requested, self.may_have_promoted()) {
            return Next::Note(LogEntry::Aborted { reason: reason.clone() });
        }
        if let Some(next) = self.next_when_outbid() {
            return next;
        }
        // What a write shows that comes through now undoes no promotion; it is told, and people are called.
        let promote = self.newest(|a| matches!(a, Action::Promote), &self.candidate);
        if promote.is_some_and(|act| act.result.is_none() || act.succeeded()) {
            return self.next_of_promotion(world);
        }
        let proof = self.proof(&policy.failover);
        let has_lease = policy.failover.lease.is_some();
        let seal = has_lease.then(|| self.attempt(Action::Seal, TRIES_SEAL));
        if !proof.meets(policy.failover.proof_needed) {
            let wait = has_lease.then(|| self.attempt(Action::AwaitLease, TRIES_SEAL));
            return self.next_of_fence(policy, proof, seal, wait);
        }
        // The proof stands on the methods, or on the lease; the forbidden write of that level runs beside the catching
        // up and may still void it. The promotion waits for both, and for the seal; but for the write no longer than for
        // the others where the agent on the old primary's own host says that nobody reaches it.
        let mut starts = self.missing_forbidden_write(policy);
        if let Some(Attempt::Start(start)) = &seal {
            starts.push(start.clone());
        }
        let catch_up = self.newest(|a| matches!(a, Action::CatchUp { .. }), &self.candidate);
        if catch_up.is_none() {
            starts.push(self.catch_up(None));
        }
        if !starts.is_empty() {
            return Next::Run(starts);
        }
        let is_write_waited_for = !self.is_stopped_by_its_agent(&policy.failover);
        let is_waited_for = |a: &Action| match a {
            Action::CatchUp { .. } => true,
            Action::ForbiddenWrite { .. } => is_write_waited_for,
            _ => false,
        };
        if self.is_running(is_waited_for) {
            return Next::Wait;
        }
        if catch_up.is_some_and(|act| !act.succeeded()) {
            let next = self.other_candidate_or_hold(world, "it did not catch up", catch_up);
            let is_ours = |a: &Action| matches!(a, Action::CatchUp { .. });
            let failed_before = self.acts_of(is_ours, &self.candidate).count();
            // To catch up is harmless, and the only standby may be on its way back.
            return match next {
                Next::Note(LogEntry::Held { .. }) if failed_before < TRIES_CATCH_UP => {
                    Next::Run(vec![Start { failed_before, ..self.catch_up(None) }])
                }
                next => next,
            };
        }
        match seal {
            Some(Attempt::Running) => return Next::Wait,
            Some(Attempt::Failed(why)) => {
                let reason = format!(
                    "a majority of the voters could not be had to seal epoch {} ({why}): {} could not be given the \
                     lease. Bring the voters back, then `coroner continue`",
                    self.epoch, self.candidate
                );
                return Next::Note(LogEntry::Held { reason });
            }
            Some(Attempt::Done | Attempt::Start(_)) | None => {}
        }
        if let Some(reason) = self.too_much_loss(policy) {
            return Next::Note(LogEntry::Held { reason });
        }
        self.next_of_promotion(world)
    }

    /// A voter has sealed a larger epoch: nothing more is begun, since nobody could be promoted in this one.
    fn next_when_outbid(&self) -> Option<Next> {
        let sealed = self.outbid()?;
        if self.is_running(|_| true) {
            return Some(Next::Wait);
        }
        let reason = format!(
            "epoch {sealed} is sealed already, and this is epoch {}: another arbiter, or one that has lost its store, has \
             acted. Make sure that none is at work; then `coroner continue` goes on in a larger epoch",
            self.epoch
        );
        Some(Next::Note(LogEntry::Held { reason }))
    }

    /// How far it is with sealing, or with waiting for the lease.
    fn attempt(&self, action: Action, tries_max: usize) -> Attempt {
        if action == Action::Seal && self.is_sealed() {
            return Attempt::Done;
        }
        let tries: Vec<&Act> = self.lease_tries(&action).collect();
        let failed_before = tries.len();
        match tries.last() {
            Some(act) if act.result.is_none() => Attempt::Running,
            // Over, and a write went through all the same: no more waiting makes it a proof.
            _ if tries.iter().any(|act| act.succeeded()) => {
                Attempt::Failed("it was over, and a write went through".into())
            }
            Some(act) if failed_before >= tries_max => Attempt::Failed(failure(act)),
            _ => Attempt::Start(Start { failed_before, ..self.start(action, &self.old_primary) }),
        }
    }

    /// Levels one after the other, and the lease beside them from the start.
    fn next_of_fence(
        &self,
        policy: &ClusterPolicy,
        proof: Proof,
        seal: Option<Attempt>,
        wait: Option<Attempt>,
    ) -> Next {
        let mut starts = Vec::new();
        for attempt in [&seal, &wait].into_iter().flatten() {
            if let Attempt::Start(start) = attempt {
                starts.push(start.clone());
            }
        }
        let rest = match (self.next_of_levels(policy), wait) {
            (Some(Next::Run(fences)), _) => return Next::Run(fences.into_iter().chain(starts).collect()),
            (Some(next), _) => next,
            (None, Some(Attempt::Start(_) | Attempt::Running)) => Next::Wait,
            (None, Some(Attempt::Failed(why))) => {
                self.unfenced(policy, proof, &format!("; nor did the end of its lease ({why})"))
            }
            (None, Some(Attempt::Done) | None) => self.unfenced(policy, proof, ""),
        };
        if rest == Next::Wait && !starts.is_empty() { Next::Run(starts) } else { rest }
    }

    /// `None`: all levels are used up.
    fn next_of_levels(&self, policy: &ClusterPolicy) -> Option<Next> {
        for (level, methods) in policy.failover.fence.iter().enumerate() {
            let mut missing = Vec::new();
            let mut is_running = false;
            let mut is_used = false;
            for (method, _) in methods.iter().enumerate().filter(|(_, m)| m.applies_to(&self.old_primary)) {
                is_used = true;
                let action = Action::Fence { level, method };
                match self.newest(|a| *a == action, &self.old_primary) {
                    None => missing.push(self.start(action, &self.old_primary)),
                    Some(Act { result: None, .. }) => is_running = true,
                    Some(_) => {}
                }
            }
            if !missing.is_empty() {
                return Some(Next::Run(missing));
            }
            if is_running {
                return Some(Next::Wait);
            }
            if is_used && policy.has_broker {
                let write = Action::ForbiddenWrite { level };
                match self.newest(|a| *a == write, &self.old_primary) {
                    None => return Some(Next::Run(vec![self.start(write, &self.old_primary)])),
                    Some(Act { result: None, .. }) => return Some(Next::Wait),
                    Some(_) => {}
                }
            }
        }
        None
    }

    fn unfenced(&self, policy: &ClusterPolicy, proof: Proof, lease: &str) -> Next {
        let needed = policy.failover.proof_needed;
        Next::Note(LogEntry::Held {
            reason: format!(
                "no fence gave the proof needed: reached {proof}, needed {needed}{lease}. Make sure by other means that {} \
                 is stopped, then `coroner fence confirm`; or mend the fence and `coroner continue`",
                self.old_primary
            ),
        })
    }

    /// The forbidden writes that the levels used so far have not seen yet. Where the lease alone is the proof, a level
    /// whose methods still hang is not waited for: whom they do not reach, no write would.
    fn missing_forbidden_write(&self, policy: &ClusterPolicy) -> Vec<Start> {
        if !policy.has_broker || self.confirmed_by.is_some() {
            return Vec::new();
        }
        let needed = policy.failover.proof_needed;
        let is_by_lease = !self.fence_proof(&policy.failover).meets(needed);
        let again = self.write_to_repeat().filter(|_| is_by_lease);
        (0..policy.failover.fence.len())
            .filter(|level| {
                let hangs =
                    |a: &Act| a.result.is_none() && matches!(a.action, Action::Fence { level: l, .. } if l == *level);
                if is_by_lease && self.acts.values().any(hangs) {
                    return false;
                }
                let used = |a: &Action| matches!(a, Action::Fence { level: l, .. } if l == level);
                self.newest(used, &self.old_primary).is_some()
                    && self.newest(|a| *a == Action::ForbiddenWrite { level: *level }, &self.old_primary).is_none()
            })
            .chain(again)
            .map(|level| self.start(Action::ForbiddenWrite { level }, &self.old_primary))
            .collect()
    }

    fn catch_up(&self, exact_from: Option<MemberName>) -> Start {
        let action = Action::CatchUp { upto: self.last_position, exact_from };
        self.start(action, &self.candidate)
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

    fn next_of_promotion(&self, world: &World) -> Next {
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
        Next::Run(vec![Start { failed_before: tries.len(), ..self.start(Action::Promote, &self.candidate) }])
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

    fn next_of_switchover(&self, policy: &ClusterPolicy, world: &World) -> Next {
        let promoting = self.newest(|a| matches!(a, Action::Promote), &self.candidate);
        if !self.may_have_promoted() {
            if let Some(reason) = self.why_fail_over(policy, world) {
                return Next::Note(LogEntry::BecameFailover { reason });
            }
            if let Some(reason) = self.why_abort_switchover(policy) {
                return self.next_of_abort(reason);
            }
            if let Some(next) = self.next_when_outbid() {
                return next;
            }
        }
        if promoting.is_some() {
            // No other candidate in a switchover: the drained primary would wait for it.
            return self.next_of_promotion(&World::default());
        }
        let read_only = self.newest(|a| matches!(a, Action::MakeReadOnly), &self.old_primary);
        match read_only {
            None => {
                return Next::Run(vec![self.start(Action::MakeReadOnly, &self.old_primary)]);
            }
            Some(Act { result: None, .. }) => return Next::Wait,
            Some(_) => {}
        }
        match self.newest(|a| matches!(a, Action::CatchUp { .. }), &self.candidate) {
            None => return Next::Run(vec![self.catch_up(Some(self.old_primary.clone()))]),
            Some(Act { result: None, .. }) => return Next::Wait,
            Some(_) => {}
        }
        let attempts = self.attempts_when_drained(policy);
        let starts: Vec<Start> = attempts.iter().filter_map(Attempt::to_start).collect();
        if !starts.is_empty() {
            return Next::Run(starts);
        }
        if attempts.iter().any(|attempt| matches!(attempt, Attempt::Running)) {
            return Next::Wait;
        }
        self.next_of_promotion(&World::default())
    }

    /// A drained primary keeps its lease until the standby has all: then a majority seals, and it gives it up.
    fn attempts_when_drained(&self, policy: &ClusterPolicy) -> Vec<Attempt> {
        if policy.failover.lease.is_none() {
            return Vec::new();
        }
        let over = self.lease_tries(&Action::AwaitLease).any(Act::succeeded);
        let wait = if over { Attempt::Done } else { self.attempt(Action::AwaitLease, TRIES_SEAL_DRAINED) };
        vec![self.attempt(Action::Seal, TRIES_SEAL_DRAINED), wait]
    }

    /// Why a switchover that a rule asked for goes on as a failover: its primary cannot be had to step down.
    fn why_fail_over(&self, policy: &ClusterPolicy, world: &World) -> Option<String> {
        let is_old = |a: &Action| matches!(a, Action::MakeReadOnly | Action::MakeWritable | Action::CatchUp { .. });
        if !world.may_fail_over || self.abort_requested.is_some() {
            return None;
        }
        if self.is_running(is_old) {
            // An order to step down that nobody is there to hear is not waited for. One that gets through later does no
            // harm; giving it back its writes would.
            let is_giving_back = self.is_running(|a| matches!(a, Action::MakeWritable));
            let is_lost = !world.is_primary_heard && !is_giving_back;
            return is_lost.then(|| format!("{} is heard no more while it should step down", self.old_primary));
        }
        let read_only = self.newest(|a| matches!(a, Action::MakeReadOnly), &self.old_primary);
        if let Some(act) = read_only
            && matches!(&act.result, Some(StepResult::Fenced(report)) if report.verdict == FenceVerdict::Unknown)
        {
            return Some(format!("whether {} refuses writes is not known ({})", self.old_primary, failure(act)));
        }
        // Cut off from its standby as well: it steps down with what `max_loss` allows, and the rest is kept on its disk.
        let catch_up = self.newest(|a| matches!(a, Action::CatchUp { .. }), &self.candidate);
        if let Some(StepResult::FellShort { reached, end }) = catch_up.and_then(|act| act.result.as_ref()) {
            let lacks = reached.map(|reached| end.saturating_sub(reached));
            if policy.failover.max_loss.is_none_or(|max| lacks.is_some_and(|lacks| lacks <= max)) {
                let what = lacks.map_or_else(|| "it does not know how much".into(), |lacks| lacks.to_string());
                return Some(format!(
                    "{} cannot reach the end of {}: it lacks {what}",
                    self.candidate, self.old_primary
                ));
            }
        }
        let given_back = self.newest(|a| matches!(a, Action::MakeWritable), &self.old_primary);
        if let Some(act) = given_back.filter(|act| !act.succeeded()) {
            return Some(format!("{} could neither be drained nor be given back ({})", self.old_primary, failure(act)));
        }
        let why = self.why_abort_switchover(policy).filter(|_| !world.is_primary_heard)?;
        Some(format!("{why}, and {} is not heard by any path", self.old_primary))
    }

    fn why_abort_switchover(&self, policy: &ClusterPolicy) -> Option<String> {
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
        if catch_up.is_some_and(Act::succeeded) && self.outbid().is_none() {
            let what = [
                format!("a majority of the voters did not seal epoch {}", self.epoch),
                format!("the lease of {} is not known to be over", self.old_primary),
            ];
            for (what, attempt) in what.into_iter().zip(self.attempts_when_drained(policy)) {
                if let Attempt::Failed(why) = attempt {
                    return Some(format!("{what} ({why})"));
                }
            }
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
        let is_begun =
            |a: &Action| matches!(a, Action::MakeReadOnly | Action::CatchUp { .. } | Action::Seal | Action::AwaitLease);
        if self.is_running(is_begun) {
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
                let start = self.start(Action::MakeWritable, &self.old_primary);
                Next::Run(vec![Start { failed_before: tries.len(), ..start }])
            }
        }
    }

    fn next_after_promotion(&self, policy: &ClusterPolicy, world: &World) -> Next {
        if self.followed {
            return Next::Note(LogEntry::Resolved);
        }
        let all_follow = world.nodes_reporting.iter().all(|node| world.nodes_following.contains(node));
        let mut wanted: Vec<(Action, &MemberName)> = policy
            .failover
            .redirect
            .iter()
            .enumerate()
            .filter(|(_, m)| m.applies_to(&self.candidate))
            .map(|(method, _)| (Action::Redirect { method }, &self.candidate))
            .collect();
        let repoint = Action::Repoint { primary: self.candidate.clone() };
        for member in policy.members.iter().map(|m| &m.name) {
            if *member != self.candidate && *member != self.old_primary && !world.quarantined.contains(member) {
                wanted.push((repoint.clone(), member));
            }
        }
        let mut is_running = false;
        for (level, method) in admitting(policy, &self.fences()) {
            // A fence that is still under way, because another one of its level was proof enough, would fall on what was
            // just let through; without its end, what it stopped is never let through.
            let fence = Action::Fence { level, method };
            if self.newest(|a| *a == fence, &self.old_primary).is_some_and(|act| act.result.is_none()) {
                is_running = true;
            } else {
                wanted.push((Action::Admit { level, method }, &self.old_primary));
            }
        }
        if self.kind == SagaKind::Switchover {
            let rejoin = Action::Rejoin { primary: self.candidate.clone(), promoted_at: self.promoted.flatten() };
            wanted.push((rejoin, &self.old_primary));
        }
        let mut starts = Vec::new();
        for (action, member) in wanted {
            let tries: Vec<&Act> = self.acts_of(|a| *a == action, member).collect();
            match tries.last() {
                Some(act) if act.result.is_none() => is_running = true,
                Some(act) if act.succeeded() => {}
                Some(_) if tries.len() >= TRIES || world.follow_time_over => {}
                // A redirect that failed is not repeated once every node says that it follows.
                Some(_)
                    if matches!(action, Action::Redirect { .. }) && all_follow && !world.nodes_reporting.is_empty() => {
                }
                tried => {
                    let failed_before = tried.map_or(0, |_| tries.len());
                    starts.push(Start { action, member: member.clone(), failed_before });
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

    fn next_of_rejoin(&self, policy: &ClusterPolicy, world: &World) -> Next {
        if let Some(reason) = &self.abort_requested {
            return Next::Note(LogEntry::Aborted { reason: reason.clone() });
        }
        let rejoin = Action::Rejoin { primary: self.candidate.clone(), promoted_at: world.promoted_at };
        let is_rejoin = |a: &Action| matches!(a, Action::Rejoin { .. });
        let mut todo = vec![rejoin];
        // Lifted in the reverse order, and only once the member follows.
        todo.extend(
            world.fences_to_lift.iter().rev().map(|(level, method)| Action::Unfence { level: *level, method: *method }),
        );
        for action in todo {
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
                tried => {
                    // What does not come back may not have been let through: the failover ended before its fence did, or
                    // the agent was not heard then.
                    if tried.is_some()
                        && is_rejoin(&action)
                        && let Some(next) = self.next_of_admissions(policy, world)
                    {
                        return next;
                    }
                    let failed_before = tries.len();
                    return Next::Run(vec![Start { action, member: self.old_primary.clone(), failed_before }]);
                }
            }
        }
        // Asked once: whoever lets it go on then has lifted them by hand.
        let is_asked = self.acts.range(self.round..).all(|(_, act)| !is_rejoin(&act.action));
        if !world.fences_missing.is_empty() && !is_asked {
            return Next::Note(LogEntry::Held {
                reason: format!(
                    "the file no longer has {}, which lies on {}. Lift it by hand, then `coroner continue`; or put it \
                     back, then `coroner abort` and `coroner rejoin`",
                    world.fences_missing.join(", "),
                    self.old_primary
                ),
            });
        }
        Next::Note(LogEntry::Resolved)
    }

    /// Each fence that can is told once to let the member of a rejoin through; `None` when all were.
    fn next_of_admissions(&self, policy: &ClusterPolicy, world: &World) -> Option<Next> {
        let places = admitting(policy, &world.fences_to_lift);
        let actions = places.into_iter().map(|(level, method)| Action::Admit { level, method });
        let (tried, untried): (Vec<Action>, Vec<Action>) =
            actions.partition(|action| self.newest(|a| a == action, &self.old_primary).is_some());
        if !untried.is_empty() {
            return Some(Next::Run(untried.into_iter().map(|action| self.start(action, &self.old_primary)).collect()));
        }
        tried.iter().any(|action| self.is_running(|a| a == action)).then_some(Next::Wait)
    }

    fn start(&self, action: Action, member: &MemberName) -> Start {
        Start { action, member: member.clone(), failed_before: 0 }
    }

    fn is_running(&self, shape: impl Fn(&Action) -> bool) -> bool {
        self.acts.values().any(|act| act.result.is_none() && shape(&act.action))
    }
}

/// Those of the fences that let through whom the file names once the standby is promoted.
fn admitting(policy: &ClusterPolicy, fences: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let admits = |(level, method): &(usize, usize)| {
        policy.failover.fence.get(*level).and_then(|l| l.get(*method)).is_some_and(|m| m.admits)
    };
    fences.iter().copied().filter(admits).collect()
}

fn failure(act: &Act) -> String {
    match &act.result {
        None => "it did not end".into(),
        Some(StepResult::Failed(error)) => error.detail.clone(),
        Some(StepResult::Fenced(report)) => report.detail.clone(),
        Some(StepResult::WriteTried(attempt)) => attempt.detail.clone(),
        Some(StepResult::Done(done)) => done.detail.clone(),
        Some(StepResult::FellShort { reached, end }) => super::saga::fell_short(*reached, *end),
        Some(StepResult::Outbid { sealed }) => format!("epoch {sealed} is sealed already"),
        Some(StepResult::Told { failed, .. }) => {
            failed.iter().map(|(node, why)| format!("{node}: {why}")).collect::<Vec<_>>().join(", ")
        }
    }
}
