//! The decision: does this evidence give this verdict, because of this, and may it act on it?

#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    reason = "a test fails by panicking, and its tables are its own"
)]

#[path = "../common/bench.rs"]
mod bench;
#[path = "../common/court.rs"]
mod court;
#[path = "../common/policy.rs"]
mod policy;

mod adoption;
mod agents;
mod candidates;
mod combining;
mod guards;
mod operator;
mod outcomes;
mod progress;
mod several;
mod silence;
mod suspicion;
mod takeover;
mod time;
mod values;
mod verdicts;
mod views;
