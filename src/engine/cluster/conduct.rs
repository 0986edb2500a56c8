//! What is under way in a cluster: the saga moved on, made durable, and what it changes; and who is to hold the lease.

use super::{Cluster, Purpose};
use crate::{
    engine::own::Own,
    failover::{Opening, Steps, World},
    model::{
        ActError, Action, Effect, Epoch, FenceReport, MemberName, Mode, NodeName, Notice, Record, StepResult, Time,
        Verdict,
        explain::Guard,
        incident::Trigger,
        policy::{FailoverPolicy, Rejoin},
        record::{LogEntry, Overrides, Quarantine, SagaKind},
    },
};

impl Cluster {
    /// Begins to bring back a quarantined member that is seen again.
    pub(super) fn maybe_rejoin(&mut self, now: Time, own: &mut Own) {
        if self.saga.is_some()
            || !self.is_settled()
            || self.policy.failover.rejoin != Rejoin::Follow
            || self.policy.mode != Mode::Auto
        {
            return;
        }
        let fresh = self.policy.failover.candidate_fresh_for;
        let member = self
            .state
            .quarantined
            .keys()
            .filter(|m| !self.rejoin_given_up.contains(m))
            .find(|m| self.view.role(&self.policy, m, now, fresh).is_some_and(|(at, _)| at > self.primary_since))
            .cloned();
        let Some(member) = member else { return };
        let blocked = [Guard::Paused, Guard::Tilt, Guard::NotLeading, Guard::StoreLost]
            .into_iter()
            .any(|guard| self.blocks(guard, now, own, Mode::Auto, &[]).is_some());
        if blocked || self.verdict >= Verdict::Suspect {
            return;
        }
        self.open_rejoin(now, &member, Trigger::SeenAgain, own);
    }

    pub(in crate::engine) fn open_rejoin(&mut self, now: Time, member: &MemberName, trigger: Trigger, own: &mut Own) {
        let Some(primary) = self.state.primary.clone() else { return };
        self.rejoin_given_up.retain(|m| m != member);
        let epoch = self.state.primary_epoch;
        let opening = Opening {
            id: own.incident_id(now),
            arbiter: own.arbiter.name.clone(),
            anchor: own.anchor,
            kind: SagaKind::Rejoin,
            trigger,
            mode: self.policy.mode,
            policy_hash: own.policy_hash.clone(),
            epoch_before: epoch,
            epoch,
            old_primary: member.clone(),
            candidate: primary,
            candidates: Vec::new(),
            guards: Vec::new(),
            overrides: Overrides::default(),
            remark: None,
            last_position: None,
            last_good: None,
        };
        self.begin(now, opening, self.state.clone(), own);
    }

    // ---- the saga ---------------------------------------------------------------------------------------------

    /// The opening is durable, and nothing of it was handed out yet. The store may have taken long over it, or this
    /// arbiter slept meanwhile: what a rule wanted then and does not want now is given up while that harms nobody.
    pub(super) fn reconsider(&mut self, now: Time, own: &mut Own) {
        let Some(saga) = &self.saga else { return };
        let Trigger::Rule(rule) = &saga.incident.trigger else { return };
        let mode = saga.incident.mode;
        let against = [Guard::Paused, Guard::HeldByRule, Guard::Tilt, Guard::Isolated, Guard::NotLeading];
        let against = against.into_iter().find_map(|guard| self.blocks(guard, now, own, mode, &[]));
        let holds = self.true_rules().any(|holding| holding.name == rule.rule);
        let reason = match (against, holds) {
            (Some(why), _) => format!("before anything was done: {why}"),
            (None, false) => format!("before anything was done: the rule “{}” holds no more", rule.rule),
            (None, true) => return,
        };
        let incident = saga.incident.id.clone();
        let mut steps = Steps::default();
        for effect in std::mem::take(&mut self.queue) {
            match effect {
                Effect::Run(run) if run.token.incident == incident => {
                    let ended = self.saga.as_mut().map(|s| s.ended(now, run.token.number, not_begun(&run.action)));
                    steps = merge(steps, ended.unwrap_or_default());
                }
                effect => self.queue.push_back(effect),
            }
        }
        let aborted = self.decide(now, LogEntry::AbortRequested { reason }, own);
        self.takes_opening_back = true;
        self.carry_out(now, merge(steps, aborted), own);
        self.takes_opening_back = false;
    }

    pub(in crate::engine) fn decide(&mut self, now: Time, entry: LogEntry, own: &Own) -> Steps {
        self.decide_all(now, [entry], own)
    }

    /// Writes down what was decided, all of it in one record, and moves on from there.
    pub(in crate::engine) fn decide_all(
        &mut self,
        now: Time,
        entries: impl IntoIterator<Item = LogEntry>,
        own: &Own,
    ) -> Steps {
        let Some(saga) = &mut self.saga else { return Steps::default() };
        let first = entries.into_iter().map(|entry| saga.decide(now, entry)).fold(Steps::default(), merge);
        let more = self.advance(now, own);
        merge(first, more)
    }

