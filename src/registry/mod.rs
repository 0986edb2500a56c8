//! What several processes share through a database: a table of instances with heartbeats, the leader that is elected by
//! it, and documents that change by compare-and-swap. One file per back-end, plus one line in [`open`].
//!
//! The table is the published one (`id, instance, start_time, heartbeat`), which anyone may read: the live row with the
//! smallest id leads, and a heartbeat that touches no row means that it lapsed: a new row is inserted, so that the
//! history of starts stays. Its holes are closed:
//!
//! - Time is the database's, in the same statement that compares it. No instance's clock is ever compared:
//!   where the database has none (etcd), leases tell who is alive, and the times in the rows are for people only.
//! - An id never repeats, not even after the newest rows were deleted, so that it serves as the leader's **epoch**: it
//!   only grows, because a row that lapsed never becomes valid again.
//! - Who leads is written down ([`Registry::claim`]) and only grows. A clock of the database that steps back revives
//!   nobody; one that steps forward lets a row lapse too early *there*, therefore who claims must have seen, on an own
//!   clock, that the leader's heartbeat did not change for as long as it was valid (`crate::election`).
//! - A write in the name of a leader is conditional, in one transaction, on that leader being written down.
//!
//! The contract, by what is true once a call returned: `Ok`, it is durable; [`RegistryError::Conflict`] and
//! [`RegistryError::NotLeader`], nothing was written; [`RegistryError::Failed`], nothing was written and nothing of it
//! will appear later; [`RegistryError::Unknown`], it may have been, and whoever asked looks (`get`) before going on.
//! Every call ends within the time-out of the back-end's options.
//!
//! A database that is restored from an older backup, or replaced by a replica that lagged, goes back: ids come again,
//! versions too. A process that saw more than there is now gets [`RegistryError::Failed`] with "the database was set
//! back" from every call, until it is started again. One that starts afterwards has seen nothing and notices nothing:
//! who is given an epoch keeps the largest one himself, and refuses smaller ones.

use async_trait::async_trait;
use std::time::Duration;

mod address;
pub mod etcd;
pub mod mongodb;
mod names;
mod open;
pub mod redis;
mod seen;
mod sql;

pub(crate) mod mysql;
pub(crate) mod postgres;
pub(crate) mod sqlite;

pub use open::{OpenError, Options, open};

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Instance {
    /// Grows, never repeats within a database: the epoch of its leadership.
    pub id: u64,
    /// The group in which it stands for election.
    pub group: String,
    /// The program's name for itself.
    pub instance: String,
    /// When the row was inserted: milliseconds since 1970 of the database's clock.
    pub start_time_ms: i64,
    /// Its last heartbeat, by the same clock.
    pub heartbeat_ms: i64,
    /// For how long a heartbeat of this row is valid.
    pub valid_for_ms: i64,
    /// Whether the heartbeat was valid when the answer was made.
    pub is_valid: bool,
    /// Whether this row is written down as the leader.
    pub is_leader: bool,
    /// How often it beat: two looks that find the same number saw the same heartbeat.
    pub beats: u64,
}

/// A heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The group.
    pub group: String,
    /// The program's name for itself.
    pub instance: String,
    /// The row of the former heartbeat; `None`: the first one of this start, which inserts a row.
    pub id: Option<u64>,
    /// For how long it is valid.
    pub valid_for: Duration,
}

/// What a heartbeat found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beaten {
    /// The row. Another one than asked for: the former one had lapsed, or was deleted.
    pub id: u64,
    /// The database's clock, milliseconds since 1970.
    pub now_ms: i64,
    /// The largest id that was ever written down as the leader of the group; `None`: nobody yet.
    pub leader: Option<u64>,
    /// The rows of the group from the leader's id on (all, if there is none), lapsed ones too, by id; the own one included.
    pub rows: Vec<Instance>,
}

/// A leader, in whose name something is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The group.
    pub group: String,
    /// The row.
    pub id: u64,
}

/// A document with its version, which grows by one with each write and is 1 after the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its key: printable ASCII, parts divided by `/`.
    pub key: String,
    /// Its version.
    pub version: u64,
    /// What it holds: JSON.
    pub text: String,
}

/// One write of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The key.
    pub key: String,
    /// The version that must be there: 0, that there must be none.
    pub expected: u64,
    /// The new text; `None` deletes it.
    pub text: Option<String>,
}

/// Why the database did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// A document had another version. Nothing was written.
    #[error("{key} was changed by somebody else")]
    Conflict {
        /// The first of the batch.
        key: String,
    },
    /// Somebody else leads, or the heartbeat lapsed, or a row before it is still valid. Nothing was written.
    #[error("{0}")]
    NotLeader(String),
    /// It did not happen and will not.
    #[error("{0}")]
    Failed(String),
    /// It may have happened: the answer got lost.
    #[error("{0} (it may have happened)")]
    Unknown(String),
}

/// One back-end.
#[async_trait]
pub trait Registry: Send + Sync {
    /// What it is and where, without secrets: `postgres at 10.0.0.20:5432/coroner`.
    fn label(&self) -> String;

    /// Makes the tables, if they are missing. Idempotent; several may do it at once.
    async fn prepare(&self) -> Result<(), RegistryError>;

    /// Touches the row, or inserts a new one where that had lapsed, and tells what is in the table, in one transaction.
    async fn beat(&self, beat: &Beat) -> Result<Beaten, RegistryError>;

    /// Writes a row down as the leader, if it is valid, no leader with a larger id is written down, and by the
    /// database's clock no row of the group between the leader that is written down and this one is valid. Idempotent.
    async fn claim(&self, leader: &Leader) -> Result<(), RegistryError>;

    /// The row's heartbeat lapses now: the program is stopped, nobody has to wait. Idempotent.
    async fn leave(&self, group: &str, id: u64) -> Result<(), RegistryError>;

    /// The newest rows first, of one group or of all, at most `limit`.
    async fn instances(&self, group: Option<&str>, limit: u32) -> Result<Vec<Instance>, RegistryError>;

    /// One document.
    async fn get(&self, key: &str) -> Result<Option<Document>, RegistryError>;

    /// All documents whose keys begin with `prefix`, by key.
    async fn list(&self, prefix: &str) -> Result<Vec<Document>, RegistryError>;

    /// Writes all or none; with a leader, only if that one is written down as the group's and its heartbeat is valid.
    async fn put(&self, batch: &[Put], leader: Option<&Leader>) -> Result<(), RegistryError>;
}
