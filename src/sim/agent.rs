//! The agent beside a member: a real voter, a real holder, a gate in the kernel, orders by epoch and challenge.
//!
//! What it must not forget (sealed epoch, appointment, fence) is durable in the same moment here; what a disk does in
//! between is played in `tests/mesh`.

use std::{collections::BTreeMap, time::Duration};

use super::{
    host::MS,
    world::{Message, Voice, World},
};
use crate::{
    lease::{
        holder::Holder,
        voter::{Memory, Voter},
    },
    model::{
        Epoch, Role, Time,
        agent::{Evidence, GateState, LeaseState, MemberReport, ProcessIdentity, Watch},
        observation::RoleReport,
        policy::LeasePolicy,
    },
};

/// What is not answered is asked again this often.
pub(super) const REPEAT_EVERY: u64 = 20 * MS;

/// Which order, over repetitions: of which arbiter's life, by number.
pub(super) type OrderKey = (usize, u32, u32);

#[derive(Debug)]
pub(super) struct Agent {
    pub(super) is_up: bool,
    pub(super) paused_until: u64,
    pub(super) life: u32,
    pub(super) voter: Voter,
    /// What survives: the voter's memory, and the two below.
    memory: Memory,
    pub(super) appointed: Option<Epoch>,
    pub(super) fenced: Option<Epoch>,
    pub(super) holder: Option<Holder>,
    has_given_up: bool,
    /// Orders taken in this life, with what came of them.
    pub(super) taken: BTreeMap<OrderKey, Option<super::hands::Answer>>,
    /// Appointments that are answered once the lease is held.
    unanswered: Vec<OrderKey>,
    /// When its renewals and its beats are due; an older timer is void.
    pub(super) renew_at: u64,
    pub(super) beat_at: u64,
}

impl Agent {
    pub(super) fn new(now: crate::model::time::Mono, lease: Option<&LeasePolicy>) -> Self {
        Self {
            is_up: true,
            paused_until: 0,
            life: 0,
            voter: Voter::new(now, lease, Memory::default()),
            memory: Memory::default(),
            appointed: None,
            fenced: None,
            holder: lease.map(|lease| Holder::new(lease.clone())),
            has_given_up: false,
            taken: BTreeMap::new(),
            unanswered: Vec::new(),
            renew_at: 0,
            beat_at: 0,
        }
    }

    pub(super) const fn runs(&self, now: u64) -> bool {
        self.is_up && self.paused_until <= now
    }

    fn lease_state(&self, now: Time) -> LeaseState {
        let (Some(holder), Some(_)) = (&self.holder, self.appointed) else { return LeaseState::None };
        match holder.remaining(now) {
            Some(left) => LeaseState::Held { left },
            None if self.has_given_up => LeaseState::GivenUp,
            None => LeaseState::Wanted,
        }
    }
}

