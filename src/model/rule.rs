//! Death rules as data: a tree of three-valued conditions, a verdict, a reaction.

use std::{fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FailureKind, Mode, Role, RuleName, SignalName, time::human};

/// One death rule: when this holds, the primary is `verdict`, and `then` is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name, unique in the cluster; it stands in every report.
    pub name: RuleName,
    /// The condition tree.
    pub when: Expr,
    /// What the primary is said to be while the tree is true.
    pub verdict: Verdict,
    /// What is done.
    pub then: Reaction,
    /// The rule's own mode, where it is narrower than the cluster's: a `shadow` rule is evaluated and
    /// counted and never acts.
    pub mode: Option<Mode>,
}

/// What a primary is believed to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Not enough is known to say anything.
    #[default]
    Unknown,
    /// No rule holds.
    Alive,
    /// Something is odd.
    Suspect,
    /// Alive for probes, useless for the service.
    Gray,
    /// Dead.
    Dead,
}

impl Verdict {
    /// All of them, for metrics that are state sets.
    pub const ALL: [Self; 5] = [Self::Unknown, Self::Alive, Self::Suspect, Self::Gray, Self::Dead];

    /// The word in YAML, JSON and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Gray => "gray",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What is done when a rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reaction {
    /// People are told.
    Alert,
    /// People are told, and so are nodes and clients, once more, by the redirect methods: who is primary. Nobody becomes
    /// primary by it. For clients that hang on a standby.
    Redirect,
    /// People are told, and nothing is done automatically while the rule holds, not even by other rules.
    Hold,
    /// The failover begins, if no guard stands against it.
    Failover,
    /// A planned switchover begins, if no guard stands against it: for a primary that is alive, but slow
    /// or cut off from its nodes.
    Switchover,
}

impl fmt::Display for Reaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Alert => "alert",
            Self::Redirect => "redirect",
            Self::Hold => "hold",
            Self::Failover => "failover",
            Self::Switchover => "switchover",
        })
    }
}

/// One branch of a condition tree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expr {
    /// What is asked.
    pub kind: ExprKind,
    /// `for:`: the branch is true only once what is asked has been true for this long without interruption.
    pub hold: Option<Duration>,
    /// `within:`: the branch is true once what is asked has been true for `true_for` out of the last `of`.
    pub window: Option<Window>,
}

impl Expr {
    /// A branch without `for:` and window.
    #[must_use]
    pub const fn plain(kind: ExprKind) -> Self {
        Self { kind, hold: None, window: None }
    }

    /// The branches directly below this one.
    #[must_use]
    pub fn children(&self) -> &[Self] {
        match &self.kind {
            ExprKind::All(list) | ExprKind::Any(list) | ExprKind::AtLeast { of: list, .. } => list,
            ExprKind::Not(inner) => std::slice::from_ref(inner),
            ExprKind::Observers { .. } | ExprKind::Signal { .. } => &[],
        }
    }

    /// This branch and all below it, depth first.
    pub fn walk<'a>(&'a self, visit: &mut impl FnMut(&'a Self)) {
        visit(self);
        for child in self.children() {
            child.walk(visit);
        }
    }
}

/// `within: { true_for: 6s, of: 10s }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// How much of the window must have been true.
    pub true_for: Duration,
    /// The length of the window.
    pub of: Duration,
}

/// What a branch asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ExprKind {
    /// False if any is false, else unknown if any is unknown, else true.
    All(Vec<Expr>),
    /// True if any is true, else unknown if any is unknown, else false.
    Any(Vec<Expr>),
    /// Unknown stays unknown.
    Not(Box<Expr>),
    /// `at_least: { count, of: [branches] }`: true when that many are true; false when not even the unknown
    /// ones could make up the number.
    AtLeast {
        /// How many.
        count: Count,
        /// Of which.
        of: Vec<Expr>,
    },
    /// `at_least: { count, of: signal, are: condition }`: the same over the observers (or subjects) of one signal.
    /// All that are configured count in the whole, heard of or not.
    Observers {
        /// How many.
        count: Count,
        /// Of which signal's observers.
        signal: SignalName,
        /// What each must satisfy.
        are: Condition,
    },
    /// `signal: condition`. Where the signal has several streams (of standbys, from nodes): any of them.
    Signal {
        /// The signal.
        signal: SignalName,
        /// What it must satisfy.
        condition: Condition,
    },
}

/// How many are enough.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Count {
    /// A number.
    Number(u32),
    /// A share of all, in percent; rounded up.
    Percent(f64),
    /// More than half.
    Majority,
    /// Every one.
    All,
}

