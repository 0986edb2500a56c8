//! The judge: what must never be so, by name, looked at after every event and at the end; and a second oracle, the
//! histories of the clients.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::{member::Entry, store::Store};
use crate::{
    failover::SagaState,
    model::{
        Epoch, Incident, IncidentId,
        incident::IncidentState,
        record::{Recovered, SagaKind},
    },
};

/// What must hold in every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invariant {
    /// At no moment could two members acknowledge writes.
    OnePrimary,
    /// Nobody is promoted without the proof that the policy demands, and without the seal where there is a lease.
    ProofFirst,
    /// An act is handed out only once its intent is durable, and nothing behind a record that is not answered.
    IntentFirst,
    /// Epochs only grow: in the store, and under each name.
    EpochsGrow,
    /// Under synchronous replication no acknowledged write is lost.
    NothingLost,
    /// The loss that is told is never below the true one, as far as the primary's position was known.
    LossTold,
    /// No failover begins while too few nodes are heard to know anything.
    HandsOff,
    /// What the store kept is enough to go on from: every prefix of a log folds, to the state that it was.
    Recovers,
    /// Every incident comes to an end, or to a person, and is told.
    EndsTold,
    /// After everything is well again somebody serves, within a bound.
    Serves,
    /// The clients' own histories: a write that began after another one was acknowledged never carries a smaller epoch,
    /// and no epoch is two members'. It is what a register that only grows looks like if it is linearizable.
    EpochRegister,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::OnePrimary => "one primary",
            Self::ProofFirst => "proof first",
            Self::IntentFirst => "intent first",
            Self::EpochsGrow => "epochs grow",
            Self::NothingLost => "nothing lost",
            Self::LossTold => "loss told",
            Self::HandsOff => "hands off",
            Self::Recovers => "recovers",
            Self::EndsTold => "ends told",
            Self::Serves => "serves",
            Self::EpochRegister => "epoch register",
        })
    }
}

/// Something that must not be, and was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// What.
    pub invariant: Invariant,
    /// When, in nanoseconds of the run's true time.
    pub at_ns: u64,
    /// In words.
    pub text: String,
}

/// A write that was acknowledged.
#[derive(Clone, Copy, Debug)]
struct Write {
    at: u64,
    member: usize,
    entry: Entry,
    position: u64,
}

#[derive(Debug, Default)]
pub(super) struct Checks {
    pub(super) violations: Vec<Violation>,
    writes: Vec<Write>,
    /// The largest epoch acknowledged so far, and whose it is.
    newest: (Epoch, usize),
    owners: BTreeMap<Epoch, usize>,
    stored: Epoch,
    stored_primary: Epoch,
    told: BTreeMap<IncidentId, IncidentState>,
    pub(super) false_failovers: u32,
    pub(super) opened: Vec<u64>,
    begun: BTreeSet<IncidentId>,
    pub(super) lost: usize,
    /// By node: when it was served last, and its longest wait.
    served: BTreeMap<usize, u64>,
    pub(super) longest_outage: u64,
    /// Before this moment nobody counts outages.
    pub(super) counts_from: u64,
}

impl Checks {
    pub(super) fn new(_members: usize) -> Self {
        Self { counts_from: u64::MAX, ..Self::default() }
    }

    pub(super) fn broken(&mut self, at: u64, invariant: Invariant, text: String) {
        // The first of each kind tells most.
        if self.violations.iter().all(|violation| violation.invariant != invariant) {
            self.violations.push(Violation { invariant, at_ns: at, text });
        }
    }

    /// Whether going on would tell nothing more.
    pub(super) const fn is_enough(&self) -> bool {
        !self.violations.is_empty()
    }

    pub(super) fn acknowledged(
        &mut self,
        at: u64,
        node: usize,
        member: usize,
        epoch: Epoch,
        entry: Entry,
        position: u64,
    ) {
        self.writes.push(Write { at, member, entry, position });
        // Each write begins and is acknowledged in one moment here, so that "after" is the order of moments.
        if epoch < self.newest.0 {
            let text = format!("a write of epoch {epoch} was acknowledged after one of epoch {}", self.newest.0);
            self.broken(at, Invariant::EpochRegister, text);
        }
        if epoch != Epoch::ZERO {
            let owner = *self.owners.entry(epoch).or_insert(member);
            if owner != member {
                let text = format!("two members acknowledged writes in epoch {epoch}");
                self.broken(at, Invariant::EpochRegister, text);
            }
        }
        self.newest = self.newest.max((epoch, member));
        self.was_served(at, node);
    }

