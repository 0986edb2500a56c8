//! Orders to agents, and what is done at a member's host, by its agent or over the network.

use super::{
    agent::OrderKey,
    hands::{Act, Answer, Deed, GRACE, refused},
    host::MS,
    world::{Happening, Message, World},
};
use crate::model::{ActError, Action, Done, Epoch, FenceReport, Proof, Role, StepResult, Time};

/// How often an order is repeated, each time with the newest challenge.
const ORDER_EVERY: u64 = 50 * MS;

impl World<'_> {
    pub(super) fn order(&mut self, arbiter: usize, act: u32, member: usize, deed: Deed) {
        let life = self.arbiters[arbiter].life;
        if let Some(found) = self.arbiters[arbiter].acts.get_mut(&act) {
            found.order = Some((member, deed));
            self.send_order(arbiter, life, act);
        }
    }

    /// Who is primary is told to its agent outside of any incident too.
    pub(super) fn order_outside_of_a_saga(&mut self, arbiter: usize, member: usize, epoch: Epoch) {
        let me = &mut self.arbiters[arbiter];
        me.next_act += 1;
        let key = (arbiter, me.life, me.next_act);
        let Some(heard) = me.heard[member].clone() else { return };
        let to = self.members[member].host;
        let challenge = (heard.life, heard.challenge);
        // An appointment is taken as it comes, or not at all.
        let (deed, until) = (Deed::Appoint, self.now);
        self.send(arbiter, to, Message::Order { member, key, epoch, challenge, deed, until });
    }

    pub(super) fn send_order(&mut self, arbiter: usize, life: u32, number: u32) {
        if !self.is_life(arbiter, life) {
            return;
        }
        if !self.arbiter_runs(arbiter) {
            return self.after(20 * MS, Happening::SendOrder { arbiter, life, number });
        }
        let Some(act) = self.arbiters[arbiter].acts.get(&number).filter(|act| act.ends_at > self.now) else { return };
        let Some((member, deed)) = act.order.clone() else { return };
        let epoch = act.run.order.epoch;
        // The rest of its time is for its answer.
        let until = act.ends_at - self.ns(GRACE);
        if let Some(heard) = self.arbiters[arbiter].heard[member].clone() {
            let challenge = (heard.life, heard.challenge);
            let to = self.members[member].host;
            let key = (arbiter, life, number);
            self.send(arbiter, to, Message::Order { member, key, epoch, challenge, deed, until });
        }
        self.after(ORDER_EVERY, Happening::SendOrder { arbiter, life, number });
    }

    pub(super) fn order_came(
        &mut self,
        member: usize,
        key: OrderKey,
        epoch: Epoch,
        challenge: (u32, Time),
        deed: Deed,
        until: u64,
    ) {
        let boot = self.hosts[self.members[member].host].boot(self.now);
        let valid_for = self.setting.order_valid_for;
        let mono = self.hosts[self.members[member].host].moment(self.now).mono;
        let Some(agent) = &mut self.members[member].agent else { return };
        if let Some(known) = agent.taken.get(&key) {
            if let Some(answer) = known.clone() {
                self.answer(member, key, answer);
            }
            return;
        }
        let is_fresh = challenge.0 == agent.life && challenge.1 + valid_for >= boot;
        if !is_fresh {
            self.coverage.hit("agent: an order came too late");
            self.beat_soon(member);
            return self.reply(member, key, Answer::Expired);
        }
        if epoch < agent.voter.sealed() {
            self.coverage.hit("agent: an old epoch's order was refused");
            agent.taken.insert(key, Some(Answer::OldEpoch));
            return self.reply(member, key, Answer::OldEpoch);
        }
        if deed == Deed::Appoint {
            agent.taken.insert(key, None);
            return self.appoint(member, key, epoch);
        }
        agent.voter.adopt(epoch);
        let is_unproven = agent.voter.memory().is_unproven && !agent.voter.older_runs_for(mono).is_zero();
        if deed == Deed::Promote && self.setting.cluster_policy().failover.lease.is_some() && is_unproven {
            self.coverage.hit("agent: a promotion waits for an older lease");
            self.voter_changed(member);
            return self.reply(member, key, Answer::Expired);
        }
        agent.taken.insert(key, None);
        match deed {
            Deed::Gate | Deed::Kill | Deed::ReadOnlyFence => self.set_fenced(member, Some(epoch)),
            Deed::Unfence => self.set_fenced(member, None),
            _ => self.voter_changed(member),
        }
        let takes = match deed {
            Deed::Gate => self.members[member].gate_lag + self.random.within(MS, 5 * MS),
            Deed::Kill => self.random.within(5 * MS, 100 * MS),
            _ => self.random.within(MS, 20 * MS),
        };
        let life = self.members[member].agent.as_ref().map_or(0, |agent| agent.life);
        self.after(takes, Happening::Carry { member, life, key, epoch, deed, until });
    }

    /// The agent does it, unless it ended meanwhile.
    pub(super) fn carry(&mut self, member: usize, life: u32, key: OrderKey, epoch: Epoch, deed: Deed, until: u64) {
        if self.members[member].agent.as_ref().is_none_or(|agent| agent.life != life || !agent.is_up) {
            return;
        }
        if !self.agent_runs(member) {
            return self.after(20 * MS, Happening::Carry { member, life, key, epoch, deed, until });
        }
        match self.do_deed(member, epoch, &deed, until) {
            Some(result) => self.answer(member, key, Answer::Ended(Box::new(result))),
            None => self.after(20 * MS, Happening::Carry { member, life, key, epoch, deed, until }),
        }
    }

    /// The agent knows what came of an order.
    pub(super) fn answer(&mut self, member: usize, key: OrderKey, answer: Answer) {
        if let Some(agent) = &mut self.members[member].agent {
            agent.taken.insert(key, Some(answer.clone()));
        }
        self.reply(member, key, answer);
    }

    pub(super) fn reply(&mut self, member: usize, key: OrderKey, answer: Answer) {
        let from = self.members[member].host;
        self.send(from, key.0, Message::Answer { member, key, answer });
    }

    pub(super) fn answer_came(&mut self, arbiter: usize, member: usize, key: OrderKey, answer: Answer) {
        let (_, life, act) = key;
        if !self.is_life(arbiter, life) {
            return;
        }
        let Some(found) = self.arbiters[arbiter].acts.get_mut(&act).filter(|act| act.order.is_some()) else { return };
        let run = found.run.clone();
        let result = match answer {
            Answer::Expired => return,
            Answer::OldEpoch => refused(&run, "a larger epoch was seen"),
            Answer::Ended(result) => *result,
        };
        found.order = None;
        // Whoever is promoted under a lease is appointed next; only then does it serve.
        let has_lease = self.setting.cluster_policy().failover.lease.is_some();
        let is_done = matches!(result, StepResult::Done(_));
        let is_first = self.arbiters[arbiter].acts.get(&act).is_some_and(|act| act.promoted.is_none());
        if run.action == Action::Promote && has_lease && is_done && is_first {
            // A new order under a number of its own: the agent has answered the first.
            let me = &mut self.arbiters[arbiter];
            if let Some(first) = me.acts.remove(&act) {
                me.next_act += 1;
                let second = me.next_act;
                let ends_at = first.ends_at;
                me.acts.insert(second, Act { promoted: Some(Box::new(result)), ..first });
                self.at(ends_at, Happening::ActOver { arbiter, life, act: second });
                return self.order(arbiter, second, member, Deed::Appoint);
            }
        }
        let promoted = self.arbiters[arbiter].acts.get(&act).and_then(|act| act.promoted.clone());
        let result = match (promoted, is_done) {
            (Some(promoted), true) => *promoted,
            (Some(_), false) => {
                StepResult::Failed(ActError::uncertain("promote", "it is primary, and its agent did not get the lease"))
            }
            (None, _) => result,
        };
        self.ends(arbiter, life, act, result);
    }

    // ---- what is done ------------------------------------------------------------------------------------------

    /// Does it at the member's host; `None`: it takes longer yet.
    pub(super) fn do_deed(&mut self, member: usize, epoch: Epoch, deed: &Deed, until: u64) -> Option<StepResult> {
        let fenced = |proof: Proof, text: &str| Some(StepResult::Fenced(FenceReport::confirmed(proof, text)));
        let nothing = |what: &str, why: &str| Some(StepResult::Failed(ActError::nothing_done(what, why)));
        match deed {
            Deed::Gate => return fenced(Proof::Gate, "the gate is shut"),
            Deed::Kill => {
                self.members[member].is_inhibited = true;
                self.kill_broker(member);
                return fenced(Proof::Stopped, "nothing of it runs");
            }
            Deed::Unfence => {
                self.members[member].is_inhibited = false;
                if self.setting.restarts_after.is_some() {
                    self.revive(member);
                }
                return Some(StepResult::Done(Done::new("lifted")));
            }
            _ => {}
        }
        let host = self.members[member].host;
        let m = &self.members[member];
        if !m.is_alive {
            return match deed {
                Deed::MakeReadOnly | Deed::ReadOnlyFence => {
                    Some(StepResult::Fenced(FenceReport::unknown("connection refused")))
                }
                _ => nothing("act", "connection refused"),
            };
        }
        if !m.answers(&self.hosts[host], self.now) {
            return if self.now < until { None } else { nothing("act", "it does not answer") };
        }
        if epoch < m.epoch {
            return nothing("act", "it is of a larger epoch");
        }
        match deed {
            Deed::MakeReadOnly | Deed::ReadOnlyFence => {
                self.members[member].is_read_only = true;
                fenced(Proof::ReadBack, "it refuses writes")
            }
            Deed::MakeWritable => {
                if self.members[member].role == Role::Primary {
                    self.members[member].is_read_only = false;
                }
                Some(StepResult::Done(Done::new("it takes writes")))
            }
            Deed::CatchUp { upto, exact_from } => self.catch_up(member, *upto, *exact_from, until),
            Deed::Promote => {
                if self.members[member].is_full {
                    return nothing("promote", "its disk is full");
                }
                let m = &mut self.members[member];
                m.role = Role::Primary;
                m.is_read_only = false;
                m.follows = None;
                m.epoch = epoch;
                let position = m.position();
                self.tell_with(member, |name| format!("{name}: is made primary in epoch {epoch}"));
                Some(StepResult::Done(Done { position: Some(position), ..Done::new("primary") }))
            }
            Deed::Follow { primary } => {
                let (primary, of) = (*primary, &self.members[*primary]);
                if !self.network.both_ways(host, of.host) || !of.answers(&self.hosts[of.host], self.now) {
                    return if self.now < until { None } else { nothing("follow", "its link does not come up") };
                }
                let common = self.members[member].common(&self.members[primary]);
                let log = self.members[primary].log.clone();
                let m = &mut self.members[member];
                let tail = m.log.split_off(common);
                let divergent = tail.len() as u64;
                m.kept_apart.extend(tail);
                m.log = log;
                m.role = Role::Standby;
                m.is_read_only = true;
                m.follows = Some(primary);
                m.epoch = epoch;
                self.tell_with(member, |name| format!("{name}: follows, {divergent} entries kept apart"));
                Some(StepResult::Done(Done { divergent: Some(divergent), ..Done::new("follows") }))
            }
            Deed::Appoint | Deed::Gate | Deed::Kill | Deed::Unfence => None,
        }
    }

    pub(super) fn catch_up(
        &mut self,
        member: usize,
        upto: Option<u64>,
        exact_from: Option<usize>,
        until: u64,
    ) -> Option<StepResult> {
        let position = self.members[member].position();
        let done = || StepResult::Done(Done { position: Some(position), ..Done::new("caught up") });
        if let Some(from) = exact_from {
            let end = self.members[from].position();
            return match (position >= end, self.now >= until) {
                (true, _) => Some(done()),
                (false, true) => Some(StepResult::FellShort { reached: Some(position), end }),
                (false, false) => {
                    if self.is_fed(member, from) {
                        self.after(5 * MS, Happening::Replicate { from, to: member });
                    }
                    None
                }
            };
        }
        let can_grow = self.members[member].follows.is_some_and(|leader| self.is_fed(member, leader));
        let is_enough = upto.is_none_or(|upto| position >= upto);
        (is_enough || !can_grow || self.now >= until).then(done)
    }
}
