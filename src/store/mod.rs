//! What must survive us: one file per back-end. What was seen and decided is recorded in the journal, and not here.
//!
//! The contract, by what is true once a call returned: after `persist` returned `Ok`, all records are durable and
//! in order; after `Err(Conflict)`, none is written and the store holds a newer epoch or log entry than the caller
//! knew; after `Err(Failed)`, none of them will appear later.

use async_trait::async_trait;

use crate::model::{
    ClusterName, Incident, IncidentId, Record, Report,
    record::{ClusterState, LogEntry, Recovered},
    status::IncidentBrief,
};

pub mod shared;
pub mod sqlite;

/// Why the store did not take something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote a newer epoch, or the same log entry.
    #[error("the store holds something newer: {0}")]
    Conflict(String),
    /// Disk full, locked, read-only, corrupt, unreachable.
    #[error("{0}")]
    Failed(String),
}

/// One back-end.
#[async_trait]
pub trait Store: Send + Sync {
    /// Everything needed to go on where the last life stopped.
    async fn recover(&self) -> Result<Recovered, StoreError>;

    /// Makes records durable, all or none.
    async fn persist(&self, records: &[Record]) -> Result<(), StoreError>;

    /// The state of one cluster.
    async fn cluster(&self, cluster: &ClusterName) -> Result<Option<ClusterState>, StoreError>;

    /// The newest incidents first, at most `limit`, of one cluster or of all.
    async fn incidents(&self, cluster: Option<&ClusterName>, limit: u32) -> Result<Vec<IncidentBrief>, StoreError>;

    /// One incident with its log. A unique beginning of its name is enough.
    async fn incident(&self, id: &str) -> Result<Option<(Incident, Vec<LogEntry>)>, StoreError>;

    /// Keeps a report for one reporter until it is sent, replacing an older one with the same key.
    async fn spool(&self, reporter: &str, report: &Report) -> Result<(), StoreError>;

    /// The spooled reports of one reporter, oldest first.
    async fn spooled(&self, reporter: &str) -> Result<Vec<(i64, Report)>, StoreError>;

    /// A spooled report was sent, or given up.
    async fn unspool(&self, number: i64) -> Result<(), StoreError>;

    /// Whether intents can be written now: writes and syncs something.
    async fn check(&self) -> Result<(), StoreError>;

    /// Forgets what is beyond the bounds.
    async fn trim(&self) -> Result<(), StoreError>;

    /// An incident's record as it stands; for acknowledgements after its end.
    async fn replace_incident(&self, id: &IncidentId, incident: &Incident) -> Result<(), StoreError>;
}
