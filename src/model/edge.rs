//! What the edges are told and what they answer: orders, proofs, claims, errors.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ClusterName, Epoch, IncidentId, MemberName, NodeName};

/// Whom an act is about, and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The cluster.
    pub cluster: ClusterName,
    /// The member.
    pub member: MemberName,
    /// `host:port` of the broker, as the file says it.
    pub address: String,
}

impl Target {
    /// The host part of the address, without the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
    }

    /// The port part of the address.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.address.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
    }

    /// Puts this target into a text of the file: `{cluster}`, `{member}`, `{address}`, `{host}`, `{port}`.
    #[must_use]
    pub fn expand(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for (key, value) in [
            ("{cluster}", self.cluster.as_str()),
            ("{member}", self.member.as_str()),
            ("{address}", &self.address),
            ("{host}", self.host()),
        ] {
            if out.contains(key) {
                out = out.replace(key, value);
            }
        }
        if let (true, Some(port)) = (out.contains("{port}"), self.port()) {
            out = out.replace("{port}", &port.to_string());
        }
        out
    }
}

/// A node, and where it listens for notices, if it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTarget {
    /// The node.
    pub node: NodeName,
    /// `host:port` at which it takes notices.
    pub address: Option<String>,
}

/// The context that every act carries. Hooks get it as environment, receivers check the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Whom the act is about.
    pub target: Target,
    /// The epoch in whose name it is done.
    pub epoch: Epoch,
    /// The incident it belongs to.
    pub incident: IncidentId,
}

/// How strongly it is proved that the old primary does no more work.
///
/// Ordered from nothing to power off; the lease and the seal stand beside the scale and suffice for every
/// demand that is not a stricter one on the scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// 0: nothing.
    #[default]
    Nothing,
    /// 1: a method says so.
    Claim,
    /// 2: a method says so, and it was read back from two vantage points, a forbidden write among them.
    ReadBack,
    /// 3: the kernel of its host lets no traffic of its port through, read back.
    Gate,
    /// 4: its whole process group or control group is empty, and nothing restarts it.
    Stopped,
    /// 5: its power is off, read back.
    PowerOff,
    /// T: its lease is provably over.
    LeaseOver,
    /// S: the standby sealed itself under synchronous replication.
    Sealed,
}

impl Proof {
    /// Whether this proof meets a demand.
    #[must_use]
    pub fn meets(self, needed: Self) -> bool {
        self >= needed
    }

    /// The number or letter by which reports name it.
    #[must_use]
    pub const fn level(self) -> &'static str {
        match self {
            Self::Nothing => "0",
            Self::Claim => "1",
            Self::ReadBack => "2",
            Self::Gate => "3",
            Self::Stopped => "4",
            Self::PowerOff => "5",
            Self::LeaseOver => "T",
            Self::Sealed => "S",
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Self::Nothing => "nothing",
            Self::Claim => "claimed",
            Self::ReadBack => "claimed and read back",
            Self::Gate => "gate closed",
            Self::Stopped => "stopped, restart inhibited",
            Self::PowerOff => "power off",
            Self::LeaseOver => "lease over",
            Self::Sealed => "standby sealed",
        };
        write!(f, "{} ({words})", self.level())
    }
}

/// What one fence method found when it was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FenceReport {
    /// Whether the old primary is stopped.
    pub verdict: FenceVerdict,
    /// How strongly that is proved. Meaningful only when confirmed.
    pub proof: Proof,
    /// What was done and seen, in words.
    pub detail: String,
}

impl FenceReport {
    /// A confirmed fence.
    pub fn confirmed(proof: Proof, detail: impl Into<String>) -> Self {
        Self { verdict: FenceVerdict::Confirmed, proof, detail: detail.into() }
    }

    /// The method knows that the old primary still works, or that nothing was done.
    pub fn refuted(detail: impl Into<String>) -> Self {
        Self { verdict: FenceVerdict::Refuted, proof: Proof::Nothing, detail: detail.into() }
    }

