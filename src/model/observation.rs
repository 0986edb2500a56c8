//! What was seen: one observation of one subject by one observer.

use std::{fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ClusterName, Epoch, MemberName, NodeName, PartyName, SignalName, Time, agent::MemberReport, time::millis};

/// The name under which agents' own words ([`Fact::Agent`], [`Fact::Reaches`]) are observed. Every cluster has it,
/// without its being written under `signals:`; rules do not see it.
pub const AGENTS_SIGNAL: &str = "agents";

/// Who looked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Observer {
    /// This arbiter's own probe.
    Arbiter,
    /// A member, or the agent beside it.
    Member(MemberName),
    /// A node that uses the service.
    Node(NodeName),
    /// Another arbiter's probe, by that arbiter's name. Counted by `unreachable_by` only.
    Peer(String),
}

impl fmt::Display for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arbiter => f.pad("arbiter"),
            Self::Member(name) => name.fmt(f),
            Self::Node(name) => name.fmt(f),
            Self::Peer(name) => f.pad(name),
        }
    }
}

/// One result of looking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Observation {
    /// When the arbiter learned it, on the arbiter's clock.
    pub at: Time,
    /// The cluster it is about.
    pub cluster: ClusterName,
    /// The signal it belongs to.
    pub signal: SignalName,
    /// Who looked.
    pub observer: Observer,
    /// Which member was looked at. `None` for what concerns the service as a whole: arrivals, canary
    /// and alerts. The engine then counts it for whoever is primary.
    pub subject: Option<MemberName>,
    /// What was seen.
    pub outcome: Outcome,
}

/// What looking gave: a fact, or a failure that keeps its kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The subject, or the node, said this.
    Fact(Fact),
    /// Looking failed, and this is how.
    Failure(Failure),
}

/// Something that was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// A heartbeat arrived.
    Beat {
        /// The sender's sequence number, growing within one life of the sender.
        seq: u64,
        /// Whether the sender proved that our echoes reach it. Only an echoed heartbeat proves a link both ways.
        echoed: bool,
    },
    /// A node's report on what reaches it, or a sender's on what it tries.
    Arrivals(Arrivals),
    /// It answered: ping, connect, HTTP status and assertion, exit code 0.
    Ok {
        /// How long the answer took.
        #[serde(with = "millis", rename = "latency_ms")]
        #[schemars(with = "f64")]
        latency: Duration,
    },
    /// The role that the member claims, with what else the same answer told.
    Role(RoleReport),
    /// How far the member's log reaches, in the broker kind's own unit (bytes, entries).
    Position {
        /// The position.
        position: u64,
    },
    /// A standby's replication link to its primary.
    Link {
        /// Whether the link is up.
        up: bool,
        /// Age of the last thing that came over it, if known.
        #[serde(default, with = "millis::option", rename = "last_io_ms")]
        #[schemars(with = "Option<f64>")]
        last_io: Option<Duration>,
    },
    /// A write was tried and read back (`true`), or provably refused (`false`).
    Writable(bool),
    /// A number: a metric, a counter, a lag.
    Value(f64),
    /// A text: an `exec` probe's first line, a file's content.
    Text(String),
    /// A process, unit or control group runs, or has ended.
    Process {
        /// Whether it runs.
        running: bool,
        /// How it ended, or how it is.
        detail: String,
    },
    /// A canary message arrived at the observing node.
    Canary {
        /// From the moment before sending to the moment its receipt was known, on the arbiter's clock.
        #[serde(with = "millis", rename = "latency_ms")]
        #[schemars(with = "f64")]
        latency: Duration,
    },
    /// An alert of an external system fires, or is resolved.
    Alert {
        /// Whether it fires.
        firing: bool,
    },
    /// What the agent of the subject, which is the observer too, tells of it with every beat.
    Agent(Box<MemberReport>),
    /// The parties that the observer's agent reached directly of late.
    Reaches(Vec<PartyName>),
}

