//! What `status`, `why` and `why-not` show: views of the engine's state, as the API sends them.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ClusterName, Epoch, Incident, IncidentId, MemberName, Mode, NodeName, Role, RuleName, SignalName, Verdict,
    agent::{GateState, LeaseState, RenewalHealth, Watch},
    explain::{CandidateView, Guard, GuardState, RuleExplanation, Truth},
    incident::IncidentState,
    record::{Pause, SagaKind},
    rule::Reaction,
    time::millis,
};

/// The arbiter and all its clusters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The arbiter's name.
    pub arbiter: String,
    /// Hash of the policy in force.
    pub policy_hash: String,
    /// Whether the arbiter distrusts its own clock just now.
    pub tilt: Option<String>,
    /// Why the store takes no intents, if so.
    pub store_lost: Option<String>,
    /// The clusters.
    pub clusters: Vec<ClusterStatus>,
    /// All arbiters, where several share a store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arbiters: Option<Arbiters>,
}

/// Several arbiters, as one of them sees them in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Arbiters {
    /// The one that answers.
    pub me: String,
    /// Whether it leads.
    pub leads: bool,
    /// Those that live, and the one that was elected last; the newest first.
    pub instances: Vec<ArbiterStatus>,
}

/// One of several arbiters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ArbiterStatus {
    /// Its name.
    pub instance: String,
    /// The number of its start, which is the epoch in which it leads if it is elected.
    pub epoch: u64,
    /// Whether its heartbeat is valid.
    pub is_valid: bool,
    /// Whether it was elected last.
    pub is_leader: bool,
    /// Where it answers, if it said so.
    pub address: Option<String>,
    /// How much older its heartbeat is than the newest one of all.
    #[serde(with = "millis", rename = "heartbeat_ms")]
    #[schemars(with = "f64")]
    pub heartbeat: Duration,
}

/// One cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterStatus {
    /// Its name.
    pub cluster: ClusterName,
    /// Whether the arbiter acts.
    pub mode: Mode,
    /// Who is primary.
    pub primary: Option<MemberName>,
    /// The epoch.
    pub epoch: Epoch,
    /// What the primary is believed to be.
    pub verdict: Verdict,
    /// For how long.
    #[serde(with = "millis", rename = "verdict_since_ms")]
    #[schemars(with = "f64")]
    pub verdict_since: Duration,
    /// The rule that says so.
    pub rule: Option<RuleName>,
    /// Whether a failover could be done now, if one were needed.
    pub ready: bool,
    /// The guards that stand against acting.
    pub blocking: Vec<GuardState>,
    /// A person's pause.
    pub pause: Option<Pause>,
    /// The members.
    pub members: Vec<MemberStatus>,
    /// The nodes.
    pub nodes: Vec<NodeStatus>,
    /// The incident under way or held.
    pub incident: Option<IncidentBrief>,
    /// The rules, in the order of the file.
    #[serde(default)]
    pub rules: Vec<RuleStatus>,
}

/// One rule, and what it did since the arbiter's start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RuleStatus {
    /// The rule.
    pub rule: RuleName,
    /// What it says when true.
    pub verdict: Verdict,
    /// What it asks for.
    pub then: Reaction,
    /// Whether it only watches.
    pub shadow: bool,
    /// Whether it holds.
    pub truth: Truth,
    /// For how long the truth has been what it is.
    #[serde(with = "millis", rename = "since_ms")]
    #[schemars(with = "f64")]
    pub since: Duration,
    /// How often it became true.
    pub fired: u64,
    /// Of a rule that only watches: how often it would have acted, because no guard stood against it.
    pub would_have_acted: u64,
    /// The guards that stood when it would have acted last.
    pub held_back_by: Vec<Guard>,
    /// How long ago it became true last.
    #[serde(default, with = "millis::option", rename = "last_fired_ms")]
    #[schemars(with = "Option<f64>")]
    pub last_fired: Option<Duration>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MemberStatus {
    /// Its name.
    pub member: MemberName,
    /// Its address.
    pub address: String,
    /// The role that Coroner gives it.
    pub role: Role,
    /// The role it claims itself, if known and fresh.
    pub claims: Option<Role>,
    /// Whether it was fenced and is not back yet.
    pub quarantined: bool,
    /// Its position, if known.
    pub position: Option<u64>,
    /// Age of the newest success of any signal about it.
    #[serde(with = "millis::option", rename = "seen_ms")]
    #[schemars(with = "Option<f64>")]
    pub seen: Option<Duration>,
    /// What its agent tells; `None`: no agent stands beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentStatus>,
}

