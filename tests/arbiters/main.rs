//! Several arbiters over one store, as real processes beside a real Redis pair. Each test names the scenarios that it
//! stands for.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test binary")]

#[path = "../common/databases.rs"]
mod databases;
#[path = "../arbiter/http.rs"]
#[allow(dead_code, reason = "this binary uses a part of it")]
mod http;
#[path = "../common/proxy.rs"]
mod proxy;
#[path = "../common/redis.rs"]
mod redis;

mod faults;
mod takeover;
mod world;
