//! One cluster: what is known, what is believed, and what is under way.

mod conduct;
mod fingerprint;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    candidate,
    judge::{Evidence, RuleState},
    own::Own,
    view::View,
};
use crate::{
    failover::{self, Opening, Saga},
    model::{
        ClusterPolicy, Effect, Epoch, Fact, FenceHealth, MemberName, Mode, Notice, Observation, Observer, Outcome,
        Policy, Record, Role, RuleName, StepResult, Time, Truth, Verdict,
        explain::{CandidateView, Guard, RuleExplanation},
        incident::Trigger,
        record::{ClusterState, LogEntry, OpenIncident, Overrides, Quarantine, SagaKind},
        rule::Reaction,
    },
};

/// Looked at again at least this often, so that what only time changes (freshness, pauses, cooldowns) is seen.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A store that did not take a record is asked again after this.
const PERSIST_AGAIN: Duration = Duration::from_secs(1);

/// One cluster.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    pub(super) policy: Arc<ClusterPolicy>,
    pub(super) state: ClusterState,
    pub(super) view: View,
    pub(super) rules: Vec<RuleState>,
    pub(super) verdict: Verdict,
    pub(super) verdict_since: Time,
    pub(super) deciding_rule: Option<RuleName>,
    pub(super) fence_health: BTreeMap<(MemberName, usize, usize), (Time, FenceHealth)>,
    pub(super) saga: Option<Saga>,
    /// The largest epoch that this arbiter saw in the store. Larger than the store's: that was set back (A21).
    pub(super) set_back: Epoch,
    /// Another arbiter wrote what this one did not know of.
    pub(super) conflict: Option<String>,
    pub(super) is_dirty: bool,
    /// When it has to be looked at again.
    pub(super) wake: Time,
    /// Effects that wait for a persist, or for their turn.
    queue: VecDeque<Effect>,
    /// The persist that must be answered before the queue moves on.
    waiting: Option<u64>,
    pending: BTreeMap<u64, Pending>,
    /// A record that the store did not take is handed out again then.
    persist_again: Option<(Time, u64)>,
    /// New streams were heard; remembered with the next record, or soon.
    heard_dirty_since: Option<Time>,
    /// The record of an opening was just answered: what it was for is looked at once more before anything is done.
    is_opened_now: bool,
    /// The incident that is given up now was begun by nothing but a record.
    takes_opening_back: bool,
    told_blocked: Option<(RuleName, Vec<Guard>)>,
    told_guards: BTreeMap<Guard, bool>,
    told_two_primaries: Vec<MemberName>,
    /// Members whose rejoin ended without success; a person has to ask for the next one.
    rejoin_given_up: Vec<MemberName>,
    /// When the primary changed. A quarantined member has to be seen after that to come back.
    primary_since: Time,
    /// Who is to hold the lease, and in which epoch, as far as that is durable.
    appointed: Option<(MemberName, Epoch)>,
    /// When the newest incident ended: what members said before that of their roles is not held against them.
    pub(super) settled_at: Time,
}

/// A record that was not answered yet.
#[derive(Clone, Debug)]
struct Pending {
    records: Vec<Record>,
    purpose: Purpose,
    /// What the cluster was before it.
    before: Box<ClusterState>,
}

/// What a persist was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// A saga begins: without the record it does not.
    Open,
    /// A saga moves on: the record must be taken, sooner or later.
    Saga,
    /// The state changes: without the record it does not, unless later records rest on it already.
    State,
}

