//! What the engine asks for. Imperative: it has not happened yet.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ClusterName, CommandError, CommandReply, Epoch, Incident, IncidentId, MemberName, Order, Record, RuleName, Verdict,
    explain::{Guard, RuleExplanation},
    time::millis,
};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Effect {
    /// Make these records durable, all or none, then answer `Persisted` or `PersistFailed`. Nothing that
    /// follows in the same cluster comes out before the answer.
    Persist {
        /// Number of the answer.
        id: u64,
        /// What to write.
        records: Vec<Record>,
    },
    /// Carry out an act; answer `StepEnded` with the token. The same token may come twice after a restart:
    /// every act looks first.
    Run(Box<Run>),
    /// Tell operators: log, metric, event stream, reports.
    Tell(Box<Notice>),
    /// Answer a command.
    Reply {
        /// The number in `Commanded`.
        to: u64,
        /// The answer.
        result: Result<CommandReply, CommandError>,
    },
}

/// An act to carry out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Identifies the act over restarts.
    pub token: StepToken,
    /// In whose name, and about whom.
    pub order: Order,
    /// What.
    pub action: Action,
    /// The executor gives up after this and answers what it knows.
    #[serde(with = "millis", rename = "deadline_ms")]
    pub deadline: Duration,
}

/// Identifies one act of one incident: the idempotency key of hooks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct StepToken {
    /// The cluster.
    pub cluster: ClusterName,
    /// The incident.
    pub incident: IncidentId,
    /// The act's number in the incident.
    pub number: u32,
}

/// What to carry out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Stop the order's member by the method at this place of the policy.
    Fence {
        /// The level, from 0.
        level: usize,
        /// The method in the level, from 0.
        method: usize,
    },
    /// Have a majority of the voters seal the saga's epoch, so that none of them grants an older one any more. Done as soon
    /// as a majority has. No promotion without it where there is a lease. Runs beside the fences from the start.
    Seal,
    /// Seal likewise, and wait until no older lease runs by the count of a majority that sealed: confirmed with
    /// [`super::Proof::LeaseOver`]. The order's member is the holder; whoever reaches it may have it give the lease up
    /// sooner. Runs beside the fences from the start, and is asked for in a switchover once the standby has caught up.
    AwaitLease,
    /// Try the forbidden write at the order's member, after the methods of this level.
    ForbiddenWrite {
        /// The level, from 0.
        level: usize,
    },
    /// Planned switchover: make the order's member refuse writes, and read back that it does.
    MakeReadOnly,
    /// Aborted switchover: let it take writes again.
    MakeWritable,
    /// Wait until the order's member has replayed what it can reach, at least up to `upto` if given.
    CatchUp {
        /// The primary's last known position.
        upto: Option<u64>,
        /// Switchover: ask this member, the old primary, for its final position first, and reach exactly that.
        exact_from: Option<MemberName>,
    },
    /// Make the order's member primary, verified by its role and by a write that carries the epoch.
    Promote,
    /// Make the order's member, another standby, follow the new primary.
    Repoint {
        /// The new primary.
        primary: MemberName,
    },
    /// Tell nodes and clients that the order's member is primary, by the method at this place of the policy.
    Redirect {
        /// The method, from 0.
        method: usize,
    },
    /// Make the order's member, the old primary, a standby of `primary`; count what it has that `primary` never got.
    Rejoin {
        /// The new primary.
        primary: MemberName,
        /// The position of the new primary's history at which it was promoted, if known.
        promoted_at: Option<u64>,
    },
    /// After the promotion: let the arbiter, and whom the file names, through the fence of this method, so that the
    /// order's member can be brought back. Everyone else stays out.
    Admit {
        /// The level, from 0.
        level: usize,
        /// The method in the level, from 0.
        method: usize,
    },
    /// Lift the fence that this method put on the order's member.
    Unfence {
        /// The level, from 0.
        level: usize,
        /// The method in the level, from 0.
        method: usize,
    },
}

/// Something operators should see. One place makes a log line, a metric, an event and, where it matters, a
/// report of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "notice")]
pub enum Notice {
    /// The verdict on a cluster's primary changed.
    VerdictChanged {
        /// The cluster.
        cluster: ClusterName,
        /// The primary judged.
        member: Option<MemberName>,
        /// Before.
        from: Verdict,
        /// Now.
        to: Verdict,
        /// The rule that says so.
        rule: Option<RuleName>,
    },
    /// A rule became true.
    RuleFired {
        /// The cluster.
        cluster: ClusterName,
        /// The rule, explained at that moment.
        explanation: Box<RuleExplanation>,
    },
    /// A rule is no longer true.
    RuleCleared {
        /// The cluster.
        cluster: ClusterName,
        /// The rule.
        rule: RuleName,
        /// How long it was true.
        #[serde(with = "millis", rename = "after_ms")]
        #[schemars(with = "f64")]
        after: Duration,
    },
    /// A rule wants to act and guards stand against it. Told once per change of the guards.
    ActBlocked {
        /// The cluster.
        cluster: ClusterName,
        /// The rule.
        rule: RuleName,
        /// The guards, with reasons. Empty: it is blocked no more, or wants no more.
        guards: Vec<(Guard, String)>,
    },
    /// A guard began to stand, or stands no more.
    GuardChanged {
        /// The cluster.
        cluster: ClusterName,
        /// The guard.
        guard: Guard,
        /// Whether it blocks now.
        blocks: bool,
        /// Why.
        reason: String,
    },
    /// Who is primary is known, or changed.
    PrimaryChanged {
        /// The cluster.
        cluster: ClusterName,
        /// The primary.
        primary: Option<MemberName>,
        /// The epoch.
        epoch: Epoch,
    },
    /// More than one member takes writes, or claims to be primary.
    TwoPrimaries {
        /// The cluster.
        cluster: ClusterName,
        /// The members.
        members: Vec<MemberName>,
        /// Whether it is so now; `false` when it ended.
        now: bool,
    },
    /// An incident was opened, moved on, was held, or was closed. Carries the whole record so far.
    IncidentUpdated(Box<Incident>),
    /// Our own state: tilt, store, policy.
    Own {
        /// One word: `tilt`, `store`, `policy`.
        what: String,
        /// Whether it is well now.
        ok: bool,
        /// In words.
        detail: String,
    },
}
