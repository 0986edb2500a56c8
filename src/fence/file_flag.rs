//! A property in a file, and a reload.

use schemars::JsonSchema;
use serde::Deserialize;

/// Sets a line in a properties-like file, keeping everything else, then runs a reload.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FileFlag {
    /// The file. `{member}` is put in.
    pub path: String,
    /// The key: `readonly`.
    pub key: String,
    /// Its value while fenced: `true`.
    pub fenced: String,
    /// Its value when the fence is lifted: `false`. Without it, the former line is put back.
    pub unfenced: Option<String>,
    /// What stands between key and value. Default `=`.
    pub separator: Option<String>,
    /// The program that makes the broker read the file again; no shell.
    pub reload: Vec<String>,
}
