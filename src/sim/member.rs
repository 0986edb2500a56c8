//! A broker: a role, a flag and a log, with what lies on it from outside.

use std::collections::BTreeSet;

use super::{agent::Agent, host::Host};
use crate::model::{Epoch, Role, Time};

/// One entry of a log: which write, and whether it was acknowledged to whoever sent it.
pub(super) type Entry = u32;

/// A member of the cluster. Its host has the number of the arbiters plus its own.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) host: usize,
    pub(super) agent: Option<Agent>,
    /// The process runs.
    pub(super) is_alive: bool,
    /// Its life: what was under way in an older one is gone.
    pub(super) life: u32,
    /// It is stopped or stuck: it takes connections and answers nothing.
    pub(super) frozen_since: Option<u64>,
    /// It answers and takes no write: its disk is full.
    pub(super) is_full: bool,
    /// It gets nothing from its primary, though it could.
    pub(super) is_lagging: bool,
    /// Nothing starts it again.
    pub(super) is_inhibited: bool,
    pub(super) role: Role,
    pub(super) is_read_only: bool,
    /// The largest epoch that the broker itself was given.
    pub(super) epoch: Epoch,
    pub(super) follows: Option<usize>,
    pub(super) log: Vec<Entry>,
    /// What it had and the new primary did not, put aside when it came back.
    pub(super) kept_apart: Vec<Entry>,
    /// Fences from outside of its host: firewalls, by place in the policy.
    pub(super) shut_out: BTreeSet<(usize, usize)>,
    /// Those of them that let the arbiters through.
    pub(super) admitted: BTreeSet<(usize, usize)>,
    /// The kernel's gate: open until then on its host's CLOCK_BOOTTIME. It outlives the agent.
    pub(super) gate: Option<Time>,
    /// In which epoch that was granted.
    pub(super) gate_epoch: Epoch,
    /// How long after its end the gate still lets something out, this time.
    pub(super) gate_lag: u64,
    pub(super) has_gate: bool,
    /// Whether it could acknowledge a write when that was last looked at.
    pub(super) did_serve: bool,
}

impl Member {
    /// Whether the process takes part in anything now.
    pub(super) const fn answers(&self, host: &Host, now: u64) -> bool {
        self.is_alive && self.frozen_since.is_none() && host.runs(now)
    }

    /// Whether the gate before its port lets clients through.
    pub(super) fn is_gate_open(&self, host: &Host, now: u64) -> bool {
        if !self.has_gate {
            return true;
        }
        self.gate.is_some_and(|until| {
            let end = host.true_time_of(until);
            now < end.saturating_add(self.gate_lag)
        })
    }

    /// Whether a client that reaches it could get a write acknowledged at this moment.
    pub(super) fn could_acknowledge(&self, host: &Host, now: u64) -> bool {
        self.role == Role::Primary
            && !self.is_read_only
            && !self.is_full
            && self.shut_out.is_empty()
            && self.answers(host, now)
            && self.is_gate_open(host, now)
    }

    /// Whether a firewall keeps the arbiters out.
    pub(super) fn is_shut_for_arbiters(&self) -> bool {
        !self.shut_out.is_subset(&self.admitted)
    }

    /// Where its log ends.
    pub(super) const fn position(&self) -> u64 {
        self.log.len() as u64
    }

    /// The process ends. What is on its disk stays.
    pub(super) const fn die(&mut self) {
        self.is_alive = false;
        self.frozen_since = None;
        self.life += 1;
    }

    /// It is started, as its files say.
    pub(super) const fn start(&mut self) {
        if !self.is_alive {
            self.is_alive = true;
            self.frozen_since = None;
        }
    }

    /// How many entries both logs begin with.
    pub(super) fn common(&self, other: &Self) -> usize {
        self.log.iter().zip(&other.log).take_while(|(a, b)| a == b).count()
    }
}
