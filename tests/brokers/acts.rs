//! Acts: verified, refused when they are stale, harmless when doubled.

use coroner::{
    broker::Ask,
    model::{FenceVerdict, Proof, Role, WriteOutcome},
};

use super::*;

async fn role(broker: &dyn Broker, target: &Target) -> Role {
    let Fact::Role(report) = fact(broker.ask(Ask::Role, target, SOON).await) else { panic!() };
    report.role
}

#[tokio::test]
async fn promotion_is_verified_stores_the_epoch_and_survives_a_restart() {
    let (mut a, mut b) = pair();
    let (broker, at_b) = (broker(), target("b", &b));
    let Fact::Position { position } = fact(broker.ask(Ask::Position, &at_b, SOON).await) else { panic!() };
    a.kill();
    let done = broker.promote(&order(&at_b, 2), SOON).await.unwrap();
    assert!(done.position.unwrap() >= position, "{done:?}");
    assert_eq!(role(&*broker, &at_b).await, Role::Primary);
    assert_eq!(broker.stored_epoch(&at_b, SOON).await, Some(Epoch(2)));
    assert_eq!(fact(broker.ask(Ask::Write, &at_b, SOON).await), Fact::Writable(true));

    // Twice is like once.
    let again = broker.promote(&order(&at_b, 2), SOON).await.unwrap();
    assert_eq!(again.position, done.position);
    // A stale order is refused, and nothing is done.
    let error = broker.promote(&order(&at_b, 1), SOON).await.unwrap_err();
    assert!(!error.may_have_happened && error.detail.contains("epoch 2"), "{error}");

    b.wait_until(&["INFO", "persistence"], |info| info.contains("aof_rewrite_in_progress:0"), "its log");
    b.command(&["BGREWRITEAOF"]);
    b.restart();
    assert_eq!(role(&*broker, &at_b).await, Role::Primary);
    assert_eq!(broker.stored_epoch(&at_b, SOON).await, Some(Epoch(2)));
}

/// H9: whoever another was promoted before, in the same epoch, is not promoted as well.
#[tokio::test]
async fn h9_a_standby_of_this_epochs_primary_is_not_promoted() {
    let (a, b) = pair();
    let (broker, at_a, at_b) = (broker(), target("a", &a), target("b", &b));
    broker.promote(&order(&at_a, 3), SOON).await.unwrap();
    b.wait_until(&["GET", "coroner:holder"], |reply| reply.contains('a'), "the epoch at the standby");
    let error = broker.promote(&order(&at_b, 3), SOON).await.unwrap_err();
    assert!(!error.may_have_happened && error.detail.contains("a was made primary"), "{error}");
    let error = broker.promote(&order(&at_b, 2), SOON).await.unwrap_err();
    assert!(!error.may_have_happened, "{error}");
    assert_eq!(role(&*broker, &at_b).await, Role::Standby);
    broker.promote(&order(&at_b, 4), SOON).await.unwrap();
}

/// H8: it says that it is primary, and takes no write.
#[tokio::test]
async fn h8_a_promoted_standby_that_takes_no_writes_is_not_promoted() {
    let (mut a, b) = pair();
    let (broker, at_b) = (broker(), target("b", &b));
    b.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    a.kill();
    let error = broker.promote(&order(&at_b, 2), SOON).await.unwrap_err();
    assert!(error.may_have_happened && error.detail.contains("NOREPLICAS"), "{error}");
    // Once the reason is gone, the same order ends well.
    b.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    broker.promote(&order(&at_b, 2), SOON).await.unwrap();
}

