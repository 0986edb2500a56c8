//! What a saga's log says: a fold, nothing else.

use std::{collections::BTreeMap, hash::Hasher, time::Duration};

use super::Print;
use crate::model::{
    Action, Epoch, FenceVerdict, MemberName, Operator, Proof, StepResult,
    policy::FailoverPolicy,
    record::{LogEntry, Overrides, SagaKind},
};

/// The state of a saga.
#[derive(Clone, Debug, PartialEq)]
pub struct SagaState {
    /// What for.
    pub kind: SagaKind,
    /// The epoch it owns; for a rejoin, the epoch of the primary.
    pub epoch: Epoch,
    /// The primary to be replaced; for a rejoin, the member that comes back.
    pub old_primary: MemberName,
    /// Who replaces it; for a rejoin, the primary.
    pub candidate: MemberName,
    /// A person's exceptions.
    pub overrides: Overrides,
    /// The old primary's last known position.
    pub last_position: Option<u64>,
    /// The acts, by number.
    pub acts: BTreeMap<u32, Act>,
    /// Acts below this number that did not succeed were before the last release, and do not count.
    pub round: u32,
    /// Acts of sealing below this number were for a smaller epoch, and do not count.
    pub sealing_from: u32,
    /// Beginnings and ends of acts so far: the order of what happened.
    ticks: u32,
    /// A person confirmed the fence.
    pub confirmed_by: Option<(Operator, String)>,
    /// Candidates that were given up.
    pub given_up: Vec<MemberName>,
    /// A person asked to give up.
    pub abort_requested: Option<String>,
    /// It was asked to be given up while it was held: nothing more is tried, not even to undo.
    pub abandoned: bool,
    /// Why it is held.
    pub held: Option<String>,
    /// The candidate is primary, with its position then.
    pub promoted: Option<Option<u64>>,
    /// The nodes follow, or the time for it is over.
    pub followed: bool,
    /// Given up.
    pub aborted: bool,
    /// Done.
    pub resolved: bool,
}

/// One act.
#[derive(Clone, Debug, PartialEq)]
pub struct Act {
    /// What.
    pub action: Action,
    /// About whom.
    pub member: MemberName,
    /// How it ended; `None`: it runs, or a crash hid its end.
    pub result: Option<StepResult>,
    /// How long it took.
    pub took: Option<Duration>,
    /// When it began, in the order of what happened.
    begun_at: u32,
    /// When it ended, in the order of what happened.
    ended_at: Option<u32>,
}

impl Act {
    /// Whether the act ended in what it was for.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        match &self.result {
            None | Some(StepResult::Failed(_) | StepResult::Outbid { .. } | StepResult::FellShort { .. }) => false,
            Some(StepResult::Fenced(report)) => report.verdict == FenceVerdict::Confirmed,
            Some(StepResult::WriteTried(attempt)) => !attempt.is_accepted(),
            Some(StepResult::Told { failed, .. }) => failed.is_empty(),
            Some(StepResult::Done(_)) => true,
        }
    }

    /// Whether the act ended in an error that says that nothing happened.
    #[must_use]
    pub fn provably_did_nothing(&self) -> bool {
        matches!(&self.result, Some(StepResult::Failed(error)) if !error.may_have_happened)
    }
}

impl SagaState {
    /// The state after the first entry. `None` if that is not `Opened`.
    #[must_use]
    pub fn from_first(entry: &LogEntry) -> Option<Self> {
        let LogEntry::Opened { kind, epoch, old_primary, candidate, overrides, last_position } = entry else {
            return None;
        };
        Some(Self {
            kind: *kind,
            epoch: *epoch,
            old_primary: old_primary.clone(),
            candidate: candidate.clone(),
            overrides: overrides.clone(),
            last_position: *last_position,
            acts: BTreeMap::new(),
            round: 0,
            sealing_from: 0,
            ticks: 0,
            confirmed_by: None,
            given_up: Vec::new(),
            abort_requested: None,
            abandoned: false,
            held: None,
            promoted: None,
            followed: false,
            aborted: false,
            resolved: false,
        })
    }

