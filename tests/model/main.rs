//! Can it ever happen? An exhaustive search over the real engine: two arbiters that share a store, a primary, a standby, a
//! node group, and everything that can go wrong between them, in every order, up to stated bounds. See the README beside
//! this file.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    clippy::needless_range_loop,
    unreachable_pub,
    reason = "a test fails by panicking; members and arbiters go by their places in small lists"
)]

#[path = "../common/policy.rs"]
mod policy;

mod acts;
mod arbiters;
mod broken;
mod calm;
mod goals;
mod leases;
mod look;
mod moves;
mod print;
mod same;
mod search;
mod setup;
mod sound;
mod world;
