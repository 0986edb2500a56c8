//! A program.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::policy::SignalKind;

/// Runs a program without a shell. Exit 0 is success, anything else a wrong answer; a program that cannot be
/// started is trouble of our own.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Exec {
    /// Program and arguments. `{host}`, `{port}`, `{member}` are put in.
    pub command: Vec<String>,
    /// More environment.
    pub environment: BTreeMap<String, String>,
    /// What its output means. Default `ok`: nothing.
    pub output: Output,
}

/// What a program's first line means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Nothing: the exit code speaks.
    #[default]
    Ok,
    /// A number.
    Value,
    /// A text.
    Text,
}

impl Exec {
    /// What kind of facts it brings.
    #[must_use]
    pub const fn signal_kind(&self) -> SignalKind {
        match self.output {
            Output::Ok => SignalKind::Check,
            Output::Value => SignalKind::Value,
            Output::Text => SignalKind::Text,
        }
    }
}
