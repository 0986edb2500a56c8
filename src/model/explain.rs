//! Why a rule is true, false or unknown: the tree with every value, age and observer.

use std::{fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    RuleName, Verdict,
    rule::Reaction,
    time::{human, millis},
};

/// Kleene's three values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Truth {
    /// It is so.
    True,
    /// It is not so.
    False,
    /// Nobody knows. It never kills.
    #[default]
    Unknown,
}

impl Truth {
    /// True if the condition holds, false if not.
    #[must_use]
    pub const fn of(condition: bool) -> Self {
        if condition { Self::True } else { Self::False }
    }

    /// Whether it is `True`; unknown is not.
    #[must_use]
    pub const fn is_true(self) -> bool {
        matches!(self, Self::True)
    }
}

impl std::ops::Not for Truth {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            Self::Unknown => Self::Unknown,
        }
    }
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::True => "true",
            Self::False => "false",
            Self::Unknown => "unknown",
        })
    }
}

/// One branch of a rule, explained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// What was asked: `heartbeat silent for 10s`, `all`, `at least a majority of arrivals`.
    pub asked: String,
    /// The answer.
    pub truth: Truth,
    /// What was seen: `last heard 12.4s ago`, `2 of 3`, `never heard`.
    pub seen: String,
    /// Who saw it, for a leaf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observer: Option<String>,
    /// Whom it was about, for a leaf that is about one member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// How old the newest evidence is, for a leaf.
    #[serde(default, with = "millis::option", rename = "age_ms", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<f64>")]
    pub age: Option<Duration>,
    /// What would change it, and when it changes by itself: `true in 2.1s unless heard`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_change: Option<String>,
    /// The branches below.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Self>,
}

impl Explanation {
    /// The tree as indented text, one branch a line.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        self.write_text(&mut out, 0);
        out
    }

    fn write_text(&self, out: &mut String, depth: usize) {
        use fmt::Write as _;
        let mark = match self.truth {
            Truth::True => '✔',
            Truth::False => '✘',
            Truth::Unknown => '?',
        };
        let _ = write!(out, "{:indent$}{mark} {}", "", self.asked, indent = depth * 2);
        if !self.seen.is_empty() {
            let _ = write!(out, ": {}", self.seen);
        }
        if let Some(observer) = &self.observer {
            let _ = write!(out, " [{observer}]");
        }
        if let Some(age) = self.age {
            let _ = write!(out, " ({} old)", human(age));
        }
        if let Some(change) = &self.would_change {
            let _ = write!(out, " → {change}");
        }
        out.push('\n');
        for child in &self.children {
            child.write_text(out, depth + 1);
        }
    }
}

/// One rule, explained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RuleExplanation {
    /// The rule.
    pub rule: RuleName,
    /// What it says when true.
    pub verdict: Verdict,
    /// What it does when true.
    pub then: Reaction,
    /// Whether it may act, or is evaluated only.
    pub shadow: bool,
    /// Whether it holds.
    pub truth: Truth,
    /// For how long the truth has been what it is.
    #[serde(with = "millis", rename = "since_ms")]
    #[schemars(with = "f64")]
    pub since: Duration,
    /// The tree.
    pub tree: Explanation,
}

/// A guard between a verdict and an act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuardState {
    /// Which one.
    pub guard: Guard,
    /// Whether it stands against acting now.
    pub blocks: bool,
    /// Why, or why not.
    pub reason: String,
}

/// The guards, in the order in which they are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// A person said: hands off.
    Paused,
    /// A rule with `then: hold` is true.
    HeldByRule,
    /// The arbiter's own clock or scheduler cannot be trusted just now.
    Tilt,
    /// The arbiter hears too few others to know whether the trouble is its own.
    Isolated,
    /// Another arbiter leads, or nobody is known to: this one only watches.
    NotLeading,
    /// The store does not take intents.
    StoreLost,
    /// A failover was done too recently.
    Cooldown,
    /// Too many failovers in the budget's time.
    Budget,
    /// Too many clusters look dead at once: the network, or us.
    Storm,
    /// Who is primary is not known, or not the one that Coroner made primary.
    PrimaryUnclear,
    /// No standby is fit.
    NoCandidate,
    /// No fence level can work now or reach the proof needed.
    NoFence,
    /// The primary has a lease, and too few voters are heard to seal a new epoch.
    NoLease,
    /// `mode: manual`, and nobody approved yet; or `mode: shadow`.
    Approval,
    /// An incident of this cluster is under way or held.
    Busy,
}

impl Guard {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Paused,
        Self::HeldByRule,
        Self::Tilt,
        Self::Isolated,
        Self::NotLeading,
        Self::StoreLost,
        Self::Cooldown,
        Self::Budget,
        Self::Storm,
        Self::PrimaryUnclear,
        Self::NoCandidate,
        Self::NoFence,
        Self::NoLease,
        Self::Approval,
        Self::Busy,
    ];

    /// The word in metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::HeldByRule => "held_by_rule",
            Self::Tilt => "tilt",
            Self::Isolated => "isolated",
            Self::NotLeading => "not_leading",
            Self::StoreLost => "store_lost",
            Self::Cooldown => "cooldown",
            Self::Budget => "budget",
            Self::Storm => "storm",
            Self::PrimaryUnclear => "primary_unclear",
            Self::NoCandidate => "no_candidate",
            Self::NoFence => "no_fence",
            Self::NoLease => "no_lease",
            Self::Approval => "approval",
            Self::Busy => "busy",
        }
    }

    /// Whether a person's `coroner failover --skip-guard` may pass it. What keeps two primaries apart
    /// cannot be passed. `no_lease` can: it only looks ahead, and the failover itself waits for the seal.
    #[must_use]
    pub const fn may_be_skipped(self) -> bool {
        matches!(
            self,
            Self::Paused
                | Self::HeldByRule
                | Self::Isolated
                | Self::Cooldown
                | Self::Budget
                | Self::Storm
                | Self::NoLease
                | Self::Approval
        )
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One standby, judged as a candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CandidateView {
    /// The standby.
    pub member: super::MemberName,
    /// Its place in the order, from 1; `None` if it is rejected.
    pub rank: Option<u32>,
    /// Why it is rejected; empty if it is not.
    pub rejected: Vec<String>,
    /// What is not as it should be with it, and does not reject it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Its position, if known.
    pub position: Option<u64>,
    /// How far it is behind the primary's last known position, if known.
    pub behind: Option<u64>,
    /// Its priority.
    pub priority: u32,
}