impl World<'_> {
    fn lease(&self) -> Option<&LeasePolicy> {
        self.setting.cluster_policy().failover.lease.as_ref()
    }

    pub(super) fn agent_runs(&self, member: usize) -> bool {
        let m = &self.members[member];
        self.hosts[m.host].runs(self.now) && m.agent.as_ref().is_some_and(|agent| agent.runs(self.now))
    }

    /// The agent is started again, with what it must not forget. The kernel's gate is as it was.
    pub(super) fn start_agent(&mut self, member: usize) {
        let lease = self.lease().cloned();
        let mono = self.hosts[self.members[member].host].moment(self.now).mono;
        let m = &mut self.members[member];
        let Some(agent) = &mut m.agent else { return };
        let memory = agent.memory.clone();
        *agent = Agent {
            life: agent.life + 1,
            appointed: agent.appointed,
            fenced: agent.fenced,
            memory: memory.clone(),
            voter: Voter::new(mono, lease.as_ref(), memory),
            ..Agent::new(mono, lease.as_ref())
        };
        if agent.appointed.is_none() {
            m.gate = None;
        }
        self.beat_soon(member);
        self.renew_soon(member);
    }

    pub(super) fn beat_soon(&mut self, member: usize) {
        self.schedule_beat(member, 0);
    }

    fn schedule_beat(&mut self, member: usize, after: u64) {
        let at = self.now + after;
        if let Some(agent) = &mut self.members[member].agent {
            agent.beat_at = at;
            self.at(at, super::world::Happening::Beat { member });
        }
    }

    pub(super) fn renew_soon(&mut self, member: usize) {
        let now = self.now;
        if let Some(agent) = &mut self.members[member].agent
            && agent.holder.is_some()
        {
            agent.renew_at = now;
            self.at(now, super::world::Happening::Renew { member });
        }
    }

    /// What the agent tells of its member.
    pub(super) fn report(&self, member: usize) -> Option<MemberReport> {
        let m = &self.members[member];
        let agent = m.agent.as_ref()?;
        let host = &self.hosts[m.host];
        let boot = host.boot(self.now);
        let is_frozen = m.frozen_since.is_some();
        let makes_none = m.frozen_since.is_some_and(|since| self.now - since >= self.ns(self.setting.progress_timeout));
        let watched = [
            (Watch::Process, !m.is_alive),
            (Watch::Cgroup, !m.is_alive),
            (Watch::Unit, !m.is_alive),
            (Watch::Listener, !m.is_alive),
            (Watch::Frozen, is_frozen),
            (Watch::Stuck, is_frozen),
            (Watch::Progress, makes_none),
            (Watch::Disk, m.is_full),
        ];
        let evidence = watched.into_iter().map(|(watch, is_so)| Evidence {
            watch,
            certainty: crate::model::agent::Certainty::Proven,
            is_so,
            detail: String::new(),
        });
        let answers = m.answers(host, self.now);
        Some(MemberReport {
            identity: ProcessIdentity { boot_id: String::new(), pid: 1, start_ticks: u64::from(m.life) },
            epoch: agent.voter.sealed(),
            appointed: agent.appointed,
            lease: agent.lease_state(boot),
            renewals: None,
            gate: match (m.has_gate, m.is_gate_open(host, self.now)) {
                (false, _) => GateState::None,
                (true, true) => GateState::Open,
                (true, false) => GateState::Closed,
            },
            evidence: evidence.collect(),
            role: answers.then(|| self.role_report(member)),
            role_age: answers.then_some(Duration::ZERO),
        })
    }

    pub(super) fn role_report(&self, member: usize) -> RoleReport {
        let m = &self.members[member];
        let leader = m.follows.filter(|_| m.role == Role::Standby);
        RoleReport {
            role: m.role,
            position: Some(m.position()),
            link_up: leader.map(|leader| self.is_fed(member, leader)),
            follows: leader.map(|leader| self.setting.cluster_policy().members[leader].address.clone()),
            lineage: None,
            epoch: Some(m.epoch),
            priority: None,
        }
    }

    /// The agent beats: to every arbiter, by whatever path is left.
    pub(super) fn beat(&mut self, member: usize) {
        let now = self.now;
        let due = self.members[member].agent.as_ref().map(|agent| agent.beat_at);
        if due != Some(now) {
            return;
        }
        if !self.agent_runs(member) {
            let again = self.resumes_at(member).max(now + 50 * MS);
            return self.schedule_beat(member, again - now);
        }
        let Some(report) = self.report(member) else { return };
        let host = self.members[member].host;
        let challenge = self.hosts[host].boot(now);
        let life = self.members[member].agent.as_ref().map_or(0, |agent| agent.life);
        for arbiter in 0..self.arbiters.len() {
            let report = Box::new(report.clone());
            self.send(host, arbiter, Message::Beat { member, life, challenge, report });
        }
        self.schedule_beat(member, self.ns(self.setting.beat_every));
    }

    /// When the agent's process goes on, as far as is known.
    fn resumes_at(&self, member: usize) -> u64 {
        let m = &self.members[member];
        let agent = m.agent.as_ref().map_or(0, |agent| agent.paused_until);
        agent.max(self.hosts[m.host].paused_until)
    }

    fn may_renew(&self, member: usize) -> bool {
        let m = &self.members[member];
        let is_stuck = m.frozen_since.is_some_and(|since| self.now - since >= self.ns(self.setting.progress_timeout));
        m.is_alive && !is_stuck
    }

    /// Asks for the lease when it is time.
    pub(super) fn renew(&mut self, member: usize) {
        let now = self.now;
        let m = &self.members[member];
        let Some(agent) = &m.agent else { return };
        if agent.renew_at != now {
            return;
        }
        let Some(lease) = self.lease().cloned() else { return };
        let mut after = self.ns(lease.renew_every);
        if !self.agent_runs(member) {
            let at = self.resumes_at(member).max(now + 10 * MS);
            self.renew_at(member, at);
            return;
        }
        self.expire(member);
        let moment = self.hosts[self.members[member].host].moment(now);
        let may_renew = self.may_renew(member);
        let names = &self.setting.cluster_policy().members;
        let name = names[member].name.clone();
        let m = &mut self.members[member];
        let host = m.host;
        let Some(agent) = &mut m.agent else { return };
        let (Some(epoch), Some(holder)) = (agent.appointed, &mut agent.holder) else { return };
        if !may_renew || agent.has_given_up {
            self.renew_at(member, now + after);
            return;
        }
        if holder.remaining(moment.boot).is_none() {
            after = after.min(REPEAT_EVERY);
        }
        let (life, request) = (agent.life, holder.ask(moment.boot));
        let mut own = false;
        for voter in &lease.voters {
            match self.voices.get(voter).copied() {
                Some(Voice::Member(voice)) if voice == member => own = true,
                Some(voice) => {
                    let to = self.host_of(voice);
                    self.send(host, to, Message::Renew { voice, member, life, epoch, request });
                }
                None => {}
            }
        }
        if own {
            let agent = self.members[member].agent.as_mut();
            let granted = agent.is_some_and(|agent| agent.voter.grant(moment.mono, &name, epoch).is_ok());
            self.voter_changed(member);
            if granted {
                self.granted(member, host, epoch, request);
            }
        }
        self.renew_at(member, now + after);
    }

    fn renew_at(&mut self, member: usize, at: u64) {
        if let Some(agent) = &mut self.members[member].agent {
            agent.renew_at = at;
            self.at(at, super::world::Happening::Renew { member });
        }
    }

    /// A voter granted. `by`: its place among the voters' hosts.
    pub(super) fn granted(&mut self, member: usize, by: usize, epoch: Epoch, request: u64) {
        let boot = self.hosts[self.members[member].host].boot(self.now);
        let may_renew = self.may_renew(member);
        let by = self.party_at(by);
        let lag = self.lease().map_or(0, |lease| self.ns(lease.enforced_within));
        let lag = self.random.within(0, lag.max(1));
        let m = &mut self.members[member];
        let Some(agent) = &mut m.agent else { return };
        if agent.appointed != Some(epoch) || !may_renew || agent.has_given_up {
            return;
        }
        let Some(holder) = &mut agent.holder else { return };
        let Some(extended) = holder.granted(boot, &by, request) else { return };
        m.gate = Some(extended.deadline);
        m.gate_epoch = epoch;
        m.gate_lag = lag;
        let answered = std::mem::take(&mut agent.unanswered);
        for key in answered {
            self.answer(member, key, super::hands::Answer::done("the lease is held"));
        }
        if extended.left_before.is_none() {
            self.beat_soon(member);
        }
    }

    /// What ran out is over. Where there is no gate, the agent itself stops the broker.
    fn expire(&mut self, member: usize) {
        let boot = self.hosts[self.members[member].host].boot(self.now);
        let m = &mut self.members[member];
        let Some(holder) = m.agent.as_mut().and_then(|agent| agent.holder.as_mut()) else { return };
        if holder.expire(boot) {
            self.tell_with(member, |name| format!("{name}: the lease is over, the gate is shut"));
            self.beat_soon(member);
        }
    }

    /// The voter may have learned of a larger epoch: the own lease of an older one is given up at once.
    pub(super) fn voter_changed(&mut self, member: usize) {
        let m = &mut self.members[member];
        let Some(agent) = &mut m.agent else { return };
        agent.voter.take_dirty();
        agent.memory = agent.voter.memory().clone();
        if agent.appointed.is_some_and(|epoch| epoch < agent.voter.sealed()) {
            self.step_down(member);
        }
    }

    /// Closes the gate and forgets lease and appointment.
    pub(super) fn step_down(&mut self, member: usize) {
        let boot = self.hosts[self.members[member].host].boot(self.now);
        let m = &mut self.members[member];
        let Some(agent) = &mut m.agent else { return };
        agent.appointed = None;
        if let Some(holder) = &mut agent.holder {
            holder.reset();
        }
        // Nothing leaves any more once the kernel has taken the new rule.
        m.gate = m.gate.map(|until| until.min(boot));
        let unanswered = std::mem::take(&mut agent.unanswered);
        for key in unanswered {
            self.answer(member, key, super::hands::Answer::OldEpoch);
        }
        self.beat_soon(member);
    }

    /// The member is to be primary of that epoch.
    pub(super) fn appoint(&mut self, member: usize, key: OrderKey, epoch: Epoch) {
        let name = self.setting.cluster_policy().members[member].name.clone();
        let has_lease = self.lease().is_some();
        let m = &mut self.members[member];
        let Some(agent) = &mut m.agent else { return };
        if let Err(crate::lease::voter::No::Other | crate::lease::voter::No::Sealed) = agent.voter.claim(&name, epoch) {
            return self.answer(member, key, super::hands::Answer::OldEpoch);
        }
        if agent.appointed != Some(epoch) {
            agent.appointed = Some(epoch);
            if let Some(holder) = &mut agent.holder {
                holder.reset();
            }
            m.gate = None;
        }
        agent.fenced = None;
        agent.has_given_up = false;
        if has_lease {
            agent.unanswered.push(key);
        } else {
            m.gate = Some(Time(u64::MAX));
            m.gate_epoch = epoch;
            self.answer(member, key, super::hands::Answer::done("the gate is open"));
        }
        self.voter_changed(member);
        self.renew_soon(member);
        self.beat_soon(member);
    }

    /// A fence of its own begins: the lease ends with it, whatever it does.
    pub(super) fn set_fenced(&mut self, member: usize, epoch: Option<Epoch>) {
        if epoch.is_some() {
            self.step_down(member);
        }
        if let Some(agent) = &mut self.members[member].agent {
            agent.fenced = epoch;
        }
        self.voter_changed(member);
    }

    /// Another member's agent asks a voter for its grant.
    pub(super) fn renew_came(&mut self, voice: Voice, member: usize, life: u32, epoch: Epoch, request: u64) {
        let name = self.setting.cluster_policy().members[member].name.clone();
        let host = self.host_of(voice);
        let mono = self.hosts[host].moment(self.now).mono;
        let Some(voter) = self.voter(voice) else { return };
        let granted = voter.grant(mono, &name, epoch);
        self.changed(voice);
        if granted.is_ok() {
            let to = self.members[member].host;
            self.send(host, to, Message::Granted { member, life, by: host, epoch, request });
        }
    }

    /// An arbiter asks a voter to refuse older epochs.
    pub(super) fn seal_came(&mut self, voice: Voice, arbiter: usize, epoch: Epoch) {
        let Some(voter) = self.voter(voice) else { return };
        voter.seal(epoch);
        self.changed(voice);
        self.tell_sealed(voice, arbiter);
    }

    /// Tells an arbiter how far the seal is, and again once no older lease runs by this voter's count.
    pub(super) fn tell_sealed(&mut self, voice: Voice, arbiter: usize) {
        let host = self.host_of(voice);
        let mono = self.hosts[host].moment(self.now).mono;
        let rate = self.hosts[host].rate;
        let Some(voter) = self.voter(voice) else { return };
        let (epoch, left) = (voter.sealed(), voter.older_runs_for(mono));
        if !left.is_zero() {
            let left = self.ns(left) * 1_000 / rate + 1;
            self.at(self.now + left, super::world::Happening::TellSealed { voice, arbiter });
        }
        self.send(host, arbiter, Message::Sealed { by: host, epoch, is_over: left.is_zero() });
    }

    fn changed(&mut self, voice: Voice) {
        if let Voice::Member(member) = voice {
            self.voter_changed(member);
        }
    }

    pub(super) fn voter(&mut self, voice: Voice) -> Option<&mut Voter> {
        match voice {
            Voice::Arbiter(arbiter) => self.arbiters[arbiter].voter.as_mut(),
            Voice::Member(member) => self.members[member].agent.as_mut().map(|agent| &mut agent.voter),
        }
    }
}
