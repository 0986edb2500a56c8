//! The broker's own read-only flag.

use schemars::JsonSchema;
use serde::Deserialize;

/// Asks the broker kind to refuse writes. A cooperative fence: it works only on a primary that answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReadOnly {}
