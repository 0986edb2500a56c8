//! Two masters, three workers, one master read-only: does the kind speak Jolokia, and does the runbook hold?
//!
//! Against a stand-in cluster of processes (`standin.py`, which is not GraphDB and says so), against a real Jolokia on a
//! real JVM (`java/Bean.java`), and whole, with the arbiter's own process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod agents;
mod cases;
mod jvm;
mod kind;
mod lab;
mod prefixes;