impl Cluster {
    pub(super) fn new(policy: ClusterPolicy, state: Option<ClusterState>, now: Time) -> Self {
        let policy = Arc::new(policy);
        let state = state.unwrap_or_else(|| ClusterState { cluster: policy.name.clone(), ..ClusterState::default() });
        Self {
            view: View::new(&policy, &state.heard, now),
            rules: policy.rules.iter().map(|rule| RuleState::new(rule, now)).collect(),
            verdict: Verdict::Unknown,
            verdict_since: now,
            deciding_rule: None,
            fence_health: BTreeMap::new(),
            saga: None,
            set_back: Epoch::default(),
            conflict: None,
            is_dirty: true,
            wake: now,
            queue: VecDeque::new(),
            waiting: None,
            pending: BTreeMap::new(),
            persist_again: None,
            heard_dirty_since: None,
            is_opened_now: false,
            takes_opening_back: false,
            told_blocked: None,
            told_guards: BTreeMap::new(),
            told_two_primaries: Vec::new(),
            rejoin_given_up: Vec::new(),
            primary_since: now,
            appointed: None,
            settled_at: Time::ZERO,
            policy,
            state,
        }
    }

    // ---- what happened ----------------------------------------------------------------------------------------

    pub(super) fn observe(&mut self, now: Time, seen: Observation) {
        if let (Observer::Node(node), Outcome::Fact(Fact::Arrivals(report)), Some(saga)) =
            (&seen.observer, &seen.outcome, &mut self.saga)
        {
            saga.node_reported(now, node, report);
        }
        if self.view.take(&self.policy, seen) {
            self.heard_dirty_since.get_or_insert(now);
        }
        self.is_dirty = true;
    }

    /// Nothing that was seen before counts any more.
    pub(super) fn forget_suspicion(&mut self, now: Time) {
        self.view.forget_suspicion(now);
        for rule in &mut self.rules {
            rule.reset();
        }
        self.is_dirty = true;
    }

    pub(super) fn replace_policy(&mut self, policy: ClusterPolicy, now: Time) {
        if *self.policy == policy {
            return;
        }
        let keep = |rule: &crate::model::Rule| self.policy.rules.iter().position(|r| r == rule);
        let rules = policy
            .rules
            .iter()
            .map(|r| keep(r).map_or_else(|| RuleState::new(r, now), |i| self.rules[i].clone()))
            .collect();
        self.rules = rules;
        // Places of fence methods may have changed their meaning.
        self.fence_health.clear();
        self.view.adopt(&policy);
        self.policy = Arc::new(policy);
        self.is_dirty = true;
    }

    pub(super) fn take_up(&mut self, now: Time, open: &OpenIncident, own: &mut Own) {
        let Some((saga, runs)) = Saga::recover(now, open) else {
            // What it had begun is not known, a fence or a promotion perhaps: whatever is done now may be the second half
            // of a split.
            let id = &open.incident.id;
            self.conflict = Some(format!(
                "incident {id} is open, and its log was written by no saga: nothing can be said of what it did. Restore the \
                 store from a backup, or begin with an empty one and say who is primary: `coroner adopt`"
            ));
            self.is_dirty = true;
            return;
        };
        let incident = saga.incident.clone();
        self.saga = Some(saga);
        let before = self.state.clone();
        self.persist(own, vec![Record::Incident(Box::new(incident.clone()))], Purpose::Saga, before);
        self.emit(Effect::Tell(Box::new(Notice::IncidentUpdated(Box::new(incident)))));
        for run in runs {
            self.emit(Effect::Run(Box::new(run)));
        }
        self.is_dirty = true;
    }

    /// Nothing more is done, and what is not durable is forgotten: whoever leads goes on from the store.
    pub(super) fn stand_by(&mut self, now: Time, reason: &str) {
        self.take_back(reason);
        self.pending.clear();
        self.waiting = None;
        self.persist_again = None;
        self.conflict = None;
        self.appointed = None;
        if self.saga.take().is_some() {
            self.settled_at = now;
        }
        self.is_dirty = true;
    }

