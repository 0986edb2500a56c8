//! SQLite: the embedded default, for one arbiter.
//!
//! # What it promises, and what not
//!
//! Write-ahead log with `synchronous=FULL`, both read back at opening: when `persist` said `Ok`, the records have been
//! synced. One connection writes intents; a second spools reports under the same lock but without
//! syncing every commit, so that a flood of reports cannot make an intent wait for more than one of them.
//! A second arbiter on the same file is refused by an advisory lock on `<file>.lock`, held for the store's life.
//!
//! Each row that a decision is built on carries a SHA-256 of its content. A row that cannot be read, or whose content
//! does not match, is an error that names the table and the row; nothing is skipped.
//!
//! Nothing waits for ever before a commit: a lock held by somebody else, or a disk that does not answer, is an error
//! after a bounded time and nothing of the batch appears later. A `COMMIT` itself is waited for, as nobody can say what
//! became of it. If it fails, the rows are read back; if they are absent, the next write overwrites whatever
//! the failed one may have left in the log file. A power cut between the two could still bring it back: that needs a
//! failing disk and a power cut within the same moments.
//!
//! # Reading the file by hand
//!
//! It is an ordinary SQLite file; reading while the arbiter runs is safe (`sqlite3 -readonly coroner.db`):
//!
//! ```text
//! .mode box
//! SELECT * FROM v_clusters;                                     -- who is primary, in which epoch
//! SELECT * FROM v_incidents LIMIT 10;                           -- the newest incidents
//! SELECT at, what FROM v_timeline WHERE incident = '01J…';      -- the story of one
//! SELECT * FROM v_steps WHERE incident = '01J…';                -- what was done, how long it took, what came of it
//! SELECT number, written, kind, entry FROM saga_log WHERE incident = '01J…' ORDER BY number;
//! SELECT json FROM incident_policies WHERE incident = '01J…';   -- the rules it was decided by
//! ```
//!
//! | table | a row is | bounded by |
//! |---|---|---|
//! | `clusters` | what is kept of a cluster between incidents; `epoch` only grows | the clusters |
//! | `incidents` | one incident; the columns repeat what the JSON says | number, closed and unneeded ones go |
//! | `saga_log` | one entry of the intent log, numbered from 1 without gaps | its incident |
//! | `incident_policies` | the policy an incident began with | its incident |
//! | `spool` | a report that a reporter did not take yet, or that it must be sent again and again | number, age |
//!
//! What was seen and decided is not in it, but in the journal (`coroner replay`).
//!
//! Times in `…_ms` are milliseconds since 1970, UTC; other times are ISO 8601, UTC. Written rows are not meant to be
//! edited: the checksum then refuses them.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use sqlx::SqliteConnection;
use tokio::sync::{Mutex, MutexGuard};

use super::{Store, StoreError};
use crate::model::{
    ClusterName, Incident, IncidentId, Record, Report,
    record::{ClusterState, LogEntry, Recovered},
    status::IncidentBrief,
};

mod connect;
mod fault;
mod history;
mod read;
mod rows;
mod write;

/// How long to wait for our own writers before nothing was begun.
const WAIT: Duration = Duration::from_secs(3);
/// How long a batch may take up to its commit.
const STAGE: Duration = Duration::from_secs(4);

/// How much is kept of what grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// At most this many closed incidents. An incident that a quarantined member still refers to stays.
    pub incidents: u64,
    /// At most this many spooled reports for each reporter.
    pub spooled: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { incidents: 1_000, spooled: 1_000 }
    }
}

/// The store in one SQLite file.
pub struct SqliteStore {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    bounds: Bounds,
    identity: connect::Identity,
    writers: Mutex<Writers>,
    reader: Mutex<Option<SqliteConnection>>,
    /// Held, not read: dropping it lets the next arbiter in.
    _lock: File,
}

/// The connections that write, under one lock so that they never wait for one another inside SQLite. `None`: to be
/// opened again, because an operation on it was given up.
struct Writers {
    durable: Option<SqliteConnection>,
    history: Option<SqliteConnection>,
    /// A commit failed and may have left frames in the log file that the next commit must overwrite.
    unsettled: bool,
}

