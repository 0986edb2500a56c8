//! The JSON line protocol: one object per line in, one per line out, in Maelstrom's envelope. Pure: it knows no socket, no
//! file and no clock; what stands behind it is a [`Pair`].
//!
//! ```text
//! bytes → Lines (split, bounded) → envelope → Request → Pair → Answer → one line
//! ```
//!
//! Its promise: every line that is not blank is answered by exactly one line, and that line is valid JSON in the form of
//! the published samples. Whoever drives it may send what it likes; what cannot be understood is answered with an
//! `error` body, and the next line is read as if nothing had been.
//!
//! For people: `src/docs/stdio.md`.

use async_trait::async_trait;
use serde_json::Value;

mod envelope;
mod error;
mod lines;
mod request;
mod session;
mod write;

pub use error::{Code, Refusal};
pub use lines::{LINE_MAX, Line, Lines};
pub use request::{READ_DEFAULT, READ_MAX};
pub use session::Session;

/// A primary and what stands behind it: asked by [`Session`], one request at a time.
///
/// Every call ends by itself within a bound; one that ran into it refuses with [`Code::Timeout`].
#[async_trait]
pub trait Pair: Send {
    /// Begins with these nodes, in this order. Comes back at once: what has to be started is started behind its back,
    /// and whoever needs it waits for it.
    async fn begin(&mut self, nodes: &[String]) -> Result<(), Refusal>;

    /// Who is what, and how far the shadow is behind.
    async fn status(&mut self) -> Result<ShadowStatus, Refusal>;

    /// Fails over from `failed`, one of the nodes.
    async fn trigger_failover(&mut self, failed: &str) -> Result<FailoverDone, Refusal>;

    /// Writes a message at the primary; comes back once it is durable.
    async fn append(&mut self, entry: Entry) -> Result<Appended, Refusal>;

    /// Reads at the primary what is durable, from this sequence on.
    async fn read(&mut self, from: u64, limit: usize) -> Result<Page, Refusal>;

    /// Stops the shadow's replay, so that it falls behind. Does nothing if it is stopped.
    async fn pause_shadow(&mut self) -> Result<String, Refusal>;

    /// Lets it go on. Does nothing if it was not stopped.
    async fn resume_shadow(&mut self) -> Result<String, Refusal>;
}

/// What `shadow_status` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowStatus {
    /// The node that is primary.
    pub primary: String,
    /// The node that would be promoted; none if none is left.
    pub shadow: Option<String>,
    /// Entries that are in the log and that the shadow has not applied. None without a shadow.
    pub wal_lag_entries: Option<u64>,
    /// For how long the oldest of them has been waiting, in milliseconds. None without a shadow.
    pub wal_lag_ms: Option<u64>,
}

/// What `trigger_failover` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverDone {
    /// The node that is primary now.
    pub new_primary: String,
    /// Entries that it applied between the request and its promotion.
    pub wal_entries_replayed: u64,
    /// From the request until everybody follows the new primary, in milliseconds.
    pub failover_time_ms: u64,
    /// The epoch that began.
    pub epoch: u64,
}

/// A message as the driver wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// A key, if one was given. It is carried along.
    pub key: Option<String>,
    /// Any JSON.
    pub message: Value,
}

/// What `append` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its place in the log.
    pub sequence: u64,
    /// The epoch in which it was written.
    pub epoch: u64,
}

/// What `read` answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The messages, in the order of the log.
    pub messages: Vec<Message>,
    /// Where to read on; none at the end of the log.
    pub next: Option<u64>,
}

/// One message of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Its place in the log. It grows from one message to the next; there may be gaps.
    pub sequence: u64,
    /// The epoch in which it was written.
    pub epoch: u64,
    /// What was written.
    pub entry: Entry,
}