/// What the agent beside a member told last, however old.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentStatus {
    /// Age of its newest word, by whatever path; `None`: it was never heard.
    #[serde(with = "millis::option", rename = "seen_ms")]
    #[schemars(with = "Option<f64>")]
    pub seen: Option<Duration>,
    /// Whether that is recent enough to count on what it says.
    pub is_heard: bool,
    /// The member's lease.
    pub lease: LeaseState,
    /// How its renewals go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewals: Option<RenewalHealth>,
    /// Its gate.
    pub gate: GateState,
    /// The largest epoch that the agent has seen.
    pub epoch: Epoch,
    /// The epoch in which the member was appointed, if it is.
    pub appointed: Option<Epoch>,
    /// What it watches, and whether that is so now: the process gone, the disk full.
    pub evidence: Vec<(Watch, bool)>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// Its name.
    pub node: NodeName,
    /// Age of its newest report.
    #[serde(with = "millis::option", rename = "seen_ms")]
    #[schemars(with = "Option<f64>")]
    pub seen: Option<Duration>,
    /// Messages received.
    pub received: Option<u64>,
    /// Age of its newest arrival.
    #[serde(with = "millis::option", rename = "last_arrival_ms")]
    #[schemars(with = "Option<f64>")]
    pub last_arrival: Option<Duration>,
    /// The primary it follows.
    pub follows: Option<MemberName>,
    /// The epoch it follows.
    pub epoch: Option<Epoch>,
}

/// An incident in one line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IncidentBrief {
    /// Its name.
    pub id: IncidentId,
    /// The cluster.
    pub cluster: ClusterName,
    /// What it is for.
    pub kind: SagaKind,
    /// How it stands.
    pub state: IncidentState,
    /// Why it is held or aborted.
    pub state_reason: Option<String>,
    /// When it was opened, in milliseconds since 1970.
    pub opened_unix_ms: i64,
    /// When it was closed.
    pub closed_unix_ms: Option<i64>,
    /// The old primary.
    pub old_primary: MemberName,
    /// The new one.
    pub candidate: MemberName,
    /// The epoch.
    pub epoch: Epoch,
    /// Whether a person took note.
    pub acknowledged: bool,
}

impl From<&Incident> for IncidentBrief {
    fn from(incident: &Incident) -> Self {
        Self {
            id: incident.id.clone(),
            cluster: incident.cluster.clone(),
            kind: incident.kind,
            state: incident.state,
            state_reason: incident.state_reason.clone(),
            opened_unix_ms: incident.anchor.unix_ms_at(incident.opened),
            closed_unix_ms: incident.closed.map(|at| incident.anchor.unix_ms_at(at)),
            old_primary: incident.old_primary.clone(),
            candidate: incident.candidate.clone(),
            epoch: incident.epoch,
            acknowledged: incident.acknowledged.is_some(),
        }
    }
}

/// `why`: what is believed, and because of what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Why {
    /// The cluster.
    pub cluster: ClusterName,
    /// The primary judged.
    pub primary: Option<MemberName>,
    /// The belief.
    pub verdict: Verdict,
    /// The rule that decides it.
    pub rule: Option<RuleName>,
    /// All rules, explained.
    pub rules: Vec<RuleExplanation>,
}

/// `why-not`: what stands between now and a failover.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WhyNot {
    /// The cluster.
    pub cluster: ClusterName,
    /// Whether a failover would be done at once if a rule asked for it.
    pub ready: bool,
    /// All guards, blocking or not.
    pub guards: Vec<GuardState>,
    /// All standbys, judged.
    pub candidates: Vec<CandidateView>,
    /// The rules that could act and do not hold, explained, with what is missing.
    pub rules: Vec<RuleExplanation>,
    /// One sentence: the least that would have to change.
    pub least_change: String,
}

/// The answer of the long-poll endpoint: whom to follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrimaryView {
    /// The cluster.
    pub cluster: ClusterName,
    /// The epoch. Follow the largest you have seen.
    pub epoch: Epoch,
    /// The primary; `None` while there is none to follow.
    pub primary: Option<MemberName>,
    /// Its `host:port`.
    pub address: Option<String>,
}

/// One stream of a signal, for the status of signals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SignalStatus {
    /// The signal.
    pub signal: SignalName,
    /// Who looks.
    pub observer: String,
    /// At whom.
    pub subject: Option<MemberName>,
    /// Whether the newest outcome is a success; `None` without any.
    pub up: Option<bool>,
    /// Age of the newest outcome.
    #[serde(with = "millis::option", rename = "age_ms")]
    #[schemars(with = "Option<f64>")]
    pub age: Option<Duration>,
    /// The newest outcome in words.
    pub seen: String,
    /// The newest number, where it has one.
    pub value: Option<f64>,
}
