//! A saga under way: results in, log entries and acts out, and the incident's story on the side.

use std::{collections::BTreeMap, hash::Hasher, sync::Arc, time::Duration};

use super::{
    Print,
    plan::{Next, Start, World, deadline_of},
    state::SagaState,
};
use crate::model::{
    Action, ClusterPolicy, Epoch, Incident, IncidentId, MemberName, Mode, NodeName, Order, Policy, Proof, StepResult,
    StepToken, Target, Time, WallAnchor,
    edge::{ActError, FenceReport, WriteAttempt, WriteOutcome},
    effect::Run,
    explain::{CandidateView, GuardState},
    incident::{IncidentState, LossEstimate, Outage, RejoinRecord, StepRecord, Trigger},
    observation::Arrivals,
    record::{LogEntry, OpenIncident, Overrides, SagaKind},
    time::human,
};

/// An executor that has not answered this long after its act's deadline never will.
const GRACE: Duration = Duration::from_secs(2);

/// A saga under way.
#[derive(Clone, Debug)]
pub struct Saga {
    /// The record.
    pub incident: Incident,
    /// The policy of its cluster when it began.
    pub policy: Arc<ClusterPolicy>,
    state: SagaState,
    /// Entries in the log.
    log_len: u32,
    /// Acts under way.
    running: BTreeMap<u32, Running>,
    /// Acts that failed before are not started again before this.
    delays: Vec<(Action, MemberName, Time)>,
    /// When the time for following is over; set at the promotion.
    follow_until: Option<Time>,
    /// When `advance` looked last: what was due by then needs no waking.
    looked: Time,
}

/// An act under way.
#[derive(Clone, Copy, Debug)]
struct Running {
    /// When it was handed out; until then, when it was decided.
    since: Time,
    deadline: Duration,
    /// When its executor is given up. `None`: it waits for its record, and its time does not run yet.
    lost: Option<Time>,
}

/// What opens a saga.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The incident's name.
    pub id: IncidentId,
    /// The arbiter's name.
    pub arbiter: String,
    /// Translates moments to wall time.
    pub anchor: WallAnchor,
    /// What for.
    pub kind: SagaKind,
    /// Why.
    pub trigger: Trigger,
    /// The mode.
    pub mode: Mode,
    /// Hash of the policy.
    pub policy_hash: String,
    /// The epoch before.
    pub epoch_before: Epoch,
    /// The epoch that the saga owns.
    pub epoch: Epoch,
    /// The primary to be replaced, or the member that comes back.
    pub old_primary: MemberName,
    /// Who replaces it, or the primary.
    pub candidate: MemberName,
    /// All standbys, judged.
    pub candidates: Vec<CandidateView>,
    /// The guards as they stood.
    pub guards: Vec<GuardState>,
    /// A person's exceptions.
    pub overrides: Overrides,
    /// Why it is another thing than what was asked for, if it is.
    pub remark: Option<String>,
    /// The primary's last known position, and when it was told.
    pub last_position: Option<(Time, u64)>,
    /// The newest arrival at any node.
    pub last_good: Option<Time>,
}

/// What came of one advance: to be made durable first, then to be carried out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Steps {
    /// Log entries with their numbers.
    pub entries: Vec<(u32, LogEntry)>,
    /// Acts to carry out once the entries are durable.
    pub runs: Vec<Run>,
}

