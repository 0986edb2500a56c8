//! What a controller asks a relay, and what it answers: one JSON object in each frame.

use serde::{Deserialize, Serialize};

/// A question or an order. An order with an epoch below the largest that the relay has stored is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// How are you? Answered in any role, without touching the storage.
    Status,
    /// A write that no node sees: made durable like a message, acknowledged like one. Refused by whoever refuses senders.
    Probe {
        /// Comes back in the answer.
        id: String,
    },
    /// A canary message to all nodes, through the log like any other.
    Canary {
        /// What the nodes report back.
        id: String,
    },
    /// Refuse senders from now on (the nodes go on receiving what is in the log), or take them again.
    ReadOnly {
        /// Whether.
        on: bool,
        /// In whose name.
        epoch: u64,
    },
    /// Replay up to `upto`, or to the end of the log as it is now.
    CatchUp {
        /// A sequence.
        upto: Option<u64>,
        /// For how long at most.
        within_ms: u64,
    },
    /// Become primary: raise the epoch file, replay to the end, begin the epoch, serve.
    Promote {
        /// The new epoch.
        epoch: u64,
        /// For how long the replay may take.
        within_ms: u64,
    },
    /// Become (or stay) a shadow of `primary`. What this member wrote beyond the beginning of the present epoch goes
    /// into a side file.
    Follow {
        /// `host:port` of the primary.
        primary: String,
        /// The present epoch.
        epoch: u64,
    },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// It is so, or it was done; the state after it.
    Ok {
        /// The state.
        status: Status,
        /// What was done, in words, where there is something to say.
        #[serde(default)]
        detail: String,
        /// Of a `Follow`: how many entries went into the side file.
        #[serde(default)]
        set_apart: Option<u64>,
        /// Of a `Promote` or `CatchUp`: how many entries were replayed for it.
        #[serde(default)]
        replayed: Option<u64>,
    },
    /// It was refused; nothing was done.
    Refused {
        /// Why.
        reason: Reason,
        /// In words.
        detail: String,
        /// The state.
        status: Status,
    },
    /// It was tried and failed; it may have happened in part.
    Failed {
        /// In words.
        detail: String,
    },
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Read-only.
    ReadOnly,
    /// A shadow takes nothing from senders and sends nothing to nodes.
    NotPrimary,
    /// A larger epoch is stored.
    OldEpoch,
    /// The storage is full.
    StorageFull,
    /// The storage fails otherwise, or a corrupt entry lies before the end.
    Storage,
    /// It could not be understood.
    BadRequest,
}

/// What a relay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes messages and sends them to nodes.
    Primary,
    /// Replays.
    Shadow,
    /// Was primary and found a larger epoch in the storage, or cannot write it: serves nobody until it is told to
    /// follow or to promote.
    Retired,
}

/// The state of a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// The epoch in which it is that: of the primary whose log it replays, for a shadow.
    pub epoch: u64,
    /// The largest epoch that it has seen or was told.
    pub stored_epoch: u64,
    /// Whether senders are refused for the flag's sake.
    pub read_only: bool,
    /// The sequence of the last durable entry that it knows (primary: wrote; shadow: applied).
    pub position: u64,
    /// Shadow: entries that are in the log and not applied yet.
    pub lag_entries: u64,
    /// Shadow: for how long the oldest of them has been waiting, milliseconds.
    pub lag_ms: u64,
    /// Shadow: whose.
    pub following: Option<String>,
    /// Shadow: whether the replay goes on and the primary's heartbeats come.
    pub is_linked: bool,
    /// Since when nothing was heard from the primary (shadow), or since when no message went to any node although some
    /// were waiting (primary), milliseconds.
    pub silent_ms: u64,
    /// Primary: connected nodes, with the last sequence that each acknowledged.
    pub nodes: Vec<(String, u64)>,
    /// Entries that were found corrupt inside the log. Above 0, nothing behind them is served.
    pub corrupt: u64,
}
