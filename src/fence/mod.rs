//! How an old primary is stopped: one file per method.
//!
//! A method's exit code is a claim, not a proof. Each method says which proof it can give by itself, reads back
//! what it did, and answers `confirmed`, `refuted` or `unknown`; it is idempotent: done twice it is done once.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::{ActError, Done, FenceHealth, FenceReport, Order, Proof, Target};

pub mod agent;
pub mod exec;
pub mod fence_agent;
pub mod file_flag;
pub mod firewall;
mod guarded;
pub mod http;
pub mod nodes;
pub mod read_only;
pub mod signal;
pub mod systemd;

/// The fence methods, as a file writes them under `failover.fence`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "a handful for a whole configuration, and boxes would spoil its reading")]
pub enum AnyFence {
    /// Signals to a local process, its group or its control group.
    Signal(signal::Signal),
    /// Stop and mask a local systemd unit.
    Systemd(systemd::Systemd),
    /// Drop the broker's port with nftables, established connections too.
    Firewall(firewall::Firewall),
    /// The broker's own read-only flag.
    ReadOnly(read_only::ReadOnly),
    /// A property in a file, and a reload.
    FileFlag(file_flag::FileFlag),
    /// A program of the operator's.
    Exec(exec::Exec),
    /// A request to something that can stop it.
    Http(http::Http),
    /// A ClusterLabs fence agent.
    FenceAgent(fence_agent::FenceAgent),
    /// A fence on the member's host, done by the agent there: `gate`, `kill`, `read_only`, or one of its own list.
    Agent(agent::Agent),
    /// The agent closes the gate before the member's ports: short for `agent: gate`.
    Gate(agent::Alone),
    /// The agent kills the member's whole control group and inhibits its restart: short for `agent: kill`.
    Kill(agent::Alone),
    /// The agents of all nodes drop what comes from the member and goes to it: for a primary whose own host nobody reaches.
    Nodes(agent::Alone),
}

impl AnyFence {
    /// The fence of the agent that it is, if it is one: `gate` and `kill` are words for such.
    #[must_use]
    pub fn as_agent(&self) -> Option<agent::Agent> {
        match self {
            Self::Agent(agent) => Some(agent.clone()),
            Self::Gate(_) => Some(agent::Agent::named(agent::Agent::GATE)),
            Self::Kill(_) => Some(agent::Agent::named(agent::Agent::KILL)),
            _ => None,
        }
    }

    /// Makes the method usable. Touches nothing. `read_only` needs the broker kind's flag, `agent` the
    /// way to the agents.
    ///
    /// # Errors
    /// What in the configuration cannot work, such as a `read_only` fence without a broker kind.
    pub fn build(
        &self,
        flag: Option<Arc<dyn ReadOnlyFlag>>,
        agents: Option<Arc<dyn agent::Agents>>,
    ) -> Result<Box<dyn Fence>, String> {
        let inner: Box<dyn Fence> = match self {
            Self::Signal(config) => config.build()?,
            Self::Systemd(config) => config.build()?,
            Self::Firewall(config) => config.build()?,
            Self::ReadOnly(config) => config.build(flag)?,
            Self::FileFlag(config) => config.build()?,
            Self::Exec(config) => config.build()?,
            Self::Http(config) => config.build()?,
            Self::FenceAgent(config) => config.build()?,
            Self::Agent(config) => config.build(agents)?,
            Self::Gate(_) => agent::Agent::named(agent::Agent::GATE).build(agents)?,
            Self::Kill(_) => agent::Agent::named(agent::Agent::KILL).build(agents)?,
            Self::Nodes(_) => nodes::build(agents)?,
        };
        Ok(Box::new(guarded::Guarded::new(inner)))
    }
}

/// One method.
#[async_trait]
pub trait Fence: Send + Sync {
    /// The kind's name and what tells it from others: `exec /usr/local/bin/cut-port`.
    fn label(&self) -> String;

    /// The best proof that it can give by itself.
    fn best_proof(&self) -> Proof;

    /// Whether it could work now on that member, found without harm.
    async fn check(&self, target: &Target, deadline: Duration) -> FenceHealth;

    /// Stops the member. Idempotent. Ends by the deadline, whatever it calls.
    async fn fence(&self, order: &Order, deadline: Duration) -> FenceReport;

    /// Once the standby is promoted: lets the arbiter through, so that the member can be brought back. Idempotent.
    /// Most fences have nothing to do here.
    async fn admit(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        let _ = (order, deadline);
        Ok(Done::new("nothing to let through"))
    }

    /// Lifts the fence, once the member is a standby. Idempotent.
    async fn unfence(&self, order: &Order, deadline: Duration) -> Result<Done, ActError>;

    /// Whether it says what role the member starts in, so that it lies on every standby and not only on a fenced one.
    fn follows_role(&self) -> bool {
        false
    }

    /// The member was promoted: where the fence follows its role, it starts as a primary from now on. Idempotent.
    async fn become_primary(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        let _ = (order, deadline);
        Ok(Done::default())
    }
}

/// The broker kind's read-only flag, as far as the `read_only` fence needs it.
#[async_trait]
pub trait ReadOnlyFlag: Send + Sync {
    /// Sets it and reads back that writes are refused.
    async fn set(&self, order: &Order, deadline: Duration) -> FenceReport;
    /// Clears it.
    async fn clear(&self, order: &Order, deadline: Duration) -> Result<Done, ActError>;
    /// Whether the member answers, so that it could be set.
    async fn check(&self, target: &Target, deadline: Duration) -> FenceHealth;
}