impl Saga {
    /// Opens a saga. The entry has to be durable, with the epoch, before anything else.
    #[must_use]
    pub fn open(now: Time, policy: Arc<ClusterPolicy>, opening: Opening) -> (Self, (u32, LogEntry)) {
        let entry = LogEntry::Opened {
            kind: opening.kind,
            epoch: opening.epoch,
            old_primary: opening.old_primary.clone(),
            candidate: opening.candidate.clone(),
            overrides: opening.overrides.clone(),
            last_position: opening.last_position.map(|(_, position)| position),
        };
        let mut bypassed: Vec<String> =
            opening.overrides.skipped_guards.iter().map(|guard| format!("the guard {guard} was passed")).collect();
        if opening.overrides.accept_loss {
            bypassed.push("any loss was accepted".into());
        }
        if opening.kind == SagaKind::Failover {
            bypassed.extend(lowered(&policy));
        }
        let state = match opening.kind {
            SagaKind::Rejoin => IncidentState::Rejoining,
            SagaKind::Failover | SagaKind::Switchover => IncidentState::Fencing,
        };
        let mut incident = Incident {
            id: opening.id,
            cluster: policy.name.clone(),
            arbiter: opening.arbiter,
            kind: opening.kind,
            state,
            state_reason: None,
            opened: now,
            anchor: opening.anchor,
            closed: None,
            mode: opening.mode,
            policy_hash: opening.policy_hash,
            trigger: opening.trigger,
            epoch_before: opening.epoch_before,
            epoch: opening.epoch,
            old_primary: opening.old_primary,
            candidate: opening.candidate,
            candidates: opening.candidates,
            guards: opening.guards,
            bypassed,
            steps: Vec::new(),
            proof: Proof::Nothing,
            loss: opening.last_position.map(|(at, position)| LossEstimate {
                primary_position: Some(position),
                candidate_position: None,
                behind: None,
                blind: Some(now.since(at)),
                detail: String::new(),
            }),
            timeline: Vec::new(),
            outage: Outage { last_good: opening.last_good, ..Outage::default() },
            rejoin: None,
            acknowledged: None,
            untold: false,
        };
        let what = match incident.kind {
            SagaKind::Failover => format!("failover from {} to {}", incident.old_primary, incident.candidate),
            SagaKind::Switchover => format!("switchover from {} to {}", incident.old_primary, incident.candidate),
            SagaKind::Rejoin => format!("{} comes back as a standby of {}", incident.old_primary, incident.candidate),
        };
        let why = match &incident.trigger {
            Trigger::Rule(rule) => format!("because of the rule “{}”", rule.rule),
            Trigger::Operator { by, reason } => format!("asked for by {by}: {reason}"),
            Trigger::SeenAgain => "because it was seen again".into(),
        };
        incident.tell(now, format!("{what}, epoch {}, {why}", incident.epoch));
        if let Some(remark) = opening.remark {
            incident.tell(now, remark);
        }
        if incident.kind == SagaKind::Rejoin {
            let member = incident.old_primary.clone();
            incident.rejoin =
                Some(RejoinRecord { member, seen: Some(now), done: None, divergent: None, detail: String::new() });
        }
        #[expect(clippy::expect_used, reason = "the entry was built as `Opened` a few lines above")]
        let state = SagaState::from_first(&entry).expect("an Opened entry opens");
        let saga = Self {
            incident,
            policy,
            state,
            log_len: 1,
            running: BTreeMap::new(),
            delays: Vec::new(),
            follow_until: None,
            looked: now,
        };
        (saga, (1, entry))
    }

    /// Takes up a saga where its log stands. Acts without an end are unknown: they are handed out again under the
    /// same numbers. `None` if the log does not begin as it must.
    #[must_use]
    pub fn recover(now: Time, open: &OpenIncident) -> Option<(Self, Vec<Run>)> {
        let policy = Arc::new(open.policy.clusters.get(&open.incident.cluster)?.clone());
        let state = SagaState::from_log(&open.log)?;
        let mut incident = open.incident.clone();
        incident.tell(now, "the arbiter started again and took the incident up from its log");
        let mut saga = Self {
            incident,
            policy,
            follow_until: None,
            log_len: u32::try_from(open.log.len()).unwrap_or(u32::MAX),
            running: BTreeMap::new(),
            delays: Vec::new(),
            looked: now,
            state,
        };
        if saga.state.promoted.is_some() {
            saga.follow_until = Some(now + saga.policy.failover.redirect_within);
        }
        let unknown: Vec<(u32, Action, MemberName)> = saga
            .state
            .acts
            .iter()
            .filter(|(_, act)| act.result.is_none())
            .map(|(number, act)| (*number, act.action.clone(), act.member.clone()))
            .collect();
        let runs =
            unknown.into_iter().filter_map(|(number, action, member)| saga.run(now, number, action, &member)).collect();
        Some((saga, runs))
    }

