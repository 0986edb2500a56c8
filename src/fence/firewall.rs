//! Drop the broker's port with nftables, established connections too.

use schemars::JsonSchema;
use serde::Deserialize;

/// A table of its own, `inet coroner_fence_<cluster>_<member>`, that drops what goes to and comes from the port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Firewall {
    /// Ports to close. Default: the member's own.
    pub ports: Vec<u16>,
    /// Addresses that may still come in: the arbiter's, to bring the member back. Everyone else is dropped.
    pub allow: Vec<String>,
    /// Words to put before `nft`: `[ssh, root@{host}]`, to close the port on the member's own host. Without it,
    /// the rules are set on this host.
    pub via: Vec<String>,
}
