//! How acts are carried out here: by an agent that checks epoch and challenge, over the network, by nodes, by a power
//! controller; and how they go wrong.

use std::time::Duration;

use super::{
    check::Invariant,
    fault::Behaviour,
    host::{MS, SEC},
    setting::Method,
    world::{Happening, World},
};
use crate::{
    failover::SagaState,
    model::{
        ActError, Action, Done, Event, FenceReport, MemberName, Proof, Role, StepResult, WriteAttempt, WriteOutcome,
        effect::Run, record::SagaKind,
    },
};

/// An agent whose beat is older than this is not taken for heard: its member is asked directly.
const HEARD_WITHIN: u64 = 2 * SEC;
/// An executor ends this long after its act's deadline, whatever it was doing.
pub(super) const GRACE: Duration = Duration::from_millis(500);

/// An act under way.
#[derive(Clone, Debug)]
pub(super) struct Act {
    pub(super) run: Run,
    pub(super) behaviour: Option<Behaviour>,
    pub(super) is_ended: bool,
    /// The order to an agent, while one is under way.
    pub(super) order: Option<(usize, Deed)>,
    /// The broker is primary already, with this result; its agent is asked to hold the lease.
    pub(super) promoted: Option<Box<StepResult>>,
    pub(super) ends_at: u64,
}

/// What an agent is told to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Deed {
    Appoint,
    Gate,
    Kill,
    ReadOnlyFence,
    Unfence,
    MakeReadOnly,
    MakeWritable,
    CatchUp { upto: Option<u64>, exact_from: Option<usize> },
    Promote,
    Follow { primary: usize },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Ended(Box<StepResult>),
    OldEpoch,
    /// The challenge was too old: it is asked again with a newer one.
    Expired,
}

impl Answer {
    pub(super) fn done(text: &str) -> Self {
        Self::Ended(Box::new(StepResult::Done(Done::new(text))))
    }
}

/// What an act is called by faults and coverage.
pub(super) const fn kind_of(action: &Action) -> &'static str {
    match action {
        Action::Fence { .. } => "fence",
        Action::Seal => "seal",
        Action::AwaitLease => "await lease",
        Action::ForbiddenWrite { .. } => "forbidden write",
        Action::MakeReadOnly => "make read-only",
        Action::MakeWritable => "make writable",
        Action::CatchUp { .. } => "catch up",
        Action::Promote => "promote",
        Action::Repoint { .. } => "repoint",
        Action::Redirect { .. } => "redirect",
        Action::Rejoin { .. } => "rejoin",
        Action::Admit { .. } => "admit",
        Action::Unfence { .. } => "unfence",
    }
}

/// All of them.
pub(super) const KINDS: [&str; 13] = [
    "fence",
    "seal",
    "await lease",
    "forbidden write",
    "make read-only",
    "make writable",
    "catch up",
    "promote",
    "repoint",
    "redirect",
    "rejoin",
    "admit",
    "unfence",
];

