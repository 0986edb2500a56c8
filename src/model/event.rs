//! What the engine is told. Past tense: it has happened.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    ActError, ClusterName, Command, Done, Epoch, FenceReport, MemberName, NodeName, Observation, Operator, Policy,
    StepToken, WallAnchor,
    edge::{FenceHealth, WriteAttempt},
    record::{ClusterState, Recovered},
};

/// Something that happened. Those that rules are judged by are recorded in the journal, so that a backtest runs the same
/// code on the same input; the simulator makes up all of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Somebody saw something.
    Observed(Observation),
    /// The records of `Effect::Persist` with this number are durable.
    Persisted(u64),
    /// They are not: nothing of them was written.
    PersistFailed {
        /// The number of the effect.
        id: u64,
        /// Whether the store holds a newer epoch: somebody else acted.
        conflict: bool,
        /// Why.
        reason: String,
    },
    /// An act ended.
    StepEnded {
        /// Which act.
        token: StepToken,
        /// How.
        result: StepResult,
    },
    /// A person, or a program in their name, asks for something.
    Commanded {
        /// Who, as authenticated.
        by: Operator,
        /// What.
        command: Command,
        /// Number by which `Effect::Reply` answers.
        reply_to: u64,
    },
    /// A fence path was exercised without harm.
    FenceChecked {
        /// The cluster.
        cluster: ClusterName,
        /// The member that it would stop.
        member: MemberName,
        /// The level, from 0.
        level: usize,
        /// The method in the level, from 0.
        method: usize,
        /// What was found.
        health: FenceHealth,
    },
    /// The driver noticed that it ran late, or that the clock jumped over a suspend.
    RanLate {
        /// By how much.
        #[serde(with = "super::time::millis", rename = "by_ms")]
        by: std::time::Duration,
        /// What was noticed, in words.
        detail: String,
    },
    /// The store answers again, or does not.
    StoreHealth {
        /// Whether it takes intents.
        ok: bool,
        /// Why not.
        detail: String,
    },
    /// This arbiter leads: everything is as it stands in the store now, and incidents under way are taken up.
    Leads {
        /// What the store holds.
        recovered: Box<Recovered>,
        /// The largest epochs that this arbiter ever saw there.
        seen: BTreeMap<ClusterName, Epoch>,
    },
    /// It does not lead: nothing more is done, and what was not durable yet is forgotten.
    Follows {
        /// Who does, or why nobody is known to.
        reason: String,
        /// The clusters as they stand in the store, if it could be read.
        clusters: Option<Vec<ClusterState>>,
        /// The largest epochs that this arbiter ever saw there.
        seen: BTreeMap<ClusterName, Epoch>,
    },
    /// A new, valid policy was loaded.
    PolicyLoaded(Box<Policy>),
    /// The wall clock was read; for people only.
    WallClockRead(WallAnchor),
}

/// How one act ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepResult {
    /// A fence method.
    Fenced(FenceReport),
    /// The forbidden write.
    WriteTried(WriteAttempt),
    /// Anything else that was done and verified: read-only, catch-up, promotion, redirect, rejoin, un-fence.
    Done(Done),
    /// A redirect told these nodes; those that did not acknowledge are named with the reason.
    Told {
        /// Acknowledged.
        acknowledged: Vec<NodeName>,
        /// Not.
        failed: Vec<(NodeName, String)>,
    },
    /// A voter has sealed a larger epoch than the order's: this one will never be granted to anybody.
    Outbid {
        /// The epoch that is sealed.
        sealed: Epoch,
    },
    /// A standby was to reach the end of a drained primary, and did not. Nothing was changed by it.
    FellShort {
        /// How far it came; `None`: it does not know.
        reached: Option<u64>,
        /// Where the primary ends.
        end: u64,
    },
    /// It failed.
    Failed(ActError),
}
