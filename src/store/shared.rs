//! A store that several arbiters share: documents in a [`Registry`], written only in the name of whoever leads.
//!
//! | document | holds | changes |
//! |---|---|---|
//! | `cluster/<name>` | what is kept of a cluster between incidents | only from the epoch that the writer knew |
//! | `incident/<id>` | one incident's record | replaced by the leader |
//! | `policy/<incident>` | the policy it began with | written once |
//! | `log/<incident>/<number>` | one entry of its intent log | written once, without gaps |
//! | `health/arbiters` | that intents can be written | whenever the leader tries |
//!
//! # What it promises
//!
//! A batch of records is one conditional write of the registry: all or none, only if this arbiter is written down as the
//! leader and its heartbeat is valid *there*, and only if each document still has the version that this process read or
//! wrote last. An arbiter that was paused, or cut off, and wakes up as a former leader writes nothing.
//!
//! An answer that got lost is resolved before `persist` answers: the same conditional write is sent again, so that of two
//! copies one at most takes effect, however late the first arrives; where it meets a changed version, what is there is
//! compared with what was to be written. What stays unknown is a [`StoreError::Conflict`]: the driver then stops acting
//! and reads everything anew. Versions are kept from that reading on, so that a copy which arrives after it makes the
//! next write conflict, too.
//!
//! Reports that wait to be sent stay in a local SQLite file, and the journal beside it: they are this arbiter's own, and
//! too many for a database over the network. That file also keeps the largest epochs that this arbiter ever saw, by
//! which a registry that was restored from an older backup is noticed ([`SharedStore::seen`]).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};

use super::{Store, StoreError, sqlite::SqliteStore};
use crate::{
    model::{
        ClusterName, Epoch, Incident, IncidentId, Policy, Record, Report,
        record::{ClusterState, LogEntry, OpenIncident, Recovered},
        status::IncidentBrief,
    },
    registry::{Document, Leader, Put, Registry, RegistryError},
};

/// How often a write whose answer got lost is sent.
const TRIES: u32 = 3;
/// A version that no document has.
const NEVER: u64 = u64::MAX;
/// The document by which it is tried whether intents can be written.
const HEALTH: &str = "health/arbiters";

/// The store over a registry.
pub struct SharedStore {
    registry: Arc<dyn Registry>,
    local: SqliteStore,
    group: String,
    /// Closed incidents beyond this number go.
    keep_incidents: usize,
    leader: Mutex<Option<Leader>>,
    /// What this process read or wrote last of the documents that change.
    known: Mutex<HashMap<String, Known>>,
    /// One write at a time, so that what is known is what the next one is based on.
    writing: tokio::sync::Mutex<()>,
}

/// A document as this process knows it.
#[derive(Clone, Debug)]
struct Known {
    version: u64,
    /// Of a cluster's document.
    epoch: Epoch,
}

impl SharedStore {
    /// `local` keeps what is this arbiter's own; `group` is the one in which the arbiters elect their leader.
    #[must_use]
    pub fn new(registry: Arc<dyn Registry>, local: SqliteStore, group: &str, keep_incidents: usize) -> Self {
        Self {
            registry,
            local,
            group: group.to_owned(),
            keep_incidents,
            leader: Mutex::default(),
            known: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    /// From here on writes are made in the name of this row of the registry; `None`: none are made. What was read before
    /// is forgotten: [`Store::recover`] reads it anew.
    pub fn lead(&self, id: Option<u64>) {
        *self.leader.lock().unwrap_or_else(PoisonError::into_inner) =
            id.map(|id| Leader { group: self.group.clone(), id });
        self.known().clear();
    }

    /// What it is and where, without secrets.
    #[must_use]
    pub fn label(&self) -> String {
        self.registry.label()
    }

    /// The largest epochs that this arbiter ever saw in the registry, by its local file. A registry that knows less was
    /// set back.
    ///
    /// # Errors
    /// The local file cannot be read.
    pub async fn seen(&self) -> Result<BTreeMap<ClusterName, Epoch>, StoreError> {
        let local = self.local.recover().await?;
        Ok(local.clusters.into_iter().map(|state| (state.cluster, state.epoch)).collect())
    }

    /// Makes records durable, all or none, if this process still leads as it did when they were decided upon: `term` is the
    /// row in whose name.
    ///
    /// # Errors
    /// As [`Store::persist`].
    pub async fn persist_as(&self, term: u64, records: &[Record]) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        let _writing = self.writing.lock().await;
        let leader = self.leader()?;
        if leader.id != term {
            return Err(StoreError::Failed(format!(
                "epoch {term} of this arbiter is over, so it writes nothing in it"
            )));
        }
        let batch = self.stage(records).await?;
        if batch.is_empty() {
            return Ok(());
        }
        self.write(&batch, &leader).await?;
        let mut states = Vec::new();
        for record in records {
            if let Record::Cluster { state, .. } = record {
                states.push(state.clone());
            }
        }
        self.remember(states).await;
        Ok(())
    }

    /// The clusters alone: what whoever watches needs to know.
    ///
    /// # Errors
    /// The registry cannot be read, or what it holds.
    pub async fn clusters(&self) -> Result<Vec<ClusterState>, StoreError> {
        let documents = self.list("cluster/").await?;
        let clusters = documents.iter().map(|document| self.read(document)).collect::<Result<Vec<_>, _>>()?;
        let _writing = self.writing.lock().await;
        self.remember(clusters.clone()).await;
        Ok(clusters)
    }

    fn leader(&self) -> Result<Leader, StoreError> {
        let leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner).clone();
        leader.ok_or_else(|| StoreError::Failed("this arbiter does not lead, so it writes nothing".into()))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        // Every change of the map is whole when the lock is given back.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(doing: &str, error: &RegistryError) -> StoreError {
        match error {
            // A conflict makes the driver read everything anew, which also finds out who leads.
            RegistryError::Conflict { .. } | RegistryError::NotLeader(_) | RegistryError::Unknown(_) => {
                StoreError::Conflict(format!("{doing}: {error}"))
            }
            RegistryError::Failed(why) => StoreError::Failed(format!("{doing}: {why}")),
        }
    }

