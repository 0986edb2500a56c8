//! A store that keeps what it took, in memory.

use std::{collections::BTreeMap, time::Duration};

use coroner::model::{
    ClusterName, Incident, IncidentId, Policy, Record,
    record::{ClusterState, LogEntry, OpenIncident, Recovered},
};

use super::ORDERS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreMode {
    Works,
    /// Takes nothing.
    Fails,
    /// Somebody else was faster.
    Conflicts,
    /// Does not answer.
    Hangs,
    /// Answers late.
    Slow(Duration),
}

/// Keeps what it took, as a real store must: all or none, epochs by compare-and-swap, log numbers once.
#[derive(Clone, Debug, Default)]
pub struct MemStore {
    pub clusters: BTreeMap<ClusterName, ClusterState>,
    pub incidents: BTreeMap<IncidentId, (Option<Incident>, Option<Policy>, Vec<LogEntry>)>,
}

impl MemStore {
    pub fn persist(&mut self, records: &[Record]) -> Result<(), String> {
        let mut next = self.clone();
        for record in records {
            match record {
                Record::Cluster { expected, state } => {
                    let stored = next.clusters.get(&state.cluster).map(|s| s.epoch).unwrap_or_default();
                    if stored != *expected {
                        return Err(format!("stored epoch {stored}, expected {expected}"));
                    }
                    assert!(state.epoch >= stored, "the epoch shrinks from {stored} to {}", state.epoch);
                    if let Some(before) = next.clusters.get(&state.cluster) {
                        assert!(state.primary_epoch >= before.primary_epoch, "the primary's epoch shrinks");
                        assert!(state.primary_epoch <= state.epoch, "a primary of an epoch that was never taken");
                    }
                    next.clusters.insert(state.cluster.clone(), state.clone());
                }
                Record::Incident(incident) => {
                    next.incidents.entry(incident.id.clone()).or_default().0 = Some((**incident).clone());
                }
                Record::IncidentPolicy { incident, policy } => {
                    next.incidents.entry(incident.clone()).or_default().1 = Some((**policy).clone());
                }
                Record::Log { incident, number, entry, .. } => {
                    let log = &mut next.incidents.entry(incident.clone()).or_default().2;
                    if *number as usize != log.len() + 1 {
                        return Err(format!("log of {incident} holds {} entries, got number {number}", log.len()));
                    }
                    log.push(entry.clone());
                }
            }
        }
        *self = next;
        Ok(())
    }

    pub fn recovered(&self) -> Recovered {
        Recovered {
            clusters: self.clusters.values().cloned().collect(),
            open: self
                .incidents
                .values()
                .filter_map(|(incident, policy, log)| {
                    let incident = incident.clone()?;
                    (!incident.is_closed()).then(|| OpenIncident {
                        incident,
                        policy: policy.clone().expect("an incident keeps its policy"),
                        log: log.clone(),
                    })
                })
                .collect(),
        }
    }

    pub fn state(&self) -> &ClusterState {
        &self.clusters[ORDERS]
    }

    /// The newest incident with its log.
    pub fn newest(&self) -> Option<(&Incident, &[LogEntry])> {
        let newest = self.incidents.values().filter_map(|(i, _, log)| Some((i.as_ref()?, log.as_slice())));
        newest.max_by_key(|(i, _)| (i.opened, i.id.clone()))
    }
}
