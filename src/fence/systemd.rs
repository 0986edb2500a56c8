//! Stop and mask a local systemd unit.

use schemars::JsonSchema;
use serde::Deserialize;

/// Masks the unit for this boot, stops it, and requires its control group to be empty.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Systemd {
    /// The unit, with its ending: `redis@{port}.service`.
    pub unit: String,
}
