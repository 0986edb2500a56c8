//! The relay: its log, its protocol, and takeovers, with real processes.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs, reason = "tests")]

#[path = "../common/freeze.rs"]
mod freeze;
mod full;
mod kill;
mod lab;
mod log;
mod protocol;
mod takeover;