    /// The cluster is as the store has it. What is seen of it stays.
    pub(super) fn follow(&mut self, now: Time, state: Option<ClusterState>, seen: Epoch) {
        let name = &self.policy.name;
        let state = state.unwrap_or_else(|| ClusterState { cluster: name.clone(), ..ClusterState::default() });
        self.set_back = self.set_back.max(seen);
        self.view.heard_before(&self.policy, &state.heard);
        let before = std::mem::replace(&mut self.state, state);
        if (&before.primary, before.primary_epoch) != (&self.state.primary, self.state.primary_epoch) {
            self.primary_changed(now);
            self.settled_at = now;
            let (primary, epoch) = (self.state.primary.clone(), self.state.primary_epoch);
            let notice = Notice::PrimaryChanged { cluster: self.policy.name.clone(), primary, epoch };
            self.emit(Effect::Tell(Box::new(notice)));
        }
        if before.quarantined != self.state.quarantined {
            self.rejoin_given_up.retain(|member| self.state.quarantined.contains_key(member));
        }
        self.is_dirty = true;
    }

    pub(super) fn step_ended(
        &mut self,
        now: Time,
        incident: &crate::model::IncidentId,
        act: u32,
        result: StepResult,
        own: &mut Own,
    ) {
        let Some(saga) = self.saga.as_mut().filter(|s| s.incident.id == *incident) else { return };
        let steps = saga.ended(now, act, result);
        let more = self.advance(now, own);
        self.carry_out(now, conduct::merge(steps, more), own);
        self.is_dirty = true;
    }

    pub(super) fn persisted(&mut self, id: u64) -> bool {
        let pending = self.pending.remove(&id);
        let was_waited_for = self.waiting == Some(id);
        if was_waited_for {
            self.is_opened_now = pending.is_some_and(|pending| pending.purpose == Purpose::Open);
            self.waiting = None;
            self.is_dirty = true;
        }
        was_waited_for
    }

    pub(super) fn persist_failed(&mut self, now: Time, id: u64, is_conflict: bool, reason: &str) {
        if self.waiting != Some(id) {
            return;
        }
        let Some(pending) = self.pending.get(&id).cloned() else { return };
        self.is_dirty = true;
        // What was heard was not kept either.
        self.heard_dirty_since.get_or_insert(now);
        let others_rest_on_it = self.queue.iter().any(|e| matches!(e, Effect::Persist { .. }));
        let must_be_taken = match pending.purpose {
            Purpose::Saga => true,
            Purpose::State => others_rest_on_it,
            // The records behind an opening rest on it too, but nothing was done yet: all of them are taken back.
            Purpose::Open => false,
        };
        if must_be_taken && !is_conflict {
            self.persist_again = Some((now + PERSIST_AGAIN, id));
            return;
        }
        if is_conflict {
            self.conflict = Some(format!("another arbiter has acted ({reason}); restart this one to read what it did"));
        }
        if is_conflict || pending.purpose == Purpose::Open {
            self.saga = None;
        }
        self.state = *pending.before;
        self.pending.remove(&id);
        self.waiting = None;
        self.take_back(reason);
    }

    /// Nothing that was to follow a record that was not written may come out: no act, no record, no news of what is
    /// not so. Whoever asked for it is told that it was not done.
    fn take_back(&mut self, reason: &str) {
        for effect in std::mem::take(&mut self.queue) {
            match effect {
                Effect::Persist { id, .. } => {
                    self.pending.remove(&id);
                }
                Effect::Reply { to, result: Ok(_) } => {
                    let text = format!("the store did not take it, so nothing was done: {reason}");
                    let error = crate::model::CommandError::new(crate::model::command::CommandErrorCode::Store, text);
                    self.queue.push_back(Effect::Reply { to, result: Err(error) });
                }
                Effect::Tell(notice)
                    if matches!(*notice, Notice::IncidentUpdated(_) | Notice::PrimaryChanged { .. }) => {}
                Effect::Run(_) => {}
                effect => self.queue.push_back(effect),
            }
        }
    }

    /// Whether every record was answered. Nothing new is begun before, so that what a record that fails takes back
    /// is never what something new rests on.
    pub(super) fn is_settled(&self) -> bool {
        self.waiting.is_none() && !self.queue.iter().any(|e| matches!(e, Effect::Persist { .. }))
    }

    // ---- what is believed -------------------------------------------------------------------------------------

