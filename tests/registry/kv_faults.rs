//! What Redis and etcd must survive: the same faults for both.

use std::{sync::Arc, time::Duration};

use coroner::{
    registry::{Options, Registry, RegistryError},
    sys::clock::Stopwatch,
};

use crate::{
    conformance::{beat, fresh, join, leader, put},
    kv::{Kind, Server},
    proxy::{Mode, Proxy},
    sql::{patient, registry},
};

const LONG: Duration = Duration::from_secs(600);

fn impatient() -> Options {
    Options { timeout: Duration::from_millis(500), ..Options::default() }
}

/// The pause of a server; `CORONER_TEST_PAUSE_S=30` for the long one.
fn pause() -> Duration {
    let seconds = std::env::var("CORONER_TEST_PAUSE_S").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

/// It fails, and not long after its time-out: a starved machine is given its time.
async fn fails<T: std::fmt::Debug>(what: impl Future<Output = Result<T, RegistryError>>) -> RegistryError {
    let since = Stopwatch::start();
    let error = what.await.expect_err("it cannot be used");
    assert!(since.elapsed() < Duration::from_secs(15), "it ended after {:?}: {error}", since.elapsed());
    assert!(matches!(error, RegistryError::Failed(_) | RegistryError::Unknown(_)), "{error:?}");
    error
}

async fn works_again(registry: &Arc<dyn Registry>) {
    let since = Stopwatch::start();
    loop {
        let key = fresh("again");
        match registry.put(&[put(&key, 0, "1")], None).await {
            Ok(()) => return,
            Err(error) => assert!(since.elapsed() < Duration::from_secs(60), "it does not come back: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// All of them.
pub async fn survive(server: &mut Server) {
    restarted(server).await;
    killed(server).await;
    paused(server).await;
    cut_off(server).await;
    slow(server).await;
    answers_lost(server).await;
    questions_lost(server).await;
    set_back(server).await;
}

async fn restarted(server: &mut Server) {
    let (registry, group) = (registry(&server.url(), &patient()), fresh("restart"));
    let key = format!("{group}/x");
    let first = join(&*registry, &group, "app", LONG).await;
    registry.claim(&leader(&group, first.id)).await.unwrap();
    registry.put(&[put(&key, 0, "1")], Some(&leader(&group, first.id))).await.unwrap();
    server.stop();
    fails(registry.get(&key)).await;
    let error = fails(registry.put(&[put(&key, 1, "2")], None)).await;
    assert!(matches!(error, RegistryError::Failed(_)), "nobody is there who could have done it: {error:?}");
    server.start_again();
    works_again(&registry).await;
    assert_eq!(registry.get(&key).await.unwrap().unwrap().version, 1);
    let again = registry.beat(&beat(&group, "app", Some(first.id), LONG)).await.unwrap();
    assert_eq!((again.id, again.leader), (first.id, Some(first.id)), "who led leads");
    registry.put(&[put(&key, 1, "2")], Some(&leader(&group, first.id))).await.unwrap();
}

async fn killed(server: &mut Server) {
    let key = fresh("kill");
    let counter = registry(&server.url(), &patient());
    counter.put(&[put(&key, 0, "0")], None).await.unwrap();
    for round in 0..3 {
        let (writer, key_of_writer) = (registry(&server.url(), &patient()), key.clone());
        let before = counter.get(&key).await.unwrap().unwrap().version;
        let writing = tokio::spawn(async move {
            let mut version = before;
            loop {
                match writer.put(&[put(&key_of_writer, version, "x")], None).await {
                    Ok(()) => version += 1,
                    Err(error) => return (version, matches!(error, RegistryError::Unknown(_))),
                }
            }
        });
        // Some writes, by what is there and not by a time.
        while counter.get(&key).await.unwrap().unwrap().version < before + 20 {}
        server.kill();
        let (acknowledged, unknown) = writing.await.unwrap();
        server.start_again();
        works_again(&counter).await;
        let now = counter.get(&key).await.unwrap().unwrap().version;
        assert!(now >= acknowledged, "round {round}: {acknowledged} were acknowledged, {now} are there");
        assert!(now <= acknowledged + u64::from(unknown), "round {round}: {now} of {acknowledged}, unknown: {unknown}");
    }
}

async fn paused(server: &Server) {
    let (registry, key) = (registry(&server.url(), &impatient()), fresh("pause"));
    works_again(&registry).await;
    server.pause();
    let since = Stopwatch::start();
    let mut unknown = Vec::new();
    let mut failed = Vec::new();
    for number in 0.. {
        let key = format!("{key}/{number}");
        match fails(registry.put(&[put(&key, 0, "1")], None)).await {
            RegistryError::Unknown(_) => unknown.push(key),
            _ => failed.push(key),
        }
        if since.elapsed() > pause() {
            break;
        }
    }
    server.resume();
    works_again(&registry).await;
    for key in failed {
        assert_eq!(registry.get(&key).await, Ok(None), "what failed does not come later");
    }
    // What is unknown is whole or not at all.
    for key in unknown {
        assert!(registry.get(&key).await.unwrap().is_none_or(|found| found.version == 1));
    }
}

async fn cut_off(server: &Server) {
    let proxy = Proxy::start(server.port);
    let registry = registry(&server.url_at(proxy.port), &impatient());
    works_again(&registry).await;
    for mode in [Mode::Swallow, Mode::Refuse] {
        proxy.set(mode.clone());
        for number in 0..2 {
            let key = fresh("cut");
            let error = fails(registry.put(&[put(&key, 0, "1")], None)).await;
            // A connection that was there may end just as it is used. Of Redis a new one is greeted first, so that
            // nothing is sent to who does not answer that.
            let is_known = server.kind == Kind::Etcd || number == 0 || matches!(error, RegistryError::Failed(_));
            assert!(mode == Mode::Swallow || is_known, "{mode:?} {number}: {error:?}");
            fails(registry.get(&key)).await;
        }
        proxy.set(Mode::Pass);
        works_again(&registry).await;
    }
}

async fn slow(server: &Server) {
    let proxy = Proxy::start(server.port);
    let (registry, group) = (registry(&server.url_at(proxy.port), &patient()), fresh("slow"));
    proxy.set(Mode::Delay(Duration::from_millis(40)));
    let joined = join(&*registry, &group, "app", LONG).await;
    registry.claim(&leader(&group, joined.id)).await.unwrap();
    registry.put(&[put(&format!("{group}/x"), 0, "1")], Some(&leader(&group, joined.id))).await.unwrap();
    proxy.set(Mode::Delay(Duration::from_millis(700)));
    let hasty = crate::sql::registry(&server.url_at(proxy.port), &impatient());
    fails(hasty.put(&[put(&format!("{group}/y"), 0, "1")], None)).await;
    fails(hasty.get("x")).await;
}

/// What only a write holds, as it goes through the wire.
fn word(server: &Server) -> &'static str {
    match server.kind {
        Kind::Redis => "EVALSHA",
        Kind::Etcd => "request_put",
    }
}

fn is_unknown<T: std::fmt::Debug>(result: Result<T, RegistryError>) {
    assert!(matches!(result, Err(RegistryError::Unknown(_))), "{result:?}");
}

async fn answers_lost(server: &Server) {
    let proxy = Proxy::start(server.port);
    let (registry, group) = (registry(&server.url_at(proxy.port), &patient()), fresh("after"));
    let key = format!("{group}/x");
    let first = join(&*registry, &group, "app", LONG).await;
    proxy.set(Mode::BreakAfter(word(server)));
    is_unknown(registry.put(&[put(&key, 0, "1")], None).await);
    proxy.set(Mode::Pass);
    assert_eq!(registry.get(&key).await.unwrap().map(|found| found.version), Some(1), "looking tells");
    proxy.set(Mode::BreakAfter(word(server)));
    is_unknown(registry.beat(&beat(&group, "app", Some(first.id), LONG)).await);
    proxy.set(Mode::Pass);
    let again = registry.beat(&beat(&group, "app", Some(first.id), LONG)).await.unwrap();
    assert_eq!(again.id, first.id);
    assert_eq!(again.rows[0].beats, first.rows[0].beats + 2, "the heartbeat without an answer counted");
    proxy.set(Mode::BreakAfter(word(server)));
    is_unknown(registry.claim(&leader(&group, first.id)).await);
    proxy.set(Mode::Pass);
    assert_eq!(registry.claim(&leader(&group, first.id)).await, Ok(()), "to claim again is how to look");
    assert_eq!(proxy.broken(), 3);
}

async fn questions_lost(server: &Server) {
    let proxy = Proxy::start(server.port);
    let (registry, group) = (registry(&server.url_at(proxy.port), &patient()), fresh("before"));
    let key = format!("{group}/x");
    proxy.set(Mode::BreakBefore(word(server)));
    is_unknown(registry.put(&[put(&key, 0, "1")], None).await);
    is_unknown(registry.beat(&beat(&group, "app", None, LONG)).await);
    proxy.set(Mode::Pass);
    assert_eq!(registry.get(&key).await, Ok(None), "looking tells");
    assert_eq!(registry.instances(Some(&group), 10).await, Ok(Vec::new()));
}

async fn set_back(server: &mut Server) {
    let group = fresh("set-back");
    let key = format!("{group}/x");
    let open = |server: &Server| registry(&server.url(), &patient());
    let (writer, reader, member) = (open(server), open(server), open(server));
    writer.put(&[put(&key, 0, "1")], None).await.unwrap();
    let first = join(&*member, &group, "app1", LONG).await;
    member.claim(&leader(&group, first.id)).await.unwrap();
    server.backup();
    works_again(&writer).await;
    writer.put(&[put(&key, 1, "2")], None).await.unwrap();
    assert_eq!(reader.get(&key).await.unwrap().unwrap().version, 2);
    member.beat(&beat(&group, "app1", Some(first.id), LONG)).await.unwrap();
    server.restore();
    let noticed = |result: Result<(), RegistryError>| {
        let Err(RegistryError::Failed(why)) = result else { panic!("not noticed: {result:?}") };
        assert!(why.contains("the database was set back"), "{why}");
    };
    noticed(writer.put(&[put(&key, 1, "another 2")], None).await);
    noticed(reader.list("").await.map(drop));
    noticed(member.beat(&beat(&group, "app1", Some(first.id), LONG)).await.map(drop));
    // For good, also for what would look right.
    noticed(member.claim(&leader(&group, first.id)).await);
    // Nothing was written by what was refused; who starts anew goes on from what there is.
    let anew = open(server);
    assert_eq!(anew.get(&key).await.unwrap().unwrap().version, 1);
    assert_eq!(anew.get(&key).await.unwrap().unwrap().text, "1");
    join(&*anew, &group, "app2", LONG).await;
}

/// Writes until the disk is full, and on after there is room again.
pub async fn on_a_full_disk(kind: Kind, mebibytes: u32) {
    let mut server = Server::with(kind, Some(mebibytes), &[]);
    let registry = registry(&server.url(), &patient());
    registry.prepare().await.unwrap();
    let (key, big) = (fresh("full"), format!("\"{}\"", "x".repeat(200_000)));
    server.fill_disk();
    let mut said = None;
    for index in 0..400 {
        let key = format!("{key}/{index}");
        match registry.put(&[put(&key, 0, &big)], None).await {
            Ok(()) => {}
            Err(error @ (RegistryError::Failed(_) | RegistryError::Unknown(_))) => {
                said = Some((index, error));
                break;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    let (refused, error) = said.expect("the disk is full");
    server.empty_disk();
    // A server that could not write its log ends itself, as it must; then it is for the operator to start it again.
    server.kill();
    server.start_again();
    works_again(&registry).await;
    for index in 0..refused {
        assert!(registry.get(&format!("{key}/{index}")).await.unwrap().is_some(), "{index} was acknowledged");
    }
    let is_there = registry.get(&format!("{key}/{refused}")).await.unwrap().is_some();
    assert!(!is_there || matches!(error, RegistryError::Unknown(_)), "what failed is there: {error:?}");
}
