//! The simulator over the settings that the project stands for.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

#[path = "../common/policy.rs"]
mod policy;
mod settings;

mod regressions;
mod runs;