/// A node's own account of what reaches it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Arrivals {
    /// Messages received so far, or the last sequence number. Grows within one life of the node.
    pub received: u64,
    /// Age of the last arrival on the node's own clock, when the report was sent. `None`: nothing yet.
    #[serde(default, with = "millis::option", rename = "last_age_ms")]
    #[schemars(with = "Option<f64>")]
    pub last_age: Option<Duration>,
    /// Messages this node tried to send so far, acknowledged or not. `None`: it does not send.
    #[serde(default)]
    pub attempted: Option<u64>,
    /// Messages acknowledged to this node so far. `None`: it does not send.
    #[serde(default)]
    pub acknowledged: Option<u64>,
    /// The primary that the node follows, by name.
    #[serde(default)]
    pub primary: Option<MemberName>,
    /// The epoch that the node follows.
    #[serde(default)]
    pub epoch: Epoch,
}

/// Role and replication state as the member itself tells them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RoleReport {
    /// What it says it is.
    pub role: Role,
    /// How far its log reaches, in the broker kind's own unit; standbys: what they have received.
    #[serde(default)]
    pub position: Option<u64>,
    /// For a standby: whether its replication link is up.
    #[serde(default)]
    pub link_up: Option<bool>,
    /// For a standby: `host:port` of the primary it follows.
    #[serde(default)]
    pub follows: Option<String>,
    /// Identity of its history (Redis: replication id). A standby whose lineage differs from the primary's
    /// has forked and is not a candidate.
    #[serde(default)]
    pub lineage: Option<String>,
    /// The largest epoch the member itself has stored, where the kind can store one.
    #[serde(default)]
    pub epoch: Option<Epoch>,
    /// The priority the broker itself gives it; 0 means never promote.
    #[serde(default)]
    pub priority: Option<u32>,
}

/// The part a member plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Follows a primary.
    Standby,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
        })
    }
}

/// How looking failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// The class that rules may name.
    pub kind: FailureKind,
    /// The words for people. Never holds a secret.
    pub text: String,
}

impl Failure {
    /// A failure of `kind`, in words.
    pub fn new(kind: FailureKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// Nothing was heard for so long.
    #[must_use]
    pub fn no_answer_within(limit: Duration) -> Self {
        Self::new(FailureKind::TimedOut, format!("no answer within {}", super::time::human(limit)))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.text)
    }
}

/// The kinds of failure. Rules may name one (`failed_with: refused`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The host answered that nothing listens.
    Refused,
    /// No answer within the deadline.
    TimedOut,
    /// No route, host or network unreachable.
    Unreachable,
    /// The connection broke in the middle.
    Reset,
    /// It answered, but not what was asked for: a wrong status, a failed assertion, a non-zero exit.
    WrongAnswer,
    /// The disk is full, or memory, or a quota.
    Full,
    /// It refuses writes because it is read-only.
    ReadOnly,
    /// It still loads its data.
    Loading,
    /// It refused us for load: connection limit, busy.
    Overloaded,
    /// Our credentials were refused. Says nothing of the subject's health.
    Auth,
    /// TLS failed: an expired or unknown certificate. Says nothing of the subject's health.
    Tls,
    /// The answer could not be understood. Says nothing of the subject's health.
    Parse,
    /// The thing asked for does not exist: a missing file, an unknown name.
    NotFound,
    /// The fault is ours: out of descriptors, a program that cannot be started, a node that is itself silent.
    Local,
}

impl FailureKind {
    /// Whether a failure of this kind may count towards a death. An expired certificate, a parse error or
    /// trouble of our own never does: such an outcome is *unknown*, neither success nor failure.
    #[must_use]
    pub const fn is_evidence(self) -> bool {
        !matches!(self, Self::Auth | Self::Tls | Self::Parse | Self::NotFound | Self::Local)
    }

    /// The word that rules and metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::WrongAnswer => "wrong_answer",
            Self::Full => "full",
            Self::ReadOnly => "read_only",
            Self::Loading => "loading",
            Self::Overloaded => "overloaded",
            Self::Auth => "auth",
            Self::Tls => "tls",
            Self::Parse => "parse",
            Self::NotFound => "not_found",
            Self::Local => "local",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
