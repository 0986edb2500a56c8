//! What stands in the journal besides observations.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{
    ClusterName, Incident, Notice, Time, WallAnchor, explain::Guard, status::IncidentBrief, time::millis,
};

/// Something that was not observed, but happened in the arbiter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// The engine, or the arbiter itself, told something. Incidents are told as [`Mark::Incident`].
    Told(Box<Notice>),
    /// An incident moved on.
    Incident(Box<IncidentMark>),
    /// A rule that only watches became true, and would have acted; these guards stood against it then. None: it would have.
    WouldAct {
        /// The cluster.
        cluster: ClusterName,
        /// The rule.
        rule: crate::model::RuleName,
        /// The guards.
        guards: Vec<Guard>,
    },
    /// The decision loop ran late.
    RanLate {
        /// By how much.
        #[serde(with = "millis", rename = "by_ms")]
        by: Duration,
        /// In words.
        detail: String,
    },
    /// A person, or a program in their name, asked for something.
    Commanded {
        /// Who.
        by: String,
        /// What, in words.
        what: String,
    },
    /// The wall clock was set, or drifted: moments from here on are translated by this.
    Wall(WallAnchor),
}

impl Mark {
    /// The cluster that it is about; `None`: the arbiter itself.
    #[must_use]
    pub fn cluster(&self) -> Option<&ClusterName> {
        match self {
            Self::Told(notice) => match &**notice {
                Notice::VerdictChanged { cluster, .. }
                | Notice::RuleFired { cluster, .. }
                | Notice::RuleCleared { cluster, .. }
                | Notice::ActBlocked { cluster, .. }
                | Notice::GuardChanged { cluster, .. }
                | Notice::PrimaryChanged { cluster, .. }
                | Notice::TwoPrimaries { cluster, .. } => Some(cluster),
                Notice::IncidentUpdated(incident) => Some(&incident.cluster),
                Notice::Own { .. } => None,
            },
            Self::Incident(incident) => Some(&incident.brief.cluster),
            Self::WouldAct { cluster, .. } => Some(cluster),
            Self::RanLate { .. } | Self::Commanded { .. } | Self::Wall(_) => None,
        }
    }
}

/// How an incident stands, and the lines of its story that are new.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncidentMark {
    /// How it stands.
    pub brief: IncidentBrief,
    /// What was said since the mark before.
    pub said: Vec<(Time, String)>,
}

impl IncidentMark {
    /// Of an incident of whose story so many lines were recorded.
    #[must_use]
    pub fn of(incident: &Incident, recorded: usize) -> Self {
        let said = incident.timeline.iter().skip(recorded).map(|entry| (entry.at, entry.text.clone())).collect();
        Self { brief: IncidentBrief::from(incident), said }
    }
}