impl SqliteStore {
    /// Opens the file, creating or upgrading it, and checks the tables that decisions are built on.
    ///
    /// # Errors
    /// Another arbiter holds it; it is damaged, newer than this program, not Coroner's, read-only, on a full disk.
    pub async fn open(path: impl AsRef<Path>, bounds: Bounds) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        let lock = connect::take_lock(&path)?;
        let mut durable = connect::open(&path, connect::Use::Durable).await?;
        let sound = async {
            connect::prepare(&path, &mut durable).await?;
            connect::check_integrity(&path, &mut durable).await
        };
        if let Err(error) = sound.await {
            // Closed before the lock is let go of.
            let _ = sqlx::Connection::close(durable).await;
            return Err(error);
        }
        let history = connect::open(&path, connect::Use::History).await?;
        let reader = connect::open(&path, connect::Use::Read).await?;
        let identity = connect::identity(&path)?;
        let writers = Writers { durable: Some(durable), history: Some(history), unsettled: false };
        let inner = Inner {
            path,
            bounds,
            identity,
            writers: Mutex::new(writers),
            reader: Mutex::new(Some(reader)),
            _lock: lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Brings everything into the one file and closes the connections. A later call opens them again; the lock is held
    /// until the store is dropped.
    ///
    /// # Errors
    /// The file cannot be written; nothing that was persisted is lost by that.
    pub async fn close(&self) -> Result<(), StoreError> {
        let mut writers = self.inner.writers().await?;
        let mut reader = self.inner.reader().await?;
        // The durable one last: the last connection of all empties the log file into the main file.
        for conn in [reader.take(), writers.history.take(), writers.durable.take()].into_iter().flatten() {
            sqlx::Connection::close(conn).await.map_err(|e| fault::sql(&self.inner.path, "closing", &e))?;
        }
        Ok(())
    }

    /// Runs to its end even when the caller stops waiting, so that no connection is left inside a transaction.
    async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        tokio::spawn(work)
            .await
            .unwrap_or_else(|e| Err(StoreError::Failed(format!("{}: {e}", fault::at(&self.inner.path)))))
    }
}

impl Inner {
    async fn writers(&self) -> Result<MutexGuard<'_, Writers>, StoreError> {
        tokio::time::timeout(WAIT, self.writers.lock()).await.map_err(|_| {
            fault::failed(&self.path, "waiting for the former write", "the disk does not answer; nothing was written")
        })
    }

    async fn reader(&self) -> Result<MutexGuard<'_, Option<SqliteConnection>>, StoreError> {
        tokio::time::timeout(WAIT, self.reader.lock())
            .await
            .map_err(|_| fault::failed(&self.path, "waiting for the former read", "the disk does not answer"))
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn recover(&self) -> Result<Recovered, StoreError> {
        let inner = self.inner.clone();
        self.detached(async move { read::recover(&inner).await }).await
    }

    async fn persist(&self, records: &[Record]) -> Result<(), StoreError> {
        let rows = rows::Row::all(records)?;
        let inner = self.inner.clone();
        self.detached(async move { write::persist(&inner, rows).await }).await
    }

    async fn cluster(&self, cluster: &ClusterName) -> Result<Option<ClusterState>, StoreError> {
        let (inner, cluster) = (self.inner.clone(), cluster.clone());
        self.detached(async move { read::cluster(&inner, &cluster).await }).await
    }

    async fn incidents(&self, cluster: Option<&ClusterName>, limit: u32) -> Result<Vec<IncidentBrief>, StoreError> {
        let (inner, cluster) = (self.inner.clone(), cluster.cloned());
        self.detached(async move { read::incidents(&inner, cluster.as_ref(), limit).await }).await
    }

    async fn incident(&self, id: &str) -> Result<Option<(Incident, Vec<LogEntry>)>, StoreError> {
        let (inner, id) = (self.inner.clone(), id.to_owned());
        self.detached(async move { read::incident(&inner, &id).await }).await
    }

    async fn spool(&self, reporter: &str, report: &Report) -> Result<(), StoreError> {
        let json = rows::json(report)?;
        let (inner, reporter, key) = (self.inner.clone(), reporter.to_owned(), report.key.clone());
        self.detached(async move { history::spool(&inner, &reporter, &key, &json).await }).await
    }

    async fn spooled(&self, reporter: &str) -> Result<Vec<(i64, Report)>, StoreError> {
        let (inner, reporter) = (self.inner.clone(), reporter.to_owned());
        self.detached(async move { read::spooled(&inner, &reporter).await }).await
    }

    async fn unspool(&self, number: i64) -> Result<(), StoreError> {
        let inner = self.inner.clone();
        self.detached(async move { history::unspool(&inner, number).await }).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        let inner = self.inner.clone();
        self.detached(async move { write::check(&inner).await }).await
    }

    async fn trim(&self) -> Result<(), StoreError> {
        let inner = self.inner.clone();
        self.detached(async move { history::trim(&inner).await }).await
    }

    async fn replace_incident(&self, id: &IncidentId, incident: &Incident) -> Result<(), StoreError> {
        if incident.id != *id {
            return Err(StoreError::Failed(format!(
                "incident {id} cannot be replaced by the record of {}",
                incident.id
            )));
        }
        let row = rows::Row::incident(incident)?;
        let inner = self.inner.clone();
        self.detached(async move { write::replace(&inner, row).await }).await
    }
}
