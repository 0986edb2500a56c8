//! A node: it writes to whom it takes for primary, and counts what came of it.

use std::collections::BTreeSet;

use crate::model::{Epoch, observation::Arrivals};

/// A node that uses the service. Its host comes behind those of arbiters and members.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) host: usize,
    /// Its program runs.
    pub(super) is_alive: bool,
    /// It has nothing to send.
    pub(super) is_idle: bool,
    /// It takes no notice of a new primary.
    pub(super) is_deaf: bool,
    pub(super) follows: Option<usize>,
    pub(super) epoch: Epoch,
    pub(super) attempted: u64,
    pub(super) received: u64,
    pub(super) last_received: Option<u64>,
    /// Members whose traffic it drops.
    pub(super) drops: BTreeSet<usize>,
}

impl Node {
    pub(super) const fn new(host: usize) -> Self {
        Self {
            host,
            is_alive: true,
            is_idle: false,
            is_deaf: false,
            follows: None,
            epoch: Epoch::ZERO,
            attempted: 0,
            received: 0,
            last_received: None,
            drops: BTreeSet::new(),
        }
    }

    /// What it reports.
    pub(super) fn arrivals(&self, now: u64, names: &[crate::model::MemberName]) -> Arrivals {
        Arrivals {
            received: self.received,
            last_age: self.last_received.map(|at| std::time::Duration::from_nanos(now - at)),
            attempted: Some(self.attempted),
            acknowledged: Some(self.received),
            primary: self.follows.and_then(|member| names.get(member)).cloned(),
            epoch: self.epoch,
        }
    }

    /// It is told who is primary. It refuses an epoch that is smaller than one it has seen.
    pub(super) fn told(&mut self, member: usize, epoch: Epoch) -> bool {
        let takes = self.is_alive && !self.is_deaf && epoch >= self.epoch;
        if takes {
            self.follows = Some(member);
            self.epoch = epoch;
        }
        takes
    }
}
