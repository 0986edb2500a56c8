//! One who grants, or seals: the arbiters, and the agents of the members that may become primary.
//!
//! Two promises. *Sealed* is for ever and survives restarts: nothing older than the sealed epoch is granted, and the
//! sealed epoch to one member only. *The wait* is for `W` on CLOCK_MONOTONIC, which stands still in suspend: for that
//! long after a request was received, this voter helps nobody else to serve. It is forgotten by a restart, so a voter
//! that starts waits `W` from there.
//!
//! A voter is only as good as its memory: one whose durable state was lost or rolled back must not take part again under
//! its name before a person looked.

use std::time::Duration;

use crate::model::{Epoch, MemberName, policy::LeasePolicy, time::Mono};

/// What must be durable before anything that depends on it is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Nothing older is granted or obeyed.
    pub sealed: Epoch,
    /// Who has that epoch.
    pub holder: Option<MemberName>,
    /// The epoch was learned otherwise than by an arbiter's seal: nothing says that older leases were looked after, so
    /// it is granted only once this voter's own wait is over.
    pub is_unproven: bool,
    /// The longest wait under which a grant may have been given: a file that shortens the lease shortens nothing that
    /// was promised before.
    pub longest_wait: Duration,
}

/// Why a voter does not grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum No {
    /// A larger epoch is sealed.
    Sealed,
    /// The epoch is another member's.
    Other,
    /// An older lease may still run by this voter's count, and no arbiter's seal says that it was looked after.
    LeaseRuns,
}

/// One voter, in one cluster.
#[derive(Clone, Debug)]
pub struct Voter {
    memory: Memory,
    is_dirty: bool,
    wait: Duration,
    /// Until then, leases older than the sealed epoch may run.
    older_until: Mono,
    /// Until then, a lease of the sealed epoch may run.
    current_until: Option<Mono>,
}

impl Voter {
    /// A voter that just started. Without a policy it grants nothing and only remembers epochs.
    #[must_use]
    pub fn new(now: Mono, policy: Option<&LeasePolicy>, mut memory: Memory) -> Self {
        let wait = policy.map_or(Duration::ZERO, |policy| policy.wait);
        let older_until = now + wait.max(memory.longest_wait);
        let is_dirty = memory.longest_wait < wait;
        memory.longest_wait = memory.longest_wait.max(wait);
        Self { memory, is_dirty, wait, older_until, current_until: None }
    }

    /// What is to be made durable if anything changed since this was last asked: before anything else is said.
    pub fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.is_dirty)
    }

    /// The memory as it is to be kept.
    #[must_use]
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The largest epoch seen.
    #[must_use]
    pub const fn sealed(&self) -> Epoch {
        self.memory.sealed
    }

    /// Whose that epoch is.
    #[must_use]
    pub const fn holder(&self) -> Option<&MemberName> {
        self.memory.holder.as_ref()
    }

    /// How long a lease older than the sealed epoch may yet run, by this voter's count.
    #[must_use]
    pub const fn older_runs_for(&self, now: Mono) -> Duration {
        self.older_until.since(now)
    }

    /// How long a lease of the sealed epoch may yet run, by this voter's count; `None`: it granted none since it sealed, or
    /// started.
    #[must_use]
    pub fn current_runs_for(&self, now: Mono) -> Option<Duration> {
        self.current_until.map(|until| until.since(now))
    }

    /// An arbiter's seal: refuse older epochs for ever. A smaller epoch than the sealed one changes nothing.
    pub fn seal(&mut self, epoch: Epoch) {
        if epoch > self.memory.sealed {
            self.raise(epoch, None);
        }
        if epoch == self.memory.sealed && self.memory.is_unproven {
            self.memory.is_unproven = false;
            self.is_dirty = true;
        }
    }

    /// The member has this epoch, says its own agent or an arbiter's order, not a seal.
    ///
    /// # Errors
    /// The epoch is an old one, or another's. A larger one was adopted all the same.
    pub fn claim(&mut self, member: &MemberName, epoch: Epoch) -> Result<(), No> {
        if epoch < self.memory.sealed {
            return Err(No::Sealed);
        }
        if epoch > self.memory.sealed {
            // Whom this voter granted the epoch before goes on in a larger one: nobody else can have had a lease since. That it
            // merely claimed that epoch says nothing.
            let is_same = self.memory.holder.as_ref() == Some(member) && self.current_until.is_some();
            let is_unproven = self.memory.is_unproven || !is_same;
            self.raise(epoch, Some(member.clone()));
            self.memory.is_unproven = is_unproven;
        }
        match &self.memory.holder {
            Some(holder) if holder != member => Err(No::Other),
            Some(_) => Ok(()),
            None => {
                self.memory.holder = Some(member.clone());
                self.is_dirty = true;
                Ok(())
            }
        }
    }

    /// A larger epoch is in force elsewhere; whose, is not known.
    pub fn adopt(&mut self, epoch: Epoch) {
        if epoch > self.memory.sealed {
            self.raise(epoch, None);
            self.memory.is_unproven = true;
        }
    }

    /// A request of that member for a lease in that epoch, received at `now`. Granting is promising: the wait begins
    /// anew.
    ///
    /// # Errors
    /// It is not granted. A larger epoch was adopted all the same.
    pub fn grant(&mut self, now: Mono, member: &MemberName, epoch: Epoch) -> Result<(), No> {
        self.claim(member, epoch)?;
        if self.memory.is_unproven {
            if self.older_until > now {
                return Err(No::LeaseRuns);
            }
            self.memory.is_unproven = false;
            self.is_dirty = true;
        }
        self.current_until = self.current_until.max(Some(now + self.wait));
        Ok(())
    }

    /// The first wait is over: what an older file promised binds no more.
    pub fn settle(&mut self, now: Mono) {
        if self.memory.longest_wait > self.wait && self.older_until <= now {
            self.memory.longest_wait = self.wait;
            self.is_dirty = true;
        }
    }

    fn raise(&mut self, epoch: Epoch, holder: Option<MemberName>) {
        self.older_until = self.current_until.take().map_or(self.older_until, |until| until.max(self.older_until));
        self.memory.sealed = epoch;
        self.memory.holder = holder;
        self.memory.is_unproven = false;
        self.is_dirty = true;
    }
}