#[tokio::test]
async fn the_read_only_fence_binds_new_and_open_connections_and_keeps_the_link() {
    let (mut a, b) = pair();
    a.command(&["CONFIG", "SET", "min-replicas-max-lag", "0"]);
    let (broker, at_a) = (broker(), target("a", &a));
    let mut client = a.client();
    assert!(client.command(&["SET", "k", "1"]).unwrap().contains("OK"));
    broker.hold_open(&at_a, SOON).await;
    broker.hold_open(&at_a, SOON).await;
    let before = broker.forbidden_write(&order(&at_a, 2), SOON).await;
    assert_eq!((before.on_new, before.on_open), (WriteOutcome::Accepted, Some(WriteOutcome::Accepted)));

    for _ in 0..2 {
        let report = broker.make_read_only(&order(&at_a, 2), SOON).await;
        assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::ReadBack), "{report:?}");
        let attempt = broker.forbidden_write(&order(&at_a, 2), SOON).await;
        assert!(attempt.is_refused_twice(), "{attempt:?}");
    }
    for command in [
        &["SET", "k", "2"][..],
        &["EVAL", "return redis.call('set','k','2')", "0"],
        &["FLUSHALL"],
        &["DEL", "k"],
        &["XADD", "s", "*", "f", "v"],
    ] {
        let reply = client.command(command).unwrap();
        assert!(reply.starts_with("-NOREPLICAS"), "{command:?}: {reply}");
    }
    assert!(client.command(&["GET", "k"]).unwrap().contains('1'));
    assert_eq!(fact(broker.ask(Ask::Write, &at_a, SOON).await), Fact::Writable(false));
    assert!(b.command(&["INFO", "replication"]).contains("master_link_status:up"));
    // A restart keeps it, by its configuration file.
    a.restart();
    assert!(a.command(&["SET", "k", "3"]).starts_with("-NOREPLICAS"));

    // A stale order lifts nothing and fences nothing.
    for _ in 0..2 {
        broker.make_writable(&order(&at_a, 2), SOON).await.unwrap();
        assert!(a.command(&["SET", "k", "4"]).contains("OK"));
    }
    let settings = a.command(&["CONFIG", "GET", "min-replicas-max-lag"]);
    assert!(settings.contains("$1\r\n0\r\n"), "the former values are back: {settings}");
    broker.promote(&order(&at_a, 5), SOON).await.unwrap();
    for stale in [4, 5] {
        let report = broker.make_read_only(&order(&at_a, stale), SOON).await;
        assert_eq!(report.verdict, FenceVerdict::Refuted, "{report:?}");
    }
    assert!(!broker.make_writable(&order(&at_a, 4), SOON).await.unwrap_err().may_have_happened);
    assert!(a.command(&["SET", "k", "5"]).contains("OK"));
}

#[tokio::test]
async fn a_promotion_that_was_fenced_since_is_not_repeated() {
    let a = RedisServer::start();
    let (broker, at_a) = (broker(), target("a", &a));
    broker.promote(&order(&at_a, 2), SOON).await.unwrap();
    assert_eq!(broker.make_read_only(&order(&at_a, 3), SOON).await.verdict, FenceVerdict::Confirmed);
    let error = broker.promote(&order(&at_a, 2), SOON).await.unwrap_err();
    assert!(!error.may_have_happened && error.detail.contains("fenced since"), "{error}");
    assert!(a.command(&["SET", "k", "1"]).starts_with("-NOREPLICAS"));
}

#[tokio::test]
async fn the_forbidden_write_tells_dead_frozen_and_living_apart() {
    let (mut a, b) = pair();
    let (broker, at_a, at_b) = (broker(), target("a", &a), target("b", &b));
    broker.hold_open(&at_a, SOON).await;
    broker.hold_open(&at_b, SOON).await;
    assert!(broker.forbidden_write(&order(&at_b, 2), SOON).await.is_refused_twice(), "a standby refuses");
    a.freeze();
    for _ in 0..2 {
        let frozen = broker.forbidden_write(&order(&at_a, 2), SHORT).await;
        assert_eq!((frozen.on_new, frozen.on_open), (WriteOutcome::NoAnswer, Some(WriteOutcome::NoAnswer)));
    }
    a.thaw();
    let thawed = broker.forbidden_write(&order(&at_a, 2), SOON).await;
    assert_eq!(thawed.on_open, Some(WriteOutcome::Accepted), "late replies are not taken for this one");
    a.kill();
    for _ in 0..2 {
        assert!(broker.forbidden_write(&order(&at_a, 2), SOON).await.is_refused_twice());
    }
    a.restart();
    eventually("a new connection is held", || async {
        broker.hold_open(&at_a, SOON).await;
        broker.forbidden_write(&order(&at_a, 2), SOON).await.on_open == Some(WriteOutcome::Accepted)
    })
    .await;
}

