//! The store: keeps what it took, all of a batch or none, epochs by compare-and-swap, each number of a log once. One
//! arbiter's own disk, or shared by several with a row that says who leads.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::{
    Epoch, Incident, IncidentId, Policy, Record,
    record::{ClusterState, LogEntry, OpenIncident, Recovered},
};

/// How the store does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreMode {
    /// It takes what it is given.
    #[default]
    Works,
    /// The disk is full: it takes nothing.
    Fails,
    /// It gives no answer.
    Hangs,
    /// Each answer takes two seconds.
    Slow,
    /// Every other answer gets lost, and it is asked again until one comes. (A back-end that cannot tell in the end says
    /// that somebody else wrote, and the arbiter acts no more until it has read everything anew.)
    LosesAnswers,
}

/// One incident as it is kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    pub(super) incident: Option<Incident>,
    policy: Option<Policy>,
    pub(super) log: Vec<LogEntry>,
}

/// Who leads among several arbiters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leader {
    pub(super) arbiter: usize,
    pub(super) term: u64,
    /// By the store's own clock, which is true time here.
    pub(super) valid_until: u64,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) mode: StoreMode,
    pub(super) state: Option<ClusterState>,
    pub(super) incidents: BTreeMap<IncidentId, Kept>,
    /// Incidents that ended, and of whose end it is not written down yet that people were told.
    pub(super) untold: BTreeSet<IncidentId>,
    pub(super) leader: Option<Leader>,
    terms: u64,
}

/// Why the store did not take a batch: nothing of it is kept.
pub(super) struct Refused {
    pub(super) is_conflict: bool,
    pub(super) reason: String,
}

impl Store {
    /// Keeps all of it, or nothing. `term`: in whose leadership it is written; `None`: there is one arbiter only.
    pub(super) fn persist(&mut self, term: Option<u64>, records: &[Record]) -> Result<(), Refused> {
        let conflict = |reason: String| Err(Refused { is_conflict: true, reason });
        if let Some(term) = term
            && self.leader.is_none_or(|leader| leader.term != term)
        {
            return Err(Refused { is_conflict: false, reason: format!("term {term} is over") });
        }
        let mut longer: BTreeMap<&IncidentId, usize> = BTreeMap::new();
        for record in records {
            match record {
                Record::Cluster { expected, state } => {
                    let stored = self.epoch();
                    if stored != *expected {
                        return conflict(format!("stored epoch {stored}, expected {expected}"));
                    }
                    if state.epoch < stored {
                        return conflict(format!("the epoch would shrink from {stored} to {}", state.epoch));
                    }
                }
                Record::Log { incident, number, .. } => {
                    let kept = self.incidents.get(incident).map_or(0, |kept| kept.log.len());
                    let length = longer.entry(incident).or_insert(kept);
                    if *number as usize != *length + 1 {
                        return conflict(format!("log of {incident} holds {length} entries, got number {number}"));
                    }
                    *length += 1;
                }
                Record::Incident(_) | Record::IncidentPolicy { .. } => {}
            }
        }
        for record in records {
            match record {
                Record::Cluster { state, .. } => self.state = Some(state.clone()),
                Record::Incident(incident) => {
                    if incident.is_closed() {
                        self.untold.insert(incident.id.clone());
                    }
                    self.incidents.entry(incident.id.clone()).or_default().incident = Some((**incident).clone());
                }
                Record::IncidentPolicy { incident, policy } => {
                    self.incidents.entry(incident.clone()).or_default().policy = Some((**policy).clone());
                }
                Record::Log { incident, entry, .. } => {
                    self.incidents.entry(incident.clone()).or_default().log.push(entry.clone());
                }
            }
        }
        Ok(())
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.state.as_ref().map(|state| state.epoch).unwrap_or_default()
    }

    /// What an arbiter that starts, or begins to lead, is given.
    pub(super) fn recovered(&self) -> Recovered {
        let open = self.incidents.values().filter_map(|kept| {
            let incident = kept.incident.clone()?;
            let policy = kept.policy.clone()?;
            (!incident.is_closed()).then(|| OpenIncident { incident, policy, log: kept.log.clone() })
        });
        Recovered { clusters: self.state.iter().cloned().collect(), open: open.collect() }
    }

    /// The newest incident.
    pub(super) fn newest(&self) -> Option<&Kept> {
        self.incidents.values().max_by_key(|kept| kept.incident.as_ref().map(|i| (i.epoch, i.opened, i.id.clone())))
    }

    /// An arbiter asks to lead, or, with the term that it `holds`, to go on leading. `Some`: its term. Whoever let its
    /// leadership run out begins another one, and not before the store has seen the end of the former.
    pub(super) fn lead(&mut self, now: u64, arbiter: usize, holds: Option<u64>, valid_for: u64) -> Option<u64> {
        match &mut self.leader {
            Some(leader) if leader.valid_until > now => {
                let is_own = leader.arbiter == arbiter && holds == Some(leader.term);
                if is_own {
                    leader.valid_until = now + valid_for;
                }
                is_own.then_some(leader.term)
            }
            _ => {
                self.terms += 1;
                self.leader = Some(Leader { arbiter, term: self.terms, valid_until: now + valid_for });
                Some(self.terms)
            }
        }
    }
}
