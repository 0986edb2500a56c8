//! The incident: what is told afterwards, and what is durable meanwhile.

use std::{fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ClusterName, Epoch, IncidentId, MemberName, Mode, NodeName, Operator, Proof, Time, WallAnchor,
    explain::{CandidateView, GuardState, RuleExplanation},
    record::SagaKind,
    time::millis,
};

/// One incident: a failover, a switchover, or a rejoin, from its cause to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Incident {
    /// Its name.
    pub id: IncidentId,
    /// The cluster.
    pub cluster: ClusterName,
    /// The arbiter that opened it.
    pub arbiter: String,
    /// What it is for.
    pub kind: SagaKind,
    /// How it stands.
    pub state: IncidentState,
    /// Why it is held or was aborted, in words.
    #[serde(default)]
    pub state_reason: Option<String>,
    /// When it was opened. All moments in the record are of this clock; `anchor` translates them.
    pub opened: Time,
    /// Translates moments to wall time, for people.
    pub anchor: WallAnchor,
    /// When it was resolved or aborted.
    #[serde(default)]
    pub closed: Option<Time>,
    /// The mode it began in.
    pub mode: Mode,
    /// Hash of the policy it began with.
    pub policy_hash: String,
    /// Why it began.
    pub trigger: Trigger,
    /// The epoch before.
    pub epoch_before: Epoch,
    /// The epoch of the new primary.
    pub epoch: Epoch,
    /// The old primary.
    pub old_primary: MemberName,
    /// The new one, or the one chosen to be.
    pub candidate: MemberName,
    /// All standbys, as judged when the candidate was chosen.
    #[serde(default)]
    pub candidates: Vec<CandidateView>,
    /// The guards as they stood when it began.
    #[serde(default)]
    pub guards: Vec<GuardState>,
    /// Guards passed, losses accepted, proofs lowered, fences confirmed by eye.
    #[serde(default)]
    pub bypassed: Vec<String>,
    /// The steps.
    #[serde(default)]
    pub steps: Vec<StepRecord>,
    /// The strongest proof that the old primary is stopped.
    #[serde(default)]
    pub proof: Proof,
    /// The possible loss.
    #[serde(default)]
    pub loss: Option<LossEstimate>,
    /// The story, moment by moment.
    #[serde(default)]
    pub timeline: Vec<TimelineEntry>,
    /// What the nodes went through.
    #[serde(default)]
    pub outage: Outage,
    /// How the old primary came back.
    #[serde(default)]
    pub rejoin: Option<RejoinRecord>,
    /// Who took note.
    #[serde(default)]
    pub acknowledged: Option<Acknowledgement>,
    /// It is closed, and it is not written down yet that the reports of its end were handed over. An arbiter that starts,
    /// or begins to lead, hands them over again: the one before may have died in between.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untold: bool,
}

impl Incident {
    /// `true` once nothing of it is left to be done by the saga.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, IncidentState::Resolved | IncidentState::Aborted)
    }

    /// Counts all its moments by another clock: that of a host which takes it up from another one. Moments of one host
    /// mean nothing on another; what the two agree on is the wall clock, roughly.
    pub fn move_to(&mut self, anchor: WallAnchor) {
        let from = self.anchor;
        let moved = |at: Time| {
            let ago_ms = anchor.unix_ms.saturating_sub(from.unix_ms_at(at));
            let ago = Duration::from_millis(ago_ms.unsigned_abs());
            if ago_ms >= 0 { anchor.boot.before(ago) } else { anchor.boot + ago }
        };
        let each = |at: &mut Time| *at = moved(*at);
        each(&mut self.opened);
        self.closed.iter_mut().for_each(each);
        self.timeline.iter_mut().for_each(|entry| each(&mut entry.at));
        self.steps.iter_mut().for_each(|step| each(&mut step.started));
        let outage = &mut self.outage;
        outage.last_good.iter_mut().chain(&mut outage.first_new).for_each(each);
        outage.following.iter_mut().for_each(|(_, at)| each(at));
        if let Some(rejoin) = &mut self.rejoin {
            rejoin.seen.iter_mut().chain(&mut rejoin.done).for_each(each);
        }
        self.acknowledged.iter_mut().for_each(|ack| each(&mut ack.at));
        self.anchor = anchor;
    }

    /// Adds a line to the story.
    pub fn tell(&mut self, at: Time, text: impl Into<String>) {
        self.timeline.push(TimelineEntry { at, text: text.into() });
    }
}

