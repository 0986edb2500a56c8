//! The one who asks for a lease: the agent of the primary.
//!
//! It counts from before it asked, on its CLOCK_BOOTTIME, which goes on in suspend: a holder that slept finds its lease
//! over. It knows nothing of sockets: the caller sends what [`Holder::ask`] numbers and tells who granted it.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use super::arithmetic::majority;
use crate::model::{PartyName, Time, policy::LeasePolicy};

/// Requests remembered at most. Those older than the lease's length are worthless and go first.
const REQUESTS: usize = 256;

/// A request under way.
#[derive(Clone, Debug)]
struct Request {
    number: u64,
    sent: Time,
    granted_by: BTreeSet<PartyName>,
}

/// One appointment's lease.
#[derive(Clone, Debug)]
pub struct Holder {
    policy: LeasePolicy,
    requests: VecDeque<Request>,
    newest: u64,
    asked_at: Option<Time>,
    deadline: Option<Time>,
}

/// A request that reached a majority and carries the lease further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extended {
    /// Serve until then, on CLOCK_BOOTTIME, and not longer.
    pub deadline: Time,
    /// What was left of the lease before; `None`: it was not held.
    pub left_before: Option<Duration>,
}

impl Holder {
    /// Holds nothing yet.
    #[must_use]
    pub const fn new(policy: LeasePolicy) -> Self {
        Self { policy, requests: VecDeque::new(), newest: 0, asked_at: None, deadline: None }
    }

    /// Forgets the lease and everything asked for: no answer that is still on its way extends anything. Numbers go on.
    pub fn reset(&mut self) {
        self.requests.clear();
        self.asked_at = None;
        self.deadline = None;
    }

    /// Numbers a new request. To be called before it is sent: the lease counts from `now`.
    pub fn ask(&mut self, now: Time) -> u64 {
        let length = self.policy.length;
        self.requests.retain(|request| request.sent + length > now);
        if self.requests.len() >= REQUESTS {
            self.requests.pop_front();
        }
        self.newest += 1;
        self.asked_at = Some(now);
        self.requests.push_back(Request { number: self.newest, sent: now, granted_by: BTreeSet::new() });
        self.newest
    }

    /// When to ask next: at once if never, else a renewal's time after the last.
    #[must_use]
    pub fn next_ask(&self) -> Time {
        self.asked_at.map_or(Time::ZERO, |at| at + self.policy.renew_every)
    }

    /// A voter granted that request; the holder's own vote is told like the others. Some: the lease was extended.
    ///
    /// A request counts from when it was sent, however late its answers are; one that a majority grants too late for
    /// the local fence before its end extends nothing.
    pub fn granted(&mut self, now: Time, by: &PartyName, number: u64) -> Option<Extended> {
        if !self.policy.voters.contains(by) {
            return None;
        }
        let needed = majority(self.policy.voters.len());
        let request = self.requests.iter_mut().find(|request| request.number == number)?;
        request.granted_by.insert(by.clone());
        if request.granted_by.len() < needed {
            return None;
        }
        let deadline = request.sent + self.policy.length;
        let is_later = self.deadline.is_none_or(|old| deadline > old);
        if !is_later || deadline.before(self.policy.enforced_within) <= now {
            return None;
        }
        let left_before = self.remaining(now);
        self.deadline = Some(deadline);
        Some(Extended { deadline, left_before })
    }

    /// Who granted that request so far.
    #[must_use]
    pub fn granted_by(&self, number: u64) -> Option<&BTreeSet<PartyName>> {
        self.requests.iter().find(|request| request.number == number).map(|request| &request.granted_by)
    }

    /// When the lease ends.
    #[must_use]
    pub const fn deadline(&self) -> Option<Time> {
        self.deadline
    }

    /// When the local fence must begin: the deadline less the time that it takes.
    #[must_use]
    pub fn closes_at(&self) -> Option<Time> {
        self.deadline.map(|deadline| deadline.before(self.policy.enforced_within))
    }

    /// What is left until the local fence must begin; `None`: the lease is not held.
    #[must_use]
    pub fn remaining(&self, now: Time) -> Option<Duration> {
        self.closes_at().filter(|at| *at > now).map(|at| at.since(now))
    }

    /// Whether the lease was held and is over now; told once. It can be asked for again.
    pub fn expire(&mut self, now: Time) -> bool {
        let is_over = self.closes_at().is_some_and(|at| at <= now);
        if is_over {
            self.deadline = None;
        }
        is_over
    }

    /// The number of the newest request.
    #[must_use]
    pub const fn newest(&self) -> u64 {
        self.newest
    }

    /// The numbers it goes by.
    #[must_use]
    pub const fn policy(&self) -> &LeasePolicy {
        &self.policy
    }
}