    /// Feeds all of it that decides what comes next.
    pub fn fingerprint<H: Hasher>(&self, print: &mut Print<'_, H>) {
        self.state.fingerprint(print);
        print.incident(&self.incident);
        print.plain((&self.policy.name, self.log_len));
        print.count(self.running.len());
        for (number, running) in &self.running {
            print.plain((number, running.deadline));
            print.perhaps(running.lost);
        }
        print.count(self.delays.len());
        for (action, member, until) in &self.delays {
            print.plain((action, member));
            print.moment(*until);
        }
        print.perhaps(self.follow_until);
    }

    /// What the log says.
    #[must_use]
    pub const fn state(&self) -> &SagaState {
        &self.state
    }

    /// Moves on as far as it goes now.
    pub fn advance(&mut self, now: Time, world: &World) -> Steps {
        let mut steps = Steps::default();
        self.looked = now;
        self.give_up_lost_executors(now, &mut steps);
        let world = World { follow_time_over: self.follow_until.is_some_and(|until| now >= until), ..world.clone() };
        // Every turn adds an entry or an act, or ends the loop; the bound only guards against a plan that errs.
        for _ in 0..64 {
            match self.state.next(&self.policy, &world) {
                Next::Wait => break,
                Next::Note(entry) => self.note(now, entry, &mut steps),
                Next::Run(starts) => {
                    let due: Vec<Start> = starts.into_iter().filter(|s| self.is_due(now, s)).collect();
                    if due.is_empty() {
                        break;
                    }
                    for start in due {
                        self.start(now, start, &mut steps);
                    }
                }
            }
        }
        self.refresh(now);
        steps
    }

    /// Takes the result of an act. A result that comes late, twice, or for nothing that runs is told and changes
    /// nothing (H5).
    pub fn ended(&mut self, now: Time, act: u32, result: StepResult) -> Steps {
        let mut steps = Steps::default();
        match self.running.remove(&act) {
            Some(running) => {
                let took = now.since(running.since);
                self.note(now, LogEntry::Ended { act, result, took }, &mut steps);
            }
            None => self.incident.tell(now, format!("a late answer of act {act} was ignored: {}", words(&result))),
        }
        steps
    }

    /// Writes down what a person, or the engine, decided.
    pub fn decide(&mut self, now: Time, entry: LogEntry) -> Steps {
        let mut steps = Steps::default();
        self.note(now, entry, &mut steps);
        steps
    }

