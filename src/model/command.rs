//! What operators may ask for, and the answers.

use std::{fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ClusterName, IncidentId, MemberName, explain::Guard, time::millis};

/// Who asks, as authenticated: a token's name, a certificate's name, or `uid 0 on the control socket`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Operator(pub String);

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "command", deny_unknown_fields)]
pub enum Command {
    /// Hands off.
    Pause {
        /// Which cluster; `None`: all.
        #[serde(default)]
        cluster: Option<ClusterName>,
        /// Whose pause it is. Empty: the operator's.
        #[serde(default)]
        owner: String,
        /// Why.
        reason: String,
        /// For how long; `None`: until `resume`.
        #[serde(default, with = "millis::option", rename = "for_ms")]
        #[schemars(with = "Option<f64>")]
        for_: Option<Duration>,
    },
    /// Hands on again.
    Resume {
        /// Which cluster; `None`: all.
        #[serde(default)]
        cluster: Option<ClusterName>,
    },
    /// Fence the primary and promote a standby, now: in `manual` mode this is the approval.
    Failover {
        /// Which cluster.
        cluster: ClusterName,
        /// Which standby; `None`: the best.
        #[serde(default)]
        to: Option<MemberName>,
        /// Why.
        reason: String,
        /// Promote whatever the loss.
        #[serde(default)]
        accept_loss: bool,
        /// Guards to pass. What keeps two primaries apart cannot be passed.
        #[serde(default)]
        skip_guards: Vec<Guard>,
    },
    /// Planned: the primary steps down first.
    Switchover {
        /// Which cluster.
        cluster: ClusterName,
        /// Which standby; `None`: the best.
        #[serde(default)]
        to: Option<MemberName>,
        /// Why.
        reason: String,
        /// Guards to pass.
        #[serde(default)]
        skip_guards: Vec<Guard>,
    },
    /// Bring a quarantined member back as a standby.
    Rejoin {
        /// Which cluster.
        cluster: ClusterName,
        /// Which member.
        member: MemberName,
    },
    /// A person has checked that the old primary is stopped.
    FenceConfirm {
        /// Which cluster.
        cluster: ClusterName,
        /// What was checked, in their words.
        checked: String,
    },
    /// Let a held incident try again from where it stands.
    Continue {
        /// Which cluster.
        cluster: ClusterName,
        /// Promote whatever the loss.
        #[serde(default)]
        accept_loss: bool,
    },
    /// Give up an incident, where that is still legal.
    Abort {
        /// Which cluster.
        cluster: ClusterName,
    },
    /// Take note of an incident; ends the cooldown and the alert.
    Acknowledge {
        /// Which incident.
        incident: IncidentId,
        /// Its cluster; found by the incident where it is left out.
        #[serde(default)]
        cluster: Option<ClusterName>,
        /// What to note.
        #[serde(default)]
        note: String,
    },
    /// Declare who is primary after somebody else changed it. Takes a new epoch.
    Adopt {
        /// Which cluster.
        cluster: ClusterName,
        /// Who is primary.
        primary: MemberName,
        /// Why.
        reason: String,
    },
}

/// What was done about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommandReply {
    /// In words.
    pub text: String,
    /// The incident that was opened or changed.
    #[serde(default)]
    pub incident: Option<IncidentId>,
}

/// Why it was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize, JsonSchema)]
#[error("{text}")]
pub struct CommandError {
    /// The class, which decides the exit code.
    pub code: CommandErrorCode,
    /// In words, with the remedy.
    pub text: String,
    /// The guards that stand against it.
    #[serde(default)]
    pub guards: Vec<(Guard, String)>,
}

impl CommandError {
    /// An error of `code`, in words.
    pub fn new(code: CommandErrorCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), guards: Vec::new() }
    }
}

/// Classes of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CommandErrorCode {
    /// No such cluster, member or incident.
    NotFound,
    /// It makes no sense in the present state.
    WrongState,
    /// Guards stand against it.
    Blocked,
    /// It was asked wrongly.
    Invalid,
    /// The store did not take it.
    Store,
}
