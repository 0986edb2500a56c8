//! A program of the operator's; the report as JSON on its standard input.

use schemars::JsonSchema;
use serde::Deserialize;

/// What to run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Exec {
    /// Program and arguments; no shell.
    pub command: Vec<String>,
}