impl Count {
    /// How many out of `total`. Never zero, so that an empty set satisfies nothing.
    #[must_use]
    pub fn of(self, total: usize) -> usize {
        match self {
            Self::Number(n) => (n as usize).max(1),
            #[expect(clippy::cast_precision_loss, reason = "sets have fewer than 2^52 observers")]
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=total, checked by config")]
            Self::Percent(p) => ((total as f64 * p / 100.0 - 1e-9).ceil() as usize).max(1),
            Self::Majority => total / 2 + 1,
            Self::All => total.max(1),
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Percent(p) => write!(f, "{p}%"),
            Self::Majority => f.write_str("a majority"),
            Self::All => f.write_str("all"),
        }
    }
}

/// A condition over one stream of observations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Condition {
    /// `ok`: the newest outcome is a success, and fresh.
    Ok,
    /// `failing`: the newest outcome is a failure that counts as evidence, and fresh.
    Failing,
    /// `failing: 3 of 5`: that many of the newest outcomes are failures that count as evidence.
    FailingOf {
        /// How many failures.
        failures: u32,
        /// Out of how many outcomes.
        of: u32,
    },
    /// `failed_with: refused`: the newest outcome is a failure of this kind, and fresh.
    FailedWith(FailureKind),
    /// `silent: 10s`: no success for this long. Over arrivals: the node says, freshly, that nothing reached it
    /// for this long although someone attempted.
    Silent(Duration),
    /// `stalled: 10s`: fresh answers, but the counter or position in them has not moved for this long.
    Stalled(Duration),
    /// `lag_above: 1000`: the standby is behind the primary's last known position by more than this.
    LagAbove(u64),
    /// `lag_above: 5s`: the standby has heard nothing from its primary for longer than this.
    LagLongerThan(Duration),
    /// `latency_above: 200ms`: the newest success took longer than this.
    LatencyAbove(Duration),
    /// `above: 0.9`.
    Above(f64),
    /// `below: 3`.
    Below(f64),
    /// `text: "..."`: the newest text is exactly this.
    TextIs(String),
    /// `role_is: standby`.
    RoleIs(Role),
    /// `writable: false`.
    Writable(bool),
    /// `link: up`, `link: down`.
    Link(bool),
    /// `exited`: the process, unit or control group has ended.
    Exited,
    /// `firing`: the external alert fires.
    Firing,
    /// `unreachable_by: majority`: that many observers (or, for a signal with one observer, that observer) cannot
    /// reach the subject: refused, timed out, unreachable, reset or silent.
    UnreachableBy(Count),
    /// `phi_above: 8`: the accrual suspicion of the heartbeat is above this.
    PhiAbove(f64),
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Failing => f.write_str("failing"),
            Self::FailingOf { failures, of } => write!(f, "failing {failures} of {of}"),
            Self::FailedWith(kind) => write!(f, "failed with {kind}"),
            Self::Silent(d) => write!(f, "silent for {}", human(*d)),
            Self::Stalled(d) => write!(f, "stalled for {}", human(*d)),
            Self::LagAbove(n) => write!(f, "lag above {n}"),
            Self::LagLongerThan(d) => write!(f, "lag above {}", human(*d)),
            Self::LatencyAbove(d) => write!(f, "latency above {}", human(*d)),
            Self::Above(v) => write!(f, "above {v}"),
            Self::Below(v) => write!(f, "below {v}"),
            Self::TextIs(t) => write!(f, "text is {t:?}"),
            Self::RoleIs(role) => write!(f, "role is {role}"),
            Self::Writable(true) => f.write_str("writable"),
            Self::Writable(false) => f.write_str("not writable"),
            Self::Link(true) => f.write_str("link up"),
            Self::Link(false) => f.write_str("link down"),
            Self::Exited => f.write_str("exited"),
            Self::Firing => f.write_str("firing"),
            Self::UnreachableBy(count) => write!(f, "unreachable by {count}"),
            Self::PhiAbove(v) => write!(f, "phi above {v}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_never_satisfied_by_nobody() {
        for count in [Count::Number(0), Count::Percent(0.0), Count::Majority, Count::All] {
            assert!(count.of(0) >= 1, "{count}");
        }
        let of_five = [Count::Number(2), Count::Percent(60.0), Count::Percent(61.0), Count::Majority, Count::All];
        assert_eq!(of_five.map(|c| c.of(5)), [2, 3, 4, 3, 5]);
        assert_eq!(Count::Majority.of(4), 3);
    }
}
