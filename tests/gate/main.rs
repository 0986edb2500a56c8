//! The gate against a real kernel, with a real broker and real clients, in network namespaces of the test's own.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod boot;
mod cut;
mod drill;
mod lab;
mod nodes;
mod process;
mod watch;