    /// When `advance` has to be called though nothing is heard. What was due at the last advance is not waited for
    /// again: a delay of an act that is no longer wanted, or a time for following that is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let lost = self.running.values().filter_map(|running| running.lost);
        if self.state.is_over() || self.state.held.is_some() {
            return lost.min();
        }
        let delays = self.delays.iter().map(|(_, _, until)| *until);
        let all = lost.chain(delays).chain(self.follow_until.filter(|_| !self.state.followed));
        all.filter(|at| *at > self.looked).min()
    }

    /// An act was handed out: its time runs from now, however long its record took. Returns when it is given up.
    pub fn handed_out(&mut self, now: Time, act: u32) -> Option<Time> {
        let running = self.running.get_mut(&act)?;
        running.since = now;
        running.lost = Some(now + running.deadline + GRACE);
        running.lost
    }

    /// Takes note of what a node reports, for the outage and the timeline.
    pub fn node_reported(&mut self, now: Time, node: &NodeName, report: &Arrivals) {
        if self.incident.kind == SagaKind::Rejoin || !self.policy.nodes.contains(node) {
            return;
        }
        let arrival = report.last_age.map(|age| now.before(age));
        if self.is_followed_by(report) {
            if self.incident.outage.following.iter().all(|(n, _)| n != node) {
                self.incident.outage.following.push((node.clone(), now));
                let text = format!("{node} follows epoch {}", report.epoch);
                self.incident.tell(now, text);
            }
            let promoted = self.incident.steps.iter().find(|s| s.label.starts_with("promote")).map(|s| s.started);
            if let (Some(at), Some(promoted)) = (arrival, promoted)
                && at >= promoted
                && self.incident.outage.first_new.is_none_or(|first| at < first)
            {
                if self.incident.outage.first_new.is_none() {
                    self.incident.tell(at, format!("the first message under epoch {} reached {node}", report.epoch));
                }
                self.incident.outage.first_new = Some(at);
            }
        } else if let Some(at) = arrival
            && self.state.promoted.is_none()
            && self.incident.outage.last_good.is_none_or(|last| at > last)
        {
            self.incident.outage.last_good = Some(at);
        }
    }

    /// Whether the node that says this follows the saga's epoch, and not somebody else's primary in it.
    #[must_use]
    pub fn is_followed_by(&self, report: &Arrivals) -> bool {
        report.epoch >= self.incident.epoch
            && report.primary.as_ref().is_none_or(|primary| *primary == self.incident.candidate)
    }

    fn note(&mut self, now: Time, entry: LogEntry, steps: &mut Steps) {
        self.story(now, &entry);
        self.state.apply(&entry);
        match &entry {
            LogEntry::Promoted { .. } => self.follow_until = Some(now + self.policy.failover.redirect_within),
            LogEntry::Released { .. } => self.delays.clear(),
            LogEntry::EpochRaised { epoch } => self.incident.epoch = *epoch,
            LogEntry::BecameFailover { .. } => {
                self.delays.clear();
                self.incident.kind = SagaKind::Failover;
                self.incident.bypassed.extend(lowered(&self.policy));
            }
            _ => {}
        }
        self.log_len += 1;
        steps.entries.push((self.log_len, entry));
    }

    fn is_due(&mut self, now: Time, start: &Start) -> bool {
        if start.failed_before == 0 {
            return true;
        }
        let key = |d: &(Action, MemberName, Time)| d.0 == start.action && d.1 == start.member;
        if let Some(at) = self.delays.iter().position(key) {
            let is_due = now >= self.delays[at].2;
            if is_due {
                self.delays.swap_remove(at);
            }
            return is_due;
        }
        let factor = 1_u32 << start.failed_before.min(5);
        let delay = match start.action {
            Action::Rejoin { .. } | Action::Unfence { .. } => Duration::from_millis(500) * factor,
            _ => Duration::from_millis(100) * factor,
        };
        self.delays.push((start.action.clone(), start.member.clone(), now + delay));
        false
    }

    fn start(&mut self, now: Time, start: Start, steps: &mut Steps) {
        let number = self.state.next_act();
        let Start { action, member, .. } = start;
        self.note(now, LogEntry::Started { act: number, action: action.clone(), member: member.clone() }, steps);
        if let Some(run) = self.run(now, number, action, &member) {
            steps.runs.push(run);
        }
    }

    fn run(&mut self, now: Time, number: u32, action: Action, member: &MemberName) -> Option<Run> {
        let deadline = deadline_of(&action, &self.policy);
        let address = self.policy.member(member)?.address.clone();
        self.running.insert(number, Running { since: now, deadline, lost: None });
        let cluster = self.incident.cluster.clone();
        let token = StepToken { cluster: cluster.clone(), incident: self.incident.id.clone(), number };
        let target = Target { cluster, member: member.clone(), address };
        let order = Order { target, epoch: self.state.epoch, incident: self.incident.id.clone() };
        Some(Run { token, order, action, deadline })
    }

    /// An executor that never answers leaves its act unknown, as a crash would.
    fn give_up_lost_executors(&mut self, now: Time, steps: &mut Steps) {
        let lost: Vec<(u32, Time)> = self
            .running
            .iter()
            .filter(|(_, r)| r.lost.is_some_and(|at| now >= at))
            .map(|(n, r)| (*n, r.since))
            .collect();
        for (act, started) in lost {
            self.running.remove(&act);
            let why = "its executor gave no answer";
            let result = match self.state.acts.get(&act).map(|a| &a.action) {
                Some(Action::Fence { .. } | Action::MakeReadOnly | Action::AwaitLease) => {
                    StepResult::Fenced(FenceReport::unknown(why))
                }
                Some(Action::ForbiddenWrite { .. }) => StepResult::WriteTried(WriteAttempt {
                    on_new: WriteOutcome::NoAnswer,
                    on_open: None,
                    detail: why.into(),
                }),
                _ => StepResult::Failed(ActError::uncertain("act", why)),
            };
            self.note(now, LogEntry::Ended { act, result, took: now.since(started) }, steps);
        }
    }

    /// Brings the record up to the state.
    fn refresh(&mut self, now: Time) {
        let state = &self.state;
        self.incident.candidate = state.candidate.clone();
        self.incident.proof =
            if state.kind == SagaKind::Failover { state.proof(&self.policy.failover) } else { self.incident.proof };
        self.incident.state = if state.resolved {
            IncidentState::Resolved
        } else if state.aborted {
            IncidentState::Aborted
        } else if state.held.is_some() {
            IncidentState::Held
        } else if state.kind == SagaKind::Rejoin {
            IncidentState::Rejoining
        } else if state.promoted.is_some() {
            IncidentState::Redirecting
        } else if state.acts.values().any(|a| a.action == Action::Promote) {
            IncidentState::Promoting
        } else if state.acts.values().any(|a| matches!(a.action, Action::CatchUp { .. })) {
            IncidentState::CatchingUp
        } else {
            IncidentState::Fencing
        };
        if let Some(reason) = &state.held {
            self.incident.state_reason = Some(reason.clone());
        } else if !state.is_over() {
            self.incident.state_reason = None;
        }
        if state.is_over() && self.incident.closed.is_none() {
            self.incident.closed = Some(now);
        }
        if let Some(own) = state.caught_up_at() {
            let last = state.last_position;
            let blind = self.incident.loss.as_ref().and_then(|l| l.blind);
            let behind = last.map(|last| last.saturating_sub(own));
            let exact = state.kind == SagaKind::Switchover;
            let detail = match (exact, behind, blind) {
                (true, ..) => {
                    "none: the old primary refused writes before the standby reached its final position".into()
                }
                (_, Some(behind), Some(blind)) => format!(
                    "at least {behind}, by positions; what the old primary took in the {} after its last known position is \
                     not known and not in it",
                    human(blind)
                ),
                (_, Some(behind), None) => format!("at least {behind}, by positions"),
                (_, None, _) => "not known: the old primary never told its position".into(),
            };
            self.incident.loss =
                Some(LossEstimate { primary_position: last, candidate_position: Some(own), behind, blind, detail });
        }
    }

    /// Tells an entry in words, and keeps the steps.
    fn story(&mut self, now: Time, entry: &LogEntry) {
        let text = match entry {
            LogEntry::Opened { .. } => return,
            LogEntry::Started { act, action, member } => {
                let label = self.label(action, member);
                self.incident.steps.push(StepRecord {
                    act: *act,
                    label: label.clone(),
                    started: now,
                    took: None,
                    outcome: "running".into(),
                    detail: String::new(),
                });
                label
            }
            LogEntry::Ended { act, result, took } => {
                let outcome = outcome(result);
                if let Some(step) = self.incident.steps.iter_mut().find(|s| s.act == *act) {
                    step.took = Some(*took);
                    step.outcome = outcome.clone();
                    step.detail = words(result);
                }
                if let StepResult::WriteTried(attempt) = result
                    && attempt.is_accepted()
                {
                    self.incident.tell(
                        now,
                        format!("{} STILL TAKES WRITES: what the fences claimed is void", self.state.old_primary),
                    );
                }
                if let (Some(rejoin), StepResult::Done(done)) = (&mut self.incident.rejoin, result)
                    && matches!(self.state.acts.get(act).map(|a| &a.action), Some(Action::Rejoin { .. }))
                {
                    rejoin.done = Some(now);
                    rejoin.divergent = done.divergent;
                    rejoin.detail = done.detail.clone();
                }
                let label = self
                    .incident
                    .steps
                    .iter()
                    .find(|s| s.act == *act)
                    .map_or_else(|| format!("act {act}"), |s| s.label.clone());
                format!("{label}: {outcome} after {}: {}", human(*took), words(result))
            }
            LogEntry::FenceConfirmed { by, checked } => {
                self.incident.bypassed.push(format!("the fence was confirmed by {by}, who checked: {checked}"));
                format!("{by} confirmed that {} is stopped: {checked}", self.state.old_primary)
            }
            LogEntry::CandidateChanged { to, reason } => format!("{to} is the candidate now: {reason}"),
            LogEntry::AbortRequested { reason } => format!("it is to be given up: {reason}"),
            LogEntry::BecameFailover { reason } => format!("the switchover goes on as a failover: {reason}"),
            LogEntry::EpochRaised { epoch } => format!("it goes on in epoch {epoch}, larger than all that is sealed"),
            LogEntry::Held { reason } => format!("HELD, a person is needed: {reason}"),
            LogEntry::Released { reason, accept_loss } => {
                if *accept_loss {
                    self.incident.bypassed.push("any loss was accepted".into());
                }
                format!("goes on: {reason}")
            }
            LogEntry::Promoted { position } => {
                let at = position.map(|p| format!(" at position {p}")).unwrap_or_default();
                format!("{} is primary in epoch {}{at}", self.state.candidate, self.state.epoch)
            }
            LogEntry::Followed { nodes, laggards } => {
                self.incident.outage.laggards.clone_from(laggards);
                let names = |list: &[NodeName]| list.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
                match (nodes.is_empty(), laggards.is_empty()) {
                    (true, true) => "no node reports whom it follows".into(),
                    (_, true) => format!("all nodes follow: {}", names(nodes)),
                    (_, false) => format!("in time: {}; NOT in time: {}", names(nodes), names(laggards)),
                }
            }
            LogEntry::Aborted { reason } => {
                self.incident.state_reason = Some(reason.clone());
                match self.state.kind {
                    SagaKind::Rejoin => format!("given up: {reason}; {} stays quarantined", self.state.old_primary),
                    _ if self.policy.failover.lease.is_some() && self.state.has_told_its_epoch() => format!(
                        "given up: {reason}; {} stays primary, in a new epoch, since its former one may be refused",
                        self.state.old_primary
                    ),
                    _ => format!("given up: {reason}; {} stays primary", self.state.old_primary),
                }
            }
            LogEntry::Resolved => "done".into(),
        };
        self.incident.tell(now, text);
    }

    fn label(&self, action: &Action, member: &MemberName) -> String {
        let failover = &self.policy.failover;
        let fence = |level: &usize, method: &usize| {
            let spec = failover.fence.get(*level).and_then(|l| l.get(*method));
            spec.map_or_else(|| format!("method {method}"), |m| m.label.clone())
        };
        match action {
            Action::Fence { level, method } => {
                format!("fence {member} by {} (level {})", fence(level, method), level + 1)
            }
            Action::Admit { level, method } => {
                format!("let the arbiter through {} at {member}", fence(level, method))
            }
            Action::Unfence { level, method } => {
                format!("lift {} from {member}", fence(level, method))
            }
            Action::Seal => format!("have a majority of the voters seal epoch {}", self.state.epoch),
            Action::AwaitLease => format!("wait until the lease of {member} is over"),
            Action::ForbiddenWrite { level } => format!("try a forbidden write at {member} (level {})", level + 1),
            Action::MakeReadOnly => format!("make {member} read-only"),
            Action::MakeWritable => format!("make {member} writable again"),
            Action::CatchUp { .. } => format!("let {member} catch up"),
            Action::Promote => format!("promote {member}"),
            Action::Repoint { primary } => format!("point {member} at {primary}"),
            Action::Redirect { method } => {
                let label = failover.redirect.get(*method).map_or("redirect", |m| m.label.as_str());
                format!("redirect by {label}")
            }
            Action::Rejoin { primary, .. } => format!("make {member} follow {primary}"),
        }
    }
}