    /// Reading changes nothing, so that whatever went wrong is a plain failure.
    async fn get(&self, key: &str) -> Result<Option<Document>, StoreError> {
        let found = self.registry.get(key).await;
        found.map_err(|error| StoreError::Failed(format!("reading {key}: {error}")))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Document>, StoreError> {
        let found = self.registry.list(prefix).await;
        found.map_err(|error| StoreError::Failed(format!("reading {prefix}…: {error}")))
    }

    fn read<T: DeserializeOwned>(&self, document: &Document) -> Result<T, StoreError> {
        serde_json::from_str(&document.text).map_err(|error| {
            StoreError::Failed(format!(
                "{}: document {}: {error}: it is damaged or was edited; restore it from a backup, or delete it and \
                 declare the primary with `coroner adopt`",
                self.label(),
                document.key
            ))
        })
    }

    /// The version on which a write is based, and the epoch for a cluster: what this process knows, or what is there if
    /// it never looked.
    async fn base(&self, key: &str) -> Result<Known, StoreError> {
        let known = self.known().get(key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let found = self.get(key).await?;
        let known = match &found {
            Some(document) => Known { version: document.version, epoch: self.epoch_of(document)? },
            None => Known { version: 0, epoch: Epoch::default() },
        };
        self.known().insert(key.to_owned(), known.clone());
        Ok(known)
    }

    fn epoch_of(&self, document: &Document) -> Result<Epoch, StoreError> {
        match document.key.starts_with("cluster/") {
            true => Ok(self.read::<ClusterState>(document)?.epoch),
            false => Ok(Epoch::default()),
        }
    }

    /// What the records are as writes. An empty batch: all of it is there already.
    async fn stage(&self, records: &[Record]) -> Result<Vec<Put>, StoreError> {
        let mut batch: Vec<Put> = Vec::new();
        let mut lowest: HashMap<&IncidentId, u32> = HashMap::new();
        let mut is_logged = false;
        for record in records {
            match record {
                Record::Cluster { expected, state } => {
                    let key = cluster_key(&state.cluster);
                    let mut base = self.base(&key).await?;
                    // Two states of one cluster in a batch: the later one rests on the former.
                    if let Some(put) = batch.iter().position(|put| put.key == key) {
                        let former: ClusterState = parse(batch.remove(put).text.as_deref().unwrap_or_default())?;
                        base.epoch = former.epoch;
                    }
                    // One that does not follow may be the repetition of a batch that was written.
                    let follows = base.epoch == *expected && state.epoch >= base.epoch;
                    let expected = if follows { base.version } else { NEVER };
                    batch.push(Put { key, expected, text: Some(json(state)?) });
                }
                Record::Incident(incident) => {
                    let key = incident_key(&incident.id);
                    let base = self.base(&key).await?;
                    batch.retain(|put| put.key != key);
                    batch.push(Put { key, expected: base.version, text: Some(json(incident)?) });
                }
                Record::IncidentPolicy { incident, policy } => {
                    batch.push(Put { key: policy_key(incident), expected: 0, text: Some(json(policy)?) });
                }
                Record::Log { incident, number, entry, .. } => {
                    is_logged = true;
                    let first = lowest.entry(incident).or_insert(*number);
                    *first = (*first).min(*number);
                    batch.push(Put { key: log_key(incident, *number), expected: 0, text: Some(json(entry)?) });
                }
            }
        }
        // A batch that is there already is the repetition of one whose answer was lost. Only a log entry names its
        // incident and number, so only a batch with one can be told from somebody else's.
        if is_logged && self.all_there(&batch).await? {
            return Ok(Vec::new());
        }
        if let Some(put) = batch.iter().find(|put| put.expected == NEVER) {
            let epoch = self.base(&put.key).await?.epoch;
            return Err(StoreError::Conflict(format!(
                "{} is at epoch {epoch}, which is not what this arbiter knew",
                put.key
            )));
        }
        // What is written once and is there: the same is fine, another is not.
        let mut fresh = Vec::with_capacity(batch.len());
        for put in batch {
            let is_once = put.key.starts_with("log/") || put.key.starts_with("policy/");
            match if is_once { self.get(&put.key).await? } else { None } {
                Some(document) if Some(&document.text) == put.text.as_ref() => {}
                Some(document) => {
                    return Err(StoreError::Conflict(format!("{} holds something else already", document.key)));
                }
                None => fresh.push(put),
            }
        }
        self.check_order(records, &fresh, &lowest).await?;
        Ok(fresh)
    }

    /// Logs have no gaps, and whatever belongs to an incident needs its record.
    async fn check_order(
        &self,
        records: &[Record],
        fresh: &[Put],
        lowest: &HashMap<&IncidentId, u32>,
    ) -> Result<(), StoreError> {
        for (incident, first) in lowest {
            if *first == 0 || (*first > 1 && self.get(&log_key(incident, first - 1)).await?.is_none()) {
                return Err(StoreError::Conflict(format!(
                    "the log of incident {incident} does not reach up to {first}: that entry does not follow"
                )));
            }
        }
        let mut numbers: HashMap<&IncidentId, u32> = HashMap::new();
        for record in records {
            let (Record::Log { incident, .. } | Record::IncidentPolicy { incident, .. }) = record else { continue };
            if let Record::Log { number, .. } = record
                && let Some(before) = numbers.insert(incident, *number)
                && *number != before + 1
            {
                return Err(StoreError::Conflict(format!(
                    "in the log of incident {incident}, {number} does not follow {before}"
                )));
            }
            let key = incident_key(incident);
            if fresh.iter().all(|put| put.key != key) && self.base(&key).await?.version == 0 {
                return Err(StoreError::Failed(format!(
                    "incident {incident} has no record; it must be written with or before its log and policy"
                )));
            }
        }
        Ok(())
    }

    async fn all_there(&self, batch: &[Put]) -> Result<bool, StoreError> {
        for put in batch {
            if self.get(&put.key).await?.map(|document| document.text) != put.text {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes, and finds out what became of it where the answer was lost.
    async fn write(&self, batch: &[Put], leader: &Leader) -> Result<(), StoreError> {
        let mut lost = None;
        for _ in 0..TRIES {
            let error = match self.registry.put(batch, Some(leader)).await {
                Ok(()) => {
                    lost = None;
                    break;
                }
                Err(error) => error,
            };
            match (&error, lost.is_some()) {
                (RegistryError::Unknown(_), _) => lost = Some(error),
                // The copy before this one may have been written, and met itself, or the end of the lease.
                (RegistryError::Conflict { .. } | RegistryError::NotLeader(_), true) => {
                    if self.all_there(batch).await? {
                        lost = None;
                        break;
                    }
                    return Err(self.forget(Self::at("writing", &error)));
                }
                // A failure after a lost answer says nothing of the copy before.
                (RegistryError::Failed(_), true) => {}
                (RegistryError::Failed(_), false) => return Err(Self::at("writing", &error)),
                _ => return Err(self.forget(Self::at("writing", &error))),
            }
        }
        if let Some(error) = lost {
            return Err(self.forget(Self::at("writing, and what became of it could not be found out", &error)));
        }
        let mut known = self.known();
        for put in batch.iter().filter(|put| put.key.starts_with("cluster/") || put.key.starts_with("incident/")) {
            let epoch = match (put.key.starts_with("cluster/"), &put.text) {
                (true, Some(text)) => parse::<ClusterState>(text)?.epoch,
                _ => Epoch::default(),
            };
            known.insert(put.key.clone(), Known { version: put.expected + 1, epoch });
        }
        Ok(())
    }

    /// What was known is not so any more: nothing more is written before everything is read anew.
    fn forget(&self, error: StoreError) -> StoreError {
        self.known().clear();
        error
    }

    /// Keeps the largest epochs at hand, for the day on which the registry knows less. Best effort: an epoch that is not
    /// kept is one that a registry which was set back can hide from this arbiter; members and agents still tell theirs.
    async fn remember(&self, states: Vec<ClusterState>) {
        for state in states {
            let kept = match self.local.cluster(&state.cluster).await {
                Ok(kept) => kept.map(|kept| kept.epoch).unwrap_or_default(),
                Err(error) => return tracing::warn!(%error, "the epochs that were seen cannot be read"),
            };
            if kept >= state.epoch {
                continue;
            }
            let record = Record::Cluster { expected: kept, state };
            if let Err(error) = self.local.persist(&[record]).await {
                tracing::warn!(%error, "the epoch that was seen was not kept");
            }
        }
    }

    async fn log(&self, id: &IncidentId) -> Result<Vec<LogEntry>, StoreError> {
        let documents = self.list(&format!("log/{id}/")).await?;
        let mut log = Vec::with_capacity(documents.len());
        for (document, number) in documents.iter().zip(1..) {
            if document.key != log_key(id, number) {
                return Err(StoreError::Failed(format!(
                    "{}: the log of incident {id} has no entry {number}: it was edited; restore it from a backup",
                    self.label()
                )));
            }
            log.push(self.read(document)?);
        }
        Ok(log)
    }

    async fn all_incidents(&self) -> Result<Vec<(Incident, u64)>, StoreError> {
        let documents = self.list("incident/").await?;
        let mut incidents = Vec::with_capacity(documents.len());
        for document in &documents {
            incidents.push((self.read::<Incident>(document)?, document.version));
        }
        let opened = |incident: &Incident| incident.anchor.unix_ms_at(incident.opened);
        incidents.sort_by(|(a, _), (b, _)| opened(b).cmp(&opened(a)).then_with(|| b.id.cmp(&a.id)));
        Ok(incidents)
    }
}

#[async_trait]
impl Store for SharedStore {
    async fn recover(&self) -> Result<Recovered, StoreError> {
        let _writing = self.writing.lock().await;
        let mut clusters = Vec::new();
        let mut known = HashMap::new();
        for document in self.list("cluster/").await? {
            let state: ClusterState = self.read(&document)?;
            known.insert(document.key, Known { version: document.version, epoch: state.epoch });
            clusters.push(state);
        }
        let mut open = Vec::new();
        for (incident, version) in self.all_incidents().await? {
            known.insert(incident_key(&incident.id), Known { version, epoch: Epoch::default() });
            if incident.is_closed() {
                continue;
            }
            let log = self.log(&incident.id).await?;
            let key = policy_key(&incident.id);
            let Some(policy) = self.get(&key).await? else {
                return Err(StoreError::Failed(format!(
                    "{}: {key} is missing: the policy that the incident began with; restore it from a backup",
                    self.label()
                )));
            };
            let policy: Policy = self.read(&policy)?;
            open.push(OpenIncident { incident, policy, log });
        }
        open.reverse();
        // Those that lead write on what was read here; those that watch only look.
        if self.leader().is_ok() {
            *self.known() = known;
        }
        self.remember(clusters.clone()).await;
        Ok(Recovered { clusters, open })
    }

    async fn persist(&self, records: &[Record]) -> Result<(), StoreError> {
        match self.leader() {
            Ok(leader) => self.persist_as(leader.id, records).await,
            Err(_) if records.is_empty() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn cluster(&self, cluster: &ClusterName) -> Result<Option<ClusterState>, StoreError> {
        self.get(&cluster_key(cluster)).await?.as_ref().map(|document| self.read(document)).transpose()
    }

    async fn incidents(&self, cluster: Option<&ClusterName>, limit: u32) -> Result<Vec<IncidentBrief>, StoreError> {
        let incidents = self.all_incidents().await?;
        let wanted = incidents.iter().filter(|(incident, _)| cluster.is_none_or(|only| incident.cluster == *only));
        Ok(wanted.take(limit as usize).map(|(incident, _)| IncidentBrief::from(incident)).collect())
    }

    async fn incident(&self, id: &str) -> Result<Option<(Incident, Vec<LogEntry>)>, StoreError> {
        if id.is_empty() {
            return Ok(None);
        }
        let wanted = id.to_ascii_lowercase();
        let mut found = self.all_incidents().await?;
        found.retain(|(incident, _)| incident.id.as_str().to_ascii_lowercase().starts_with(&wanted));
        found.sort_by(|(a, _), (b, _)| (a.id.as_str().len(), &a.id).cmp(&(b.id.as_str().len(), &b.id)));
        let incident = match found.as_slice() {
            [] => return Ok(None),
            [(one, _), (other, _), ..] if !one.id.as_str().eq_ignore_ascii_case(id) => {
                return Err(StoreError::Failed(format!(
                    "more than one incident begins with {id}: {}, {}, …; write more of the name",
                    one.id, other.id
                )));
            }
            [(one, _), ..] => one.clone(),
        };
        let log = self.log(&incident.id).await?;
        Ok(Some((incident, log)))
    }

    async fn spool(&self, reporter: &str, report: &Report) -> Result<(), StoreError> {
        self.local.spool(reporter, report).await
    }

    async fn spooled(&self, reporter: &str) -> Result<Vec<(i64, Report)>, StoreError> {
        self.local.spooled(reporter).await
    }

    async fn unspool(&self, number: i64) -> Result<(), StoreError> {
        self.local.unspool(number).await
    }

    /// Whoever leads writes something; whoever watches reads it.
    async fn check(&self) -> Result<(), StoreError> {
        self.local.check().await?;
        let _writing = self.writing.lock().await;
        let found = self.get(HEALTH).await?;
        let Ok(leader) = self.leader() else { return Ok(()) };
        let expected = found.map_or(0, |document| document.version);
        let put = Put { key: HEALTH.into(), expected, text: Some(json(&leader.id)?) };
        match self.registry.put(&[put], Some(&leader)).await {
            Ok(()) => Ok(()),
            // Who leads is the election's to say, and not whether the registry takes writes.
            Err(RegistryError::NotLeader(_) | RegistryError::Conflict { .. }) => Ok(()),
            Err(error) => Err(StoreError::Failed(format!("trying a write: {error}"))),
        }
    }

    async fn trim(&self) -> Result<(), StoreError> {
        self.local.trim().await?;
        let Ok(leader) = self.leader() else { return Ok(()) };
        let _writing = self.writing.lock().await;
        let incidents = self.all_incidents().await?;
        if incidents.len() <= self.keep_incidents {
            return Ok(());
        }
        let clusters = self.list("cluster/").await?;
        let mut needed = Vec::new();
        for document in &clusters {
            let state: ClusterState = self.read(document)?;
            needed.extend(state.quarantined.into_values().map(|quarantine| quarantine.incident));
            needed.extend(state.newest_failover);
        }
        let old = incidents.iter().skip(self.keep_incidents);
        for (incident, version) in old.filter(|(i, _)| i.is_closed() && !needed.contains(&i.id)) {
            // The record goes with the last of what belongs to it: what a crash leaves is found again by it.
            let mut batch = Vec::new();
            for document in self.list(&format!("log/{}/", incident.id)).await? {
                batch.push(Put { key: document.key, expected: document.version, text: None });
            }
            if let Some(policy) = self.get(&policy_key(&incident.id)).await? {
                batch.push(Put { key: policy.key, expected: policy.version, text: None });
            }
            batch.push(Put { key: incident_key(&incident.id), expected: *version, text: None });
            self.registry.put(&batch, Some(&leader)).await.map_err(|error| Self::at("forgetting", &error))?;
            self.known().remove(&incident_key(&incident.id));
        }
        Ok(())
    }

    async fn replace_incident(&self, id: &IncidentId, incident: &Incident) -> Result<(), StoreError> {
        if incident.id != *id {
            return Err(StoreError::Failed(format!(
                "incident {id} cannot be replaced by the record of {}",
                incident.id
            )));
        }
        if self.base(&incident_key(id)).await?.version == 0 {
            return Err(StoreError::Failed(format!("{} holds no incident {id}", self.label())));
        }
        self.persist(&[Record::Incident(Box::new(incident.clone()))]).await
    }
}

fn cluster_key(cluster: &ClusterName) -> String {
    format!("cluster/{cluster}")
}

fn incident_key(incident: &IncidentId) -> String {
    format!("incident/{incident}")
}

fn policy_key(incident: &IncidentId) -> String {
    format!("policy/{incident}")
}

/// Padded, so that the order of the keys is that of the numbers.
fn log_key(incident: &IncidentId, number: u32) -> String {
    format!("log/{incident}/{number:010}")
}

fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::Failed(format!("a record cannot be written down: {error}")))
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Failed(format!("a record cannot be read back: {error}")))
}
