//! A request with a JSON body.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::Secret;

/// Where to send.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Webhook {
    /// The URL.
    pub url: Secret,
    /// Headers.
    pub headers: BTreeMap<String, Secret>,
    /// The body, a template over the report (`{{ summary }}`, `{{ markdown }}`, `{{ report.… }}`); default: the
    /// report as JSON.
    pub body: Option<String>,
}
