//! The suite and the faults for Redis, and what only Redis has: settings that lose writes, replicas.

use std::time::Duration;

use coroner::registry::{Options, RegistryError, redis::Redis};

use crate::{
    conformance::{self, fresh, join, leader, put},
    kv::{Kind, Server},
    kv_faults,
    sql::{patient, registry},
};

const LONG: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_does_what_every_back_end_must() {
    let server = Server::start(Kind::Redis);
    conformance::run(&|| registry(&server.url(), &patient())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_survives() {
    kv_faults::survive(&mut Server::start(Kind::Redis)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_on_a_full_disk() {
    kv_faults::on_a_full_disk(Kind::Redis, 16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_lose_writes_are_told() {
    for (lines, told) in [
        (&[][..], None),
        (&["appendfsync everysec"][..], Some("appendfsync everysec")),
        (&["appendonly no"][..], Some("appendonly no")),
        (&["maxmemory-policy allkeys-lru"][..], Some("maxmemory-policy allkeys-lru")),
    ] {
        let server = Server::with(Kind::Redis, None, lines);
        let warnings = Redis::open(&server.url(), &patient()).unwrap().warnings().await.unwrap();
        match told {
            None => assert_eq!(warnings, Vec::<String>::new()),
            Some(told) => assert!(warnings.len() == 1 && warnings[0].contains(told), "{told}: {warnings:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_waited_for_and_is_no_place_to_write() {
    let primary = Server::start(Kind::Redis);
    let follow = format!("replicaof 127.0.0.1 {}", primary.port);
    let replica = Server::with(Kind::Redis, None, &[&follow]);
    let (key, group) = (fresh("replica"), fresh("replicas"));
    // It is waited for by name, so that the test needs not know when the link is up.
    let strict = registry(&format!("{}?replicas=1", primary.url()), &patient());
    let since = coroner::sys::clock::Stopwatch::start();
    while let Err(error) = strict.put(&[put(&fresh("link"), 0, "1")], None).await {
        assert!(matches!(error, RegistryError::Unknown(_)), "{error}");
        assert!(since.elapsed() < Duration::from_secs(60), "{error}");
    }
    strict.put(&[put(&key, 0, "1")], None).await.unwrap();
    let joined = join(&*strict, &group, "app", LONG).await;
    strict.claim(&leader(&group, joined.id)).await.unwrap();
    // What was acknowledged is on the replica, which takes no writes.
    let at_replica = registry(&replica.url(), &patient());
    assert_eq!(at_replica.get(&key).await.unwrap().unwrap().version, 1);
    let refused = at_replica.put(&[put(&key, 1, "2")], None).await.unwrap_err();
    assert!(matches!(&refused, RegistryError::Failed(why) if why.contains("READONLY")), "{refused:?}");
    // One that does not confirm leaves it unknown; the write is there.
    replica.pause();
    let hasty = Options { timeout: Duration::from_millis(700), ..Options::default() };
    let hasty = registry(&format!("{}?replicas=1", primary.url()), &hasty);
    let unknown = hasty.put(&[put(&key, 1, "2")], None).await.unwrap_err();
    replica.resume();
    assert!(matches!(unknown, RegistryError::Unknown(_)), "{unknown:?}");
    assert_eq!(strict.get(&key).await.unwrap().unwrap().version, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_is_told_so_without_the_password() {
    let server = Server::with(Kind::Redis, None, &["requirepass hunter2"]);
    let at = |who: &str| format!("redis://{who}127.0.0.1:{}/2", server.port);
    for who in ["", ":hunter3@"] {
        let error = registry(&at(who), &patient()).put(&[put("x", 0, "1")], None).await.unwrap_err();
        assert!(matches!(error, RegistryError::Failed(_)) && !error.to_string().contains("hunter"), "{error:?}");
    }
    let known = registry(&at(":hunter2@"), &patient());
    known.prepare().await.unwrap();
    // The server forgets its scripts when it is told to, or restarted.
    let flushed = std::process::Command::new("redis-cli")
        .args(["-p", &server.port.to_string(), "-a", "hunter2", "--no-auth-warning", "script", "flush"])
        .status();
    assert!(flushed.is_ok_and(|status| status.success()), "redis-cli is in redis-tools");
    known.put(&[put("x", 0, "1")], None).await.unwrap();
    let by_option = Options { password: Some(coroner::model::Secret::new("hunter2".into())), ..patient() };
    assert_eq!(registry(&at(""), &by_option).get("x").await.unwrap().unwrap().version, 1);
}
