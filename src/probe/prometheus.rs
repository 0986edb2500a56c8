//! A Prometheus query, or a scrape of a counter at a node.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::{Secret, policy::SignalKind};

/// Asks a Prometheus server (`query`), or reads one metric off an exposition page (`metric`).
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Prometheus {
    /// With `query`: the server's base URL. With `metric`: the page, `http://{address}/metrics`.
    pub url: String,
    /// A PromQL query whose result is one number. No result is *unknown*, not zero.
    pub query: Option<String>,
    /// The metric to read off the page.
    pub metric: Option<String>,
    /// Labels that the metric must have. Several series that fit are added up.
    pub labels: BTreeMap<String, String>,
    /// The number counts messages that reached the node: the signal then brings arrivals.
    pub counts_arrivals: bool,
    /// A sample older than this is unknown. Default 1m.
    pub max_age: Option<crate::model::Span>,
    /// Headers.
    pub headers: BTreeMap<String, Secret>,
}

impl Prometheus {
    /// What kind of facts it brings.
    #[must_use]
    pub const fn signal_kind(&self) -> SignalKind {
        if self.counts_arrivals { SignalKind::Arrivals } else { SignalKind::Value }
    }
}