    pub(super) fn advance(&mut self, now: Time, own: &Own) -> Steps {
        let world = self.world(now, own);
        self.saga.as_mut().map(|saga| saga.advance(now, &world)).unwrap_or_default()
    }

    fn world(&self, now: Time, own: &Own) -> World {
        let Some(saga) = &self.saga else { return World::default() };
        let incident = &saga.incident;
        // Whoever was there when it began is expected to follow: one that is late just now, or died meanwhile, is waited
        // for until the time is over, and is a laggard then.
        let was_there = |at: Time| at + self.longest_fresh() >= incident.opened;
        let nodes_reporting: Vec<_> = saga
            .policy
            .nodes
            .iter()
            .filter(|node| {
                let reports = self.view.arrivals(node);
                reports.is_some_and(|(at, _)| self.hears_node(node, now) || was_there(at))
                    || self.view.awaits_node(node)
            })
            .cloned()
            .collect();
        let follows =
            |node: &&NodeName| self.view.arrivals(node).is_some_and(|(_, report)| saga.is_followed_by(report));
        let nodes_following = nodes_reporting.iter().filter(follows).cloned().collect();
        let quarantine = self.state.quarantined.get(&incident.old_primary);
        let (fences_to_lift, fences_missing) = quarantine.map(|q| places(q, &saga.policy.failover)).unwrap_or_default();
        World {
            candidates: self.candidates(now),
            nodes_reporting,
            nodes_following,
            follow_time_over: false,
            fences_to_lift,
            fences_missing,
            promoted_at: quarantine.and_then(|q| q.promoted_at),
            quarantined: self.state.quarantined.keys().cloned().collect(),
            is_primary_heard: self.view.hears(&self.policy, &incident.old_primary, now) != Some(false),
            may_fail_over: self.may_fail_over(now, own),
        }
    }

    /// Whether a switchover under way may go on as a failover. What a person asked for stays what they asked for.
    fn may_fail_over(&self, now: Time, own: &Own) -> bool {
        let Some(saga) = self.saga.as_ref().filter(|s| s.incident.kind == SagaKind::Switchover) else { return false };
        let against = [
            Guard::Paused,
            Guard::HeldByRule,
            Guard::Tilt,
            Guard::Isolated,
            Guard::NotLeading,
            Guard::StoreLost,
            Guard::NoFence,
            Guard::NoLease,
        ];
        matches!(saga.incident.trigger, Trigger::Rule(_))
            && against.into_iter().all(|guard| self.blocks(guard, now, own, Mode::Auto, &[]).is_none())
    }

    /// Makes what the saga decided durable, and hands out its acts behind that.
    pub(in crate::engine) fn carry_out(&mut self, now: Time, steps: Steps, own: &mut Own) {
        if steps.entries.is_empty() && steps.runs.is_empty() {
            return;
        }
        let before = self.state.clone();
        for (_, entry) in &steps.entries {
            self.apply_to_state(now, entry);
        }
        let mut records: Vec<Record> = self.incident_record().into_iter().collect();
        if self.state != before {
            records.push(Record::Cluster { expected: before.epoch, state: self.state.clone() });
        }
        records.extend(self.log_records(&steps));
        self.persist(own, records, Purpose::Saga, before.clone());
        for run in steps.runs {
            self.emit(Effect::Run(Box::new(run)));
        }
        if (&self.state.primary, self.state.primary_epoch) != (&before.primary, before.primary_epoch) {
            let notice = Notice::PrimaryChanged {
                cluster: self.policy.name.clone(),
                primary: self.state.primary.clone(),
                epoch: self.state.primary_epoch,
            };
            self.emit(Effect::Tell(Box::new(notice)));
        }
        self.tell_incident();
        if let Some(saga) = self.saga.take_if(|s| s.state().is_over()) {
            if saga.incident.kind == SagaKind::Rejoin && saga.state().aborted {
                self.rejoin_given_up.push(saga.incident.old_primary.clone());
            }
            self.settled_at = now;
            self.is_dirty = true;
        }
    }

    /// What an entry of the saga's log changes in the cluster.
    fn apply_to_state(&mut self, now: Time, entry: &LogEntry) {
        let Some(saga) = &self.saga else { return };
        let (state, incident) = (saga.state(), &saga.incident);
        match entry {
            LogEntry::Promoted { position } => {
                let quarantine = Quarantine {
                    incident: incident.id.clone(),
                    epoch: self.state.primary_epoch,
                    labels: state.fences().iter().map(|place| label_at(&saga.policy.failover, *place)).collect(),
                    fences: state.fences(),
                    promoted_at: *position,
                };
                self.state.primary = Some(state.candidate.clone());
                self.state.primary_epoch = state.epoch;
                self.state.quarantined.remove(&state.candidate);
                self.state.quarantined.insert(state.old_primary.clone(), quarantine);
                self.primary_changed(now);
            }
            LogEntry::Ended { act, result: StepResult::Done(_), .. } if incident.kind == SagaKind::Switchover => {
                if let Some(act) = state.acts.get(act)
                    && matches!(act.action, Action::Rejoin { .. })
                {
                    let member = act.member.clone();
                    self.state.quarantined.remove(&member);
                }
            }
            LogEntry::EpochRaised { epoch } => self.state.epoch = *epoch,
            LogEntry::Aborted { .. } => {
                let incident = incident.id.clone();
                self.raise_after_abort();
                // No failover to rest from. When the rule began it no cooldown stood against it.
                if self.takes_opening_back && self.state.newest_failover.as_ref() == Some(&incident) {
                    self.state.failovers_unix_ms.pop();
                    self.state.cooldown_over = true;
                    self.state.newest_failover = None;
                }
            }
            LogEntry::Resolved if incident.kind == SagaKind::Rejoin => {
                let member = incident.old_primary.clone();
                self.state.quarantined.remove(&member);
            }
            _ => {}
        }
    }

