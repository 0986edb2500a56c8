//! Does a broker kind keep its contract against the real thing?
//!
//! Real `redis-server` and `coroner relay` processes on loopback, one test per promise of the trait: every answer is a fact or a failure
//! under its own name, every act looks before and after, and everything ends by its deadline.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/freeze.rs"]
mod freeze;
#[path = "../common/redis.rs"]
mod redis_server;

mod acts;
mod asks;
mod relay;

use std::time::Duration;

use coroner::{
    broker::{
        AnyBroker, Broker,
        redis::{Redis, Tls},
    },
    model::{Epoch, Fact, FailureKind, Order, Outcome, Secret, Target},
};
use redis_server::{Options, RedisServer, TlsFiles};

const SOON: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(300);

fn broker() -> Box<dyn Broker> {
    broker_of(Redis::default())
}

fn broker_of(config: Redis) -> Box<dyn Broker> {
    AnyBroker::Redis(config).build().unwrap()
}

fn target(name: &str, server: &RedisServer) -> Target {
    Target { cluster: "orders".into(), member: name.into(), address: server.address() }
}

fn order(target: &Target, epoch: u64) -> Order {
    Order { target: target.clone(), epoch: Epoch(epoch), incident: "01TEST".into() }
}

/// A primary `a` and a standby `b` that follows it, with a key each side can see.
fn pair() -> (RedisServer, RedisServer) {
    let (a, b) = (RedisServer::start(), RedisServer::start());
    b.replica_of(&a);
    a.command(&["SET", "key", "value"]);
    b.wait_until(&["GET", "key"], |reply| reply.contains("value"), "the first write at the standby");
    (a, b)
}

fn fact(outcome: Outcome) -> Fact {
    match outcome {
        Outcome::Fact(fact) => fact,
        Outcome::Failure(failure) => panic!("expected a fact, got {failure}"),
    }
}

fn failure(outcome: Outcome) -> FailureKind {
    match outcome {
        Outcome::Failure(failure) => failure.kind,
        Outcome::Fact(fact) => panic!("expected a failure, got {fact:?}"),
    }
}

/// Polls a condition instead of sleeping for it.
async fn eventually<F: Future<Output = bool>>(what: &str, mut is_true: impl FnMut() -> F) {
    for _ in 0..1_000 {
        if is_true().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain: {what}");
}
