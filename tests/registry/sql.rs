//! The suite for the SQL databases, and what only they have: tables that people may read, and edit.

use std::{sync::Arc, time::Duration};

use coroner::registry::{Options, Registry, RegistryError, open};
use sqlx::Connection as _;

use crate::{
    conformance::{self, beat, fresh, join, leader, put},
    databases::{Kind, PASSWORD, Server},
};

const LONG: Duration = Duration::from_secs(600);

/// Generous: a loaded machine is no fault of a database.
pub fn patient() -> Options {
    Options { timeout: Duration::from_secs(20), ..Options::default() }
}

pub fn registry(url: &str, options: &Options) -> Arc<dyn Registry> {
    open(url, options).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_does_what_every_back_end_must() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}/registry.db", dir.path().display());
    conformance::run(&|| registry(&url, &patient())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_does_what_every_back_end_must() {
    let server = Server::start(Kind::Postgres);
    conformance::run(&|| registry(&server.url(), &patient())).await;
    edited(&server.url()).await;
    the_published_question(
        &server.url(),
        "SELECT MIN(id) FROM coroner_instances WHERE grp = 'published' AND heartbeat > NOW() - INTERVAL '600 s'",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_does_what_every_back_end_must() {
    let server = Server::start(Kind::MariaDb);
    conformance::run(&|| registry(&server.url(), &patient())).await;
    edited(&server.url()).await;
    the_published_question(
        &server.url(),
        "SELECT MIN(id) FROM coroner_instances WHERE grp = 'published' AND heartbeat > UTC_TIMESTAMP(3) - INTERVAL 600 SECOND",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sqlite_table_that_was_edited() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}/registry.db", dir.path().display());
    registry(&url, &patient()).prepare().await.unwrap();
    edited(&url).await;
    the_published_question(
        &url,
        "SELECT MIN(id) FROM coroner_instances WHERE grp = 'published' AND heartbeat > \
         strftime('%Y-%m-%d %H:%M:%f', 'now', '-600 seconds')",
    )
    .await;
}

/// Runs a statement beside the registry, as a person would; the first number of what comes back.
pub async fn by_hand(url: &str, statement: &str) -> Option<i64> {
    let sql = || sqlx::AssertSqlSafe(statement.to_owned());
    if url.starts_with("postgres") {
        let mut session = sqlx::PgConnection::connect(url).await.unwrap();
        sqlx::query_scalar(sql()).fetch_optional(&mut session).await.unwrap()
    } else if url.starts_with("mysql") {
        let mut session = sqlx::MySqlConnection::connect(url).await.unwrap();
        sqlx::query_scalar(sql()).fetch_optional(&mut session).await.unwrap()
    } else {
        let mut session = sqlx::SqliteConnection::connect(url).await.unwrap();
        sqlx::query_scalar(sql()).fetch_optional(&mut session).await.unwrap()
    }
}

async fn the_published_question(url: &str, question: &str) {
    let registry = registry(url, &patient());
    let first = join(&*registry, "published", "app1", LONG).await;
    let second = join(&*registry, "published", "app2", LONG).await;
    assert_eq!(by_hand(url, question).await, Some(i64::try_from(first.id).unwrap()));
    shift(url, "published", first.id, -700).await;
    assert_eq!(by_hand(url, question).await, Some(i64::try_from(second.id).unwrap()));
}

/// Moves a heartbeat by so many seconds: as if the database's clock had been stepped the other way since.
async fn shift(url: &str, group: &str, id: u64, seconds: i64) {
    let moved = if url.starts_with("postgres") {
        format!("heartbeat + INTERVAL '{seconds} s'")
    } else if url.starts_with("mysql") {
        format!("heartbeat + INTERVAL {seconds} SECOND")
    } else {
        format!("strftime('%Y-%m-%d %H:%M:%f', heartbeat, '{seconds:+} seconds')")
    };
    by_hand(url, &format!("UPDATE coroner_instances SET heartbeat = {moved} WHERE id = {id} AND grp = '{group}'"))
        .await;
}

/// What people do to tables, and what clocks do to times.
async fn edited(url: &str) {
    ids_do_not_come_back(url).await;
    the_clock_was_set_forward(url).await;
    the_clock_was_set_back(url).await;
    a_password_is_not_shown(url).await;
}

async fn ids_do_not_come_back(url: &str) {
    let (registry, group) = (registry(url, &patient()), fresh("deleted"));
    let first = join(&*registry, &group, "app", LONG).await;
    let second = join(&*registry, &group, "app", LONG).await;
    by_hand(url, &format!("DELETE FROM coroner_instances WHERE id >= {}", first.id)).await;
    let third = registry.beat(&beat(&group, "app", Some(second.id), LONG)).await.unwrap();
    assert!(third.id > second.id, "{} after {}", third.id, second.id);
    // Not even if somebody edits the counter.
    registry.claim(&leader(&group, third.id)).await.unwrap();
    by_hand(url, "UPDATE coroner_counters SET value = 0 WHERE name = 'instances'").await;
    let other = open(url, &patient()).unwrap();
    let fourth = join(&*other, &group, "app", LONG).await;
    assert!(fourth.id > third.id);
    // Who saw the larger number notices.
    by_hand(url, "UPDATE coroner_counters SET value = 1 WHERE name = 'instances'").await;
    let noticed = registry.beat(&beat(&group, "app", Some(third.id), LONG)).await.unwrap_err().to_string();
    assert!(noticed.contains("the database was set back"), "{noticed}");
    by_hand(url, "UPDATE coroner_counters SET value = 1000000 WHERE name = 'instances'").await;
}

async fn the_clock_was_set_forward(url: &str) {
    let (registry, group) = (registry(url, &patient()), fresh("forward"));
    let first = join(&*registry, &group, "app1", LONG).await;
    let second = join(&*registry, &group, "app2", LONG).await;
    registry.claim(&leader(&group, first.id)).await.unwrap();
    // Every heartbeat is of long ago, now.
    shift(url, &group, first.id, -3_600).await;
    let key = format!("{group}/x");
    let refused = registry.put(&[put(&key, 0, "1")], Some(&leader(&group, first.id))).await;
    assert!(matches!(refused, Err(RegistryError::NotLeader(_))), "{refused:?}");
    registry.claim(&leader(&group, second.id)).await.unwrap();
    // It is set right again: the first row looks valid, and nobody gets it back.
    shift(url, &group, first.id, 3_600).await;
    let refused = registry.claim(&leader(&group, first.id)).await;
    assert!(matches!(refused, Err(RegistryError::NotLeader(_))), "{refused:?}");
    let again = registry.beat(&beat(&group, "app1", Some(first.id), LONG)).await.unwrap();
    assert!(again.id > second.id, "a row before the leader could never lead again, so that it is a new one");
}

async fn the_clock_was_set_back(url: &str) {
    let (registry, group) = (registry(url, &patient()), fresh("back"));
    let short = Duration::from_millis(500);
    let first = join(&*registry, &group, "app1", short).await;
    let second = join(&*registry, &group, "app2", LONG).await;
    registry.claim(&leader(&group, first.id)).await.unwrap();
    // Its heartbeat is of the future, now, and nobody comes to renew it.
    shift(url, &group, first.id, 3_600).await;
    let refused = registry.claim(&leader(&group, second.id)).await;
    assert!(matches!(refused, Err(RegistryError::NotLeader(_))), "{refused:?}");
    crate::databases::wait_until("a heartbeat of the future lapses", || {
        let (registry, group) = (registry.clone(), group.clone());
        async move {
            let beaten = registry.beat(&beat(&group, "app2", Some(second.id), LONG)).await.unwrap();
            beaten.rows.iter().any(|row| row.id == first.id && !row.is_valid)
        }
    })
    .await;
    registry.claim(&leader(&group, second.id)).await.unwrap();
    // Who left does not come back by any clock.
    registry.leave(&group, second.id).await.unwrap();
    shift(url, &group, second.id, 3_600).await;
    let rows = registry.instances(Some(&group), 10).await.unwrap();
    assert!(rows.iter().all(|row| row.id != second.id || !row.is_valid), "{rows:?}");
}

async fn a_password_is_not_shown(url: &str) {
    if url.starts_with("sqlite") {
        return;
    }
    let wrong = url.replace(PASSWORD, "wrong-password");
    let registry = open(&wrong, &patient()).unwrap();
    let said = registry.get("x").await.unwrap_err();
    assert!(matches!(&said, RegistryError::Failed(_)), "{said:?}");
    let said = said.to_string();
    assert!(said.contains("check the user and the password"), "{said}");
    assert!(!said.contains("wrong-password") && !registry.label().contains("wrong-password"), "{said}");
    // The password may come from elsewhere.
    let bare = url.replace(&format!(":{PASSWORD}@"), "@");
    let secret = coroner::model::Secret::new(PASSWORD.into());
    let options = Options { password: Some(secret), ..patient() };
    assert_eq!(open(&bare, &options).unwrap().get("no-such-key").await, Ok(None));
    // Other tables than those that were made.
    let options = Options { prefix: "other".into(), ..patient() };
    let said = open(url, &options).unwrap().get("x").await.unwrap_err().to_string();
    assert!(said.contains("the tables are not made yet"), "{said}");
}
