//! Clients that write, standbys that are fed, processes and hosts that end and begin.

use super::{
    Replication,
    host::MS,
    world::{Happening, World},
};
use crate::model::{Epoch, Role};

impl World<'_> {
    // ---- clients and replication -------------------------------------------------------------------------------

    /// Whether what the leader writes reaches the standby.
    pub(super) fn is_fed(&self, standby: usize, leader: usize) -> bool {
        let (s, l) = (&self.members[standby], &self.members[leader]);
        s.follows == Some(leader)
            && s.role == Role::Standby
            && s.answers(&self.hosts[s.host], self.now)
            && l.answers(&self.hosts[l.host], self.now)
            && self.network.both_ways(s.host, l.host)
    }

    pub(super) fn write(&mut self, node: usize) {
        self.after(self.write_every, Happening::Write { node });
        let n = &self.nodes[node];
        if !n.is_alive || n.is_idle || !self.hosts[n.host].runs(self.now) {
            return;
        }
        let (host, follows, epoch) = (n.host, n.follows, n.epoch);
        self.nodes[node].attempted += 1;
        let Some(member) = follows else { return };
        let serving = self.serving_epoch(member);
        let m = &self.members[member];
        let is_let_through = !self.nodes[node].drops.contains(&member)
            && self.network.both_ways(host, m.host)
            && m.could_acknowledge(&self.hosts[m.host], self.now)
            // Who has seen a larger epoch takes nothing of a smaller one.
            && (serving >= epoch || serving == Epoch::ZERO);
        if !is_let_through {
            return;
        }
        let fed: Vec<usize> = (0..self.members.len())
            .filter(|s| *s != member && !self.members[*s].is_lagging && self.is_fed(*s, member))
            .collect();
        self.writes += 1;
        let entry = self.writes;
        self.members[member].log.push(entry);
        let is_sync = self.setting.replication == Replication::Sync;
        if is_sync {
            // Written here, and not acknowledged: nobody was told that it is safe.
            if fed.is_empty() {
                return;
            }
            for standby in fed {
                self.replicate(member, standby);
            }
        } else {
            for to in fed {
                let delay = self.network.delay.1 + self.random.within(0, 20 * MS);
                self.after(delay, Happening::Replicate { from: member, to });
            }
        }
        let n = &mut self.nodes[node];
        n.received += 1;
        n.last_received = Some(self.now);
        let position = self.members[member].position();
        self.checks.acknowledged(self.now, node, member, serving, entry, position);
    }

    /// In whose name it serves: the epoch for which its gate was opened; without one, that of the broker itself.
    pub(super) fn serving_epoch(&self, member: usize) -> Epoch {
        let m = &self.members[member];
        if m.has_gate { m.gate_epoch } else { m.epoch }
    }

    pub(super) fn replicate(&mut self, from: usize, to: usize) {
        if self.members[to].is_lagging || !self.is_fed(to, from) {
            return;
        }
        let common = self.members[from].common(&self.members[to]);
        if common < self.members[to].log.len() {
            // A log that forked is not fed.
            return;
        }
        let tail = self.members[from].log[common..].to_vec();
        self.members[to].log.extend(tail);
    }

    // ---- processes ---------------------------------------------------------------------------------------------

    /// The broker's process ends. Its agent is told by the kernel at once.
    pub(super) fn kill_broker(&mut self, member: usize) {
        let m = &mut self.members[member];
        if !m.is_alive {
            return;
        }
        m.die();
        let life = m.life;
        self.tell_with(member, |name| format!("{name}: the broker's process ends"));
        if let Some(after) = self.setting.restarts_after {
            self.after(self.ns(after), Happening::Restart { member, life });
        }
        if self.agent_runs(member) {
            self.schedule_evidence(member);
        }
    }

    pub(super) fn schedule_evidence(&mut self, member: usize) {
        let at = self.now + MS;
        if let Some(agent) = &mut self.members[member].agent {
            agent.beat_at = at;
            self.at(at, Happening::Beat { member });
        }
    }

    pub(super) fn restart_broker(&mut self, member: usize, life: u32) {
        let m = &mut self.members[member];
        if m.is_alive || m.life != life || m.is_inhibited || !self.hosts[m.host].is_on {
            return;
        }
        m.start();
        let role = m.role;
        self.coverage.hit("world: a supervisor restarts the broker");
        self.tell_with(member, |name| format!("{name}: is started again, as a {role}"));
        if self.agent_runs(member) {
            self.schedule_evidence(member);
            self.renew_soon(member);
        }
    }

    /// The broker is started again by a person, or as its fence is lifted.
    pub(super) fn revive(&mut self, member: usize) {
        let m = &mut self.members[member];
        if !m.is_inhibited && self.hosts[m.host].is_on && !m.is_alive {
            m.start();
            let role = m.role;
            self.tell_with(member, |name| format!("{name}: is started, as a {role}"));
            if self.agent_runs(member) {
                self.schedule_evidence(member);
                self.renew_soon(member);
            }
        }
    }

    pub(super) fn power_off(&mut self, host: usize) {
        self.hosts[host].is_on = false;
        self.hosts[host].asleep_since = None;
        if let Some(member) = self.member_on(host) {
            let m = &mut self.members[member];
            m.die();
            m.gate = None;
            if let Some(agent) = &mut m.agent {
                agent.is_up = false;
            }
        } else if host < self.arbiters.len() {
            self.stop_arbiter(host);
        }
    }

    /// The host boots. Its gate is shut until somebody opens it; the broker's unit is enabled.
    pub(super) fn power_on(&mut self, host: usize) {
        if self.hosts[host].is_on {
            return;
        }
        self.hosts[host].is_on = true;
        if let Some(member) = self.member_on(host) {
            self.members[member].gate = None;
            if self.members[member].agent.is_some() {
                self.start_agent(member);
            }
            self.revive(member);
        } else if host < self.arbiters.len() {
            self.start_arbiter(host);
        }
    }

    pub(super) const fn member_on(&self, host: usize) -> Option<usize> {
        match host.checked_sub(self.arbiters.len()) {
            Some(member) if member < self.members.len() => Some(member),
            _ => None,
        }
    }

    pub(super) fn resume(&mut self, host: usize) {
        self.hosts[host].wake(self.now);
        self.tell_host(host, "goes on");
        if host < self.arbiters.len() {
            self.arbiter_goes_on(host);
        }
        if let Some(member) = self.member_on(host) {
            self.beat_soon(member);
            self.renew_soon(member);
        }
    }

    pub(super) fn tell_host(&mut self, host: usize, what: &str) {
        if let Some(story) = &mut self.story {
            story.push((self.now, format!("{}: {what}", self.hosts[host].name)));
        }
    }
}