    /// Judges all rules, tells what changed, and says when to look again.
    pub(super) fn judge(&mut self, now: Time, own: &mut Own) {
        self.is_dirty = false;
        self.wake = now + LOOK_AGAIN;
        self.adopt_primary(now, own);
        let policy = Arc::clone(&self.policy);
        let mut verdict = if policy.rules.is_empty() { Verdict::Unknown } else { Verdict::Alive };
        let mut deciding = None;
        let mut any_known = false;
        let evidence = Evidence::new(now, &policy, &self.view, self.state.primary.as_ref());
        let judged: Vec<_> = policy
            .rules
            .iter()
            .zip(&mut self.rules)
            .map(|(rule, state)| {
                let (before, since) = (state.truth, state.since);
                let changes_at = state.judge(rule, &evidence);
                (before, since, state.truth, changes_at)
            })
            .collect();
        for (index, (rule, (before, since, truth, changes_at))) in policy.rules.iter().zip(judged).enumerate() {
            if let Some(at) = changes_at {
                self.wake = self.wake.min(at.max(now));
            }
            any_known |= truth != Truth::Unknown;
            if truth.is_true() && !self.is_shadow(rule) && rule.verdict > verdict {
                verdict = rule.verdict;
                deciding = Some(rule.name.clone());
            }
            if before != truth && (truth.is_true() || before.is_true()) {
                let notice = if truth.is_true() {
                    let explanation = Box::new(self.explain(index, now));
                    Notice::RuleFired { cluster: policy.name.clone(), explanation }
                } else {
                    let after = now.since(since);
                    Notice::RuleCleared { cluster: policy.name.clone(), rule: rule.name.clone(), after }
                };
                self.emit(Effect::Tell(Box::new(notice)));
            }
        }
        if (!any_known && verdict == Verdict::Alive) || self.state.primary.is_none() {
            verdict = Verdict::Unknown;
        }
        if verdict != self.verdict {
            let notice = Notice::VerdictChanged {
                cluster: policy.name.clone(),
                member: self.state.primary.clone(),
                from: self.verdict,
                to: verdict,
                rule: deciding.clone(),
            };
            self.verdict = verdict;
            self.verdict_since = now;
            self.emit(Effect::Tell(Box::new(notice)));
        }
        self.deciding_rule = deciding;
        self.tell_two_primaries(now);
        if self.wanted().is_some() && self.saga.is_none() {
            own.note_want(now, &policy.name);
        }
    }

    fn is_shadow(&self, rule: &crate::model::Rule) -> bool {
        rule.mode == Some(Mode::Shadow) && self.policy.mode != Mode::Shadow
    }

    /// Whether the rule never acts: by its own mode, or the cluster's.
    pub(super) fn only_watches(&self, rule: &crate::model::Rule) -> bool {
        self.is_shadow(rule) || self.policy.mode == Mode::Shadow
    }

    pub(super) fn holding_rule(&self) -> Option<&RuleName> {
        self.true_rules().find(|rule| rule.then == Reaction::Hold).map(|rule| &rule.name)
    }

    pub(super) fn true_rules(&self) -> impl Iterator<Item = &crate::model::Rule> {
        let pairs = self.policy.rules.iter().zip(&self.rules);
        pairs.filter(|(rule, state)| state.truth.is_true() && !self.is_shadow(rule)).map(|(rule, _)| rule)
    }

    /// The rule that wants to act: a failover before a switchover, then the order of the file.
    fn wanted(&self) -> Option<usize> {
        let acts = |then: Reaction| {
            self.policy
                .rules
                .iter()
                .zip(&self.rules)
                .position(move |(rule, state)| rule.then == then && state.truth.is_true() && !self.is_shadow(rule))
        };
        acts(Reaction::Failover).or_else(|| acts(Reaction::Switchover))
    }

    pub(super) fn explain(&self, index: usize, now: Time) -> RuleExplanation {
        let (rule, state) = (&self.policy.rules[index], &self.rules[index]);
        let evidence = Evidence::new(now, &self.policy, &self.view, self.state.primary.as_ref());
        RuleExplanation {
            rule: rule.name.clone(),
            verdict: rule.verdict,
            then: rule.then,
            shadow: self.only_watches(rule),
            truth: state.truth,
            since: now.since(state.since),
            tree: state.explain(rule, &evidence),
        }
    }

