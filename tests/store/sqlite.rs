//! What only a file suffers: locks, full disks, damage, a second process, another version.

use std::{path::Path, process::Command, time::Duration};

use coroner::{
    model::{Record, incident::IncidentState},
    store::{
        Store as _, StoreError,
        sqlite::{Bounds, SqliteStore},
    },
};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{Sqlite, samples::*};

async fn open(home: &Sqlite) -> SqliteStore {
    SqliteStore::open(home.path(), Bounds::default()).await.unwrap()
}

async fn by_hand(path: &Path) -> SqliteConnection {
    SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await.unwrap()
}

/// What a person does to the closed file.
async fn edit(home: &Sqlite, sql: &'static str) {
    let mut conn = by_hand(&home.path()).await;
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

/// A store with one open incident and three log entries, closed.
async fn written() -> Sqlite {
    let home = Sqlite::new();
    let store = open(&home).await;
    store.persist(&opening("i-1", 0)).await.unwrap();
    store.persist(&[log("i-1", 2, started(1)), log("i-1", 3, ended(1))]).await.unwrap();
    store.close().await.unwrap();
    home
}

async fn recovery_fails(home: &Sqlite) -> String {
    let store = match SqliteStore::open(home.path(), Bounds::default()).await {
        Ok(store) => store,
        Err(error) => return error.to_string(),
    };
    let error = store.recover().await.unwrap_err().to_string();
    store.close().await.unwrap();
    error
}

#[tokio::test]
async fn a_second_arbiter_is_refused() {
    let home = Sqlite::new();
    let store = open(&home).await;
    let error = SqliteStore::open(home.path(), Bounds::default()).await.err().unwrap().to_string();
    assert!(error.starts_with("another coroner holds the store "), "{error}");
    assert!(error.contains(&std::process::id().to_string()), "it names the process: {error}");
    drop(store);
    open(&home).await;
}

#[tokio::test]
async fn a_lock_held_by_another_program_fails_in_bounded_time() {
    let home = Sqlite::new();
    let store = open(&home).await;
    let mut other = by_hand(&home.path()).await;
    sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();

    let records = opening("i-1", 0);
    let waited = tokio::time::timeout(Duration::from_secs(5), store.persist(&records)).await;
    let error = waited.expect("bounded").unwrap_err().to_string();
    assert!(error.contains("locked by another program"), "{error}");
    assert!(tokio::time::timeout(Duration::from_secs(5), store.check()).await.expect("bounded").is_err());

    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(store.recover().await.unwrap().open, [], "what failed does not appear later");
    store.check().await.unwrap();
    store.persist(&records).await.unwrap();
}

#[tokio::test]
async fn a_reader_by_hand_disturbs_nobody() {
    let home = Sqlite::new();
    let store = open(&home).await;
    let mut reader = by_hand(&home.path()).await;
    sqlx::raw_sql("BEGIN; SELECT count(*) FROM incidents").execute(&mut reader).await.unwrap();
    store.persist(&opening("i-1", 0)).await.unwrap();
    store.trim().await.unwrap();
}

#[tokio::test]
async fn a_newer_version_is_refused_with_a_clear_message() {
    let home = written().await;
    edit(&home, "PRAGMA user_version = 99").await;
    let error = recovery_fails(&home).await;
    assert!(error.contains("a newer Coroner wrote it (schema 99"), "{error}");
}

#[tokio::test]
async fn a_file_of_another_program_is_refused_and_left_alone() {
    let home = Sqlite::new();
    let mut conn =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(home.path()).create_if_missing(true))
            .await
            .unwrap();
    sqlx::raw_sql("CREATE TABLE mine (x)").execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    let error = recovery_fails(&home).await;
    assert!(error.contains("is not Coroner's"), "{error}");

    let home = Sqlite::new();
    std::fs::write(home.path(), "a text file, and long enough to be taken for a database header of 100 bytes").unwrap();
    assert!(recovery_fails(&home).await.contains("damaged"));
}

