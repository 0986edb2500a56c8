//! A program of the operator's.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// Runs a program without a shell; its environment names the new primary, its address and the epoch
/// (`CORONER_ACTION=redirect`, `CORONER_MEMBER`, `CORONER_ADDRESS`, `CORONER_EPOCH`, …). Exit 0: told.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Exec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// More environment.
    pub environment: BTreeMap<String, String>,
}