#[tokio::test]
async fn catching_up_ends_where_there_is_nothing_more_to_come() {
    let (mut a, b) = pair();
    let (broker, at_a, at_b) = (broker(), target("a", &a), target("b", &b));
    for n in 0..200 {
        a.command(&["SET", &format!("key-{n}"), "value"]);
    }
    let Fact::Position { position } = fact(broker.ask(Ask::Position, &at_a, SOON).await) else { panic!() };
    let done = broker.catch_up(&order(&at_b, 2), Some(position), SOON).await.unwrap();
    assert!(done.position.unwrap() >= position, "{done:?}");
    // The primary lives and more could come: it waits, and then says how far it is.
    let short = broker.catch_up(&order(&at_b, 2), Some(position * 2), SHORT).await.unwrap();
    assert!(short.position.unwrap() < position * 2 && short.detail.contains("short of"), "{short:?}");
    // The primary is gone: nothing can come, so it does not wait.
    a.kill();
    b.wait_info("master_link_status:down");
    let watch = coroner::sys::clock::Stopwatch::start();
    broker.catch_up(&order(&at_b, 2), Some(position * 2), SOON).await.unwrap();
    assert!(watch.elapsed() < SOON / 4, "{:?}", watch.elapsed());
}

/// The old primary returns with writes that nobody got; they are counted, and a second failover goes back to it.
#[tokio::test]
async fn follow_counts_the_divergent_tail_and_a_second_failover_goes_back() {
    let (a, b) = pair();
    let (broker, at_a, at_b) = (broker(), target("a", &a), target("b", &b));
    a.command(&["SET", "shared", "1"]);
    b.wait_until(&["GET", "shared"], |reply| reply.contains('1'), "the last common write");
    let promoted = broker.promote(&order(&at_b, 2), SOON).await.unwrap();
    // Nobody fenced it: it goes on, alone.
    for n in 0..10 {
        a.command(&["SET", &format!("lost-{n}"), "x"]);
    }
    let mut stale_client = a.client();
    assert_eq!(broker.make_read_only(&order(&at_a, 2), SOON).await.verdict, FenceVerdict::Confirmed);
    let done = broker.follow(&order(&at_a, 2), &at_b, promoted.position, SOON).await.unwrap();
    let divergent = done.divergent.unwrap();
    assert!((300..2_000).contains(&divergent), "ten small writes: {done:?}");
    assert!(stale_client.command(&["PING"]).is_err(), "old clients are cut off");
    assert_eq!(role(&*broker, &at_a).await, Role::Standby);
    assert!(a.command(&["GET", "lost-0"]).starts_with("$-1"));
    assert!(a.command(&["SET", "k", "v"]).starts_with("-READONLY"));
    // Twice is like once.
    let again = broker.follow(&order(&at_a, 2), &at_b, promoted.position, SOON).await.unwrap();
    assert!(again.detail.contains("already"), "{again:?}");

    // Back again; the fence of the first time is gone.
    b.command(&["SET", "second", "2"]);
    a.wait_until(&["GET", "second"], |reply| reply.contains('2'), "a write of the new primary");
    assert_eq!(broker.make_read_only(&order(&at_b, 3), SOON).await.verdict, FenceVerdict::Confirmed);
    let Fact::Position { position } = fact(broker.ask(Ask::Position, &at_b, SOON).await) else { panic!() };
    broker.catch_up(&order(&at_a, 3), Some(position), SOON).await.unwrap();
    let back = broker.promote(&order(&at_a, 3), SOON).await.unwrap();
    let rejoined = broker.follow(&order(&at_b, 3), &at_a, back.position, SOON).await.unwrap();
    assert!(rejoined.divergent.unwrap() < 200, "a planned switchover loses nothing but pings: {rejoined:?}");
    assert!(a.command(&["SET", "third", "3"]).contains("OK"));
    b.wait_until(&["GET", "third"], |reply| reply.contains('3'), "a write after the second failover");
}

