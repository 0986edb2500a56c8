//! Failover, switchover and rejoin, step by step, in a small world with its own time.

#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    reason = "a test fails by panicking, and its tables are its own"
)]

#[path = "../common/bench.rs"]
mod bench;
#[path = "../common/policy.rs"]
mod policy;

mod candidates;
mod fence;
mod lease;
mod proof;
mod random;
mod recovery;
mod rejoin;
mod steps;
mod store;
mod switchover;
