//! A notice to each node.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::Secret;

/// Sends `{"cluster","primary","address","epoch","incident"}` to every node that has an address, or to `urls`.
/// A node acknowledges with a 2xx status; one that has seen a larger epoch answers 409.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Path at each node. Default `/primary`.
    pub path: Option<String>,
    /// More URLs to tell, such as a proxy's.
    pub urls: Vec<String>,
    /// Default `POST`.
    pub method: Option<String>,
    /// Headers.
    pub headers: BTreeMap<String, Secret>,
    /// The body, a template; default: the JSON above.
    pub body: Option<String>,
}