    fn tell_two_primaries(&mut self, now: Time) {
        let mut claims = self.view.claims_of_primary(&self.policy, now, self.settled_at);
        // A member behind a closed gate may say what it likes.
        claims.retain(|m| !self.state.quarantined.get(m).is_some_and(|q| self.has_gate(q)));
        let members = if claims.len() > 1 { claims } else { Vec::new() };
        if members != self.told_two_primaries {
            let now_two = !members.is_empty();
            let told = if now_two { members.clone() } else { self.told_two_primaries.clone() };
            self.told_two_primaries = members;
            let notice = Notice::TwoPrimaries { cluster: self.policy.name.clone(), members: told, now: now_two };
            self.emit(Effect::Tell(Box::new(notice)));
        }
    }

    fn has_gate(&self, quarantine: &Quarantine) -> bool {
        let (places, _) = conduct::places(quarantine, &self.policy.failover);
        places.iter().any(|(level, method)| {
            let spec = self.policy.failover.fence.get(*level).and_then(|l| l.get(*method));
            spec.is_some_and(|m| m.best_proof == crate::model::Proof::Gate)
        })
    }

    pub(super) fn longest_fresh(&self) -> Duration {
        self.policy.signals.values().map(|s| s.fresh_for).max().unwrap_or(LOOK_AGAIN)
    }

    pub(super) fn candidates(&self, now: Time) -> Vec<CandidateView> {
        candidate::candidates(&self.policy, &self.state, &self.view, now)
    }

    // ---- who is primary ---------------------------------------------------------------------------------------

    /// Learns who is primary, once, when nothing is stored: one member claims it and a standby follows, or the file
    /// says so and nothing speaks against it. Never below an epoch that a member has stored.
    fn adopt_primary(&mut self, now: Time, own: &mut Own) {
        if self.state.primary.is_some() || self.saga.is_some() || !self.is_settled() {
            return;
        }
        // A store that just refused is not asked again before it is well.
        if own.store_lost.is_some() || self.conflict.is_some() || own.not_leading.is_some() {
            return;
        }
        // A store that was emptied is no new one: a person says who is primary.
        if self.set_back > self.state.epoch {
            return;
        }
        let Some(primary) = self.evident_primary(now) else { return };
        let epoch = Epoch(self.view.largest_stored_epoch(&self.policy).0.max(self.state.epoch.0).max(1));
        self.make_primary(now, &primary, epoch, own);
    }

    fn evident_primary(&self, now: Time) -> Option<MemberName> {
        let initial = self.policy.initial_primary.as_ref();
        if !self.policy.has_broker {
            return initial.cloned();
        }
        let claims = self.view.claims_of_primary(&self.policy, now, self.settled_at);
        let [only] = claims.as_slice() else { return None };
        let fresh = self.policy.failover.candidate_fresh_for.max(Duration::from_secs(1));
        let has_follower =
            self.policy.members.iter().any(|m| {
                self.view.role(&self.policy, &m.name, now, fresh).is_some_and(|(_, r)| r.role == Role::Standby)
            });
        (initial == Some(only) || (initial.is_none() && has_follower)).then(|| only.clone())
    }

    /// Changes who is primary outside a saga.
    pub(super) fn make_primary(&mut self, now: Time, primary: &MemberName, epoch: Epoch, own: &mut Own) {
        let before = self.state.clone();
        self.state.epoch = epoch;
        self.state.primary = Some(primary.clone());
        self.state.primary_epoch = epoch;
        self.state.quarantined.remove(primary);
        self.primary_changed(now);
        self.persist_state(before, own);
        let notice =
            Notice::PrimaryChanged { cluster: self.policy.name.clone(), primary: Some(primary.clone()), epoch };
        self.emit(Effect::Tell(Box::new(notice)));
    }

