//! `coroner elect` as real processes: who runs the program, and that never two do.

#[path = "../common/redis.rs"]
mod redis;

mod lab;
mod processes;
mod proxy;
mod torture;