/// A17.
#[tokio::test]
async fn damage_is_an_error_that_names_the_row() {
    let cases: [(&str, &str, &[&str]); 9] = [
        ("an undecodable entry", "UPDATE saga_log SET entry = '{' WHERE number = 2", &["saga_log", "i-1, number 2"]),
        ("a changed entry", "UPDATE saga_log SET entry = '\"resolved\"' WHERE number = 3", &["saga_log", "number 3"]),
        ("a missing entry", "DELETE FROM saga_log WHERE number = 2", &["saga_log", "number 2 is missing"]),
        ("a missing checksum", "UPDATE saga_log SET sha256 = '' WHERE number = 1", &["saga_log", "i-1, number 1"]),
        ("an epoch set back", "UPDATE clusters SET epoch = 0", &["clusters", "orders", "checksum"]),
        ("a hidden incident", "UPDATE incidents SET state = 'resolVed'", &["incidents", "i-1", "checksum"]),
        ("a lost record", "DELETE FROM incidents", &["incidents", "i-1", "no record"]),
        ("a lost policy", "DELETE FROM incident_policies", &["incident_policies", "i-1", "missing"]),
        ("a changed policy", "UPDATE incident_policies SET json = '{}'", &["incident_policies", "i-1"]),
    ];
    for (what, sql, names) in cases {
        let home = written().await;
        edit(&home, sql).await;
        let error = recovery_fails(&home).await;
        for name in names {
            assert!(error.contains(name), "{what}: {error}");
        }
    }
}

/// A17: every bit of the log entries' text, on disk.
#[tokio::test]
async fn a_flipped_bit_is_noticed() {
    let home = written().await;
    let healthy = std::fs::read(home.path()).unwrap();
    let text = br#"{"started":{"act":1"#;
    let place = healthy.windows(text.len()).position(|w| w == text).expect("the entry stands in the file");
    for byte in 0..text.len() {
        for bit in [0, 3, 7] {
            let mut flipped = healthy.clone();
            flipped[place + byte] ^= 1 << bit;
            std::fs::write(home.path(), &flipped).unwrap();
            let error = recovery_fails(&home).await;
            assert!(error.contains("saga_log"), "byte {byte}, bit {bit}: {error}");
        }
    }
    std::fs::write(home.path(), &healthy).unwrap();
    assert_eq!(open(&home).await.recover().await.unwrap().open[0].log.len(), 3);
}

#[tokio::test]
async fn a_damaged_epoch_is_not_written_over() {
    let home = written().await;
    edit(&home, "UPDATE clusters SET json = replace(json, 'broker-a', 'broker-x')").await;
    let store = open(&home).await;
    let error = store.persist(&[take("orders", 1, 2)]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Failed(text) if text.contains("clusters")), "{error}");
}

#[tokio::test]
async fn a_file_that_was_removed_or_replaced_is_noticed() {
    let home = written().await;
    let store = open(&home).await;
    store.check().await.unwrap();
    let away = home.path().with_extension("away");
    std::fs::rename(home.path(), &away).unwrap();
    assert!(store.check().await.is_err());
    std::fs::copy(&away, home.path()).unwrap();
    assert!(store.check().await.unwrap_err().to_string().contains("replaced"));
}

const CHILD: &str = "CORONER_TEST_DISK_FULL_CHILD";

/// A17: the disk is full. The part that runs inside a small file system of its own; run alone, it has nothing to do.
#[tokio::test]
async fn the_child_on_a_small_disk() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let dir = Path::new(&dir);
    let path = dir.join("coroner.db");
    let store = SqliteStore::open(&path, Bounds::default()).await.unwrap();
    store.persist(&opening("i-1", 0)).await.unwrap();
    let before = store.recover().await.unwrap();

    let filler = dir.join("filler");
    let _ = std::fs::write(&filler, vec![7_u8; 16 << 20]);
    let mut big = incident("i-1", "orders", IncidentState::Promoting);
    big.state_reason = Some("x".repeat(300_000));
    let batch = [Record::Incident(Box::new(big)), log("i-1", 2, started(1))];
    for _ in 0..3 {
        let error = store.persist(&batch).await.unwrap_err().to_string();
        assert!(error.contains("the disk is full"), "{error}");
        assert_eq!(store.recover().await.unwrap(), before, "nothing of it was written, and reading works");
    }

    std::fs::remove_file(&filler).unwrap();
    store.check().await.unwrap();
    assert_eq!(store.recover().await.unwrap(), before, "what failed does not appear later");
    store.persist(&batch).await.unwrap();
    drop(store);
    let store = SqliteStore::open(&path, Bounds::default()).await.unwrap();
    assert_eq!(store.recover().await.unwrap().open[0].log, [opened(), started(1)]);
    println!("the small disk was survived");
}

