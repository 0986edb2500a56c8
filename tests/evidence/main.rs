//! What does an agent's host say of its broker, and what can it do to it? Real processes, control groups and mounts.

#![expect(clippy::unwrap_used, reason = "a test may stop")]

mod death;
mod host;
mod lab;
mod preserve;
mod trouble;
