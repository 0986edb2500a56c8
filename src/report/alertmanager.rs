//! Alertmanager, API v2: one alert that updates and stays until acknowledged.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::Secret;

/// Where Alertmanager is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Alertmanager {
    /// Its base URL.
    pub url: String,
    /// More labels.
    pub labels: BTreeMap<String, String>,
    /// Headers.
    pub headers: BTreeMap<String, Secret>,
}