/// The policy that is stored with an incident: its cluster's, with the arbiter's part.
#[must_use]
pub(crate) fn frozen(policy: &Policy, cluster: &ClusterPolicy) -> Policy {
    Policy {
        hash: policy.hash.clone(),
        arbiter: policy.arbiter.clone(),
        clusters: BTreeMap::from([(cluster.name.clone(), cluster.clone())]),
    }
}

/// What stands in every report of a failover whose proof was lowered.
fn lowered(policy: &ClusterPolicy) -> Option<String> {
    let failover = &policy.failover;
    failover.is_unsafe.then(|| format!("UNSAFE: the proof needed was lowered to {}", failover.proof_needed))
}

fn outcome(result: &StepResult) -> String {
    match result {
        StepResult::Fenced(report) if report.verdict == crate::model::FenceVerdict::Confirmed => {
            format!("confirmed, proof {}", report.proof)
        }
        StepResult::Fenced(report) => report.verdict.to_string(),
        StepResult::WriteTried(attempt) if attempt.is_accepted() => "ACCEPTED".into(),
        StepResult::WriteTried(attempt) if attempt.is_refused_twice() => "refused twice".into(),
        StepResult::WriteTried(_) => "not accepted".into(),
        StepResult::Told { failed, .. } if !failed.is_empty() => "failed in part".into(),
        StepResult::Done(_) | StepResult::Told { .. } => "done".into(),
        StepResult::Outbid { .. } => "refused".into(),
        StepResult::FellShort { .. } => "fell short".into(),
        StepResult::Failed(error) if error.may_have_happened => "unknown".into(),
        StepResult::Failed(_) => "failed".into(),
    }
}

pub(super) fn fell_short(reached: Option<u64>, end: u64) -> String {
    match reached {
        Some(reached) => format!("it reached {reached}, and the primary ends at {end}"),
        None => format!("it does not know its position, and the primary ends at {end}"),
    }
}

fn words(result: &StepResult) -> String {
    match result {
        StepResult::Fenced(report) => report.detail.clone(),
        StepResult::WriteTried(attempt) => attempt.detail.clone(),
        StepResult::Done(done) => done.detail.clone(),
        StepResult::Failed(error) => error.to_string(),
        StepResult::FellShort { reached, end } => fell_short(*reached, *end),
        StepResult::Outbid { sealed } => format!("a voter has sealed epoch {sealed}, which is larger"),
        StepResult::Told { acknowledged, failed } => {
            let mut parts = Vec::new();
            if !acknowledged.is_empty() {
                let names: Vec<&str> = acknowledged.iter().map(NodeName::as_str).collect();
                parts.push(format!("acknowledged by {}", names.join(", ")));
            }
            parts.extend(failed.iter().map(|(node, why)| format!("{node}: {why}")));
            if parts.is_empty() { "nobody to tell".into() } else { parts.join("; ") }
        }
    }
}
