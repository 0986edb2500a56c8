//! How we look: one file per method. A probe returns facts and failures, never verdicts.

use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::{Outcome, policy::SignalKind};

pub mod exec;
pub mod file;
pub mod http;
pub mod prometheus;
pub mod tcp;

/// The probes that need no broker kind, as a file writes them under `signals:`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnyProbe {
    /// A TCP connection.
    Tcp(tcp::Tcp),
    /// An HTTP request.
    Http(http::Http),
    /// A program.
    Exec(exec::Exec),
    /// A Prometheus query, or a scrape of a counter.
    Prometheus(prometheus::Prometheus),
    /// A file.
    File(file::File),
}

impl AnyProbe {
    /// Makes the probe usable.
    ///
    /// # Errors
    /// What in the configuration cannot work.
    pub fn build(&self) -> Result<Box<dyn Probe>, String> {
        Err("not built yet".into())
    }

    /// What kind of facts it brings.
    #[must_use]
    pub fn signal_kind(&self) -> SignalKind {
        match self {
            Self::Tcp(_) => SignalKind::Check,
            Self::Http(probe) => probe.signal_kind(),
            Self::Exec(probe) => probe.signal_kind(),
            Self::Prometheus(probe) => probe.signal_kind(),
            Self::File(probe) => probe.signal_kind(),
        }
    }
}

/// One probe.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Looks once at `subject`. Ends by the timeout. Never panics on what it is answered.
    async fn look(&self, subject: &Subject, timeout: Duration) -> Outcome;
}

/// Whom a probe looks at: a member, or a node for a counter that is read there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The cluster.
    pub cluster: String,
    /// Its name.
    pub name: String,
    /// Its `host:port`; empty for a node without one.
    pub address: String,
}

impl Subject {
    /// Puts this subject into a text of the file: `{cluster}`, `{member}` or `{node}`, `{address}`, `{host}`, `{port}`.
    #[must_use]
    pub fn expand(&self, text: &str) -> String {
        let target = crate::model::Target {
            cluster: self.cluster.as_str().into(),
            member: self.name.as_str().into(),
            address: self.address.clone(),
        };
        target.expand(&text.replace("{node}", &self.name))
    }
}
