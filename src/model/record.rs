//! What must survive a crash: the records that the engine persists before it acts, and what it is rebuilt from.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Action, ClusterName, Epoch, Incident, IncidentId, MemberName, Observer, Operator, Policy, SignalName, StepResult,
    time::millis,
};

/// One thing to keep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// The state of a cluster, replacing the former one. Refused (conflict) unless the stored epoch is `expected`.
    Cluster {
        /// The epoch that must be stored now.
        expected: Epoch,
        /// The new state.
        state: ClusterState,
    },
    /// An incident, replacing its former record.
    Incident(Box<Incident>),
    /// The policy that an incident began with; written once.
    IncidentPolicy {
        /// The incident.
        incident: IncidentId,
        /// The policy of its cluster, with the arbiter's part.
        policy: Box<Policy>,
    },
    /// One entry of an incident's saga log; numbers grow by one, a number that exists is refused (conflict).
    Log {
        /// The incident.
        incident: IncidentId,
        /// The cluster.
        cluster: ClusterName,
        /// The number, from 1.
        number: u32,
        /// What happened.
        entry: LogEntry,
    },
}

/// What is kept of a cluster between incidents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterState {
    /// The cluster.
    pub cluster: ClusterName,
    /// The largest epoch that was ever taken. Grows only; an aborted saga leaves a gap.
    pub epoch: Epoch,
    /// Who is primary.
    pub primary: Option<MemberName>,
    /// The epoch in which it became primary: the one that nodes and clients follow.
    pub primary_epoch: Epoch,
    /// Members that were fenced and did not come back as standbys yet, with the fences that lie on them.
    pub quarantined: BTreeMap<MemberName, Quarantine>,
    /// A person's pause.
    pub pause: Option<Pause>,
    /// The newest automatic failovers, as ages would need a clock: moments in milliseconds since 1970.
    pub failovers_unix_ms: Vec<i64>,
    /// A person acknowledged the newest failover, which ends the cooldown.
    pub cooldown_over: bool,
    /// The incident that the cooldown is about.
    #[serde(default)]
    pub newest_failover: Option<IncidentId>,
    /// The streams that were ever heard. After a restart, silence of these counts from the restart.
    pub heard: Vec<(SignalName, Observer, Option<MemberName>)>,
}

impl Default for ClusterName {
    fn default() -> Self {
        "".into()
    }
}

/// A fenced old primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Quarantine {
    /// The incident that fenced it.
    pub incident: IncidentId,
    /// The epoch in which it was primary.
    pub epoch: Epoch,
    /// The fences that lie on it, as (level, method) of the policy of that incident.
    pub fences: Vec<(usize, usize)>,
    /// What that policy called them, in the same order: a file that puts other methods at their places does not make
    /// them other fences. Empty in records of before labels were kept.
    #[serde(default)]
    pub labels: Vec<String>,
    /// The position of the new primary's history at which it was promoted, if known: what the old one has beyond
    /// is its divergent tail.
    pub promoted_at: Option<u64>,
}

/// Hands off, said by a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pause {
    /// Who.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// When it ends by itself, in milliseconds since 1970; `None`: when somebody says `resume`.
    pub until_unix_ms: Option<i64>,
}

/// An entry of the saga log. `Started` is durable before the act; a crash between it and `Ended` leaves the act
/// *unknown*: it is looked at and done again, never taken for failed and never for done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogEntry {
    /// The saga began.
    Opened {
        /// What for.
        kind: SagaKind,
        /// The epoch that this saga owns. Taken with the opening, by compare-and-swap.
        epoch: Epoch,
        /// The primary to be replaced.
        old_primary: MemberName,
        /// Who replaces it.
        candidate: MemberName,
        /// A person's exceptions.
        overrides: Overrides,
        /// The primary's last known position.
        last_position: Option<u64>,
    },
    /// An act is about to be done.
    Started {
        /// The act's number: the `StepToken`.
        act: u32,
        /// The act.
        action: Action,
        /// About whom.
        member: MemberName,
    },
    /// An act ended.
    Ended {
        /// The act's number.
        act: u32,
        /// How.
        result: StepResult,
        /// How long it took.
        #[serde(with = "millis", rename = "took_ms")]
        took: Duration,
    },
    /// A person confirmed the fence with their own eyes.
    FenceConfirmed {
        /// Who.
        by: Operator,
        /// What they checked.
        checked: String,
    },
    /// Another candidate was chosen before anything irreversible was done with the former one.
    CandidateChanged {
        /// The new one.
        to: MemberName,
        /// Why.
        reason: String,
    },
    /// A person asked to give up, where that is still legal.
    AbortRequested {
        /// Why.
        reason: String,
    },
    /// A switchover that a rule asked for goes on as a failover: the primary cannot be reached to step down.
    BecameFailover {
        /// Why.
        reason: String,
    },
    /// A larger epoch was sealed by others; a person let the saga take a still larger one. Durable with the cluster's.
    EpochRaised {
        /// The epoch that the saga owns from here on.
        epoch: Epoch,
    },
    /// Nothing goes on until a person lets it.
    Held {
        /// Why.
        reason: String,
    },
    /// It goes on: what failed before is tried anew.
    Released {
        /// Why.
        reason: String,
        /// Promote whatever the loss.
        accept_loss: bool,
    },
    /// The new primary is promoted and verified: from here on it is the primary of the epoch.
    Promoted {
        /// Its position then.
        position: Option<u64>,
    },
    /// The nodes follow, or the time for it is over.
    Followed {
        /// Those that do.
        nodes: Vec<super::NodeName>,
        /// Those that do not.
        laggards: Vec<super::NodeName>,
    },
    /// The saga gave up before anything irreversible; the old primary stays.
    Aborted {
        /// Why.
        reason: String,
    },
    /// The saga is done; the old primary may still have to come back.
    Resolved,
}

/// What a saga is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SagaKind {
    /// The primary is dead, or is to be treated so.
    Failover,
    /// Both are well; the primary steps down first.
    Switchover,
    /// A quarantined member comes back as a standby.
    Rejoin,
}

/// A person's exceptions, each recorded as bypassed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Overrides {
    /// Promote whatever the loss.
    #[serde(default)]
    pub accept_loss: bool,
    /// Guards that were passed.
    #[serde(default)]
    pub skipped_guards: Vec<super::explain::Guard>,
}

/// Everything the store gives back at start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recovered {
    /// The clusters.
    pub clusters: Vec<ClusterState>,
    /// The incidents that are not closed, each with its log in order and the policy it began with.
    pub open: Vec<OpenIncident>,
}

/// An incident that was under way when the arbiter stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenIncident {
    /// The record.
    pub incident: Incident,
    /// The policy it began with.
    pub policy: Policy,
    /// Its log, by number.
    pub log: Vec<LogEntry>,
}
