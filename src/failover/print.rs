//! A fingerprint of what decides what comes next, for tools that explore all that can happen and must know which states
//! they have seen before.
//!
//! Left out is what only people read: texts, labels, the story of an incident, how long an act took, names drawn at
//! random. Moments count by their age, so that the same situation a minute later is the same; ages beyond a bound given by
//! the caller are all old. That bound has to be at least as long as everything that the policy measures ages by: how long
//! what was seen is fresh, cooldowns, tilt.

use std::{
    hash::{Hash, Hasher},
    time::Duration,
};

use crate::model::{
    Incident, Record, StepResult, Time,
    incident::Trigger,
    record::{ClusterState, LogEntry},
};

/// Feeds a hasher. Two states that feed it alike go on alike.
pub struct Print<'a, H> {
    now: Time,
    old: Duration,
    /// Where everything goes.
    pub to: &'a mut H,
}

impl<'a, H: Hasher> Print<'a, H> {
    /// A fingerprint as of `now`, in which ages beyond `old` are all alike.
    pub const fn new(now: Time, old: Duration, to: &'a mut H) -> Self {
        Self { now, old, to }
    }

    /// Anything that is not a moment.
    pub fn plain(&mut self, value: impl Hash) {
        value.hash(self.to);
    }

    /// A number of things, which follow.
    pub fn count(&mut self, count: usize) {
        self.to.write_usize(count);
    }

    /// How long something is over.
    pub fn age(&mut self, age: Duration) {
        self.to.write_u64(nanos(age.min(self.old)));
    }

    /// A moment, past or to come.
    pub fn moment(&mut self, at: Time) {
        if at <= self.now {
            self.to.write_u8(0);
            self.age(self.now.since(at));
        } else {
            self.to.write_u8(1);
            self.to.write_u64(nanos(at.since(self.now)));
        }
    }

    /// A moment that there may be.
    pub fn perhaps(&mut self, at: Option<Time>) {
        match at {
            Some(at) => self.moment(at),
            None => self.to.write_u8(2),
        }
    }

    /// How an act ended.
    pub fn result(&mut self, result: &StepResult) {
        std::mem::discriminant(result).hash(self.to);
        match result {
            StepResult::Fenced(report) => self.plain((report.verdict, report.proof)),
            StepResult::WriteTried(attempt) => {
                self.plain((attempt.on_new as u8, attempt.on_open.map(|open| open as u8)));
            }
            StepResult::Done(done) => self.plain((done.position, done.divergent)),
            StepResult::Told { acknowledged, failed } => {
                self.plain(acknowledged);
                self.count(failed.len());
                failed.iter().for_each(|(node, _)| self.plain(node));
            }
            StepResult::Outbid { sealed } => self.plain(sealed),
            StepResult::FellShort { reached, end } => self.plain((reached, end)),
            StepResult::Failed(error) => self.plain(error.may_have_happened),
        }
    }

    /// An entry of a saga's log.
    pub fn entry(&mut self, entry: &LogEntry) {
        std::mem::discriminant(entry).hash(self.to);
        match entry {
            LogEntry::Opened { kind, epoch, old_primary, candidate, overrides, last_position } => {
                self.plain((kind, epoch, old_primary, candidate, last_position, overrides.accept_loss));
            }
            LogEntry::Started { act, action, member } => self.plain((act, action, member)),
            LogEntry::Ended { act, result, took: _ } => {
                self.plain(act);
                self.result(result);
            }
            LogEntry::CandidateChanged { to, reason: _ } => self.plain(to),
            LogEntry::EpochRaised { epoch } => self.plain(epoch),
            LogEntry::Released { accept_loss, reason: _ } => self.plain(accept_loss),
            LogEntry::Promoted { position } => self.plain(position),
            LogEntry::Followed { nodes, laggards } => self.plain((nodes, laggards)),
            LogEntry::FenceConfirmed { .. }
            | LogEntry::AbortRequested { .. }
            | LogEntry::BecameFailover { .. }
            | LogEntry::Held { .. }
            | LogEntry::Aborted { .. }
            | LogEntry::Resolved => {}
        }
    }

    /// An incident's record. By its name only as far as others go by it: what it is about tells it from others.
    pub fn incident(&mut self, incident: &Incident) {
        let is_by_rule = matches!(incident.trigger, Trigger::Rule(_));
        self.plain((incident.kind, incident.state, incident.epoch_before, incident.epoch, is_by_rule));
        self.plain((&incident.old_primary, &incident.candidate, incident.acknowledged.is_some()));
        self.moment(incident.opened);
    }

    /// What is kept of a cluster. `age` says how long a moment of the wall clock is over.
    pub fn cluster(&mut self, state: &ClusterState, age: impl Fn(i64) -> Duration) {
        self.plain((&state.cluster, state.epoch, &state.primary, state.primary_epoch, state.cooldown_over));
        self.count(state.quarantined.len());
        for (member, quarantine) in &state.quarantined {
            self.plain((member, quarantine.epoch, &quarantine.fences, &quarantine.labels, quarantine.promoted_at));
        }
        self.plain(state.pause.as_ref().map(|pause| pause.until_unix_ms));
        self.count(state.failovers_unix_ms.len());
        state.failovers_unix_ms.iter().for_each(|at| self.age(age(*at)));
        self.plain(&state.heard);
    }

    /// Something to keep.
    pub fn record(&mut self, record: &Record, age: impl Fn(i64) -> Duration) {
        std::mem::discriminant(record).hash(self.to);
        match record {
            Record::Cluster { expected, state } => {
                self.plain(expected);
                self.cluster(state, age);
            }
            Record::Incident(incident) => self.incident(incident),
            Record::IncidentPolicy { policy, .. } => self.plain(&policy.hash),
            Record::Log { number, entry, .. } => {
                self.plain(number);
                self.entry(entry);
            }
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    // Beyond 584 years it makes no difference.
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