    fn was_served(&mut self, at: u64, node: usize) {
        let before = self.served.insert(node, at);
        if let Some(before) = before
            && before >= self.counts_from
        {
            self.longest_outage = self.longest_outage.max(at - before);
        } else if let Some(before) = before
            && at > self.counts_from
        {
            self.longest_outage = self.longest_outage.max(at - before);
        }
    }

    /// The end of the run: who is still waiting has waited until now.
    pub(super) fn ends(&mut self, at: u64) {
        if self.counts_from == u64::MAX {
            return;
        }
        for before in self.served.values() {
            self.longest_outage = self.longest_outage.max(at - before);
        }
    }

    /// When any node was served last.
    pub(super) fn last_served(&self) -> u64 {
        self.writes.last().map_or(0, |write| write.at)
    }

    /// The positions, in a member's log, of writes that it acknowledged and that lie beyond `common`.
    pub(super) fn acknowledged_beyond(&self, member: usize, common: u64, log: &[Entry]) -> Vec<u64> {
        let of_member = self.writes.iter().filter(|w| w.member == member && w.position > common);
        of_member
            .filter(|w| usize::try_from(w.position).ok().and_then(|p| log.get(p.checked_sub(1)?)) == Some(&w.entry))
            .map(|w| w.position)
            .collect()
    }

    pub(super) fn stored(&mut self, at: u64, store: &Store) {
        let Some(state) = &store.state else { return };
        let (epoch, of_primary) = (state.epoch, state.primary_epoch);
        if epoch < self.stored || of_primary < self.stored_primary {
            let text = format!(
                "the store went from epoch {} ({} the primary's) to {epoch} ({of_primary})",
                self.stored, self.stored_primary
            );
            self.broken(at, Invariant::EpochsGrow, text);
        }
        if of_primary > epoch {
            self.broken(at, Invariant::EpochsGrow, format!("a primary of epoch {of_primary}, and {epoch} was taken"));
        }
        (self.stored, self.stored_primary) = (epoch, of_primary);
    }

    pub(super) fn told(&mut self, incident: &Incident) {
        self.told.insert(incident.id.clone(), incident.state);
    }

    /// Whether people were told of the state in which it is.
    pub(super) fn is_told(&self, incident: &Incident) -> bool {
        self.told.get(&incident.id) == Some(&incident.state)
    }

    /// Whether this is the first act of the incident.
    pub(super) fn begins(&mut self, incident: &IncidentId) -> bool {
        self.begun.insert(incident.clone())
    }

    pub(super) fn opened(&mut self, at: u64) {
        self.opened.push(at);
    }

    /// What an arbiter is given folds, whole and in each of its prefixes, and the last prefix is the whole.
    pub(super) fn recovers(&mut self, at: u64, recovered: &Recovered) {
        for open in &recovered.open {
            // Taken up, it goes on whatever is seen now: what its acts did is not known.
            self.begun.insert(open.incident.id.clone());
            let mut state = None;
            for length in 1..=open.log.len() {
                let prefix = SagaState::from_log(&open.log[..length]);
                match (&mut state, &prefix) {
                    (_, None) => {
                        let text = format!("{} entries of the log of {} do not fold", length, open.incident.id);
                        return self.broken(at, Invariant::Recovers, text);
                    }
                    (None, Some(first)) => state = Some(first.clone()),
                    (Some(state), Some(prefix)) => {
                        state.apply(&open.log[length - 1]);
                        if state != prefix {
                            let text = format!("entry {length} of {} folds otherwise anew", open.incident.id);
                            return self.broken(at, Invariant::Recovers, text);
                        }
                    }
                }
            }
        }
    }

    /// Every incident is closed, or waits for a person, or for a member that is not there, and people were told so.
    pub(super) fn incidents_end(&mut self, at: u64, store: &Store) {
        let mut wrong = Vec::new();
        for kept in store.incidents.values() {
            let Some(incident) = &kept.incident else { continue };
            let is_ended = incident.is_closed() || incident.state == IncidentState::Held;
            match (is_ended, self.is_told(incident)) {
                (true, true) => {}
                (false, _) => wrong.push(format!(
                    "{} of {} is {} for ever",
                    match incident.kind {
                        SagaKind::Failover => "the failover",
                        SagaKind::Switchover => "the switchover",
                        SagaKind::Rejoin => "the rejoin",
                    },
                    incident.old_primary,
                    incident.state
                )),
                (true, false) => wrong.push(format!("that {} is {} was told to nobody", incident.id, incident.state)),
            }
        }
        if let Some(text) = wrong.into_iter().next() {
            self.broken(at, Invariant::EndsTold, text);
        }
    }
}