/// How an incident stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IncidentState {
    /// The old primary is being fenced; it may still be aborted only before the first fence act.
    Fencing,
    /// The fence is proved; the candidate catches up.
    CatchingUp,
    /// The candidate is being promoted.
    Promoting,
    /// The new primary serves; nodes are being moved.
    Redirecting,
    /// A quarantined member is being brought back.
    Rejoining,
    /// Nothing goes on without a person.
    Held,
    /// Done.
    Resolved,
    /// Given up before anything irreversible.
    Aborted,
}

impl fmt::Display for IncidentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fencing => "fencing",
            Self::CatchingUp => "catching up",
            Self::Promoting => "promoting",
            Self::Redirecting => "redirecting",
            Self::Rejoining => "rejoining",
            Self::Held => "held",
            Self::Resolved => "resolved",
            Self::Aborted => "aborted",
        })
    }
}

/// Why an incident began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A death rule.
    Rule(Box<RuleExplanation>),
    /// A person.
    Operator {
        /// Who.
        by: Operator,
        /// Why.
        reason: String,
    },
    /// A quarantined member was seen again.
    SeenAgain,
}

/// One act of the saga.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepRecord {
    /// Its number in the incident.
    pub act: u32,
    /// What was done: `fence broker-a: signal (level 1)`.
    pub label: String,
    /// When it began.
    pub started: Time,
    /// How long it took; `None` while it runs, or when a crash hid its end.
    #[serde(default, with = "millis::option", rename = "took_ms")]
    #[schemars(with = "Option<f64>")]
    pub took: Option<Duration>,
    /// `running`, `done`, `confirmed`, `refuted`, `unknown`, `failed`.
    pub outcome: String,
    /// What was seen.
    pub detail: String,
}

/// One line of the story.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TimelineEntry {
    /// When.
    pub at: Time,
    /// What.
    pub text: String,
}

/// What a promotion may lose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LossEstimate {
    /// The primary's last known position.
    pub primary_position: Option<u64>,
    /// The candidate's position after catching up.
    pub candidate_position: Option<u64>,
    /// The difference: at least this much may be lost. What the primary took after its last known position is not
    /// in it.
    pub behind: Option<u64>,
    /// How old the primary's last known position was at the fence.
    #[serde(default, with = "millis::option", rename = "blind_ms")]
    #[schemars(with = "Option<f64>")]
    pub blind: Option<Duration>,
    /// In words, with what is not known.
    pub detail: String,
}

/// What the nodes went through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Outage {
    /// The last message that a node received under the old epoch, as far as reported.
    #[serde(default)]
    pub last_good: Option<Time>,
    /// The first message that a node received under the new epoch.
    #[serde(default)]
    pub first_new: Option<Time>,
    /// The nodes that follow, with the moment when they said so.
    #[serde(default)]
    pub following: Vec<(NodeName, Time)>,
    /// The nodes that did not in time.
    #[serde(default)]
    pub laggards: Vec<NodeName>,
}

/// How an old primary came back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RejoinRecord {
    /// Who.
    pub member: MemberName,
    /// When it was seen again.
    pub seen: Option<Time>,
    /// When it followed and the fence was lifted.
    pub done: Option<Time>,
    /// What it had that the new primary never got, in the broker kind's unit.
    pub divergent: Option<u64>,
    /// In words; where the tail was kept.
    pub detail: String,
}

/// A person took note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Acknowledgement {
    /// Who.
    pub by: Operator,
    /// When.
    pub at: Time,
    /// What they said.
    pub note: String,
}
