//! A file: its presence, its age, its content.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::{Span, policy::SignalKind};

/// Looks at a file on this host.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// The path. `{member}` is put in.
    pub path: String,
    /// It must have been changed within this time, else it is a wrong answer.
    pub younger_than: Option<Span>,
    /// It must contain this text, else it is a wrong answer.
    pub contains: Option<String>,
    /// What its first line means. Default `ok`: nothing.
    pub content: super::exec::Output,
}

impl File {
    /// What kind of facts it brings.
    #[must_use]
    pub const fn signal_kind(&self) -> SignalKind {
        match self.content {
            super::exec::Output::Ok => SignalKind::Check,
            super::exec::Output::Value => SignalKind::Value,
            super::exec::Output::Text => SignalKind::Text,
        }
    }
}
