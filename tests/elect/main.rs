//! `coroner elect` as real processes: who runs the program, and that never two do.

#![allow(unreachable_pub, reason = "what the modules of a test share")]

#[path = "../common/databases.rs"]
mod databases;
#[allow(dead_code, reason = "the tests of the registry use the rest")]
#[path = "../registry/kv.rs"]
mod kv;

mod lab;
mod processes;
mod proxy;
mod torture;
