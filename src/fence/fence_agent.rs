//! A ClusterLabs fence agent.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::Secret;

/// Speaks the standard input protocol of the fence agents: `action=off`, options one a line, `status` read back.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FenceAgent {
    /// The agent: `fence_ipmilan`, found in PATH, or a path.
    pub name: String,
    /// Its options, as on its standard input. `{member}` and `{host}` are put in.
    pub options: BTreeMap<String, Secret>,
    /// What switches off: `off` (default) or `reboot`. Only `off` proves anything.
    pub action: Option<String>,
    /// Switch the power on again when the fence is lifted. Default false.
    pub power_on_after: bool,
}
