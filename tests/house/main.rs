//! Does the deployment of the in-house broker keep its promises? One master, one shadow on shared storage, three nodes that
//! receive, senders, and the real arbiter.
//!
//! Everything that promises something is a process of its own: the two relays and the arbiter. Nodes and senders are the
//! client library inside this process, so that each message that a node gets is looked at: the numbers of a sender have to
//! come one after the other, without a gap and without a repetition.
//!
//! `CORONER_HOUSE_RUNS=50 cargo test --test house -- killed` kills fifty times; the default is a few.
//! `CORONER_HOUSE_SEED` repeats the choices of one run.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test that cannot go on has failed")]

mod cable;
mod clients;
#[path = "../common/freeze.rs"]
mod freeze;
mod lab;

mod back;
mod kill;
mod service;
mod unknown;
