//! Redis, Valkey and what speaks like them.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::Secret;

/// How to talk to the instances of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Redis {
    /// User name (ACL). Without one, the default user.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// TLS to the instances.
    pub tls: Option<Tls>,
    /// Key under which probes and proofs write and under which the epoch is stored. Default `coroner`.
    pub key_prefix: Option<String>,
    /// Pub/sub channel of the canary. Default `coroner:canary`.
    pub canary_channel: Option<String>,
    /// Stream of the canary, instead of the channel.
    pub canary_stream: Option<String>,
}

/// TLS towards the instances.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM file of the authorities to trust. Without it, the system's.
    pub ca: Option<String>,
    /// PEM file of our certificate.
    pub cert: Option<String>,
    /// PEM file of our key.
    pub key: Option<String>,
    /// Name to expect in the instance's certificate instead of its address.
    pub server_name: Option<String>,
}