    fn primary_changed(&mut self, now: Time) {
        self.primary_since = now;
        self.forget_suspicion(now);
    }

    // ---- what is done -----------------------------------------------------------------------------------------

    /// Acts on what is believed: moves the saga on, opens one, or says what stands against it.
    pub(super) fn act(&mut self, now: Time, own: &mut Own) {
        if let Some((at, id)) = self.persist_again {
            if now >= at {
                self.persist_again = None;
                if let Some(pending) = self.pending.get(&id) {
                    let records = pending.records.clone();
                    self.queue.push_front(Effect::Persist { id, records });
                    self.waiting = None;
                }
            } else {
                self.wake = self.wake.min(at);
            }
        }
        if std::mem::take(&mut self.is_opened_now) {
            self.reconsider(now, own);
        }
        if self.saga.is_some() {
            let steps = self.advance(now, own);
            self.carry_out(now, steps, own);
        }
        let candidates = self.candidates(now);
        self.tell_guards(now, own, &candidates);
        match self.wanted() {
            Some(index) => self.want(now, index, &candidates, own),
            None => {
                self.tell_unblocked();
                self.maybe_rejoin(now, own);
            }
        }
        if let Some(since) = self.heard_dirty_since
            && now.since(since) >= Duration::from_secs(1)
            && self.is_settled()
            && own.store_lost.is_none()
            && own.not_leading.is_none()
            && self.conflict.is_none()
        {
            self.persist_state(self.state.clone(), own);
        }
        if let Some(at) = self.saga.as_ref().and_then(Saga::poll_timeout) {
            self.wake = self.wake.min(at.max(now));
        }
        self.appoint();
    }

    fn want(&mut self, now: Time, index: usize, candidates: &[CandidateView], own: &mut Own) {
        let policy = Arc::clone(&self.policy);
        let rule = &policy.rules[index];
        let mode = rule.mode.map_or(policy.mode, |own| own.min(policy.mode));
        // Whom nobody hears cannot be asked to step down.
        let unheard = self.state.primary.as_ref().filter(|p| self.view.hears(&policy, p, now) == Some(false));
        let remark = unheard
            .filter(|_| rule.then == Reaction::Switchover)
            .map(|p| format!("the rule asks for a switchover, and {p} is not heard by any path: a failover"));
        let kind = match rule.then {
            Reaction::Switchover if remark.is_none() => SagaKind::Switchover,
            _ => SagaKind::Failover,
        };
        // A rejoin makes way for a failover; so does a switchover that is held while it is given up, for its primary
        // died under it. The failover fences that primary first, whatever became of it.
        let makes_way = self.saga.as_ref().is_some_and(|s| match s.incident.kind {
            SagaKind::Rejoin => true,
            SagaKind::Switchover => {
                kind == SagaKind::Failover && s.state().held.is_some() && !s.state().may_have_promoted()
            }
            SagaKind::Failover => false,
        });
        let blocking: Vec<(Guard, String)> = Guard::ALL
            .into_iter()
            .filter(|guard| !(*guard == Guard::NoFence && kind == SagaKind::Switchover))
            .filter(|guard| !(*guard == Guard::Busy && makes_way))
            .filter_map(|guard| Some((guard, self.blocks(guard, now, own, mode, candidates)?)))
            .collect();
        if blocking.is_empty() {
            if makes_way {
                // The primary died while the old one came back: the failover goes first.
                let reason = "the primary needs a failover, which goes first".to_owned();
                let member = self.saga.as_ref().map(|s| s.incident.old_primary.clone());
                let steps = self.decide(now, LogEntry::AbortRequested { reason }, own);
                self.carry_out(now, steps, own);
                // It only made way: nobody gave it up.
                self.rejoin_given_up.retain(|m| Some(m) != member.as_ref());
                self.is_dirty = true;
                return;
            }
            if !self.is_settled() {
                // Looked at again as soon as the record before is answered.
                return;
            }
            if let Ok(candidate) = candidate::choose(candidates, None) {
                let trigger = Trigger::Rule(Box::new(self.explain(index, now)));
                let guards = self.guards(now, own, mode, candidates);
                self.open(now, kind, trigger, remark, candidate, guards, Overrides::default(), own);
            }
            return;
        }
        // What blocks may end by time alone.
        self.wake = self.wake.min(now + Duration::from_millis(100));
        let names: Vec<Guard> = blocking.iter().map(|(guard, _)| *guard).collect();
        let told = (rule.name.clone(), names);
        // What a watching arbiter would do is the leader's to tell.
        if self.told_blocked.as_ref() != Some(&told) && self.saga.is_none() && own.not_leading.is_none() {
            self.told_blocked = Some(told);
            let notice = Notice::ActBlocked { cluster: policy.name.clone(), rule: rule.name.clone(), guards: blocking };
            self.emit(Effect::Tell(Box::new(notice)));
        }
    }

