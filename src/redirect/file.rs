//! A file made from a template, and a reload.

use schemars::JsonSchema;
use serde::Deserialize;

/// Writes a file atomically and runs a reload: for HAProxy, envoy, an application's own settings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// The file to write.
    pub path: String,
    /// The template: `{{ cluster }}`, `{{ member }}`, `{{ address }}`, `{{ host }}`, `{{ port }}`, `{{ epoch }}`.
    pub template: Option<String>,
    /// A file that holds the template.
    pub template_file: Option<String>,
    /// The program that makes others read the file again; no shell.
    pub reload: Vec<String>,
}
