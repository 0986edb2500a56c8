//! Elections without a process, a socket or a clock: the rules one by one, and random worlds in which never two lead.

#![allow(unreachable_pub, reason = "what the modules of a test share")]
#![allow(clippy::unwrap_used, reason = "what cannot be is a failed test")]

mod database;
mod keeper;
mod random;
mod stories;
mod world;
