//! What is sent to people, by whatever way.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ClusterName, Incident, RuleName, Time, WallAnchor, explain::RuleExplanation};

/// One thing to tell people. Reports with the same `key` are about the same thing: the newest replaces the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Identifies what it is about: `incident/<id>` or `rule/<cluster>/<rule>`, and `arbiter/<what>`.
    pub key: String,
    /// When, on the arbiter's clock.
    pub at: Time,
    /// Translates moments to wall time.
    pub anchor: WallAnchor,
    /// The arbiter that tells.
    pub arbiter: String,
    /// What about.
    pub subject: ReportSubject,
    /// Whether it is over: a resolved rule, an acknowledged incident.
    pub resolved: bool,
}

/// What a report is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReportSubject {
    /// An incident, as it stands.
    Incident(Box<Incident>),
    /// A rule that fired or cleared.
    Rule {
        /// The cluster.
        cluster: ClusterName,
        /// The rule.
        rule: RuleName,
        /// Explained, when it fired.
        explanation: Option<Box<RuleExplanation>>,
    },
    /// A cluster cannot be helped now, or two primaries are seen, or the arbiter is unwell.
    Warning {
        /// The cluster, if it is about one.
        cluster: Option<ClusterName>,
        /// One word: a guard's name, `two_primaries`, `tilt`, `store`.
        what: String,
        /// In words.
        text: String,
    },
}
