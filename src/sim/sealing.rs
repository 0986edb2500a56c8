//! What an arbiter hears of agents, whom it has appointed, and how it has an epoch sealed.

use std::collections::BTreeSet;

use super::{
    agent::REPEAT_EVERY,
    arbiter::{Heard, Sealing},
    host::MS,
    world::{Happening, Message, Voice, World},
};
use crate::{
    lease::{arithmetic::majority, voter::Voter},
    model::{
        Done, Epoch, Fact, FenceReport, Observer, Outcome, PartyName, Proof, SignalName, StepResult, Time,
        agent::MemberReport, observation::AGENTS_SIGNAL,
    },
};

/// An agent's appointment is ordered again after this, while its beats do not say that it took it.
const TELL_AGAIN_AFTER: u64 = 500 * MS;

impl World<'_> {
    /// An agent beat.
    pub(super) fn beat_came(
        &mut self,
        arbiter: usize,
        from: usize,
        member: usize,
        life: u32,
        challenge: Time,
        report: MemberReport,
    ) {
        let newest = &mut self.arbiters[arbiter].heard[member];
        // One that was overtaken would bring back what is no longer so.
        if newest.as_ref().is_some_and(|heard| heard.life > life || (heard.life == life && heard.challenge > challenge))
        {
            return;
        }
        *newest = Some(Heard { at: self.now, life, challenge });
        let name = self.names[member].clone();
        let observer = Observer::Member(name.clone());
        let reached: Vec<PartyName> = self
            .voices
            .iter()
            .filter(|(_, voice)| self.network.both_ways(from, self.host_of(**voice)))
            .map(|(name, _)| name.clone())
            .chain(self.nodes.iter().filter(|n| self.network.both_ways(from, n.host)).map(|n| self.party_at(n.host)))
            .collect();
        let agents: SignalName = AGENTS_SIGNAL.into();
        let setting = self.setting;
        let policy = setting.cluster_policy();
        self.hand_over(arbiter, &agents, observer.clone(), None, Outcome::Fact(Fact::Reaches(reached)));
        if let (Some(signal), Some(role)) = (&policy.role_signal, &report.role) {
            let fact = Outcome::Fact(Fact::Role(role.clone()));
            self.hand_over(arbiter, signal, observer.clone(), Some(name.clone()), fact);
        }
        for (signal, source) in &setting.sources {
            let super::Source::Agent(watch) = source else { continue };
            let Some(fact) = watch.fact_in(&report, challenge.0) else { continue };
            self.hand_over(arbiter, signal, observer.clone(), Some(name.clone()), Outcome::Fact(fact));
        }
        let appointed = report.appointed;
        let fact = Outcome::Fact(Fact::Agent(Box::new(report)));
        self.hand_over(arbiter, &agents, observer, Some(name), fact);
        self.drain(arbiter);
        self.keep_appointed(arbiter, member, appointed);
    }

    pub(super) fn keep_appointed(&mut self, arbiter: usize, member: usize, appointed: Option<Epoch>) {
        if self.setting.cluster_policy().failover.lease.is_none() && !self.members[member].has_gate {
            return;
        }
        let me = &self.arbiters[arbiter];
        let Some((who, epoch)) = me.engine.appointment(&self.setting.cluster) else { return };
        if who != self.names[member] || appointed == Some(epoch) {
            return;
        }
        let (told, at) = me.told[member];
        if told == epoch && self.now - at < TELL_AGAIN_AFTER && at > 0 {
            return;
        }
        self.arbiters[arbiter].told[member] = (epoch, self.now);
        self.coverage.hit("arbiter: appoints who is primary");
        self.order_outside_of_a_saga(arbiter, member, epoch);
    }

    /// Asks for a seal, or joins one that is under way.
    pub(super) fn begin_seal(&mut self, arbiter: usize, act: u32, epoch: Epoch, waits_for_leases: bool) {
        let life = self.arbiters[arbiter].life;
        if let Some(sealing) = &mut self.arbiters[arbiter].sealing
            && sealing.epoch == epoch
        {
            sealing.waiting.push((act, waits_for_leases));
            return self.look_at_sealing(arbiter);
        }
        if let Some(voter) = &mut self.arbiters[arbiter].voter {
            voter.seal(epoch);
        }
        let sealed = self.arbiters[arbiter].voter.as_ref().map(Voter::sealed);
        self.arbiters[arbiter].sealing = Some(Sealing {
            epoch,
            sealed: BTreeSet::new(),
            over: BTreeSet::new(),
            larger: sealed.filter(|sealed| *sealed > epoch),
            waiting: vec![(act, waits_for_leases)],
        });
        self.after(0, Happening::Sealing { arbiter, life });
    }

    pub(super) fn drive_seal(&mut self, arbiter: usize, life: u32) {
        if !self.is_life(arbiter, life) {
            return;
        }
        if !self.arbiter_runs(arbiter) {
            return self.after(20 * MS, Happening::Sealing { arbiter, life });
        }
        let Some(lease) = self.setting.cluster_policy().failover.lease.clone() else { return };
        self.count_own_seal(arbiter);
        self.look_at_sealing(arbiter);
        let Some(sealing) = self.arbiters[arbiter].sealing.clone() else { return };
        for party in lease.voters.iter().filter(|party| !sealing.over.contains(*party)) {
            match self.voices.get(party).copied() {
                Some(Voice::Arbiter(me)) if me == arbiter => {}
                Some(voice) => {
                    let to = self.host_of(voice);
                    self.send(arbiter, to, Message::Seal { voice, arbiter, epoch: sealing.epoch });
                }
                None => {}
            }
        }
        self.after(REPEAT_EVERY, Happening::Sealing { arbiter, life });
    }

    pub(super) fn count_own_seal(&mut self, arbiter: usize) {
        let mono = self.hosts[arbiter].moment(self.now).mono;
        let me_as_party = self.party_at(arbiter);
        let me = &mut self.arbiters[arbiter];
        let (Some(sealing), Some(voter)) = (&mut me.sealing, &me.voter) else { return };
        if voter.sealed() != sealing.epoch {
            sealing.larger = sealing.larger.max(Some(voter.sealed()).filter(|sealed| *sealed > sealing.epoch));
            return;
        }
        if voter.older_runs_for(mono).is_zero() {
            sealing.over.insert(me_as_party.clone());
        }
        sealing.sealed.insert(me_as_party);
    }

    pub(super) fn sealed_came(&mut self, arbiter: usize, by: usize, epoch: Epoch, is_over: bool) {
        let by = self.party_at(by);
        let Some(sealing) = &mut self.arbiters[arbiter].sealing else { return };
        if epoch > sealing.epoch {
            sealing.larger = sealing.larger.max(Some(epoch));
        } else if epoch == sealing.epoch {
            sealing.sealed.insert(by.clone());
            if is_over {
                sealing.over.insert(by);
            }
        }
        self.count_own_seal(arbiter);
        self.look_at_sealing(arbiter);
    }

    /// Answers the acts that waited.
    pub(super) fn look_at_sealing(&mut self, arbiter: usize) {
        let Some(lease) = self.setting.cluster_policy().failover.lease.as_ref() else { return };
        let needed = majority(lease.voters.len());
        let Some(sealing) = &mut self.arbiters[arbiter].sealing else { return };
        let (is_sealed, is_over) = (sealing.sealed.len() >= needed, sealing.over.len() >= needed);
        let mut ended = Vec::new();
        sealing.waiting.retain(|(act, waits)| {
            let result = match (sealing.larger, waits) {
                (Some(sealed), _) => Some(StepResult::Outbid { sealed }),
                (None, false) if is_sealed => Some(StepResult::Done(Done::new("a majority sealed it"))),
                (None, true) if is_over => {
                    Some(StepResult::Fenced(FenceReport::confirmed(Proof::LeaseOver, "no older lease runs")))
                }
                _ => None,
            };
            match result {
                Some(result) => {
                    ended.push((*act, result));
                    false
                }
                None => true,
            }
        });
        if sealing.waiting.is_empty() && (is_over || sealing.larger.is_some()) {
            self.arbiters[arbiter].sealing = None;
        }
        for (act, result) in ended {
            let life = self.arbiters[arbiter].life;
            self.after(0, Happening::ActEnds { arbiter, life, act, result: Box::new(result) });
        }
    }
}
