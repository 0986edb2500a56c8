//! Leases over the real arithmetic: the holder at the member's agent, the voters at the arbiters and the agents
//! (`src/mesh/party/leases.rs`, without its datagrams: a round reaches whom it can within its second, and its answers come
//! back at once, or late where a fault says so).

use std::sync::Arc;

use coroner::{
    lease::{arithmetic::majority, voter::No},
    model::{Epoch, PartyName, time::Mono},
};

use crate::{
    goals::Goal,
    setup::{Bug, MEMBERS, PARTIES, Setup, party},
    world::{Notes, World},
};

impl World {
    /// The agents ask for the leases that they want, and shut the gates of those that are over.
    pub fn renew_all(&mut self, setup: &Setup, notes: &mut Notes) {
        if !setup.has_lease {
            return;
        }
        let boot = self.boot(setup);
        for member in 0..2 {
            // Whose agent does not run is cared for by its kernel, which counts on.
            if !self.members[member].has_agent() {
                continue;
            }
            let it = self.member(member);
            if it.holder.as_mut().is_some_and(|holder| holder.expire(boot)) {
                it.gate_until = None;
                notes.say(|| format!("    the lease of {} is over: its agent shuts the gate", MEMBERS[member]));
            }
            let is_due =
                it.holder.as_ref().is_some_and(|holder| holder.next_ask() <= boot || holder.remaining(boot).is_none());
            if it.appointed.is_some() && is_due && it.has_broker() {
                self.renew(setup, member, notes);
            }
        }
    }

    /// One round of requests.
    pub fn renew(&mut self, setup: &Setup, member: usize, notes: &mut Notes) {
        let (boot, mono) = (self.boot(setup), self.mono(setup));
        let Some(epoch) = self.members[member].appointed else { return };
        let it = self.member(member);
        let Some(number) = it.holder.as_mut().map(|holder| holder.ask(boot)) else { return };
        let is_slow = std::mem::take(&mut it.is_slow);
        let me = party(member);
        let mut granted = 0_u8;
        for voter in 0..self.voters.len() {
            if voter != me && !(self.answers(voter) && self.has_path(me, voter)) {
                continue;
            }
            match self.voters[voter].grant(mono, &MEMBERS[member].into(), epoch) {
                Ok(()) => granted |= 1 << voter,
                Err(No::LeaseRuns | No::Sealed | No::Other) => notes.reach(Goal::RefusesGrant),
            }
            self.learned(voter);
        }
        // Another one may be in force, and this member primary no more.
        if self.members[member].appointed != Some(epoch) {
            return;
        }
        if is_slow {
            notes.say(|| format!("    {} asks for its lease, and the answers come late", MEMBERS[member]));
            let sent = self.now;
            self.member(member).late = Some((number, sent, granted));
        } else {
            self.count(setup, member, number, granted);
        }
    }

    /// Answers to a renewal arrive.
    pub fn count(&mut self, setup: &Setup, member: usize, number: u64, granted: u8) {
        let boot = self.boot(setup);
        let length = setup.lease.as_ref().map(|lease| lease.length).unwrap_or_default();
        let it = self.member(member);
        if it.appointed.is_none() {
            return;
        }
        if setup.bug == Bug::CountsFromAnswer && granted.count_ones() as usize >= majority(4) {
            it.gate_until = Some(boot + length);
            return;
        }
        let Some(holder) = &mut it.holder else { return };
        for voter in (0..PARTIES.len()).filter(|voter| granted & 1 << voter != 0) {
            if let Some(extended) = holder.granted(boot, &PartyName::from(PARTIES[voter]), number) {
                it.gate_until = Some(extended.deadline);
            }
        }
    }

    /// Whether the member's agent holds a lease.
    pub fn is_held(&self, setup: &Setup, member: usize) -> bool {
        let boot = self.boot(setup);
        self.members[member].holder.as_ref().is_some_and(|holder| holder.remaining(boot).is_some())
    }

    /// A voter's memory may have changed: an agent whose member is primary of an older epoch shuts its gate.
    pub fn learned(&mut self, voter: usize) {
        let sealed = self.voters[voter].sealed();
        if let Some(member) = voter.checked_sub(2)
            && self.members[member].appointed.is_some_and(|epoch| epoch < sealed)
        {
            self.step_down(member);
        }
    }

    /// Shuts the gate and forgets lease and appointment.
    pub fn step_down(&mut self, member: usize) {
        let it = self.member(member);
        it.appointed = None;
        it.gate_until = None;
        it.late = None;
        if let Some(holder) = &mut it.holder {
            holder.reset();
        }
    }

    /// The voters that an arbiter reaches, as bits.
    pub fn voters_of(&self, arbiter: usize) -> u8 {
        let is_reached = |voter: &usize| *voter == arbiter || (self.answers(*voter) && self.has_path(arbiter, *voter));
        (0..self.voters.len()).filter(is_reached).fold(0, |all, voter| all | 1 << voter)
    }

    /// Those of them by whose count no older lease runs.
    pub fn over(&self, of: u8, mono: Mono) -> u8 {
        let is_over = |voter: &usize| of & 1 << voter != 0 && self.voters[*voter].older_runs_for(mono).is_zero();
        (0..self.voters.len()).filter(is_over).fold(0, |all, voter| all | 1 << voter)
    }

    /// Has these voters seal an epoch; those that have, and the largest that one of them had sealed before.
    pub fn seal(&mut self, voters: u8, epoch: Epoch) -> (u8, Epoch) {
        let (mut sealed, mut larger) = (0, Epoch::ZERO);
        for voter in (0..self.voters.len()).filter(|voter| voters & 1 << voter != 0) {
            self.voters[voter].seal(epoch);
            self.learned(voter);
            match self.voters[voter].sealed() {
                is if is == epoch => sealed |= 1 << voter,
                is => larger = larger.max(is),
            }
        }
        (sealed, larger)
    }

    /// The agent is told that its member is primary of that epoch. `None`: it refuses.
    pub fn appoint(&mut self, setup: &Setup, member: usize, epoch: Epoch, notes: &mut Notes) -> Option<()> {
        let voter = party(member);
        let claimed = self.voters[voter].claim(&MEMBERS[member].into(), epoch);
        if !matches!(claimed, Ok(()) | Err(No::LeaseRuns)) && setup.bug != Bug::ObeysOldEpochs {
            return None;
        }
        let it = self.member(member);
        if it.appointed != Some(epoch) {
            it.appointed = Some(epoch);
            it.gate_until = None;
            it.late = None;
            if let Some(holder) = &mut it.holder {
                holder.reset();
            }
        }
        it.fenced = None;
        if setup.has_lease && self.members[member].has_broker() {
            self.renew(setup, member, notes);
        }
        Some(())
    }

    /// A host that was started again: its agent remembers what is durable, its gate is shut, its voter waits.
    pub fn boot_up(&mut self, setup: &Setup, member: usize) {
        let holder = setup.lease.clone().map(coroner::lease::holder::Holder::new);
        let it = Arc::make_mut(&mut self.members[member]);
        it.up = true;
        it.off = false;
        it.frozen = false;
        it.gate_until = None;
        it.late = None;
        it.holder = holder;
        self.restart_voter(setup, party(member));
    }
}
