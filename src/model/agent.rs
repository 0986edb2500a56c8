//! What an agent knows of its broker and of its own hold on it, and what it may be told to do.

use std::{fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Epoch, Fact, FenceHealth, IncidentId, MemberName, StepResult, observation::RoleReport, policy::SignalKind,
    time::millis,
};

/// What the kernel of a broker's host says about the broker, by the agent's mouth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// What it is about.
    pub watch: Watch,
    /// How certain it is.
    pub certainty: Certainty,
    /// Whether what `watch` looks for is so now: the process runs no more, is frozen, the disk is full.
    pub is_so: bool,
    /// In words: `killed by SIGKILL`, `no progress for 3s`.
    pub detail: String,
}

/// What an agent can watch. Rules see it as a signal (`agent: { watch: process, of: primary }`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Watch {
    /// The broker's main process: gone, or ending (exit and core-dump notices come before its memory is torn down).
    Process,
    /// Its control group: emptied.
    Cgroup,
    /// Its systemd unit: not active.
    Unit,
    /// Its listening socket: gone.
    Listener,
    /// A thread of it stays in uninterruptible sleep (D).
    Stuck,
    /// It is stopped or frozen.
    Frozen,
    /// The pressure files of its control group, or of the host, show a stall.
    Pressure,
    /// Its data directory's file system is full or read-only.
    Disk,
    /// The host was booted again since the arbiter last heard of it.
    Rebooted,
    /// The broker gives no answer to its own agent.
    Progress,
    /// The agent itself is heard, over whatever path is left. Asked like a heartbeat: `silent: 300ms`.
    Beat,
}

impl Watch {
    /// Whether rules ask it `exited` (a thing that runs or not) rather than `firing` (a state that is so or not).
    #[must_use]
    pub const fn is_about_running(self) -> bool {
        matches!(self, Self::Process | Self::Cgroup | Self::Unit | Self::Listener)
    }

    /// What kind of signal it is to rules.
    #[must_use]
    pub const fn kind(self) -> SignalKind {
        match self {
            Self::Beat => SignalKind::Heartbeat,
            watch if watch.is_about_running() => SignalKind::Process,
            _ => SignalKind::Alert,
        }
    }

    /// What a report says of it to rules. `None`: the agent does not watch it; that is unknown, and kills nobody.
    #[must_use]
    pub fn fact_in(self, report: &MemberReport, challenge: u64) -> Option<Fact> {
        if self == Self::Beat {
            return Some(Fact::Beat { seq: challenge, echoed: true });
        }
        let evidence = report.evidence.iter().find(|evidence| evidence.watch == self)?;
        Some(match self.kind() {
            SignalKind::Process => Fact::Process { running: !evidence.is_so, detail: evidence.detail.clone() },
            _ => Fact::Alert { firing: evidence.is_so },
        })
    }

    /// The word of the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Cgroup => "cgroup",
            Self::Unit => "unit",
            Self::Listener => "listener",
            Self::Stuck => "stuck",
            Self::Frozen => "frozen",
            Self::Pressure => "pressure",
            Self::Disk => "disk",
            Self::Rebooted => "rebooted",
            Self::Progress => "progress",
            Self::Beat => "beat",
        }
    }
}

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How certain evidence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// The kernel or the service manager said so.
    Proven,
    /// It gave no answer: it may be dead, slow or out of reach.
    Unreachable,
    /// It is in trouble that may pass.
    Warning,
}

/// Which process of which boot the evidence is about: a number that was given anew is not the same process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ProcessIdentity {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// The process number in the agent's namespace; 0: none is known.
    pub pid: i32,
    /// Its start time in clock ticks since boot.
    pub start_ticks: u64,
}

/// A member's lease, as its agent holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// Not appointed: it asks for none.
    #[default]
    None,
    /// Held; the member may serve for this long yet.
    Held {
        /// What is left of it, on the holder's clock.
        #[serde(with = "millis", rename = "left_ms")]
        #[schemars(with = "f64")]
        left: Duration,
    },
    /// Asked for, and not granted by a majority.
    Wanted,
    /// Given up: the evidence calls the broker dead or stuck, or it was fenced.
    GivenUp,
}

/// How the renewals of a lease go, counted by its holder since its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RenewalHealth {
    /// Rounds of requests.
    pub rounds: u64,
    /// Rounds that a majority granted in time.
    pub granted: u64,
    /// The least that was left of the lease when it was extended.
    pub least_left_ms: Option<f64>,
}