    /// Opens a saga: takes the next epoch and writes it down with the opening, before anything is done.
    #[expect(clippy::too_many_arguments, reason = "each is one fact of the opening; a struct would only rename them")]
    pub(super) fn open(
        &mut self,
        now: Time,
        kind: SagaKind,
        trigger: Trigger,
        remark: Option<String>,
        candidate: MemberName,
        guards: Vec<crate::model::explain::GuardState>,
        overrides: Overrides,
        own: &mut Own,
    ) {
        let Some(old_primary) = self.state.primary.clone() else { return };
        let before = self.state.clone();
        // Never below what a member has stored: the store may have been restored from a backup, or begun anew.
        let epoch = self.state.epoch.max(self.view.largest_stored_epoch(&self.policy)).max(self.set_back).next();
        self.state.epoch = epoch;
        let id = own.incident_id(now);
        // A switchover that a rule asked for counts too, or two slow members would take turns for ever (H18).
        if kind == SagaKind::Failover || matches!(trigger, Trigger::Rule(_)) {
            self.state.failovers_unix_ms.push(own.write_down(now));
            let extra = self.state.failovers_unix_ms.len().saturating_sub(64);
            self.state.failovers_unix_ms.drain(..extra);
            self.state.cooldown_over = false;
            self.state.newest_failover = Some(id.clone());
        }
        let opening = Opening {
            id,
            arbiter: own.arbiter.name.clone(),
            anchor: own.anchor,
            kind,
            trigger,
            mode: self.policy.mode,
            policy_hash: own.policy_hash.clone(),
            epoch_before: before.primary_epoch,
            epoch,
            last_position: self.view.position(&old_primary),
            last_good: self.last_arrival(),
            candidates: self.candidates(now),
            old_primary,
            candidate,
            guards,
            overrides,
            remark,
        };
        self.begin(now, opening, before, own);
    }

    fn begin(&mut self, now: Time, opening: Opening, before: ClusterState, own: &mut Own) {
        let (saga, (number, entry)) = Saga::open(now, Arc::clone(&self.policy), opening);
        let incident = saga.incident.id.clone();
        self.saga = Some(saga);
        self.tell_unblocked();
        // The opening and the first steps' intents are one record: one sync before the first act.
        let steps = self.advance(now, own);
        let frozen = Policy {
            hash: own.policy_hash.clone(),
            arbiter: own.arbiter.clone(),
            ..failover::frozen(&Policy::default(), &self.policy)
        };
        // The incident comes first: what belongs to it needs it.
        let mut records: Vec<Record> = self.incident_record().into_iter().collect();
        records.extend([
            Record::Cluster { expected: before.epoch, state: self.state.clone() },
            Record::IncidentPolicy { incident: incident.clone(), policy: Box::new(frozen) },
            Record::Log { incident, cluster: self.policy.name.clone(), number, entry },
        ]);
        records.extend(self.log_records(&steps));
        self.persist(own, records, Purpose::Open, before);
        for run in steps.runs {
            self.emit(Effect::Run(Box::new(run)));
        }
        self.tell_incident();
    }