    /// The old primary's epoch may be sealed, or refused by its own agent: it can hold a lease only in a newer one. That of
    /// the saga is its own, since nobody was promoted in it; a larger one that was found sealed is nobody's we know of.
    fn raise_after_abort(&mut self) {
        let Some(saga) = &self.saga else { return };
        let state = saga.state();
        if state.kind != SagaKind::Rejoin && saga.policy.failover.lease.is_some() && state.has_told_its_epoch() {
            let epoch = state.outbid().map_or(state.epoch, Epoch::next).max(state.epoch);
            self.state.epoch = self.state.epoch.max(epoch);
            self.state.primary_epoch = epoch;
        }
    }

    // ---- the lease --------------------------------------------------------------------------------------------

    /// See [`crate::engine::Engine::appointment`]. Nobody is appointed anew by what is not durable: a crash would take
    /// it back, and the appointment would stand.
    pub(in crate::engine) fn appointment(&self) -> Option<(MemberName, Epoch)> {
        self.appointable().and_then(|_| self.appointed.clone())
    }

    pub(super) fn appoint(&mut self) {
        let appointable = self.appointable();
        if appointable.is_none() || self.is_settled() {
            self.appointed = appointable;
        }
    }

    fn appointable(&self) -> Option<(MemberName, Epoch)> {
        let primary = self.state.primary.as_ref().filter(|p| !self.state.quarantined.contains_key(*p))?;
        let is_being_replaced =
            self.saga.as_ref().map(|saga| saga.state()).is_some_and(|state| {
                state.kind != SagaKind::Rejoin && state.promoted.is_none() && state.is_replacing()
            });
        (!is_being_replaced && self.conflict.is_none()).then(|| (primary.clone(), self.state.primary_epoch))
    }

    // ---- records ----------------------------------------------------------------------------------------------

    pub(super) fn log_records(&self, steps: &Steps) -> Vec<Record> {
        let Some(saga) = &self.saga else { return Vec::new() };
        steps
            .entries
            .iter()
            .map(|(number, entry)| Record::Log {
                incident: saga.incident.id.clone(),
                cluster: self.policy.name.clone(),
                number: *number,
                entry: entry.clone(),
            })
            .collect()
    }

    pub(super) fn incident_record(&self) -> Option<Record> {
        self.saga.as_ref().map(|saga| Record::Incident(Box::new(saga.incident.clone())))
    }

    pub(super) fn tell_incident(&mut self) {
        if let Some(saga) = &self.saga {
            let notice = Notice::IncidentUpdated(Box::new(saga.incident.clone()));
            self.emit(Effect::Tell(Box::new(notice)));
        }
    }
}

/// Where the fences of a quarantine stand in a policy, and those that it does not have. A fence is what its label says:
/// a file that was put in another order has it elsewhere.
pub(super) fn places(quarantine: &Quarantine, failover: &FailoverPolicy) -> (Vec<(usize, usize)>, Vec<String>) {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (index, place) in quarantine.fences.iter().enumerate() {
        let Some(label) = quarantine.labels.get(index) else {
            found.push(*place);
            continue;
        };
        let all = failover.fence.iter().enumerate();
        let all = all.flat_map(|(level, methods)| (0..methods.len()).map(move |method| (level, method)));
        let is_it = |at: &(usize, usize)| label_at(failover, *at) == *label && !found.contains(at);
        match std::iter::once(*place).chain(all).find(is_it) {
            Some(at) => found.push(at),
            None => missing.push(label.clone()),
        }
    }
    found.sort_unstable();
    (found, missing)
}

fn label_at(failover: &FailoverPolicy, (level, method): (usize, usize)) -> String {
    failover.fence.get(level).and_then(|l| l.get(method)).map(|m| m.label.clone()).unwrap_or_default()
}

/// The result of an act that was never handed out.
fn not_begun(action: &Action) -> StepResult {
    let why = "it was not begun";
    match action {
        Action::Fence { .. } | Action::MakeReadOnly => StepResult::Fenced(FenceReport::refuted(why)),
        _ => StepResult::Failed(ActError::nothing_done("begin", why)),
    }
}

pub(super) fn merge(mut first: Steps, more: Steps) -> Steps {
    first.entries.extend(more.entries);
    first.runs.extend(more.runs);
    first
}
