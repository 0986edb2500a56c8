//! The suite for MongoDB, through the official driver against a stand-in ([`crate::standin`]), and the faults that a
//! stand-in can have.

use std::time::Duration;

use coroner::{
    registry::{Options, RegistryError},
    sys::clock::Stopwatch,
};

use crate::{
    conformance::{self, beat, fresh, join, leader, put},
    proxy::{Mode, Proxy},
    sql::{patient, registry},
    standin::StandIn,
};

const LONG: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mongodb_does_what_every_back_end_must() {
    let server = StandIn::start();
    conformance::run(&|| registry(&server.url(), &patient())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standalone_server_is_refused_with_the_remedy() {
    let server = StandIn::standalone();
    let error = registry(&server.url(), &patient()).prepare().await.unwrap_err();
    assert!(matches!(&error, RegistryError::Failed(why) if why.contains("rs.initiate()")), "{error:?}");
}

fn is_unknown<T: std::fmt::Debug>(result: Result<T, RegistryError>) {
    assert!(matches!(result, Err(RegistryError::Unknown(_))), "{result:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_lost_is_unknown_and_looking_tells() {
    let server = StandIn::start();
    let proxy = Proxy::start(server.port);
    let (registry, group) = (registry(&server.url_at(proxy.port), &patient()), fresh("after"));
    let (key, other) = (format!("{group}/x"), format!("{group}/y"));
    let first = join(&*registry, &group, "app", LONG).await;
    for (mode, version) in [(Mode::BreakBefore("insert"), None), (Mode::BreakAfter("insert"), Some(1))] {
        proxy.set(mode);
        is_unknown(registry.put(&[put(&key, 0, "1")], None).await);
        proxy.set(Mode::Pass);
        assert_eq!(registry.get(&key).await.unwrap().map(|found| found.version), version);
    }
    proxy.set(Mode::BreakAfter("findAndModify"));
    is_unknown(registry.beat(&beat(&group, "app", Some(first.id), LONG)).await);
    is_unknown(registry.claim(&leader(&group, first.id)).await);
    proxy.set(Mode::Pass);
    assert_eq!(registry.claim(&leader(&group, first.id)).await, Ok(()), "to claim again is how to look");
    // A transaction that never came to its commit is known not to be there.
    let batch = [put(&key, 1, "2"), put(&other, 0, "1")];
    proxy.set(Mode::BreakBefore("startTransaction"));
    let hasty = Options { timeout: Duration::from_secs(2), ..patient() };
    let hasty = crate::sql::registry(&server.url_at(proxy.port), &hasty);
    let error = hasty.put(&batch, None).await.unwrap_err();
    assert!(matches!(error, RegistryError::Failed(_)), "{error:?}");
    proxy.set(Mode::Pass);
    assert_eq!(registry.get(&other).await, Ok(None));
    // A commit whose answer is lost is asked for again, until there is no time left.
    proxy.set(Mode::BreakAfter("commitTransaction"));
    is_unknown(hasty.put(&batch, None).await);
    proxy.set(Mode::Pass);
    assert_eq!(registry.get(&other).await.unwrap().map(|found| found.version), Some(1), "the commit went through");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_silent_full_or_gone() {
    let server = StandIn::start();
    let hasty = Options { timeout: Duration::from_millis(800), ..Options::default() };
    let (hasty, patient) = (registry(&server.url(), &hasty), registry(&server.url(), &patient()));
    let key = fresh("faults");
    hasty.put(&[put(&key, 0, "1")], None).await.unwrap();
    server.pause(true);
    let since = Stopwatch::start();
    hasty.put(&[put(&key, 1, "2")], None).await.unwrap_err();
    hasty.get(&key).await.unwrap_err();
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    server.pause(false);
    patient.get(&key).await.unwrap().unwrap();
    server.fill(true);
    let other = fresh("full");
    for batch in [vec![put(&other, 0, "1")], vec![put(&other, 0, "1"), put(&fresh("full"), 0, "1")]] {
        let error = patient.put(&batch, None).await.unwrap_err();
        assert!(matches!(error, RegistryError::Failed(_)), "{error:?}");
    }
    server.fill(false);
    assert_eq!(patient.get(&other).await, Ok(None));
    patient.put(&[put(&other, 0, "1")], None).await.unwrap();
    let nobody = registry("mongodb://127.0.0.1:1/?replicaSet=rs0", &Options::default());
    let error = nobody.put(&[put(&key, 0, "1")], None).await.unwrap_err();
    assert!(matches!(error, RegistryError::Failed(_)), "nothing was sent: {error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_set_back_is_noticed() {
    let server = StandIn::start();
    let open = || registry(&server.url(), &patient());
    let (member, group) = (open(), fresh("set-back"));
    let first = join(&*member, &group, "app", LONG).await;
    let backup = server.backup();
    member.claim(&leader(&group, first.id)).await.unwrap();
    server.restore(backup);
    let error = member.put(&[put("x", 0, "1")], Some(&leader(&group, first.id))).await.unwrap_err();
    assert!(error.to_string().contains("the database was set back"), "{error}");
    let error = member.get("x").await.unwrap_err();
    assert!(error.to_string().contains("the database was set back"), "for good: {error}");
    assert_eq!(open().get("x").await, Ok(None), "what was refused is not there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_stepped_revives_nobody_and_blocks_nobody() {
    let server = StandIn::start();
    let (registry, group) = (registry(&server.url(), &patient()), fresh("clock"));
    let first = join(&*registry, &group, "app1", LONG).await;
    registry.claim(&leader(&group, first.id)).await.unwrap();
    // An hour ahead: all lapse, and come back as new rows.
    server.step_clock(3_600_000);
    let second = join(&*registry, &group, "app2", LONG).await;
    registry.claim(&leader(&group, second.id)).await.unwrap();
    // And back: the former leader's heartbeat would be valid again by its numbers, and leads nobody.
    server.step_clock(-3_600_000);
    let refused = registry.claim(&leader(&group, first.id)).await;
    assert!(matches!(refused, Err(RegistryError::NotLeader(_))), "{refused:?}");
    // The dead leader's heartbeat lies an hour ahead: nobody waits an hour for it.
    let third = join(&*registry, &group, "app3", LONG).await;
    assert_eq!(registry.claim(&leader(&group, third.id)).await, Ok(()));
}