/// The gate before a member's port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GateState {
    /// No gate is configured.
    #[default]
    None,
    /// Configured, but the drill did not prove that it stops traffic: it is no proof of anything.
    Unproven,
    /// The kernel lets clients through while the lease lasts.
    Open,
    /// The kernel lets no client through.
    Closed,
}

/// What the agent of a member tells with every beat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MemberReport {
    /// Whose boot and process this is about.
    pub identity: ProcessIdentity,
    /// The largest epoch that the agent has seen; survives its restarts.
    pub epoch: Epoch,
    /// The epoch in which the member was appointed primary, if it was and is.
    pub appointed: Option<Epoch>,
    /// Its lease.
    pub lease: LeaseState,
    /// How its renewals go; `None`: it never asked for a lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewals: Option<RenewalHealth>,
    /// Its gate.
    pub gate: GateState,
    /// What the kernel says.
    pub evidence: Vec<Evidence>,
    /// What the broker itself says of its role, asked by the agent.
    pub role: Option<RoleReport>,
    /// Age of that answer, on the agent's clock.
    #[serde(default, with = "millis::option", rename = "role_age_ms")]
    #[schemars(with = "Option<f64>")]
    pub role_age: Option<Duration>,
}

/// What an arbiter may order an agent to do. What each means on the host stands in the agent's own file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// The member is primary of the order's epoch: ask for its lease from now on, and open the gate while it lasts.
    Appoint,
    /// Stop it by the fence of this name: `gate`, `kill`, `read_only`, or one of the agent's own list.
    Fence {
        /// The name.
        name: String,
        /// Before a kill: gather evidence of the dying for at most this long. Zero: none.
        #[serde(with = "millis", rename = "preserve_ms")]
        preserve: Duration,
    },
    /// After a promotion elsewhere: let the broker run again as a standby, restart no longer inhibited. The gate stays
    /// shut for clients.
    Unfence {
        /// The name of the fence.
        name: String,
    },
    /// Whether that fence could work, found without harm.
    Rehearse {
        /// The name of the fence.
        name: String,
    },
    /// Make the broker refuse writes, and tell its final position.
    MakeReadOnly,
    /// Let it take writes again.
    MakeWritable,
    /// Tell the position.
    Position,
    /// Wait until it has replayed what it received, at least up to here.
    CatchUp {
        /// The position.
        upto: Option<u64>,
    },
    /// Make it primary.
    Promote,
    /// Make it follow.
    Follow {
        /// The new primary.
        primary: MemberName,
        /// See [`super::Action::Rejoin`].
        promoted_at: Option<u64>,
        /// Bring back a fenced member, rather than point another standby elsewhere.
        rejoin: bool,
    },
    /// To a node: this is the primary of the order's epoch; drop traffic of those.
    Redirect {
        /// The primary.
        primary: MemberName,
        /// Its address.
        address: String,
        /// Fenced members.
        fenced: Vec<MemberName>,
    },
    /// To a node: drop the traffic of this member as well, whomever it follows; or take it again.
    Drop {
        /// The member.
        fenced: MemberName,
        /// Take it again.
        lift: bool,
    },
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeedResult {
    /// Taken, under way: another answer follows.
    Taken,
    /// Done, or failed: the same words as the arbiter's own acts use.
    Ended(Box<StepResult>),
    /// A rehearsal.
    Rehearsed(FenceHealth),
    /// Not done, provably.
    Refused {
        /// Why.
        why: Refusal,
        /// The largest epoch that the agent has seen.
        epoch: Epoch,
    },
}

/// Why an agent does not do what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// A larger epoch was seen: the order is an old one.
    #[error("the epoch is smaller than one already seen")]
    OldEpoch,
    /// The challenge it answers was not ours, or too old: whoever gave the order may have slept.
    #[error("the order came too late: its challenge has expired")]
    Expired,
    /// The sender is no arbiter of this cluster.
    #[error("the sender may not give orders")]
    NotAllowed,
    /// The agent's own file knows no such thing.
    #[error("the agent's file knows no such fence")]
    Unknown,
    /// The cluster or member is not this agent's.
    #[error("this agent does not guard that member")]
    NotMine,
    /// Promoting would break a promise: an old lease may still run. It passes with time, so the order is repeated.
    #[error("an older lease may still run")]
    LeaseRuns,
    /// The epoch was given to another member before.
    #[error("the epoch belongs to another member")]
    OtherHolder,
}

/// Identifies an order over repetitions: the act of an incident.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OrderId {
    /// The incident, or a name made for the occasion.
    pub incident: IncidentId,
    /// The act's number in it.
    pub number: u32,
}
