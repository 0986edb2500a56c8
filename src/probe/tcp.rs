//! A TCP connection. Sees a listener; a frozen process still has one.

use schemars::JsonSchema;
use serde::Deserialize;

/// Opens a connection and closes it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tcp {
    /// `host:port`; default: the subject's own address. `{host}` is put in.
    pub address: Option<String>,
    /// Text that the other side must send first, as a prefix: `220 `.
    pub expect: Option<String>,
}
