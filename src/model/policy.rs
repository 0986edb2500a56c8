//! The operator's will, resolved: what the engine needs to know of the configuration, and nothing of its text.
//!
//! `config::resolve` makes it; names are resolved and timings are consistent by then. How a probe, a fence or a
//! redirect is carried out is not here: the engine knows each only by its place in a list.

use std::{collections::BTreeMap, fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ClusterName, Condition, MemberName, NodeName, PartyName, Proof, Rule, SignalName};

/// Everything the engine decides by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Hash of the file's meaning; stands in every incident.
    pub hash: String,
    /// The arbiter's own limits.
    pub arbiter: ArbiterPolicy,
    /// The clusters, by name.
    pub clusters: BTreeMap<ClusterName, ClusterPolicy>,
}

/// What the arbiter demands of itself before it acts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArbiterPolicy {
    /// Its name, in reports.
    pub name: String,
    /// Own loop later than this: tilt. Also a clock gap (suspend) longer than this.
    pub tilt_after: Duration,
    /// How long tilt lasts after the last cause.
    pub tilt_for: Duration,
    /// More clusters than this with a verdict that would fail over, within `storm_within`: storm, nothing is done.
    pub storm_clusters: u32,
    /// See `storm_clusters`.
    pub storm_within: Duration,
    /// How often fence paths are exercised. One that was, and was not for five times as long, is not counted on.
    #[serde(default = "a_minute")]
    pub check_fences_every: Duration,
}

const fn a_minute() -> Duration {
    Duration::from_secs(60)
}

impl Default for ArbiterPolicy {
    fn default() -> Self {
        Self {
            name: "arbiter".into(),
            tilt_after: Duration::from_millis(500),
            tilt_for: Duration::from_secs(5),
            storm_clusters: 3,
            storm_within: Duration::from_secs(60),
            check_fences_every: a_minute(),
        }
    }
}

/// Whether the arbiter acts. There is no default: the operator writes it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Judges, counts, tells; never acts.
    Shadow,
    /// Judges, tells, and acts once a person approved.
    Manual,
    /// Acts.
    Auto,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Shadow => "shadow",
            Self::Manual => "manual",
            Self::Auto => "auto",
        })
    }
}

/// One cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterPolicy {
    /// Its name.
    pub name: ClusterName,
    /// Whether the arbiter acts.
    pub mode: Mode,
    /// The members, in the order of the file.
    pub members: Vec<MemberPolicy>,
    /// The nodes.
    pub nodes: Vec<NodeName>,
    /// Who is primary when nothing is stored and no broker kind can tell.
    pub initial_primary: Option<MemberName>,
    /// Whether a broker kind is configured, so that roles can be asked.
    pub has_broker: bool,
    /// The signals, by name.
    pub signals: BTreeMap<SignalName, SignalPolicy>,
    /// The name of the signal that tells roles of all members, if there is one.
    pub role_signal: Option<SignalName>,
    /// The death rules, in the order of the file.
    pub rules: Vec<Rule>,
    /// How a failover is done.
    pub failover: FailoverPolicy,
}

impl ClusterPolicy {
    /// The member of that name.
    #[must_use]
    pub fn member(&self, name: &MemberName) -> Option<&MemberPolicy> {
        self.members.iter().find(|m| m.name == *name)
    }
}

/// One member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberPolicy {
    /// Its name.
    pub name: MemberName,
    /// `host:port` of the broker, as nodes are told it.
    pub address: String,
    /// Higher is preferred; 0 is never promoted. Default 100.
    pub priority: u32,
    /// Where it stands, if written. A standby in the zone of most nodes is preferred.
    pub zone: Option<String>,
    /// Whether an agent stands beside it.
    #[serde(default)]
    pub has_agent: bool,
}

/// One signal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignalPolicy {
    /// What kind of facts it brings.
    pub kind: SignalKind,
    /// Who looks.
    pub observers: Observers,
    /// Whom it is about.
    pub subjects: Subjects,
    /// The period at which observations are expected.
    pub every: Duration,
    /// The newest observation is fresh for this long; after that, what it said is unknown. At least `every`
    /// plus the timeout of one look.
    pub fresh_for: Duration,
    /// For arrivals: whether silence needs a witness that someone attempted.
    pub traffic: Traffic,
}

/// Who looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Observers {
    /// The arbiter itself.
    Arbiter,
    /// The member that the observation is about tells it of itself.
    Members,
    /// Each of these nodes.
    Nodes(Vec<NodeName>),
}

/// Whom a signal is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subjects {
    /// Whoever is primary now.
    Primary,
    /// Everyone but the primary.
    Standbys,
    /// Every member, the primary too. A rule's bare condition then means any of them.
    Members,
    /// This one, whatever its role.
    Member(MemberName),
    /// The service as a whole: counted for whoever is primary.
    Service,
}

/// Whether silence means anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Traffic {
    /// Silence counts only while someone is known to have attempted: a sender reports attempts that are not
    /// acknowledged, or a canary was sent. The default: an idle night kills nobody.
    #[default]
    Attempted,
    /// Messages are always expected; silence counts as it is.
    Constant,
}

/// What kind of facts a signal brings; conditions are checked against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignalKind {
    /// `Fact::Beat`.
    Heartbeat,
    /// `Fact::Arrivals`.
    Arrivals,
    /// `Fact::Canary`.
    Canary,
    /// `Fact::Ok`: ping, tcp, http, exec.
    Check,
    /// `Fact::Role`.
    Role,
    /// `Fact::Position`.
    Position,
    /// `Fact::Link`.
    Link,
    /// `Fact::Writable`.
    Write,
    /// `Fact::Process`.
    Process,
    /// `Fact::Value`: a metric, a counter.
    Value,
    /// `Fact::Text`.
    Text,
    /// `Fact::Alert`.
    Alert,
}

