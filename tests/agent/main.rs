//! The agent: its thread of leases, with fakes and for real.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../netns/net.rs"]
#[allow(dead_code, reason = "a part of the lab's network is enough here")]
mod net;
mod processes;
mod thread;