impl World<'_> {
    // ---- the judge ---------------------------------------------------------------------------------------------

    /// Whether this act may be handed out at all.
    pub(super) fn judge_act(&mut self, arbiter: usize, run: &Run) {
        self.coverage.act(kind_of(&run.action));
        self.judge_beginning(arbiter, &run.token.incident);
        let Some(kept) = self.store.incidents.get(&run.token.incident) else {
            let text = format!("{} of an incident that is not stored", kind_of(&run.action));
            return self.checks.broken(self.now, Invariant::IntentFirst, text);
        };
        let is_intended = kept.log.iter().any(|entry| {
            matches!(entry, crate::model::record::LogEntry::Started { act, action, member }
                if *act == run.token.number && *action == run.action && *member == run.order.target.member)
        });
        if !is_intended {
            let text = format!("{} was handed out before its intent was durable", kind_of(&run.action));
            return self.checks.broken(self.now, Invariant::IntentFirst, text);
        }
        if run.action != Action::Promote {
            return;
        }
        let Some(state) = SagaState::from_log(&kept.log) else { return };
        let policy = &self.setting.cluster_policy().failover;
        if policy.lease.is_some() && !state.is_sealed() {
            self.checks.broken(self.now, Invariant::ProofFirst, "promoted before the seal".into());
        }
        if state.kind == SagaKind::Failover && !state.proof(policy).meets(policy.proof_needed) {
            let text = format!("promoted on proof {}", state.proof(policy).level());
            self.checks.broken(self.now, Invariant::ProofFirst, text);
        }
    }

    /// A promotion was written down: was the loss told?
    pub(super) fn judge_promotion(&mut self, incident: &crate::model::IncidentId) {
        let Some(kept) = self.store.incidents.get(incident) else { return };
        let Some(record) = &kept.incident else { return };
        let (old, new) = (self.member_at(&record.old_primary), self.member_at(&record.candidate));
        let (Some(old), Some(new)) = (old, new) else { return };
        let loss = record.loss.clone();
        let common = self.members[old].common(&self.members[new]);
        let lost: Vec<u64> = self.checks.acknowledged_beyond(old, common as u64, &self.members[old].log);
        self.checks.lost = self.checks.lost.max(lost.len());
        self.tell(|| format!("promotion: {} acknowledged writes are not in the new primary's log", lost.len()));
        if self.setting.replication == super::Replication::Sync && !lost.is_empty() {
            let text = format!("{} acknowledged writes were lost under synchronous replication", lost.len());
            self.checks.broken(self.now, Invariant::NothingLost, text);
        }
        let Some(loss) = loss else { return };
        if let (Some(known), Some(behind)) = (loss.primary_position, loss.behind) {
            // What was written after the last known position is told as a time, not as a number.
            let counted = lost.iter().filter(|position| **position <= known).count() as u64;
            if counted > behind {
                let text = format!("the loss was told as {behind}, and is {counted}");
                self.checks.broken(self.now, Invariant::LossTold, text);
            }
        }
    }

    // ---- acts --------------------------------------------------------------------------------------------------

    pub(super) fn begin_act(&mut self, arbiter: usize, run: Run) {
        let kind = kind_of(&run.action);
        let behaviour = self
            .act_faults
            .iter()
            .position(|(of, _)| *of == kind)
            .map(|index| self.act_faults.remove(index).1)
            // Whoever is believed once its kernel was read back cannot claim what is not so.
            .filter(|behaviour| *behaviour != Behaviour::Lies || self.may_lie(&run.action));
        if let Some(behaviour) = behaviour {
            self.coverage.hit(behaviour.covers());
        }
        let me = &mut self.arbiters[arbiter];
        me.next_act += 1;
        let (act, life) = (me.next_act, me.life);
        let ends_at = self.now + self.ns(run.deadline + GRACE);
        self.arbiters[arbiter]
            .acts
            .insert(act, Act { run, behaviour, is_ended: false, order: None, promoted: None, ends_at });
        self.at(ends_at, Happening::ActOver { arbiter, life, act });
        let after = match behaviour {
            Some(Behaviour::Late) => {
                let deadline = ends_at - self.now;
                self.random.within(deadline / 2, deadline)
            }
            Some(Behaviour::Lies) => {
                return self.lie(arbiter, life, act);
            }
            Some(Behaviour::Refuses) => {
                let run = &self.arbiters[arbiter].acts[&act].run;
                let result = refused(run, "as chance would have it");
                return self.after(5 * MS, Happening::ActEnds { arbiter, life, act, result: Box::new(result) });
            }
            Some(Behaviour::Hangs) => return,
            Some(Behaviour::LosesAnswer) | None => self.network.delay.1,
        };
        self.after(after, Happening::Do { arbiter, life, act });
    }

    pub(super) fn may_lie(&self, action: &Action) -> bool {
        match action {
            Action::Fence { level, method } => self.setting.method(*level, *method).is_some_and(|(m, _)| m.may_lie()),
            _ => false,
        }
    }

    pub(super) fn lie(&mut self, arbiter: usize, life: u32, act: u32) {
        let proof = match &self.arbiters[arbiter].acts[&act].run.action {
            Action::Fence { level, method } => {
                self.setting.method(*level, *method).map_or(Proof::Claim, |(_, policy)| policy.best_proof)
            }
            _ => Proof::Claim,
        };
        let result = Box::new(StepResult::Fenced(FenceReport::confirmed(proof, "it says that it is stopped")));
        self.after(10 * MS, Happening::ActEnds { arbiter, life, act, result });
    }

    /// The act is done now, or its order goes out.
    pub(super) fn do_act(&mut self, arbiter: usize, life: u32, act: u32) {
        if !self.is_life(arbiter, life) {
            return;
        }
        if !self.arbiter_runs(arbiter) {
            return self.after(20 * MS, Happening::Do { arbiter, life, act });
        }
        let Some(found) = self.arbiters[arbiter].acts.get(&act).filter(|act| !act.is_ended) else { return };
        let run = found.run.clone();
        let Some(member) = self.member_at(&run.order.target.member) else { return };
        match &run.action {
            Action::Seal => self.begin_seal(arbiter, act, run.order.epoch, false),
            Action::AwaitLease => self.begin_seal(arbiter, act, run.order.epoch, true),
            Action::Redirect { method } => self.redirect(arbiter, life, act, &run, *method, member),
            Action::ForbiddenWrite { .. } => {
                let outcome = self.forbidden_write(arbiter, member);
                let attempt = WriteAttempt { on_new: outcome, on_open: Some(outcome), detail: String::new() };
                self.ends(arbiter, life, act, StepResult::WriteTried(attempt));
            }
            Action::Fence { level, method } | Action::Admit { level, method } | Action::Unfence { level, method } => {
                self.fence_act(arbiter, life, act, &run, (*level, *method), member);
            }
            _ => self.at_member(arbiter, life, act, &run, member),
        }
    }

    /// The answer is on its way to the engine, unless it gets lost.
    pub(super) fn ends(&mut self, arbiter: usize, life: u32, act: u32, result: StepResult) {
        let Some(found) = self.arbiters[arbiter].acts.get(&act) else { return };
        if found.behaviour == Some(Behaviour::LosesAnswer) {
            return;
        }
        let delay = self.random.within(MS, 5 * MS);
        self.after(delay, Happening::ActEnds { arbiter, life, act, result: Box::new(result) });
    }

    pub(super) fn act_ends(&mut self, arbiter: usize, life: u32, act: u32, result: StepResult) {
        if !self.is_life(arbiter, life) {
            return;
        }
        if !self.arbiter_runs(arbiter) {
            return self.after(20 * MS, Happening::ActEnds { arbiter, life, act, result: Box::new(result) });
        }
        let Some(found) = self.arbiters[arbiter].acts.get_mut(&act).filter(|act| !act.is_ended) else { return };
        found.is_ended = true;
        let (token, kind) = (found.run.token.clone(), kind_of(&found.run.action));
        self.coverage.result(kind, &result);
        let has_lost = self.arbiters[arbiter].acts.remove(&act).is_none();
        debug_assert!(!has_lost, "it was there");
        self.event(arbiter, Event::StepEnded { token, result });
    }

    /// Whatever it was doing, it ends now.
    pub(super) fn act_is_over(&mut self, arbiter: usize, life: u32, act: u32) {
        let Some(found) = self.arbiters[arbiter].acts.get(&act) else { return };
        let run = &found.run;
        let result = match &run.action {
            Action::Fence { .. } | Action::MakeReadOnly | Action::AwaitLease => {
                StepResult::Fenced(FenceReport::unknown("no answer within the deadline"))
            }
            Action::ForbiddenWrite { .. } => StepResult::WriteTried(WriteAttempt {
                on_new: WriteOutcome::NoAnswer,
                on_open: None,
                detail: "no answer within the deadline".into(),
            }),
            _ => StepResult::Failed(ActError::uncertain(kind_of(&run.action), "no answer within the deadline")),
        };
        if let Some(sealing) = &mut self.arbiters[arbiter].sealing {
            sealing.forget(act);
        }
        self.act_ends(arbiter, life, act, result);
    }

    pub(super) fn forbidden_write(&self, arbiter: usize, member: usize) -> WriteOutcome {
        let m = &self.members[member];
        let host = &self.hosts[m.host];
        if !self.network.both_ways(arbiter, m.host) || !host.runs(self.now) {
            return WriteOutcome::NoAnswer;
        }
        match (m.is_alive, m.frozen_since.is_some(), m.could_acknowledge(host, self.now)) {
            (false, ..) => WriteOutcome::Refused,
            (_, _, true) => WriteOutcome::Accepted,
            (_, true, _) => WriteOutcome::NoAnswer,
            _ if !m.shut_out.is_empty() || !m.is_gate_open(host, self.now) => WriteOutcome::NoAnswer,
            _ => WriteOutcome::Refused,
        }
    }

    pub(super) fn redirect(&mut self, arbiter: usize, life: u32, act: u32, run: &Run, _method: usize, member: usize) {
        let (mut acknowledged, mut failed) = (Vec::new(), Vec::new());
        let names = &self.setting.cluster_policy().nodes;
        for (node, name) in names.iter().enumerate() {
            let host = self.nodes[node].host;
            if self.reaches(arbiter, host)
                && self.hosts[host].runs(self.now)
                && self.nodes[node].told(member, run.order.epoch)
            {
                acknowledged.push(name.clone());
            } else {
                failed.push((name.clone(), "no answer".to_owned()));
            }
        }
        self.ends(arbiter, life, act, StepResult::Told { acknowledged, failed });
    }

    pub(super) fn has_agent_heard(&self, arbiter: usize, member: usize) -> bool {
        self.members[member].agent.is_some()
            && self.arbiters[arbiter].heard[member].as_ref().is_some_and(|heard| self.now - heard.at < HEARD_WITHIN)
    }

    pub(super) fn fence_act(
        &mut self,
        arbiter: usize,
        life: u32,
        act: u32,
        run: &Run,
        place: (usize, usize),
        member: usize,
    ) {
        let Some((method, policy)) = self.setting.method(place.0, place.1) else { return };
        let proof = policy.best_proof;
        let is_fence = matches!(run.action, Action::Fence { .. });
        let is_admission = matches!(run.action, Action::Admit { .. });
        let fenced = |report: FenceReport| StepResult::Fenced(report);
        let done = |text: &str| StepResult::Done(Done::new(text));
        match method {
            Method::AgentGate | Method::AgentKill => {
                let deed = match (is_fence, method) {
                    (true, Method::AgentGate) => Deed::Gate,
                    (true, _) => Deed::Kill,
                    (false, _) => Deed::Unfence,
                };
                self.order(arbiter, act, member, deed);
            }
            Method::ReadOnly => {
                let deed = if is_fence { Deed::ReadOnlyFence } else { Deed::MakeWritable };
                if !is_fence {
                    // A standby stays read-only; only the mark of the fence is taken away.
                    return self.ends(arbiter, life, act, done("nothing to lift"));
                }
                if self.has_agent_heard(arbiter, member) {
                    return self.order(arbiter, act, member, deed);
                }
                if !self.can_ask(arbiter, member) {
                    return;
                }
                self.members[member].is_read_only = true;
                self.ends(arbiter, life, act, fenced(FenceReport::confirmed(proof, "it refuses writes")));
            }
            Method::Firewall => {
                let m = &mut self.members[member];
                if is_fence {
                    m.shut_out.insert(place);
                    m.admitted.remove(&place);
                    self.ends(arbiter, life, act, fenced(FenceReport::confirmed(proof, "nothing passes")));
                } else {
                    if is_admission {
                        m.admitted.insert(place);
                    } else {
                        m.shut_out.remove(&place);
                        m.admitted.remove(&place);
                    }
                    self.ends(arbiter, life, act, done("it is let through"));
                }
            }
            Method::RemoteKill | Method::Claim => {
                let host = self.members[member].host;
                if !self.network.both_ways(arbiter, host) || !self.hosts[host].runs(self.now) {
                    return;
                }
                if is_fence {
                    self.members[member].is_inhibited = method == Method::RemoteKill;
                    self.kill_broker(member);
                    self.ends(arbiter, life, act, fenced(FenceReport::confirmed(proof, "it is stopped")));
                } else {
                    self.ends(arbiter, life, act, done("nothing to lift: it stays dead until somebody starts it"));
                }
            }
            Method::Power => {
                if self.is_power_cut_off {
                    return;
                }
                let host = self.members[member].host;
                if is_fence {
                    self.power_off(host);
                    self.ends(arbiter, life, act, fenced(FenceReport::confirmed(proof, "its power is off")));
                } else {
                    self.ends(arbiter, life, act, done("its power stays off until somebody turns it on"));
                }
            }
            Method::Nodes => {
                let all: Vec<usize> = (0..self.nodes.len()).collect();
                let reached: Vec<usize> = all
                    .iter()
                    .copied()
                    .filter(|n| {
                        self.reaches(arbiter, self.nodes[*n].host) && self.hosts[self.nodes[*n].host].runs(self.now)
                    })
                    .collect();
                for node in &reached {
                    let drops = &mut self.nodes[*node].drops;
                    let _ = if is_fence { drops.insert(member) } else { drops.remove(&member) };
                }
                let result = match (is_fence, reached.len() == all.len()) {
                    (true, true) => fenced(FenceReport::confirmed(proof, "all nodes drop it")),
                    (true, false) => fenced(FenceReport::unknown("not all nodes answered")),
                    (false, _) => done("the nodes take it again"),
                };
                self.ends(arbiter, life, act, result);
            }
        }
    }

    /// Whether the arbiter gets an answer from the broker itself.
    pub(super) fn can_ask(&self, arbiter: usize, member: usize) -> bool {
        let m = &self.members[member];
        let host = &self.hosts[m.host];
        self.network.both_ways(arbiter, m.host)
            && m.answers(host, self.now)
            && (m.role == Role::Standby || m.is_gate_open(host, self.now))
            && !m.is_shut_for_arbiters()
    }

    pub(super) fn at_member(&mut self, arbiter: usize, life: u32, act: u32, run: &Run, member: usize) {
        let primary = |name: &MemberName| self.member_at(name);
        let deed = match &run.action {
            Action::MakeReadOnly => Deed::MakeReadOnly,
            Action::MakeWritable => Deed::MakeWritable,
            Action::CatchUp { upto, exact_from } => {
                Deed::CatchUp { upto: *upto, exact_from: exact_from.as_ref().and_then(primary) }
            }
            Action::Promote => Deed::Promote,
            Action::Repoint { primary: to } | Action::Rejoin { primary: to, .. } => match primary(to) {
                Some(primary) => Deed::Follow { primary },
                None => return,
            },
            _ => return,
        };
        if self.has_agent_heard(arbiter, member) {
            return self.order(arbiter, act, member, deed);
        }
        let m = &self.members[member];
        if !self.can_ask(arbiter, member) {
            if !m.is_alive && self.network.both_ways(arbiter, m.host) && self.hosts[m.host].runs(self.now) {
                let result = refused(run, "connection refused");
                self.ends(arbiter, life, act, result);
            }
            return;
        }
        if m.epoch > run.order.epoch {
            let text = format!("it is of epoch {}", m.epoch);
            return self.ends(arbiter, life, act, refused(run, &text));
        }
        let until = self.now + self.ns(run.deadline);
        if let Some(result) = self.do_deed(member, run.order.epoch, &deed, until) {
            self.ends(arbiter, life, act, result);
        } else {
            // It is not there yet: looked at again.
            self.after(20 * MS, Happening::Do { arbiter, life, act });
        }
    }
}

pub(super) fn refused(run: &Run, why: &str) -> StepResult {
    match &run.action {
        Action::Fence { .. } | Action::MakeReadOnly | Action::AwaitLease => {
            StepResult::Fenced(FenceReport::unknown(why))
        }
        Action::ForbiddenWrite { .. } => {
            StepResult::WriteTried(WriteAttempt { on_new: WriteOutcome::NoAnswer, on_open: None, detail: why.into() })
        }
        action => StepResult::Failed(ActError::nothing_done(kind_of(action), why)),
    }
}