impl SignalKind {
    /// Whether a condition makes sense over facts of this kind. `silent`, `ok`, `failing…` and
    /// `unreachable_by` fit every kind but a pure alert.
    #[must_use]
    pub const fn accepts(self, condition: &Condition) -> bool {
        match condition {
            Condition::Ok
            | Condition::Failing
            | Condition::FailingOf { .. }
            | Condition::FailedWith(_)
            | Condition::UnreachableBy(_)
            | Condition::Silent(_) => !matches!(self, Self::Alert),
            Condition::Stalled(_) => {
                matches!(self, Self::Arrivals | Self::Position | Self::Role | Self::Value | Self::Text)
            }
            Condition::LagAbove(_) => matches!(self, Self::Role | Self::Position),
            Condition::LagLongerThan(_) => matches!(self, Self::Link | Self::Arrivals),
            Condition::LatencyAbove(_) => matches!(self, Self::Check | Self::Canary),
            Condition::Above(_) | Condition::Below(_) => matches!(self, Self::Value | Self::Position),
            Condition::TextIs(_) => matches!(self, Self::Text),
            Condition::RoleIs(_) => matches!(self, Self::Role),
            Condition::Writable(_) => matches!(self, Self::Write),
            Condition::Link(_) => matches!(self, Self::Link | Self::Role),
            Condition::Exited => matches!(self, Self::Process),
            Condition::Firing => matches!(self, Self::Alert),
            Condition::PhiAbove(_) => matches!(self, Self::Heartbeat),
        }
    }
}

/// How a failover is done, as far as the decision needs to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailoverPolicy {
    /// Levels of methods: within a level all, between levels fall through.
    pub fence: Vec<Vec<MethodPolicy>>,
    /// The lease of the primary; its end is a proof too. `None`: there is none.
    #[serde(default)]
    pub lease: Option<LeasePolicy>,
    /// Evidence of the dying is gathered by the agent before a kill, for at most this long. Zero: none.
    #[serde(default)]
    pub preserve_within: Duration,
    /// Promotion needs this proof.
    pub proof_needed: Proof,
    /// The operator lowered `proof_needed` below what is safe and wrote `unsafe`; printed in every report.
    pub is_unsafe: bool,
    /// How long the standby may replay before promotion.
    pub catch_up_within: Duration,
    /// How long a promotion may take, verification included.
    pub promote_within: Duration,
    /// Loss beyond this refuses the promotion. `None`: any loss is accepted.
    pub max_loss: Option<u64>,
    /// What happens when the loss cannot be estimated.
    pub unknown_loss: UnknownLoss,
    /// The methods that move nodes and clients; all of them run, side by side.
    pub redirect: Vec<MethodPolicy>,
    /// How long nodes may take to say that they follow; then the incident says who does not.
    pub redirect_within: Duration,
    /// How the old primary comes back.
    pub rejoin: Rejoin,
    /// A standby must have been heard of this recently to be a candidate.
    pub candidate_fresh_for: Duration,
    /// A standby further behind than this is no candidate. `None`: lag alone disqualifies nobody.
    pub candidate_lag_max: Option<u64>,
    /// No automatic failover for this long after one; a person may override, or end it by acknowledging.
    pub cooldown: Duration,
    /// At most this many automatic failovers…
    pub budget: u32,
    /// …in this time.
    pub budget_per: Duration,
}

/// What the decision knows of one method of fencing or redirecting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodPolicy {
    /// The kind's name, and what tells it from others: `signal`, `exec /usr/local/bin/fence`.
    pub label: String,
    /// How long it may take, once.
    pub deadline: Duration,
    /// The best proof it can give by itself.
    pub best_proof: Proof,
    /// For redirects and fences that bind one member: only for these. Empty: for all.
    pub only_for: Vec<MemberName>,
    /// A fence that shuts the arbiter out too, and lets it in once the standby is promoted.
    #[serde(default)]
    pub admits: bool,
    /// A fence that the agent on the member's own host carries out and reads back from its kernel.
    #[serde(default)]
    pub is_by_agent: bool,
}

impl MethodPolicy {
    /// Whether the method can be used on that member.
    #[must_use]
    pub fn applies_to(&self, member: &MemberName) -> bool {
        self.only_for.is_empty() || self.only_for.contains(member)
    }
}

/// What happens when the loss of a promotion cannot be estimated, and `max_loss` is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownLoss {
    /// The failover is held for a person.
    #[default]
    Hold,
    /// It is promoted, and the report says that the loss is unknown.
    Accept,
}

/// How an old primary comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rejoin {
    /// It is made to follow the new primary as soon as it is seen again; its divergent tail is counted first.
    Follow,
    /// It stays quarantined until a person says `coroner rejoin`.
    Ask,
    /// It stays quarantined; Coroner never brings it back.
    Never,
}

/// The lease of a cluster's primary, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasePolicy {
    /// `L`: how long a grant lasts, counted by the holder from before it asked.
    pub length: Duration,
    /// How often it is renewed; `L/4` unless written.
    pub renew_every: Duration,
    /// `T_enf`: from the lease's end until nothing leaves the host any more.
    pub enforced_within: Duration,
    /// `ρ`, in thousandths: how far a clock's rate may lie off.
    pub clock_rate_permille: u32,
    /// `W`: how long a voter waits after a request; `lease::arithmetic::wait` of the above, or more.
    pub wait: Duration,
    /// The voters: the arbiters, and the agents of the members that may become primary.
    pub voters: Vec<PartyName>,
}
