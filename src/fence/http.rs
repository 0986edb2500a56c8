//! A request to something that can stop it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::{Proof, Secret};

/// Sends a request that fences, and one that reads back.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// The request that fences.
    pub fence: Request,
    /// The request that reads back: all its expectations met means fenced.
    pub status: Option<Request>,
    /// The request that lifts the fence.
    pub unfence: Option<Request>,
    /// What the operator vouches for when `status` confirms. Default `claim`.
    pub proof: Option<Proof>,
}

/// One request, and what its answer must be.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    /// `GET`, `POST`, `PUT`, `PATCH`, `DELETE`. Default `POST`.
    pub method: Option<String>,
    /// The URL. `{member}`, `{host}`, `{port}` are put in.
    pub url: String,
    /// Headers.
    pub headers: BTreeMap<String, Secret>,
    /// The body, a template: `{{ cluster }}`, `{{ member }}`, `{{ address }}`, `{{ epoch }}`, `{{ incident }}`.
    pub body: Option<String>,
    /// Statuses that are right. Default: any 2xx.
    pub status: Vec<u16>,
    /// JSON pointers into the answer and the values they must have: `/state: "off"`.
    pub json: BTreeMap<String, serde_json::Value>,
}
