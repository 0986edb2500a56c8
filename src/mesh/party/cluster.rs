//! What a party remembers of one cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{ClusterSetup, DurableCluster, MayStart, RenewalHealth, arbiter::Sealer};
use crate::{
    lease::{
        arithmetic::safety_hash,
        holder::Holder,
        voter::{Memory, Voter},
    },
    mesh::message::GrantRefusal,
    model::{
        Epoch, MemberName, PartyName, Time,
        agent::{LeaseState, MemberReport, OrderId},
        observation::Arrivals,
        time::Moment,
    },
};

/// See the module.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) setup: ClusterSetup,
    pub(super) safety: u64,
    pub(super) is_voter: bool,
    pub(super) voter: Voter,
    pub(super) guard: Option<Guard>,
    /// What the node counted, and when it was told.
    pub(super) arrivals: Option<(Time, Arrivals)>,
    pub(super) sealing: Option<Sealer>,
    /// Arbiters that are told once older leases are over by this voter's count, and when to look next.
    pub(super) awaiting: BTreeSet<PartyName>,
    pub(super) look_at: Option<Time>,
}

/// The guarded member.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) member: MemberName,
    pub(super) appointed: Option<Epoch>,
    pub(super) fenced: Option<Epoch>,
    pub(super) holder: Option<Holder>,
    pub(super) renew_at: Time,
    pub(super) report: MemberReport,
    pub(super) told_at: Time,
    pub(super) was_told: bool,
    pub(super) may_renew: bool,
    pub(super) is_starting: bool,
    pub(super) ran_at: Time,
    pub(super) has_given_up: bool,
    /// Appointments that are answered once the lease is held.
    pub(super) unanswered: BTreeSet<OrderId>,
    /// By voter, the newest request that it answered.
    pub(super) answered: BTreeMap<PartyName, u64>,
    /// By voter, why it refused last, since it granted last.
    pub(super) refused: BTreeMap<PartyName, GrantRefusal>,
    pub(super) health: RenewalHealth,
}

impl Guard {
    /// Remembers which request a voter answered. False: that one was never asked, and its answer says nothing.
    pub(super) fn note_answer(&mut self, from: &PartyName, request: u64) -> bool {
        let asked = self.holder.as_ref().map_or(0, Holder::newest);
        if request > asked {
            return false;
        }
        let newest = self.answered.entry(from.clone()).or_default();
        *newest = (*newest).max(request);
        true
    }
}

impl Cluster {
    pub(super) fn new(now: Moment, me: &PartyName, setup: ClusterSetup, kept: DurableCluster) -> Self {
        let DurableCluster { sealed, holder, appointed, fenced, is_unproven, longest_wait_ns } = kept;
        let memory = Memory { sealed, holder, is_unproven, longest_wait: Duration::from_nanos(longest_wait_ns) };
        let guard = setup.guards.clone().map(|member| Guard {
            member,
            appointed,
            fenced,
            holder: setup.lease.clone().map(Holder::new),
            renew_at: now.boot,
            report: MemberReport::default(),
            told_at: now.boot,
            was_told: false,
            may_renew: false,
            is_starting: false,
            ran_at: now.boot,
            has_given_up: false,
            unanswered: BTreeSet::new(),
            answered: BTreeMap::new(),
            refused: BTreeMap::new(),
            health: RenewalHealth::default(),
        });
        Self {
            safety: setup.lease.as_ref().map_or(0, safety_hash),
            is_voter: setup.lease.as_ref().is_some_and(|lease| lease.voters.contains(me)),
            voter: Voter::new(now.mono, setup.lease.as_ref(), memory),
            guard,
            arrivals: None,
            sealing: None,
            awaiting: BTreeSet::new(),
            look_at: None,
            setup,
        }
    }

    pub(super) fn durable(&self) -> DurableCluster {
        let Memory { sealed, holder, is_unproven, longest_wait } = self.voter.memory().clone();
        DurableCluster {
            sealed,
            holder,
            appointed: self.guard.as_ref().and_then(|guard| guard.appointed),
            fenced: self.guard.as_ref().and_then(|guard| guard.fenced),
            is_unproven,
            // Beyond 584 years it makes no difference.
            longest_wait_ns: u64::try_from(longest_wait.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    pub(super) fn timeouts(&self) -> impl Iterator<Item = Time> {
        let lease = self.guard.as_ref().and_then(Guard::next);
        [lease, self.look_at, self.sealing.as_ref().and_then(|sealing| sealing.send_at)].into_iter().flatten()
    }

    pub(super) fn learned(&mut self, now: Time) {
        if let Some(guard) = &mut self.guard
            && guard.remaining(now).is_none()
        {
            guard.renew_at = guard.renew_at.min(now);
        }
        if let Some(at) = self.sealing.as_mut().and_then(|sealing| sealing.send_at.as_mut()) {
            *at = (*at).min(now);
        }
    }

    pub(super) fn lease_state(&self, now: Time) -> LeaseState {
        let Some(guard) = &self.guard else { return LeaseState::None };
        match (guard.appointed, guard.remaining(now)) {
            (None, _) if guard.fenced.is_some() => LeaseState::GivenUp,
            (None, _) => LeaseState::None,
            (Some(_), Some(left)) => LeaseState::Held { left },
            (Some(_), None) if guard.asks(now, self.setup.restart_grace) => LeaseState::Wanted,
            (Some(_), None) => LeaseState::GivenUp,
        }
    }

    pub(super) fn may_start(&self, now: Time) -> MayStart {
        let sealed = self.voter.sealed();
        let Some(guard) = &self.guard else { return MayStart::No(sealed) };
        match guard.appointed {
            None if guard.fenced.is_some() => MayStart::No(sealed),
            None => MayStart::AsStandby(sealed),
            Some(epoch) if self.setup.lease.is_none() && !guard.has_given_up => MayStart::AsPrimary(epoch),
            Some(epoch) if guard.remaining(now).is_some() => MayStart::AsPrimary(epoch),
            Some(epoch) => MayStart::NotYet(epoch),
        }
    }
}

impl Guard {
    pub(super) fn remaining(&self, now: Time) -> Option<Duration> {
        self.holder.as_ref().and_then(|holder| holder.remaining(now))
    }

    /// Whether the lease is asked for: appointed, and the evidence lets it serve, or it is being started again soon
    /// enough.
    pub(super) fn asks(&self, now: Time, restart_grace: Duration) -> bool {
        let may = self.may_renew || (self.is_starting && now <= self.ran_at + restart_grace);
        self.appointed.is_some() && self.holder.is_some() && !self.has_given_up && may
    }

    fn next(&self) -> Option<Time> {
        let closes = self.holder.as_ref().and_then(Holder::closes_at);
        let is_asking = self.appointed.is_some()
            && self.holder.is_some()
            && !self.has_given_up
            && (self.may_renew || self.is_starting);
        closes.into_iter().chain(is_asking.then_some(self.renew_at)).min()
    }
}
