//! The arbiter's knowledge of itself: whether it may trust its clock and its store, and how many clusters look
//! dead at once.

use std::{collections::VecDeque, hash::Hasher, time::Duration};

use crate::{
    failover::Print,
    model::{ClusterName, IncidentId, Policy, Time, WallAnchor, policy::ArbiterPolicy},
};

/// What all clusters share.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) arbiter: ArbiterPolicy,
    pub(super) policy_hash: String,
    pub(super) anchor: WallAnchor,
    /// Until when, and why, the arbiter distrusts its own clock or scheduler.
    tilt: Option<(Time, String)>,
    /// Why the store takes no intents.
    pub(super) store_lost: Option<String>,
    /// Why nothing is done: another arbiter leads, or nobody is known to.
    pub(super) not_leading: Option<String>,
    /// Clusters that wanted a failover, newest last.
    wants: VecDeque<(Time, ClusterName)>,
    /// Moments of this life that were written down by the wall clock: their age is counted by the boot clock, whatever
    /// the wall clock does meanwhile (C1). Oldest first.
    written: VecDeque<(i64, Time)>,
    /// Feeds the random part of incident names; names need to differ, not to be secret.
    seed: u64,
    next_persist: u64,
}

impl Own {
    pub(super) fn new(policy: &Policy, anchor: WallAnchor, seed: u64) -> Self {
        Self {
            arbiter: policy.arbiter.clone(),
            policy_hash: policy.hash.clone(),
            anchor,
            tilt: None,
            store_lost: None,
            not_leading: None,
            wants: VecDeque::new(),
            written: VecDeque::new(),
            seed,
            next_persist: 0,
        }
    }

    /// What was written down by the wall clock is counted by its age, wherever that is asked for.
    pub(super) fn fingerprint<H: Hasher>(&self, now: Time, print: &mut Print<'_, H>) {
        print.plain((&self.arbiter.name, self.store_lost.is_some(), self.not_leading.is_some()));
        print.perhaps(self.tilt.as_ref().map(|(until, _)| *until));
        for (at, cluster) in self.wants.iter().filter(|(at, _)| now.since(*at) <= self.arbiter.storm_within) {
            print.plain(cluster);
            print.moment(*at);
        }
    }

    /// How long tilt still lasts, and why.
    pub(super) fn tilt(&self, now: Time) -> Option<(Duration, &str)> {
        self.tilt.as_ref().filter(|(until, _)| *until > now).map(|(until, why)| (until.since(now), why.as_str()))
    }

    pub(super) fn begin_tilt(&mut self, now: Time, why: String) {
        self.tilt = Some((now + self.arbiter.tilt_for, why));
    }

    /// `true` once, when tilt has ended.
    pub(super) fn end_tilt(&mut self, now: Time) -> bool {
        let ended = self.tilt.as_ref().is_some_and(|(until, _)| *until <= now);
        if ended {
            self.tilt = None;
        }
        ended
    }

    pub(super) fn tilt_ends(&self) -> Option<Time> {
        self.tilt.as_ref().map(|(until, _)| *until)
    }

    /// Takes note that a cluster wants a failover.
    pub(super) fn note_want(&mut self, now: Time, cluster: &ClusterName) {
        let within = self.arbiter.storm_within;
        self.wants.retain(|(at, name)| now.since(*at) <= within && name != cluster);
        self.wants.push_back((now, cluster.clone()));
    }

    /// Why nothing is done for want of trust in so many deaths at once.
    pub(super) fn storm(&self, now: Time, _cluster: &ClusterName) -> Option<String> {
        let within = self.arbiter.storm_within;
        let recent = self.wants.iter().filter(|(at, _)| now.since(*at) <= within).count();
        (recent > self.arbiter.storm_clusters as usize).then(|| {
            format!(
                "{recent} clusters look dead within {}, more than {}: that is the network, or us",
                crate::model::time::human(within),
                self.arbiter.storm_clusters
            )
        })
    }

    /// A moment, past or to come, by the wall clock, to be written down and asked for again.
    pub(super) fn write_down(&mut self, at: Time) -> i64 {
        let unix_ms = self.anchor.unix_ms_at(at);
        self.written.push_back((unix_ms, at));
        if self.written.len() > 1_024 {
            self.written.pop_front();
        }
        unix_ms
    }

    fn written(&self, unix_ms: i64) -> Option<Time> {
        self.written.iter().rev().find(|(written, _)| *written == unix_ms).map(|(_, at)| *at)
    }

    /// How long it is until a moment that was written down; `None` if it is over.
    pub(super) fn wall_left(&self, now: Time, unix_ms: i64) -> Option<Duration> {
        let left = match self.written(unix_ms) {
            Some(at) => at.since(now),
            None => {
                let left_ms = unix_ms.saturating_sub(self.anchor.unix_ms_at(now));
                Duration::from_millis(u64::try_from(left_ms).unwrap_or(0))
            }
        };
        (!left.is_zero()).then_some(left)
    }

    /// Age of a moment that was written down; zero if it lies in the future.
    pub(super) fn wall_age(&self, now: Time, unix_ms: i64) -> Duration {
        if let Some(at) = self.written(unix_ms) {
            return now.since(at);
        }
        let age_ms = self.anchor.unix_ms_at(now).saturating_sub(unix_ms);
        Duration::from_millis(u64::try_from(age_ms).unwrap_or(0))
    }

    pub(super) fn next_persist(&mut self) -> u64 {
        self.next_persist += 1;
        self.next_persist
    }

    pub(super) fn incident_id(&mut self, now: Time) -> IncidentId {
        let ms = u64::try_from(self.anchor.unix_ms_at(now)).unwrap_or(0);
        let high = self.splitmix();
        let low = self.splitmix();
        ulid::Ulid::from_parts(ms, u128::from(high) << 64 | u128::from(low)).to_string().into()
    }

    /// Sebastiano Vigna's splitmix64.
    const fn splitmix(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
