//! The arbiter as it is installed: the real binary, real Redis pairs on loopback, a generated file, nodes that report
//! over HTTP with tokens. Each test names the scenarios that it stands for.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test binary")]

#[path = "../common/redis.rs"]
mod redis;

mod http;
mod node;
mod world;

mod cli;
mod crash;
mod doctor;
mod explain;
mod hooks;
mod ingest;
mod members;
mod pause;
mod reload;
mod report;
mod store;
