//! How people are told: one file per method. Asynchronous, retried, spooled; never in the path of a failover.

use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::Report;

pub mod alertmanager;
pub mod exec;
pub mod render;
pub mod webhook;

/// The report methods, as a file writes them under `report`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnyReport {
    /// Alertmanager, API v2.
    Alertmanager(alertmanager::Alertmanager),
    /// A request with a JSON body.
    Webhook(webhook::Webhook),
    /// A program of the operator's.
    Exec(exec::Exec),
}

impl AnyReport {
    /// Makes the method usable.
    ///
    /// # Errors
    /// What in the configuration cannot work.
    pub fn build(&self) -> Result<Box<dyn Reporter>, String> {
        Err("not built yet".into())
    }
}

/// One method.
#[async_trait]
pub trait Reporter: Send + Sync {
    /// The kind's name and what tells it from others.
    fn label(&self) -> String;

    /// Sends one report. Ends by the deadline.
    ///
    /// # Errors
    /// Says whether trying again makes sense.
    async fn send(&self, report: &Report, deadline: Duration) -> Result<(), SendError>;
}

/// A report that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct SendError {
    /// Whether trying again makes sense.
    pub retryable: bool,
    /// Why. Never holds a secret.
    pub detail: String,
}