    // ---- guards told ------------------------------------------------------------------------------------------

    fn tell_unblocked(&mut self) {
        if let Some((rule, _)) = self.told_blocked.take() {
            let notice = Notice::ActBlocked { cluster: self.policy.name.clone(), rule, guards: Vec::new() };
            self.emit(Effect::Tell(Box::new(notice)));
        }
    }

    fn tell_guards(&mut self, now: Time, own: &Own, candidates: &[CandidateView]) {
        for guard in Guard::ALL {
            // Whether something is under way, or waits for approval, is told by the incident.
            // So is who leads, once for all clusters.
            if matches!(guard, Guard::Busy | Guard::Approval | Guard::NotLeading) {
                continue;
            }
            let reason = self.blocks(guard, now, own, Mode::Auto, candidates);
            let blocks = reason.is_some();
            if self.told_guards.insert(guard, blocks).unwrap_or(false) != blocks {
                let reason = reason.unwrap_or_else(|| "no longer".into());
                let notice = Notice::GuardChanged { cluster: self.policy.name.clone(), guard, blocks, reason };
                self.emit(Effect::Tell(Box::new(notice)));
            }
        }
    }

    // ---- effects in their order -------------------------------------------------------------------------------

    /// The same with the open incident, if there is one: for what a person notes in it.
    pub(super) fn persist_state_and_incident(&mut self, before: ClusterState, own: &mut Own) {
        let mut records: Vec<Record> = self.incident_record().into_iter().collect();
        records.push(Record::Cluster { expected: before.epoch, state: self.state.clone() });
        self.persist(own, records, Purpose::State, before);
        self.tell_incident();
    }

    pub(super) fn persist_state(&mut self, before: ClusterState, own: &mut Own) {
        let record = Record::Cluster { expected: before.epoch, state: self.state.clone() };
        self.persist(own, vec![record], Purpose::State, before);
    }

    fn persist(&mut self, own: &mut Own, mut records: Vec<Record>, purpose: Purpose, before: ClusterState) {
        if let Some(since) = self.heard_dirty_since.take() {
            let heard = self
                .view
                .all()
                .filter(|(_, stream)| stream.is_known())
                .map(|(signal, stream)| (signal.clone(), stream.observer.clone(), stream.subject.clone()));
            self.state.heard = heard.collect();
            match records.iter_mut().find_map(|r| match r {
                Record::Cluster { state, .. } => Some(state),
                _ => None,
            }) {
                Some(state) => state.heard.clone_from(&self.state.heard),
                None => self.heard_dirty_since = Some(since),
            }
        }
        let id = own.next_persist();
        self.pending.insert(id, Pending { records: records.clone(), purpose, before: Box::new(before) });
        self.emit(Effect::Persist { id, records });
    }

    pub(super) fn emit(&mut self, effect: Effect) {
        self.queue.push_back(effect);
    }

    /// Releases effects up to and including the next persist; nothing behind it comes out before its answer.
    pub(super) fn release(&mut self, now: Time, out: &mut VecDeque<Effect>) {
        while self.waiting.is_none() {
            let Some(effect) = self.queue.pop_front() else { break };
            match &effect {
                Effect::Persist { id, .. } => self.waiting = Some(*id),
                Effect::Run(run) => {
                    let saga = self.saga.as_mut().filter(|s| s.incident.id == run.token.incident);
                    if let Some(lost) = saga.and_then(|s| s.handed_out(now, run.token.number)) {
                        self.wake = self.wake.min(lost);
                    }
                }
                Effect::Tell(_) | Effect::Reply { .. } => {}
            }
            out.push_back(effect);
        }
    }

    pub(super) fn quarantined(&self) -> Vec<MemberName> {
        self.state.quarantined.keys().cloned().collect()
    }

    pub(super) fn last_arrival(&self) -> Option<Time> {
        self.policy
            .nodes
            .iter()
            .filter_map(|node| self.view.arrivals(node))
            .filter_map(|(at, report)| report.last_age.map(|age| at.before(age)))
            .max()
    }
}
