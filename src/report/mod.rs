//! How people are told: one file per method. Asynchronous, retried, spooled; never in the path of a failover.
//!
//! A [`Reporter`] sends one [`Report`] once and says whether trying again makes sense. Everything else (the queue, the
//! spool, retries, sending active alerts again) is `arbiter::outbox`. Reports with the same key are about the same
//! thing: the newest replaces the others, so that a receiver that was away learns how things stand, not every step.
//! A report may arrive twice after a restart; it is never lost because the receiver was away.
//!
//! | method | what it sends | tried again after |
//! |---|---|---|
//! | `alertmanager` | one alert per key, sent again each minute until resolved | no answer, 408, 429, 5xx |
//! | `webhook` | the report as JSON, or a template of it | no answer, 408, 425, 429, 5xx |
//! | `exec` | the report as JSON on standard input | any end but 0 and 65 |
//!
//! To add a method: one file with its configuration and its `Reporter`, and one line in [`AnyReport`] and in `build`.

use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::Report;

pub mod alertmanager;
pub mod exec;
mod http;
mod line;
pub mod render;
#[cfg(test)]
mod samples;
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
        match self {
            Self::Alertmanager(alertmanager) => alertmanager.build(),
            Self::Webhook(webhook) => webhook.build(),
            Self::Exec(exec) => exec.build(),
        }
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

    /// How often a report that is not resolved is to be sent again after it was taken. `None`: never.
    fn repeats_every(&self) -> Option<Duration> {
        None
    }
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

impl SendError {
    /// Trying again makes sense.
    pub fn later(detail: impl Into<String>) -> Self {
        Self { retryable: true, detail: detail.into() }
    }

    /// Trying again is of no use: the report itself was refused.
    pub fn never(detail: impl Into<String>) -> Self {
        Self { retryable: false, detail: detail.into() }
    }
}
