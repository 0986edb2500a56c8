//! An HTTP request.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::{Secret, policy::SignalKind};

/// Sends a request and judges status and JSON.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// The URL. `{host}`, `{address}`, `{member}`, `{node}` are put in.
    pub url: String,
    /// Default `GET`.
    pub method: Option<String>,
    /// Headers.
    pub headers: BTreeMap<String, Secret>,
    /// Statuses that are right. Default: any 2xx.
    pub status: Vec<u16>,
    /// JSON pointers into the answer and the values they must have: `/status: UP`.
    pub json: BTreeMap<String, serde_json::Value>,
    /// JSON pointer to a number in the answer: the signal then brings values.
    pub value: Option<String>,
    /// PEM file of the authorities to trust. Without it, the system's.
    pub ca: Option<String>,
}

impl Http {
    /// What kind of facts it brings.
    #[must_use]
    pub const fn signal_kind(&self) -> SignalKind {
        if self.value.is_some() { SignalKind::Value } else { SignalKind::Check }
    }
}