    /// The state after a whole log. `None` if no saga has written it: it does not begin with `Opened`, opens twice, or leaves
    /// out the number of an act.
    #[must_use]
    pub fn from_log(log: &[LogEntry]) -> Option<Self> {
        let (first, rest) = log.split_first()?;
        let mut state = Self::from_first(first)?;
        for entry in rest {
            let may_follow = match entry {
                LogEntry::Opened { .. } => false,
                LogEntry::Started { act, .. } => *act == state.next_act(),
                _ => true,
            };
            if !may_follow {
                return None;
            }
            state.apply(entry);
        }
        Some(state)
    }

    /// Takes one more entry.
    pub fn apply(&mut self, entry: &LogEntry) {
        match entry {
            LogEntry::Opened { .. } => debug_assert!(false, "a log opens once"),
            LogEntry::Started { act, action, member } => {
                self.ticks += 1;
                let (action, member) = (action.clone(), member.clone());
                let begun = Act { action, member, result: None, took: None, begun_at: self.ticks, ended_at: None };
                self.acts.insert(*act, begun);
            }
            LogEntry::Ended { act, result, took } => {
                if let StepResult::FellShort { end, .. } = result {
                    // Drained, so this is its last word.
                    self.last_position = Some(*end);
                }
                if let Some(act) = self.acts.get_mut(act) {
                    self.ticks += 1;
                    act.ended_at = Some(self.ticks);
                    act.result = Some(result.clone());
                    act.took = Some(*took);
                }
            }
            LogEntry::FenceConfirmed { by, checked } => {
                self.confirmed_by = Some((by.clone(), checked.clone()));
                self.held = None;
            }
            LogEntry::CandidateChanged { to, .. } => {
                let former = std::mem::replace(&mut self.candidate, to.clone());
                self.given_up.push(former);
            }
            LogEntry::AbortRequested { reason } => {
                self.abort_requested = Some(reason.clone());
                self.abandoned |= self.held.take().is_some();
            }
            LogEntry::BecameFailover { .. } => {
                self.kind = SagaKind::Failover;
                self.round = self.next_act();
            }
            LogEntry::EpochRaised { epoch } => {
                self.epoch = *epoch;
                self.sealing_from = self.next_act();
            }
            LogEntry::Held { reason } => self.held = Some(reason.clone()),
            LogEntry::Released { accept_loss, .. } => {
                self.held = None;
                self.overrides.accept_loss |= accept_loss;
                self.given_up.clear();
                self.round = self.next_act();
            }
            LogEntry::Promoted { position } => self.promoted = Some(*position),
            LogEntry::Followed { .. } => self.followed = true,
            LogEntry::Aborted { .. } => self.aborted = true,
            LogEntry::Resolved => self.resolved = true,
        }
    }

    /// The number of the next act.
    #[must_use]
    pub fn next_act(&self) -> u32 {
        self.acts.last_key_value().map_or(1, |(n, _)| n + 1)
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.aborted || self.resolved
    }

    /// The newest act that proved that the old primary takes writes.
    fn write_accepted(&self) -> Option<u32> {
        let accepted = |act: &Act| matches!(&act.result, Some(StepResult::WriteTried(a)) if a.is_accepted());
        self.acts.iter().rev().find(|(_, act)| accepted(act)).map(|(number, _)| *number)
    }

    /// A fence that was claimed before a write went through did not hold, whatever it says.
    fn is_void(&self, number: u32, act: &Act) -> bool {
        matches!(act.action, Action::Fence { .. }) && self.write_accepted().is_some_and(|write| number < write)
    }

