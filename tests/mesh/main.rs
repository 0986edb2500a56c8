//! The mesh: many parties in one small world. Is there ever more than one primary; does a lease live while it may; does a
//! message do what its sender may have done, and nothing else?

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod chaos;
mod cuts;
mod envelopes;
mod forged;
mod orders;
#[allow(unreachable_pub, reason = "one world for all files of this test")]
mod world;
