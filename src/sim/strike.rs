//! Faults as they strike the world, pass, and are healed.

use std::time::Duration;

use super::{
    fault::{Fault, Order, STORE, Schedule},
    hands,
    host::{MS, Network, SEC},
    store::StoreMode,
    world::{Happening, World},
};
use crate::model::{Command, Event, Operator, incident::IncidentState};

impl World<'_> {
    /// Puts the schedule's faults before the world, from `start` on.
    pub(super) fn schedule(&mut self, start: u64, schedule: &Schedule) {
        self.faults.clone_from(&schedule.faults);
        for (index, timed) in schedule.faults.iter().enumerate() {
            let at = start + self.ns(timed.at);
            self.at(at, Happening::Fault(index));
            if let Some(for_) = timed.for_ {
                self.at(at + self.ns(for_), Happening::Undo(index));
            }
        }
        self.at(start + self.ns(schedule.heal_after), Happening::Heal);
    }

    /// Whether the hosts that a fault names exist in this world.
    fn is_possible(&self, fault: &Fault) -> bool {
        let (hosts, members, nodes) = (self.hosts.len(), self.members.len(), self.nodes.len());
        match fault {
            Fault::KillBroker { member }
            | Fault::Freeze { member }
            | Fault::FillDisk { member }
            | Fault::Lag { member }
            | Fault::StartBroker { member }
            | Fault::KillAgent { member }
            | Fault::PauseAgent { member } => *member < members,
            Fault::PowerOff { host }
            | Fault::PowerOn { host }
            | Fault::Suspend { host }
            | Fault::PauseHost { host }
            | Fault::Isolate { host } => *host < hosts,
            Fault::CutOneWay { from: a, to: b } | Fault::Cut { a, b } => *a < hosts && *b < hosts && a != b,
            Fault::CutStore { arbiter } | Fault::KillArbiter { arbiter } => *arbiter < self.arbiters.len(),
            Fault::KillNode { node } | Fault::Deafen { node } => *node < nodes,
            _ => true,
        }
    }

    pub(super) fn strike(&mut self, index: usize) {
        let Some(timed) = self.faults.get(index).cloned() else { return };
        if !self.is_possible(&timed.fault) {
            return;
        }
        self.coverage.pair(timed.fault.kind(), self.step());
        let words = timed.fault.words(self.setting);
        self.tell(|| format!("FAULT: {words}"));
        let until = timed.for_.map_or(u64::MAX, |for_| self.now + self.ns(for_));
        match timed.fault {
            Fault::KillBroker { member } => self.kill_broker(member),
            Fault::KillPrimary => {
                if let Some(member) = (0..self.members.len()).find(|member| self.serves(*member)) {
                    self.kill_broker(member);
                }
            }
            Fault::Freeze { member } => {
                let now = self.now;
                self.members[member].frozen_since.get_or_insert(now);
                if self.agent_runs(member) {
                    self.schedule_evidence(member);
                }
            }
            Fault::FillDisk { member } => self.members[member].is_full = true,
            Fault::Lag { member } => self.members[member].is_lagging = true,
            Fault::KillAgent { member } => {
                if let Some(agent) = &mut self.members[member].agent {
                    agent.is_up = false;
                }
            }
            Fault::PauseAgent { member } => {
                if let Some(agent) = &mut self.members[member].agent {
                    agent.paused_until = agent.paused_until.max(until);
                }
            }
            Fault::PowerOff { host } => self.power_off(host),
            Fault::PowerOn { host } => self.power_on(host),
            Fault::StartBroker { member } => {
                self.members[member].is_inhibited = false;
                self.revive(member);
            }
            Fault::Suspend { host } => {
                if self.hosts[host].is_on && host < self.arbiters.len() + self.members.len() {
                    let now = self.now;
                    self.hosts[host].asleep_since.get_or_insert(now);
                    self.host_stops(host);
                }
            }
            Fault::PauseHost { host } => {
                let until = until.min(self.now + 600 * SEC);
                self.hosts[host].paused_until = self.hosts[host].paused_until.max(until);
                self.host_stops(host);
                self.at(until, Happening::Resume { host });
            }
            Fault::CutOneWay { from, to } => {
                self.network.cuts.insert((from, to));
            }
            Fault::Cut { a, b } => self.network.cuts.extend([(a, b), (b, a)]),
            Fault::Isolate { host } => {
                for other in (0..self.hosts.len()).filter(|other| *other != host) {
                    self.network.cuts.extend([(host, other), (other, host)]);
                }
                self.network.cuts.extend([(host, STORE), (STORE, host)]);
            }
            Fault::CutStore { arbiter } => self.network.cuts.extend([(arbiter, STORE), (STORE, arbiter)]),
            Fault::Lose { percent } => self.network.loss_percent = percent.min(90),
            Fault::Repeat { percent } => {
                self.network.twice_percent = percent;
                self.network.delay.1 = self.network.delay.1.max(30 * MS);
            }
            Fault::Slow { ms } => self.network.delay.1 = (ms * MS).max(2 * MS),
            Fault::KillArbiter { arbiter } => self.stop_arbiter(arbiter),
            Fault::Store { mode } => {
                self.store.mode = mode;
                self.store_is(!matches!(mode, StoreMode::Fails | StoreMode::Hangs));
            }
            Fault::KillNode { node } => self.nodes[node].is_alive = false,
            Fault::Deafen { node } => self.nodes[node].is_deaf = true,
            Fault::Idle => self.nodes.iter_mut().for_each(|node| node.is_idle = true),
            Fault::Act { kind, behaviour } => {
                if let Some(kind) = hands::KINDS.iter().find(|known| **known == kind) {
                    self.act_faults.push((kind, behaviour));
                }
            }
            Fault::CutPowerControl => self.is_power_cut_off = true,
            Fault::Person { order } => self.person(order),
        }
    }

    fn host_stops(&mut self, host: usize) {
        if host < self.arbiters.len() {
            self.falls_asleep(host);
        }
    }

    /// Of one fault, what passes by itself.
    pub(super) fn undo(&mut self, index: usize) {
        let Some(timed) = self.faults.get(index).cloned() else { return };
        if !self.is_possible(&timed.fault) {
            return;
        }
        match timed.fault {
            Fault::Freeze { member } => self.thaw(member),
            Fault::FillDisk { member } => self.members[member].is_full = false,
            Fault::Lag { member } => self.members[member].is_lagging = false,
            Fault::KillAgent { member } => {
                if self.hosts[self.members[member].host].is_on
                    && self.members[member].agent.as_ref().is_some_and(|agent| !agent.is_up)
                {
                    self.start_agent(member);
                }
            }
            Fault::PauseAgent { member } => self.agent_goes_on(member),
            Fault::PowerOff { host } => self.people_power_on(host),
            Fault::Suspend { host } => self.wake(host),
            Fault::CutOneWay { from, to } => {
                self.network.cuts.remove(&(from, to));
            }
            Fault::Cut { a, b } => self.mend(|cut| *cut == (a, b) || *cut == (b, a)),
            Fault::Isolate { host } => self.mend(|(a, b)| *a == host || *b == host),
            Fault::CutStore { arbiter } => {
                self.mend(|(a, b)| (*a == arbiter && *b == STORE) || (*a == STORE && *b == arbiter));
            }
            Fault::Lose { .. } => self.network.loss_percent = 0,
            Fault::Repeat { .. } => self.network.twice_percent = 0,
            Fault::Slow { .. } => self.network.delay = Network::good().delay,
            Fault::KillArbiter { arbiter } => self.start_arbiter(arbiter),
            Fault::Store { .. } => {
                self.store.mode = StoreMode::Works;
                self.store_is(true);
            }
            Fault::KillNode { node } => self.nodes[node].is_alive = true,
            Fault::Deafen { node } => self.nodes[node].is_deaf = false,
            Fault::Idle => self.nodes.iter_mut().for_each(|node| node.is_idle = false),
            Fault::CutPowerControl => self.is_power_cut_off = false,
            Fault::KillBroker { .. }
            | Fault::KillPrimary
            | Fault::PowerOn { .. }
            | Fault::StartBroker { .. }
            | Fault::PauseHost { .. }
            | Fault::Act { .. }
            | Fault::Person { .. } => return,
        }
        let words = timed.fault.words(self.setting);
        self.tell(|| format!("over: {words}"));
    }

    fn mend(&mut self, is_it: impl Fn(&(usize, usize)) -> bool) {
        self.network.cuts.retain(|cut| !is_it(cut));
    }

    fn thaw(&mut self, member: usize) {
        if self.members[member].frozen_since.take().is_some() && self.agent_runs(member) {
            self.schedule_evidence(member);
            self.renew_soon(member);
        }
    }

    fn agent_goes_on(&mut self, member: usize) {
        if let Some(agent) = &mut self.members[member].agent {
            agent.paused_until = 0;
        }
        self.beat_soon(member);
        self.renew_soon(member);
    }

    fn wake(&mut self, host: usize) {
        if self.hosts[host].asleep_since.is_some() {
            self.after(0, Happening::Resume { host });
        }
    }

    /// People turn a host on again: not one that is fenced and that neither its own gate nor a firewall before it would
    /// keep from serving at once. That they should not is what the incident told them; `Fault::PowerOn` plays that they do.
    fn people_power_on(&mut self, host: usize) {
        let is_safe = match self.member_on(host) {
            Some(member) => {
                let m = &self.members[member];
                m.has_gate || !m.shut_out.is_empty() || !self.is_quarantined(member)
            }
            None => true,
        };
        if is_safe {
            self.power_on(host);
        }
    }

    fn is_quarantined(&self, member: usize) -> bool {
        let was_fenced = self.store.state.as_ref().is_some_and(|s| s.quarantined.contains_key(&self.names[member]));
        let is_being =
            self.store.incidents.values().any(|kept| {
                kept.incident.as_ref().is_some_and(|i| !i.is_closed() && i.old_primary == self.names[member])
            });
        was_fenced || is_being
    }

    fn store_is(&mut self, ok: bool) {
        for arbiter in 0..self.arbiters.len() {
            if self.arbiter_runs(arbiter) {
                self.event(arbiter, Event::StoreHealth { ok, detail: String::new() });
            }
        }
    }

    fn person(&mut self, order: Order) {
        let cluster = self.setting.cluster.clone();
        let reason = || "because they say so".to_owned();
        let command = match order {
            Order::Switchover => Command::Switchover { cluster, to: None, reason: reason(), skip_guards: Vec::new() },
            Order::Failover => {
                Command::Failover { cluster, to: None, reason: reason(), accept_loss: false, skip_guards: Vec::new() }
            }
            Order::Abort => Command::Abort { cluster },
            Order::Continue => Command::Continue { cluster, accept_loss: true },
            Order::Pause => Command::Pause {
                cluster: Some(cluster),
                owner: String::new(),
                reason: reason(),
                for_: Some(Duration::from_secs(10)),
            },
            Order::Acknowledge => {
                let Some(id) = self.store.newest().and_then(|kept| kept.incident.as_ref()).map(|i| i.id.clone()) else {
                    return;
                };
                Command::Acknowledge { incident: id, cluster: Some(cluster), note: String::new() }
            }
        };
        if let Some(arbiter) = (0..self.arbiters.len()).find(|a| self.arbiter_runs(*a) && self.leads(*a)) {
            let by = Operator("ann".into());
            self.event(arbiter, Event::Commanded { by, command, reply_to: self.events });
        }
    }

    /// The report of a failover says who is fenced and not back, and what is left to do: a person does it.
    pub(super) fn a_person_brings_back(&mut self) {
        let mut quarantined = self.store.state.iter().flat_map(|state| state.quarantined.keys());
        let Some(member) = quarantined.next().cloned() else { return };
        self.tell(|| format!("a person says `coroner rejoin {member}`"));
        self.coverage.hit("world: a person brings back who stayed away");
        let command = Command::Rejoin { cluster: self.setting.cluster.clone(), member };
        if let Some(arbiter) = (0..self.arbiters.len()).find(|a| self.arbiter_runs(*a) && self.leads(*a)) {
            let by = Operator("ann".into());
            self.event(arbiter, Event::Commanded { by, command, reply_to: self.events });
        }
    }

    /// Everything is made well again. What is fenced stays so.
    pub(super) fn heal(&mut self) {
        self.tell(|| "everything heals".to_owned());
        self.network = Network::good();
        self.act_faults.clear();
        self.is_power_cut_off = false;
        self.store.mode = StoreMode::Works;
        for host in 0..self.hosts.len() {
            self.people_power_on(host);
            self.wake(host);
            if self.hosts[host].paused_until > self.now {
                self.hosts[host].paused_until = self.now;
                self.after(0, Happening::Resume { host });
            }
        }
        for arbiter in 0..self.arbiters.len() {
            self.start_arbiter(arbiter);
        }
        self.store_is(true);
        for member in 0..self.members.len() {
            let m = &mut self.members[member];
            m.is_full = false;
            m.is_lagging = false;
            let is_agent_down = m.agent.as_ref().is_some_and(|agent| !agent.is_up) && self.hosts[m.host].is_on;
            if is_agent_down {
                self.start_agent(member);
            }
            self.agent_goes_on(member);
            self.thaw(member);
            self.revive(member);
        }
        for node in &mut self.nodes {
            node.is_alive = true;
            node.is_deaf = false;
            node.is_idle = false;
        }
    }

    /// Into which step of a failover this moment falls.
    fn step(&self) -> &'static str {
        let open = self.store.incidents.values().rev().filter_map(|kept| kept.incident.as_ref());
        match open
            .map(|incident| incident.state)
            .find(|state| !matches!(state, IncidentState::Resolved | IncidentState::Aborted))
        {
            None => "quiet",
            Some(IncidentState::Fencing) => "fencing",
            Some(IncidentState::CatchingUp) => "catching up",
            Some(IncidentState::Promoting) => "promoting",
            Some(IncidentState::Redirecting) => "redirecting",
            Some(IncidentState::Rejoining) => "rejoining",
            Some(_) => "held",
        }
    }
}