    /// The acts of this shape that count: those of this round, and earlier ones that succeeded and were not found
    /// out since.
    pub fn acts_of<'a>(
        &'a self,
        shape: impl Fn(&Action) -> bool + 'a,
        member: &'a MemberName,
    ) -> impl Iterator<Item = &'a Act> {
        self.acts
            .iter()
            .filter(move |(number, act)| {
                shape(&act.action)
                    && act.member == *member
                    && (**number >= self.round || (act.succeeded() && !self.is_void(**number, act)))
            })
            .map(|(_, act)| act)
    }

    /// The newest act of this shape that counts.
    #[must_use]
    pub fn newest<'a>(&'a self, shape: impl Fn(&Action) -> bool + 'a, member: &'a MemberName) -> Option<&'a Act> {
        self.acts_of(shape, member).last()
    }

    /// Whether the saga has touched the old primary in a way that might have stopped it.
    #[must_use]
    pub fn may_have_fenced(&self) -> bool {
        self.acts.values().any(|act| {
            matches!(act.action, Action::Fence { .. })
                && !matches!(&act.result, Some(StepResult::Fenced(report)) if report.verdict == FenceVerdict::Refuted)
        })
    }

    /// The acts of sealing and of waiting for the lease, of the saga's epoch.
    fn lease_acts(&self) -> impl Iterator<Item = &Act> {
        let of_epoch = self.acts.range(self.sealing_from..).map(|(_, act)| act);
        of_epoch.filter(|act| matches!(act.action, Action::Seal | Action::AwaitLease))
    }

    /// Tries of one of the two that count: of this round, under way, or successful.
    pub(super) fn lease_tries<'a>(&'a self, action: &'a Action) -> impl Iterator<Item = &'a Act> {
        let tries = self.acts.range(self.sealing_from..).filter(move |(_, act)| act.action == *action);
        tries.filter(|(n, act)| **n >= self.round || act.result.is_none() || act.succeeded()).map(|(_, act)| act)
    }

    /// Whether a majority of the voters has sealed the saga's epoch. A lease that is over by their count says so too.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.lease_acts().any(Act::succeeded)
    }

    /// Whether anybody may have heard of the saga's epoch: voters that were asked to seal it, agents that were given an
    /// order in its name. Each refuses an older one from then on, the old primary's own agent among them.
    #[must_use]
    pub fn has_told_its_epoch(&self) -> bool {
        !self.acts.is_empty()
    }

    /// The epoch that a voter had sealed, larger than the saga's, while no majority sealed the saga's.
    #[must_use]
    pub fn outbid(&self) -> Option<Epoch> {
        if self.is_sealed() {
            return None;
        }
        let larger = |act: &Act| match act.result {
            Some(StepResult::Outbid { sealed }) => Some(sealed),
            _ => None,
        };
        self.lease_acts().filter_map(larger).max().filter(|sealed| *sealed > self.epoch)
    }

    /// Whether anything was begun after which the old primary may not serve on in its own epoch.
    #[must_use]
    pub fn is_replacing(&self) -> bool {
        self.acts
            .values()
            .any(|act| matches!(act.action, Action::Fence { .. } | Action::Seal | Action::AwaitLease | Action::Promote))
    }

    /// When the old lease was found to be over, in the order of what happened. A write that was begun after that and
    /// went through refutes it for good: whatever keeps the lease's promise at that host does not work.
    fn lease_over_at(&self) -> Option<u32> {
        let over = self.lease_acts().filter(|act| {
            matches!(&act.result, Some(StepResult::Fenced(report))
                if report.verdict == FenceVerdict::Confirmed && report.proof == Proof::LeaseOver)
        });
        let first = over.filter_map(|act| act.ended_at).min()?;
        (!self.writes_accepted().any(|write| write.begun_at > first)).then_some(first)
    }

    fn writes_accepted(&self) -> impl DoubleEndedIterator<Item = &Act> {
        self.acts.values().filter(|act| matches!(&act.result, Some(StepResult::WriteTried(a)) if a.is_accepted()))
    }

    /// The level of a forbidden write that went through while the lease ran, as it may, and was not tried again since
    /// it is over.
    pub(super) fn write_to_repeat(&self) -> Option<usize> {
        let over = self.lease_over_at()?;
        let write = self.writes_accepted().next_back()?;
        let is_repeated =
            self.acts.values().any(|act| matches!(act.action, Action::ForbiddenWrite { .. }) && act.begun_at > over);
        match write.action {
            Action::ForbiddenWrite { level } if !is_repeated => Some(level),
            _ => None,
        }
    }

    /// Whether a promotion was started that may have happened.
    #[must_use]
    pub fn may_have_promoted(&self) -> bool {
        self.promoted.is_some()
            || self.acts.values().any(|act| matches!(act.action, Action::Promote) && !act.provably_did_nothing())
    }

    /// The fences that lie, or may lie, on the old primary.
    #[must_use]
    pub fn fences(&self) -> Vec<(usize, usize)> {
        let mut all: Vec<(usize, usize)> = self
            .acts
            .values()
            .filter_map(|act| match (&act.action, &act.result) {
                (Action::Fence { .. }, Some(StepResult::Fenced(report))) if report.verdict == FenceVerdict::Refuted => {
                    None
                }
                (Action::Fence { level, method }, _) => Some((*level, *method)),
                _ => None,
            })
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The strongest proof that the old primary is stopped.
    ///
    /// Within a level it is the strongest of the confirmed methods. A forbidden write that went through voids all
    /// that was claimed before it, for good. A bare claim becomes a read-back when both connections were refused. The
    /// end of the old lease stands beside the levels.
    #[must_use]
    pub fn proof(&self, policy: &FailoverPolicy) -> Proof {
        if self.confirmed_by.is_some() {
            return policy.proof_needed;
        }
        let lease = if self.lease_over_at().is_some() { Proof::LeaseOver } else { Proof::Nothing };
        self.fence_proof(policy).max(lease)
    }

    /// The strongest proof that the fences alone gave.
    pub(super) fn fence_proof(&self, policy: &FailoverPolicy) -> Proof {
        (0..policy.fence.len()).map(|level| self.level_proof(level)).max().unwrap_or_default()
    }

    /// Whether the agent on the old primary's host has read back from its kernel that nobody reaches it, and no write
    /// went through since. A forbidden write is tried all the same, and is not waited for: behind a gate that drops it, no
    /// answer is what there is to hear, and one that goes through is heard while the standby catches up.
    pub(super) fn is_stopped_by_its_agent(&self, policy: &FailoverPolicy) -> bool {
        let is_by_agent = |action: &Action| {
            matches!(action, Action::Fence { level, method }
                if policy.fence.get(*level).and_then(|l| l.get(*method)).is_some_and(|m| m.is_by_agent))
        };
        self.acts.iter().any(|(number, act)| {
            is_by_agent(&act.action)
                && act.member == self.old_primary
                && !self.is_void(*number, act)
                && matches!(&act.result, Some(StepResult::Fenced(report))
                    if report.verdict == FenceVerdict::Confirmed && report.proof.meets(policy.proof_needed.max(Proof::Gate)))
        })
    }

    fn level_proof(&self, level: usize) -> Proof {
        let methods = |action: &Action| matches!(action, Action::Fence { level: l, .. } if *l == level);
        let claimed = self
            .acts
            .iter()
            .filter(|(number, act)| {
                methods(&act.action) && act.member == self.old_primary && !self.is_void(**number, act)
            })
            .filter_map(|(_, act)| match &act.result {
                Some(StepResult::Fenced(report)) if report.verdict == FenceVerdict::Confirmed => Some(report.proof),
                _ => None,
            })
            .max()
            .unwrap_or_default();
        let write = |action: &Action| matches!(action, Action::ForbiddenWrite { level: l } if *l == level);
        match self.newest(write, &self.old_primary).and_then(|act| act.result.as_ref()) {
            Some(StepResult::WriteTried(attempt)) if attempt.is_accepted() => Proof::Nothing,
            Some(StepResult::WriteTried(attempt)) if attempt.is_refused_twice() && claimed == Proof::Claim => {
                Proof::ReadBack
            }
            // Two vantage points belong to level 2: a method's own word on it is not enough.
            Some(StepResult::WriteTried(attempt)) if claimed == Proof::ReadBack && !attempt.is_refused_twice() => {
                Proof::Claim
            }
            Some(StepResult::Failed(_)) if claimed == Proof::ReadBack => Proof::Claim,
            _ => claimed,
        }
    }

    /// Feeds all of it that decides what comes next.
    pub(super) fn fingerprint<H: Hasher>(&self, print: &mut Print<'_, H>) {
        print.plain((self.kind, self.epoch, &self.old_primary, &self.candidate, self.last_position));
        print.plain((self.overrides.accept_loss, self.round, self.sealing_from, &self.given_up, self.promoted));
        print.plain((self.confirmed_by.is_some(), self.abort_requested.is_some(), self.abandoned));
        print.plain((self.held.is_some(), self.followed, self.aborted, self.resolved));
        print.count(self.acts.len());
        for (number, act) in &self.acts {
            print.plain((number, &act.action, &act.member, act.begun_at, act.ended_at, act.result.is_some()));
            if let Some(result) = &act.result {
                print.result(result);
            }
        }
    }
}
