//! Orders the agent beside the member to stop it, by the name of a fence that stands in the agent's own file: `gate`,
//! `kill`, `read_only`, or one of the operator's. The order takes whatever path is left, and carries the epoch.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Fence;
use crate::model::{ActError, Done, FenceHealth, FenceReport, NodeName, Order, Proof, StepResult, Target, agent::Deed};

/// The name of a fence of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Agent {
    /// `gate`, `kill`, `read_only`, or a name under the cluster's `agent: fences:`.
    pub name: String,
}

/// A fence of every agent: it has nothing to set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Alone {}

/// The way to the agents. Implemented by the arbiter's end of the mesh.
#[async_trait]
pub trait Agents: Send + Sync {
    /// Gives an order to the agent beside the order's member, and waits for what comes of it.
    ///
    /// # Errors
    /// No answer came, or it was refused. `may_have_happened` is false only if the agent said that it did nothing.
    async fn order(&self, order: &Order, deed: Deed, deadline: Duration) -> Result<StepResult, ActError>;

    /// Whether that fence of the agent could work, found without harm.
    async fn rehearse(&self, target: &Target, name: &str, deadline: Duration) -> FenceHealth;

    /// Gives an order about a member to the agents of all nodes of its cluster, side by side. One entry for every node that
    /// the cluster has, with or without an agent.
    async fn at_all_nodes(
        &self,
        order: &Order,
        deed: Deed,
        deadline: Duration,
    ) -> Vec<(NodeName, Result<StepResult, ActError>)>;

    /// Whether all nodes could be ordered now, found without harm.
    async fn nodes_health(&self, target: &Target, deadline: Duration) -> FenceHealth;
}

impl Agent {
    /// Closes the gate before its ports.
    pub const GATE: &str = "gate";
    /// Kills its whole control group, its restart inhibited.
    pub const KILL: &str = "kill";
    /// Its own read-only flag, set from beside it.
    pub const READ_ONLY: &str = "read_only";

    /// The fence of that name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.into() }
    }

    /// Makes the method usable.
    ///
    /// # Errors
    /// There is no way to any agent: the file has no `mesh`.
    pub fn build(&self, agents: Option<Arc<dyn Agents>>) -> Result<Box<dyn Fence>, String> {
        let agents = agents.ok_or("a fence of the agent needs `mesh`, and an `agent` at the member")?;
        Ok(Box::new(AgentFence { name: self.name.clone(), agents }))
    }

    /// The best proof that a fence of this name gives; `None`: it is one of the operator's.
    #[must_use]
    pub fn best_proof(&self) -> Option<Proof> {
        match self.name.as_str() {
            Self::GATE => Some(Proof::Gate),
            Self::KILL => Some(Proof::Stopped),
            Self::READ_ONLY => Some(Proof::ReadBack),
            _ => None,
        }
    }
}

struct AgentFence {
    name: String,
    agents: Arc<dyn Agents>,
}

impl AgentFence {
    async fn lift(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        let attempted = format!("lift {} from {}", self.name, order.target.member);
        match self.agents.order(order, Deed::Unfence { name: self.name.clone() }, deadline).await? {
            StepResult::Done(done) => Ok(done),
            StepResult::Failed(error) => Err(error),
            other => Err(ActError::uncertain(attempted, format!("the agent answered {other:?}"))),
        }
    }
}

#[async_trait]
impl Fence for AgentFence {
    fn label(&self) -> String {
        format!("agent {}", self.name)
    }

    fn best_proof(&self) -> Proof {
        Agent { name: self.name.clone() }.best_proof().unwrap_or(Proof::Claim)
    }

    async fn check(&self, target: &Target, deadline: Duration) -> FenceHealth {
        self.agents.rehearse(target, &self.name, deadline).await
    }

    async fn fence(&self, order: &Order, deadline: Duration) -> FenceReport {
        // How long to preserve is filled in by whoever knows the policy.
        let deed = Deed::Fence { name: self.name.clone(), preserve: Duration::ZERO };
        match self.agents.order(order, deed, deadline).await {
            Ok(StepResult::Fenced(report)) => report,
            Ok(other) => FenceReport::unknown(format!("the agent answered {other:?}")),
            Err(error) if error.may_have_happened => FenceReport::unknown(error.to_string()),
            Err(error) => FenceReport::refuted(error.to_string()),
        }
    }

    /// The gate stays shut; behind it the broker may run again, to be made a standby.
    async fn admit(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        match self.name.as_str() {
            "gate" => Ok(Done::new("the gate stays shut until it is a standby")),
            _ => self.lift(order, deadline).await,
        }
    }

    async fn unfence(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        self.lift(order, deadline).await
    }
}