    /// The method cannot say: a deadline, a cut connection, a wrong answer.
    pub fn unknown(detail: impl Into<String>) -> Self {
        Self { verdict: FenceVerdict::Unknown, proof: Proof::Nothing, detail: detail.into() }
    }
}

/// Three-valued, like everything that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FenceVerdict {
    /// Stopped, with the proof given.
    Confirmed,
    /// Provably not stopped, or provably nothing was done.
    Refuted,
    /// Not known.
    Unknown,
}

impl fmt::Display for FenceVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Confirmed => "confirmed",
            Self::Refuted => "refuted",
            Self::Unknown => "unknown",
        })
    }
}

/// Whether a fence method could work now, found without harm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FenceHealth {
    /// `Some(true)`: would work. `Some(false)`: would not. `None`: cannot be told.
    pub usable: Option<bool>,
    /// Why.
    pub detail: String,
}

/// The forbidden write: tried at the fenced member, on a new connection and on one that was open before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WriteAttempt {
    /// On a new connection.
    pub on_new: WriteOutcome,
    /// On a connection that was open before the fence; `None` if there was none.
    pub on_open: Option<WriteOutcome>,
    /// In words.
    pub detail: String,
}

impl WriteAttempt {
    /// A write went through: whatever was claimed, the member is not fenced.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.on_new == WriteOutcome::Accepted || self.on_open == Some(WriteOutcome::Accepted)
    }

    /// Both connections were refused in so many words by the member or its kernel: two vantage points.
    #[must_use]
    pub fn is_refused_twice(&self) -> bool {
        self.on_new == WriteOutcome::Refused && matches!(self.on_open, Some(WriteOutcome::Refused))
    }
}

/// What became of one forbidden write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WriteOutcome {
    /// Acknowledged. The member is not fenced.
    Accepted,
    /// Refused: read-only, connection refused or reset.
    Refused,
    /// No answer within the deadline. A frozen member looks the same: this proves nothing alone.
    NoAnswer,
}

/// An act that was done and verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Done {
    /// What was done and seen, in words.
    pub detail: String,
    /// The position reached, where the act knows one.
    #[serde(default)]
    pub position: Option<u64>,
    /// For a rejoin: what the member had that the new primary never got, in the broker kind's unit.
    #[serde(default)]
    pub divergent: Option<u64>,
}

impl Done {
    /// Done, in words.
    pub fn new(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), position: None, divergent: None }
    }
}

/// An act that failed. The one question that the saga asks of it: may it have happened all the same?
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize, JsonSchema)]
#[error("{attempted}: {detail}{}", if *.may_have_happened { " (it may have happened)" } else { "" })]
pub struct ActError {
    /// What was attempted: `promote broker-b`.
    pub attempted: String,
    /// Why it failed. Never holds a secret.
    pub detail: String,
    /// `false` only when it provably did not happen.
    pub may_have_happened: bool,
}

impl ActError {
    /// It provably did not happen.
    pub fn nothing_done(attempted: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { attempted: attempted.into(), detail: detail.into(), may_have_happened: false }
    }

    /// It may have happened.
    pub fn uncertain(attempted: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { attempted: attempted.into(), detail: detail.into(), may_have_happened: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_is_over_meets_what_a_gate_meets_and_a_claim_does_not() {
        assert!(Proof::LeaseOver.meets(Proof::Gate));
        assert!(Proof::Sealed.meets(Proof::Gate));
        assert!(!Proof::ReadBack.meets(Proof::Gate));
        assert!(Proof::ReadBack.meets(Proof::ReadBack));
    }

    #[test]
    fn one_refusal_is_not_two() {
        let refused = WriteOutcome::Refused;
        let attempt = |on_new, on_open| WriteAttempt { on_new, on_open, detail: String::new() };
        assert!(attempt(refused, Some(refused)).is_refused_twice());
        assert!(!attempt(refused, None).is_refused_twice());
        assert!(!attempt(refused, Some(WriteOutcome::NoAnswer)).is_refused_twice());
        assert!(attempt(WriteOutcome::NoAnswer, Some(WriteOutcome::Accepted)).is_accepted());
    }
}
