//! What is done with each input, and what has to be true whatever it is.
//!
//! One module per target, each with one `run`: it panics if something that was promised does not hold. The binaries in
//! `fuzz_targets` hand it what libFuzzer invents; `tests/fuzz` of the main package hands it the kept inputs and a few
//! thousand mutations of them, so that the oracles are run, and shown to be able to fail, with every test run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    missing_docs,
    reason = "an oracle speaks by panicking; and it is nobody's library"
)]

pub mod beat;
pub mod config;
pub mod control;
mod draw;
mod house;
pub mod ingest;
pub mod jolokia;
pub mod journal;
pub mod mesh;
pub mod mesh_signed;
pub mod redis;
pub mod stdio;
pub mod wal;
pub mod wire;

/// How far an input came. Kept inputs have to reach both ends: a corpus that no longer gets past the door tests the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reached {
    /// Nothing of it was taken.
    Refused,
    /// Something of it was taken: loaded, accepted, recovered, answered.
    Taken,
}

impl Reached {
    fn of(is_taken: bool) -> Self {
        if is_taken { Self::Taken } else { Self::Refused }
    }
}

/// What runs one input.
pub type Run = fn(&[u8]) -> Reached;

/// All targets, by the names of their binaries.
pub const TARGETS: [(&str, Run); 12] = [
    ("beat", beat::run),
    ("config", config::run),
    ("control", control::run),
    ("ingest", ingest::run),
    ("jolokia", jolokia::run),
    ("journal", journal::run),
    ("mesh", mesh::run),
    ("mesh_signed", mesh_signed::run),
    ("redis", redis::run),
    ("stdio", stdio::run),
    ("wal", wal::run),
    ("wire", wire::run),
];
