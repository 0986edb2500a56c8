//! What may be lost in a power cut and is bounded: spooled reports. And the trimming.

use sqlx::SqliteConnection;

use super::{Inner, STAGE, Writers, connect, fault, rows};
use crate::store::StoreError;

/// Rows that are deleted in one transaction: an intent waits for at most one of these.
const TRIM_CHUNK: i64 = 2_000;
/// Reports older than this are not worth sending any more.
const SPOOL_FOR_MS: i64 = 40 * 24 * 3_600 * 1_000;

async fn history<'w>(inner: &Inner, writers: &'w mut Writers) -> Result<&'w mut SqliteConnection, StoreError> {
    if writers.history.is_none() {
        writers.history = Some(connect::open(&inner.path, connect::Use::History).await?);
    }
    writers.history.as_mut().ok_or_else(|| fault::failed(&inner.path, "opening it", "no connection"))
}

/// Runs single statements on the history's connection, bounded in time. Each statement is a transaction of its own, or
/// `work` begins and ends one.
async fn with_history<T>(
    inner: &Inner,
    doing: &str,
    work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
) -> Result<T, StoreError> {
    let mut writers = inner.writers().await?;
    let conn = history(inner, &mut writers).await?;
    match tokio::time::timeout(STAGE, work(&mut *conn)).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => {
            // Whatever was begun is rolled back when the connection closes.
            writers.history = None;
            Err(fault::sql(&inner.path, doing, &e))
        }
        Err(_) => {
            writers.history = None;
            Err(fault::failed(&inner.path, doing, "the disk does not answer"))
        }
    }
}

/// Keeps a report. It gets a new number even if it replaces an older one, so that removing the older one, which may be
/// on its way just now, does not remove this.
pub(super) async fn spool(inner: &Inner, reporter: &str, key: &str, json: &str) -> Result<(), StoreError> {
    let sum = rows::checksum(&["spool", &format!("{reporter}: {key}"), json]);
    with_history(inner, "spooling a report", async |conn: &mut SqliteConnection| {
        let query = "INSERT OR REPLACE INTO spool (reporter, key, json, sha256) VALUES (?1, ?2, ?3, ?4)";
        sqlx::query(query).bind(reporter).bind(key).bind(json).bind(&sum).execute(conn).await
    })
    .await?;
    Ok(())
}

pub(super) async fn unspool(inner: &Inner, number: i64) -> Result<(), StoreError> {
    with_history(inner, "removing a sent report", async |conn: &mut SqliteConnection| {
        sqlx::query("DELETE FROM spool WHERE number = ?1").bind(number).execute(conn).await
    })
    .await?;
    Ok(())
}

/// Forgets what is beyond the bounds, in small steps between which intents get through.
pub(super) async fn trim(inner: &Inner) -> Result<(), StoreError> {
    let at_most = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let bounds = inner.bounds;

    let spool = "DELETE FROM spool WHERE number IN (SELECT number FROM ( \
                     SELECT number, unixepoch(written, 'subsec') * 1000 AS written_ms, \
                            row_number() OVER (PARTITION BY reporter ORDER BY number DESC) AS place FROM spool) \
                 WHERE written_ms < unixepoch('subsec') * 1000 - ?2 OR place > ?3 LIMIT ?1)";
    trim_all(inner, spool, SPOOL_FOR_MS, at_most(bounds.spooled)).await?;

    trim_incidents(inner, at_most(bounds.incidents)).await?;
    with_history(inner, "giving space back", async |conn: &mut SqliteConnection| {
        sqlx::query("PRAGMA incremental_vacuum(4000)").fetch_all(&mut *conn).await?;
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_all(conn).await
    })
    .await?;
    Ok(())
}

async fn trim_all(inner: &Inner, query: &'static str, keep_ms: i64, at_most: i64) -> Result<(), StoreError> {
    loop {
        let gone = with_history(inner, "trimming the history", async |conn: &mut SqliteConnection| {
            sqlx::query(query).bind(TRIM_CHUNK).bind(keep_ms).bind(at_most).execute(conn).await
        })
        .await?
        .rows_affected();
        if gone == 0 {
            return Ok(());
        }
    }
}

/// The oldest closed incidents go, with their log and policy, except those that a quarantined member still needs: its
/// fences are named by the policy of that incident.
async fn trim_incidents(inner: &Inner, at_most: i64) -> Result<(), StoreError> {
    with_history(inner, "trimming incidents", async |conn: &mut SqliteConnection| {
        let query = "SELECT id FROM incidents WHERE state IN ('resolved', 'aborted') AND id NOT IN ( \
                         SELECT json_extract(q.value, '$.incident') FROM clusters, \
                         json_each(clusters.json, '$.quarantined') AS q) \
                     ORDER BY opened_unix_ms DESC, id DESC LIMIT 500 OFFSET ?1";
        let gone: Vec<String> = sqlx::query_scalar(query).bind(at_most).fetch_all(&mut *conn).await?;
        if gone.is_empty() {
            return Ok(());
        }
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *conn).await?;
        for id in &gone {
            sqlx::query("DELETE FROM saga_log WHERE incident = ?1").bind(id).execute(&mut *conn).await?;
            sqlx::query("DELETE FROM incident_policies WHERE incident = ?1").bind(id).execute(&mut *conn).await?;
            sqlx::query("DELETE FROM incidents WHERE id = ?1").bind(id).execute(&mut *conn).await?;
        }
        sqlx::query("COMMIT").execute(conn).await?;
        Ok(())
    })
    .await
}
