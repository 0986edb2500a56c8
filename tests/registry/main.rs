//! The registries against real databases: what every back-end must do, and what it must do when its server is restarted,
//! killed, paused, cut off, slow, full, set back, or answers an error after the commit.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

mod conformance;
#[path = "../common/databases.rs"]
mod databases;
mod etcd;
mod faults;
mod kv;
mod kv_faults;
mod mongodb;
#[path = "../common/proxy.rs"]
mod proxy;
mod redis;
mod sql;
mod standin;