#[tokio::test]
async fn follow_refuses_what_is_no_primary_and_stale_orders() {
    let (a, b) = pair();
    let (broker, at_a, at_b) = (broker(), target("a", &a), target("b", &b));
    for (order, primary) in [(order(&at_a, 2), &at_b), (order(&at_a, 2), &at_a)] {
        let error = broker.follow(&order, primary, None, SOON).await.unwrap_err();
        assert!(!error.may_have_happened, "{error}");
    }
    broker.promote(&order(&at_a, 7), SOON).await.unwrap();
    let other = RedisServer::start();
    for stale in [6, 7] {
        let error = broker.follow(&order(&at_a, stale), &target("c", &other), None, SOON).await.unwrap_err();
        assert!(!error.may_have_happened, "{error}");
    }
    assert_eq!(role(&*broker, &at_a).await, Role::Primary);
}

/// The instances' own passwords are the operator's; a link that stays down says where to look.
#[tokio::test]
async fn a_link_that_stays_down_is_told_with_its_likely_reason() {
    let (a, b) = (RedisServer::with_password("one"), RedisServer::with_password("one"));
    a.command(&["CONFIG", "SET", "masterauth", "other"]);
    let broker = broker_of(Redis { password: Some(Secret::new("one".into())), ..Redis::default() });
    let (at_a, at_b) = (target("a", &a), target("b", &b));
    broker.promote(&order(&at_b, 2), SOON).await.unwrap();
    let error = broker.follow(&order(&at_a, 2), &at_b, None, Duration::from_secs(1)).await.unwrap_err();
    assert!(error.may_have_happened && error.detail.contains("masterauth"), "{error}");
    a.command(&["CONFIG", "SET", "masterauth", "one"]);
    broker.follow(&order(&at_a, 2), &at_b, None, SOON).await.unwrap();
}

/// What nobody else got is written down before it is thrown away.
#[tokio::test]
async fn the_divergent_tail_is_kept_where_a_directory_is_named() {
    let (a, b) = pair();
    let (at_a, at_b) = (target("a", &a), target("b", &b));
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let keeping = |path: &std::path::Path| {
        broker_of(Redis { keep_tail_in: Some(path.display().to_string()), ..Redis::default() })
    };
    let promoted = keeping(dir.path()).promote(&order(&at_b, 2), SOON).await.unwrap();
    for n in 0..1_000 {
        a.command(&["SET", &format!("lost-{n}"), "a value that nobody else got"]);
    }
    // It cannot be written: then nothing is thrown away either.
    let error = keeping(&missing).follow(&order(&at_a, 2), &at_b, promoted.position, SOON).await.unwrap_err();
    assert!(!error.may_have_happened && error.detail.contains("keep_tail_in"), "{error}");
    assert!(a.command(&["GET", "lost-999"]).contains("nobody else"));

    let done = keeping(dir.path()).follow(&order(&at_a, 2), &at_b, promoted.position, SOON).await.unwrap();
    assert!(done.detail.contains("kept in"), "{done:?}");
    let kept = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let tail = std::fs::read_to_string(&kept).unwrap();
    assert_eq!(tail.len() as u64, done.divergent.unwrap());
    assert!(tail.starts_with('*') && tail.contains("lost-0\r\n") && tail.contains("lost-999\r\n"));
    assert!(a.command(&["GET", "lost-999"]).starts_with("$-1"));
}