#[test]
fn a_full_disk_fails_and_is_recovered_from() {
    let dir = tempfile::tempdir().unwrap();
    // A mount namespace of its own: the small file system vanishes with the child.
    let mut unshare = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let script =
        "mount -t tmpfs -o size=4m tmpfs \"$1\" && exec \"$0\" sqlite::the_child_on_a_small_disk --exact --nocapture";
    let output = unshare
        .args(["--mount", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(dir.path())
        .env(CHILD, dir.path())
        .output()
        .expect("`unshare` cannot be started: install util-linux");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("the small disk was survived"),
        "on a small tmpfs (needs root, or user namespaces): {text}\n{errors}"
    );
}

#[tokio::test]
async fn the_file_stays_small_and_readable_by_hand() {
    let home = Sqlite::new();
    let bounds = Bounds { incidents: 3, spooled: 2 };
    let store = SqliteStore::open(home.path(), bounds).await.unwrap();
    let long = "text ".repeat(4_000);
    for batch in 0..200_u64 {
        store.spool("webhook", &report(&format!("k{batch}"), &long)).await.unwrap();
    }
    for n in 0..9_u64 {
        let id = format!("i-{n}");
        let mut closed = incident(&id, "orders", IncidentState::Resolved);
        closed.opened = coroner::model::Time::from_millis(10_000 + n);
        closed.tell(closed.opened, "the rule fired");
        store.persist(&[Record::Incident(Box::new(closed)), policy(&id), log(&id, 1, opened())]).await.unwrap();
    }
    // The oldest incident is still needed: its fences lie on a quarantined member.
    let mut state = cluster("orders", 1);
    let quarantine = coroner::model::record::Quarantine {
        incident: "i-0".into(),
        epoch: coroner::model::Epoch(0),
        fences: vec![(0, 0)],
        labels: vec!["gate".into()],
        promoted_at: None,
    };
    state.quarantined.insert("broker-a".into(), quarantine);
    store.persist(&[Record::Cluster { expected: coroner::model::Epoch(0), state }]).await.unwrap();
    let full = std::fs::metadata(home.path()).unwrap().len();
    for _ in 0..20 {
        store.trim().await.unwrap();
    }
    store.close().await.unwrap();
    let trimmed = std::fs::metadata(home.path()).unwrap().len();
    assert!(trimmed < full / 4, "{full} bytes became {trimmed}");

    let mut conn = by_hand(&home.path()).await;
    for (query, wanted) in [
        ("SELECT count(*) FROM spool", 2),
        ("SELECT count(*) FROM v_incidents WHERE acknowledged = 'no' AND opened LIKE '2026-07-%Z'", 4),
        ("SELECT count(*) FROM incidents WHERE id IN ('i-0', 'i-6', 'i-7', 'i-8')", 4),
        ("SELECT count(*) FROM saga_log", 4),
        ("SELECT count(*) FROM incident_policies", 4),
        ("SELECT count(*) FROM v_timeline WHERE what = 'the rule fired' AND at LIKE '2026-07-25T%'", 4),
        ("SELECT count(*) FROM v_steps", 0),
        ("SELECT epoch FROM v_clusters WHERE \"primary\" = 'broker-a' AND quarantined = 'broker-a'", 1),
    ] {
        let found: i64 = sqlx::query_scalar(query).fetch_one(&mut conn).await.unwrap();
        assert_eq!(found, wanted, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intent_does_not_wait_for_a_flood_of_reports() {
    let home = Sqlite::new();
    let store = std::sync::Arc::new(open(&home).await);
    let flood = {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..3_000_u64 {
                store.spool("webhook", &report(&format!("k{n}"), "text")).await.unwrap();
            }
        })
    };
    store.persist(&opening("i-1", 0)).await.unwrap();
    let mut number = 1;
    while !flood.is_finished() {
        number += 1;
        let record = [log("i-1", number, started(number))];
        tokio::time::timeout(Duration::from_secs(2), store.persist(&record)).await.expect("in time").unwrap();
    }
    flood.await.unwrap();
    assert!(number > 3, "intents got through between the batches: {number}");
}
