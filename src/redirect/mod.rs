//! How nodes and clients are moved: one file per method. The redirect counts as done when the nodes themselves
//! say which primary and epoch they follow; a method's own success is only that they were told.

use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::{NodeTarget, Order, event::StepResult};

pub mod exec;
pub mod file;
mod guarded;
pub mod http;

/// The redirect methods, as a file writes them under `failover.redirect`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnyRedirect {
    /// A notice to each node.
    Http(http::Http),
    /// A program of the operator's.
    Exec(exec::Exec),
    /// A file made from a template, and a reload.
    File(file::File),
}

impl AnyRedirect {
    /// Makes the method usable.
    ///
    /// # Errors
    /// What in the configuration cannot work.
    pub fn build(&self) -> Result<Box<dyn Redirect>, String> {
        let inner = match self {
            Self::Http(config) => config.build()?,
            Self::Exec(config) => config.build()?,
            Self::File(config) => config.build()?,
        };
        Ok(Box::new(guarded::Guarded::new(inner)))
    }
}

/// One method.
#[async_trait]
pub trait Redirect: Send + Sync {
    /// The kind's name and what tells it from others.
    fn label(&self) -> String;

    /// Says that the order's member is primary in the order's epoch. Idempotent. Ends by the deadline.
    /// Answers `Told`, `Done` or `Failed`.
    async fn redirect(&self, order: &Order, nodes: &[NodeTarget], deadline: Duration) -> StepResult;
}
